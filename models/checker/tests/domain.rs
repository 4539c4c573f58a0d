//! The domain that the demo states is the one it was trained on, and the checker knows all of it.

use std::path::Path;

use porism_checker::problems::{Family, false_statements, held_out};
use porism_checker::{Checker, Problem};
use porism_prover::domain::{Domain, Outside};
use porism_prover::prompts::PromptSet;
use porism_prover::recompute::Recompute as _;

fn domain() -> Domain {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../porism-tiny/prompts.toml");
    let prompts = PromptSet::open(&file).expect("its prompts are read");
    prompts.domain().expect("it states its domain").clone()
}

#[test]
fn every_problem_it_was_trained_on_is_in_the_domain_as_it_stands() {
    let domain = domain();
    assert_eq!(domain.program(), Some(Checker.name()));
    let true_ones = Family::ALL.into_iter().flat_map(|family| held_out(family, 120, 3));
    for problem in true_ones {
        let question = &problem.question;
        assert_eq!(domain.find(question).map(|found| found.text), Ok(question.clone()), "{question}");
        assert!(Problem::parse(question).is_some(), "{question}");
        assert_eq!(Checker.falsehood(question), None, "{question}");
    }
    for problem in false_statements(400, 3) {
        let question = &problem.question;
        assert_eq!(domain.find(question).map(|found| found.text), Ok(question.clone()), "{question}");
        assert!(Checker.falsehood(question).is_some(), "{question}");
    }
    assert!(domain.examples().all(|example| Problem::parse(example).is_some()));
}

#[test]
fn what_a_person_types_otherwise_is_read_as_what_was_trained() {
    let domain = domain();
    for (typed, read) in [
        ("  Prove that gcd(84, 30) = 6.\n", "Prove that gcd(84, 30) = 6."),
        ("\u{feff}Prove that gcd(84, 30) = 6.\r\n", "Prove that gcd(84, 30) = 6."),
        ("Prove that gcd(84, 30) = 6", "Prove that gcd(84, 30) = 6."),
        ("gcd(84,30)=6", "Prove that gcd(84, 30) = 6."),
        ("PROVE THAT GCD( 84 , 30 ) = 6 .", "Prove that gcd(84, 30) = 6."),
        ("prove\nthat   gcd(84,\t30) = 6.", "Prove that gcd(84, 30) = 6."),
        ("Show gcd(84, 30) = 6.", "Show that gcd(84, 30) = 6."),
        ("Prove that the gcd of 84 and 30 is 6.", "Show that the greatest common divisor of 84 and 30 is 6."),
        ("Solve 7x+12=61.", "Solve 7x + 12 = 61 and prove the answer is right."),
        ("Solve 5*x − 8 = 27", "Solve 5x - 8 = 27 and prove the answer is right."),
        ("11 divides 7·7 + 6", "Prove that 11 divides 7*7 + 6."),
        ("Prove that 7*7 + 6 is divisible by 11", "Show that 7*7 + 6 is divisible by 11."),
        ("show that 8*5-6 is even", "Show that 8*5 - 6 is even."),
    ] {
        assert_eq!(domain.find(typed).map(|found| found.text), Ok(read.to_owned()), "{typed}");
        assert!(Problem::parse(read).is_some(), "{read}");
    }
}

#[test]
fn a_number_beyond_its_range_is_named() {
    let domain = domain();
    for (typed, words) in [
        ("Prove that gcd(840, 300) = 60.", "a is 840, and may be 5 to 120"),
        ("Prove that gcd(30, 84) = 6.", "b is 84, and may be 4 to 40"),
        ("Prove that gcd(30, 36) = 6.", "b < a"),
        ("Prove that gcd(084, 30) = 6.", "`084` is no number"),
        ("Prove that 2 divides 7*7 + 5.", "d is 2, and may be 3 to 12"),
        ("Solve 2x + 1 = 101.", "c <= 12*a + b"),
    ] {
        match domain.find(typed) {
            Err(Outside::But(why)) => assert!(why.contains(words), "{typed}: {why}"),
            other => panic!("{typed}: {other:?}"),
        }
    }
}
