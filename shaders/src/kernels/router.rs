//! Host twin and cases of `router.wgsl`.

use rayon::prelude::*;

use crate::case::random;
use crate::kernels::reduce;
use crate::router::{Bindings, EXPERTS, Overrides, Params};
use crate::weights::{BLOCK, WeightType};
use crate::{Call, Case, CaseBuffer, Tolerance};

const LANES: usize = crate::router::LANES as usize;

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let overrides = call.overrides::<Params>();
    let tokens = p.tokens as usize;
    let (cols, experts) = (p.cols as usize, p.experts as usize);
    let kind = WeightType::from_code(overrides.weight_type);
    let bound = call.bindings::<Params>();
    let (h, norms, weights, scales, x, logits) = (
        bound.h.f32(),
        bound.norms.f32(),
        bound.weights.weights(),
        bound.scales.f32(),
        bound.x.f32_mut(),
        bound.logits.f32_mut(),
    );
    let norm = &norms[p.norm_offset as usize..][..cols];
    for (h, x) in h.chunks_exact(cols).zip(x.chunks_exact_mut(cols)).take(tokens) {
        let squares = reduce::workgroup_sum(h.iter().map(|v| v * v));
        let scale = 1.0 / (squares / cols as f32 + p.eps).sqrt();
        for ((x, h), weight) in x.iter_mut().zip(h).zip(norm) {
            *x = h * scale * weight;
        }
    }
    // One expert for all tokens at a time, so that its row is decoded once.
    let columns: Vec<Vec<f32>> = (0..experts)
        .into_par_iter()
        .map(|expert| {
            let row_bytes = cols * kind.bytes();
            let mut row = vec![0.0; cols];
            kind.decode(weights.get(p.weight_offset as usize + expert * row_bytes, row_bytes), &mut row);
            if kind == WeightType::F8E4M3 {
                let scales = &scales[p.scale_offset as usize + expert / BLOCK * cols.div_ceil(BLOCK)..];
                for (block, scale) in row.chunks_mut(BLOCK).zip(scales) {
                    block.iter_mut().for_each(|value| *value *= scale);
                }
            }
            x.chunks_exact(cols).take(tokens).map(|x| dot(&row, x)).collect()
        })
        .collect();
    for (t, logits) in logits.chunks_exact_mut(experts).enumerate().take(tokens) {
        for (logit, column) in logits.iter_mut().zip(&columns) {
            *logit = column[t];
        }
    }
}

/// Σ row · x in the shader's order.
fn dot(row: &[f32], x: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    for (row, x) in row.chunks(4 * LANES).zip(x.chunks(4 * LANES)) {
        for ((sum, row), x) in partial.iter_mut().zip(row.chunks(4)).zip(x.chunks(4)) {
            for (a, b) in row.iter().zip(x) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    let mut joined = [0.0f32; 16];
    for sixteen in partial.chunks(16) {
        for (sum, value) in joined.iter_mut().zip(sixteen) {
            *sum += value;
        }
    }
    joined.iter().sum()
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    // (type, tokens, TOKENS, experts, cols)
    [
        (BF16, 1, 1, 16, 7168),
        (BF16, 3, 1, 13, 260),
        (BF16, 2, 1, 9, 131),
        (F32, 2, 1, 8, 512),
        (F32, 1, 1, 3, 77),
        (F16, 1, 1, 24, 128),
        (F16, 2, 1, 5, 7),
        (F8E4M3, 2, 1, 130, 388),
        (F8E4M3, 1, 1, 131, 129),
        (BF16, 9, 4, 12, 1024),
        (BF16, 3, 4, 9, 134),
        (F32, 4, 4, 17, 516),
        (F32, 1, 4, 8, 1030),
        (F16, 6, 4, 5, 33),
        (F8E4M3, 5, 4, 131, 260),
    ]
    .into_iter()
    .map(|(kind, tokens, at_once, experts, cols): (WeightType, usize, usize, usize, usize)| {
        let (weight_offset, scale_offset, norm_offset) = (32, 2, 5);
        let h = random::f32s(1, tokens * cols);
        let norms = random::f32s(2, norm_offset + cols);
        let count = experts * cols;
        let bytes = match kind {
            F8E4M3 => random::e4m3(3, count),
            BF16 => random::bf16(3, count),
            F16 => {
                random::f32s(3, count).iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            }
            F32 => random::f32s(3, count).iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let mut window = vec![0xff; weight_offset];
        window.extend(&bytes);
        // E4M3 codes go up to 448: small scales keep the logits near 1.
        let blocks = experts.div_ceil(BLOCK) * cols.div_ceil(BLOCK);
        let scales: Vec<f32> = random::f32s(4, scale_offset + blocks).iter().map(|s| s / 448.0).collect();
        let gate = decode(kind, &bytes, &scales[scale_offset..], experts, cols);
        let mut expected = Vec::new();
        for h in h.chunks_exact(cols) {
            let mean = h.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / cols as f64;
            let scale = 1.0 / (mean + 1e-6).sqrt();
            let x: Vec<f64> = h
                .iter()
                .zip(&norms[norm_offset..])
                .map(|(v, w)| f64::from(*v) * scale * f64::from(*w))
                .collect();
            expected.extend(
                gate.chunks_exact(cols).map(|row| row.iter().zip(&x).map(|(g, x)| g * x).sum::<f64>()),
            );
        }
        let params = Params {
            tokens: tokens as u32,
            cols: cols as u32,
            experts: experts as u32,
            weight_offset: weight_offset as u32,
            scale_offset: scale_offset as u32,
            norm_offset: norm_offset as u32,
            eps: 1e-6,
        };
        let careful = u32::from(!cols.is_multiple_of(4));
        let buffers = Bindings {
            h: CaseBuffer::f32(&h),
            norms: CaseBuffer::f32(&norms),
            weights: CaseBuffer::weights(&window),
            scales: CaseBuffer::f32(&scales),
            x: CaseBuffer::OutF32(vec![0.0; tokens * cols]),
            logits: CaseBuffer::OutF32(vec![0.0; tokens * experts]),
        };
        let name = format!("{kind:?}, {tokens} tokens by {at_once}, {experts} experts, {cols} cols");
        let overrides = Overrides { weight_type: kind as u32, careful, tokens: at_once as u32 };
        let groups = [(experts as u32).div_ceil(EXPERTS), tokens.div_ceil(at_once) as u32, 1];
        Case::new(name, params, overrides, groups, buffers, Tolerance::SUM).with_reference(
            5,
            expected,
            Tolerance::SUM,
        )
    })
    .collect()
}

/// The gate in f64.
fn decode(kind: WeightType, bytes: &[u8], scales: &[f32], experts: usize, cols: usize) -> Vec<f64> {
    let mut values = vec![0.0; experts * cols];
    kind.decode(bytes, &mut values);
    let scale = |index: usize| match kind {
        WeightType::F8E4M3 => {
            let (row, col) = (index / cols, index % cols);
            f64::from(scales[row / BLOCK * cols.div_ceil(BLOCK) + col / BLOCK])
        }
        _ => 1.0,
    };
    values.iter().enumerate().map(|(index, value)| f64::from(*value) * scale(index)).collect()
}
