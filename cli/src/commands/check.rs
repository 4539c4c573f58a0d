//! `porism check`: grades a proof.

use std::borrow::Cow;

use anyhow::Result;
use porism_prover::check::{Grade, Told, check};
use porism_prover::complete::CompleteError;
use porism_prover::parse::attempt;
use porism_prover::pool::Reading;
use porism_prover::problem::Problem;
use porism_prover::recompute::{Recompute as _, Recomputed};
use porism_prover::roles::Role;
use porism_prover::store::Known;
use serde_json::json;

use super::prove::{DEFAULT_SEED, outside_words, text_or_file};
use crate::answerer::{self, Setup};
use crate::args::Check;
use crate::failure::{Failure, INTERRUPTED};
use crate::interrupt;
use crate::live::{self, Budget, Live, View};
use crate::ui::Ui;

pub fn run(args: &Check, ui: &Ui) -> Result<u8> {
    if args.problem == "-" && args.proof == "-" {
        return Err(Failure::usage("only one of problem and proof can come from stdin")
            .hint("write the other one into a file")
            .into());
    }
    let mut problem = Problem::from_text(&text_or_file(&args.problem, "problem")?, &args.problem)?;
    let text = text_or_file(&args.proof, "proof")?;
    let proof = proof_of(&text);
    if proof.trim().is_empty() {
        return Err(Failure::usage("the proof is empty")
            .hint("give a text, a file, or `-` for stdin")
            .into());
    }
    let setup = Setup::open_reader(&args.prover)?;
    let placed = std::slice::from_mut(&mut problem);
    let outside = !setup.bounds.place(placed, args.prover.outside_domain, ui)?.is_empty();
    let known = setup.bounds.known();
    if let Some(known) = known.as_ref().filter(|_| outside) {
        ui.warn(&outside_words(known));
    }
    let referee = setup.bounds.referee().filter(|_| !args.prover.no_recompute);
    let computed = Computed {
        falsehood: referee.as_ref().and_then(|referee| referee.falsehood(&problem.question)),
        found: referee.as_ref().and_then(|referee| Recomputed::by(referee, &problem.question, proof.trim())),
        outside,
    };
    let settings = setup.settings(&args.prover)?;
    let seed = args.prover.seed.unwrap_or(DEFAULT_SEED);
    interrupt::install();
    let plainly = |told: &Told<'_>| match told {
        _ if args.json => {}
        Told::Notice(words) => ui.aside(words),
        Told::Reading { number, role, score } => {
            let what = if *role == Role::Verify { "reading" } else { "judgement of reading" };
            let score = match score {
                Ok(score) => format!("score {}", score.value()),
                Err(why) => format!("lost: {why}"),
            };
            ui.aside(&format!("{what} {}: {score}", number + 1));
        }
    };
    let view = || {
        let named = (problem.problem_idx.clone(), problem.question.clone());
        let budget = Budget { rounds: 1, proofs: 1, readings: settings.verifications, ..Budget::default() };
        View::new("check", vec![named], budget)
    };
    let graded = setup.answer(&args.prover, ui, None, |complete, _| {
        let live = Live::start(ui, args.json, view);
        let mut told = |told: Told<'_>| {
            if let Some(live) = &live {
                live.tell(|view| view.told(&told));
            }
            if !live.as_ref().is_some_and(Live::tells) {
                plainly(&told);
            }
        };
        live::watched(live.as_ref(), complete, |complete| {
            let interrupted = &interrupt::requested;
            check(&problem, proof.trim(), &setup.prompts, &settings, seed, complete, interrupted, &mut told)
        })
    })?;
    let grade = match graded {
        Ok(grade) => grade,
        Err(CompleteError::Interrupted) => return Ok(INTERRUPTED),
        Err(error) => return Err(answerer::unwrap(error)),
    };
    if args.json {
        ui.json(&as_json(&grade, &computed, known.as_ref(), seed))?;
    } else {
        for reading in &grade.readings {
            let weight = match reading.weight {
                1.0 => String::new(),
                weight => format!(" (counts {weight}: the judge does not agree)"),
            };
            ui.heading(&format!("Reading {}: {}{weight}", reading.number + 1, reading.score))?;
            ui.text(&format!("{}\n\n", reading.text))?;
        }
        let counted = grade.readings.iter().filter(|reading| reading.weight > 0.0).count();
        match grade.mean() {
            Some(mean) => ui.note(&format!(
                "mean {mean:.2} of {counted} counted readings; {} unreadable",
                grade.unreadable.len()
            )),
            None => ui.warn("no reading counts, so there is no grade"),
        }
        match (&computed.falsehood, &computed.found) {
            (Some(why), _) => ui.warn(&format!("the statement is false, as a program finds: {why}")),
            (None, Some(Recomputed { why: Some(why), .. })) => {
                ui.warn(&format!("recomputed by a program, which finds a flaw: {why}"));
            }
            (None, Some(_)) => {
                ui.note("recomputed by a program: every step holds, and the last one is what was asked")
            }
            (None, None) => {}
        }
        if let Some(known) = &known {
            ui.note(&known.reservation());
        }
    }
    // Whoever read nothing has not said no.
    if grade.readings.is_empty() && grade.lost_to_network > 0 && computed.lets_pass() {
        let why = grade.unreadable.first().map_or("", |(_, why)| why.as_str());
        let message = format!(
            "the proof was not read: {} of {} readings were lost to the network: {why}",
            grade.lost_to_network, settings.verifications
        );
        return Err(Failure::network(message)
            .hint("look into the server's log, and run the same command again")
            .into());
    }
    Ok(u8::from(!(grade.passed() && computed.lets_pass())))
}

/// What is known without a model.
struct Computed {
    /// Why the statement is false.
    falsehood: Option<String>,
    /// What a program found in the proof.
    found: Option<Recomputed>,
    /// Whether the problem is none that the model knows.
    outside: bool,
}

impl Computed {
    fn lets_pass(&self) -> bool {
        !self.outside && self.falsehood.is_none() && self.found.as_ref().is_none_or(|found| found.holds)
    }
}

fn as_json(grade: &Grade, computed: &Computed, known: Option<&Known>, seed: u64) -> serde_json::Value {
    let reading = |reading: &Reading| {
        let judgement = reading.judgements.first();
        json!({
            "reading": reading.number + 1,
            "score": reading.score,
            "weight": reading.weight,
            "evaluation": reading.text,
            "judgement": judgement.map(|said| json!({"score": said.score, "text": said.text})),
        })
    };
    let unreadable = |(number, why): &(u32, String)| json!({"reading": number + 1, "problem": why});
    json!({
        "schema": 1,
        "passed": grade.passed() && computed.lets_pass(),
        "recomputed": computed.found,
        "falsehood": computed.falsehood,
        "outside_domain": computed.outside,
        "domain": known,
        "meanscore": grade.mean(),
        "readings": grade.readings.iter().map(reading).collect::<Vec<_>>(),
        "unreadable": grade.unreadable.iter().map(unreadable).collect::<Vec<_>>(),
        "lost_to_network": grade.lost_to_network,
        "tokens": grade.tokens,
        "seed": seed,
    })
}

/// The proof of what a model wrote to be read by a machine: the section `## Solution`, without the model's own evaluation of it. Any
/// other text is a proof as it stands.
fn proof_of(text: &str) -> Cow<'_, str> {
    match text.trim_start().split_once('\n') {
        Some((heading, _)) if heading.trim_end() == "## Solution" => {
            attempt(text).map_or(Cow::default(), |attempt| attempt.proof.into())
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::proof_of;

    #[test]
    fn a_models_answer_is_its_proof() {
        let proof = "1. 6*7 = 42.\n2. 42 + 2 = 44.";
        for answer in [
            proof.to_owned(),
            format!("## Solution\n{proof}"),
            format!("\n## Solution\r\n{proof}\n\n## Self Evaluation\nStep 1: 6*7 = 42, ok.\n"),
        ] {
            assert_eq!(proof_of(&answer), proof);
        }
        for whole in ["## Solutions\nx", "Let x be.\n## Solution\ny", "## Solution"] {
            assert_eq!(proof_of(whole), whole);
        }
    }
}
