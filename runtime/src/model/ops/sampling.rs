//! Kernels between logits and the next token.

use porism_shaders as shaders;

use super::{Ops, shaped};
use crate::recording::View;

impl Ops<'_> {
    /// The id and value of the largest logit of each row.
    pub fn argmax(&mut self, vocab_size: u32, logits: View, out: View, rows: u32) {
        let params = shaders::argmax::Params { vocab_size };
        let bound = shaders::argmax::Bindings {
            logits: shaped(logits, [rows, vocab_size]),
            out: shaped(out, [rows, 2]),
        };
        self.push("argmax", &params, Default::default(), bound, [rows, 1, 1]);
    }

    /// What the host samples from: the largest logits of each row and the sum over all. See `candidates.wgsl`.
    pub fn candidates(
        &mut self,
        vocab_size: u32,
        count: u32,
        bound: shaders::candidates::Bindings<View>,
        rows: u32,
    ) {
        let params = shaders::candidates::Params { vocab_size, candidates: count };
        let bound = shaders::candidates::Bindings {
            logits: shaped(bound.logits, [rows, vocab_size]),
            indices: shaped(bound.indices, [rows, count]),
            temperatures: shaped(bound.temperatures, [rows]),
            out: shaped(bound.out, [rows, 4 + 2 * count]),
        };
        self.push("candidates", &params, Default::default(), bound, [rows, 1, 1]);
    }

    /// Makes tokens that occurred less likely, in place. See `repetition_penalty.wgsl`.
    pub fn repetition_penalty(
        &mut self,
        count: u32,
        rows: u32,
        vocab_size: u32,
        bound: shaders::repetition_penalty::Bindings<View>,
    ) {
        let params = shaders::repetition_penalty::Params { count, rows, vocab_size };
        let bound = shaders::repetition_penalty::Bindings {
            seen: shaped(bound.seen, [count, 2]),
            penalties: shaped(bound.penalties, [rows]),
            logits: shaped(bound.logits, [rows, vocab_size]),
        };
        let groups = [count.div_ceil(shaders::repetition_penalty::THREADS), 1, 1];
        self.push("repetition_penalty", &params, Default::default(), bound, groups);
    }
}
