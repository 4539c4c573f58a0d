//! Host twin and cases of `experts_down.wgsl`.

use super::dot::{Matrix, project, swiglu};
use super::matvec::{case_slots, case_weights};
use crate::case::random;
use crate::experts_down::{Bindings, Overrides, Params, THREADS};
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Tolerance, experts_down_lanes};

impl Params {
    /// The same for the kernel with lanes along K.
    pub fn along_k(self) -> experts_down_lanes::Params {
        bytemuck::cast(self)
    }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    compute(call, true);
}

/// With or without silu(gate) · up of the rows of x.
pub(super) fn compute(call: &mut Call<'_>, with_swiglu: bool) {
    let activate =
        |x: &[f32], cols: usize| if with_swiglu { swiglu(&x[..2 * cols]) } else { x[..cols].to_vec() };
    let p: Params = call.params();
    let tokens = call.groups[1] as usize;
    let bound = call.bindings::<Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (expert_ids, slots) = (bound.expert_ids.u32(), bound.slots.u32());
    let (expert_weights, h) = (bound.expert_weights.f32(), bound.h.f32_mut());
    let (rows, cols, picks) = (p.rows as usize, p.cols as usize, p.picks as usize);
    for token in 0..tokens {
        let mut sum = vec![0.0f32; rows];
        for pair in token * picks..(token + 1) * picks {
            let expert = expert_ids[pair];
            let matrix = Matrix {
                weights,
                offset: slots[2 * expert as usize] as usize * 16 + p.weight_offset as usize,
                kind: WeightType::from_code(p.weight_type),
                cols,
                scales: &scales[(p.scale_offset + slots[2 * expert as usize + 1]) as usize..],
            };
            let activated = activate(&x[pair * p.x_stride as usize..], cols);
            for (sum, part) in sum.iter_mut().zip(project(&matrix, rows, &[&activated])) {
                *sum += expert_weights[pair] * part;
            }
        }
        if p.shared_cols > 0 {
            let cols = p.shared_cols as usize;
            let matrix = Matrix {
                weights,
                offset: p.shared_offset as usize,
                kind: WeightType::from_code(p.shared_type),
                cols,
                scales: &scales[p.shared_scale_offset as usize..],
            };
            let line = p.pairs as usize + token;
            let activated = activate(&x[line * p.x_stride as usize..], cols);
            for (sum, part) in sum.iter_mut().zip(project(&matrix, rows, &[&activated])) {
                *sum += part;
            }
        }
        for (h, sum) in h[token * rows..][..rows].iter_mut().zip(sum) {
            *h += sum;
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    cases_of(THREADS, 3)
}

/// The cases for a kernel with so many rows per workgroup; rows of x are `x_spare` values longer than twice what is read.
pub(super) fn cases_of(rows_per_group: u32, x_spare: usize) -> Vec<Case> {
    use WeightType::{BF16, F8E4M3};
    [
        ("FP8, shared expert wider", F8E4M3, 130, 64, 144),
        ("FP8, odd columns", F8E4M3, 65, 57, 57),
        ("BF16, no shared expert", BF16, 70, 136, 0),
    ]
    .into_iter()
    .map(|(name, kind, rows, cols, shared_cols): (&str, _, usize, usize, usize)| {
        let (experts, tokens, picks) = (4usize, 2usize, 3usize);
        let slot = case_weights(&[(kind, rows)], cols);
        let slot_bytes = slot.bytes.len().next_multiple_of(256);
        let mut bytes = Vec::new();
        for expert in 0..experts {
            bytes.extend(case_weights(&[(kind, rows)], cols).bytes.iter().rev().skip(expert));
            bytes.resize((expert + 1) * slot_bytes, 0);
        }
        if kind == BF16 {
            // Reversed bytes are arbitrary bits: keep them finite.
            bytes.chunks_exact_mut(2).for_each(|pair| pair[1] = pair[1] & 0x80 | 0x3e);
        }
        let mut scales: Vec<f32> =
            (0..experts).flat_map(|e| slot.scales.iter().map(move |s| s * (1.0 + e as f32))).collect();
        let shared = case_weights(&[(kind, rows)], shared_cols.max(1));
        let x_stride = 2 * cols.max(shared_cols) + x_spare;
        let params = Params {
            rows: rows as u32,
            cols: cols as u32,
            picks: picks as u32,
            pairs: (tokens * picks) as u32,
            x_stride: x_stride as u32,
            weight_offset: 0,
            scale_offset: 0,
            weight_type: kind as u32,
            shared_cols: shared_cols as u32,
            shared_offset: bytes.len() as u32,
            shared_scale_offset: scales.len() as u32,
            shared_type: kind as u32,
        };
        bytes.extend(&shared.bytes);
        scales.extend(&shared.scales);
        let slots = case_slots(experts, None, slot_bytes, slot.scales.len());
        let buffers = Bindings {
            weights: CaseBuffer::weights(&bytes),
            scales: CaseBuffer::f32(&scales),
            x: CaseBuffer::f32(&random::f32s(3, (tokens * picks + tokens) * x_stride)),
            expert_ids: CaseBuffer::u32(&[3, 0, 2, 1, 3, 0]),
            slots: CaseBuffer::u32(&slots),
            expert_weights: CaseBuffer::f32(&random::f32s(4, tokens * picks)),
            h: CaseBuffer::OutF32(random::f32s(5, tokens * rows)),
        };
        let groups = [(rows as u32).div_ceil(rows_per_group), tokens as u32, 1];
        Case::new(name, params, Overrides::default(), groups, buffers, Tolerance::SUM)
    })
    .collect()
}
