//! Multi-head latent attention and the lightning indexer, in absorbed form: the cache is read once for all heads.

use porism_loader::{LayerRole, ModelConfig};
use porism_shaders as shaders;

use super::buffers::{LayerCache, Step};
use super::ops::{Form, Ops, Rows};
use super::sizes::Columns;
use crate::weights::pieces::{Norms, Piece, Projection};

/// Attention weights of a layer.
#[derive(Debug)]
pub struct Attention {
    /// What x is multiplied with: q_a_proj (or q_proj), kv_a_proj_with_mqa and, with an indexer, wk and weights_proj.
    pub input: Projection,
    /// What the normalised q_a is multiplied with: q_b_proj and, with an indexer, wq_b.
    pub queries: Option<Projection>,
    /// The same without wq_b: all that is needed while the indexer has nothing to leave out.
    pub queries_alone: Option<Projection>,
    /// kv_b_proj: W_UK and W_UV.
    pub kv_b: Piece,
    /// o_proj
    pub output: Projection,
    /// Whether the layer has an indexer of its own; a layer without one in a model with sparse attention reuses the
    /// selection of the layer before.
    pub has_indexer: bool,
}

impl Attention {
    /// Records h += attention(x). x is the normalised h.
    pub fn record(
        &self,
        ops: &mut Ops<'_>,
        c: &ModelConfig,
        norms: &Norms,
        step: &Step,
        caches: &LayerCache,
    ) {
        let (a, inputs) = (&step.activations, &step.inputs);
        let columns = Columns::new(c, self.has_indexer);
        let indexer = c.indexer.as_ref().filter(|_| self.has_indexer);
        let (index_heads, index_dim) = indexer.map_or((0, 0), |i| (i.index_n_heads, i.index_head_dim));
        let interleaved = indexer.is_some_and(|i| i.rope_interleave).into();

        // One pass over x, then norms, rope and the caches.
        let projected = Rows::new(a.projected, columns.width);
        ops.project(
            "attention_input",
            &self.input,
            Rows::new(a.x, c.hidden_size),
            projected,
            Form::default(),
            ops.tokens,
        );
        ops.latent_cache(
            &shaders::latent_cache::Params {
                stride: columns.width,
                q_a_offset: columns.q,
                q_lora_rank: c.q_lora_rank.unwrap_or(0),
                kv_a_offset: columns.kv_a,
                kv_lora_rank: c.kv_lora_rank,
                rope_dim: c.qk_rope_head_dim,
                index_offset: columns.index_k,
                index_head_dim: index_dim,
                index_interleaved: interleaved,
                q_norm_offset: norms.find(LayerRole::QALayernorm).unwrap_or(0),
                kv_norm_offset: norms.offset(LayerRole::KvALayernorm),
                index_weight_offset: norms.find(LayerRole::IndexerKNorm).unwrap_or(0),
                index_bias_offset: norms.find(LayerRole::IndexerKNormBias).unwrap_or(0),
            },
            shaders::latent_cache::Bindings {
                projected: a.projected,
                norms: norms.all,
                rope: inputs.rope,
                cache_rows: inputs.cache_rows,
                qr: a.qr,
                latent_cache: caches.latent,
                index_cache: caches.index,
            },
        );

        // Up to index_topk tokens of context all are attended to; beyond, those the indexer selects.
        let topk = c.indexer.as_ref().map_or(u32::MAX, |i| i.index_topk);
        let dense = step.longest <= topk;

        // Queries of attention and indexer; without q_lora_rank they are in the projected row already.
        let heads = c.num_attention_heads;
        let needed = if dense { &self.queries_alone } else { &self.queries };
        let (queries, stride, index_offset) = match needed {
            Some(projection) => {
                let x = Rows::new(a.qr, projection.cols);
                let y = Rows::new(a.queries, projection.rows);
                ops.project("attention_queries", projection, x, y, Form::default(), ops.tokens);
                (a.queries, projection.rows, heads * c.qk_head_dim())
            }
            None => (a.projected, columns.width, 0),
        };
        let kv_b = self.kv_b.segments[0];
        ops.absorb(
            kv_b.kind,
            &shaders::absorb::Params {
                tokens: ops.tokens,
                stride,
                query_offset: 0,
                index_offset,
                heads,
                nope: c.qk_nope_head_dim,
                rope_dim: c.qk_rope_head_dim,
                v: c.v_head_dim,
                kv_lora_rank: c.kv_lora_rank,
                index_heads: if dense { 0 } else { index_heads },
                index_head_dim: index_dim,
                index_interleaved: interleaved,
                weight_offset: kv_b.offset,
                scale_offset: kv_b.scale_offset,
            },
            shaders::absorb::Bindings {
                queries,
                weights: self.kv_b.weights,
                scales: self.kv_b.scales,
                rope: inputs.rope,
                q_absorbed: a.q_absorbed,
                index_q: a.index_q,
            },
        );

        if !dense && indexer.is_some() {
            ops.index_scores(
                &shaders::index_scores::Params {
                    heads: index_heads,
                    dim: index_dim,
                    stride: columns.width,
                    weights_offset: columns.index_weights,
                    scores_stride: step.scores_stride,
                    pages_per_sequence: step.pages_per_sequence,
                    scale: (f64::from(index_heads) * f64::from(index_dim)).powf(-0.5) as f32,
                },
                shaders::index_scores::Bindings {
                    index_q: a.index_q,
                    index_cache: caches.index,
                    projected: a.projected,
                    positions: inputs.positions,
                    sequences: inputs.sequences,
                    page_table: inputs.page_table,
                    scores: a.scores,
                },
                step.longest,
            );
            ops.index_topk(topk, index_dim, step.scores_stride, a.scores, inputs.positions, a.selected);
        }
        // A split per tile where tokens are few, so that there is enough to do at once, else one split of all tiles: the same
        // bits.
        let all = step.longest.min(topk).div_ceil(shaders::lib::tiles::TILE);
        let (splits, tiles) = if all * ops.tokens <= step.max_splits { (all, 1) } else { (1, all) };
        ops.sparse_attention(
            &shaders::sparse_attention::Params {
                heads,
                kv_lora_rank: c.kv_lora_rank,
                rope_dim: c.qk_rope_head_dim,
                dense: dense.into(),
                k: topk,
                k_stride: topk,
                pages_per_sequence: step.pages_per_sequence,
                splits,
                tiles,
                scale: c.softmax_scale() as f32,
            },
            shaders::sparse_attention::Bindings {
                q_absorbed: a.q_absorbed,
                latent_cache: caches.latent,
                selected: a.selected,
                positions: inputs.positions,
                sequences: inputs.sequences,
                page_table: inputs.page_table,
                partial: a.partial,
            },
        );
        ops.attention_output(
            kv_b.kind,
            &shaders::attention_output::Params {
                heads,
                nope: c.qk_nope_head_dim,
                v: c.v_head_dim,
                kv_lora_rank: c.kv_lora_rank,
                dense: dense.into(),
                k: topk,
                splits,
                tiles,
                weight_offset: kv_b.offset,
                scale_offset: kv_b.scale_offset,
            },
            shaders::attention_output::Bindings {
                partial: a.partial,
                weights: self.kv_b.weights,
                scales: self.kv_b.scales,
                positions: inputs.positions,
                out: a.attended,
            },
        );
        let form = Form { accumulate: true, ..Form::default() };
        let attended = Rows::new(a.attended, self.output.cols);
        ops.project("o_proj", &self.output, attended, Rows::new(a.h, c.hidden_size), form, ops.tokens);
    }
}
