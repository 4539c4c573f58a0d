//! The search: write proofs, read them, refine the best, until one passes or the budget ends.
//!
//! Two halves. `Planner::plan` is a pure function: from the completions there are, in the logical order (round, proof,
//! reading), it says what is known and which completions are wanted next. [`search`] hands these out, journals what comes
//! back and plans again. Which completion came first, what was worked on together and how often the program was killed
//! cannot matter, because the plan does not see it. Completions that were wanted before an earlier one decided otherwise are
//! left out of the pool and counted as spent.
//!
//! ```text
//! w_i = 1, for a score below 1 what the meta-verifier says of it: 1, 0.5, 0      mean = Σ w_i s_i / Σ w_i
//! after the i-th reading, from the smallest number of readings on:
//!   passes  when every counted reading says 1 and there are as many as asked (or enough to be as sure as asked)
//!   fails   when a counted reading says less
//!   stays undecided when more than half as many as asked were dismissed: so much doubt is not talked away
//! ```
//!
//! Where a program can recompute the proofs ([`Recompute`]), one that would pass does so only if the program agrees; and where
//! it finds the statement false, the search ends with the first proof.
//!
//! A proof that is written twice in a round is read once. One that did not pass and is written again in a later round is read
//! again, for an objection may be wrong. Once that is decided it takes the place of the earlier one, whose readings are kept
//! and told.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::complete::{Complete, CompleteError, Completion, Request};
use crate::parse::{self, Attempt, Score};
use crate::problem::Problem;
use crate::prompts::PromptSet;
use crate::recompute::{Flaw, Recompute};
use crate::roles::{Key, Role, fingerprint};
pub use crate::settings::Settings;
use crate::store::{Known, Manifest, Record, Run, StoreError};

/// One reading of a proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its number; unreadable ones are left out.
    pub number: u32,
    /// The evaluation.
    pub text: String,
    /// Its score.
    pub score: Score,
    /// What the meta-verifier said of it, and its score.
    pub meta: Option<(String, Score)>,
    /// How much it counts.
    pub weight: f64,
}

/// What is known of a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not there yet.
    Writing,
    /// Lost, and why.
    Failed(String),
    /// The same text as an earlier proof, by its id, and not read again.
    Duplicate(u32),
    /// Being read.
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

/// A proof of the pool, or one that is being made.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    /// From 1, in logical order; unique within its problem.
    pub proof_id: u32,
    /// Round, from 0.
    pub round: u32,
    /// Place within the round.
    pub index: u32,
    /// The proof it was made from.
    pub parent: Option<u32>,
    /// The proof of an earlier round with the same text, which did not pass: this one is read in its place.
    pub again: Option<u32>,
    /// What was written.
    pub attempt: Option<Attempt>,
    /// Readings that could be read, in order.
    pub readings: Vec<Reading>,
    /// Readings that could not.
    pub unreadable: u32,
    /// What is known.
    pub state: State,
    /// What a program found that recomputed it; it is asked about proofs that the readings would let pass.
    pub recomputed: Option<Result<(), Flaw>>,
    /// Tokens spent on it and its readings.
    pub tokens: u64,
}

impl Proof {
    /// Σ of the weights.
    pub fn weight(&self) -> f64 {
        self.readings.iter().map(|reading| reading.weight).sum()
    }

    /// The weighted mean; `None` without a counted reading.
    pub fn mean(&self) -> Option<f64> {
        let weight = self.weight();
        let sum: f64 = self.readings.iter().map(|reading| reading.weight * reading.score.value()).sum();
        (weight > 0.0).then(|| sum / weight)
    }

    fn self_score(&self) -> f64 {
        self.attempt.as_ref().and_then(|attempt| attempt.self_score).map_or(0.0, Score::value)
    }

    /// What was written; nothing before that.
    pub fn text(&self) -> &str {
        self.attempt.as_ref().map_or("", |attempt| &attempt.proof)
    }

    /// Whether nothing more is asked about it.
    fn is_settled(&self) -> bool {
        !matches!(self.state, State::Writing | State::Reading)
    }

    /// Whether it is a proof at all, and not a copy.
    fn counts(&self) -> bool {
        !matches!(self.state, State::Writing | State::Failed(_) | State::Duplicate(_))
    }

    /// Whether the readings let it pass and a program found a flaw.
    pub fn is_refuted(&self) -> bool {
        self.state == State::Refuted
    }

    /// Better ones first: not refuted, mean, readings, self score, earlier.
    fn rank(&self, other: &Proof) -> Ordering {
        self.quality(other).then(self.proof_id.cmp(&other.proof_id))
    }

    fn quality(&self, other: &Proof) -> Ordering {
        let mean = |proof: &Proof| proof.mean().unwrap_or(-1.0);
        let passed = |proof: &Proof| proof.state == State::Passed;
        passed(other)
            .cmp(&passed(self))
            .then(self.is_refuted().cmp(&other.is_refuted()))
            .then(mean(other).total_cmp(&mean(self)))
            .then(other.weight().total_cmp(&self.weight()))
            .then(other.self_score().total_cmp(&self.self_score()))
    }

    /// A line of the published pool, with fields of ours after the published ones.
    fn pool_line(&self, program: Option<&str>) -> serde_json::Value {
        let attempt = self.attempt.as_ref();
        let mut score2ratings = serde_json::Map::new();
        for score in [Score::One, Score::Half, Score::Zero] {
            let ratings: Vec<_> = self.readings.iter().filter(|reading| reading.score == score).collect();
            if ratings.is_empty() {
                continue;
            }
            let rating = |reading: &&Reading| {
                let quality =
                    reading.meta.iter().map(|(text, score)| json!({"quality": text, "score": score}));
                json!({
                    "rating": reading.text,
                    "quality": quality.collect::<Vec<_>>(),
                    "score": reading.score,
                    "reading": reading.number,
                    "weight": reading.weight,
                })
            };
            score2ratings.insert(score.key().to_owned(), ratings.iter().map(rating).collect());
        }
        let mut line = json!({
            "proof": self.text(),
            "meanscore": self.mean(),
            "score2ratings": score2ratings,
            "self_eval": {
                "self_eval": attempt.map_or("null", |attempt| &attempt.self_evaluation),
                "self_eval_score": self.self_score(),
            },
            "proof_id": self.proof_id,
            "dep_proof_ids": self.parent.iter().collect::<Vec<_>>(),
            "round_idx": self.round + 1,
            "again": self.again,
            "index": self.index,
            "state": self.state,
            "readings": self.readings.len(),
            "unreadable": self.unreadable,
            "weight": self.weight(),
            "tokens": self.tokens,
        });
        if let Some(found) = recomputed(self, program) {
            line["recomputed"] = found;
        }
        line
    }
}

/// What a program found, as files and events spell it.
fn recomputed(proof: &Proof, program: Option<&str>) -> Option<serde_json::Value> {
    let found = proof.recomputed.as_ref()?;
    let why = found.as_ref().err().map(|flaw| &flaw.why);
    Some(json!({"by": program, "holds": found.is_ok(), "why": why}))
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

/// The state of one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All proofs in logical order; the last ones may not be finished.
    pub proofs: Vec<Proof>,
    /// What should be asked next, in logical order.
    wanted: Vec<Ask>,
    /// How it ended, and the id of the chosen proof; `None` while completions are wanted.
    pub end: Option<(End, Option<u32>)>,
    /// Why the statement is false, where a program finds that.
    pub falsehood: Option<String>,
}

impl Plan {
    /// The chosen proof.
    pub fn chosen(&self) -> Option<&Proof> {
        let id = self.end?.1?;
        self.proofs.iter().find(|proof| proof.proof_id == id)
    }

    /// The readings of a proof's text in other rounds.
    pub fn other_readings<'a>(&'a self, proof: &'a Proof) -> impl Iterator<Item = &'a Reading> {
        let same = move |other: &&Proof| {
            other.counts() && other.proof_id != proof.proof_id && other.text() == proof.text()
        };
        self.proofs.iter().filter(same).flat_map(|proof| &proof.readings)
    }

    /// Whether a proof passed.
    pub fn passed(&self) -> bool {
        matches!(self.end, Some((End::Passed, Some(_))))
    }

    /// Why it is unfinished, if it is: [`End::unfinished`].
    pub fn unfinished(&self) -> Option<&'static str> {
        self.end?.0.unfinished()
    }

    /// The proofs that are in the pool: settled, whole and no copies.
    pub fn pool(&self) -> impl Iterator<Item = &Proof> {
        self.proofs.iter().filter(|proof| proof.counts() && proof.is_settled())
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Ask {
    key: Key,
    prompt: String,
    request: String,
    seed: u64,
    max_tokens: u32,
}

/// The completions of a run by key, and what they were asked with.
#[derive(Debug, Default)]
struct Results {
    by_key: HashMap<Key, Vec<Finished>>,
    spent: Spent,
    /// Tokens of each problem, those included that no plan counts.
    by_problem: HashMap<u32, u64>,
    /// Limits of those who write and of those who read.
    limits: (u32, u32),
}

#[derive(Debug)]
struct Finished {
    request: String,
    tokens: u64,
    /// Tokens of the prompt as somebody counted them.
    prompt_tokens: Option<u64>,
    wasted: u64,
    network: bool,
    context: Option<u32>,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
    Attempt(Attempt),
    Evaluation(String, Score),
    Preference(usize),
    Nothing(String),
}

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Completions, lost ones included.
    pub completions: u64,
    /// Completions that failed.
    pub failed: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens among the generated ones that came to nothing, in answers that were cut off and asked for again.
    pub wasted: u64,
    /// Tokens among the generated ones of answers that were broken off because they were no longer wanted.
    pub canceled: u64,
    /// Completions whose tokens are estimated, because their endpoint does not count them.
    pub estimated: u64,
}

impl Results {
    /// Takes a record. `old`: of an earlier session; what that one lost to the network is asked again.
    fn add(&mut self, record: &Record, old: bool) {
        self.spent.completions += 1;
        self.spent.tokens += record.wasted;
        self.spent.wasted += record.wasted;
        *self.by_problem.entry(record.key.problem).or_default() += record.wasted;
        let mut prompt_tokens = None;
        let (tokens, outcome) = match &record.completion {
            Some(completion) => {
                let estimated = completion.served.as_ref().is_some_and(|served| served.estimated);
                self.spent.tokens += completion.tokens;
                self.spent.prompt_tokens += completion.prompt_tokens;
                self.spent.estimated += u64::from(estimated);
                *self.by_problem.entry(record.key.problem).or_default() += completion.tokens;
                prompt_tokens = Some(completion.prompt_tokens).filter(|tokens| *tokens > 0 && !estimated);
                let limit = if record.key.role.writes() { self.limits.0 } else { self.limits.1 };
                (completion.tokens, read(record.key.role, completion, limit))
            }
            None => {
                self.spent.failed += 1;
                (0, Outcome::Nothing(record.error.clone().unwrap_or_default()))
            }
        };
        if old && record.network {
            return;
        }
        let known = Finished {
            request: record.request.clone(),
            tokens,
            prompt_tokens,
            wasted: record.wasted,
            network: record.network,
            context: record.context,
            outcome,
        };
        self.by_key.entry(record.key).or_default().push(known);
    }

    fn cancel(&mut self, tokens: u64) {
        self.spent.tokens += tokens;
        self.spent.canceled += tokens;
    }

    /// Whether nothing was read of a problem's proofs, and the network is why.
    fn lost_to_network(&self, problem: u32) -> Option<&str> {
        let of_problem =
            || self.by_key.iter().filter(|(key, _)| key.problem == problem).flat_map(|(_, known)| known);
        if of_problem().any(|known| matches!(known.outcome, Outcome::Evaluation(..))) {
            return None;
        }
        of_problem().find(|known| known.network).and_then(|known| match &known.outcome {
            Outcome::Nothing(why) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// What a completion means for the role it was asked in.
fn read(role: Role, completion: &Completion, asked: u32) -> Outcome {
    if let Some(why) = completion.cut_short(asked) {
        return Outcome::Nothing(why);
    }
    let unreadable = |wanted: &str| Outcome::Nothing(completion.lacks(wanted));
    match role {
        Role::Generate | Role::Refine => {
            parse::attempt(&completion.answer).map_or_else(|| unreadable("`## Solution`"), Outcome::Attempt)
        }
        Role::Verify | Role::MetaVerify => parse::evaluation(&completion.answer).map_or_else(
            || unreadable("score in a box"),
            |evaluation| Outcome::Evaluation(evaluation.text, evaluation.score),
        ),
        Role::Compare => parse::preference(&completion.answer)
            .map_or_else(|| unreadable("1 or 2 in a box"), Outcome::Preference),
    }
}

/// Plans one problem.
struct Planner<'a> {
    index: u32,
    problem: &'a Problem,
    prompts: &'a PromptSet,
    manifest: &'a Manifest,
    recompute: Option<&'a dyn Recompute>,
    // Whether the statement is false is computed once.
    falsehood: Option<&'a str>,
    results: &'a Results,
    // Fingerprints of requests by key: prompts are long, and a key's never changes once it can be asked.
    requests: &'a RefCell<HashMap<Key, String>>,
    enough: usize,
}

/// The way through the logical order.
struct Walk {
    proofs: Vec<Proof>,
    wanted: Vec<Ask>,
    tokens: u64,
    // Spent as well, but in no proof: how much depends on the weather.
    wasted: u64,
}

/// The walk met something beyond which nothing may be asked.
enum Halt {
    /// Work is under way.
    Pending,
    /// The tokens are spent.
    Spent,
}

impl Planner<'_> {
    fn settings(&self) -> &Settings {
        &self.manifest.settings
    }

    fn plan(&self) -> Plan {
        let mut walk = Walk { proofs: Vec::new(), wanted: Vec::new(), tokens: 0, wasted: 0 };
        let end = match self.rounds(&mut walk) {
            Ok(end) => Some(end),
            Err(Halt::Spent) if walk.wanted.is_empty() => {
                let chosen = best(&walk.proofs).map(|proof| proof.proof_id);
                let passed = best(&walk.proofs).is_some_and(|proof| proof.state == State::Passed);
                Some((if passed { End::Passed } else { End::Tokens }, chosen))
            }
            Err(Halt::Pending | Halt::Spent) => None,
        };
        let falsehood = self.falsehood.map(str::to_owned);
        Plan { proofs: walk.proofs, wanted: walk.wanted, end, falsehood }
    }

    fn rounds(&self, walk: &mut Walk) -> Result<(End, Option<u32>), Halt> {
        let settings = self.settings();
        for round in 0..settings.rounds {
            let parents = self.parents(&walk.proofs);
            let start = walk.proofs.len();
            let mut settled = true;
            for index in 0..settings.proofs {
                let parent = (!parents.is_empty()).then(|| &parents[index as usize % parents.len()]);
                let halt = self.proof(walk, round, index, parent);
                let newest = walk.proofs.last();
                let passed = newest.is_some_and(|proof| proof.state == State::Passed);
                let decided = newest.is_some_and(Proof::is_settled);
                if settled && passed && !settings.finish_round {
                    return Ok((End::Passed, newest.map(|proof| proof.proof_id)));
                }
                settled &= decided;
                if settled && self.falsehood.is_some() {
                    return Ok((End::Refuted, best(&walk.proofs).map(|proof| proof.proof_id)));
                }
                halt?;
                if walk.wanted.len() >= self.enough {
                    return Err(Halt::Pending);
                }
            }
            if !settled {
                return Err(Halt::Pending);
            }
            if walk.proofs[start..].iter().any(|proof| proof.state == State::Passed) {
                return Ok((End::Passed, self.choose(walk)?));
            }
        }
        Ok((End::Rounds, self.choose(walk)?))
    }

    /// The proofs worth refining, best first, with the prompt that asks for it.
    fn parents(&self, proofs: &[Proof]) -> Vec<(u32, String)> {
        let mut ranked: Vec<&Proof> = latest(proofs).collect();
        ranked.sort_by(|a, b| a.rank(b));
        ranked.truncate(self.settings().keep as usize);
        ranked
            .into_iter()
            .map(|proof| (proof.proof_id, self.refine_prompt(proof, self.settings().context)))
            .collect()
    }

    /// Asks for a better proof, with as many evaluations as are wanted and fit, lowest scores first.
    fn refine_prompt(&self, proof: &Proof, context: Option<u32>) -> String {
        let mut readings: Vec<&Reading> =
            proof.readings.iter().filter(|reading| reading.weight > 0.0).collect();
        // Stable: equal scores stay in the order of reading.
        readings.sort_by_key(|reading| reading.score);
        // What was computed comes before what was read.
        let flaw = proof.recomputed.as_ref().and_then(|found| found.as_ref().err());
        let computed = flaw.map(|flaw| flaw.evaluation.as_str());
        let read = readings.iter().map(|reading| reading.text.as_str());
        let mut texts: Vec<&str> =
            computed.into_iter().chain(read).take(self.settings().evaluations_to_refine as usize).collect();
        loop {
            let prompt = self.prompts.refine(&self.problem.question, proof.text(), &texts);
            if texts.len() <= 1 || context.is_none_or(|context| self.fits(&prompt, proof, context)) {
                return prompt;
            }
            texts.pop();
        }
    }

    /// Whether a prompt leaves room for a proof in the context, by what the tokens of a reading's prompt took.
    fn fits(&self, prompt: &str, proof: &Proof, context: u32) -> bool {
        // LaTeX takes more tokens than prose.
        const BYTES_PER_TOKEN: f64 = 3.0;
        // Evaluations may be made of other letters than proofs.
        const MARGIN: f64 = 0.95;
        let key = Key {
            problem: self.index,
            round: proof.round,
            proof: proof.index,
            role: Role::Verify,
            reading: 0,
        };
        let counted = self
            .results
            .by_key
            .get(&key)
            .and_then(|known| known.iter().find_map(|known| known.prompt_tokens));
        let bytes_per_token = counted.map_or(BYTES_PER_TOKEN, |tokens| {
            let prompt = self.prompts.verify(&self.problem.question, proof.text());
            MARGIN * prompt.len() as f64 / tokens as f64
        });
        let room = context - self.settings().max_tokens_per_proof.min(context / 2);
        prompt.len() as f64 / bytes_per_token <= f64::from(room)
    }

    /// Walks through one proof and its readings, and adds it to the walk.
    fn proof(
        &self,
        walk: &mut Walk,
        round: u32,
        index: u32,
        parent: Option<&(u32, String)>,
    ) -> Result<(), Halt> {
        let proof_id = u32::try_from(walk.proofs.len()).unwrap_or(u32::MAX - 1) + 1;
        let mut proof = Proof {
            proof_id,
            round,
            index,
            parent: parent.map(|parent| parent.0),
            again: None,
            attempt: None,
            readings: Vec::new(),
            unreadable: 0,
            state: State::Writing,
            recomputed: None,
            tokens: 0,
        };
        let before = walk.tokens;
        let halt = self.write_and_read(walk, &mut proof, parent);
        proof.tokens = walk.tokens - before;
        // A proof that the budget leaves no room for was never begun.
        let begun = !(matches!(halt, Err(Halt::Spent)) && proof.state == State::Writing);
        if begun {
            if matches!(halt, Err(Halt::Spent)) && proof.state == State::Reading {
                proof.state = State::Undecided;
            }
            walk.proofs.push(proof);
        }
        halt
    }

    fn write_and_read(
        &self,
        walk: &mut Walk,
        proof: &mut Proof,
        parent: Option<&(u32, String)>,
    ) -> Result<(), Halt> {
        let role = if parent.is_some() { Role::Refine } else { Role::Generate };
        let key = Key { problem: self.index, round: proof.round, proof: proof.index, role, reading: 0 };
        let prompt = || match parent {
            Some((_, prompt)) => prompt.clone(),
            None => self.prompts.generate(&self.problem.question),
        };
        let mut outcome = self.look_up(walk, key, prompt)?;
        if let (Some(Outcome::Nothing(_)), Some((parent, first))) = (outcome, parent) {
            outcome = self.look_up_shorter(walk, key, *parent, first, outcome)?;
        }
        match outcome {
            None => return Ok(()),
            Some(Outcome::Attempt(attempt)) => proof.attempt = Some(attempt.clone()),
            Some(Outcome::Nothing(why)) => {
                proof.state = State::Failed(why.clone());
                return Ok(());
            }
            Some(other) => unreachable!("a proof was read as {other:?}"),
        }
        let same = |other: &&Proof| other.counts() && other.text() == proof.text();
        if let Some(twin) = walk.proofs.iter().rfind(same) {
            // At temperature 0 the same question has the same answer, and a program always says the same.
            let is_certain = self.settings().reading_temperature == 0.0 || twin.is_refuted();
            if twin.round == proof.round || is_certain {
                proof.state = State::Duplicate(twin.proof_id);
                return Ok(());
            }
            // Had it passed, there would be no later round.
            proof.again = Some(twin.proof_id);
        }
        proof.state = State::Reading;
        self.readings(walk, proof)
    }

    fn readings(&self, walk: &mut Walk, proof: &mut Proof) -> Result<(), Halt> {
        let settings = self.settings();
        let attempt = proof.attempt.clone().expect("only written proofs are read");
        let question = &self.problem.question;
        let key = |role, reading| Key {
            problem: self.index,
            round: proof.round,
            proof: proof.index,
            role,
            reading,
        };
        // Unreadable and dismissed readings are replaced, within reason.
        let most = settings.verifications.saturating_mul(2).saturating_add(2);
        for number in 0..most {
            let verify = || self.prompts.verify(question, &attempt.proof);
            let outcome = self.look_up(walk, key(Role::Verify, number), verify)?;
            let Some(outcome) = outcome else {
                // More of them at once, as long as every one so far says 1: they are needed if that goes on.
                let have = u32::try_from(proof.readings.len()).unwrap_or(u32::MAX);
                let least = settings.minimum_readings.saturating_sub(have);
                let chunk = least.max(have).clamp(1, settings.verifications.saturating_sub(have).max(1));
                for ahead in 1..chunk.min(most - number) {
                    if walk.wanted.len() < self.enough {
                        self.want(walk, key(Role::Verify, number + ahead), verify);
                    }
                }
                return Ok(());
            };
            let (text, score) = match outcome {
                Outcome::Evaluation(text, score) => (text.clone(), *score),
                Outcome::Nothing(_) => {
                    proof.unreadable += 1;
                    continue;
                }
                other => unreachable!("a reading was read as {other:?}"),
            };
            let mut meta = None;
            if score < Score::One && settings.meta_verify {
                let judge = || self.prompts.meta_verify(question, &attempt.proof, &text);
                match self.look_up(walk, key(Role::MetaVerify, number), judge)? {
                    None => return Ok(()),
                    Some(Outcome::Evaluation(text, score)) => meta = Some((text.clone(), *score)),
                    // An unreadable judgement changes nothing.
                    Some(_) => {}
                }
            }
            let weight = meta.as_ref().map_or(1.0, |(_, score)| score.value());
            proof.readings.push(Reading { number, text, score, meta, weight });
            if let Some(state) = decide(settings, &proof.readings) {
                if state == State::Passed {
                    proof.recomputed =
                        self.recompute.and_then(|program| program.recompute(question, &attempt.proof));
                }
                let is_flawed = proof.recomputed.as_ref().is_some_and(Result::is_err);
                proof.state = if is_flawed { State::Refuted } else { state };
                return Ok(());
            }
        }
        proof.state = State::Undecided;
        Ok(())
    }

    /// The id of the best proof. Where several are equally good, they are compared pairwise, each pair in both orders.
    fn choose(&self, walk: &mut Walk) -> Result<Option<u32>, Halt> {
        const COMPARED: usize = 4;
        let mut ranked: Vec<Proof> = latest(&walk.proofs).cloned().collect();
        ranked.sort_by(Proof::rank);
        let Some(mut champion) = ranked.first().cloned() else {
            return Ok(None);
        };
        let equals = ranked.iter().skip(1).take_while(|proof| proof.quality(&ranked[0]) == Ordering::Equal);
        if !self.prompts.compares() {
            return Ok(Some(champion.proof_id));
        }
        for (pair, challenger) in equals.take(COMPARED - 1).enumerate() {
            let mut votes = 0;
            let mut missing = false;
            for reading in 0..2 {
                let (first, second) = match reading {
                    0 => (champion.text(), challenger.text()),
                    _ => (challenger.text(), champion.text()),
                };
                let prompt =
                    || self.prompts.compare(&self.problem.question, first, second).unwrap_or_default();
                let pair = u32::try_from(pair).unwrap_or(u32::MAX);
                let key = Key {
                    problem: self.index,
                    round: champion.round,
                    proof: pair,
                    role: Role::Compare,
                    reading,
                };
                match self.look_up(walk, key, prompt)? {
                    None => missing = true,
                    // In the second order the challenger stands first.
                    Some(Outcome::Preference(better)) if (*better == 1) == (reading == 0) => votes += 1,
                    Some(_) => {}
                }
            }
            if missing {
                return Err(Halt::Pending);
            }
            if votes == 2 {
                champion = challenger.clone();
            }
        }
        Ok(Some(champion.proof_id))
    }

    /// What a completion said; `None` when it is not there, and then it is wanted.
    fn look_up(
        &self,
        walk: &mut Walk,
        key: Key,
        prompt: impl Fn() -> String,
    ) -> Result<Option<&Outcome>, Halt> {
        if self.settings().max_tokens_total.is_some_and(|most| walk.tokens + walk.wasted >= most) {
            return Err(Halt::Spent);
        }
        if let Some(known) = self.results.by_key.get(&key) {
            let mut requests = self.requests.borrow_mut();
            let request = requests.entry(key).or_insert_with(|| self.request(key, &prompt()));
            if let Some(known) = known.iter().find(|known| known.request == *request) {
                walk.tokens += known.tokens;
                walk.wasted += known.wasted;
                return Ok(Some(&known.outcome));
            }
            // It was asked otherwise, before a fork.
            requests.remove(&key);
        }
        self.want(walk, key, prompt);
        Ok(None)
    }

    /// What was said to fewer evaluations, where all of them did not fit a context that nobody had told before.
    fn look_up_shorter<'a>(
        &'a self,
        walk: &mut Walk,
        key: Key,
        parent: u32,
        first: &str,
        lost: Option<&'a Outcome>,
    ) -> Result<Option<&'a Outcome>, Halt> {
        let known = self.results.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        let context = known.iter().find_map(|known| known.context);
        let (Some(context), Some(proof)) =
            (context, walk.proofs.iter().find(|proof| proof.proof_id == parent))
        else {
            return Ok(lost);
        };
        // As many as fit by our reckoning, then one.
        let prompts = [context, 1].map(|context| self.refine_prompt(proof, Some(context)));
        let mut last = lost;
        let mut tried = vec![first];
        for prompt in &prompts {
            if tried.contains(&prompt.as_str()) {
                continue;
            }
            tried.push(prompt);
            let request = self.request(key, prompt);
            let Some(known) = known.iter().find(|known| known.request == request) else {
                self.want(walk, key, || prompt.clone());
                return Ok(None);
            };
            walk.tokens += known.tokens;
            walk.wasted += known.wasted;
            last = Some(&known.outcome);
            if known.context.is_none() {
                break;
            }
        }
        Ok(last)
    }

    fn want(&self, walk: &mut Walk, key: Key, prompt: impl FnOnce() -> String) {
        let prompt = prompt();
        let request = self.request(key, &prompt);
        if self
            .results
            .by_key
            .get(&key)
            .is_some_and(|known| known.iter().any(|known| known.request == request))
        {
            return;
        }
        walk.wanted.push(Ask {
            key,
            seed: self.seed(key),
            max_tokens: self.max_tokens(key.role),
            prompt,
            request,
        });
    }

    fn seed(&self, key: Key) -> u64 {
        key.seed(self.manifest.seed, &self.problem.problem_idx)
    }

    fn max_tokens(&self, role: Role) -> u32 {
        if role.writes() {
            self.settings().max_tokens_per_proof
        } else {
            self.settings().max_tokens_per_reading
        }
    }

    /// Fingerprint of all that an answer depends on.
    fn request(&self, key: Key, prompt: &str) -> String {
        let settings = self.settings();
        let model = if key.role.writes() { &self.manifest.generator } else { &self.manifest.verifier };
        fingerprint([
            model.fingerprint.as_bytes(),
            prompt.as_bytes(),
            &self.seed(key).to_le_bytes(),
            &self.max_tokens(key.role).to_le_bytes(),
            &settings.temperature(key.role).to_le_bytes(),
            &settings.top_p.to_le_bytes(),
        ])
    }
}

/// Whether a proof passed or failed after these readings.
fn decide(settings: &Settings, readings: &[Reading]) -> Option<State> {
    let counted: Vec<&Reading> = readings.iter().filter(|reading| reading.weight > 0.0).collect();
    if (readings.len() - counted.len()) * 2 > settings.verifications as usize {
        return Some(State::Undecided);
    }
    let least = settings.minimum_readings.min(settings.verifications).max(1) as usize;
    if counted.len() < least {
        return None;
    }
    if counted.iter().any(|reading| reading.score < Score::One) {
        return Some(State::Rejected);
    }
    let dismissed = readings.len() - counted.len();
    let sure = settings.sure.is_some_and(|sure| wilson_lower_all_ones(counted.len()) >= sure);
    (sure && dismissed * 2 <= counted.len() || counted.len() >= settings.verifications as usize)
        .then_some(State::Passed)
}

/// Lower end of the 95 % Wilson interval of n ones among n: n / (n + z²).
fn wilson_lower_all_ones(n: usize) -> f64 {
    const Z: f64 = 1.959_963_984_540_054;
    n as f64 / (n as f64 + Z * Z)
}

/// The proofs that are no copies; of those with the same text the last that was decided, else the first.
fn latest(proofs: &[Proof]) -> impl Iterator<Item = &Proof> {
    let mut latest: Vec<&Proof> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for proof in proofs.iter().filter(|proof| proof.counts()) {
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
    latest.into_iter()
}

fn best(proofs: &[Proof]) -> Option<&Proof> {
    latest(proofs).min_by(|a, b| a.rank(b))
}

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
        recomputed: Option<serde_json::Value>,
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
        recomputed: Option<serde_json::Value>,
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

/// Why a search cannot go on. What was found is saved.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The one who answers.
    #[error(transparent)]
    Complete(#[from] CompleteError),
    /// All that was asked of a problem's proofs was lost on the way; the same call asks it again.
    #[error("no proof was read, for all that was asked was lost to the network: {0}")]
    Network(String),
}

/// What may end a search early.
pub struct Limits<'a> {
    /// Asked often; true ends with [`CompleteError::Interrupted`].
    pub interrupted: &'a dyn Fn() -> bool,
    /// When the best proof so far is taken.
    pub deadline: Option<Instant>,
}

/// What is searched for, and how.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The run's settings.
    pub manifest: &'a Manifest,
    /// What is to be proved.
    pub problems: &'a [Problem],
    /// What is asked.
    pub prompts: &'a PromptSet,
    /// The program whose word stands above the readings, where there is one.
    pub recompute: Option<&'a dyn Recompute>,
}

/// Searches for proofs of all problems of a run and writes its files. Returns one finished plan per problem.
///
/// # Errors
/// [`SearchError`]; the folder then holds all that was found, and the same call goes on from there.
pub fn search(
    run: &mut Run,
    task: &Task<'_>,
    complete: &mut dyn Complete,
    limits: &Limits<'_>,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Vec<Plan>, SearchError> {
    let started = Instant::now();
    let Task { manifest, problems, recompute, .. } = *task;
    let limits_of_tokens = (manifest.settings.max_tokens_per_proof, manifest.settings.max_tokens_per_reading);
    let mut results = Results { limits: limits_of_tokens, ..Results::default() };
    run.records().iter().for_each(|record| results.add(record, true));
    results.cancel(run.canceled_tokens());
    let folder = run.folder().display().to_string();
    observe(&Event::Start {
        folder: &folder,
        problems: problems.len(),
        seed: manifest.seed,
        resumed: results.spent.completions,
        domain: manifest.domain.as_ref(),
    });
    let falsehood = |problem: &Problem| recompute.and_then(|program| program.falsehood(&problem.question));
    let mut driver = Driver {
        run,
        task,
        falsehoods: problems.iter().map(falsehood).collect(),
        results,
        requests: RefCell::new(HashMap::new()),
        under_way: HashMap::new(),
        next_ticket: 0,
        plans: vec![None; problems.len()],
        told: HashMap::new(),
    };
    let mut outcome = driver.work(complete, limits, observe);
    for ticket in driver.under_way.keys() {
        complete.cancel(*ticket);
    }
    let canceled = driver.count_canceled(complete);
    if outcome.is_ok() {
        outcome = canceled.and_then(|()| driver.lost_to_network());
    }
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            driver.write_pools()?;
            driver.write_results()?;
            driver.run.end(seconds)?;
        }
        Err(error) => {
            let end = match error {
                SearchError::Complete(CompleteError::Interrupted) => End::Interrupted,
                _ => End::Broken,
            };
            driver.stop(end, observe);
            // What there is so far is worth looking at; the first error is worth more than a second one.
            drop(driver.write_pools());
            drop(driver.write_results());
            drop(driver.run.end(seconds));
            driver.tell_end(seconds, observe);
            return Err(error);
        }
    }
    driver.tell_end(seconds, observe);
    Ok(driver.plans.into_iter().flatten().collect())
}

struct Driver<'a> {
    run: &'a mut Run,
    task: &'a Task<'a>,
    // By problem.
    falsehoods: Vec<Option<String>>,
    results: Results,
    requests: RefCell<HashMap<Key, String>>,
    under_way: HashMap<u64, Ask>,
    next_ticket: u64,
    plans: Vec<Option<Plan>>,
    // What was told of each proof: an earlier one of its round may make it a copy.
    told: HashMap<(usize, u32), State>,
}

impl Driver<'_> {
    fn work(
        &mut self,
        complete: &mut dyn Complete,
        limits: &Limits<'_>,
        observe: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), SearchError> {
        const WAIT: Duration = Duration::from_millis(100);
        // The problem whose completion came last; at first all of them.
        let mut stale: Vec<usize> = (0..self.task.problems.len()).collect();
        loop {
            for index in std::mem::take(&mut stale) {
                self.replan(index, complete.width(), observe)?;
                if self.is_finished(index) {
                    let is_its = |ask: &Ask| ask.key.problem as usize == index;
                    self.under_way
                        .iter()
                        .filter(|(_, ask)| is_its(ask))
                        .for_each(|(ticket, _)| complete.cancel(*ticket));
                    self.under_way.retain(|_, ask| !is_its(ask));
                    self.count_canceled(complete)?;
                }
            }
            if (0..self.task.problems.len()).all(|index| self.is_finished(index)) {
                return Ok(());
            }
            if (limits.interrupted)() {
                return Err(CompleteError::Interrupted.into());
            }
            if limits.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.stop(End::Time, observe);
                return Ok(());
            }
            self.hand_out(complete);
            self.stop_spent(complete, observe);
            let polled = complete.poll(WAIT);
            for words in complete.notices() {
                observe(&Event::Notice { words: &words });
            }
            let answer = match polled {
                Ok(Some(answer)) => answer,
                Ok(None) => continue,
                // A deadline is how we interrupt the answerer ourselves.
                Err(CompleteError::Interrupted) if !(limits.interrupted)() && limits.deadline.is_some() => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(ask) = self.under_way.remove(&answer.ticket) else {
                continue;
            };
            stale.push(ask.key.problem as usize);
            let (completion, lost) = match answer.result {
                Ok(completion) => (Some(completion), None),
                Err(lost) => (None, Some(lost)),
            };
            let record = Record {
                key: ask.key,
                request: ask.request,
                seed: ask.seed,
                completion,
                network: lost.as_ref().is_some_and(|lost| lost.network),
                context: lost.as_ref().and_then(|lost| lost.context),
                error: lost.map(|lost| lost.what),
                wasted: answer.wasted,
            };
            self.results.add(&record, false);
            self.tell(&record, observe);
            self.run.append(record)?;
        }
    }

    /// Notes what answers had cost that are no longer wanted.
    fn count_canceled(&mut self, complete: &mut dyn Complete) -> Result<(), SearchError> {
        let tokens = complete.canceled_tokens();
        if tokens > 0 {
            self.results.cancel(tokens);
            self.run.cancel(tokens)?;
        }
        Ok(())
    }

    /// A problem of whose proofs none was read because of the network has no answer, not even no.
    fn lost_to_network(&mut self) -> Result<(), SearchError> {
        let mut first = None;
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let Some(plan) = plan.as_mut().filter(|plan| matches!(plan.end, Some((End::Rounds, _)))) else {
                continue;
            };
            if let Some(why) = self.results.lost_to_network(u32::try_from(index).unwrap_or(u32::MAX)) {
                plan.end = plan.end.map(|(_, chosen)| (End::Broken, chosen));
                first.get_or_insert_with(|| why.to_owned());
            }
        }
        first.map_or(Ok(()), |why| Err(SearchError::Network(why)))
    }

    /// The problems whose tokens are spent, by what is under way already: answers may come in any order, and be longer than
    /// others, so that the plan alone would ask on.
    fn spent(&self, complete: &dyn Complete) -> HashSet<u32> {
        let Some(most) = self.task.manifest.settings.max_tokens_total.filter(|_| complete.is_elsewhere())
        else {
            return HashSet::new();
        };
        let mut tokens = self.results.by_problem.clone();
        for (ticket, so_far) in complete.progress() {
            if let Some(ask) = self.under_way.get(&ticket) {
                *tokens.entry(ask.key.problem).or_default() += so_far;
            }
        }
        tokens.into_iter().filter(|(_, tokens)| *tokens >= most).map(|(problem, _)| problem).collect()
    }

    /// Ends the problems whose tokens are spent once nothing of theirs is under way.
    fn stop_spent(&mut self, complete: &dyn Complete, observe: &mut dyn FnMut(&Event<'_>)) {
        for problem in self.spent(complete) {
            if !self.under_way.values().any(|ask| ask.key.problem == problem) {
                self.stop_one(problem as usize, End::Tokens, observe);
            }
        }
    }

    fn hand_out(&mut self, complete: &mut dyn Complete) {
        let spent = self.spent(complete);
        let width = complete.width().max(1);
        let busy: HashSet<Key> = self.under_way.values().map(|ask| ask.key).collect();
        let mut free = width.saturating_sub(busy.len());
        for ask in self.plans.iter().flatten().flat_map(|plan| &plan.wanted) {
            if free == 0 {
                break;
            }
            if busy.contains(&ask.key) || spent.contains(&ask.key.problem) || !complete.has_room_for(&ask.key)
            {
                continue;
            }
            free -= 1;
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            complete.submit(Request {
                ticket,
                key: ask.key,
                prompt: ask.prompt.clone(),
                seed: ask.seed,
                max_tokens: ask.max_tokens,
                temperature: self.task.manifest.settings.temperature(ask.key.role),
                top_p: self.task.manifest.settings.top_p,
            });
            self.under_way.insert(ticket, ask.clone());
        }
    }

    fn is_finished(&self, index: usize) -> bool {
        self.plans[index].as_ref().is_some_and(|plan| plan.end.is_some())
    }

    fn replan(
        &mut self,
        index: usize,
        width: usize,
        observe: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), SearchError> {
        let planner = Planner {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            problem: &self.task.problems[index],
            prompts: self.task.prompts,
            manifest: self.task.manifest,
            recompute: self.task.recompute,
            falsehood: self.falsehoods[index].as_deref(),
            results: &self.results,
            requests: &self.requests,
            // What is under way is wanted still, and comes first.
            enough: width.max(1) * 2,
        };
        let plan = planner.plan();
        let problem_idx = self.task.problems[index].problem_idx.as_str();
        let mut news = false;
        for proof in plan.proofs.iter().filter(|proof| proof.is_settled()) {
            if self.told.insert((index, proof.proof_id), proof.state.clone()).as_ref() != Some(&proof.state) {
                news = true;
                observe(&Event::Proof {
                    problem_idx,
                    proof_id: proof.proof_id,
                    round_idx: proof.round + 1,
                    state: &proof.state,
                    meanscore: proof.mean(),
                    readings: proof.readings.len(),
                    again: proof.again,
                    recomputed: recomputed(proof, self.program()),
                });
            }
        }
        let finished = plan.end.is_some();
        self.plans[index] = Some(plan);
        if news {
            self.write_pool(index)?;
        }
        if finished {
            self.tell_chosen(index, observe);
        }
        Ok(())
    }

    /// Ends the problems that have not ended with the best proof so far.
    fn stop(&mut self, end: End, observe: &mut dyn FnMut(&Event<'_>)) {
        for index in 0..self.task.problems.len() {
            self.stop_one(index, end, observe);
        }
    }

    fn stop_one(&mut self, index: usize, end: End, observe: &mut dyn FnMut(&Event<'_>)) {
        let Some(plan) = self.plans[index].as_mut().filter(|plan| plan.end.is_none()) else {
            return;
        };
        plan.wanted.clear();
        for proof in plan.proofs.iter_mut().filter(|proof| proof.state == State::Reading) {
            proof.state = State::Undecided;
        }
        let best = best(&plan.proofs).map(|proof| (proof.state == State::Passed, proof.proof_id));
        let end = if best.is_some_and(|(passed, _)| passed) { End::Passed } else { end };
        plan.end = Some((end, best.map(|(_, id)| id)));
        self.tell_chosen(index, observe);
    }

    fn tell_end(&self, seconds: f64, observe: &mut dyn FnMut(&Event<'_>)) {
        let plans = || self.plans.iter().flatten();
        observe(&Event::End {
            passed: plans().filter(|plan| plan.passed()).count(),
            unfinished: plans().filter(|plan| plan.unfinished().is_some()).count(),
            problems: self.task.problems.len(),
            outside_domain: self
                .task
                .problems
                .iter()
                .filter(|problem| self.task.manifest.is_outside(problem))
                .count(),
            spent: self.results.spent,
            seconds,
        });
    }

    fn tell_chosen(&self, index: usize, observe: &mut dyn FnMut(&Event<'_>)) {
        let Some((plan, (end, proof_id))) =
            self.plans[index].as_ref().and_then(|plan| Some((plan, plan.end?)))
        else {
            return;
        };
        let chosen = plan.chosen();
        observe(&Event::Chosen {
            problem_idx: &self.task.problems[index].problem_idx,
            end,
            proof_id,
            proof: chosen.and_then(|proof| proof.attempt.as_ref()).map(|attempt| attempt.proof.as_str()),
            meanscore: chosen.and_then(Proof::mean),
            readings: chosen.map_or(0, |proof| proof.readings.len()),
            recomputed: chosen.and_then(|proof| recomputed(proof, self.program())),
            falsehood: plan.falsehood.as_deref(),
            outside_domain: self.task.manifest.is_outside(&self.task.problems[index]),
        });
    }

    fn program(&self) -> Option<&str> {
        self.task.recompute.map(Recompute::name)
    }

    fn tell(&self, record: &Record, observe: &mut dyn FnMut(&Event<'_>)) {
        let outcome =
            self.results.by_key.get(&record.key).and_then(|known| known.last()).map(|known| &known.outcome);
        let (score, problem) = match outcome {
            Some(Outcome::Attempt(attempt)) => (attempt.self_score, None),
            Some(Outcome::Evaluation(_, score)) => (Some(*score), None),
            Some(Outcome::Preference(_)) | None => (None, None),
            Some(Outcome::Nothing(why)) => (None, Some(why.as_str())),
        };
        let key = record.key;
        observe(&Event::Completion {
            problem_idx: &self.task.problems[key.problem as usize].problem_idx,
            role: key.role.name(),
            round_idx: key.round + 1,
            proof: key.proof + 1,
            reading: key.reading + 1,
            score,
            problem,
            tokens: record.completion.as_ref().map_or(0, |completion| completion.tokens),
            seconds: record.completion.as_ref().map_or(0.0, |completion| completion.seconds),
            spent: self.results.spent,
        });
    }

    fn write_pools(&self) -> Result<(), StoreError> {
        (0..self.task.problems.len()).try_for_each(|index| self.write_pool(index))
    }

    fn write_pool(&self, index: usize) -> Result<(), StoreError> {
        let Some(plan) = &self.plans[index] else {
            return Ok(());
        };
        let problem = &self.task.problems[index];
        let lines: String =
            plan.pool().map(|proof| format!("{}\n", proof.pool_line(self.program()))).collect();
        let name = Path::new("pool").join(&problem.source).join(format!("{}.jsonl", problem.problem_idx));
        self.run.write(&name, &lines)
    }

    fn write_results(&self) -> Result<(), StoreError> {
        let mut predictions = String::new();
        let mut solution = String::new();
        for (problem, plan) in self.task.problems.iter().zip(self.plans.iter().flatten()) {
            let chosen = plan.chosen();
            let proof = chosen.and_then(|proof| proof.attempt.as_ref()).map(|attempt| attempt.proof.as_str());
            let outside = self.task.manifest.is_outside(problem);
            let mut prediction = json!({
                "question": problem.question,
                "problem_idx": problem.problem_idx,
                "model_prediction": {
                    "proof": proof,
                    "average_automatic_rating": chosen.and_then(Proof::mean),
                },
                "source": problem.source,
                "passed": plan.passed(),
                "end": plan.end.map(|(end, _)| end),
                "proof_id": chosen.map(|proof| proof.proof_id),
                "readings": chosen.map_or(0, |proof| proof.readings.len()),
                "other_readings": chosen.map_or(0, |proof| plan.other_readings(proof).count()),
            });
            if let Some(found) = chosen.and_then(|proof| recomputed(proof, self.program())) {
                prediction["recomputed"] = found;
            }
            if let Some(why) = &plan.falsehood {
                prediction["falsehood"] = json!(why);
            }
            if outside {
                prediction["outside_domain"] = json!(true);
            }
            predictions.push_str(&format!("{prediction}\n"));
            solution.push_str(&solution_text(problem, plan, outside));
        }
        if let Some(known) = &self.task.manifest.domain {
            solution.push_str(&format!("{}\n", known.reservation()));
        }
        self.run.write("predictions.jsonl".as_ref(), &predictions)?;
        self.run.write("solution.md".as_ref(), &solution)
    }
}

fn solution_text(problem: &Problem, plan: &Plan, outside: bool) -> String {
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
    let Some((proof, attempt)) = plan.chosen().and_then(|proof| Some((proof, proof.attempt.as_ref()?)))
    else {
        text.push_str("No proof was written.\n\n");
        return text;
    };
    let (ones, counted) = tally(&proof.readings);
    let verdict = if plan.passed() { "Passed" } else { "Did not pass" };
    let heading = if plan.passed() && !outside { "Proof" } else { "Best attempt (not accepted)" };
    let computed = match &proof.recomputed {
        Some(Ok(())) => {
            "Recomputed by a program: every step holds, and the last one is what was asked.\n\n".to_owned()
        }
        Some(Err(flaw)) => format!("Recomputed by a program, which finds a flaw: {}.\n\n", flaw.why),
        None => String::new(),
    };
    let other = match tally(plan.other_readings(proof)) {
        (_, 0) => String::new(),
        (ones, counted) => format!(" In other rounds {ones} of {counted} of the same text did."),
    };
    text.push_str(&format!(
        "## {heading}\n\n{}\n\n{computed}{verdict}: {ones} of {counted} counted readings by the verifier say 1.{other}\n\n",
        attempt.proof
    ));
    text
}

/// How many of the counted readings say 1, and how many count.
pub fn tally<'a>(readings: impl IntoIterator<Item = &'a Reading>) -> (usize, usize) {
    let counted = readings.into_iter().filter(|reading| reading.weight > 0.0);
    counted.fold((0, 0), |(ones, counted), reading| {
        (ones + usize::from(reading.score == Score::One), counted + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_same_text_the_last_that_was_decided_counts() {
        let proof = |proof_id, again, state| Proof {
            proof_id,
            round: proof_id / 5,
            index: proof_id % 5,
            parent: again,
            again,
            attempt: None,
            readings: Vec::new(),
            unreadable: 0,
            state,
            recomputed: None,
            tokens: 0,
        };
        let mut proofs = vec![
            proof(1, None, State::Rejected),
            proof(2, None, State::Rejected),
            proof(3, None, State::Duplicate(1)),
            proof(6, Some(1), State::Undecided),
        ];
        let ids = |proofs: &[Proof]| latest(proofs).map(|proof| proof.proof_id).collect::<Vec<_>>();
        assert_eq!(ids(&proofs), [1, 2]);
        proofs.push(proof(11, Some(6), State::Rejected));
        proofs.push(proof(12, Some(2), State::Reading));
        assert_eq!(ids(&proofs), [11, 2]);
    }
}
