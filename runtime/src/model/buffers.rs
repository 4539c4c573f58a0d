//! What a step needs besides weights: its inputs, the activations' buffers and the caches, all allocated when the model
//! is opened.

use std::ops::Range;

use porism_loader::ModelConfig;
use porism_shaders::{kernels::sparse_attention, lib, matmul};

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

/// Which parts of a model need a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Layers, and the ends of the forward pass.
    Layers,
    /// Experts too, where they are computed without the rest of their layer.
    Experts,
}

/// A buffer before it is there.
#[derive(Clone, Copy, Debug)]
struct Planned {
    name: &'static str,
    /// In values of four bytes.
    length: u64,
    user: User,
}

impl Planned {
    fn bytes(self) -> u64 {
        (self.length * 4).next_multiple_of(16).max(16)
    }

    fn allocate(self, executor: &mut dyn Executor<'_>) -> Result<View, Error> {
        let bytes = self.bytes();
        Ok(View { buffer: executor.allocate(self.name, bytes)?, offset: 0, bytes })
    }
}

/// A view of nothing where nothing uses it.
const NOTHING: View = View { buffer: BufferId(0), offset: 0, bytes: 0 };

/// A table of buffers: who needs each, its name, and its length in values of four bytes. Makes a struct with a view by that
/// name for each.
macro_rules! buffers {
    ($(#[$about:meta])* $struct:ident of $lengths:ident { $($(#[$doc:meta])* $user:ident $name:ident: $length:expr;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug)]
        pub struct $struct { $($(#[$doc])* pub $name: View,)* }

        impl $struct {
            /// No buffers.
            const NOTHING: $struct = $struct { $($name: NOTHING,)* };

            /// All buffers in the order in which they are allocated.
            fn planned($lengths: &Lengths) -> impl Iterator<Item = Planned> {
                [$(Planned { name: stringify!($name), length: $length, user: User::$user },)*].into_iter()
            }

            /// Makes those of the buffers that are `wanted`; the others have nothing in them.
            fn allocate(
                lengths: &Lengths,
                executor: &mut dyn Executor<'_>,
                wanted: impl Fn(User) -> bool,
            ) -> Result<Self, Error> {
                let mut made = Self::NOTHING;
                let mut planned = Self::planned(lengths);
                $(if let Some(buffer) = planned.next().filter(|buffer| wanted(buffer.user)) {
                    made.$name = buffer.allocate(executor)?;
                })*
                Ok(made)
            }
        }
    };
}

buffers! {
    /// Uploaded at the start of a step.
    Inputs of l {
        /// u32 (tokens)
        Layers token_ids: l.tokens;
        /// u32 (tokens): position in the token's sequence.
        Layers positions: l.tokens;
        /// u32 (tokens): row of the page table.
        Layers sequences: l.tokens;
        /// u32 (sequences, pages_per_sequence)
        Layers page_table: l.sequences * l.pages_per_sequence;
        /// u32 (tokens): cache row of the token itself.
        Layers cache_rows: l.tokens;
        /// f32 (tokens, qk_rope_head_dim / 2, 2): cos and sin.
        Layers rope: l.tokens * l.rope_dim;
        /// u32 (tokens): rows of h whose logits are wanted.
        Layers output_rows: l.tokens.next_multiple_of(64);
        /// f32 (sequences): sampling temperatures.
        Layers temperatures: l.outputs;
        /// f32 (sequences): repetition penalties.
        Layers penalties: l.outputs;
        /// u32 (n, 2): row and id of tokens that occurred.
        Layers seen: l.sequences * l.context.min(l.vocab) * 2;
    }
}

buffers! {
    /// Written and read within a step. The names are the forward pass's own; shapes are in the kernels' headers too.
    Activations of l {
        /// f32 (tokens, hidden_size): the residual stream.
        Layers h: l.tokens * l.hidden;
        /// f32 (tokens, hidden_size): h after a norm.
        Experts x: l.tokens * l.hidden;
        /// f32 (tokens, [`Columns`]): what attention's first projection makes of x.
        Layers projected: l.tokens * l.input_width;
        /// f32 (tokens, q_lora_rank): q_a after its norm.
        Layers qr: l.tokens * l.q_lora_rank;
        /// f32 (tokens, heads · qk_head_dim + index heads · index dim)
        Layers queries: l.tokens * (l.heads * l.qk_head_dim + l.index_heads * l.index_dim);
        /// f32 (tokens, heads, kv_lora_rank + qk_rope_head_dim)
        Layers q_absorbed: l.tokens * l.heads * l.latent;
        /// f32 (tokens, index heads, index dim)
        Layers index_q: l.tokens * (l.index_heads * l.index_dim).max(1);
        /// f32 (tokens, context): the indexer's.
        Layers scores: l.sparse_topk.map_or(1, |_| l.tokens * l.context);
        /// u32 (tokens, index_topk): positions that the indexer selected.
        Layers selected: l.sparse_topk.map_or(1, |topk| l.tokens * topk);
        /// f32 (tokens, heads, splits, [`sparse_attention::row_length`])
        Layers partial: l.splits * l.heads * l.partial_row;
        /// f32 (tokens, heads, v_head_dim)
        Layers attended: l.tokens * l.heads * l.v_head_dim;
        /// f32 (tokens, n_routed_experts)
        Layers router_logits: l.tokens * l.experts.max(1);
        /// u32 (tokens, num_experts_per_tok)
        Experts expert_ids: l.pairs.max(1);
        /// f32 (tokens, num_experts_per_tok)
        Experts expert_weights: l.pairs.max(1);
        /// u32 (pairs): pairs by expert.
        Experts pair_order: l.pairs.max(1);
        /// u32 (tiles, 4): expert, first pair, number of pairs.
        Experts tiles: 4 * (l.pairs / u64::from(matmul::TOKENS) + l.experts.min(l.pairs) + 1);
        /// u32 (2, 4): workgroup counts of the two mat-muls of experts.
        Experts expert_groups: 8;
        /// f32 (lines, [gate | up])
        Experts act: l.dense_act.max(l.moe_act);
        /// f32 (pairs, hidden_size): what each pair adds.
        Experts part: (l.pairs * l.hidden).max(1);
        /// f32 (tokens, [gate | up]) of the shared expert.
        Layers shared_act: (l.tokens * 2 * l.shared).max(1);
        /// f32 (tokens, hidden_size): the shared expert's, or the sum over the experts of others' layers.
        Experts shared_out: l.tokens * l.hidden;
        /// f32 (rows, hidden_size): rows of h after the last norm.
        Layers final_x: l.logits_rows * l.hidden;
        /// f32 (rows, vocab_size)
        Layers logits: l.logits_rows * l.vocab;
        /// u32 (rows, [`CANDIDATES`]): the largest logits.
        Layers indices: l.outputs * u64::from(CANDIDATES);
        /// u32 (rows, 4 + 2 · [`CANDIDATES`]): what comes back of them.
        Layers sampled: l.outputs * u64::from(4 + 2 * CANDIDATES);
        /// For bindings that a mode of a kernel leaves unused.
        Experts unused: 64;
    }
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
    /// One per layer that is recorded.
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

/// The sizes of which the buffers' lengths are made; the names are config.json's where it has them.
struct Lengths {
    tokens: u64,
    sequences: u64,
    context: u64,
    cached: u64,
    pages_per_sequence: u64,
    hidden: u64,
    vocab: u64,
    heads: u64,
    qk_head_dim: u64,
    v_head_dim: u64,
    q_lora_rank: u64,
    rope_dim: u64,
    latent: u64,
    input_width: u64,
    index_heads: u64,
    index_dim: u64,
    /// `index_topk`, where sequences may be longer.
    sparse_topk: Option<u64>,
    /// Tokens × splits of `partial`.
    splits: u64,
    partial_row: u64,
    experts: u64,
    pairs: u64,
    shared: u64,
    dense_act: u64,
    moe_act: u64,
    logits_rows: u64,
    /// Rows that are sampled from.
    outputs: u64,
}

impl Lengths {
    fn new(c: &ModelConfig, sizes: Sizes) -> Self {
        let of = |value: u32| u64::from(value);
        let tokens = of(sizes.tokens);
        let indexer = c.indexer.as_ref();
        let experts = of(c.n_routed_experts);
        let pairs = tokens * of(c.num_experts_per_tok);
        let shared = of(c.shared_intermediate_size());
        let some_dense = c.first_k_dense_replace > 0 || experts == 0 || c.moe_layer_freq > 1;
        let widest = of(c.moe_intermediate_size).max(shared);
        let fit = (LOGITS_BYTES / (of(c.vocab_size) * 4)) as u32 / 64 * 64;
        let logits_rows = of(fit.max(64).min(sizes.tokens.max(sizes.sequences)));
        Lengths {
            tokens,
            sequences: of(sizes.sequences),
            context: of(sizes.context),
            cached: of(sizes.cache_tokens),
            pages_per_sequence: of(sizes.context.div_ceil(lib::pages::PAGE)),
            hidden: of(c.hidden_size),
            vocab: of(c.vocab_size),
            heads: of(c.num_attention_heads),
            qk_head_dim: of(c.qk_head_dim()),
            v_head_dim: of(c.v_head_dim),
            q_lora_rank: of(c.q_lora_rank.unwrap_or(1)),
            rope_dim: of(c.qk_rope_head_dim),
            latent: of(c.kv_lora_rank + c.qk_rope_head_dim),
            input_width: of(input_width(c)),
            index_heads: indexer.map_or(0, |indexer| of(indexer.index_n_heads)),
            index_dim: indexer.map_or(0, |indexer| of(indexer.index_head_dim)),
            sparse_topk: indexer.map(|i| of(i.index_topk)).filter(|topk| of(sizes.context) > *topk),
            splits: of(sizes.tokens.max(MAX_SPLITS)),
            partial_row: sparse_attention::row_length(c.kv_lora_rank as usize) as u64,
            experts,
            pairs,
            shared,
            dense_act: if some_dense { tokens * 2 * of(c.intermediate_size) } else { 0 },
            moe_act: if experts > 0 { (pairs + tokens.min(8)) * 2 * widest } else { 0 },
            logits_rows,
            outputs: logits_rows.max(of(sizes.sequences)),
        }
    }

    /// All but the caches.
    fn planned(&self) -> impl Iterator<Item = Planned> + '_ {
        Inputs::planned(self).chain(Activations::planned(self))
    }

    /// The latent cache of a layer, and the indexer's.
    fn caches(&self, c: &ModelConfig, layer: u32) -> [Planned; 2] {
        let dim = if c.has_indexer(layer) { self.index_dim } else { 0 };
        [("latent_cache", self.cached * self.latent), ("index_cache", (self.cached * dim).max(1))]
            .map(|(name, length)| Planned { name, length, user: User::Layers })
    }
}

/// Rows of logits that are computed at once.
pub fn logits_rows(c: &ModelConfig, sizes: Sizes) -> u32 {
    Lengths::new(c, sizes).logits_rows as u32
}

/// Values that attention's first projection makes of x.
pub fn input_width(c: &ModelConfig) -> u32 {
    Columns::new(c, c.indexer.is_some()).width
}

/// What the buffers of steps of these sizes take.
pub fn bytes(c: &ModelConfig, sizes: Sizes) -> StepBytes {
    bytes_of_layers(c, sizes, 0..c.num_hidden_layers)
}

/// The same with the caches of some of the layers only.
pub fn bytes_of_layers(c: &ModelConfig, sizes: Sizes, layers: Range<u32>) -> StepBytes {
    let lengths = Lengths::new(c, sizes);
    let caches = || layers.clone().flat_map(|layer| lengths.caches(c, layer));
    StepBytes {
        cache: caches().map(Planned::bytes).sum(),
        activations: lengths.planned().map(Planned::bytes).sum(),
        largest_binding: lengths.planned().chain(caches()).map(Planned::bytes).max().unwrap_or(0),
    }
}

/// What a device needs for steps of these sizes that computes experts of others' layers, and nothing else.
pub fn bytes_for_experts(c: &ModelConfig, sizes: Sizes) -> u64 {
    let lengths = Lengths::new(c, sizes);
    lengths.planned().filter(|buffer| buffer.user == User::Experts).map(Planned::bytes).sum()
}

impl Step {
    /// No buffers, for a device that has nothing to do.
    pub fn nothing() -> Self {
        Step {
            inputs: Inputs::NOTHING,
            activations: Activations::NOTHING,
            caches: vec![],
            pages_per_sequence: 0,
            scores_stride: 0,
            max_splits: 0,
            logits_rows: 0,
            longest: 0,
        }
    }

    /// Allocates everything for steps of these sizes: for `layers` and the ends of the forward pass, or what experts alone
    /// need.
    pub fn allocate<'c>(
        executor: &mut dyn Executor<'c>,
        c: &ModelConfig,
        sizes: Sizes,
        layers: Option<Range<u32>>,
    ) -> Result<Self, Error> {
        let lengths = Lengths::new(c, sizes);
        let wanted = |user| layers.is_some() || user == User::Experts;
        let inputs = Inputs::allocate(&lengths, executor, wanted)?;
        let activations = Activations::allocate(&lengths, executor, wanted)?;
        let mut caches = Vec::new();
        for layer in layers.into_iter().flatten() {
            let [latent, index] = lengths.caches(c, layer);
            caches.push(LayerCache { latent: latent.allocate(executor)?, index: index.allocate(executor)? });
        }
        Ok(Step {
            inputs,
            activations,
            caches,
            pages_per_sequence: lengths.pages_per_sequence as u32,
            scores_stride: sizes.context,
            max_splits: lengths.splits as u32,
            logits_rows: lengths.logits_rows as u32,
            longest: 0,
        })
    }
}
