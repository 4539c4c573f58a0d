//! How large steps may be, and the rows in them.

use porism_loader::ModelConfig;

/// How large steps may be.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens of a step.
    pub tokens: u32,
    /// Sequences at once.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub context: u32,
    /// Tokens cached in all, whole pages.
    pub cache_tokens: u32,
}

/// Columns of the projected row, from where each part begins.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// q_a (or q), always first.
    pub q: u32,
    /// c and k_pe.
    pub kv_a: u32,
    /// The indexer's key.
    pub index_k: u32,
    /// The indexer's head weights.
    pub index_weights: u32,
    /// Length of the row.
    pub width: u32,
}

impl Columns {
    /// For the layers with an indexer, or those without.
    pub fn new(c: &ModelConfig, has_indexer: bool) -> Self {
        let q = c.q_lora_rank.unwrap_or(c.num_attention_heads * c.qk_head_dim());
        let kv_a = q;
        let index_k = kv_a + c.kv_lora_rank + c.qk_rope_head_dim;
        let (dim, heads) = match (&c.indexer, has_indexer) {
            (Some(indexer), true) => (indexer.index_head_dim, indexer.index_n_heads),
            _ => (0, 0),
        };
        Columns { q: 0, kv_a, index_k, index_weights: index_k + dim, width: index_k + dim + heads }
    }
}
