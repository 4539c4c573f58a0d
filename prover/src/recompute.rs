//! A program that knows: where one can recompute the proofs of a problem, its word stands above every reading.
//!
//! The search asks it about each proof that the readings would let pass, and about the statement itself once the first proof
//! is there. Its answers are functions of the texts alone, so a run stays a function of its completions, and the same command
//! goes on from there.

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// For people, in a sentence without its full stop.
    pub why: String,
    /// As the verifier would have written it, for the one who refines the proof.
    pub evaluation: String,
}

/// What a program found that recomputed a proof, as files and events spell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recomputed {
    /// The program.
    pub by: Option<String>,
    /// Whether every step holds, and the last one is what was asked.
    pub holds: bool,
    /// What does not: [`Flaw::why`].
    pub why: Option<String>,
    /// [`Flaw::evaluation`].
    #[serde(skip)]
    pub evaluation: Option<String>,
}

impl Recomputed {
    /// Asks a program; `None` where it cannot read the problem.
    pub fn by(program: &dyn Recompute, question: &str, proof: &str) -> Option<Self> {
        let found = program.recompute(question, proof)?;
        let by = Some(program.name().to_owned());
        Some(match found {
            Ok(()) => Self { by, holds: true, why: None, evaluation: None },
            Err(Flaw { why, evaluation }) => {
                Self { by, holds: false, why: Some(why), evaluation: Some(evaluation) }
            }
        })
    }
}
