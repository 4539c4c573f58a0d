//! The demo on problems it has never seen. `cargo run --release -p porism-heldout -- --per-family 100`
//! measures more of them and prints a table.

use porism_checker as checker;
use porism_checker::Checker;
use porism_checker::problems::{Family, false_statements, held_out, is_held_out};
use porism_heldout::{COLUMNS, Tally, measure, prove, usual};
use porism_prover::recompute::{Flaw, Recompute};
use porism_prover::settings::Settings;

/// So many problems of each family, drawn with this seed.
const PER_FAMILY: usize = 12;
const SEED: u64 = 20_261_124;

/// Of the proofs that the search accepts, at least this share must be right.
const LEAST_RIGHT: f64 = 0.90;
/// Of all problems, at least this share must end with a right proof. That this beats a single sample shows only with more
/// problems: the example prints both.
const LEAST_SOLVED: f64 = 0.90;

#[test]
fn what_the_search_accepts_is_mostly_right() {
    let mut all = Tally::default();
    let mut table = format!("{:<8} {COLUMNS}\n", "");
    for family in Family::ALL {
        let tally = measure(family, PER_FAMILY, SEED, None);
        table.push_str(&format!("{:<8} {tally}\n", family.name()));
        all = all.plus(&tally);
    }
    table.push_str(&format!("{:<8} {all}\n", "all"));
    let wrong = &all.wrong;
    assert!(all.precision() >= LEAST_RIGHT, "{table}{wrong:#?}");
    assert!(all.solved as f64 >= LEAST_SOLVED * all.problems as f64, "{table}");
}

#[test]
fn no_proof_of_a_false_statement_passes() {
    const STATEMENTS: usize = 200;
    // One reading lets more pass than eight, and the program has to catch it all. Without the short cut for statements that it
    // finds false, so that it is the proofs that are judged.
    struct OfProofs;
    impl Recompute for OfProofs {
        fn name(&self) -> &str {
            Checker.name()
        }
        fn falsehood(&self, _: &str) -> Option<String> {
            None
        }
        fn recompute(&self, question: &str, proof: &str) -> Option<Result<(), Flaw>> {
            Checker.recompute(question, proof)
        }
    }
    let problems = false_statements(STATEMENTS, SEED);
    let settings = Settings {
        rounds: 1,
        proofs: 1,
        verifications: 1,
        minimum_readings: 1,
        meta_verify: false,
        max_tokens_per_proof: 400,
        max_tokens_per_reading: 400,
        ..usual()
    };
    let plans = prove(&problems, SEED, settings, Some(&OfProofs), None);
    assert_eq!(plans.len(), STATEMENTS);
    let written = plans.iter().filter(|plan| plan.chosen().is_some()).count();
    assert!(written > STATEMENTS / 2, "only {written} proofs were written");
    for (problem, plan) in problems.iter().zip(&plans) {
        assert!(!plan.passed(), "{}: {}", problem.question, plan.chosen().map_or("", |proof| &proof.proof));
    }
}

#[test]
fn held_out_problems_are_those_of_the_training() {
    // Computed with `models/train/data.py`.
    for key in [
        "gcd:(82, 21)",
        "gcd:(120, 28)",
        "gcd:(15, 10)",
        "linear:(6, '-', 5, 7)",
        "linear:(9, '+', 23, 41)",
        "divides:(1, 2, 10, '+', 19)",
        "divides:(7, 3, 2, '+', 22)",
    ] {
        assert!(is_held_out(key), "{key}");
    }
    for key in ["gcd:(84, 30)", "linear:(3, '+', 5, 26)", "divides:(4, 6, 7, '+', 2)"] {
        assert!(!is_held_out(key), "{key}");
    }
    for family in Family::ALL {
        let problems = held_out(family, 150, 7);
        assert_eq!(problems, held_out(family, 150, 7));
        assert_ne!(problems, held_out(family, 150, 8));
        for problem in &problems {
            let parsed = checker::Problem::parse(&problem.question);
            let of_the_family = matches!(
                (family, parsed),
                (Family::Gcd, Some(checker::Problem::Gcd { .. }))
                    | (Family::Linear, Some(checker::Problem::Linear { .. }))
                    | (Family::Divides, Some(checker::Problem::Divides { .. }))
            );
            assert!(of_the_family, "{}", problem.question);
        }
    }
}
