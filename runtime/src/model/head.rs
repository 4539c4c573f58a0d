//! The two ends of the forward pass: tokens to h, and h to logits and what is sampled from them.

use porism_loader::ModelConfig;
use porism_shaders as shaders;

use super::buffers::{CANDIDATES, Step};
use super::ops::{Form, Ops, Rows};
use crate::recording::View;
use crate::weights::pieces::{EmbeddingPiece, Projection};

/// From h to logits.
#[derive(Debug)]
pub struct Head {
    /// `norm`
    pub norm: View,
    /// `lm_head`, or the embedding once more where the two are tied.
    pub projection: Projection,
}

/// Records h = rows of the embedding.
pub fn embed(ops: &mut Ops<'_>, c: &ModelConfig, embedding: &[EmbeddingPiece], step: &Step) {
    ops.embedding(embedding, c.hidden_size, step.inputs.token_ids, step.activations.h);
}

impl Head {
    /// Records the logits of the rows of h listed from entry `first` of `output_rows` on.
    pub fn record(&self, ops: &mut Ops<'_>, c: &ModelConfig, step: &Step, first: u32, count: u32) {
        let a = &step.activations;
        let h = Rows::new(a.h, c.hidden_size);
        let rows = step.inputs.output_rows;
        let rows = rows.slice(u64::from(first) * 4, rows.bytes - u64::from(first) * 4);
        ops.rms_norm(
            "norm",
            h,
            self.norm,
            Some(rows),
            c.hidden_size,
            c.rms_norm_eps as f32,
            a.final_x,
            count,
        );
        let logits = Rows::new(a.logits, c.vocab_size);
        ops.project(
            "lm_head",
            &self.projection,
            Rows::new(a.final_x, c.hidden_size),
            logits,
            Form::default(),
            count,
        );
    }
}

/// Records the most likely token of each of the first `rows` rows of logits; returns where the pairs of id and value are.
pub fn argmax(ops: &mut Ops<'_>, c: &ModelConfig, step: &Step, rows: u32) -> View {
    let a = &step.activations;
    ops.argmax(c.vocab_size, a.logits, a.sampled, rows);
    a.sampled.slice(0, u64::from(rows) * 8)
}

/// Records what is sampled from: the largest logits of each of the first `rows` rows, after a penalty for `seen` tokens;
/// returns where they are, four words and pairs of id and value for each row.
pub fn candidates(ops: &mut Ops<'_>, c: &ModelConfig, step: &Step, rows: u32, seen: u32) -> View {
    let (a, inputs, length) = (&step.activations, &step.inputs, c.vocab_size);
    if seen > 0 {
        ops.repetition_penalty(
            seen,
            rows,
            length,
            shaders::repetition_penalty::Bindings {
                seen: inputs.seen,
                penalties: inputs.penalties,
                logits: a.logits,
            },
        );
    }
    let count = CANDIDATES.min(length);
    let topk = shaders::topk::Params { stride: length, k: count, length, fixed_length: 1 };
    ops.topk(
        "candidates_topk",
        &topk,
        shaders::topk::Bindings { scores: a.logits, lengths: a.unused, selected: a.indices },
        rows,
    );
    ops.candidates(
        length,
        count,
        shaders::candidates::Bindings {
            logits: a.logits,
            indices: a.indices,
            temperatures: inputs.temperatures,
            out: a.sampled,
        },
        rows,
    );
    a.sampled.slice(0, u64::from(rows) * u64::from(4 + 2 * count) * 4)
}
