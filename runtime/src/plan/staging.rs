//! How much an executor will hold besides the buffers it is asked for: known beforehand, like everything else.

use porism_loader::ModelConfig;
use porism_shaders::weights::BLOCK;

use crate::device::Staging;
use crate::device::staging::{LEAST_UPLOADS, TIMESTAMP_BYTES};
use crate::model::buffers;
use crate::model::sizes::Sizes;

/// Staging of an adapter, where nobody limits its memory.
const MOST: u64 = 64 << 20;
/// The least of it under a small budget.
const SMALL: u64 = 1 << 20;

impl Staging {
    /// What an adapter needs for a model of `weights` bytes, with so much memory if that is limited.
    pub fn adapter(c: &ModelConfig, sizes: Sizes, weights: u64, memory: Option<u64>) -> Self {
        // Few devices have all of a model, and a part of one needs no less than the whole of a small one.
        let wanted = memory.map_or(MOST, |memory| (memory / 256).clamp(SMALL, MOST)).min(2 * weights);
        let (read_back, timestamps) = (read_back(c, sizes), TIMESTAMP_BYTES);
        // What is read back may be more than all of it, and loading must not become slow.
        let left = wanted.saturating_sub(read_back + timestamps);
        let uploads = left.max(wanted / 2).max(LEAST_UPLOADS) / 16 * 16;
        Staging { uploads, read_back, timestamps, scratch: [0; 2] }
    }

    /// What the host needs, as a layer's home or only for experts of others' layers.
    pub fn host(c: &ModelConfig, sizes: Sizes, home: bool) -> Self {
        Staging { read_back: read_back(c, sizes), scratch: scratch(c, sizes, home), ..Self::default() }
    }
}

/// The most that is read at once: h on its way to the next home, picks with the x they are computed from, candidates, the
/// logits of a token, or with the picks of all layers where those are counted.
fn read_back(c: &ModelConfig, sizes: Sizes) -> u64 {
    let [tokens, hidden, picks] = [sizes.tokens, c.hidden_size, c.num_experts_per_tok].map(u64::from);
    let topk = c.indexer.as_ref().map_or(0, |indexer| u64::from(indexer.index_topk));
    let carried = tokens * (hidden + topk);
    let picked = tokens * (2 * picks + hidden);
    let sampled = u64::from(sizes.sequences) * u64::from(4 + 2 * buffers::CANDIDATES);
    let counted = u64::from(c.num_hidden_layers) * tokens * picks;
    let most = carried.max(picked).max(sampled).max(u64::from(c.vocab_size)) + counted;
    (4 * most).next_multiple_of(16)
}

/// The largest intermediate results of `host/kernels.rs` and `host/attention.rs`.
fn scratch(c: &ModelConfig, sizes: Sizes, home: bool) -> [u64; 2] {
    let padded = |values: u32| u64::from(values).next_multiple_of(BLOCK as u64);
    let of = |value: u32| u64::from(value);
    let (tokens, rows) = (of(sizes.tokens), of(buffers::logits_rows(c, sizes)));
    let pairs = tokens * of(c.num_experts_per_tok);
    let inter = c.moe_intermediate_size;
    // Activations of experts, and x where its rows are no whole blocks; results of gate and up, and of down.
    let mut first = (pairs * padded(inter)).max(tokens * padded(c.hidden_size));
    let mut second = pairs * of(2 * inter).max(of(c.hidden_size));
    if home {
        let heads = of(c.num_attention_heads);
        let dense = c.intermediate_size.max(c.shared_intermediate_size());
        let (index_heads, index_dim) =
            c.indexer.as_ref().map_or((0, 0), |i| (i.index_n_heads, of(i.index_head_dim)));
        let index_heads = of(index_heads).next_multiple_of(32);
        let query_rows = heads * of(c.qk_head_dim()) + index_heads * index_dim;
        first = [
            first,
            tokens * padded(dense),
            tokens * padded(c.num_attention_heads * c.v_head_dim),
            tokens * padded(c.q_lora_rank.unwrap_or(0)),
            rows * padded(c.hidden_size),
            tokens * heads * padded(c.kv_lora_rank),
            tokens * (index_dim + 1) * index_heads,
        ]
        .into_iter()
        .fold(0, u64::max);
        second = [
            second,
            tokens * of(2 * dense),
            tokens * padded(c.shared_intermediate_size()),
            tokens * of(buffers::input_width(c)),
            tokens * query_rows,
            tokens * of(c.hidden_size),
            tokens * of(c.n_routed_experts),
            tokens * heads * of(c.v_head_dim),
            rows * of(c.vocab_size),
        ]
        .into_iter()
        .fold(0, u64::max);
    }
    [first, second]
}
