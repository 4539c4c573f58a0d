//! Mixture of experts: router, picked experts, shared expert, all added to the residual.

use porism_loader::{Family, LayerRole, ModelConfig, Role, Scoring, TopkMethod};
use porism_shaders as shaders;
use porism_shaders::kernels::matmul;

use super::step::Step;
use crate::error::Error;
use crate::ops::{Form, Ops, Rows};
use crate::weights::{Experts, Norms, Piece, Placer};

/// From so many tokens on, pairs are sorted by expert and each expert's weights decoded once for up to eight of them.
const GROUP_FROM: u32 = 9;

/// MoE weights of a layer.
#[derive(Debug)]
pub struct Moe {
    /// The router's matrix.
    pub gate: Piece,
    /// Routed and shared experts.
    pub experts: Experts,
}

impl Moe {
    /// Places the router and all experts of a layer.
    pub fn load(placer: &mut Placer<'_, '_>, layer: u32) -> Result<Self, Error> {
        let mut gate = placer.projection("router", &[Role::Layer { layer, part: LayerRole::RouterGate }])?;
        if gate.pieces.len() > 1 {
            return Err(Error::Unsupported("the router exceeds what this device binds at once".into()));
        }
        Ok(Moe { gate: gate.pieces.remove(0), experts: placer.experts(layer)? })
    }
}

/// Records h += moe(rms(h)).
pub fn record(ops: &mut Ops<'_>, c: &ModelConfig, norms: &Norms, moe: &Moe, step: &Step) {
    let a = &step.activations;
    ops.router(
        &moe.gate,
        shaders::router::Params {
            cols: c.hidden_size,
            experts: c.n_routed_experts,
            norm_offset: norms.offset(LayerRole::PostAttentionLayernorm),
            eps: c.rms_norm_eps as f32,
            ..Default::default()
        },
        a.h,
        norms.all,
        a.x,
        a.router_logits,
    );
    let bias = norms.find(LayerRole::ScoreCorrectionBias);
    ops.route(
        &shaders::route::Params {
            experts: c.n_routed_experts,
            experts_per_token: c.num_experts_per_tok,
            groups: c.n_group,
            topk_group: c.topk_group,
            softmax: (c.scoring == Scoring::Softmax).into(),
            group_score: match c.topk_method {
                _ if !c.is_grouped() => 0,
                TopkMethod::Greedy => 0,
                TopkMethod::GroupLimitedGreedy => 1,
                TopkMethod::NoauxTc => 2,
            },
            has_bias: bias.is_some().into(),
            bias_offset: bias.unwrap_or(0),
            normalise: c.norm_topk_prob.into(),
            scale_normalised: (c.model_type != Family::DeepseekV2).into(),
            routed_scaling_factor: c.routed_scaling_factor as f32,
        },
        [a.router_logits, norms.all, a.expert_ids, a.expert_weights],
    );
    if ops.tokens >= GROUP_FROM {
        many_tokens(ops, c, &moe.experts, step);
    } else {
        few_tokens(ops, c, &moe.experts, step);
    }
}

/// Decode: a mat-vec per pair of token and expert.
fn few_tokens(ops: &mut Ops<'_>, c: &ModelConfig, experts: &Experts, step: &Step) {
    let a = &step.activations;
    let (hidden, inter, picks) = (c.hidden_size, c.moe_intermediate_size, c.num_experts_per_tok);
    let x = Rows::new(a.x, hidden);
    let act = Rows::new(a.act, 2 * inter.max(c.shared_intermediate_size()));
    for slab in &experts.slabs {
        ops.experts_gate_up(experts, slab, picks, hidden, x, a.expert_ids, act);
    }
    if experts.slabs.len() == 1 && (experts.shared_in_slab || experts.shared_down.is_none()) {
        ops.experts_down(experts, picks, hidden, inter, act, a.expert_ids, a.expert_weights, a.h);
        return;
    }
    for slab in &experts.slabs {
        ops.experts_down_parts(experts, slab, picks, inter, act, a.expert_ids, Rows::new(a.part, hidden));
    }
    shared_and_combine(ops, c, experts, step);
}

/// Prefill: pairs sorted by expert, a mat-mul per tile of up to eight tokens of one expert.
fn many_tokens(ops: &mut Ops<'_>, c: &ModelConfig, experts: &Experts, step: &Step) {
    let a = &step.activations;
    let (hidden, inter, picks) = (c.hidden_size, c.moe_intermediate_size, c.num_experts_per_tok);
    let down = [experts.down];
    ops.group_experts(
        &shaders::group_experts::Params {
            pairs: ops.tokens * picks,
            experts: c.n_routed_experts,
            tile: matmul::TOKENS,
            x_groups_0: Ops::experts_matmul_groups(&experts.gate_up),
            x_groups_1: Ops::experts_matmul_groups(&down),
        },
        [a.expert_ids, a.pair_order, a.tiles, a.expert_groups],
    );
    let x = Rows::new(a.x, hidden);
    let act = Rows::new(a.act, 2 * inter);
    let sorted = [a.tiles, a.pair_order];
    let per_slot = experts.scales_per_slot;
    for slab in &experts.slabs {
        let groups = a.expert_groups.slice(0, 16);
        ops.experts_matmul(
            "experts_gate_up",
            slab,
            &experts.gate_up,
            per_slot,
            picks,
            hidden,
            x,
            sorted,
            act,
            false,
            groups,
        );
    }
    let part = Rows::new(a.part, hidden);
    for slab in &experts.slabs {
        let groups = a.expert_groups.slice(16, 16);
        ops.experts_matmul(
            "experts_down",
            slab,
            &down,
            per_slot,
            picks,
            inter,
            act,
            sorted,
            part,
            true,
            groups,
        );
    }
    shared_and_combine(ops, c, experts, step);
}

/// The shared expert by itself, and the sum of everything.
fn shared_and_combine(ops: &mut Ops<'_>, c: &ModelConfig, experts: &Experts, step: &Step) {
    let a = &step.activations;
    let hidden = c.hidden_size;
    let mut shared = None;
    if let (Some(gate_up), Some(down)) = (&experts.shared_gate_up, &experts.shared_down) {
        let act = Rows::new(a.shared_act, gate_up.rows);
        ops.project("shared_gate_up", gate_up, Rows::new(a.x, hidden), act, Form::default(), ops.tokens);
        let form = Form { swiglu: true, ..Form::default() };
        ops.project("shared_down", down, act, Rows::new(a.shared_out, hidden), form, ops.tokens);
        shared = Some(a.shared_out);
    }
    ops.experts_combine(hidden, c.num_experts_per_tok, a.part, a.expert_weights, shared, a.h);
}
