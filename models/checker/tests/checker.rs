//! The Rust checker of the demo's proofs agrees with the one that made the training data.

use porism_checker::{Checker, Problem, Score, evaluate, split_output};
use porism_prover::recompute::Recompute as _;
use serde_json::Value;

/// 1,600 proofs with the verdict of `models/train/data.py`; made by `tests/golden/checker/make.py`.
const PROOFS: &str = include_str!("../../../tests/golden/checker/proofs.jsonl");

fn rows() -> Vec<Value> {
    PROOFS.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {row}"))
}

#[test]
fn verdicts_equal_the_training_checkers_word_for_word() {
    let rows = rows();
    assert_eq!(rows.len(), 1600);
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
fn a_line_is_set_beside_what_it_must_be() {
    for (problem, solution, evaluation) in [
        (
            "Prove that gcd(12, 9) = 3.",
            "1. 12 - 1*9 = 12 - 9 = 3.\n2. 9 - 3*3 = 9 - 9 = 0.\n3. The last nonzero remainder is 2, so gcd(12, 9) = 3.",
            "Step 1: 12 - 1*9 = 12 - 9 = 3? 12 - 1*9 = 12 - 9 = 3, ok.\n\
             Step 2: 9 - 3*3 = 9 - 9 = 0? 9 - 3*3 = 9 - 9 = 0, ok.\n\
             Step 3: The last nonzero remainder is 2, so gcd(12, 9) = 3? The last nonzero remainder is ! 3, wrong.\n\
             Step 3 is wrong.\n\\boxed{0}",
        ),
        (
            "Prove that gcd(12, 9) = 4.",
            "1. 12 - 1*9 = 12 - 9 = 3.\n2. The last nonzero remainder is 3, so gcd(12, 9) = 3.",
            "Step 1: 12 - 1*9 = 12 - 9 = 3? 12 - 1*9 = 12 - 9 = 3, ok.\n\
             Step 2: skips 9 - 3*3 = 9 - 9 = 0.\n\
             Step 2: The last nonzero remainder is 3, so gcd(12, 9) = 3? \
             The last nonzero remainder is 3, so gcd(12, 9) = 3, ok.\n\
             Step 2: prove 4? prove ! 3, wrong.\n\
             Step 2 is wrong.\n\\boxed{0}",
        ),
        // a line that says too much, and one that cannot be right
        (
            "Prove that 2*3 + 4 is even.",
            "1. 2*3 = 6.\n2. 6 + 4 = 10.\n3. 10 = 2*5 + 1.",
            "Step 1: 2*3 = 6? 2*3 = 6, ok.\nStep 2: 6 + 4 = 10? 6 + 4 = 10, ok.\n\
             Step 3: 10 = 2*5 + 1? 10 = 2*5! 2*5, wrong.\nStep 3 is wrong.\n\\boxed{0}",
        ),
        (
            "Solve 3x - 1 = 6 and prove the answer is right.",
            "1. 3x = 6 + 1 = 7.\n2. x = 7/3 = 2.",
            "Step 1: 3x = 6 + 1 = 7? 3x = 6 + 1 = 7, ok.\nStep 2: x = 7/3 = 2? x = 7/3 = 2! + 1/3, wrong.\n\
             Step 2 is wrong.\n\\boxed{0}",
        ),
        // what is so, instead of what is claimed
        (
            "Solve 3x - 1 = 6 and prove the answer is right.",
            "1. 3x = 6 + 1 = 7.\n2. x = 7/3 = 2 + 1/3.\n3. So x is no integer.",
            "Step 1: 3x = 6 + 1 = 7? 3x = 6 + 1 = 7, ok.\nStep 2: x = 7/3 = 2 + 1/3? x = 7/3 = 2 + 1/3, ok.\n\
             Step 3: So x is no integer? So x is ! an, wrong.\nStep 3 is wrong.\n\\boxed{0}",
        ),
        (
            "Show that 2*3 + 4 is divisible by 4.",
            "1. 2*3 = 6.\n2. 6 + 4 = 10.\n3. 10 = 4*2 + 2.\n4. So 4 does not divide 2*3 + 4.",
            "Step 1: 2*3 = 6? 2*3 = 6, ok.\nStep 2: 6 + 4 = 10? 6 + 4 = 10, ok.\n\
             Step 3: 10 = 4*2 + 2? 10 = 4*2 + 2, ok.\n\
             Step 4: So 4 does not divide 2*3 + 4? So 4 ! divides, wrong.\nStep 4 is wrong.\n\\boxed{0}",
        ),
        // what is claimed, although it is not so
        (
            "Show that 2*3 + 4 is divisible by 4.",
            "1. 2*3 = 6.\n2. 6 + 4 = 10.\n3. 10 = 4*2 + 2.\n4. So 4 divides 2*3 + 4.",
            "Step 1: 2*3 = 6? 2*3 = 6, ok.\nStep 2: 6 + 4 = 10? 6 + 4 = 10, ok.\n\
             Step 3: 10 = 4*2 + 2? 10 = 4*2 + 2, ok.\n\
             Step 4: So 4 divides 2*3 + 4? So 4 ! does, wrong.\nStep 4 is wrong.\n\\boxed{0}",
        ),
        (
            "Prove that 2*3 + 4 is odd.",
            "1. 2*3 = 6.\n2. 6 + 4 = 10.\n3. 10 = 2*5.\n4. So 2*3 + 4 is odd.",
            "Step 1: 2*3 = 6? 2*3 = 6, ok.\nStep 2: 6 + 4 = 10? 6 + 4 = 10, ok.\n\
             Step 3: 10 = 2*5? 10 = 2*5, ok.\n\
             Step 4: So 2*3 + 4 is odd? So 2*3 + 4 is ! even, wrong.\nStep 4 is wrong.\n\\boxed{0}",
        ),
        // the square is a slip, however long it is; a division by the wrong number is compared with the one that is due
        (
            "Prove that 53 is prime.",
            "1. 11*11 = 21 > 53, so test the primes below 11.\n2. 53 ends in 3, so 2 and 5 do not divide it.\n\
             3. 5 + 3 = 8, so 3 does not divide it.\n4. 53 - 4*13 = 53 - 52 = 1.",
            "Step 1: 11*11 = 21 > 53, so test the primes below 11? 11*11 = ! 121, a slip.\n\
             Step 2: 53 ends in 3, so 2 and 5 do not divide it? 53 ends in 3, so 2 and 5 do not divide it, ok.\n\
             Step 3: 5 + 3 = 8, so 3 does not divide it? 5 + 3 = 8, so 3 does not divide it, ok.\n\
             Step 4: 53 - 4*13 = 53 - 52 = 1? 53 - ! 7*7, wrong.\nStep 4 is wrong.\n\\boxed{0}",
        ),
    ] {
        let parsed = Problem::parse(problem).expect("a problem of the domain");
        assert_eq!(evaluate(&parsed, solution).text(), evaluation, "{problem}\n{solution}");
    }
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

#[test]
fn a_false_statement_is_found_false_and_no_proof_of_it_right() {
    for (question, why) in [
        ("Prove that gcd(84, 30) = 12.", Some("gcd(84, 30) is 6")),
        ("Show that the greatest common divisor of 84 and 30 is 6.", None),
        ("Prove that 15 is prime.", Some("15 is 3*5")),
        ("Prove that 17 is composite.", Some("17 is prime")),
        ("Show that 17 is a prime number.", None),
        (
            "Solve 7x + 12 = 60 and prove the answer is right.",
            Some("7x would be 48, which 7 does not divide, so no integer x solves it"),
        ),
        ("Prove that 7*7 + 6 is even.", Some("7*7 + 6 is 55, which is odd")),
        ("Prove that 7*7 + 7 is odd.", Some("7*7 + 7 is 56, which is even")),
        ("Prove that 10 divides 7*7 + 6.", Some("7*7 + 6 is 55, which leaves 5 when it is divided by 10")),
        ("Prove that 3 divides 2*2 - 10.", None),
        ("Prove that 4 divides 2*2 - 10.", Some("2*2 - 10 is -6, which leaves 2 when it is divided by 4")),
        ("Prove that 1 = 2.", None),
    ] {
        assert_eq!(Checker.falsehood(question).as_deref(), why, "{question}");
    }
    // A right proof of the opposite is no proof.
    let composite = "1. 5*3 = 15.\n2. 1 < 3 < 15, so 15 is not prime.";
    assert_eq!(Checker.recompute("Prove that 15 is not prime.", composite), Some(Ok(())));
    let flaw = Checker.recompute("Prove that 15 is prime.", composite).unwrap().unwrap_err();
    assert_eq!(flaw.why, "the statement is false: 15 is 3*5");
    let six = "1. 84 - 2*30 = 84 - 60 = 24.\r\n2. 30 - 1*24 = 30 - 24 = 6. \n\
               3. 24 - 4*6 = 24 - 24 = 0.\n4. The last nonzero remainder is 6, so gcd(84, 30) = 6.\n\n";
    assert_eq!(Checker.recompute("Prove that gcd(84, 30) = 6.", six), Some(Ok(())));
    let flaw = Checker.recompute("Prove that gcd(84, 30) = 12.", six).unwrap().unwrap_err();
    assert_eq!(flaw.why, "the statement is false: gcd(84, 30) is 6");
    assert!(
        flaw.evaluation.contains("prove 12? prove ! 6, wrong") && flaw.evaluation.ends_with("\\boxed{0}"),
        "{flaw:?}"
    );
    // Another right proof than the one that was asked for, one with a step left out, and one in other words.
    for (proof, why) in [
        (
            six.replace("84, 30", "84, 36"),
            "step 4 is wrong, `The last nonzero remainder is 6, so gcd(84, 36) = 6`",
        ),
        (
            six.replace("3. 24 - 4*6 = 24 - 24 = 0.\n4.", "3."),
            "step 3 leaves out a step, `24 - 4*6 = 24 - 24 = 0`",
        ),
        (
            "As 84 = 14*6 and 30 = 5*6, it is 6.".to_owned(),
            "step 1 is none that it can read, `As 84 = 14*6 and 30 = 5*6, it is 6.`",
        ),
        (String::new(), "step 1 is none that it can read"),
        ("1. 84 - 2*30 = 84 - 60 = 24.".to_owned(), "step 2: the conclusion is missing"),
    ] {
        let flaw = Checker.recompute("Prove that gcd(84, 30) = 6.", &proof).unwrap().unwrap_err();
        assert!(flaw.why.contains(why) && !flaw.evaluation.ends_with("\\boxed{1}"), "{proof}: {flaw:?}");
    }
    assert_eq!(Checker.recompute("Prove that 1 = 2.", six), None);
}
