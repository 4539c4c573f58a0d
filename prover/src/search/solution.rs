//! What came of a problem: a line of `predictions.jsonl`, and a section of `solution.md`.

use crate::confidence::Readings;
use crate::pool::{self, Outcome, Prediction};
use crate::problem::Problem;
use crate::recompute::Recomputed;

use super::planner::Plan;

/// The line of `predictions.jsonl`.
pub(super) fn outcome(problem: &Problem, plan: &Plan, outside_domain: bool) -> Outcome {
    let chosen = plan.chosen();
    let prediction = Prediction {
        proof: chosen.map(|proof| proof.proof.clone()),
        average_automatic_rating: chosen.and_then(|proof| proof.meanscore),
    };
    Outcome {
        question: problem.question.clone(),
        problem_idx: problem.problem_idx.clone(),
        model_prediction: Some(prediction),
        source: problem.source.clone(),
        passed: plan.passed(),
        end: plan.end.map(|(end, _)| end),
        proof_id: chosen.map(|proof| proof.proof_id),
        readings: chosen.map_or(0, |proof| proof.readings.len()),
        other_readings: chosen.map_or(0, |proof| plan.other_readings(proof).count()),
        recomputed: chosen.and_then(|proof| proof.recomputed.clone()),
        falsehood: plan.falsehood.clone(),
        outside_domain,
    }
}

/// The section of `solution.md`.
pub(super) fn text(problem: &Problem, plan: &Plan, outside: bool) -> String {
    let mut text = format!("# {}\n\n{}\n\n", problem.problem_idx, problem.question);
    if outside {
        text.push_str("**Outside of what the model knows: nothing that follows counts.**\n\n");
    }
    if let Some(why) = &plan.falsehood {
        text.push_str(&format!("**The statement is false, as a program finds: {why}.**\n\n"));
    }
    if let Some(why) = plan.unfinished() {
        text.push_str(&format!("**Unfinished**: {why}.\n\n"));
    }
    let Some(proof) = plan.chosen() else {
        text.push_str("No proof was written.\n\n");
        return text;
    };
    let Readings { counted, counted_passed: ones, .. } = pool::sum(&proof.readings);
    let verdict = if plan.passed() { "Passed" } else { "Did not pass" };
    let heading = if plan.passed() && !outside { "Proof" } else { "Best attempt (not accepted)" };
    let computed = match &proof.recomputed {
        Some(Recomputed { why: Some(why), .. }) => {
            format!("Recomputed by a program, which finds a flaw: {why}.\n\n")
        }
        Some(_) => {
            "Recomputed by a program: every step holds, and the last one is what was asked.\n\n".to_owned()
        }
        None => String::new(),
    };
    let other = match pool::sum(plan.other_readings(proof)) {
        Readings { counted: 0, .. } => String::new(),
        Readings { counted, counted_passed, .. } => {
            format!(" In other rounds {counted_passed} of {counted} of the same text did.")
        }
    };
    text.push_str(&format!(
        "## {heading}\n\n{}\n\n{computed}{verdict}: {ones} of {counted} counted readings by the verifier say 1.{other}\n\n",
        proof.proof
    ));
    text
}
