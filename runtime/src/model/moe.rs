//! Mixture of experts: router, picked experts, shared expert, all added to the residual.

use porism_loader::{Family, LayerRole, ModelConfig, Scoring, TopkMethod};
use porism_shaders as shaders;

use super::buffers::Step;
use super::ops::{Form, Ops, Rows};
use crate::weights::pieces::{Experts, Norms, Piece, Slab, SlotLayout};

/// From so many tokens on, pairs are sorted by expert and each expert's weights decoded once for up to eight of them.
pub(crate) const GROUP_FROM: u32 = 9;

/// MoE weights of a layer.
#[derive(Debug)]
pub struct Moe {
    /// The router's matrix.
    pub gate: Piece,
    /// The shared expert, and the routed ones that lie beside it.
    pub experts: Experts,
}

/// Records x = rms(h), and which experts each token picks with which weights.
pub fn route(ops: &mut Ops<'_>, c: &ModelConfig, norms: &Norms, moe: &Moe, step: &Step) {
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
        shaders::route::Bindings {
            logits: a.router_logits,
            norms: norms.all,
            expert_ids: a.expert_ids,
            expert_weights: a.expert_weights,
        },
    );
}

/// Records h += moe(x) where all experts of the layer are here.
pub fn all_experts(ops: &mut Ops<'_>, c: &ModelConfig, experts: &Experts, step: &Step) {
    let one_slab = experts.slabs.len() == 1 && (experts.shared_in_slab || experts.shared_down.is_none());
    let (inter, picks) = (c.moe_intermediate_size, c.num_experts_per_tok);
    let one_sum = one_slab && ops.sums_experts(picks, inter, c.shared_intermediate_size());
    if ops.tokens >= GROUP_FROM || !one_sum {
        some_experts(ops, c, &experts.slot, &experts.slabs, step);
        combine(ops, c, experts, step);
        return;
    }
    // A mat-vec per pair of token and expert, the shared expert beside them, and all of it summed in one dispatch.
    let a = &step.activations;
    let hidden = c.hidden_size;
    let act = pair_rows(c, step);
    let shared = experts.shared_gate_up.as_ref();
    let x = Rows::new(a.x, hidden);
    let slab = &experts.slabs[0];
    let activated = ops.experts_gate_up(&experts.slot, slab, shared, picks, hidden, x, a.expert_ids, act);
    ops.experts_down(experts, picks, hidden, inter, act, a.expert_ids, a.expert_weights, a.h, activated);
}

/// Records the rows of `part` of the pairs whose experts lie in `slabs`. A row's bits depend on nothing else.
pub fn some_experts(ops: &mut Ops<'_>, c: &ModelConfig, slot: &SlotLayout, slabs: &[Slab], step: &Step) {
    if slabs.is_empty() {
        return;
    }
    let a = &step.activations;
    let (hidden, inter, picks) = (c.hidden_size, c.moe_intermediate_size, c.num_experts_per_tok);
    let (x, part) = (Rows::new(a.x, hidden), Rows::new(a.part, hidden));
    if ops.tokens < GROUP_FROM {
        let act = pair_rows(c, step);
        let mut activated = false; // of all slabs alike
        for slab in slabs {
            activated = ops.experts_gate_up(slot, slab, None, picks, hidden, x, a.expert_ids, act);
        }
        for slab in slabs {
            ops.experts_down_parts(slot, slab, picks, inter, act, a.expert_ids, part, activated);
        }
        return;
    }
    let down = [slot.down];
    ops.group_experts(
        &shaders::group_experts::Params {
            pairs: ops.tokens * picks,
            experts: c.n_routed_experts,
            tile: shaders::matmul::TOKENS,
            x_groups_0: Ops::experts_matmul_groups(&slot.gate_up),
            x_groups_1: Ops::experts_matmul_groups(&down),
        },
        shaders::group_experts::Bindings {
            expert_ids: a.expert_ids,
            pair_order: a.pair_order,
            tiles: a.tiles,
            arguments: a.expert_groups,
        },
    );
    let act = Rows::new(a.act, 2 * inter);
    let sorted = [a.tiles, a.pair_order];
    for slab in slabs {
        let groups = a.expert_groups.slice(0, 16);
        ops.experts_matmul(
            "experts_gate_up",
            slab,
            &slot.gate_up,
            picks,
            hidden,
            x,
            sorted,
            act,
            false,
            groups,
        );
    }
    for slab in slabs {
        let groups = a.expert_groups.slice(16, 16);
        ops.experts_matmul("experts_down", slab, &down, picks, inter, act, sorted, part, true, groups);
    }
}

/// Records h += Σ weight · part + shared expert, over the picked experts.
pub fn combine(ops: &mut Ops<'_>, c: &ModelConfig, experts: &Experts, step: &Step) {
    let a = &step.activations;
    let (hidden, picks) = (c.hidden_size, c.num_experts_per_tok);
    let mut shared = None;
    if let (Some(gate_up), Some(down)) = (&experts.shared_gate_up, &experts.shared_down) {
        let act = Rows::new(a.shared_act, gate_up.rows);
        let activated = ops.gate_up("shared_gate_up", gate_up, Rows::new(a.x, hidden), act);
        let form = Form { swiglu: !activated, ..Form::default() };
        ops.project("shared_down", down, act, Rows::new(a.shared_out, hidden), form, ops.tokens);
        shared = Some(a.shared_out);
    }
    ops.experts_combine(hidden, picks, a.part, a.expert_weights, shared, a.h, false);
}

/// Records shared_out = Σ weight · part, over the picked experts: what others add to their h.
pub fn sum(ops: &mut Ops<'_>, c: &ModelConfig, step: &Step) {
    let a = &step.activations;
    ops.experts_combine(
        c.hidden_size,
        c.num_experts_per_tok,
        a.part,
        a.expert_weights,
        None,
        a.shared_out,
        true,
    );
}

/// Records h += the vectors in `part`, one per token; `expert_weights` are ones.
pub fn add(ops: &mut Ops<'_>, c: &ModelConfig, step: &Step) {
    let a = &step.activations;
    ops.experts_combine(c.hidden_size, 1, a.part, a.expert_weights, None, a.h, false);
}

/// Rows [gate | up] of pairs, and of tokens where the shared expert is computed with them.
fn pair_rows(c: &ModelConfig, step: &Step) -> Rows {
    Rows::new(step.activations.act, 2 * c.moe_intermediate_size.max(c.shared_intermediate_size()))
}
