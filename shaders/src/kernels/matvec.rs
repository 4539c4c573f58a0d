//! Host twin and cases of `matvec.wgsl`.

use super::dot::{Matrix, project, swiglu};
use super::segments::{ABSENT, Segment, Segments};
use crate::case::random;
use crate::matvec::{Bindings, Overrides, Params, THREADS};
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Features, Tolerance};

/// The features that a mat-vec cannot use: lanes that share a row have different parts of x, nothing to broadcast.
pub fn not_with(lanes: u32) -> Features {
    if lanes > 1 { Features::BROADCAST } else { Features::NONE }
}

fn segments_of(p: &Params) -> Segments {
    Segments { packed: [p.segment0, p.segment1, p.segment2, p.segment3], rows: p.rows, columns: p.columns }
}

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
    let (lanes, with_swiglu) = (overrides.lanes, overrides.swiglu == 1);
    let experts = overrides.experts == 1;
    let groups = call.groups;
    let bound = call.bindings::<Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (expert_ids, slots, y) = (bound.expert_ids.u32(), bound.slots.u32(), bound.y.f32_mut());
    let cols = p.cols as usize;
    for line in 0..groups[1] {
        let shared = experts && line >= p.pairs;
        let mut token = line;
        let (mut base, mut scale_base) = (0, 0);
        if experts {
            token = if with_swiglu {
                line
            } else if shared {
                line - p.pairs
            } else {
                line / p.picks
            };
            if !shared {
                let expert = expert_ids[line as usize];
                let slot = slots[2 * expert as usize];
                if slot == u32::MAX {
                    continue;
                }
                base = slot as usize * 16;
                scale_base = slots[2 * expert as usize + 1] as usize;
            }
        }
        let from = &x[(token * p.x_stride + p.x_offset) as usize..];
        let activated;
        let from = if with_swiglu {
            activated = swiglu(&from[..2 * cols]);
            &activated[..]
        } else {
            &from[..cols]
        };
        let range = if !experts {
            0..4
        } else if shared {
            2..4
        } else {
            0..2
        };
        for (packed, rows, column) in &segments_of(&p).unpack()[range] {
            let [first, offset, scale_offset, kind] = *packed;
            let reachable = (groups[0].saturating_sub(first) * (THREADS / lanes)).min(*rows);
            let matrix = Matrix {
                weights,
                offset: base + offset as usize,
                kind: WeightType::from_code(kind),
                cols,
                scales: &scales[(scale_base + scale_offset as usize).min(scales.len())..],
            };
            let out = &mut y[(line * p.y_stride + column) as usize..][..reachable as usize];
            for (out, total) in out.iter_mut().zip(project(&matrix, reachable as usize, &[from])) {
                *out = if p.accumulate == 1 { *out + total } else { total };
            }
        }
    }
}

/// Name, (type, rows) of each weight, cols, tokens, accumulate, SwiGLU.
pub(super) type DenseCase = (&'static str, &'static [(WeightType, usize)], usize, usize, bool, bool);

/// Weights of a case: (type, rows, cols) one after the other, 16-byte aligned.
pub(super) struct CaseWeights {
    pub bytes: Vec<u8>,
    pub scales: Vec<f32>,
    pub segments: Vec<Segment>,
    /// Decoded with scales, in f64.
    pub values: Vec<Vec<f64>>,
}

pub(super) fn case_weights(parts: &[(WeightType, usize)], cols: usize) -> CaseWeights {
    let mut made = CaseWeights { bytes: vec![], scales: vec![], segments: vec![], values: vec![] };
    let mut column = 0;
    for (index, (kind, rows)) in parts.iter().enumerate() {
        made.bytes.resize(made.bytes.len().next_multiple_of(16), 0);
        let seed = 10 + index as u64;
        let bytes = match kind {
            WeightType::F8E4M3 => random::e4m3(seed, rows * cols),
            WeightType::BF16 => random::bf16(seed, rows * cols),
            WeightType::F16 => {
                let values = random::f32s(seed, rows * cols);
                values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            }
            WeightType::F32 => bytemuck::cast_slice(&random::f32s(seed, rows * cols)).to_vec(),
        };
        let blocks = cols.div_ceil(128);
        let scales: Vec<f32> = match kind {
            WeightType::F8E4M3 => random::f32s(seed + 50, rows.div_ceil(128) * blocks)
                .iter()
                .map(|v| 0.002 + 0.001 * v)
                .collect(),
            _ => vec![],
        };
        let mut decoded = vec![0.0; rows * cols];
        kind.decode(&bytes, &mut decoded);
        made.values.push(
            decoded
                .iter()
                .enumerate()
                .map(|(i, v)| {
                    let (row, col) = (i / cols, i % cols);
                    f64::from(*v) * scales.get(row / 128 * blocks + col / 128).map_or(1.0, |s| f64::from(*s))
                })
                .collect(),
        );
        made.segments.push(Segment {
            offset: made.bytes.len() as u32,
            scale_offset: made.scales.len() as u32,
            kind: *kind as u32,
            rows: *rows as u32,
            column,
        });
        column += *rows as u32;
        made.bytes.extend(bytes);
        made.scales.extend(scales);
    }
    if made.scales.is_empty() {
        made.scales.push(1.0);
    }
    made
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let mut cases = Vec::new();
    let dense: [DenseCase; 8] = [
        (
            "four weights of all types",
            &[(F8E4M3, 130), (BF16, 65), (F16, 3), (F32, 64)],
            272,
            2,
            false,
            false,
        ),
        ("whole blocks", &[(F8E4M3, 256)], 512, 1, false, false),
        ("short last block", &[(F8E4M3, 64)], 56, 3, true, false),
        ("two short blocks", &[(F8E4M3, 129), (F8E4M3, 1)], 448, 1, false, false),
        ("rows unaligned", &[(F8E4M3, 70), (BF16, 9)], 131, 2, false, false),
        ("rows of one byte", &[(F8E4M3, 5)], 1, 1, false, false),
        ("SwiGLU, added", &[(F8E4M3, 100)], 160, 2, true, true),
        ("SwiGLU, BF16", &[(BF16, 100)], 40, 2, false, true),
    ];
    for (name, parts, cols, tokens, accumulate, with_swiglu) in dense {
        let weights = case_weights(parts, cols);
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let (x_offset, y_stride) = (3, rows + 2);
        let x_stride = cols * 2 + 5;
        let x = random::f32s(1, tokens * x_stride);
        let y = random::f32s(2, tokens * y_stride);
        let mut reference: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
        for token in 0..tokens {
            let from = &x[token * x_stride + x_offset..];
            let from: Vec<f64> = (0..cols)
                .map(|k| {
                    let v = f64::from(from[k]);
                    if with_swiglu { v / (1.0 + (-v).exp()) * f64::from(from[cols + k]) } else { v }
                })
                .collect();
            let mut row = 0;
            for matrix in &weights.values {
                for w in matrix.chunks(cols) {
                    let sum: f64 = w.iter().zip(&from).map(|(w, x)| w * x).sum();
                    let at = &mut reference[token * y_stride + row];
                    *at = if accumulate { *at + sum } else { sum };
                    row += 1;
                }
            }
        }
        for lanes in [1, 8] {
            let (segments, groups) = Segments::pack(&weights.segments, THREADS / lanes, None);
            let params = Params {
                cols: cols as u32,
                x_stride: x_stride as u32,
                x_offset: x_offset as u32,
                y_stride: y_stride as u32,
                accumulate: accumulate.into(),
                ..Default::default()
            }
            .with(&segments);
            let buffers = Bindings {
                weights: CaseBuffer::weights(&weights.bytes),
                scales: CaseBuffer::f32(&weights.scales),
                x: CaseBuffer::f32(&x),
                expert_ids: CaseBuffer::u32(&[0]),
                slots: CaseBuffer::u32(&[0]),
                y: CaseBuffer::OutF32(y.clone()),
            };
            let overrides = Overrides { lanes, swiglu: with_swiglu.into(), ..Default::default() };
            let name = format!("{name}, {lanes} lanes");
            cases.push(
                Case::new(name, params, overrides, [groups, tokens as u32, 1], buffers, Tolerance::SUM)
                    .without(not_with(lanes))
                    .with_reference(5, reference.clone(), Tolerance::SUM),
            );
        }
    }
    cases.extend([experts_case(1), experts_case(8)]);
    cases
}

/// The table of `experts` equal slots, whose scales lie the other way round.
pub(crate) fn case_slots(
    experts: usize,
    absent: Option<usize>,
    slot_bytes: usize,
    scales_per_slot: usize,
) -> Vec<u32> {
    (0..experts)
        .flat_map(|expert| {
            let scales = (experts - 1 - expert) * scales_per_slot;
            if Some(expert) == absent { ABSENT } else { [(expert * slot_bytes / 16) as u32, scales as u32] }
        })
        .collect()
}

/// Gate and up of 3 picks of 5 experts, one of them in another slab, and a wider shared expert.
fn experts_case(lanes: u32) -> Case {
    let (cols, inter, shared_inter, tokens, picks, experts) = (144, 70, 140, 2u32, 3u32, 5usize);
    let kind = WeightType::F8E4M3;
    let slot = case_weights(&[(kind, inter), (kind, inter)], cols);
    let slot_bytes = slot.bytes.len().next_multiple_of(256);
    let mut bytes = Vec::new();
    for expert in 0..experts {
        let mut turned = slot.bytes.clone();
        turned.rotate_left(expert * 16);
        bytes.extend(turned);
        bytes.resize((expert + 1) * slot_bytes, 0);
    }
    let shared = case_weights(&[(kind, shared_inter), (kind, shared_inter)], cols);
    let mut scales: Vec<f32> =
        (0..experts).flat_map(|e| slot.scales.iter().map(move |s| s * (1.0 + e as f32))).collect();
    let mut segments = slot.segments.clone();
    for segment in &shared.segments {
        segments.push(Segment {
            offset: segment.offset + bytes.len() as u32,
            scale_offset: segment.scale_offset + scales.len() as u32,
            ..*segment
        });
    }
    bytes.extend(&shared.bytes);
    scales.extend(&shared.scales);
    let slots = case_slots(experts, Some(3), slot_bytes, slot.scales.len());
    let expert_ids = [4, 0, 3, 1, 2, 4];
    let pairs = tokens * picks;
    let y_stride = 2 * shared_inter;
    let (segments, groups) = Segments::pack(&segments, THREADS / lanes, Some(2));
    let params = Params {
        cols: cols as u32,
        x_stride: cols as u32,
        y_stride: y_stride as u32,
        pairs,
        picks,
        ..Default::default()
    }
    .with(&segments);
    let lines = pairs + tokens;
    let buffers = Bindings {
        weights: CaseBuffer::weights(&bytes),
        scales: CaseBuffer::f32(&scales),
        x: CaseBuffer::f32(&random::f32s(3, tokens as usize * cols)),
        expert_ids: CaseBuffer::u32(&expert_ids),
        slots: CaseBuffer::u32(&slots),
        y: CaseBuffer::OutF32(vec![0.5; lines as usize * y_stride]),
    };
    let overrides = Overrides { lanes, experts: 1, ..Default::default() };
    Case::new(
        format!("experts, {lanes} lanes"),
        params,
        overrides,
        [groups, lines, 1],
        buffers,
        Tolerance::SUM,
    )
    .without(not_with(lanes))
}
