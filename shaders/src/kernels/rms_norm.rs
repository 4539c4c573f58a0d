//! Host twin and cases of `rms_norm.wgsl`.

use crate::case::random;
use crate::kernels::reduce;
use crate::rms_norm::{Bindings, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let tokens = call.groups[0] as usize;
    let cols = p.cols as usize;
    let bound = call.bindings::<Params>();
    let (x, weight, rows, y) = (bound.x.f32(), bound.weight.f32(), bound.rows.u32(), bound.y.f32_mut());
    for token in 0..tokens {
        let row = if p.gather == 1 { rows[token] as usize } else { token };
        let from = &x[row * p.x_stride as usize..][..cols];
        let squares = reduce::workgroup_sum(from.iter().map(|v| v * v));
        let scale = 1.0 / (squares / cols as f32 + p.eps).sqrt();
        for (k, out) in y[token * cols..][..cols].iter_mut().enumerate() {
            *out = from[k] * scale * weight[k];
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    [(1, 7168, false), (3, 200, true), (2, 127, false), (5, 1, true)]
        .into_iter()
        .map(|(tokens, cols, gather): (usize, usize, bool)| {
            let x = random::f32s(1, (tokens + 2) * (cols + 3));
            let weight = random::f32s(2, cols);
            let rows: Vec<u32> = (0..tokens).map(|t| ((t * 2 + 1) % (tokens + 2)) as u32).collect();
            let params =
                Params { cols: cols as u32, x_stride: cols as u32 + 3, gather: gather.into(), eps: 1e-6 };
            let reference = (0..tokens)
                .flat_map(|t| {
                    let row = if gather { rows[t] as usize } else { t };
                    let from = &x[row * (cols + 3)..][..cols];
                    let mean = from.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / cols as f64;
                    let scale = 1.0 / (mean + 1e-6).sqrt();
                    from.iter()
                        .zip(&weight)
                        .map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
                        .collect::<Vec<_>>()
                })
                .collect();
            let buffers = Bindings {
                x: CaseBuffer::f32(&x),
                weight: CaseBuffer::f32(&weight),
                rows: CaseBuffer::u32(&rows),
                y: CaseBuffer::OutF32(vec![0.0; tokens * cols]),
            };
            let name = format!("{tokens} tokens, {cols} cols{}", if gather { ", gathered" } else { "" });
            Case::new(
                name,
                params,
                Overrides::default(),
                [tokens as u32, 1, 1],
                buffers,
                Tolerance::ELEMENTWISE,
            )
            .with_reference(3, reference, Tolerance::ELEMENTWISE)
        })
        .collect()
}
