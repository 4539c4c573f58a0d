//! A run as one HTML file: problem, chosen proof, every evaluation, the pool, the confidence, what it cost, how to rerun it.
//!
//! The file needs no script and no network: everything is in it, and nothing in it points outside. All text of models goes
//! through [`porism_render`]. A [`Report`] is plain data, so that a page can be made (and tested) without a run;
//! [`Report::from_folder`] fills one from a run's folder.

mod folder;
mod page;
mod plot;

use std::fmt::Write as _;

pub use folder::{ReportError, write};
pub use page::Page;
use porism_render::heading;

use crate::confidence::Readings;
use crate::pool::{self, Outcome, Proof};
use crate::recompute::Recomputed;
use crate::store::Spent;

/// Everything the page tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Heading of the page: a line of Markdown with formulas.
    pub title: String,
    /// The problems, in order.
    pub problems: Vec<ProblemReport>,
    /// What the run took.
    pub spent: Spent,
    /// Seconds, over all sessions that ended by themselves.
    pub seconds: f64,
    /// Settings by name, as they should be shown.
    pub settings: Vec<(String, String)>,
    /// Command that makes the run again.
    pub rerun: String,
    /// Whether the problems are of the kind that the published calibration is about.
    pub contest: bool,
    /// What the model knows, and that nothing else counts that it says; empty where nobody wrote it down.
    pub reservation: String,
    /// Remarks, such as what a rerun need not repeat.
    pub notes: Vec<String>,
}

/// One problem and its pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProblemReport {
    /// What came of it; without a prediction where the run was killed, or is under way.
    pub outcome: Outcome,
    /// All proofs, in the order they were made.
    pub pool: Vec<Proof>,
}

impl ProblemReport {
    /// Whether a proof passed, of a problem that the model knows.
    fn is_accepted(&self) -> bool {
        self.outcome.passed && !self.outcome.outside_domain
    }

    /// Why the search ended before all its rounds were done, if it did: the middle of a sentence.
    pub fn unfinished(&self) -> Option<&'static str> {
        match self.outcome.model_prediction {
            None => Some("this run has not ended; the same command goes on with it"),
            Some(_) => self.outcome.end?.unfinished(),
        }
    }

    fn proof(&self, proof_id: u32) -> Option<&Proof> {
        self.pool.iter().find(|proof| proof.proof_id == proof_id)
    }

    /// What a page about it alone is called: its statement, shortened, after its name in a set.
    fn title(&self) -> String {
        let Outcome { question, problem_idx, source, .. } = &self.outcome;
        let statement = heading::heading(question);
        // A problem that was typed is named after its own text.
        match (statement.is_empty(), source.is_empty() || source == "problem") {
            (true, _) if problem_idx.is_empty() => "A proof".to_owned(),
            (true, _) => problem_idx.clone(),
            (false, true) => statement,
            (false, false) => format!("{problem_idx}: {statement}"),
        }
    }

    /// The chosen proof.
    pub fn chosen(&self) -> Option<&Proof> {
        self.outcome.proof_id.and_then(|proof_id| self.proof(proof_id))
    }

    /// The readings of a proof's text in all rounds.
    fn all_readings(&self, proof: &Proof) -> Readings {
        let all = std::iter::once(proof).chain(pool::others(&self.pool, proof));
        pool::sum(all.flat_map(|proof| &proof.readings))
    }

    /// How sure a proof is: its readings, and those of the same text in other rounds.
    fn statement(&self, proof: &Proof, contest: bool) -> String {
        let readings = pool::sum(&proof.readings);
        if let Some(Recomputed { holds, why, .. }) = &proof.recomputed {
            let Readings { passed, count, .. } = readings;
            return match holds {
                true => format!(
                    "Recomputed by a program: every step holds, and the last one is what was asked. It passed {passed} of \
                     {count} readings by the verifier, too, which alone would be no certainty."
                ),
                false => format!(
                    "Recomputed by a program, which finds a flaw: {}. It passed {passed} of {count} readings by the \
                     verifier, which was mistaken.",
                    why.as_deref().unwrap_or_default()
                ),
            };
        }
        let mut others = pool::others(&self.pool, proof).peekable();
        if others.peek().is_none() {
            return readings.statement(contest);
        }
        let mut statement =
            format!("Passed {} of {} readings in round {}", readings.passed, readings.count, proof.round_idx);
        for other in others {
            let Readings { passed, count, .. } = pool::sum(&other.readings);
            let _ = write!(
                statement,
                ", {passed} of {count} in round {}, as proof {}",
                other.round_idx, other.proof_id
            );
        }
        let _ = write!(statement, ". All together: {}", self.all_readings(proof).statement(contest));
        statement
    }

    /// The chosen proof and those it came from, oldest first.
    fn ancestry(&self) -> Vec<&Proof> {
        let mut line: Vec<&Proof> = Vec::new();
        let mut waiting: Vec<u32> = self.outcome.proof_id.into_iter().collect();
        while let Some(proof_id) = waiting.pop() {
            let Some(proof) = self.proof(proof_id) else { continue };
            // A damaged pool could name a proof as its own ancestor.
            if line.iter().all(|seen| seen.proof_id != proof_id) {
                line.push(proof);
                waiting.extend(&proof.dep_proof_ids);
            }
        }
        line.sort_by_key(|proof| (proof.round_idx, proof.proof_id));
        line
    }
}
