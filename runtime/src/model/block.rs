//! One block of the forward pass: h += attention(norm(h)), then h += ffn(norm(h)).

use porism_loader::{LayerRole, ModelConfig};

use super::attention::Attention;
use super::buffers::Step;
use super::moe::{self, Moe};
use super::ops::{Form, Ops, Rows};
use crate::weights::pieces::{Experts, Norms, Projection};

/// One block.
#[derive(Debug)]
pub struct Layer {
    /// Its small vectors.
    pub norms: Norms,
    /// Attention over the latent cache.
    pub attention: Attention,
    /// What follows it.
    pub ffn: Ffn,
}

/// The second half of a block.
#[derive(Debug)]
pub enum Ffn {
    /// A dense SwiGLU.
    Dense {
        /// gate_proj, up_proj
        gate_up: Projection,
        /// down_proj
        down: Projection,
    },
    /// Experts.
    Moe(Moe),
}

impl Layer {
    /// Records the block up to its experts: attention, then a dense feed-forward or the choice of experts. `cache` is the
    /// number of its caches among those of `step`.
    pub fn record(&self, ops: &mut Ops<'_>, c: &ModelConfig, step: &Step, cache: usize) {
        let a = &step.activations;
        let (hidden, eps) = (c.hidden_size, c.rms_norm_eps as f32);
        let h = Rows::new(a.h, hidden);
        let norm = self.norms.view(LayerRole::InputLayernorm);
        ops.rms_norm("input_layernorm", h, norm, None, hidden, eps, a.x, ops.tokens);
        self.attention.record(ops, c, &self.norms, step, &step.caches[cache]);
        match &self.ffn {
            Ffn::Dense { gate_up, down } => {
                let norm = self.norms.view(LayerRole::PostAttentionLayernorm);
                ops.rms_norm("post_attention_layernorm", h, norm, None, hidden, eps, a.x, ops.tokens);
                let act = Rows::new(a.act, gate_up.rows);
                let x = Rows::new(a.x, hidden);
                let activated = ops.gate_up("gate_up", gate_up, x, act);
                let form = Form { swiglu: !activated, accumulate: true };
                ops.project("down", down, act, h, form, ops.tokens);
            }
            Ffn::Moe(moe) => moe::route(ops, c, &self.norms, moe, step),
        }
    }

    /// The experts beside it; none for a layer without.
    pub fn experts(&self) -> Option<&Experts> {
        match &self.ffn {
            Ffn::Dense { .. } => None,
            Ffn::Moe(moe) => Some(&moe.experts),
        }
    }
}
