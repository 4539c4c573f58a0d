//! Host twin and cases of `experts_combine.wgsl`.

use crate::case::random;
use crate::experts_combine::{Bindings, COLUMNS, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let tokens = call.groups[1] as usize;
    let (cols, chosen) = (p.cols as usize, p.experts_per_token as usize);
    let bound = call.bindings::<Params>();
    let (part, expert_weights, shared, h) =
        (bound.part.f32(), bound.expert_weights.f32(), bound.shared_output.f32(), bound.h.f32_mut());
    let mut sums = vec![0.0f32; cols];
    for (t, h) in h.chunks_exact_mut(cols).enumerate().take(tokens) {
        sums.fill(0.0);
        for pair in t * chosen..(t + 1) * chosen {
            let weight = expert_weights[pair];
            if weight == 0.0 {
                continue;
            }
            for (sum, value) in sums.iter_mut().zip(&part[pair * cols..]) {
                *sum += weight * value;
            }
        }
        if p.has_shared == 1 {
            for (sum, value) in sums.iter_mut().zip(&shared[t * cols..]) {
                *sum += value;
            }
        }
        for (h, sum) in h.iter_mut().zip(&sums) {
            *h = if p.overwrite == 1 { *sum } else { *h + sum };
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let sizes =
        [(1, 8, 7168, true), (3, 6, 257, true), (2, 1, 255, false), (5, 16, 130, false), (2, 3, 1, true)];
    let whole = sizes.into_iter().map(|size| (size, false));
    let partly = [((4, 8, 300, true), true), ((2, 4, 257, false), true)];
    whole
        .chain(partly)
        .map(|((tokens, chosen, cols, has_shared), partly): ((usize, usize, usize, bool), bool)| {
            let mut part = random::f32s(1, tokens * chosen * cols);
            let mut expert_weights = random::f32s(2, tokens * chosen);
            if partly {
                // Pairs of other devices, among them all of a token, whose rows nobody wrote.
                for pair in (0..tokens * chosen).filter(|pair| pair % 3 == 0 || *pair < chosen) {
                    expert_weights[pair] = 0.0;
                    part[pair * cols..][..cols].fill(f32::NAN);
                }
            }
            let shared = random::f32s(3, if has_shared { tokens * cols } else { 1 });
            let h = random::f32s(4, tokens * cols);
            let expected = (0..tokens * cols)
                .map(|at| {
                    let (t, d) = (at / cols, at % cols);
                    let used = (0..chosen).filter(|k| expert_weights[t * chosen + k] != 0.0);
                    let products = used.map(|k| {
                        f64::from(expert_weights[t * chosen + k])
                            * f64::from(part[(t * chosen + k) * cols + d])
                    });
                    let shared = if has_shared { f64::from(shared[at]) } else { 0.0 };
                    let before = if partly { 0.0 } else { f64::from(h[at]) };
                    before + products.sum::<f64>() + shared
                })
                .collect();
            let params = Params {
                cols: cols as u32,
                experts_per_token: chosen as u32,
                has_shared: has_shared.into(),
                overwrite: partly.into(),
            };
            let buffers = Bindings {
                part: CaseBuffer::f32(&part),
                expert_weights: CaseBuffer::f32(&expert_weights),
                shared_output: CaseBuffer::f32(&shared),
                h: CaseBuffer::OutF32(h),
            };
            let name = format!(
                "{tokens} tokens, {chosen} experts each, {cols} cols{}{}",
                if has_shared { ", shared" } else { "" },
                if partly { ", some elsewhere" } else { "" }
            );
            let groups = [(cols as u32).div_ceil(COLUMNS), tokens as u32, 1];
            Case::new(name, params, Overrides::default(), groups, buffers, Tolerance::ELEMENTWISE)
                .with_reference(3, expected, Tolerance::ELEMENTWISE)
        })
        .collect()
}
