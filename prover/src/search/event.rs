//! What happens in a search.

use serde::Serialize;

use crate::parse::Score;
use crate::pool::{End, State};
use crate::recompute::Recomputed;
use crate::store::{Known, Spent};

/// What happens, for people and for `--json`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A search begins or goes on.
    Start {
        /// The run's folder.
        folder: &'a str,
        /// How many problems.
        problems: usize,
        /// The run's seed.
        seed: u64,
        /// Completions that are there already.
        resumed: u64,
        /// What the model knows that writes or reads, and the problems that are none of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<&'a Known>,
    },
    /// A completion came or was lost.
    Completion {
        /// The problem's name.
        problem_idx: &'a str,
        /// What it was for.
        role: &'static str,
        /// Round, from 1.
        round_idx: u32,
        /// Proof within the round, from 1.
        proof: u32,
        /// Reading, from 1.
        reading: u32,
        /// Score of an evaluation or self-evaluation.
        score: Option<Score>,
        /// What was wrong with it.
        problem: Option<&'a str>,
        /// Tokens generated.
        tokens: u64,
        /// Seconds it took.
        seconds: f64,
        /// What the run has cost so far.
        spent: Spent,
    },
    /// Something that whoever waits should know, such as that an endpoint does not answer.
    Notice {
        /// In words.
        words: &'a str,
    },
    /// A proof was decided; told again if it turns out to be a copy.
    Proof {
        /// The problem's name.
        problem_idx: &'a str,
        /// Its id.
        proof_id: u32,
        /// Round, from 1.
        round_idx: u32,
        /// What became of it.
        state: &'a State,
        /// Mean of its readings.
        meanscore: Option<f64>,
        /// How many readings could be read.
        readings: usize,
        /// The proof of an earlier round with the same text.
        again: Option<u32>,
        /// What a program found that recomputed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        recomputed: Option<&'a Recomputed>,
    },
    /// A problem is done.
    Chosen {
        /// The problem's name.
        problem_idx: &'a str,
        /// Why it ended.
        end: End,
        /// The chosen proof's id.
        proof_id: Option<u32>,
        /// Its text.
        proof: Option<&'a str>,
        /// Mean of its readings.
        meanscore: Option<f64>,
        /// How many readings it has.
        readings: usize,
        /// What a program found that recomputed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        recomputed: Option<&'a Recomputed>,
        /// Why the statement is false, where a program finds that.
        #[serde(skip_serializing_if = "Option::is_none")]
        falsehood: Option<&'a str>,
        /// Whether the problem is none that the model knows: then nothing of this counts.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        outside_domain: bool,
    },
    /// All is done, or as much as there was time for.
    End {
        /// Problems with a proof that passed.
        passed: usize,
        /// Problems whose search ended before all its rounds were done.
        unfinished: usize,
        /// Problems.
        problems: usize,
        /// Problems that are none that the model knows.
        #[serde(skip_serializing_if = "is_zero")]
        outside_domain: usize,
        /// What the run has cost.
        spent: Spent,
        /// Seconds of this session.
        seconds: f64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
