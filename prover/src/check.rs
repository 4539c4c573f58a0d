//! Grading a proof that is there already: so many readings, and a judgement of each that says less than 1.

use std::collections::{BTreeMap, HashMap};

use crate::complete::{Complete, CompleteError};
use crate::parse::{Evaluation, Score};
use crate::pool::{self, Reading};
use crate::problem::Problem;
use crate::prompts::PromptSet;
use crate::roles::{Key, Role};
use crate::search::results::{Meaning, read};
use crate::settings::Settings;
use crate::under_way::UnderWay;

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
        pool::sum(&self.readings).mean
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
    let mut grade = Grade { readings: Vec::new(), unreadable: Vec::new(), lost_to_network: 0, tokens: 0 };
    let mut evaluations: BTreeMap<u32, Evaluation> = BTreeMap::new();
    let mut judgements: HashMap<u32, Evaluation> = HashMap::new();
    let mut queue: Vec<(Role, u32, String)> = (0..settings.verifications)
        .rev()
        .map(|n| (Role::Verify, n, prompts.verify(&problem.question, proof)))
        .collect();
    let mut under_way = UnderWay::new();
    while !queue.is_empty() || under_way.len() > 0 {
        if interrupted() {
            return Err(CompleteError::Interrupted);
        }
        while under_way.len() < complete.width().max(1)
            && let Some((role, reading, prompt)) = queue.pop()
        {
            let key = Key { problem: 0, round: 0, proof: 0, role, reading };
            let request = (key, prompt, key.seed(seed, &problem.problem_idx));
            under_way.submit(complete, settings, request, (role, reading));
        }
        let polled = under_way.poll(complete, &mut |words| told(Told::Notice(words)))?;
        let Some(((role, reading), answer)) = polled else {
            continue;
        };
        grade.tokens += answer.wasted + answer.result.as_ref().map_or(0, |completion| completion.tokens);
        let network = answer.result.as_ref().is_err_and(|lost| lost.network);
        grade.lost_to_network += u32::from(network && role == Role::Verify);
        let evaluation = match answer.result {
            Ok(completion) => match read(role, &completion, settings.max_tokens(role)) {
                Meaning::Evaluation(evaluation) => Ok(evaluation),
                Meaning::Nothing(why) => Err(why),
                other => unreachable!("a reading was read as {other:?}"),
            },
            Err(lost) => Err(lost.what),
        };
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
            (_, Ok(evaluation)) => drop(judgements.insert(reading, evaluation)),
        }
    }
    grade.unreadable.sort();
    grade.readings = evaluations
        .into_iter()
        .map(|(number, evaluation)| Reading::new(number, evaluation, judgements.remove(&number)))
        .collect();
    Ok(grade)
}
