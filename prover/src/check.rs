//! Grading a proof that is there already: so many readings, and a judgement of each that says less than 1.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::complete::{Complete, CompleteError, Completion, Request};
use crate::parse::{self, Evaluation, Score};
use crate::problem::Problem;
use crate::prompts::PromptSet;
use crate::roles::{Key, Role};
use crate::search::{Reading, Settings};

/// What the readings say.
#[derive(Clone, Debug, PartialEq)]
pub struct Grade {
    /// Readings that could be read, in order.
    pub readings: Vec<Reading>,
    /// Readings that could not, and why.
    pub unreadable: Vec<(u32, String)>,
    /// Readings that were lost because nobody could be reached, or answered in full; they are among those.
    pub lost_to_network: u32,
    /// Tokens generated.
    pub tokens: u64,
}

impl Grade {
    /// The weighted mean; `None` without a counted reading.
    pub fn mean(&self) -> Option<f64> {
        let weight: f64 = self.readings.iter().map(|reading| reading.weight).sum();
        let sum: f64 = self.readings.iter().map(|reading| reading.weight * reading.score.value()).sum();
        (weight > 0.0).then(|| sum / weight)
    }

    /// Whether every counted reading says 1, and there is one.
    pub fn passed(&self) -> bool {
        self.mean() == Some(1.0)
    }
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told<'a> {
    /// A reading or a judgement of one came.
    Reading {
        /// Its number, from 0.
        number: u32,
        /// [`Role::Verify`] or [`Role::MetaVerify`].
        role: Role,
        /// Its score, or why there is none.
        score: Result<Score, &'a str>,
    },
    /// Something that whoever waits should know.
    Notice(&'a str),
}

/// Reads a proof `settings.verifications` times. `told` hears of each reading as it comes.
///
/// # Errors
/// [`CompleteError`] when nothing more can be answered, or `interrupted` says so.
#[expect(clippy::too_many_arguments, reason = "each is another thing, and there is one caller")]
pub fn check(
    problem: &Problem,
    proof: &str,
    prompts: &PromptSet,
    settings: &Settings,
    seed: u64,
    complete: &mut dyn Complete,
    interrupted: &dyn Fn() -> bool,
    told: &mut dyn FnMut(Told<'_>),
) -> Result<Grade, CompleteError> {
    const WAIT: Duration = Duration::from_millis(100);
    let mut grade = Grade { readings: Vec::new(), unreadable: Vec::new(), lost_to_network: 0, tokens: 0 };
    let mut evaluations: BTreeMap<u32, Evaluation> = BTreeMap::new();
    let mut judgements: HashMap<u32, (String, Score)> = HashMap::new();
    let mut queue: Vec<(Role, u32, String)> = (0..settings.verifications)
        .rev()
        .map(|n| (Role::Verify, n, prompts.verify(&problem.question, proof)))
        .collect();
    let mut under_way: HashMap<u64, (Role, u32)> = HashMap::new();
    let mut ticket = 0;
    while !queue.is_empty() || !under_way.is_empty() {
        if interrupted() {
            return Err(CompleteError::Interrupted);
        }
        while under_way.len() < complete.width().max(1)
            && let Some((role, reading, prompt)) = queue.pop()
        {
            let key = Key { problem: 0, round: 0, proof: 0, role, reading };
            under_way.insert(ticket, (role, reading));
            complete.submit(Request {
                ticket,
                key,
                prompt,
                seed: key.seed(seed, &problem.problem_idx),
                max_tokens: settings.max_tokens_per_reading,
                temperature: settings.reading_temperature,
                top_p: settings.top_p,
            });
            ticket += 1;
        }
        let polled = complete.poll(WAIT);
        complete.notices().iter().for_each(|words| told(Told::Notice(words)));
        let Some(answer) = polled? else {
            continue;
        };
        let Some((role, reading)) = under_way.remove(&answer.ticket) else {
            continue;
        };
        grade.tokens += answer.wasted;
        if let Ok(completion) = &answer.result {
            grade.tokens += completion.tokens;
        }
        let network = answer.result.as_ref().is_err_and(|lost| lost.network);
        grade.lost_to_network += u32::from(network && role == Role::Verify);
        let most = settings.max_tokens_per_reading;
        let evaluation =
            answer.result.map_err(|lost| lost.what).and_then(|completion| readable(&completion, most));
        let score = evaluation.as_ref().map(|evaluation| evaluation.score).map_err(String::as_str);
        told(Told::Reading { number: reading, role, score });
        match (role, evaluation) {
            (Role::Verify, Ok(evaluation)) => {
                if evaluation.score < Score::One && settings.meta_verify {
                    let prompt = prompts.meta_verify(&problem.question, proof, &evaluation.text);
                    queue.push((Role::MetaVerify, reading, prompt));
                }
                evaluations.insert(reading, evaluation);
            }
            (Role::Verify, Err(why)) => grade.unreadable.push((reading, why)),
            // An unreadable judgement changes nothing.
            (_, Err(_)) => {}
            (_, Ok(evaluation)) => drop(judgements.insert(reading, (evaluation.text, evaluation.score))),
        }
    }
    grade.unreadable.sort();
    grade.readings = evaluations
        .into_iter()
        .map(|(number, Evaluation { text, score })| {
            let meta = judgements.remove(&number);
            let weight = meta.as_ref().map_or(1.0, |(_, score)| score.value());
            Reading { number, text, score, meta, weight }
        })
        .collect();
    Ok(grade)
}

fn readable(completion: &Completion, asked: u32) -> Result<Evaluation, String> {
    match completion.cut_short(asked) {
        Some(why) => Err(why),
        None => parse::evaluation(&completion.answer).ok_or_else(|| completion.lacks("score in a box")),
    }
}
