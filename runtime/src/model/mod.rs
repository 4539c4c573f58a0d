//! The forward pass, recorded: embedding, blocks, norm, head. Start reading at `block.rs`.
//!
//! h: (tokens, hidden_size) is the residual stream; every layer adds to it twice. What is here records one device's part, and
//! does not know of any other: sizes, weights, places and order are other folders' business.

pub mod attention;
pub mod block;
pub mod buffers;
pub mod head;
pub mod moe;
pub mod ops;
pub mod sizes;

use std::ops::Range;

use porism_loader::ModelConfig;

use crate::weights::pieces::{EmbeddingPiece, Experts};
use block::Layer;
use buffers::Step;
use head::Head;
use ops::Ops;

/// What a device holds of a model, and can record.
#[derive(Debug)]
pub struct Model {
    /// The architecture.
    pub config: ModelConfig,
    /// The layers it has whole.
    pub range: Range<u32>,
    /// `embed_tokens`; nothing where it is not here.
    pub embedding: Vec<EmbeddingPiece>,
    /// The blocks of `range`.
    pub layers: Vec<Layer>,
    /// The end of the forward pass, if it is here.
    pub head: Option<Head>,
    /// Routed experts of other layers, by layer.
    pub lone_experts: Vec<Option<Experts>>,
    /// Bytes of all weight buffers, padding and scales included.
    pub bytes: u64,
}

impl Model {
    /// A layer of `range`.
    pub fn layer(&self, layer: u32) -> &Layer {
        &self.layers[(layer - self.range.start) as usize]
    }

    /// Records h = rows of the embedding.
    pub fn embed(&self, ops: &mut Ops<'_>, step: &Step) {
        head::embed(ops, &self.config, &self.embedding, step);
    }

    /// Records the logits of the rows of h listed from entry `first` of `output_rows` on.
    pub fn head(&self, ops: &mut Ops<'_>, step: &Step, first: u32, count: u32) {
        let head = self.head.as_ref().expect("recorded where the head is");
        head.record(ops, &self.config, step, first, count);
    }
}
