//! The checker as the search knows it: a program whose word stands above every reading.

use porism_prover::recompute::{Flaw, Recompute, excerpt};

use crate::{Problem, Score, evaluate};

/// Recomputes proofs of the demo's problems.
#[derive(Clone, Copy, Debug)]
pub struct Checker;

impl Checker {
    /// As the `[domain]` of a model names it.
    pub const NAME: &'static str = "porism-tiny";
}

impl Recompute for Checker {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn falsehood(&self, question: &str) -> Option<String> {
        Problem::parse(question)?.falsehood()
    }

    fn recompute(&self, question: &str, proof: &str) -> Option<Result<(), Flaw>> {
        let problem = Problem::parse(question)?;
        // A file from elsewhere ends its lines as it likes.
        let lines: Vec<&str> = proof.trim().lines().map(str::trim_end).collect();
        let evaluation = evaluate(&problem, &lines.join("\n"));
        let falsehood = problem.falsehood();
        if evaluation.score() == Score::Right && falsehood.is_none() {
            return Some(Ok(()));
        }
        let why = match falsehood {
            Some(why) => format!("the statement is false: {why}"),
            None => {
                let found = evaluation.lines.iter().find(|line| !line.ends_with(", ok."));
                in_words(found.map_or("", String::as_str), &lines)
            }
        };
        Some(Err(Flaw { why, evaluation: evaluation.text() }))
    }
}

/// What an evaluation says of a step, `Step 2: 7*8 = 54? 7*8 = 5! 56, wrong.`, for people.
fn in_words(line: &str, proof: &[&str]) -> String {
    let line = line.trim_end_matches('.');
    let Some((number, said)) = line.strip_prefix("Step ").and_then(|rest| rest.split_once(": ")) else {
        return "it is wrong".to_owned();
    };
    let step = || {
        let number: usize = number.parse().unwrap_or(0);
        excerpt(proof.get(number.wrapping_sub(1)).copied().unwrap_or_default())
    };
    match said.split_once("? ") {
        Some((claimed, found)) if found.ends_with(", a slip") => {
            format!("step {number} has a slip, `{}`", excerpt(claimed))
        }
        Some((claimed, _)) => format!("step {number} is wrong, `{}`", excerpt(claimed)),
        None if said.starts_with("not a valid step") => {
            format!("step {number} is none that it can read, `{}`", step())
        }
        None => match said.strip_prefix("skips ") {
            Some(missing) => format!("step {number} leaves out a step, `{missing}`"),
            None => format!("step {number}: {}", said.trim_end_matches(", wrong")),
        },
    }
}
