//! Host twin and cases of `argmax.wgsl`.

use std::cmp::Reverse;

use crate::argmax::{Bindings, Overrides, Params};
use crate::case::random;
use crate::kernels::order::ordered;
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let rows = call.groups[0] as usize;
    let bound = call.bindings::<Params>();
    let (logits, out) = (bound.logits.f32(), bound.out.u32_mut());
    for (logits, out) in logits.chunks_exact(p.vocab_size as usize).zip(out.chunks_exact_mut(2)).take(rows) {
        let best = logits.iter().enumerate().max_by_key(|(id, value)| (ordered(**value), Reverse(*id)));
        let (id, value) = best.expect("a vocabulary is not empty");
        out.copy_from_slice(&[id as u32, value.to_bits()]);
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    // (name, rows, vocab_size, values put in by (row, id))
    type Planted<'a> = &'a [(usize, usize, f32)];
    let all: [(&str, usize, usize, Planted<'_>); 8] = [
        ("the real vocabulary", 2, 129_280, &[(0, 77_777, 3.0), (1, 129_279, 1.5), (1, 0, 1.25)]),
        ("one token", 2, 1, &[]),
        ("fewer tokens than threads", 3, 100, &[]),
        (
            "equal ones in several threads",
            2,
            1001,
            &[(0, 700, 2.0), (0, 260, 2.0), (0, 900, 2.0), (1, 4, 2.0), (1, 260, 2.0)],
        ),
        ("zeros of both signs", 1, 3, &[(0, 0, -1.0), (0, 1, -0.0), (0, 2, 0.0)]),
        ("infinities", 2, 513, &[(0, 512, f32::INFINITY), (0, 3, f32::MAX), (1, 1, f32::NEG_INFINITY)]),
        ("a NaN shows", 1, 600, &[(0, 9, f32::INFINITY), (0, 431, f32::NAN)]),
        ("nothing but minus infinity", 1, 2, &[(0, 0, f32::NEG_INFINITY), (0, 1, f32::NEG_INFINITY)]),
    ];
    all.into_iter()
        .map(|(name, rows, vocab_size, planted)| {
            let mut logits = random::f32s(1, rows * vocab_size);
            for (row, id, value) in planted {
                logits[row * vocab_size + id] = *value;
            }
            let params = Params { vocab_size: vocab_size as u32 };
            let buffers = Bindings {
                logits: CaseBuffer::f32(&logits),
                out: CaseBuffer::OutU32(vec![u32::MAX; 2 * rows]),
            };
            Case::new(name, params, Overrides::default(), [rows as u32, 1, 1], buffers, Tolerance::EXACT)
        })
        .collect()
}
