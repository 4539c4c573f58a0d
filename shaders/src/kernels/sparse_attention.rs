//! Host twin and cases of `sparse_attention.wgsl`.

use rayon::prelude::*;

use crate::case::random;
use crate::kernels::pages;
use crate::sparse_attention::{Bindings, Overrides, Params};
use crate::topk::NOTHING;
use crate::{Call, Case, CaseBuffer, Tolerance, lib, sparse_attention_lanes};

/// Entries of one tile.
pub const TILE: usize = lib::tiles::TILE as usize;
/// Heads of one workgroup: the dispatch has splits by heads / HEADS, rounded up, by T workgroups.
pub const HEADS: usize = lib::tiles::HEADS as usize;
/// Lanes that share the softmax of one head.
const SHARES: usize = lib::tiles::SHARES as usize;

impl Params {
    /// The same for the kernel with lanes along a latent.
    pub fn along_width(self) -> sparse_attention_lanes::Params {
        bytemuck::cast(self)
    }
}

/// f32s of one row of `partial`: the sums, then m and l at a multiple of 4.
pub fn row_length(kv_lora_rank: usize) -> usize {
    kv_lora_rank.next_multiple_of(4) + 4
}

/// How many positions a token at `position` attends to.
pub fn entries(dense: u32, k: u32, position: u32) -> usize {
    if dense == 1 { position as usize + 1 } else { (position as usize + 1).min(k as usize) }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    compute(call, |q, k| q.iter().zip(k).fold(0.0, |sum, (q, k)| q.mul_add(*k, sum)));
}

/// With dot products of queries and latents in the order of `dot`.
pub(super) fn compute(call: &mut Call<'_>, dot: impl Fn(&[f32], &[f32]) -> f32 + Sync) {
    let p: Params = call.params();
    let (heads, rank) = (p.heads as usize, p.kv_lora_rank as usize);
    let width = rank + p.rope_dim as usize;
    let (splits, tiles) = (p.splits as usize, p.tiles as usize);
    let (covered, tokens) = (call.groups[0] as usize, call.groups[2] as usize);
    let bound = call.bindings::<Params>();
    let (q_absorbed, latent_cache, selected) =
        (bound.q_absorbed.f32(), bound.latent_cache.f32(), bound.selected.u32());
    let (positions, sequences, page_table) =
        (bound.positions.u32(), bound.sequences.u32(), bound.page_table.u32());
    let length = row_length(rank);
    let partial = &mut bound.partial.f32_mut()[..tokens * heads * splits * length];
    partial.par_chunks_exact_mut(splits * length).enumerate().for_each(|(index, out)| {
        let token = index / heads;
        let query = &q_absorbed[index * width..][..width];
        let pages = &page_table[(sequences[token] * p.pages_per_sequence) as usize..];
        let entries = entries(p.dense, p.k, positions[token]);
        let latent = |e: usize| {
            let s = if p.dense == 1 { e } else { selected[token * p.k_stride as usize + e] as usize };
            &latent_cache[pages::cache_row(pages, s) * width..][..width]
        };
        for (split, out) in out.chunks_exact_mut(length).take(covered).enumerate() {
            for tile in 0..tiles {
                let start = (split * tiles + tile) * TILE;
                if start >= entries {
                    break;
                }
                let count = TILE.min(entries - start);
                let scores: Vec<f32> =
                    (start..start + count).map(|e| dot(query, latent(e)) * p.scale).collect();
                let m = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weights: Vec<f32> = scores.iter().map(|score| (score - m).exp()).collect();
                let l = weights
                    .chunks(TILE / SHARES)
                    .map(|share| share.iter().fold(0.0, |sum, w| sum + w))
                    .fold(0.0, |l, s: f32| l + s);
                let mut sums = vec![0.0f32; rank];
                for (e, weight) in (start..).zip(&weights) {
                    for (sum, c) in sums.iter_mut().zip(latent(e)) {
                        *sum = weight.mul_add(*c, *sum);
                    }
                }
                if tile == 0 {
                    out.fill(0.0);
                    out[..rank].copy_from_slice(&sums);
                    (out[length - 4], out[length - 3]) = (m, l);
                } else {
                    fold(out, &sums, m, l);
                }
            }
        }
    });
}

/// Folds the sums, largest score and weight of further entries into a row of `partial`.
pub(crate) fn fold(row: &mut [f32], sums: &[f32], m: f32, l: f32) {
    let (old, end) = row.split_at_mut(row.len() - 4);
    let both = end[0].max(m);
    let (old_factor, new_factor) = ((end[0] - both).exp(), (m - both).exp());
    for (old, new) in old.iter_mut().zip(sums) {
        *old = new.mul_add(new_factor, *old * old_factor);
    }
    (end[0], end[1]) = (both, l.mul_add(new_factor, end[1] * old_factor));
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let tiny = Sizes { heads: 4, rank: 64, rope_dim: 16 };
    vec![
        Sizes { heads: 3, rank: 512, rope_dim: 64 }.case("real sizes", &[200], Some(150), 1, 128),
        tiny.case("all positions", &[0, 1, 63, 64, 127, 128, 129, 300], None, 1, 32),
        tiny.case("selected, two splits", &[0, 50, 127, 128, 140, 400], Some(140), 1, 64),
        tiny.case("tiles folded into one split", &[0, 128, 300, 420], None, 4, 128),
        tiny.case("two tiles per split", &[127, 128, 256, 300, 420], Some(400), 2, 64),
        Sizes { heads: 8, rank: 260, rope_dim: 4 }.case("whole group", &[130], Some(100), 1, 64),
        Sizes { heads: 9, rank: 30, rope_dim: 2 }.case("one head more", &[130, 4], None, 1, 128),
        Sizes { heads: 17, rank: 37, rope_dim: 6 }.case("odd width", &[131, 64], Some(70), 2, 64),
        Sizes { heads: 1, rank: 1, rope_dim: 2 }.case("rank 1", &[9, 3], Some(4), 1, 128),
    ]
}

pub(super) struct Sizes {
    pub heads: usize,
    pub rank: usize,
    pub rope_dim: usize,
}

impl Sizes {
    /// One token per position, in two sequences whose pages are shuffled; `k` makes it sparse.
    pub fn case(&self, what: &str, positions: &[u32], k: Option<usize>, tiles: usize, threads: u32) -> Case {
        let &Sizes { heads, rank, rope_dim } = self;
        let width = rank + rope_dim;
        let tokens = positions.len();
        let longest = *positions.iter().max().unwrap() as usize + 1;
        let paging = pages::Shuffled::new(2, longest);
        let most = k.map_or(longest, |k| k.min(longest));
        let splits = most.div_ceil(TILE * tiles);
        // The buffers that are read four values at a time are whole vectors. Queries large enough for the
        // weights to differ by orders of magnitude.
        let q_absorbed: Vec<f32> =
            random::f32s(1, (tokens * heads * width).next_multiple_of(4)).iter().map(|q| q * 3.0).collect();
        let latent_cache = random::f32s(2, paging.rows() * width);
        let sequences: Vec<u32> = (0..tokens).map(|t| (t % 2) as u32).collect();
        let k_stride = k.unwrap_or(0) + 1;
        let mut selected = vec![NOTHING; tokens * k_stride];
        for (t, row) in selected.chunks_exact_mut(k_stride).enumerate() {
            let length = positions[t] as usize + 1;
            let entries = k.unwrap_or(0).min(length);
            // Ascending, leaving out some here and there.
            row.iter_mut().take(entries).enumerate().for_each(|(e, s)| *s = (e * length / entries) as u32);
        }
        let scale = 0.7 / (width as f32).sqrt();
        let params = Params {
            heads: heads as u32,
            kv_lora_rank: rank as u32,
            rope_dim: rope_dim as u32,
            dense: k.is_none().into(),
            k: k.unwrap_or(0) as u32,
            k_stride: k_stride as u32,
            pages_per_sequence: paging.pages_per_sequence() as u32,
            splits: splits as u32,
            tiles: tiles as u32,
            scale,
        };

        let length = row_length(rank);
        let mut reference = vec![0.0; tokens * heads * splits * length];
        for (index, row) in reference.chunks_exact_mut(length).enumerate() {
            let (split, head, t) = (index % splits, index / splits % heads, index / splits / heads);
            let entries = entries(params.dense, params.k, positions[t]);
            let start = split * tiles * TILE;
            let latents: Vec<Vec<f64>> = (start..entries.min(start + tiles * TILE))
                .map(|e| {
                    let s = if k.is_none() { e } else { selected[t * k_stride + e] as usize };
                    latent_cache[paging.row(t % 2, s) * width..][..width]
                        .iter()
                        .map(|v| f64::from(*v))
                        .collect()
                })
                .collect();
            if latents.is_empty() {
                continue;
            }
            let query = &q_absorbed[(t * heads + head) * width..][..width];
            let scores: Vec<f64> = latents
                .iter()
                .map(|latent| {
                    query.iter().zip(latent).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * f64::from(scale)
                })
                .collect();
            let m = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for (score, latent) in scores.iter().zip(&latents) {
                let weight = (score - m).exp();
                row.iter_mut().zip(&latent[..rank]).for_each(|(out, c)| *out += weight * c);
                row[length - 3] += weight;
            }
            row[length - 4] = m;
        }
        Case::new(
            format!("{what}, {tokens} tokens, {tiles} tiles per split"),
            params,
            Overrides { careful: (!width.is_multiple_of(4)).into(), threads },
            [splits as u32, heads.div_ceil(HEADS) as u32, tokens as u32],
            Bindings {
                q_absorbed: CaseBuffer::f32(&q_absorbed),
                latent_cache: CaseBuffer::f32(&latent_cache),
                selected: CaseBuffer::u32(&selected),
                positions: CaseBuffer::u32(positions),
                sequences: CaseBuffer::u32(&sequences),
                page_table: CaseBuffer::u32(&paging.table),
                partial: CaseBuffer::OutF32(vec![0.0; reference.len()]),
            },
            Tolerance::SUM,
        )
        .with_reference(6, reference, Tolerance::SUM)
    }
}
