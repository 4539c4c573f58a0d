//! Host twin and cases of `matvec.wgsl`.

use super::dot::{Matrix, project, swiglu};
use super::segments::{ABSENT, Segment, Segments};
use crate::case::random;
use crate::matvec::{Bindings, Overrides, Params, THREADS};
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Interface as _, Tolerance, matvec_lanes};

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

    /// The same for the kernel with lanes along K.
    pub fn along_k(self) -> matvec_lanes::Params {
        bytemuck::cast(self)
    }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let overrides = call.overrides::<Params>();
    let with_swiglu = overrides.swiglu == 1;
    let form = Form {
        rows_per_group: THREADS,
        experts: overrides.experts == 1,
        x_per_line: with_swiglu,
        with_swiglu,
        paired: false,
    };
    compute(call, form);
}

/// What the mat-vecs have in common, and where they differ.
pub(super) struct Form {
    /// Rows of a workgroup.
    pub rows_per_group: u32,
    /// Weights lie in slots of experts.
    pub experts: bool,
    /// With experts: x has a row per line of y, not one per token.
    pub x_per_line: bool,
    /// x is silu(gate) · up of its rows.
    pub with_swiglu: bool,
    /// y is silu(gate) · up of the products with two weights.
    pub paired: bool,
}

/// Every mat-vec on the host.
pub(super) fn compute(call: &mut Call<'_>, form: Form) {
    let p: Params = call.params();
    let groups = call.groups;
    let bound = call.bindings::<Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (expert_ids, slots, y) = (bound.expert_ids.u32(), bound.slots.u32(), bound.y.f32_mut());
    let cols = p.cols as usize;
    for line in 0..groups[1] {
        let shared = form.experts && line >= p.pairs;
        let (mut base, mut scale_base) = (0, 0);
        let token = match (form.experts && !form.x_per_line, shared) {
            (false, _) => line,
            (true, true) => line - p.pairs,
            (true, false) => line / p.picks,
        };
        if form.experts && !shared {
            let expert = expert_ids[line as usize];
            let slot = slots[2 * expert as usize];
            if slot == u32::MAX {
                continue;
            }
            base = slot as usize * 16;
            scale_base = slots[2 * expert as usize + 1] as usize;
        }
        let from = &x[(token * p.x_stride + p.x_offset) as usize..];
        let activated;
        let from = if form.with_swiglu {
            activated = swiglu(&from[..2 * cols]);
            &activated[..]
        } else {
            &from[..cols]
        };
        let range = if !form.experts {
            0..4
        } else if shared {
            2..4
        } else {
            0..2
        };
        let products = |packed: [u32; 4], rows: usize| {
            let [_, offset, scale_offset, kind] = packed;
            let matrix = Matrix {
                weights,
                offset: base + offset as usize,
                kind: WeightType::from_code(kind),
                cols,
                scales: &scales[(scale_base + scale_offset as usize).min(scales.len())..],
            };
            project(&matrix, rows, &[from])
        };
        let segments = &segments_of(&p).unpack()[range];
        let lines = |first: u32, rows: u32, column: u32| {
            let reachable = (groups[0].saturating_sub(first) * form.rows_per_group).min(rows) as usize;
            ((line * p.y_stride + column) as usize, reachable)
        };
        if form.paired {
            let [(gate, rows, column), (up, ..), ..] = *segments else { unreachable!("two of each kind") };
            let (at, rows) = lines(0, rows, column);
            let both = [products(gate, rows), products(up, rows)].concat();
            y[at..at + rows].copy_from_slice(&swiglu(&both));
            continue;
        }
        for (packed, rows, column) in segments {
            let (at, rows) = lines(packed[0], *rows, *column);
            for (out, total) in y[at..at + rows].iter_mut().zip(products(*packed, rows)) {
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

/// The dense cases of the mat-vecs; those with SwiGLU last.
pub(super) const DENSE: [DenseCase; 9] = {
    use WeightType::{BF16, F8E4M3, F16, F32};
    [
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
        ("many blocks", &[(F8E4M3, 6), (BF16, 7)], 2080, 1, false, false),
        ("SwiGLU, added", &[(F8E4M3, 100)], 160, 2, true, true),
        ("SwiGLU, BF16", &[(BF16, 100)], 40, 2, false, true),
    ]
};

/// A case of a mat-vec with `rows_per_group` rows per workgroup, whose x begins at value `x_offset` of rows that are
/// `x_spare` values longer than twice what is read.
pub(super) fn dense_case(
    (name, parts, cols, tokens, accumulate, with_swiglu): &DenseCase,
    rows_per_group: u32,
    [x_offset, x_spare]: [usize; 2],
) -> Case {
    let (cols, tokens, accumulate) = (*cols, *tokens, *accumulate);
    let weights = case_weights(parts, cols);
    let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
    let y_stride = rows + 2;
    let x_stride = cols * 2 + x_spare;
    let x = random::f32s(1, tokens * x_stride);
    let y = random::f32s(2, tokens * y_stride);
    let mut reference: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
    for token in 0..tokens {
        let from = &x[token * x_stride + x_offset..];
        let from: Vec<f64> = (0..cols)
            .map(|k| {
                let v = f64::from(from[k]);
                if *with_swiglu { v / (1.0 + (-v).exp()) * f64::from(from[cols + k]) } else { v }
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
    let (segments, groups) = Segments::pack(&weights.segments, rows_per_group, None);
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
        y: CaseBuffer::OutF32(y),
    };
    let overrides = Overrides::default();
    Case::new(*name, params, overrides, [groups, tokens as u32, 1], buffers, Tolerance::SUM).with_reference(
        5,
        reference,
        Tolerance::SUM,
    )
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = DENSE
        .iter()
        .map(|case| {
            let mut case_of = dense_case(case, THREADS, [3, 5]);
            case_of.constants = Params::constants(Overrides { swiglu: case.5.into(), experts: 0 });
            case_of
        })
        .collect();
    cases.push(experts_case(THREADS));
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
pub(super) fn experts_case(rows_per_group: u32) -> Case {
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
    let (segments, groups) = Segments::pack(&segments, rows_per_group, Some(2));
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
    let overrides = Overrides { experts: 1, swiglu: 0 };
    Case::new("experts", params, overrides, [groups, lines, 1], buffers, Tolerance::SUM)
}
