//! Host twin and cases of `attention_output.wgsl`.

use rayon::prelude::*;

use crate::attention_output::{Bindings, Overrides, Params};
use crate::case::random;
use crate::kernels::absorb::RandomWeights;
use crate::kernels::dot::PART;
use crate::kernels::sparse_attention::{self, TILE};
use crate::weights::{BLOCK, WeightType};
use crate::{Call, Case, CaseBuffer, Tolerance, attention_output_lanes, lib};

// It reads what `sparse_attention` wrote.
const _: () = assert!(crate::attention_output::TILE == lib::tiles::TILE);

impl Params {
    /// The same for the kernel with lanes along kv_lora_rank.
    pub fn along_rank(self) -> attention_output_lanes::Params {
        bytemuck::cast(self)
    }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let weight_type = WeightType::from_code(call.overrides::<Params>().weight_type);
    compute(call, weight_type);
}

/// For weights of any type.
pub(super) fn compute(call: &mut Call<'_>, weight_type: WeightType) {
    let p: Params = call.params();
    let (heads, nope, v, rank) = (p.heads as usize, p.nope as usize, p.v as usize, p.kv_lora_rank as usize);
    let (splits, tiles) = (p.splits as usize, p.tiles as usize);
    let tokens = call.groups[1] as usize;
    let bound = call.bindings::<Params>();
    let (partial, weights, scales) = (bound.partial.f32(), bound.weights.weights(), bound.scales.f32());
    let positions = bound.positions.u32();
    let out = &mut bound.out.f32_mut()[..tokens * heads * v];
    let row_bytes = rank * weight_type.bytes();
    let length = sparse_attention::row_length(rank);
    out.par_chunks_exact_mut(v).enumerate().for_each(|(index, out)| {
        let (token, head) = (index / heads, index % heads);
        let used = sparse_attention::entries(p.dense, p.k, positions[token]).div_ceil(TILE * tiles);
        let mut rows = partial[index * splits * length..].chunks_exact(length).take(used);
        let mut latent = rows.next().expect("a token attends to itself").to_vec();
        for row in rows {
            sparse_attention::fold(&mut latent, &row[..rank], row[length - 4], row[length - 3]);
        }
        let l = latent[length - 3];
        latent.truncate(rank);
        latent.iter_mut().for_each(|o| *o /= l);

        let mut weight = vec![0.0f32; rank];
        for (i, out) in out.iter_mut().enumerate() {
            let row = head * (nope + v) + nope + i;
            weight_type
                .decode(weights.get(p.weight_offset as usize + row * row_bytes, row_bytes), &mut weight);
            *out = 0.0;
            for (block, (weight, latent)) in weight.chunks(BLOCK).zip(latent.chunks(BLOCK)).enumerate() {
                let parts = weight.chunks(PART).zip(latent.chunks(PART));
                let sum = parts.fold(0.0f32, |sum, (w, o)| {
                    sum + w.iter().zip(o).fold(0.0f32, |part, (w, o)| w.mul_add(*o, part))
                });
                let scale = match weight_type {
                    WeightType::F8E4M3 => {
                        scales[p.scale_offset as usize + row / BLOCK * rank.div_ceil(BLOCK) + block]
                    }
                    _ => 1.0,
                };
                *out = sum.mul_add(scale, *out);
            }
        }
    });
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let real = Sizes { heads: 2, nope: 128, v: 128, rank: 512 };
    let tiny = Sizes { heads: 4, nope: 32, v: 32, rank: 64 };
    let odd = Sizes { heads: 3, nope: 67, v: 31, rank: 131 };
    let narrow = Sizes { heads: 2, nope: 5, v: 3, rank: 6 };
    let tall = Sizes { heads: 2, nope: 8, v: 200, rank: 144 };
    vec![
        real.case("real sizes", F8E4M3, &[2100], Some(2048), 1, 128),
        tiny.case("all positions", F8E4M3, &[0, 127, 128, 129, 255, 256, 700], None, 1, 32),
        tiny.case("two tiles per split", BF16, &[0, 255, 256, 300], Some(290), 2, 64),
        tiny.case("one split", F16, &[0, 255, 300], Some(290), 4, 32),
        tiny.case("one split", F32, &[5], None, 1, 32),
        odd.case("odd", F8E4M3, &[128, 5], None, 1, 32),
        odd.case("odd", BF16, &[500], Some(129), 1, 64),
        narrow.case("narrow", F16, &[3, 130], None, 1, 32),
        narrow.case("narrow", F32, &[3, 130], None, 1, 32),
        tall.case("more rows than threads", F8E4M3, &[3, 130], None, 1, 128),
        tall.case("more rows than threads", BF16, &[130], None, 1, 64),
    ]
}

#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub heads: usize,
    pub nope: usize,
    pub v: usize,
    pub rank: usize,
}

impl Sizes {
    pub fn case(
        &self,
        what: &str,
        weight_type: WeightType,
        positions: &[u32],
        k: Option<usize>,
        tiles: usize,
        threads: u32,
    ) -> Case {
        let &Sizes { heads, nope, v, rank } = self;
        let tokens = positions.len();
        let longest = *positions.iter().max().unwrap() as usize + 1;
        let splits = k.map_or(longest, |k| k.min(longest)).div_ceil(TILE * tiles);
        let params = Params {
            heads: heads as u32,
            nope: nope as u32,
            v: v as u32,
            kv_lora_rank: rank as u32,
            dense: k.is_none().into(),
            k: k.unwrap_or(0) as u32,
            splits: splits as u32,
            tiles: tiles as u32,
            weight_offset: 16,
            scale_offset: 3,
        };
        // Sums | m | l as attention gives them; what lies in splits without entries must not be read.
        let length = sparse_attention::row_length(rank);
        let mut partial = random::f32s(1, tokens * heads * splits * length);
        for (index, row) in partial.chunks_exact_mut(length).enumerate() {
            let entries =
                sparse_attention::entries(params.dense, params.k, positions[index / splits / heads]);
            if index % splits < entries.div_ceil(TILE * tiles) {
                row[length - 4] *= 4.0;
                row[length - 3] += 2.0;
            } else {
                row.fill(f32::NAN);
            }
        }
        let weights = RandomWeights::new(2, weight_type, heads * (nope + v), rank);
        let mut bytes = vec![0; 16];
        bytes.extend_from_slice(&weights.bytes);
        let mut scales = vec![f32::NAN; 3];
        scales.extend_from_slice(&weights.scales);

        let mut reference = Vec::new();
        for index in 0..tokens * heads {
            let entries = sparse_attention::entries(params.dense, params.k, positions[index / heads]);
            let rows: Vec<&[f32]> = partial[index * splits * length..]
                .chunks_exact(length)
                .take(entries.div_ceil(TILE * tiles))
                .collect();
            let largest = rows.iter().map(|row| f64::from(row[length - 4])).fold(f64::NEG_INFINITY, f64::max);
            let sum = |c: usize| -> f64 {
                rows.iter().map(|row| (f64::from(row[length - 4]) - largest).exp() * f64::from(row[c])).sum()
            };
            let latent: Vec<f64> = (0..rank).map(|c| sum(c) / sum(length - 3)).collect();
            let first_row = index % heads * (nope + v) + nope;
            reference.extend((first_row..first_row + v).map(|row| -> f64 {
                weights.values[row * rank..][..rank].iter().zip(&latent).map(|(w, o)| w * o).sum()
            }));
        }
        Case::new(
            format!("{what}, {tokens} tokens, {tiles} tiles per split, {weight_type:?}"),
            params,
            Overrides {
                weight_type: weight_type as u32,
                careful: (!rank.is_multiple_of(16)).into(),
                threads,
            },
            [heads as u32, tokens as u32, 1],
            Bindings {
                partial: CaseBuffer::f32(&partial),
                weights: CaseBuffer::weights(&bytes),
                scales: CaseBuffer::f32(&scales),
                positions: CaseBuffer::u32(positions),
                out: CaseBuffer::OutF32(vec![0.0; reference.len()]),
            },
            Tolerance::SUM,
        )
        .with_reference(4, reference, Tolerance::SUM)
    }
}
