//! A program that knows: where one can recompute the proofs of a problem, its word stands above every reading.
//!
//! The search asks it about each proof that the readings would let pass, and about the statement itself once the first proof
//! is there. Its answers are functions of the texts alone, so a run stays a function of its completions, and the same command
//! goes on from there.

use serde::Serialize;

/// Recomputes proofs of some problems.
pub trait Recompute {
    /// What people call the program.
    fn name(&self) -> &str;

    /// Why the statement of a problem is false, as in `gcd(84, 30) is 6`; `None` where it is true, or not for this program to say.
    fn falsehood(&self, question: &str) -> Option<String>;

    /// Whether every step of a proof holds and the last one is what the problem asks for; `None` where the program cannot read
    /// the problem. A proof that it cannot read is a flawed one.
    fn recompute(&self, question: &str, proof: &str) -> Option<Result<(), Flaw>>;
}

/// The beginning of what somebody wrote, for a sentence about it: nothing in it steers a terminal.
pub fn excerpt(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String = text.chars().take(LONGEST).collect();
    shown = shown.replace(|c: char| c.is_control(), "\u{fffd}");
    if shown.len() < text.len() && text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// What a program found wrong with a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// For people, in a sentence without its full stop.
    pub why: String,
    /// As the verifier would have written it, for the one who refines the proof.
    #[serde(skip)]
    pub evaluation: String,
}
