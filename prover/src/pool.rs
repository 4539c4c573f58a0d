//! The pool: the proofs of a problem, what was said of each, and which of them is better.
//!
//! The search works on these types, `pool/<source>/<problem_idx>.jsonl` holds them, a [`Proof`] a line, and the report reads them.
//! Files have the names of the published pool, and ours after them. A published pool is read as well: what it does not say
//! has its default.
//!
//! ```text
//! w_i = 1, for a score below 1 what the meta-verifier says of it: 1, 0.5, 0      mean = Σ w_i s_i / Σ w_i
//! ```

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::confidence::Readings;
use crate::parse::{Attempt, Evaluation};
use crate::recompute::Recomputed;

/// What a meta-verifier said of a reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// All of it, Markdown with formulas.
    #[serde(rename = "quality")]
    pub text: String,
    /// 1, 0.5 or 0.
    pub score: f64,
}

/// One reading of a proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The evaluation, Markdown with formulas.
    #[serde(rename = "rating")]
    pub text: String,
    /// Judgements of it: at most one of ours, and none of a reading that says 1.
    #[serde(rename = "quality", default)]
    pub judgements: Vec<Judgement>,
    /// 1, 0.5 or 0.
    pub score: f64,
    /// Its number, from 0; unreadable ones are left out.
    #[serde(rename = "reading", default = "after_all")]
    pub number: u32,
    /// How much it counts.
    #[serde(default = "fully")]
    pub weight: f64,
}

fn after_all() -> u32 {
    u32::MAX
}

fn fully() -> f64 {
    1.0
}

impl Reading {
    /// A reading, and the judgement of it if there is one: that says how much it counts.
    pub(crate) fn new(number: u32, evaluation: Evaluation, judgement: Option<Evaluation>) -> Self {
        let judgements = judgement.map(|Evaluation { text, score }| Judgement { text, score: score.value() });
        let weight = judgements.as_ref().map_or(1.0, |judgement| judgement.score);
        let Evaluation { text, score } = evaluation;
        Self { text, judgements: judgements.into_iter().collect(), score: score.value(), number, weight }
    }
}

/// Sums up readings.
pub fn sum<'a>(readings: impl IntoIterator<Item = &'a Reading>) -> Readings {
    Readings::new(readings.into_iter().map(|reading| (reading.score, reading.weight)))
}

/// What is known of a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not there yet.
    Writing,
    /// Lost, and why.
    Failed(String),
    /// The same text as an earlier proof, by its id, and not read again.
    Duplicate(u32),
    /// Being read, or of a pool that says no more.
    #[default]
    Reading,
    /// Every counted reading says 1, there are enough, and no program found otherwise.
    Passed,
    /// The readings would let it pass, and a program found a flaw.
    Refuted,
    /// A counted reading says less.
    Rejected,
    /// Too few readings could be read, or too many were dismissed.
    Undecided,
}

/// What the writer of a proof says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfEvaluation {
    /// All of it, Markdown with formulas; `null`, as a word, is the published way to say nothing.
    #[serde(rename = "self_eval", default)]
    pub text: String,
    /// 1, 0.5 or 0.
    #[serde(rename = "self_eval_score", default)]
    pub score: Option<f64>,
}

/// A proof of the pool, or one that is being made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Proof {
    /// From 1, in logical order; unique within its problem.
    pub proof_id: u32,
    /// Round it was written in, from 1.
    pub round_idx: u32,
    /// Place within the round, from 0.
    pub index: u32,
    /// The proofs it was made from: one of ours, or none.
    #[serde(deserialize_with = "of_this_pool")]
    pub dep_proof_ids: Vec<u32>,
    /// The proof of an earlier round with the same text, which did not pass: this one is read in its place.
    pub again: Option<u32>,
    /// What was written, Markdown with formulas; empty before that.
    pub proof: String,
    /// What its writer says of it.
    pub self_eval: SelfEvaluation,
    /// Mean score of its readings by weight, 0 to 1; `None` without a counted reading. It is kept beside the readings because
    /// a published pool may have it without them.
    pub meanscore: Option<f64>,
    /// Readings that could be read, in order.
    #[serde(rename = "score2ratings", deserialize_with = "in_order")]
    pub readings: Vec<Reading>,
    /// Readings that could not.
    pub unreadable: u32,
    /// What is known.
    pub state: State,
    /// What a program found that recomputed it; it is asked about proofs that the readings would let pass.
    pub recomputed: Option<Recomputed>,
    /// Tokens spent on it and its readings.
    pub tokens: u64,
}

impl Serialize for Proof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut scores: Vec<f64> = self.readings.iter().map(|reading| reading.score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let of = |score: f64| -> Vec<&Reading> {
            self.readings.iter().filter(|reading| reading.score == score).collect()
        };
        let mut score2ratings = Map::new();
        for score in scores {
            // `1.0`, `0.5`, `0.0`
            let ratings = serde_json::to_value(of(score)).map_err(serde::ser::Error::custom)?;
            score2ratings.insert(format!("{score:?}"), ratings);
        }
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("proof", &self.proof)?;
        line.serialize_entry("meanscore", &self.meanscore)?;
        line.serialize_entry("score2ratings", &score2ratings)?;
        line.serialize_entry("self_eval", &self.self_eval)?;
        line.serialize_entry("proof_id", &self.proof_id)?;
        line.serialize_entry("dep_proof_ids", &self.dep_proof_ids)?;
        line.serialize_entry("round_idx", &self.round_idx)?;
        line.serialize_entry("again", &self.again)?;
        line.serialize_entry("index", &self.index)?;
        line.serialize_entry("state", &self.state)?;
        line.serialize_entry("readings", &self.readings.len())?;
        line.serialize_entry("unreadable", &self.unreadable)?;
        line.serialize_entry("weight", &self.weight())?;
        line.serialize_entry("tokens", &self.tokens)?;
        if let Some(found) = &self.recomputed {
            line.serialize_entry("recomputed", found)?;
        }
        line.end()
    }
}

/// `{"1.0": [{"rating": …}, …], …}` → readings by number.
fn in_order<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Reading>, D::Error> {
    let mut readings = Vec::new();
    for (score, ratings) in Map::deserialize(deserializer)? {
        let ratings: Vec<Map<String, Value>> = serde_json::from_value(ratings).map_err(D::Error::custom)?;
        for mut rating in ratings {
            // The published script has the score in the key alone.
            if !rating.contains_key("score") {
                let score: f64 = score.parse().map_err(D::Error::custom)?;
                rating.insert("score".to_owned(), score.into());
            }
            let rating: Result<Reading, _> = serde_json::from_value(rating.into());
            readings.push(rating.map_err(D::Error::custom)?);
        }
    }
    readings.sort_by_key(|reading| reading.number);
    Ok(readings)
}

/// The published script marks proofs from elsewhere by negative ids.
fn of_this_pool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let ids = Vec::<i64>::deserialize(deserializer)?;
    Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
}

impl Proof {
    /// Takes what was written.
    pub(crate) fn write(&mut self, attempt: &Attempt) {
        self.proof.clone_from(&attempt.proof);
        self.self_eval = SelfEvaluation {
            text: attempt.self_evaluation.clone(),
            score: Some(attempt.self_score.map_or(0.0, |score| score.value())),
        };
    }

    /// Σ of the weights.
    pub fn weight(&self) -> f64 {
        self.readings.iter().map(|reading| reading.weight).sum()
    }

    /// Whether nothing more is asked about it.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.state, State::Writing | State::Reading)
    }

    /// Whether it is a proof at all, and not a copy.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self.state, State::Writing | State::Failed(_) | State::Duplicate(_))
    }

    /// Whether the readings let it pass and a program found a flaw.
    pub fn is_refuted(&self) -> bool {
        self.state == State::Refuted
    }

    /// Better ones first: passed, not refuted, mean, readings, self score, earlier.
    pub(crate) fn rank(&self, other: &Proof) -> Ordering {
        self.quality(other).then(self.proof_id.cmp(&other.proof_id))
    }

    /// The same without who came first.
    pub(crate) fn quality(&self, other: &Proof) -> Ordering {
        let passed = |proof: &Proof| proof.state == State::Passed;
        let mean = |proof: &Proof| proof.meanscore.unwrap_or(-1.0);
        let own = |proof: &Proof| proof.self_eval.score.unwrap_or(0.0);
        passed(other)
            .cmp(&passed(self))
            .then(self.is_refuted().cmp(&other.is_refuted()))
            .then(mean(other).total_cmp(&mean(self)))
            .then(other.weight().total_cmp(&self.weight()))
            .then(own(other).total_cmp(&own(self)))
    }
}

/// The proofs that are no copies; of those with the same text the last that was decided, else the first.
pub(crate) fn latest<'a>(proofs: impl IntoIterator<Item = &'a Proof>) -> Vec<&'a Proof> {
    let mut latest: Vec<&Proof> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for proof in proofs.into_iter().filter(|proof| proof.counts()) {
        let place = proof.again.and_then(|twin| places.get(&twin).copied());
        places.insert(proof.proof_id, place.unwrap_or(latest.len()));
        match place {
            Some(place) if matches!(proof.state, State::Passed | State::Refuted | State::Rejected) => {
                latest[place] = proof;
            }
            Some(_) => {}
            None => latest.push(proof),
        }
    }
    latest
}

/// The best proof.
pub(crate) fn best<'a>(proofs: impl IntoIterator<Item = &'a Proof>) -> Option<&'a Proof> {
    latest(proofs).into_iter().min_by(|a, b| a.rank(b))
}

/// The proofs of other rounds with a proof's text that were read.
pub(crate) fn others<'a>(pool: &'a [Proof], proof: &'a Proof) -> impl Iterator<Item = &'a Proof> {
    pool.iter().filter(|other| {
        let is_again = proof.again.is_some() || other.again.is_some();
        let is_other = other.counts() && other.proof_id != proof.proof_id && !other.readings.is_empty();
        is_again && is_other && other.proof == proof.proof
    })
}

/// Why the search of a problem ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A proof passed.
    Passed,
    /// A program finds the statement false.
    Refuted,
    /// All rounds are done.
    Rounds,
    /// The tokens are spent.
    Tokens,
    /// The time is over.
    Time,
    /// Somebody stopped it.
    Interrupted,
    /// It could not go on, as when nobody answers any more.
    Broken,
}

impl End {
    /// Of a search that ended before all its rounds were done: why, and how it goes on. A sentence's middle, as after
    /// `unfinished: `.
    pub fn unfinished(self) -> Option<&'static str> {
        match self {
            Self::Passed | Self::Refuted | Self::Rounds => None,
            Self::Tokens => Some(
                "its tokens are spent; the same command with a larger --max-tokens-total goes on with it",
            ),
            Self::Time => Some("its time is over; the same command goes on with it"),
            Self::Interrupted => Some("it was stopped; the same command goes on with it"),
            Self::Broken => Some("it could not go on; the same command goes on with it later"),
        }
    }
}

/// A line of `predictions.jsonl`: what came of a problem, in the published output format, with fields of ours after the
/// published ones. A problem of a set that was not searched yet has no prediction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// The statement, Markdown with formulas.
    pub question: String,
    /// Its name in the set.
    pub problem_idx: String,
    /// The chosen proof.
    pub model_prediction: Option<Prediction>,
    /// The set it comes from.
    pub source: String,
    /// Whether a proof passed.
    pub passed: bool,
    /// Why the search ended.
    pub end: Option<End>,
    /// Which proof was chosen.
    pub proof_id: Option<u32>,
    /// How many readings of it could be read.
    pub readings: usize,
    /// How many of the same text in other rounds.
    pub other_readings: usize,
    /// What a program found that recomputed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recomputed: Option<Recomputed>,
    /// Why the statement is false, where a program finds that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub falsehood: Option<String>,
    /// Whether the problem is none that the model knows: then nothing counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub outside_domain: bool,
}

/// The chosen proof of an [`Outcome`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prediction {
    /// Its text.
    pub proof: Option<String>,
    /// Mean score of its readings by weight.
    pub average_automatic_rating: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_same_text_the_last_that_was_decided_counts() {
        let proof = |proof_id, again, state| Proof { proof_id, again, state, ..Proof::default() };
        let mut proofs = vec![
            proof(1, None, State::Rejected),
            proof(2, None, State::Rejected),
            proof(3, None, State::Duplicate(1)),
            proof(6, Some(1), State::Undecided),
        ];
        let ids = |proofs: &[Proof]| latest(proofs).iter().map(|proof| proof.proof_id).collect::<Vec<_>>();
        assert_eq!(ids(&proofs), [1, 2]);
        proofs.push(proof(11, Some(6), State::Rejected));
        proofs.push(proof(12, Some(2), State::Reading));
        assert_eq!(ids(&proofs), [11, 2]);
    }
}
