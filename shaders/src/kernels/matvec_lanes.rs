//! Host twin and cases of `matvec_lanes.wgsl`. Its `Params` are those of the mat-vec with a row per thread.

use super::matvec::{DENSE, Form, case_weights, compute, dense_case, experts_case};
use super::segments::Segments;
use crate::case::random;
use crate::matvec_lanes::{Bindings, Overrides, Params};
use crate::weights::WeightType;
use crate::{Call, Case, CaseBuffer, Interface as _, Tolerance, matvec};

/// Rows of a workgroup; half as many of each weight where they are paired.
pub const ROWS: u32 = 4;
/// Most blocks of a row that a workgroup can have sums of: 24 bytes each.
pub const MOST_BLOCKS: u32 = 512;

/// The override `BLOCKS` for sums of `blocks` blocks: rounded up, so that there are few pipelines.
pub fn blocks_of(blocks: u32) -> u32 {
    blocks.next_multiple_of(16).max(16)
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let overrides = call.overrides::<Params>();
    let paired = overrides.paired == 1;
    let form = Form {
        rows_per_group: if paired { ROWS / 2 } else { ROWS },
        experts: overrides.experts == 1,
        x_per_line: overrides.pairs == 1,
        with_swiglu: false,
        paired,
    };
    compute(call, form);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let with = |mut case: Case, what: &str, overrides: Overrides| {
        case.constants = Params::constants(overrides);
        case.name += what;
        case
    };
    let mut cases = Vec::new();
    for case in DENSE.iter().filter(|case| !case.5) {
        let overrides = Overrides { blocks: blocks_of(case.2.div_ceil(128) as u32), ..Default::default() };
        // x at multiples of four values where the columns are, as in every model.
        let spare = 8 - 2 * case.2 % 4;
        cases.push(with(dense_case(case, ROWS, [4, spare]), "", overrides));
        cases.push(with(dense_case(case, ROWS, [3, 5]), ", x unaligned", overrides));
    }
    let experts = Overrides { experts: 1, ..Default::default() };
    cases.push(with(experts_case(ROWS), "", experts));
    let mut paired = with(experts_case(ROWS / 2), ", gate and up", Overrides { paired: 1, ..experts });
    // Each kind of expert counts workgroups by its gate.
    paired.groups[0] = 70;
    cases.push(paired);
    let mut pairs = with(experts_case(ROWS), ", x per pair", Overrides { pairs: 1, ..experts });
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
    .with(&segments)
    .along_k();
    let buffers = Bindings {
        weights: CaseBuffer::weights(&weights.bytes),
        scales: CaseBuffer::f32(&weights.scales),
        x: CaseBuffer::f32(&x),
        expert_ids: CaseBuffer::u32(&[0]),
        slots: CaseBuffer::u32(&[0]),
        y: CaseBuffer::OutF32(vec![0.5; tokens * rows]),
    };
    let groups = [(rows as u32).div_ceil(ROWS / 2), tokens as u32, 1];
    let name = format!("gate and up, {kind:?}");
    Case::new(name, params, Overrides { paired: 1, ..Default::default() }, groups, buffers, Tolerance::SUM)
        .with_reference(5, reference, Tolerance::SUM)
}
