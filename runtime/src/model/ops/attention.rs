//! Kernels of attention and of the indexer.

use porism_shaders as shaders;
use porism_shaders::kernels::segments::Segment;
use porism_shaders::kernels::sparse_attention::row_length;
use porism_shaders::kernels::{absorb_lanes, attention_output_lanes, index_scores_lanes, topk_tiles};
use porism_shaders::weights::WeightType;

use super::{Ops, matrices, shaped, strided};
use crate::device::Shape;
use crate::recording::View;

impl Ops<'_> {
    /// Norms, rope and cache writes of what x was projected to. See `latent_cache.wgsl`.
    pub fn latent_cache(
        &mut self,
        params: &shaders::latent_cache::Params,
        bound: shaders::latent_cache::Bindings<View>,
    ) {
        let (p, tokens) = (params, self.tokens);
        let index_norms = if p.index_head_dim > 0 {
            p.index_weight_offset.max(p.index_bias_offset) + p.index_head_dim
        } else {
            0
        };
        let q_norm = if p.q_lora_rank > 0 { p.q_norm_offset + p.q_lora_rank } else { 0 };
        let norms = q_norm.max(p.kv_norm_offset + p.kv_lora_rank).max(index_norms);
        let bound = shaders::latent_cache::Bindings {
            projected: shaped(bound.projected, [tokens, p.stride]),
            norms: shaped(bound.norms, [norms]),
            rope: shaped(bound.rope, [tokens, p.rope_dim]),
            cache_rows: shaped(bound.cache_rows, [tokens]),
            qr: shaped(bound.qr, [tokens, p.q_lora_rank]),
            // Each token has a row of its own.
            latent_cache: shaped(bound.latent_cache, [tokens, p.kv_lora_rank + p.rope_dim]),
            index_cache: shaped(bound.index_cache, [tokens, p.index_head_dim]),
        };
        self.push("latent_cache", params, Default::default(), bound, [tokens, 1, 1]);
    }

    /// Queries into the latent space, rope of the rest and of the indexer's queries. See `absorb.wgsl`.
    pub fn absorb(
        &mut self,
        kind: u32,
        params: &shaders::absorb::Params,
        bound: shaders::absorb::Bindings<View>,
    ) {
        let (p, tokens) = (params, self.tokens);
        let segment = Segment {
            offset: p.weight_offset,
            scale_offset: p.scale_offset,
            kind,
            rows: p.heads * (p.nope + p.v),
            column: 0,
        };
        let [weights, scales] = matrices((bound.weights, bound.scales), [&segment], p.kv_lora_rank);
        let query_width = p.query_offset + p.heads * (p.nope + p.rope_dim);
        let index_dim = p.index_heads * p.index_head_dim;
        let index_width = if index_dim > 0 { p.index_offset + index_dim } else { 0 };
        let bound = shaders::absorb::Bindings {
            queries: strided(bound.queries, tokens, p.stride, query_width.max(index_width)),
            weights,
            scales,
            rope: shaped(bound.rope, [tokens, p.rope_dim]),
            q_absorbed: shaped(bound.q_absorbed, [tokens, p.heads, p.kv_lora_rank + p.rope_dim]),
            index_q: shaped(bound.index_q, [tokens, index_dim]),
        };
        let weight_type = WeightType::from_code(kind);
        if self.tuning.shape == Shape::Gpu && tokens < 4 && absorb_lanes::takes(p, weight_type) {
            let overrides = shaders::absorb_lanes::Overrides { weight_type: kind };
            let groups = [absorb_lanes::groups(p, weight_type), tokens, 1];
            let shaders::absorb::Bindings { queries, weights, scales, rope, q_absorbed, index_q } = bound;
            let bound =
                shaders::absorb_lanes::Bindings { queries, weights, scales, rope, q_absorbed, index_q };
            self.push("absorb", &p.along_rank(), overrides, bound, groups);
            return;
        }
        let row_bytes = p.kv_lora_rank as usize * weight_type.bytes();
        let share = if tokens >= 4 { 4 } else { 1 };
        let overrides = shaders::absorb::Overrides {
            weight_type: kind,
            careful: (!row_bytes.is_multiple_of(4)).into(),
            tokens: share,
            threads: self.threads(p.kv_lora_rank.div_ceil(4)),
        };
        let groups = [p.heads + u32::from(p.index_heads > 0), tokens.div_ceil(share), 1];
        self.push("absorb", params, overrides, bound, groups);
    }

    /// The indexer's scores of all positions up to `longest` tokens. See `index_scores.wgsl`.
    pub fn index_scores(
        &mut self,
        params: &shaders::index_scores::Params,
        bound: shaders::index_scores::Bindings<View>,
        longest: u32,
    ) {
        let (p, tokens) = (params, self.tokens);
        let bound = shaders::index_scores::Bindings {
            index_q: shaped(bound.index_q, [tokens, p.heads, p.dim]),
            // Which pages a sequence has is known on the device only.
            index_cache: shaped(bound.index_cache, [p.dim]),
            projected: strided(bound.projected, tokens, p.stride, p.weights_offset + p.heads),
            positions: shaped(bound.positions, [tokens]),
            sequences: shaped(bound.sequences, [tokens]),
            page_table: shaped(bound.page_table, [p.pages_per_sequence]),
            scores: strided(bound.scores, tokens, p.scores_stride, longest),
        };
        if self.along_dim(p.dim) {
            let groups = [longest.div_ceil(shaders::index_scores_lanes::TILE), tokens, 1];
            let bound = shaders::index_scores_lanes::Bindings {
                index_q: bound.index_q,
                index_cache: bound.index_cache,
                projected: bound.projected,
                positions: bound.positions,
                sequences: bound.sequences,
                page_table: bound.page_table,
                scores: bound.scores,
            };
            let overrides = shaders::index_scores_lanes::Overrides {};
            let [offset, stride] = self.maxima(bound.scores.view, p.scores_stride).unwrap_or_default();
            self.push("index_scores", &p.along_dim(offset, stride), overrides, bound, groups);
            return;
        }
        let overrides = shaders::index_scores::Overrides { careful: (!p.dim.is_multiple_of(4)).into() };
        let groups = [longest.div_ceil(shaders::index_scores::TILE), tokens, 1];
        self.push("index_scores", params, overrides, bound, groups);
    }

    /// Where the largest of every 16 scores have room beside the scores of all tokens: their offset and the length of a row.
    fn maxima(&self, scores: View, stride: u32) -> Option<[u32; 2]> {
        let rows = u64::from(self.tokens);
        let offset = (rows * u64::from(stride)).next_multiple_of(4);
        let maxima = stride.div_ceil(topk_tiles::SCORES as u32).next_multiple_of(4);
        let aligned = rows == 1 || stride.is_multiple_of(4);
        // A tile is told by 16 bits.
        let fits = maxima <= 1 << 16 && (offset + rows * u64::from(maxima)) * 4 <= scores.bytes;
        let offset = u32::try_from(offset).ok().filter(|_| aligned && fits)?;
        Some([offset, maxima])
    }

    /// The positions with the k largest scores of each token, after [`Ops::index_scores`]. See `topk.wgsl` and
    /// `topk_tiles.wgsl`.
    pub fn index_topk(
        &mut self,
        k: u32,
        dim: u32,
        stride: u32,
        scores: View,
        positions: View,
        selected: View,
    ) {
        let maxima = self.maxima(scores, stride).filter(|_| self.along_dim(dim));
        let Some([maxima_offset, maxima_stride]) = maxima else {
            let params = shaders::topk::Params { stride, k, length: 0, fixed_length: 0 };
            let bound = shaders::topk::Bindings { scores, lengths: positions, selected };
            return self.topk("index_topk", &params, bound, self.tokens);
        };
        let rows = self.tokens;
        let params = shaders::topk_tiles::Params { stride, k, maxima_offset, maxima_stride };
        let bound = shaders::topk_tiles::Bindings {
            scores: strided(scores, 1, 0, maxima_offset + rows * maxima_stride),
            lengths: shaped(positions, [rows]),
            selected: shaped(selected, [rows, k]),
        };
        self.push("index_topk", &params, shaders::topk_tiles::Overrides {}, bound, [rows, 1, 1]);
    }

    /// Whether the device's scores have lanes along the indexer's keys.
    fn along_dim(&self, dim: u32) -> bool {
        self.tuning.shape == Shape::Gpu && dim.is_multiple_of(4) && dim <= index_scores_lanes::MAX_DIM
    }

    /// The k largest of each row of scores. See `topk.wgsl`.
    pub fn topk(
        &mut self,
        what: &'static str,
        params: &shaders::topk::Params,
        bound: shaders::topk::Bindings<View>,
        rows: u32,
    ) {
        let fixed = params.fixed_length == 1;
        let bound = shaders::topk::Bindings {
            scores: strided(bound.scores, rows, params.stride, if fixed { params.length } else { 1 }),
            lengths: shaped(bound.lengths, [if fixed { 0 } else { rows }]),
            selected: shaped(bound.selected, [rows, params.k]),
        };
        self.push(what, params, Default::default(), bound, [rows, 1, 1]);
    }

    /// Attention over the selected latents, in splits. See `sparse_attention.wgsl`.
    pub fn sparse_attention(
        &mut self,
        params: &shaders::sparse_attention::Params,
        bound: shaders::sparse_attention::Bindings<View>,
    ) {
        let (p, tokens) = (params, self.tokens);
        let width = p.kv_lora_rank + p.rope_dim;
        let partial = row_length(p.kv_lora_rank as usize) as u32;
        let bound = shaders::sparse_attention::Bindings {
            q_absorbed: shaped(bound.q_absorbed, [tokens, p.heads, width]),
            latent_cache: shaped(bound.latent_cache, [width]),
            selected: shaped(bound.selected, [if p.dense == 1 { 0 } else { tokens }, p.k_stride]),
            positions: shaped(bound.positions, [tokens]),
            sequences: shaped(bound.sequences, [tokens]),
            page_table: shaped(bound.page_table, [p.pages_per_sequence]),
            partial: shaped(bound.partial, [tokens, p.heads, p.splits, partial]),
        };
        let groups = [p.splits, p.heads.div_ceil(shaders::lib::tiles::HEADS), tokens];
        if self.tuning.shape == Shape::Gpu && p.kv_lora_rank.is_multiple_of(4) && p.rope_dim.is_multiple_of(4)
        {
            let bound = shaders::sparse_attention_lanes::Bindings {
                q_absorbed: bound.q_absorbed,
                latent_cache: bound.latent_cache,
                selected: bound.selected,
                positions: bound.positions,
                sequences: bound.sequences,
                page_table: bound.page_table,
                partial: bound.partial,
            };
            let overrides = shaders::sparse_attention_lanes::Overrides {};
            self.push("sparse_attention", &p.along_width(), overrides, bound, groups);
            return;
        }
        let overrides = shaders::sparse_attention::Overrides {
            careful: (!width.is_multiple_of(4)).into(),
            threads: self.threads(128),
        };
        self.push("sparse_attention", params, overrides, bound, groups);
    }

    /// Combines the splits and applies W_UV. See `attention_output.wgsl`.
    pub fn attention_output(
        &mut self,
        kind: u32,
        params: &shaders::attention_output::Params,
        bound: shaders::attention_output::Bindings<View>,
    ) {
        let (p, tokens) = (params, self.tokens);
        let segment = Segment {
            offset: p.weight_offset,
            scale_offset: p.scale_offset,
            kind,
            rows: p.heads * (p.nope + p.v),
            column: 0,
        };
        let [weights, scales] = matrices((bound.weights, bound.scales), [&segment], p.kv_lora_rank);
        let partial = row_length(p.kv_lora_rank as usize) as u32;
        let bound = shaders::attention_output::Bindings {
            partial: shaped(bound.partial, [tokens, p.heads, p.splits, partial]),
            weights,
            scales,
            positions: shaped(bound.positions, [tokens]),
            out: shaped(bound.out, [tokens, p.heads, p.v]),
        };
        let row_groups = p.v.div_ceil(shaders::attention_output_lanes::ROWS);
        if self.tuning.shape == Shape::Gpu
            && p.kv_lora_rank.is_multiple_of(16)
            && p.splits <= shaders::attention_output_lanes::MAX_SPLITS
        {
            let shaders::attention_output::Bindings { partial, weights, scales, positions, out } = bound;
            let bound =
                shaders::attention_output_lanes::Bindings { partial, weights, scales, positions, out };
            let overrides = attention_output_lanes::overrides(kind, p.kv_lora_rank);
            let groups = [p.heads * row_groups, tokens, 1];
            self.push("attention_output", &p.along_rank(), overrides, bound, groups);
            return;
        }
        let row_bytes = p.kv_lora_rank as usize * WeightType::from_code(kind).bytes();
        let careful = !row_bytes.is_multiple_of(16) || !p.kv_lora_rank.is_multiple_of(16);
        let overrides = shaders::attention_output::Overrides {
            weight_type: kind,
            careful: careful.into(),
            threads: p.v.next_multiple_of(32).clamp(32, 128),
        };
        self.push("attention_output", params, overrides, bound, [p.heads, tokens, 1]);
    }
}
