//! Host twin and cases of `repetition_penalty.wgsl`.

use crate::case::random;
use crate::repetition_penalty::{Bindings, Overrides, Params, THREADS};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let bound = call.bindings::<Params>();
    let (seen, penalties, logits) = (bound.seen.u32(), bound.penalties.f32(), bound.logits.f32_mut());
    for pair in seen.chunks_exact(2).take(p.count as usize) {
        if pair[0] < p.rows && pair[1] < p.vocab_size {
            let penalty = penalties[pair[0] as usize];
            let logit = &mut logits[pair[0] as usize * p.vocab_size as usize + pair[1] as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    // (rows, vocab_size, seen; the stride between them is prime to rows · vocab_size, so that none is twice)
    [(1, 100, 1, 7), (3, 1001, 700, 31), (2, 128, 256, 37)]
        .into_iter()
        .map(|(rows, vocab_size, count, stride): (usize, usize, usize, usize)| {
            let logits = random::f32s(1, rows * vocab_size);
            let penalties: Vec<f32> = (0..rows).map(|row| [1.3, 1.0, 0.7][row]).collect();
            let places: Vec<usize> = (0..count).map(|n| n * stride % (rows * vocab_size)).collect();
            let mut seen: Vec<u32> =
                places.iter().flat_map(|at| [(at / vocab_size) as u32, (at % vocab_size) as u32]).collect();
            // Outside of logits, then beyond the count.
            seen.extend([rows as u32, 0, 0, vocab_size as u32, 0, 1]);
            let mut expected: Vec<f64> = logits.iter().copied().map(f64::from).collect();
            for at in places {
                let penalty = f64::from(penalties[at / vocab_size]);
                expected[at] *= if expected[at] > 0.0 { 1.0 / penalty } else { penalty };
            }
            let params = Params { count: count as u32 + 2, rows: rows as u32, vocab_size: vocab_size as u32 };
            let buffers = Bindings {
                seen: CaseBuffer::u32(&seen),
                penalties: CaseBuffer::f32(&penalties),
                logits: CaseBuffer::OutF32(logits),
            };
            let name = format!("{count} seen in {rows} rows of {vocab_size}");
            let groups = [(count as u32 + 2).div_ceil(THREADS), 1, 1];
            Case::new(name, params, Overrides::default(), groups, buffers, Tolerance::ELEMENTWISE)
                .with_reference(2, expected, Tolerance::ELEMENTWISE)
        })
        .collect()
}
