//! Host twin and cases of `matmul.wgsl`.

use super::dot::{Matrix, project, swiglu};
use super::matvec::{DenseCase, case_slots, case_weights};
use super::segments::Segments;
use crate::case::random;
use crate::matmul::{Bindings, Overrides, Params, ROWS, TOKENS};
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Tolerance};

impl Params {
    /// With the segments set.
    pub fn with(mut self, segments: &Segments) -> Self {
        [self.segment0, self.segment1, self.segment2, self.segment3] = segments.packed;
        (self.rows, self.columns) = (segments.rows, segments.columns);
        self
    }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let overrides = call.overrides::<Params>();
    let with_swiglu = overrides.swiglu == 1;
    let experts = overrides.experts == 1;
    let groups = call.groups;
    let bound = call.bindings::<Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (tiles, pair_order, slots) = (bound.tiles.u32(), bound.pair_order.u32(), bound.slots.u32());
    let y = bound.y.f32_mut();
    let cols = p.cols as usize;
    let packed = [p.segment0, p.segment1, p.segment2, p.segment3];
    let segments = Segments { packed, rows: p.rows, columns: p.columns };
    // Dense: all tokens at once. Experts: tile by tile.
    let batches = if experts { groups[1] } else { 1 };
    for batch in 0..batches {
        let (mut base, mut scale_base) = (0, 0);
        let lines: Vec<u32> = if experts {
            let [expert, first, count, _] = tiles[batch as usize * 4..][..4].try_into().expect("four words");
            let slot = slots[2 * expert as usize];
            if slot == u32::MAX {
                continue;
            }
            base = slot as usize * 16;
            scale_base = slots[2 * expert as usize + 1] as usize;
            pair_order[first as usize..(first + count) as usize].to_vec()
        } else {
            (0..p.tokens.min(groups[1] * TOKENS)).collect()
        };
        let inputs: Vec<std::borrow::Cow<'_, [f32]>> = lines
            .iter()
            .map(|line| {
                let row = if experts && !with_swiglu { line / p.picks } else { *line };
                let from = &x[(row * p.x_stride + p.x_offset) as usize..];
                if with_swiglu { swiglu(&from[..2 * cols]).into() } else { from[..cols].into() }
            })
            .collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(AsRef::as_ref).collect();
        for ([first, offset, scale_offset, kind], rows, column) in segments.unpack() {
            let rows = (groups[0].saturating_sub(first) * ROWS).min(rows) as usize;
            let matrix = Matrix {
                weights,
                offset: base + offset as usize,
                kind: WeightType::from_code(kind),
                cols,
                scales: &scales[(scale_base + scale_offset as usize).min(scales.len())..],
            };
            let found = project(&matrix, rows, &inputs);
            for (i, line) in lines.iter().enumerate() {
                let out = &mut y[(line * p.y_stride + column) as usize..][..rows];
                for (row, out) in out.iter_mut().enumerate() {
                    let total = found[row * inputs.len() + i];
                    *out = if p.accumulate == 1 { *out + total } else { total };
                }
            }
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let dense: [DenseCase; 7] = [
        (
            "four weights of all types",
            &[(F8E4M3, 130), (BF16, 65), (F16, 3), (F32, 64)],
            272,
            9,
            false,
            false,
        ),
        ("whole blocks", &[(F8E4M3, 256)], 256, 8, false, false),
        ("short last block", &[(F8E4M3, 64)], 56, 17, true, false),
        ("two short blocks", &[(F8E4M3, 129), (F8E4M3, 1)], 448, 3, false, false),
        ("rows unaligned", &[(F8E4M3, 70), (BF16, 9)], 131, 10, false, false),
        ("SwiGLU, added", &[(F8E4M3, 100)], 160, 9, true, true),
        ("BF16", &[(BF16, 140)], 136, 8, false, false),
    ];
    let mut cases: Vec<Case> = dense
        .into_iter()
        .map(|(name, parts, cols, tokens, accumulate, with_swiglu)| {
            let weights = case_weights(parts, cols);
            let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
            let (x_offset, y_stride, x_stride) = (3, rows + 2, cols * 2 + 5);
            let x = random::f32s(1, tokens * x_stride);
            let y = random::f32s(2, tokens * y_stride);
            let mut reference: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
            for token in 0..tokens {
                let from = &x[token * x_stride + x_offset..];
                let input = |k: usize| {
                    let v = f64::from(from[k]);
                    if with_swiglu { v / (1.0 + (-v).exp()) * f64::from(from[cols + k]) } else { v }
                };
                for (row, w) in weights.values.iter().flat_map(|matrix| matrix.chunks(cols)).enumerate() {
                    let sum: f64 = w.iter().enumerate().map(|(k, w)| w * input(k)).sum();
                    let at = &mut reference[token * y_stride + row];
                    *at = if accumulate { *at + sum } else { sum };
                }
            }
            let (segments, groups) = Segments::pack(&weights.segments, ROWS, None);
            let params = Params {
                cols: cols as u32,
                x_stride: x_stride as u32,
                x_offset: x_offset as u32,
                y_stride: y_stride as u32,
                accumulate: accumulate.into(),
                tokens: tokens as u32,
                ..Default::default()
            }
            .with(&segments);
            let buffers = Bindings {
                weights: CaseBuffer::weights(&weights.bytes),
                scales: CaseBuffer::f32(&weights.scales),
                x: CaseBuffer::f32(&x),
                tiles: CaseBuffer::u32(&[0; 4]),
                pair_order: CaseBuffer::u32(&[0]),
                slots: CaseBuffer::u32(&[0]),
                y: CaseBuffer::OutF32(y),
            };
            let overrides = Overrides { swiglu: with_swiglu.into(), ..Default::default() };
            let groups = [groups, (tokens as u32).div_ceil(TOKENS), 1];
            Case::new(name, params, overrides, groups, buffers, Tolerance::SUM).with_reference(
                6,
                reference,
                Tolerance::SUM,
            )
        })
        .collect();
    cases.extend([experts_case(false), experts_case(true)]);
    cases
}

/// Tiles of three experts, one of which is in another slab.
fn experts_case(with_swiglu: bool) -> Case {
    let (kind, rows, cols, picks, experts) = (WeightType::F8E4M3, 70, 144, 2u32, 4usize);
    let slot = case_weights(&[(kind, rows), (kind, rows)], cols);
    let slot_bytes = slot.bytes.len().next_multiple_of(256);
    let mut bytes = Vec::new();
    for expert in 0..experts {
        let mut turned = slot.bytes.clone();
        turned.rotate_left(expert * 16);
        bytes.extend(turned);
        bytes.resize((expert + 1) * slot_bytes, 0);
    }
    let scales: Vec<f32> =
        (0..experts).flat_map(|e| slot.scales.iter().map(move |s| s * (1.0 + e as f32))).collect();
    // 10 tokens × 2 picks: expert 0 has 11 pairs in two tiles, 2 has 5 and is elsewhere, 3 has 4.
    let pair_order: Vec<u32> = vec![0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19, 1, 3, 5, 7, 9, 11, 13, 15, 17];
    let tiles = [0, 0, 8, 0, 0, 8, 3, 0, 2, 11, 5, 0, 3, 16, 4, 0u32];
    let slots = case_slots(experts, Some(2), slot_bytes, slot.scales.len());
    let (segments, groups) = Segments::pack(&slot.segments, ROWS, None);
    let x_stride = cols * 2;
    let params = Params {
        cols: cols as u32,
        x_stride: x_stride as u32,
        y_stride: 2 * rows as u32,
        tokens: 10,
        picks,
        ..Default::default()
    }
    .with(&segments);
    let buffers = Bindings {
        weights: CaseBuffer::weights(&bytes),
        scales: CaseBuffer::f32(&scales),
        x: CaseBuffer::f32(&random::f32s(3, 20 * x_stride)),
        tiles: CaseBuffer::u32(&tiles),
        pair_order: CaseBuffer::u32(&pair_order),
        slots: CaseBuffer::u32(&slots),
        y: CaseBuffer::OutF32(vec![0.5; 20 * 2 * rows]),
    };
    let overrides = Overrides { experts: 1, swiglu: with_swiglu.into() };
    let name = if with_swiglu { "experts, SwiGLU" } else { "experts" };
    Case::new(name, params, overrides, [groups, 4, 1], buffers, Tolerance::SUM)
}
