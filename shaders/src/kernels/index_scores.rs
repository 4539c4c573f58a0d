//! Host twin and cases of `index_scores.wgsl`.

use rayon::prelude::*;

use crate::case::random;
use crate::index_scores::{Bindings, Overrides, Params};
use crate::kernels::pages;
use crate::{Call, Case, CaseBuffer, Tolerance};

/// Positions of one workgroup: the dispatch has (longest position + 1) / TILE, rounded up, by T workgroups.
pub const TILE: usize = crate::index_scores::TILE as usize;

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    compute(call, &p, TILE, |queries, key, weights| {
        queries.chunks_exact(key.len()).zip(weights).fold(0.0, |score, (query, weight)| {
            let dot = query.iter().zip(key).fold(0.0f32, |sum, (q, k)| q.mul_add(*k, sum));
            dot.max(0.0).mul_add(*weight, score)
        })
    });
}

/// With `tile` positions of a workgroup, and a position's score, not yet scaled, from the heads' queries, its key and the
/// heads' weights.
pub(super) fn compute(
    call: &mut Call<'_>,
    p: &Params,
    tile: usize,
    score: impl Fn(&[f32], &[f32], &[f32]) -> f32 + Sync,
) {
    let tokens = call.groups[1] as usize;
    let covered = call.groups[0] as usize * tile;
    let (heads, dim) = (p.heads as usize, p.dim as usize);
    let bound = call.bindings::<Params>();
    let (index_q, index_cache, projected) =
        (bound.index_q.f32(), bound.index_cache.f32(), bound.projected.f32());
    let (positions, sequences, page_table) =
        (bound.positions.u32(), bound.sequences.u32(), bound.page_table.u32());
    let stride = p.scores_stride as usize;
    let scores = &mut bound.scores.f32_mut()[..tokens * stride];
    scores.par_chunks_exact_mut(stride).enumerate().for_each(|(token, scores)| {
        let queries = &index_q[token * heads * dim..][..heads * dim];
        let weights = &projected[token * p.stride as usize + p.weights_offset as usize..][..heads];
        let pages = &page_table[(sequences[token] * p.pages_per_sequence) as usize..];
        let length = (positions[token] as usize + 1).min(covered);
        for (s, out) in scores[..length].iter_mut().enumerate() {
            let key = &index_cache[pages::cache_row(pages, s) * dim..][..dim];
            *out = score(queries, key, weights) * p.scale;
        }
    });
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    vec![
        case("real sizes", 64, 128, &[70]),
        case("heads 4, dim 32", 4, 32, &[0, 63, 64, 127, 128, 300]),
        case("heads 9, dim 30", 9, 30, &[200, 5]),
        case("heads 1, dim 1", 1, 1, &[129, 0, 3]),
        case("heads 17, dim 7", 17, 7, &[65, 64]),
    ]
}

/// One token per position, in two sequences whose pages are shuffled.
pub(super) fn case(name: &str, heads: usize, dim: usize, positions: &[u32]) -> Case {
    let tokens = positions.len();
    let longest = *positions.iter().max().unwrap() as usize + 1;
    let paging = pages::Shuffled::new(2, longest);
    let (stride, weights_offset, scores_stride) = (heads + 5, 3, longest + 2);
    // The buffers that are read four values at a time are whole vectors.
    let index_q = random::f32s(1, (tokens * heads * dim).next_multiple_of(4));
    let index_cache = random::f32s(2, paging.rows() * dim);
    let projected = random::f32s(3, tokens * stride);
    let sequences: Vec<u32> = (0..tokens).map(|t| (t % 2) as u32).collect();
    let scale = ((heads * dim) as f32).sqrt().recip();
    let params = Params {
        heads: heads as u32,
        dim: dim as u32,
        stride: stride as u32,
        weights_offset: weights_offset as u32,
        scores_stride: scores_stride as u32,
        pages_per_sequence: paging.pages_per_sequence() as u32,
        scale,
    };
    let mut reference = vec![0.0; tokens * scores_stride];
    for t in 0..tokens {
        for s in 0..=positions[t] as usize {
            let row = paging.row(t % 2, s);
            reference[t * scores_stride + s] = f64::from(scale)
                * (0..heads)
                    .map(|h| {
                        let q = &index_q[(t * heads + h) * dim..][..dim];
                        let dot: f64 =
                            (0..dim).map(|k| f64::from(q[k]) * f64::from(index_cache[row * dim + k])).sum();
                        dot.max(0.0) * f64::from(projected[t * stride + weights_offset + h])
                    })
                    .sum::<f64>();
        }
    }
    Case::new(
        format!("{name}, {tokens} tokens"),
        params,
        Overrides { careful: (!dim.is_multiple_of(4)).into() },
        [longest.div_ceil(TILE) as u32, tokens as u32, 1],
        Bindings {
            index_q: CaseBuffer::f32(&index_q),
            index_cache: CaseBuffer::f32(&index_cache),
            projected: CaseBuffer::f32(&projected),
            positions: CaseBuffer::u32(positions),
            sequences: CaseBuffer::u32(&sequences),
            page_table: CaseBuffer::u32(&paging.table),
            scores: CaseBuffer::OutF32(vec![0.0; tokens * scores_stride]),
        },
        Tolerance::SUM,
    )
    .with_reference(6, reference, Tolerance::SUM)
}
