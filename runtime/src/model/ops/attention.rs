//! Kernels of attention and of the indexer.

use porism_shaders as shaders;
use porism_shaders::kernels::segments::Segment;
use porism_shaders::kernels::sparse_attention::row_length;
use porism_shaders::weights::WeightType;

use super::{Ops, matrices, shaped, strided};
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
        let row_bytes = p.kv_lora_rank as usize * WeightType::from_code(kind).bytes();
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
        let overrides = shaders::index_scores::Overrides { careful: (!p.dim.is_multiple_of(4)).into() };
        let groups = [longest.div_ceil(shaders::index_scores::TILE), tokens, 1];
        self.push("index_scores", params, overrides, bound, groups);
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
        let overrides = shaders::sparse_attention::Overrides {
            careful: (!width.is_multiple_of(4)).into(),
            threads: self.threads(128),
        };
        let groups = [p.splits, p.heads.div_ceil(shaders::sparse_attention::HEADS), tokens];
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
