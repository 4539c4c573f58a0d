//! Sampling on the host: the definition, its short cut through the device's candidates, and its seeds.

use porism_runtime::sample::{
    Candidates, Choice, SampleError, Sampler, SamplingParams, apply_repetition_penalty,
};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The draws a seed stands for, as documented.
fn draws(seed: u64) -> impl FnMut() -> f64 {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha12Rng::from_seed(key);
    move || (generator.next_u64() >> 11) as f64 / 2f64.powi(53)
}

/// The definition, word for word: sort everything, filter, walk up the sums.
fn by_definition(logits: &[f32], params: &SamplingParams, draw: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    if params.temperature == 0.0 {
        return order[0] as u32;
    }
    let max = f64::from(logits[order[0]]);
    let weights: Vec<f64> = order
        .iter()
        .map(|&id| ((f64::from(logits[id]) - max) / f64::from(params.temperature)).exp())
        .collect();
    let mut left = weights.len();
    if params.top_k > 0 {
        left = left.min(params.top_k as usize);
    }
    let sum = |n: usize| weights[..n].iter().fold(0.0, |sum, weight| sum + weight);
    let after_top_k = left;
    if params.top_p < 1.0 {
        left = (1..=left).find(|&n| sum(n) >= f64::from(params.top_p) * sum(after_top_k)).unwrap();
    }
    left = (0..left).find(|&i| weights[i] < f64::from(params.min_p)).unwrap_or(left);
    let target = draw * sum(left);
    order[(0..left).find(|&i| sum(i + 1) > target).unwrap()] as u32
}

/// What a device would report: the best `count` in some order, and the sum with an error it is allowed.
fn candidates(logits: &[f32], count: usize, temperature: f32, error: f64) -> Candidates {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap().then(a.cmp(&b)));
    let max = logits[order[0] as usize];
    let exact: f64 =
        logits.iter().map(|&l| ((f64::from(l) - f64::from(max)) / f64::from(temperature)).exp()).sum();
    let mut pairs: Vec<(u32, f32)> = order[..count].iter().map(|&id| (id, logits[id as usize])).collect();
    pairs.reverse();
    Candidates {
        pairs,
        max,
        sum_exp: exact * (1.0 + error * Candidates::SUM_TOLERANCE),
        vocab_size: logits.len(),
    }
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        // Coarse values make ties; the wide range makes weights that vanish.
        prop::collection::vec((-8i32..8).prop_map(|v| v as f32 * 0.5), 1..400),
        prop::collection::vec(-6f32..6.0, 1..400),
        prop::collection::vec(-300f32..300.0, 1..100),
        prop::collection::vec(Just(-0.0f32), 1..50),
    ]
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![1 => Just(0.0f32), 2 => Just(1.0), 1 => Just(1e-4), 4 => 0.1f32..3.0];
    let top_k = prop_oneof![2 => Just(0u32), 1 => 1u32..10, 1 => 1u32..500];
    let top_p = prop_oneof![Just(1.0f32), 0.05f32..1.0, Just(0.5), Just(1e-6)];
    let min_p = prop_oneof![2 => Just(0.0f32), 1 => 0.0f32..0.3, 1 => Just(1.0)];
    (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        ..SamplingParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn candidates_and_all_logits_choose_as_the_definition_does(
        logits in logits(), params in params(), seed in any::<u64>(),
        share in 0.0f64..=1.0, error in -0.9f64..0.9,
    ) {
        let count = ((logits.len() as f64 * share) as usize).clamp(1, logits.len());
        let reported = candidates(&logits, count, params.temperature.max(SamplingParams::MIN_TEMPERATURE), error);
        let mut short = Sampler::new(params.clone(), seed).unwrap();
        let mut full = Sampler::new(params.clone(), seed).unwrap();
        let mut draw = draws(seed);
        for step in 0..4 {
            let expected = by_definition(&logits, &params, if params.temperature == 0.0 { 0.0 } else { draw() });
            prop_assert_eq!(full.choose_full(&logits).unwrap(), expected, "all logits, step {}", step);
            let token = match short.choose(&reported).unwrap() {
                Choice::Token(token) => token,
                Choice::NeedLogits => {
                    prop_assert!(count < logits.len(), "everything is known");
                    // Asking again must not draw again.
                    prop_assert_eq!(short.choose(&reported).unwrap(), Choice::NeedLogits);
                    short.choose_full(&logits).unwrap()
                }
            };
            prop_assert_eq!(token, expected, "{} of {} candidates, step {}", count, logits.len(), step);
        }
    }

    #[test]
    fn any_numbers_are_an_answer_or_an_error_but_never_a_panic(
        pairs in prop::collection::vec((0u32..20, prop::num::f32::ANY), 0..20),
        max in prop::num::f32::ANY, sum_exp in prop::num::f64::ANY, vocab_size in 0usize..40,
        params in params(),
    ) {
        let full: Vec<f32> = pairs.iter().map(|pair| pair.1).collect();
        let mut sampler = Sampler::new(params, 1).unwrap();
        let _ = sampler.choose_full(&full);
        let _ = sampler.choose(&Candidates { pairs: pairs.clone(), max, sum_exp, vocab_size });
        let finite: Vec<_> = pairs.into_iter().filter(|pair| pair.1.is_finite()).collect();
        let max = finite.iter().map(|pair| pair.1).fold(f32::NEG_INFINITY, f32::max);
        let _ = sampler.choose(&Candidates { pairs: finite, max, sum_exp: sum_exp.abs(), vocab_size });
    }
}

#[test]
fn a_device_sum_that_is_slightly_off_never_changes_the_token() {
    let mut settled = 0;
    for seed in 0..300u64 {
        let draw = draws(seed)();
        if draw < 0.4 {
            continue;
        }
        // Three tokens, the border above the first a few millionths beside the draw; the device reports two of them.
        for (beside, error) in [(3e-6, 0.9), (3e-6, -0.9), (-3e-6, 0.9), (-3e-6, -0.9), (1e-3, 0.9)] {
            let rest = 1.0 / (draw * (1.0 + beside)) - 1.0;
            let logits = [0.0, (rest / 2.0).ln() as f32, (rest / 2.0).ln() as f32];
            let params = SamplingParams::default();
            let mut sampler = Sampler::new(params.clone(), seed).unwrap();
            let token = match sampler.choose(&candidates(&logits, 2, 1.0, error)).unwrap() {
                Choice::Token(token) => {
                    settled += 1;
                    token
                }
                Choice::NeedLogits => sampler.choose_full(&logits).unwrap(),
            };
            assert_eq!(token, by_definition(&logits, &params, draw), "seed {seed}, {beside}, {error}");
        }
    }
    assert!(settled > 100, "{settled} of the clear cases settled without all logits");
}

#[test]
fn candidates_suffice_nearly_always_when_they_hold_nearly_everything() {
    // 32,000 tokens, a peaked distribution: the best 64 hold 99.9 % of it.
    let logits: Vec<f32> = (0..32_000).map(|i| 10.0 - 0.15 * (i as f32).min(200.0)).collect();
    for (top_p, allowed) in [(0.95f32, 3), (1.0, 30)] {
        let params = SamplingParams { top_p, ..SamplingParams::default() };
        let reported = candidates(&logits, 64, 1.0, 0.3);
        let mut sampler = Sampler::new(params, 11).unwrap();
        let mut asked = 0;
        for _ in 0..2000 {
            if sampler.choose(&reported).unwrap() == Choice::NeedLogits {
                asked += 1;
                sampler.choose_full(&logits).unwrap();
            }
        }
        assert!(
            asked <= allowed,
            "top_p {top_p}: {asked} of 2000 draws asked for the logits, {allowed} allowed"
        );
    }
}

#[test]
fn frequencies_follow_the_distribution() {
    // Probabilities 1/2, 1/4, 1/8, 1/8 in shuffled places.
    let logits = [0.25f32.ln(), 0.125f32.ln(), 0.5f32.ln(), 0.125f32.ln()];
    let cases: [(SamplingParams, [f64; 4]); 5] = [
        (SamplingParams::default(), [0.25, 0.125, 0.5, 0.125]),
        (
            SamplingParams { temperature: 0.5, ..SamplingParams::default() },
            [2.0 / 11.0, 0.5 / 11.0, 8.0 / 11.0, 0.5 / 11.0],
        ),
        (SamplingParams { top_k: 3, ..SamplingParams::default() }, [2.0 / 7.0, 1.0 / 7.0, 4.0 / 7.0, 0.0]),
        (SamplingParams { top_p: 0.7, ..SamplingParams::default() }, [1.0 / 3.0, 0.0, 2.0 / 3.0, 0.0]),
        (SamplingParams { min_p: 0.4, ..SamplingParams::default() }, [1.0 / 3.0, 0.0, 2.0 / 3.0, 0.0]),
    ];
    let count = 40_000;
    for (params, expected) in cases {
        let mut sampler = Sampler::new(params.clone(), 2026).unwrap();
        let mut seen = [0u32; 4];
        for _ in 0..count {
            seen[sampler.choose_full(&logits).unwrap() as usize] += 1;
        }
        for (id, (&seen, probability)) in seen.iter().zip(expected).enumerate() {
            let mean = probability * f64::from(count);
            // Five standard deviations: the seed is fixed, so this either always holds or never.
            let allowed = 5.0 * (mean * (1.0 - probability)).sqrt();
            let off = (f64::from(seen) - mean).abs();
            assert!(off <= allowed, "{params:?}: token {id} came {seen} times, expected {mean} ± {allowed}");
        }
    }
}

#[test]
fn a_seed_is_a_text_and_another_seed_another() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.05).collect();
    let run = |seed| {
        let mut sampler = Sampler::new(SamplingParams::default(), seed).unwrap();
        (0..40).map(|_| sampler.choose_full(&logits).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    assert_ne!(run(7), run(7 << 32), "all 64 bits of the seed count");
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    let mut sampler = Sampler::new(SamplingParams::greedy(), 0).unwrap();
    assert_eq!(sampler.choose_full(&[1.0, 3.0, 3.0, -2.0]).unwrap(), 1);
    assert_eq!(sampler.choose_full(&[-0.0, 0.0]).unwrap(), 0, "the two zeros are equal");
    let pairs = vec![(900, 3.0), (2, 3.0), (7, 1.0)];
    let reported = Candidates { pairs, max: 3.0, sum_exp: 0.0, vocab_size: 1000 };
    assert_eq!(sampler.choose(&reported).unwrap(), Choice::Token(2));
}

#[test]
fn parameters_out_of_range_are_named() {
    let base = SamplingParams::default();
    let cases = [
        (SamplingParams { temperature: -1.0, ..base.clone() }, "temperature is -1"),
        (SamplingParams { temperature: f32::NAN, ..base.clone() }, "temperature is NaN"),
        (SamplingParams { temperature: f32::INFINITY, ..base.clone() }, "temperature is inf"),
        (SamplingParams { temperature: 1e-30, ..base.clone() }, "0 (greedy)"),
        (SamplingParams { top_p: 0.0, ..base.clone() }, "top_p is 0"),
        (SamplingParams { top_p: 1.5, ..base.clone() }, "top_p is 1.5"),
        (SamplingParams { top_p: f32::NAN, ..base.clone() }, "top_p is NaN"),
        (SamplingParams { min_p: -0.1, ..base.clone() }, "min_p is -0.1"),
        (SamplingParams { temperature: 1e38, ..base.clone() }, "from 0.0001 to 100"),
        (SamplingParams { repetition_penalty: 0.0, ..base.clone() }, "repetition_penalty is 0"),
        (SamplingParams { repetition_penalty: 1e38, ..base.clone() }, "from 0.01 to 100"),
        (SamplingParams { repetition_penalty: f32::NAN, ..base.clone() }, "repetition_penalty is NaN"),
        (SamplingParams { repetition_penalty: f32::INFINITY, ..base.clone() }, "repetition_penalty is inf"),
    ];
    for (params, expected) in cases {
        let error = Sampler::new(params, 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn broken_logits_are_errors_and_cost_no_draw() {
    let good = [0.5f32, 0.25, 1.0];
    let mut sampler = Sampler::new(SamplingParams::default(), 3).unwrap();
    let mut fresh = sampler.clone();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = sampler.choose_full(&[0.5, bad, 1.0]).unwrap_err();
        assert!(matches!(error, SampleError::NotFinite { id: 1, .. }), "{error}");
        let mut reported = candidates(&good, 3, 1.0, 0.0);
        reported.pairs[1].1 = bad;
        assert!(matches!(sampler.choose(&reported), Err(SampleError::NotFinite { .. })));
    }
    assert_eq!(sampler.choose_full(&[]), Err(SampleError::Empty));
    let reported = candidates(&good, 2, 1.0, 0.0);
    let broken = [
        Candidates { pairs: vec![], ..reported.clone() },
        Candidates { vocab_size: 1, ..reported.clone() },
        Candidates { pairs: vec![(2, 1.0), (2, 1.0)], ..reported.clone() },
        Candidates { max: 2.0, ..reported.clone() },
        Candidates { max: f32::NAN, ..reported.clone() },
        Candidates { sum_exp: 1.2, ..reported.clone() },
        Candidates { sum_exp: f64::NAN, ..reported.clone() },
        Candidates { sum_exp: f64::INFINITY, ..reported.clone() },
    ];
    for candidates in broken {
        assert!(sampler.choose(&candidates).is_err(), "{candidates:?}");
    }
    let all =
        |sampler: &mut Sampler| (0..20).map(|_| sampler.choose_full(&good).unwrap()).collect::<Vec<_>>();
    assert_eq!(all(&mut sampler), all(&mut fresh));
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_logits_once() {
    let mut logits = [2.0f32, -2.0, 0.0, 3.0];
    apply_repetition_penalty(&mut logits, &[0, 1, 2, 0, 1, 0], 1.25).unwrap();
    assert_eq!(logits, [1.6, -2.5, 0.0, 3.0]);
    let before = logits;
    let error = apply_repetition_penalty(&mut logits, &[0, 4], 1.25).unwrap_err();
    assert_eq!(error, SampleError::IdOutOfRange { id: 4, vocab_size: 4 });
    assert!(apply_repetition_penalty(&mut logits, &[0], -1.0).is_err());
    assert!(apply_repetition_penalty(&mut logits, &[0], f32::NAN).is_err());
    assert_eq!(logits, before, "an error leaves the logits alone");
}
