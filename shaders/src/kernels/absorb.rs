//! Host twin and cases of `absorb.wgsl`.

use rayon::prelude::*;

use crate::absorb::{Bindings, Overrides, Params};
use crate::case::random;
use crate::kernels::rope;
use crate::weights::{BLOCK, WeightType};
use crate::{Call, Case, CaseBuffer, Tolerance, absorb_lanes};

/// Rows of kv_b_proj whose products are summed first.
const PART: usize = 8;

impl Params {
    /// The same for the kernel with lanes along a row.
    pub fn along_rank(self) -> absorb_lanes::Params {
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
    let (heads, nope, rope_dim) = (p.heads as usize, p.nope as usize, p.rope_dim as usize);
    let rank = p.kv_lora_rank as usize;
    let bound = call.bindings::<Params>();
    let (queries, weights, scales) = (bound.queries.f32(), bound.weights.weights(), bound.scales.f32());
    let angles = bound.rope.f32();
    let (q_absorbed, index_q) = (bound.q_absorbed.f32_mut(), bound.index_q.f32_mut());
    let tokens = p.tokens as usize;
    let row_bytes = rank * weight_type.bytes();

    q_absorbed[..tokens * heads * (rank + rope_dim)]
        .par_chunks_exact_mut(rank + rope_dim)
        .enumerate()
        .for_each(|(index, out)| {
            let (token, head) = (index / heads, index % heads);
            let start = token * p.stride as usize + p.query_offset as usize + head * (nope + rope_dim);
            let (q_nope, q_pe) = queries[start..][..nope + rope_dim].split_at(nope);
            let (absorbed, rotated) = out.split_at_mut(rank);
            let angles = &angles[token * rope_dim..][..rope_dim];
            rotated.iter_mut().zip(rope::rotated(q_pe, rope_dim, true, angles)).for_each(|(out, q)| *out = q);

            absorbed.fill(0.0);
            let (mut block, mut part, mut weight) = (vec![0.0f32; rank], vec![0.0; rank], vec![0.0; rank]);
            let first_row = head * (nope + p.v as usize);
            let mut n = 0;
            while n < nope {
                let row_block = (first_row + n) / BLOCK;
                block.fill(0.0);
                while n < nope && (first_row + n) / BLOCK == row_block {
                    let at = p.weight_offset as usize + (first_row + n) * row_bytes;
                    weight_type.decode(weights.get(at, row_bytes), &mut weight);
                    for (sum, w) in part.iter_mut().zip(&weight) {
                        *sum = w.mul_add(q_nope[n], *sum);
                    }
                    n += 1;
                    if n == nope || (first_row + n).is_multiple_of(PART) {
                        block.iter_mut().zip(&mut part).for_each(|(sum, part)| *sum += std::mem::take(part));
                    }
                }
                for (c, (sum, block)) in absorbed.iter_mut().zip(&block).enumerate() {
                    let scale = match weight_type {
                        WeightType::F8E4M3 => {
                            scales[p.scale_offset as usize + row_block * rank.div_ceil(BLOCK) + c / BLOCK]
                        }
                        _ => 1.0,
                    };
                    *sum = block.mul_add(scale, *sum);
                }
            }
        });

    if p.index_heads > 0 {
        let dim = p.index_head_dim as usize;
        let count = p.index_heads as usize * dim;
        for (token, out) in index_q[..tokens * count].chunks_exact_mut(count).enumerate() {
            let start = token * p.stride as usize + p.index_offset as usize;
            out.copy_from_slice(&queries[start..][..count]);
            let angles = &angles[token * rope_dim..][..rope_dim];
            for (out, query) in out.chunks_exact_mut(dim).zip(queries[start..].chunks_exact(dim)) {
                let rotated = rope::rotated(query, rope_dim, p.index_interleaved == 1, angles);
                out.iter_mut().zip(rotated).for_each(|(out, value)| *out = value);
            }
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let plain = Sizes {
        tokens: 1,
        heads: 3,
        nope: 128,
        rope_dim: 64,
        v: 128,
        rank: 512,
        index_heads: 2,
        index_head_dim: 128,
    };
    let tiny = Sizes {
        tokens: 5,
        heads: 4,
        nope: 32,
        rope_dim: 16,
        v: 32,
        rank: 64,
        index_heads: 4,
        index_head_dim: 32,
    };
    let odd = Sizes {
        tokens: 2,
        heads: 3,
        nope: 67,
        rope_dim: 6,
        v: 31,
        rank: 131,
        index_heads: 3,
        index_head_dim: 9,
    };
    let narrow =
        Sizes { tokens: 6, heads: 2, nope: 5, rope_dim: 2, v: 3, rank: 6, index_heads: 1, index_head_dim: 2 };
    let ranks = Sizes {
        tokens: 3,
        heads: 2,
        nope: 192,
        rope_dim: 8,
        v: 100,
        rank: 260,
        index_heads: 0,
        index_head_dim: 0,
    };
    [
        ("real sizes", plain, F8E4M3, 1, 128, false),
        ("half-split", tiny, F8E4M3, 4, 32, false),
        ("interleaved", tiny, BF16, 4, 64, true),
        ("one token at a time", tiny, F16, 1, 64, false),
        ("odd", odd, F8E4M3, 1, 128, true),
        ("odd", odd, BF16, 4, 128, false),
        ("narrow", narrow, F32, 4, 32, false),
        ("narrow", narrow, BF16, 1, 32, true),
        ("no indexer, head across two row blocks", ranks, F8E4M3, 4, 128, false),
    ]
    .into_iter()
    .flat_map(|(what, sizes, weight_type, at_once, threads, interleaved)| {
        sizes.cases(what, weight_type, at_once, threads, interleaved)
    })
    .collect()
}

#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub tokens: usize,
    pub heads: usize,
    pub nope: usize,
    pub rope_dim: usize,
    pub v: usize,
    pub rank: usize,
    pub index_heads: usize,
    pub index_head_dim: usize,
}

impl Sizes {
    fn cases(
        &self,
        what: &str,
        weight_type: WeightType,
        at_once: u32,
        threads: u32,
        interleaved: bool,
    ) -> Vec<Case> {
        let careful = !(self.rank * weight_type.bytes()).is_multiple_of(4);
        let overrides =
            Overrides { weight_type: weight_type as u32, careful: careful.into(), tokens: at_once, threads };
        self.cases_at(what, weight_type, 1, overrides, interleaved)
    }

    /// With the queries at `query_offset` of rows that are its multiples.
    pub fn cases_at(
        &self,
        what: &str,
        weight_type: WeightType,
        query_offset: usize,
        overrides: Overrides,
        interleaved: bool,
    ) -> Vec<Case> {
        let &Sizes { tokens, heads, nope, rope_dim, v, rank, index_heads, index_head_dim } = self;
        let index_offset = heads * (nope + rope_dim) + query_offset + 2;
        let count = index_heads * index_head_dim;
        let stride = (index_offset + count + 1).next_multiple_of(query_offset);
        let queries = random::f32s(1, (tokens * stride).next_multiple_of(4));
        let rows = heads * (nope + v);
        let weights = RandomWeights::new(2, weight_type, rows, rank);
        // The tensor starts inside the buffer, its scales inside theirs.
        let mut bytes = vec![0; 32];
        bytes.extend_from_slice(&weights.bytes);
        let mut scales = vec![f32::NAN; 2];
        scales.extend_from_slice(&weights.scales);
        let angles = rope::angles(tokens, rope_dim);
        let params = Params {
            tokens: tokens as u32,
            stride: stride as u32,
            query_offset: query_offset as u32,
            index_offset: index_offset as u32,
            heads: heads as u32,
            nope: nope as u32,
            rope_dim: rope_dim as u32,
            v: v as u32,
            kv_lora_rank: rank as u32,
            index_heads: index_heads as u32,
            index_head_dim: index_head_dim as u32,
            index_interleaved: interleaved.into(),
            weight_offset: 32,
            scale_offset: 2,
        };

        let mut absorbed = Vec::new();
        let mut index_q = Vec::new();
        for t in 0..tokens {
            let row: Vec<f64> = queries[t * stride..][..stride].iter().map(|v| f64::from(*v)).collect();
            let angles = &angles[t * rope_dim..][..rope_dim];
            for head in 0..heads {
                let q = &row[query_offset + head * (nope + rope_dim)..][..nope + rope_dim];
                absorbed.extend((0..rank).map(|c| -> f64 {
                    (0..nope).map(|n| q[n] * weights.values[(head * (nope + v) + n) * rank + c]).sum()
                }));
                let mut q_pe = q[nope..].to_vec();
                rope::reference(&mut q_pe, rope_dim, true, angles);
                absorbed.extend(q_pe);
            }
            for head in 0..index_heads {
                let mut q = row[index_offset + head * index_head_dim..][..index_head_dim].to_vec();
                rope::reference(&mut q, rope_dim, interleaved, angles);
                index_q.extend(q);
            }
        }
        let case = Case::new(
            format!("{what}, {tokens} tokens, {weight_type:?}"),
            params,
            overrides,
            [(heads + usize::from(index_heads > 0)) as u32, (tokens as u32).div_ceil(overrides.tokens), 1],
            Bindings {
                queries: CaseBuffer::f32(&queries),
                weights: CaseBuffer::weights(&bytes),
                scales: CaseBuffer::f32(&scales),
                rope: CaseBuffer::f32(&angles),
                q_absorbed: CaseBuffer::OutF32(vec![0.0; absorbed.len()]),
                index_q: CaseBuffer::OutF32(vec![0.0; count.max(1) * tokens]),
            },
            Tolerance::SUM,
        );
        let mut cases = vec![case.clone().with_reference(4, absorbed, Tolerance::SUM)];
        if index_heads > 0 {
            let name = format!("{}, index_q", case.name);
            cases.push(Case { name, ..case }.with_reference(5, index_q, Tolerance::ELEMENTWISE));
        }
        cases
    }
}

/// For cases: a weight tensor as a checkpoint stores it, and what it means.
pub(crate) struct RandomWeights {
    /// The elements, row after row.
    pub bytes: Vec<u8>,
    /// One per 128 × 128 block, not empty for other types than FP8 either, since a binding cannot be.
    pub scales: Vec<f32>,
    /// Element times scale.
    pub values: Vec<f64>,
}

impl RandomWeights {
    pub(crate) fn new(seed: u64, weight_type: WeightType, rows: usize, cols: usize) -> Self {
        let bytes: Vec<u8> = match weight_type {
            WeightType::F8E4M3 => random::e4m3(seed, rows * cols),
            WeightType::BF16 => random::bf16(seed, rows * cols),
            WeightType::F16 => {
                let halves = random::f32s(seed, rows * cols).into_iter().map(half::f16::from_f32);
                halves.flat_map(half::f16::to_le_bytes).collect()
            }
            WeightType::F32 => {
                random::f32s(seed, rows * cols).into_iter().flat_map(f32::to_le_bytes).collect()
            }
        };
        let blocks = cols.div_ceil(BLOCK);
        // FP8 weights of ±448 come down to ±2.
        let scales: Vec<f32> =
            random::f32s(seed + 1, rows.div_ceil(BLOCK) * blocks).iter().map(|s| (s + 1.5) / 560.0).collect();
        let mut decoded = vec![0.0; rows * cols];
        weight_type.decode(&bytes, &mut decoded);
        let value = |(i, w): (usize, &f32)| match weight_type {
            WeightType::F8E4M3 => {
                f64::from(*w) * f64::from(scales[i / cols / BLOCK * blocks + i % cols / BLOCK])
            }
            _ => f64::from(*w),
        };
        let values = decoded.iter().enumerate().map(value).collect();
        RandomWeights { bytes, scales, values }
    }
}
