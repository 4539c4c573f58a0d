//! Host twin and cases of `candidates.wgsl`.

use crate::candidates::{Bindings, NONE, Overrides, Params};
use crate::case::random;
use crate::{Call, Case, CaseBuffer, Tolerance};

const LANES: usize = crate::candidates::LANES as usize;

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let rows = call.groups[0] as usize;
    let candidates = p.candidates as usize;
    let bound = call.bindings::<Params>();
    let (logits, indices, temperatures, out) =
        (bound.logits.f32(), bound.indices.u32(), bound.temperatures.f32(), bound.out.u32_mut());
    for (row, logits) in logits.chunks_exact(p.vocab_size as usize).enumerate().take(rows) {
        let finite = logits.iter().copied().filter(|l| l.is_finite());
        let largest = finite.fold(f32::MIN, f32::max);
        let mut sums = [0.0f32; LANES];
        for (id, logit) in logits.iter().enumerate().filter(|(_, l)| l.is_finite()) {
            sums[id % LANES] += ((logit - largest) / temperatures[row]).exp();
        }
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        let (head, pairs) = out[row * (4 + 2 * candidates)..][..4 + 2 * candidates].split_at_mut(4);
        let mut count = 0;
        for (pair, id) in pairs.chunks_exact_mut(2).zip(&indices[row * candidates..]) {
            match logits.get(*id as usize) {
                Some(logit) => {
                    pair.copy_from_slice(&[*id, logit.to_bits()]);
                    count += 1;
                }
                None => pair.copy_from_slice(&[NONE, 0]),
            }
        }
        let not_finite = logits.iter().filter(|l| !l.is_finite()).count() as u32;
        head.copy_from_slice(&[largest.to_bits(), sums[0].to_bits(), count, not_finite]);
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Sums of real exponentials: `out` is compared as floats, to which ids and counts are numbers near 0.
    for (rows, vocab_size, candidates) in [(2, 129_280, 64), (3, 1001, 7), (1, 5, 5)] {
        let logits: Vec<f32> = random::f32s(1, rows * vocab_size).iter().map(|v| v * 9.0).collect();
        let temperatures: Vec<f32> = (0..rows).map(|row| 0.6 + row as f32).collect();
        let indices: Vec<u32> = (0..rows * candidates).map(|c| (c * 31 % vocab_size) as u32).collect();
        let mut expected = Vec::new();
        for (row, logits) in logits.chunks(vocab_size).enumerate() {
            let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
            let temperature = f64::from(temperatures[row]);
            let sum = logits.iter().map(|l| ((f64::from(*l) - largest) / temperature).exp()).sum::<f64>();
            expected.extend([largest, sum, f64::from(f32::from_bits(candidates as u32)), 0.0]);
            for id in &indices[row * candidates..][..candidates] {
                expected.extend([f64::from(f32::from_bits(*id)), f64::from(logits[*id as usize])]);
            }
        }
        let out = CaseBuffer::OutF32(vec![f32::NAN; rows * (4 + 2 * candidates)]);
        let name = format!("{rows} rows of {vocab_size}, {candidates} candidates");
        cases.push(
            case(name, vocab_size, candidates, &logits, &indices, &temperatures, out)
                .with_reference(3, expected, SUM),
        );
    }
    // Sums that are exact, 1 for each largest and 0 for the others: `out` is compared bit by bit.
    for (name, vocab_size, planted) in [
        ("padding", 300, &[][..]),
        ("three equal ones", 777, &[(5, 200.0), (400, 200.0), (776, 200.0)]),
        (
            "not finite",
            513,
            &[(0, f32::NAN), (257, f32::INFINITY), (512, f32::NEG_INFINITY), (511, -f32::NAN)],
        ),
    ] {
        let rows = 2;
        let mut logits: Vec<f32> =
            random::f32s(1, rows * vocab_size).iter().map(|v| v.round() - 100.0).collect();
        logits[vocab_size / 3] = 200.0;
        logits[vocab_size + vocab_size / 2] = 150.0;
        for (id, value) in planted {
            logits[*id] = *value;
        }
        let indices = [0, vocab_size as u32 - 1, 7, NONE, 3, NONE, NONE, NONE, NONE, NONE];
        let out = CaseBuffer::OutU32(vec![77; rows * (4 + 2 * 5)]);
        cases.push(case(name.into(), vocab_size, 5, &logits, &indices, &[1.0, 0.5], out));
    }
    cases
}

/// As for the sum of the softmax in the sampler: exp is good to 3 + 2|x| ulp.
const SUM: Tolerance = Tolerance { absolute: 0.0, relative: 5e-6 };

fn case(
    name: String,
    vocab_size: usize,
    candidates: usize,
    logits: &[f32],
    indices: &[u32],
    temperatures: &[f32],
    out: CaseBuffer,
) -> Case {
    let params = Params { vocab_size: vocab_size as u32, candidates: candidates as u32 };
    let buffers = Bindings {
        logits: CaseBuffer::f32(logits),
        indices: CaseBuffer::u32(indices),
        temperatures: CaseBuffer::f32(temperatures),
        out,
    };
    Case::new(name, params, Overrides::default(), [temperatures.len() as u32, 1, 1], buffers, SUM)
}
