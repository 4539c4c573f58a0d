//! How sure a run may say it is: mean of the readings, Wilson interval, and what full marks meant in published proofs.
//!
//! A *reading* is one evaluation of a proof by a verifier; its score is 1, 0.5 or 0. Readings by the same model share that
//! model's blind spots, so an interval computed from them says how steady the verifier is, not how true the proof is. The
//! [`Calibration`] says the latter, as far as anyone has measured it.

use std::fmt::Write as _;

/// Normal quantile of a two-sided 95 % interval.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// From this score on a reading counts as full marks; scores are 1, 0.5 or 0, and 0.75 lies between.
pub const FULL_MARKS: f64 = 0.75;

/// A share between 0 and 1 with its lower and upper bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower bound, at least 0.
    pub low: f64,
    /// Upper bound, at most 1.
    pub high: f64,
}

/// The Wilson score interval of `successes` out of `trials` at normal quantile `z`; `None` without trials.
///
/// centre = (p + z²/2n) / (1 + z²/n), half-width = z √(p(1−p)/n + z²/4n²) / (1 + z²/n)
///
/// ```
/// let interval = porism_prover::confidence::wilson(8, 8, porism_prover::confidence::Z_95).unwrap();
/// assert!(interval.low > 0.67 && interval.low < 0.68 && interval.high == 1.0);
/// ```
pub fn wilson(successes: u64, trials: u64, z: f64) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let successes = successes.min(trials);
    let n = trials as f64;
    let p = successes as f64 / n;
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / scale;
    // At the ends the bound is exact; the sum above would miss it by rounding.
    let low = if successes == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if successes == trials { 1.0 } else { (centre + half).min(1.0) };
    Some(Interval { low, high })
}

/// The readings of one proof, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// How many evaluations could be read.
    pub count: u64,
    /// How many of them gave full marks.
    pub passed: u64,
    /// How many count: have a weight.
    pub counted: u64,
    /// How many of those gave full marks.
    pub counted_passed: u64,
    /// Mean score by weight; `None` where no reading has weight.
    pub mean: Option<f64>,
}

impl Readings {
    /// Sums up `(score, weight)` pairs. A weight is 1 unless a meta-verification judged the evaluation. Pairs that are not
    /// finite, or whose weight is below 0, are no readings.
    pub fn new(scores: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut all = Self::default();
        let (mut sum, mut weights) = (0.0, 0.0);
        for (score, weight) in scores {
            if !score.is_finite() || !weight.is_finite() || weight < 0.0 {
                continue;
            }
            let (full, counts) = (score >= FULL_MARKS, weight > 0.0);
            all.count += 1;
            all.passed += u64::from(full);
            all.counted += u64::from(counts);
            all.counted_passed += u64::from(full && counts);
            sum += score * weight;
            weights += weight;
        }
        Self { mean: (weights > 0.0).then(|| sum / weights), ..all }
    }

    /// Share of readings with full marks, as a 95 % Wilson interval.
    pub fn interval(&self) -> Option<Interval> {
        wilson(self.passed, self.count, Z_95)
    }

    /// The confidence statement of a report, in sentences. `contest` adds what full marks meant in published proofs of
    /// contest problems.
    pub fn statement(&self, contest: bool) -> String {
        let mut words = String::new();
        let Some(interval) = self.interval() else {
            return "No reading of this proof could be scored, so nothing is known about it.".to_owned();
        };
        let (passed, count) = (self.passed, self.count);
        let plural = if count == 1 { "reading" } else { "readings" };
        // Writing to a String cannot fail.
        let _ = write!(words, "Passed {passed} of {count} {plural} by the same verifier");
        if let Some(mean) = self.mean {
            let _ = write!(words, ", mean score {mean:.2}");
        }
        let _ = write!(
            words,
            ". 95\u{a0}% Wilson interval for the share of readings that pass: {:.0}\u{a0}% to {:.0}\u{a0}%. ",
            100.0 * interval.low,
            100.0 * interval.high
        );
        words.push_str(
            "This measures how steadily the verifier judges, not whether the proof is true: readings by one model share its \
             mistakes, and nobody but that model has checked this proof.",
        );
        if contest {
            words.push(' ');
            words.push_str(&Calibration::PUBLISHED.statement());
        }
        words
    }
}

/// What an automatic mean of 1 was worth among proofs that people graded too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calibration {
    /// Graded proofs.
    pub proofs: u64,
    /// Of these, with an automatic mean of 1.
    pub automatic_full: u64,
    /// Of the latter, without full marks from people.
    pub not_full: u64,
    /// Of the latter, with none at all from people.
    pub zero: u64,
}

impl Calibration {
    /// Counted from the outputs published with DeepSeekMath-V2 (Putnam 2024, CMO 2024, IMO 2025, IMO-ProofBench). The
    /// example `render_proofs` counts them again.
    pub const PUBLISHED: Self = Self { proofs: 84, automatic_full: 72, not_full: 7, zero: 3 };

    /// Of the proofs with an automatic mean of 1, the share to which people gave full marks, as a 95 % Wilson interval.
    pub fn interval(&self) -> Option<Interval> {
        wilson(self.automatic_full - self.not_full, self.automatic_full, Z_95)
    }

    /// The calibration in a sentence or two.
    pub fn statement(&self) -> String {
        let Self { proofs, automatic_full, not_full, zero } = self;
        let mut words = format!(
            "For comparison: of {proofs} contest proofs published with DeepSeekMath-V2, {automatic_full} have an automatic \
             mean of 1.0; {not_full} of those did not get full marks from human graders ({zero} got none)"
        );
        if let Some(Interval { low, high }) = self.interval() {
            let share = 100.0 * (automatic_full - not_full) as f64 / *automatic_full as f64;
            let _ = write!(
                words,
                ", so full automatic marks meant full human marks in {share:.0}\u{a0}% of them (95\u{a0}% interval {:.0}\u{a0}% to {:.0}\u{a0}%)",
                100.0 * low,
                100.0 * high
            );
        }
        words.push('.');
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (successes, trials, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = wilson(successes, trials, Z_95).unwrap();
            assert!((interval.low - low).abs() < 5e-5, "{successes}/{trials}: {interval:?}");
            assert!((interval.high - high).abs() < 5e-5, "{successes}/{trials}: {interval:?}");
        }
        assert_eq!(wilson(0, 0, Z_95), None);
        assert_eq!(wilson(9, 8, Z_95), wilson(8, 8, Z_95));
    }

    #[test]
    fn readings_weigh_and_skip_what_is_no_number() {
        let readings = Readings::new([(1.0, 1.0), (0.5, 1.0), (0.0, 0.5), (f64::NAN, 1.0), (1.0, -1.0)]);
        assert_eq!((readings.count, readings.passed), (3, 1));
        assert!((readings.mean.unwrap() - 1.5 / 2.5).abs() < 1e-12);
        assert_eq!((readings.counted, readings.counted_passed), (3, 1));
        assert_eq!(Readings::new([]).mean, None);
        assert_eq!(Readings::new([(0.0, 0.0)]).mean, None);
    }

    #[test]
    fn the_statement_says_readings_and_never_proved() {
        let readings = Readings::new([(1.0, 1.0); 8]);
        let words = readings.statement(true);
        for part in [
            "Passed 8 of 8 readings by the same verifier",
            "68\u{a0}% to 100\u{a0}%",
            "84",
            "72",
            "7 of those",
            "(3 got none)",
        ] {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
        assert!(!words.contains("proved"), "{words}");
        assert!(!readings.statement(false).contains("DeepSeekMath"));
    }
}
