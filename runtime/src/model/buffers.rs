//! What a step needs besides weights: its inputs, the activations' buffers and the caches, all allocated when the model
//! is opened.

use std::ops::Range;

use porism_loader::ModelConfig;
use porism_shaders::kernels::{matmul, sparse_attention};

use super::sizes::{Columns, Sizes};
use crate::device::Executor;
use crate::error::Error;
use crate::recording::{BufferId, View};

/// Candidates brought back per sampled token: with the four words before them 2 KiB.
pub const CANDIDATES: u32 = 255;
/// Partial results of attention kept per step, in tokens × splits.
const MAX_SPLITS: u32 = 128;
/// Logits computed at once, in bytes.
const LOGITS_BYTES: u64 = 64 << 20;

/// Uploaded at the start of a step.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// u32 (tokens)
    pub token_ids: View,
    /// u32 (tokens): position in the token's sequence.
    pub positions: View,
    /// u32 (tokens): row of the page table.
    pub sequences: View,
    /// u32 (sequences, pages_per_sequence)
    pub page_table: View,
    /// u32 (tokens): cache row of the token itself.
    pub cache_rows: View,
    /// f32 (tokens, qk_rope_head_dim / 2, 2): cos and sin.
    pub rope: View,
    /// u32 (tokens): rows of h whose logits are wanted.
    pub output_rows: View,
    /// f32 (sequences): sampling temperatures.
    pub temperatures: View,
    /// f32 (sequences): repetition penalties.
    pub penalties: View,
    /// u32 (n, 2): row and id of tokens that occurred.
    pub seen: View,
}

/// Written and read within a step.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the forward pass's own; shapes are in the kernels' headers")]
pub struct Activations {
    pub h: View,
    pub x: View,
    pub projected: View,
    pub qr: View,
    pub queries: View,
    pub q_absorbed: View,
    pub index_q: View,
    pub scores: View,
    pub selected: View,
    pub partial: View,
    pub attended: View,
    pub router_logits: View,
    pub expert_ids: View,
    pub expert_weights: View,
    pub pair_order: View,
    pub tiles: View,
    pub expert_groups: View,
    pub act: View,
    pub part: View,
    pub shared_act: View,
    pub shared_out: View,
    pub final_x: View,
    pub logits: View,
    pub indices: View,
    pub sampled: View,
    pub unused: View,
}

/// Keys of a layer.
#[derive(Clone, Debug)]
pub struct LayerCache {
    /// f32 (rows, kv_lora_rank + qk_rope_head_dim): c after its norm, k_pe after rope.
    pub latent: View,
    /// f32 (rows, index_head_dim)
    pub index: View,
}

/// All buffers of a step, and what is known of the current one.
#[derive(Clone, Debug)]
pub struct Step {
    /// Uploaded.
    pub inputs: Inputs,
    /// Computed.
    pub activations: Activations,
    /// One per layer that the device is home to.
    pub caches: Vec<LayerCache>,
    /// Row length of the page table.
    pub pages_per_sequence: u32,
    /// Row length of the indexer's scores.
    pub scores_stride: u32,
    /// Tokens × splits that `partial` holds.
    pub max_splits: u32,
    /// Rows that `logits` holds; a multiple of 64 or all there can be.
    pub logits_rows: u32,
    /// Tokens of the longest sequence of this step, the step's own included.
    pub longest: u32,
}

/// Bytes by use, known before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepBytes {
    /// Latent and indexer caches.
    pub cache: u64,
    /// Activations and inputs.
    pub activations: u64,
    /// The largest buffer that is bound.
    pub largest_binding: u64,
}

/// Each buffer's name and length in 4-byte values.
struct Lengths {
    buffers: Vec<(&'static str, u64)>,
    logits_rows: u32,
    max_splits: u32,
}

fn lengths(c: &ModelConfig, sizes: Sizes) -> Lengths {
    let tokens = u64::from(sizes.tokens);
    let of = |value: u32| u64::from(value);
    let indexer = c.indexer.as_ref();
    let (index_heads, index_dim) = indexer.map_or((0, 0), |i| (of(i.index_n_heads), of(i.index_head_dim)));
    let width = of(Columns::new(c, indexer.is_some()).width);
    let heads = of(c.num_attention_heads);
    let latent = of(c.kv_lora_rank + c.qk_rope_head_dim);
    let sparse = indexer.filter(|i| sizes.context > i.index_topk);
    let pairs = tokens * of(c.num_experts_per_tok);
    let experts = of(c.n_routed_experts);
    let shared = of(c.shared_intermediate_size());
    let inter = of(c.moe_intermediate_size);
    let dense_act = if c.first_k_dense_replace > 0 || experts == 0 || c.moe_layer_freq > 1 {
        tokens * 2 * of(c.intermediate_size)
    } else {
        0
    };
    let moe_act = if experts > 0 { (pairs + tokens.min(8)) * 2 * inter.max(shared) } else { 0 };
    let max_splits = sizes.tokens.max(MAX_SPLITS);
    let row_bytes = of(c.vocab_size) * 4;
    let fit = (LOGITS_BYTES / row_bytes) as u32 / 64 * 64;
    let logits_rows = fit.max(64).min(sizes.tokens.max(sizes.sequences));
    let rows = of(logits_rows);
    let pages = of(sizes.sequences) * of(sizes.context).div_ceil(64);
    let cached = of(sizes.cache_tokens);
    let outputs = rows.max(of(sizes.sequences));
    let mut buffers = vec![
        ("token_ids", tokens),
        ("positions", tokens),
        ("sequences", tokens),
        ("page_table", pages),
        ("cache_rows", tokens),
        ("rope", tokens * of(c.qk_rope_head_dim)),
        ("output_rows", tokens.next_multiple_of(64)),
        ("temperatures", outputs),
        ("penalties", outputs),
        ("seen", of(sizes.sequences) * of(sizes.context).min(of(c.vocab_size)) * 2),
        ("h", tokens * of(c.hidden_size)),
        ("x", tokens * of(c.hidden_size)),
        ("projected", tokens * width),
        ("qr", tokens * of(c.q_lora_rank.unwrap_or(1))),
        ("queries", tokens * (heads * of(c.qk_head_dim()) + index_heads * index_dim)),
        ("q_absorbed", tokens * heads * latent),
        ("index_q", tokens * (index_heads * index_dim).max(1)),
        ("scores", sparse.map_or(1, |_| tokens * of(sizes.context))),
        ("selected", sparse.map_or(1, |i| tokens * of(i.index_topk))),
        ("partial", of(max_splits) * heads * sparse_attention::row_length(c.kv_lora_rank as usize) as u64),
        ("attended", tokens * heads * of(c.v_head_dim)),
        ("router_logits", tokens * experts.max(1)),
        ("expert_ids", pairs.max(1)),
        ("expert_weights", pairs.max(1)),
        ("pair_order", pairs.max(1)),
        ("tiles", 4 * (pairs / of(matmul::TOKENS) + experts.min(pairs) + 1)),
        ("expert_groups", 8),
        ("act", dense_act.max(moe_act)),
        ("part", (pairs * of(c.hidden_size)).max(1)),
        ("shared_act", (tokens * 2 * shared).max(1)),
        ("shared_out", tokens * of(c.hidden_size)),
        ("final_x", rows * of(c.hidden_size)),
        ("logits", rows * of(c.vocab_size)),
        ("indices", outputs * of(CANDIDATES)),
        ("sampled", outputs * of(4 + 2 * CANDIDATES)),
        ("unused", 64),
    ];
    for layer in 0..c.num_hidden_layers {
        buffers.push(("latent_cache", cached * latent));
        let dim = if c.has_indexer(layer) { index_dim } else { 0 };
        buffers.push(("index_cache", (cached * dim).max(1)));
    }
    Lengths { buffers, logits_rows, max_splits }
}

/// Rows of logits that are computed at once.
pub fn logits_rows(c: &ModelConfig, sizes: Sizes) -> u32 {
    lengths(c, sizes).logits_rows
}

/// Values that attention's first projection makes of x.
pub fn input_width(c: &ModelConfig) -> u32 {
    Columns::new(c, c.indexer.is_some()).width
}

/// What the buffers of steps of these sizes take.
pub fn bytes(c: &ModelConfig, sizes: Sizes) -> StepBytes {
    bytes_of_layers(c, sizes, 0..c.num_hidden_layers)
}

/// The same on a device that is home to some of the layers only: it has their caches and no others.
pub fn bytes_of_layers(c: &ModelConfig, sizes: Sizes, layers: Range<u32>) -> StepBytes {
    let mut all = StepBytes::default();
    let mut caches = 0;
    for (name, length) in lengths(c, sizes).buffers {
        let bytes = buffer_bytes(length);
        if name.ends_with("_cache") {
            // Two per layer, in order.
            if layers.contains(&(caches / 2)) {
                all.cache += bytes;
                all.largest_binding = all.largest_binding.max(bytes);
            }
            caches += 1;
        } else {
            all.activations += bytes;
            all.largest_binding = all.largest_binding.max(bytes);
        }
    }
    all
}

/// What a device needs that computes some experts of other devices' layers and is home to none.
const REMOTE: [&str; 10] = [
    "x",
    "expert_ids",
    "expert_weights",
    "pair_order",
    "tiles",
    "expert_groups",
    "act",
    "part",
    "shared_out",
    "unused",
];

/// Activations of such a device.
pub fn remote_bytes(c: &ModelConfig, sizes: Sizes) -> u64 {
    let buffers = lengths(c, sizes).buffers;
    buffers.iter().filter(|(name, _)| REMOTE.contains(name)).map(|(_, length)| buffer_bytes(*length)).sum()
}

fn buffer_bytes(length: u64) -> u64 {
    (length * 4).next_multiple_of(16).max(16)
}

impl Step {
    /// No buffers, for a device that has nothing to do.
    pub fn nothing() -> Self {
        Self::of(&[], [].as_slice(), Sizes { tokens: 0, sequences: 0, context: 0, cache_tokens: 0 }, [0; 2])
    }

    /// Allocates everything for steps of these sizes: for a home of `layers`, or what a device without a part in the
    /// forward pass needs to compute experts of other homes.
    pub fn allocate<'c>(
        executor: &mut dyn Executor<'c>,
        c: &ModelConfig,
        sizes: Sizes,
        layers: Option<Range<u32>>,
    ) -> Result<Self, Error> {
        let Lengths { buffers, logits_rows, max_splits } = lengths(c, sizes);
        let mut views = Vec::with_capacity(buffers.len());
        let mut caches = 0;
        for (name, length) in &buffers {
            let wanted = match &layers {
                Some(layers) if name.ends_with("_cache") => {
                    // Two per layer, in order.
                    caches += 1;
                    layers.contains(&((caches - 1) / 2))
                }
                Some(_) => true,
                None => REMOTE.contains(name),
            };
            if wanted {
                let bytes = buffer_bytes(*length);
                views.push((*name, View { buffer: executor.allocate(name, bytes)?, offset: 0, bytes }));
            }
        }
        let caches: Vec<View> =
            views.iter().filter(|(name, _)| name.ends_with("_cache")).map(|(_, view)| *view).collect();
        Ok(Self::of(&views, &caches, sizes, [logits_rows, max_splits]))
    }

    fn of(
        views: &[(&str, View)],
        caches: &[View],
        sizes: Sizes,
        [logits_rows, max_splits]: [u32; 2],
    ) -> Self {
        // A view of nothing where nothing uses it.
        let nothing = View { buffer: BufferId(0), offset: 0, bytes: 0 };
        let view = |name: &str| views.iter().find(|(n, _)| *n == name).map_or(nothing, |(_, view)| *view);
        let caches =
            caches.chunks_exact(2).map(|pair| LayerCache { latent: pair[0], index: pair[1] }).collect();
        Step {
            inputs: Inputs {
                token_ids: view("token_ids"),
                positions: view("positions"),
                sequences: view("sequences"),
                page_table: view("page_table"),
                cache_rows: view("cache_rows"),
                rope: view("rope"),
                output_rows: view("output_rows"),
                temperatures: view("temperatures"),
                penalties: view("penalties"),
                seen: view("seen"),
            },
            activations: Activations {
                h: view("h"),
                x: view("x"),
                projected: view("projected"),
                qr: view("qr"),
                queries: view("queries"),
                q_absorbed: view("q_absorbed"),
                index_q: view("index_q"),
                scores: view("scores"),
                selected: view("selected"),
                partial: view("partial"),
                attended: view("attended"),
                router_logits: view("router_logits"),
                expert_ids: view("expert_ids"),
                expert_weights: view("expert_weights"),
                pair_order: view("pair_order"),
                tiles: view("tiles"),
                expert_groups: view("expert_groups"),
                act: view("act"),
                part: view("part"),
                shared_act: view("shared_act"),
                shared_out: view("shared_out"),
                final_x: view("final_x"),
                logits: view("logits"),
                indices: view("indices"),
                sampled: view("sampled"),
                unused: view("unused"),
            },
            caches,
            pages_per_sequence: sizes.context.div_ceil(64),
            scores_stride: sizes.context,
            max_splits,
            logits_rows,
            longest: 0,
        }
    }
}
