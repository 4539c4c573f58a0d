//! The planner: from the completions there are, what is known and which are wanted next.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;

use super::results::{Meaning, Results};
use crate::confidence::{Readings, Z_95, wilson};
use crate::parse::Score;
use crate::pool::{self, End, Proof, Reading, State, best, latest};
use crate::problem::Problem;
use crate::prompts::PromptSet;
use crate::recompute::{Recompute, Recomputed};
use crate::roles::{Key, Role, fingerprint};
use crate::settings::Settings;
use crate::store::Manifest;

/// The state of one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All proofs in logical order; the last ones may not be finished.
    pub proofs: Vec<Proof>,
    /// What should be asked next, in logical order.
    pub(super) wanted: Vec<Ask>,
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
        pool::others(&self.proofs, proof).flat_map(|other| &other.readings)
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
pub(super) struct Ask {
    pub key: Key,
    pub prompt: String,
    /// Fingerprint of all that the answer depends on.
    pub request: String,
    pub seed: u64,
}

/// Plans one problem.
pub(super) struct Planner<'a> {
    pub index: u32,
    pub problem: &'a Problem,
    pub prompts: &'a PromptSet,
    pub manifest: &'a Manifest,
    pub recompute: Option<&'a dyn Recompute>,
    /// Whether the statement is false is computed once.
    pub falsehood: Option<&'a str>,
    pub results: &'a Results,
    /// Fingerprints of requests by key: prompts are long, and a key's never changes once it can be asked.
    pub requests: &'a RefCell<HashMap<Key, String>>,
    /// So many wanted completions are enough.
    pub enough: usize,
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

    /// The state of the problem. A pure function of the completions, whatever the order in which they came.
    pub fn plan(&self) -> Plan {
        let mut walk = Walk { proofs: Vec::new(), wanted: Vec::new(), tokens: 0, wasted: 0 };
        let end = match self.rounds(&mut walk) {
            Ok(end) => Some(end),
            Err(Halt::Spent) if walk.wanted.is_empty() => Some(ended(&walk.proofs, End::Tokens)),
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
        let mut ranked = latest(proofs);
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
        readings.sort_by(|a, b| a.score.total_cmp(&b.score));
        // What was computed comes before what was read.
        let computed = proof.recomputed.as_ref().and_then(|found| found.evaluation.as_deref());
        let read = readings.iter().map(|reading| reading.text.as_str());
        let mut texts: Vec<&str> =
            computed.into_iter().chain(read).take(self.settings().evaluations_to_refine as usize).collect();
        loop {
            let prompt = self.prompts.refine(&self.problem.question, &proof.proof, &texts);
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
        let known = self.results.with(&self.key(proof, Role::Verify, 0));
        let counted = known.iter().find_map(|known| known.prompt_tokens);
        let bytes_per_token = counted.map_or(BYTES_PER_TOKEN, |tokens| {
            let prompt = self.prompts.verify(&self.problem.question, &proof.proof);
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
            round_idx: round + 1,
            index,
            dep_proof_ids: parent.map(|parent| parent.0).into_iter().collect(),
            state: State::Writing,
            ..Proof::default()
        };
        let before = walk.tokens;
        let halt = self.write_and_read(walk, &mut proof, parent);
        proof.meanscore = pool::sum(&proof.readings).mean;
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
        let key = self.key(proof, if parent.is_some() { Role::Refine } else { Role::Generate }, 0);
        let prompt = || match parent {
            Some((_, prompt)) => prompt.clone(),
            None => self.prompts.generate(&self.problem.question),
        };
        let mut meaning = self.look_up(walk, key, prompt)?;
        if let (Some(Meaning::Nothing(_)), Some((parent, first))) = (meaning, parent) {
            meaning = self.look_up_shorter(walk, key, *parent, first, meaning)?;
        }
        match meaning {
            None => return Ok(()),
            Some(Meaning::Attempt(attempt)) => proof.write(attempt),
            Some(Meaning::Nothing(why)) => {
                proof.state = State::Failed(why.clone());
                return Ok(());
            }
            Some(other) => unreachable!("a proof was read as {other:?}"),
        }
        let same = |other: &&Proof| other.counts() && other.proof == proof.proof;
        if let Some(twin) = walk.proofs.iter().rfind(same) {
            // At temperature 0 the same question has the same answer, and a program always says the same.
            let is_certain = self.settings().reading_temperature == 0.0 || twin.is_refuted();
            if twin.round_idx == proof.round_idx || is_certain {
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
        let text = proof.proof.clone();
        let question = &self.problem.question;
        let verify = || self.prompts.verify(question, &text);
        // Unreadable and dismissed readings are replaced, within reason.
        let most = settings.verifications.saturating_mul(2).saturating_add(2);
        for number in 0..most {
            let Some(meaning) = self.look_up(walk, self.key(proof, Role::Verify, number), verify)? else {
                // More of them at once, as long as every one so far says 1: they are needed if that goes on.
                let have = u32::try_from(proof.readings.len()).unwrap_or(u32::MAX);
                let least = settings.minimum_readings.saturating_sub(have);
                let chunk = least.max(have).clamp(1, settings.verifications.saturating_sub(have).max(1));
                for ahead in 1..chunk.min(most - number) {
                    if walk.wanted.len() < self.enough {
                        self.want(walk, self.key(proof, Role::Verify, number + ahead), verify);
                    }
                }
                return Ok(());
            };
            let evaluation = match meaning {
                Meaning::Evaluation(evaluation) => evaluation.clone(),
                Meaning::Nothing(_) => {
                    proof.unreadable += 1;
                    continue;
                }
                other => unreachable!("a reading was read as {other:?}"),
            };
            let mut judgement = None;
            if evaluation.score < Score::One && settings.meta_verify {
                let judge = || self.prompts.meta_verify(question, &text, &evaluation.text);
                match self.look_up(walk, self.key(proof, Role::MetaVerify, number), judge)? {
                    None => return Ok(()),
                    Some(Meaning::Evaluation(said)) => judgement = Some(said.clone()),
                    // An unreadable judgement changes nothing.
                    Some(_) => {}
                }
            }
            proof.readings.push(Reading::new(number, evaluation, judgement));
            if let Some(state) = decide(settings, &proof.readings) {
                if state == State::Passed {
                    proof.recomputed =
                        self.recompute.and_then(|program| Recomputed::by(program, question, &text));
                }
                let is_flawed = proof.recomputed.as_ref().is_some_and(|found| !found.holds);
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
        let mut ranked: Vec<Proof> = latest(&walk.proofs).into_iter().cloned().collect();
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
                    0 => (&champion.proof, &challenger.proof),
                    _ => (&challenger.proof, &champion.proof),
                };
                let prompt =
                    || self.prompts.compare(&self.problem.question, first, second).unwrap_or_default();
                let pair = u32::try_from(pair).unwrap_or(u32::MAX);
                let key = Key { proof: pair, ..self.key(&champion, Role::Compare, reading) };
                match self.look_up(walk, key, prompt)? {
                    None => missing = true,
                    // In the second order the challenger stands first.
                    Some(Meaning::Preference(better)) if (*better == 1) == (reading == 0) => votes += 1,
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
    ) -> Result<Option<&Meaning>, Halt> {
        if self.settings().max_tokens_total.is_some_and(|most| walk.tokens + walk.wasted >= most) {
            return Err(Halt::Spent);
        }
        let known = self.results.with(&key);
        if !known.is_empty() {
            let mut requests = self.requests.borrow_mut();
            let request = requests.entry(key).or_insert_with(|| self.request(key, &prompt()));
            if let Some(known) = known.iter().find(|known| known.request == *request) {
                walk.tokens += known.tokens;
                walk.wasted += known.wasted;
                return Ok(Some(&known.meaning));
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
        lost: Option<&'a Meaning>,
    ) -> Result<Option<&'a Meaning>, Halt> {
        let known = self.results.with(&key);
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
            last = Some(&known.meaning);
            if known.context.is_none() {
                break;
            }
        }
        Ok(last)
    }

    fn want(&self, walk: &mut Walk, key: Key, prompt: impl FnOnce() -> String) {
        let prompt = prompt();
        let request = self.request(key, &prompt);
        if !self.results.with(&key).iter().any(|known| known.request == request) {
            walk.wanted.push(Ask { key, seed: self.seed(key), prompt, request });
        }
    }

    /// The key of a completion about a proof.
    fn key(&self, proof: &Proof, role: Role, reading: u32) -> Key {
        Key { problem: self.index, round: proof.round_idx - 1, proof: proof.index, role, reading }
    }

    fn seed(&self, key: Key) -> u64 {
        key.seed(self.manifest.seed, &self.problem.problem_idx)
    }

    /// Fingerprint of all that an answer depends on.
    fn request(&self, key: Key, prompt: &str) -> String {
        let settings = self.settings();
        let model = if key.role.writes() { &self.manifest.generator } else { &self.manifest.verifier };
        fingerprint([
            model.fingerprint.as_bytes(),
            prompt.as_bytes(),
            &self.seed(key).to_le_bytes(),
            &settings.max_tokens(key.role).to_le_bytes(),
            &settings.temperature(key.role).to_le_bytes(),
            &settings.top_p.to_le_bytes(),
        ])
    }
}

/// How a search ends that goes no further, with the proof that is chosen then.
pub(super) fn ended(proofs: &[Proof], end: End) -> (End, Option<u32>) {
    let best = best(proofs);
    let passed = best.is_some_and(|proof| proof.state == State::Passed);
    (if passed { End::Passed } else { end }, best.map(|proof| proof.proof_id))
}

/// Whether a proof passed or failed after these readings.
fn decide(settings: &Settings, readings: &[Reading]) -> Option<State> {
    let Readings { count, counted, counted_passed, .. } = pool::sum(readings);
    let (dismissed, wanted) = (count - counted, u64::from(settings.verifications));
    if dismissed * 2 > wanted {
        return Some(State::Undecided);
    }
    if counted < u64::from(settings.minimum_readings).min(wanted).max(1) {
        return None;
    }
    if counted_passed < counted {
        return Some(State::Rejected);
    }
    let low = wilson(counted, counted, Z_95).map_or(0.0, |interval| interval.low);
    let sure = settings.sure.is_some_and(|sure| low >= sure);
    (sure && dismissed * 2 <= counted || counted >= wanted).then_some(State::Passed)
}
