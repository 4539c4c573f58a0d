//! The attention's kernels, as the twins compute them but with vectors and threads.

use porism_shaders as shaders;
use porism_shaders::Call;
use porism_shaders::kernels::sparse_attention::{self as attention, TILE};
use porism_shaders::kernels::{index_scores, pages, rope};
use porism_shaders::weights::{BLOCK, WeightType};
use rayon::prelude::*;

use super::dots::{Columns, Matrix, Products};
use super::simd::{Path, Simd, Vectorised, sum_each};

/// Heads of a task; they share what is read of the cache.
const HEADS: usize = 4;

/// `Σ_k queries[h][k] · key[k]`
#[inline(always)]
fn dots<S: Simd, const H: usize>(simd: S, queries: [&[f32]; H], key: &[f32]) -> [f32; H] {
    let whole = key.len() / S::LANES * S::LANES;
    let mut sums = [simd.splat(0.0); H];
    for at in (0..whole).step_by(S::LANES) {
        let k = simd.load(&key[at..]);
        for (sum, query) in sums.iter_mut().zip(queries) {
            *sum = simd.multiply_add(simd.load(&query[at..]), k, *sum);
        }
    }
    let mut results = sum_each(simd, sums);
    for (result, query) in results.iter_mut().zip(queries) {
        for (q, k) in query[whole..key.len()].iter().zip(&key[whole..]) {
            *result += q * k;
        }
    }
    results
}

/// `out[c] = Σ_e weights[e] · rows[e][c]`
#[inline(always)]
fn mix<S: Simd>(simd: S, weights: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    let wide = 4 * S::LANES;
    let whole = out.len() / wide * wide;
    for at in (0..whole).step_by(wide) {
        let mut sums = [simd.splat(0.0); 4];
        for (weight, row) in weights.iter().zip(rows) {
            let (weight, row) = (simd.splat(*weight), &row[at..][..wide]);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = simd.multiply_add(weight, simd.load(&row[i * S::LANES..]), *sum);
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            simd.store(sum, &mut out[at + i * S::LANES..]);
        }
    }
    out[whole..].fill(0.0);
    for (weight, row) in weights.iter().zip(rows) {
        for (out, c) in out[whole..].iter_mut().zip(&row[whole..]) {
            *out += weight * c;
        }
    }
}

/// Attention of up to [`HEADS`] heads of a token over its latents.
struct Attend<'a> {
    /// Query of each head, `width` values.
    queries: &'a [f32],
    width: usize,
    rank: usize,
    scale: f32,
    /// Row of the cache of each entry.
    latents: &'a [&'a [f32]],
    splits: usize,
    covered: usize,
    tiles: usize,
    /// Rows of `partial`, head by head, split by split.
    out: &'a mut [f32],
}

impl Vectorised for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let length = attention::row_length(self.rank);
        let mut sums = vec![0.0; self.rank];
        for split in 0..self.covered {
            for tile in 0..self.tiles {
                let start = (split * self.tiles + tile) * TILE;
                if start >= self.latents.len() {
                    break;
                }
                let latents = &self.latents[start..self.latents.len().min(start + TILE)];
                let mut scores = [[0.0; TILE]; HEADS];
                self.score(simd, latents, &mut scores);
                for (head, scores) in scores.iter_mut().enumerate().take(self.queries.len() / self.width) {
                    let scores = &mut scores[..latents.len()];
                    let m = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    scores.iter_mut().for_each(|score| *score = (*score - m).exp());
                    let l: f32 = scores.iter().sum();
                    let out = &mut self.out[(head * self.splits + split) * length..][..length];
                    if tile == 0 {
                        out.fill(0.0);
                        mix(simd, scores, latents, &mut out[..self.rank]);
                        (out[length - 4], out[length - 3]) = (m, l);
                    } else {
                        mix(simd, scores, latents, &mut sums);
                        fold(out, &sums, m, l);
                    }
                }
            }
        }
    }
}

impl Attend<'_> {
    /// Scores of a tile's entries, head by head.
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, latents: &[&[f32]], scores: &mut [[f32; TILE]; HEADS]) {
        let query = |head: usize| &self.queries[head * self.width..][..self.width];
        if self.queries.len() == HEADS * self.width {
            let queries = [query(0), query(1), query(2), query(3)];
            for (e, latent) in latents.iter().enumerate() {
                let found = dots(simd, queries, latent);
                scores.iter_mut().zip(found).for_each(|(scores, dot)| scores[e] = dot * self.scale);
            }
            return;
        }
        for (head, scores) in scores.iter_mut().enumerate().take(self.queries.len() / self.width) {
            for (score, latent) in scores.iter_mut().zip(latents) {
                *score = dots(simd, [query(head)], latent)[0] * self.scale;
            }
        }
    }
}

/// Folds the sums, largest score and weight of further entries into a row of `partial`.
fn fold(row: &mut [f32], sums: &[f32], m: f32, l: f32) {
    let (old, end) = row.split_at_mut(row.len() - 4);
    let both = end[0].max(m);
    let (old_factor, new_factor) = ((end[0] - both).exp(), (m - both).exp());
    for (old, new) in old.iter_mut().zip(sums) {
        *old = new * new_factor + *old * old_factor;
    }
    (end[0], end[1]) = (both, l * new_factor + end[1] * old_factor);
}

/// `sparse_attention.wgsl`
pub(super) fn sparse_attention(path: Path, call: &mut Call<'_>) {
    let p: shaders::sparse_attention::Params = call.params();
    let (heads, rank) = (p.heads as usize, p.kv_lora_rank as usize);
    let width = rank + p.rope_dim as usize;
    let (splits, tiles) = (p.splits as usize, p.tiles as usize);
    let (covered, tokens) = (call.groups[0] as usize, call.groups[2] as usize);
    let bound = call.bindings::<shaders::sparse_attention::Params>();
    let (q_absorbed, latent_cache, selected) =
        (bound.q_absorbed.f32(), bound.latent_cache.f32(), bound.selected.u32());
    let (positions, sequences, page_table) =
        (bound.positions.u32(), bound.sequences.u32(), bound.page_table.u32());
    let row = splits * attention::row_length(rank);
    let partial = &mut bound.partial.f32_mut()[..tokens * heads * row];
    let mut tasks = Vec::new();
    for (token, partial) in partial.chunks_exact_mut(heads * row).enumerate() {
        let queries = &q_absorbed[token * heads * width..][..heads * width];
        for (queries, out) in queries.chunks(HEADS * width).zip(partial.chunks_mut(HEADS * row)) {
            tasks.push((token, queries, out));
        }
    }
    tasks.into_par_iter().for_each_init(Vec::new, |latents: &mut Vec<&[f32]>, (token, queries, out)| {
        let pages = &page_table[(sequences[token] * p.pages_per_sequence) as usize..];
        let latent = |s: usize| &latent_cache[pages::cache_row(pages, s) * width..][..width];
        let entries = attention::entries(p.dense, p.k, positions[token]);
        latents.clear();
        if p.dense == 1 {
            latents.extend((0..entries).map(latent));
        } else {
            let selected = &selected[token * p.k_stride as usize..][..entries];
            latents.extend(selected.iter().map(|s| latent(*s as usize)));
        }
        path.run(Attend { queries, width, rank, scale: p.scale, latents, splits, covered, tiles, out });
    });
}

/// `attention_output.wgsl`
pub(super) fn attention_output(path: Path, scratch: &mut [Vec<f32>; 2], call: &mut Call<'_>) {
    let p: shaders::attention_output::Params = call.params();
    let overrides = call.overrides::<shaders::attention_output::Params>();
    let kind = WeightType::from_code(overrides.weight_type);
    let (heads, nope, v, rank) = (p.heads as usize, p.nope as usize, p.v as usize, p.kv_lora_rank as usize);
    let (splits, tiles) = (p.splits as usize, p.tiles as usize);
    let tokens = call.groups[1] as usize;
    let bound = call.bindings::<shaders::attention_output::Params>();
    let (partial, weights, scales) = (bound.partial.f32(), bound.weights.weights(), bound.scales.f32());
    let positions = bound.positions.u32();
    let out = &mut bound.out.f32_mut()[..tokens * heads * v];
    let length = attention::row_length(rank);
    let padded = rank.next_multiple_of(BLOCK);
    let [latents, found] = scratch;

    // The splits of a head together: what it attended to, still in the latent space.
    latents.resize(tokens * heads * padded, 0.0);
    latents.par_chunks_exact_mut(padded).with_min_len(8).enumerate().for_each(|(index, latent)| {
        let used = attention::entries(p.dense, p.k, positions[index / heads]).div_ceil(TILE * tiles);
        let mut rows = partial[index * splits * length..].chunks_exact(length).take(used);
        let first = rows.next().expect("a token attends to itself");
        let mut joined = std::borrow::Cow::Borrowed(first);
        for row in rows {
            fold(joined.to_mut(), &row[..rank], row[length - 4], row[length - 3]);
        }
        let l = joined[length - 3];
        latent[..rank].iter_mut().zip(&*joined).for_each(|(latent, sum)| *latent = sum / l);
        latent[rank..].fill(0.0);
    });

    let scales = &scales[(p.scale_offset as usize).min(scales.len())..];
    let matrix = Matrix::new(weights, p.weight_offset as usize, kind, [heads * (nope + v), rank], scales);
    let project = |head: usize, out: &mut [f32]| {
        let x: Vec<&[f32]> =
            (0..tokens).map(|token| &latents[(token * heads + head) * padded..][..padded]).collect();
        path.run(Products { matrix: &matrix, first: head * (nope + v) + nope, rows: v, x: &x, out });
    };
    if tokens == 1 {
        out.par_chunks_exact_mut(v).enumerate().for_each(|(head, out)| project(head, out));
        return;
    }
    found.resize(heads * tokens * v, 0.0);
    found.par_chunks_exact_mut(tokens * v).enumerate().for_each(|(head, out)| project(head, out));
    out.par_chunks_exact_mut(heads * v).with_min_len(8).enumerate().for_each(|(token, out)| {
        for (head, out) in out.chunks_exact_mut(v).enumerate() {
            out.copy_from_slice(&found[(head * tokens + token) * v..][..v]);
        }
    });
}

/// `absorb.wgsl`
pub(super) fn absorb(path: Path, scratch: &mut Vec<f32>, call: &mut Call<'_>) {
    let p: shaders::absorb::Params = call.params();
    let overrides = call.overrides::<shaders::absorb::Params>();
    let kind = WeightType::from_code(overrides.weight_type);
    let (heads, nope, rope_dim) = (p.heads as usize, p.nope as usize, p.rope_dim as usize);
    let (rank, v, tokens) = (p.kv_lora_rank as usize, p.v as usize, p.tokens as usize);
    let with_indexer = call.groups[0] > p.heads;
    let bound = call.bindings::<shaders::absorb::Params>();
    let (queries, weights, scales) = (bound.queries.f32(), bound.weights.weights(), bound.scales.f32());
    let angles = bound.rope.f32();
    let (q_absorbed, index_q) = (bound.q_absorbed.f32_mut(), bound.index_q.f32_mut());
    let scales = &scales[(p.scale_offset as usize).min(scales.len())..];
    let matrix = Matrix::new(weights, p.weight_offset as usize, kind, [heads * (nope + v), rank], scales);
    let query = |token: usize, head: usize| {
        let start = token * p.stride as usize + p.query_offset as usize + head * (nope + rope_dim);
        &queries[start..][..nope + rope_dim]
    };
    scratch.resize(heads * tokens * rank, 0.0);
    scratch.par_chunks_exact_mut(tokens * rank).enumerate().for_each(|(head, out)| {
        let x: Vec<&[f32]> = (0..tokens).map(|token| &query(token, head)[..nope]).collect();
        path.run(Columns { matrix: &matrix, first: head * (nope + v), rows: nope, x: &x, out });
    });
    let found = &scratch[..];
    let width = rank + rope_dim;
    let q_absorbed = &mut q_absorbed[..tokens * heads * width];
    q_absorbed.par_chunks_exact_mut(heads * width).with_min_len(8).enumerate().for_each(|(token, out)| {
        let angles = &angles[token * rope_dim..][..rope_dim];
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            let (absorbed, rotated) = out.split_at_mut(rank);
            absorbed.copy_from_slice(&found[(head * tokens + token) * rank..][..rank]);
            let q_pe = &query(token, head)[nope..];
            rotated.iter_mut().zip(rope::rotated(q_pe, rope_dim, true, angles)).for_each(|(out, q)| *out = q);
        }
    });
    if !with_indexer {
        return;
    }
    let dim = p.index_head_dim as usize;
    let count = p.index_heads as usize * dim;
    let index_q = &mut index_q[..tokens * count];
    index_q.par_chunks_exact_mut(count).with_min_len(4).enumerate().for_each(|(token, out)| {
        let queries = &queries[token * p.stride as usize + p.index_offset as usize..][..count];
        out.copy_from_slice(queries);
        let angles = &angles[token * rope_dim..][..rope_dim];
        for (out, query) in out.chunks_exact_mut(dim).zip(queries.chunks_exact(dim)) {
            let rotated = rope::rotated(query, rope_dim, p.index_interleaved == 1, angles);
            out.iter_mut().zip(rotated).for_each(|(out, value)| *out = value);
        }
    });
}

/// The indexer's scores of some positions of a token.
struct IndexScores<'a> {
    /// Value d of all heads' queries, then value d + 1; heads padded with zeros to [`HEAD_LANES`].
    queries: &'a [f32],
    /// Weight of each head, padded with zeros.
    weights: &'a [f32],
    scale: f32,
    /// Key of each position.
    keys: &'a [&'a [f32]],
    out: &'a mut [f32],
}

/// Heads are the lanes of the indexer's vectors, two at a time: a multiple of that for every instruction set.
const HEAD_LANES: usize = 32;

impl Vectorised for IndexScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let IndexScores { queries, weights, scale, keys, out } = self;
        let mut outs = out.chunks_exact_mut(4);
        let mut fours = keys.chunks_exact(4);
        for (out, keys) in (&mut outs).zip(&mut fours) {
            out.copy_from_slice(&scores(simd, queries, weights, [keys[0], keys[1], keys[2], keys[3]], scale));
        }
        for (out, key) in outs.into_remainder().iter_mut().zip(fours.remainder()) {
            [*out] = scores(simd, queries, weights, [key], scale);
        }
    }
}

/// `scale · Σ_h weights[h] · max(0, Σ_d queries[d][h] · key[d])` of K keys.
#[inline(always)]
fn scores<S: Simd, const K: usize>(
    simd: S,
    queries: &[f32],
    weights: &[f32],
    keys: [&[f32]; K],
    scale: f32,
) -> [f32; K] {
    let heads = weights.len();
    let mut totals = [simd.splat(0.0); K];
    for first in (0..heads).step_by(2 * S::LANES) {
        let mut sums = [[simd.splat(0.0); 2]; K];
        for (d, query) in queries.chunks_exact(heads).enumerate() {
            let query = &query[first..][..2 * S::LANES];
            let (a, b) = (simd.load(query), simd.load(&query[S::LANES..]));
            for (sums, key) in sums.iter_mut().zip(keys) {
                let value = simd.splat(key[d]);
                sums[0] = simd.multiply_add(a, value, sums[0]);
                sums[1] = simd.multiply_add(b, value, sums[1]);
            }
        }
        let weights = &weights[first..][..2 * S::LANES];
        let (a, b) = (simd.load(weights), simd.load(&weights[S::LANES..]));
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total = simd.multiply_add(simd.positive(sums[0]), a, *total);
            *total = simd.multiply_add(simd.positive(sums[1]), b, *total);
        }
    }
    let mut results = sum_each(simd, totals);
    results.iter_mut().for_each(|result| *result *= scale);
    results
}

/// `index_scores.wgsl`
pub(super) fn index_scores(path: Path, scratch: &mut Vec<f32>, call: &mut Call<'_>) {
    /// Positions of a task.
    const POSITIONS: usize = 256;
    let p: shaders::index_scores::Params = call.params();
    let tokens = call.groups[1] as usize;
    let covered = call.groups[0] as usize * index_scores::TILE;
    let (heads, dim) = (p.heads as usize, p.dim as usize);
    let padded = heads.next_multiple_of(HEAD_LANES);
    let bound = call.bindings::<shaders::index_scores::Params>();
    let (index_q, index_cache, projected) =
        (bound.index_q.f32(), bound.index_cache.f32(), bound.projected.f32());
    let (positions, sequences, page_table) =
        (bound.positions.u32(), bound.sequences.u32(), bound.page_table.u32());
    let stride = p.scores_stride as usize;
    let scores = &mut bound.scores.f32_mut()[..tokens * stride];
    // Queries with the heads side by side, then the heads' weights.
    let prepared = (dim + 1) * padded;
    scratch.clear();
    scratch.resize(tokens * prepared, 0.0);
    scratch.par_chunks_exact_mut(prepared).enumerate().for_each(|(token, out)| {
        let queries = &index_q[token * heads * dim..][..heads * dim];
        for (head, query) in queries.chunks_exact(dim).enumerate() {
            for (d, value) in query.iter().enumerate() {
                out[d * padded + head] = *value;
            }
        }
        let weights = &projected[token * p.stride as usize + p.weights_offset as usize..][..heads];
        out[dim * padded..][..heads].copy_from_slice(weights);
    });
    let prepared_of = |token: usize| scratch[token * prepared..][..prepared].split_at(dim * padded);
    let mut tasks = Vec::new();
    for (token, scores) in scores.chunks_exact_mut(stride).enumerate() {
        let length = (positions[token] as usize + 1).min(covered);
        for (chunk, out) in scores[..length].chunks_mut(POSITIONS).enumerate() {
            tasks.push((token, chunk * POSITIONS, out));
        }
    }
    tasks.into_par_iter().for_each_init(Vec::new, |keys: &mut Vec<&[f32]>, (token, first, out)| {
        let (queries, weights) = prepared_of(token);
        let pages = &page_table[(sequences[token] * p.pages_per_sequence) as usize..];
        let key = |s: usize| &index_cache[pages::cache_row(pages, s) * dim..][..dim];
        keys.clear();
        keys.extend((first..first + out.len()).map(key));
        path.run(IndexScores { queries, weights, scale: p.scale, keys, out });
    });
}
