//! The Rust checker of the demo's proofs agrees with the one that made the training data.

use porism_tests::checker::{Problem, Score, evaluate, split_output};
use serde_json::Value;

/// 1,000 proofs with the verdict of `models/train/data.py`; made by `golden/checker/make.py`.
const PROOFS: &str = include_str!("../golden/checker/proofs.jsonl");

fn rows() -> Vec<Value> {
    PROOFS.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {row}"))
}

#[test]
fn verdicts_equal_the_training_checkers_word_for_word() {
    let rows = rows();
    assert_eq!(rows.len(), 1000);
    let mut scores = [0; 3];
    for (number, row) in rows.iter().enumerate() {
        let problem =
            Problem::parse(text(row, "problem")).unwrap_or_else(|| panic!("line {}: problem", number + 1));
        let evaluation = evaluate(&problem, text(row, "solution"));
        let context = || format!("line {}: {}\n{}", number + 1, text(row, "problem"), text(row, "solution"));
        assert_eq!(evaluation.text(), text(row, "evaluation"), "{}", context());
        assert_eq!(evaluation.score().as_str(), text(row, "score"), "{}", context());
        assert_eq!(
            evaluation.wrong_step.map(|step| step as u64),
            row["wrong_step"].as_u64(),
            "{}",
            context()
        );
        scores[evaluation.score() as usize] += 1;
    }
    let least = scores.into_iter().min();
    assert!(least >= Some(50), "wrong, half, right: {scores:?}: every verdict must occur often");
}

#[test]
fn every_changed_number_of_a_right_proof_is_noticed() {
    for row in rows().iter().filter(|row| text(row, "score") == "1") {
        let problem = Problem::parse(text(row, "problem")).expect("parsed above");
        let solution = text(row, "solution");
        for (at, digit) in solution.char_indices().filter(|(_, c)| c.is_ascii_digit()) {
            let other = char::from(b'0' + (digit as u8 - b'0' + 1) % 10);
            let changed = format!("{}{other}{}", &solution[..at], &solution[at + 1..]);
            assert_ne!(
                evaluate(&problem, &changed).score(),
                Score::Right,
                "{}\n{changed}",
                text(row, "problem")
            );
        }
    }
}

#[test]
fn unreadable_input_is_wrong_and_never_panics() {
    let problem = Problem::parse("Prove that gcd(84, 30) = 6.").expect("a problem of the domain");
    let digits = "9".repeat(400);
    for solution in ["", "\n\n", "1. ", "1.", "2. So", "1. 84 - 0*0 = 84 - 0 = 84.", "1. ± − ≠", &digits]
    {
        assert_eq!(evaluate(&problem, solution).score(), Score::Wrong, "{solution:?}");
    }
    let huge = format!("1. 84 - {digits}*30 = 84 - 60 = 24.");
    assert_eq!(
        evaluate(&problem, &huge).text(),
        "Step 1: not a valid step, wrong.\nStep 1 is wrong.\n\\boxed{0}"
    );
    for other in [
        "",
        "Prove that 600 is prime.",
        "Solve 0x + 1 = 1 and prove the answer is right.",
        "Prove that 0 divides 2*2 + 2.",
        &digits,
    ] {
        assert_eq!(Problem::parse(other), None, "{other:?}");
    }
}

#[test]
fn the_parts_of_an_answer_are_found() {
    let answer = "Use the Euclidean algorithm.</think>## Solution\n1. A.\n2. B.\n\n## Self Evaluation\nStep 1: ok.\n\\boxed{0.5}\n\\boxed{1}<｜end▁of▁sentence｜>rest";
    let output = split_output(answer);
    assert_eq!(output.think.as_deref(), Some("Use the Euclidean algorithm."));
    assert_eq!(output.solution.as_deref(), Some("1. A.\n2. B."));
    assert_eq!(output.evaluation.as_deref(), Some("Step 1: ok.\n\\boxed{0.5}\n\\boxed{1}"));
    assert_eq!(output.score.as_deref(), Some("1"));
    let verdict = split_output("</think>Step 1: ok.\n\\boxed{0}");
    assert_eq!((verdict.solution, verdict.score.as_deref()), (None, Some("0")));
    assert_eq!(split_output("no verdict").score, None);
}
