//! Host twin and cases of `matvec_lanes.wgsl`. Its `Params` are those of the mat-vec with a row per thread.

use super::matvec::{DENSE, Form, case_weights, compute, dense_case, experts_case};
use super::segments::Segments;
use crate::case::random;
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Overrides, Tolerance, matvec, matvec_lanes};

/// Rows of a workgroup; half as many of each weight where they are paired.
pub const ROWS: u32 = 4;
/// Threads of a workgroup.
pub const LANES: u32 = 64;
/// Most blocks of a row that a workgroup can have sums of: 24 bytes each.
pub const MOST_BLOCKS: u32 = 512;

const _: () = assert!(size_of::<matvec::Params>() == size_of::<matvec_lanes::Params>());

/// The override `BLOCKS` for sums of `blocks` blocks: rounded up, so that there are few pipelines.
pub fn blocks_of(blocks: u32) -> u32 {
    blocks.next_multiple_of(16).max(16)
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let on = |name| call.overrides.get(name, 0) == 1;
    let paired = on("PAIRED");
    let form = Form {
        rows_per_group: if paired { ROWS / 2 } else { ROWS },
        experts: on("EXPERTS"),
        x_per_line: on("PAIRS"),
        with_swiglu: false,
        paired,
    };
    compute(call, form);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let plain = DENSE.iter().filter(|case| !case.5);
    let mut cases = Vec::new();
    for case in plain {
        let overrides = Overrides::none().with("BLOCKS", blocks_of(case.2.div_ceil(128) as u32));
        // x at multiples of four values where the columns are, as in every model.
        let spare = 8 - 2 * case.2 % 4;
        cases.push(dense_case(case, ROWS, [4, spare], overrides));
        let mut other = dense_case(case, ROWS, [3, 5], overrides);
        other.name += ", x unaligned";
        cases.push(other);
    }
    let experts = Overrides::none().with("EXPERTS", 1);
    cases.push(experts_case(ROWS, experts));
    let mut paired = experts_case(ROWS / 2, experts.with("PAIRED", 1));
    paired.name += ", gate and up";
    // Each kind of expert counts workgroups by its gate.
    paired.groups[0] = 70;
    cases.push(paired);
    let mut pairs = experts_case(ROWS, experts.with("PAIRS", 1));
    pairs.name += ", x per pair";
    pairs.buffers[2] = CaseBuffer::f32(&random::f32s(3, 8 * 144));
    cases.push(pairs);
    cases.extend([WeightType::F8E4M3, WeightType::BF16].map(paired_case));
    cases
}

/// silu(gate) · up of 131 rows.
fn paired_case(kind: WeightType) -> Case {
    let (rows, cols, tokens) = (131usize, 272usize, 2usize);
    let weights = case_weights(&[(kind, rows), (kind, rows)], cols);
    let x = random::f32s(6, tokens * cols);
    let product = |matrix: &[f64], token: usize, row: usize| -> f64 {
        let x = x[token * cols..][..cols].iter();
        matrix[row * cols..][..cols].iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
    };
    let reference = (0..tokens * rows)
        .map(|i| {
            let gate = product(&weights.values[0], i / rows, i % rows);
            gate / (1.0 + (-gate).exp()) * product(&weights.values[1], i / rows, i % rows)
        })
        .collect();
    let (segments, _) = Segments::pack(&weights.segments, ROWS / 2, None);
    let params = matvec::Params {
        cols: cols as u32,
        x_stride: cols as u32,
        y_stride: rows as u32,
        ..Default::default()
    }
    .with(&segments);
    let buffers = vec![
        CaseBuffer::weights(&weights.bytes),
        CaseBuffer::f32(&weights.scales),
        CaseBuffer::f32(&x),
        CaseBuffer::u32(&[0]),
        CaseBuffer::u32(&[0]),
        CaseBuffer::OutF32(vec![0.5; tokens * rows]),
    ];
    let groups = [(rows as u32).div_ceil(ROWS / 2), tokens as u32, 1];
    let name = format!("gate and up, {kind:?}");
    Case::new(name, params, Overrides::none().with("PAIRED", 1), groups, buffers, Tolerance::SUM)
        .with_reference(5, reference, Tolerance::SUM)
}
