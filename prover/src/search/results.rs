//! What came back, and what it means.

use std::collections::HashMap;

use crate::complete::Completion;
use crate::parse::{self, Attempt, Evaluation};
use crate::roles::{Key, Role};
use crate::store::{Record, Spent};

/// What a completion says.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    Attempt(Attempt),
    Evaluation(Evaluation),
    /// Which of two proofs is better, 0 or 1.
    Preference(usize),
    /// Why it says nothing.
    Nothing(String),
}

/// Reads a completion for the role it was asked in, of at most so many tokens.
pub(crate) fn read(role: Role, completion: &Completion, asked: u32) -> Meaning {
    if let Some(why) = completion.cut_short(asked) {
        return Meaning::Nothing(why);
    }
    let answer = &completion.answer;
    let (meaning, wanted) = match role {
        Role::Generate | Role::Refine => (parse::attempt(answer).map(Meaning::Attempt), "`## Solution`"),
        Role::Verify | Role::MetaVerify => {
            (parse::evaluation(answer).map(Meaning::Evaluation), "score in a box")
        }
        Role::Compare => (parse::preference(answer).map(Meaning::Preference), "1 or 2 in a box"),
    };
    meaning.unwrap_or_else(|| Meaning::Nothing(completion.lacks(wanted)))
}

/// A completion that is there, or is lost.
#[derive(Debug)]
pub(super) struct Finished {
    /// What it was asked with.
    pub request: String,
    pub tokens: u64,
    /// Tokens of the prompt as somebody counted them.
    pub prompt_tokens: Option<u64>,
    pub wasted: u64,
    pub network: bool,
    pub context: Option<u32>,
    pub meaning: Meaning,
}

/// The completions of a run by key.
#[derive(Debug, Default)]
pub(super) struct Results {
    by_key: HashMap<Key, Vec<Finished>>,
    pub spent: Spent,
    /// Tokens of each problem, those included that no plan counts.
    pub by_problem: HashMap<u32, u64>,
}

impl Results {
    /// Takes a record, asked with a limit of tokens. `old`: of an earlier session; what that one lost to the network is asked
    /// again.
    pub fn add(&mut self, record: &Record, limit: u32, old: bool) {
        let before = self.spent.tokens;
        self.spent.add(record);
        *self.by_problem.entry(record.key.problem).or_default() += self.spent.tokens - before;
        if old && record.network {
            return;
        }
        let completion = record.completion.as_ref();
        let counted =
            completion.filter(|completion| completion.prompt_tokens > 0 && !completion.is_estimated());
        let meaning = match completion {
            Some(completion) => read(record.key.role, completion, limit),
            None => Meaning::Nothing(record.error.clone().unwrap_or_default()),
        };
        self.by_key.entry(record.key).or_default().push(Finished {
            request: record.request.clone(),
            tokens: completion.map_or(0, |completion| completion.tokens),
            prompt_tokens: counted.map(|completion| completion.prompt_tokens),
            wasted: record.wasted,
            network: record.network,
            context: record.context,
            meaning,
        });
    }

    /// The completions with a key: several where it was asked in several ways.
    pub fn with(&self, key: &Key) -> &[Finished] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether nothing was read of a problem's proofs, and the network is why.
    pub fn lost_to_network(&self, problem: u32) -> Option<&str> {
        let of_problem =
            || self.by_key.iter().filter(|(key, _)| key.problem == problem).flat_map(|(_, known)| known);
        if of_problem().any(|known| matches!(known.meaning, Meaning::Evaluation(_))) {
            return None;
        }
        of_problem().find(|known| known.network).and_then(|known| match &known.meaning {
            Meaning::Nothing(why) => Some(why.as_str()),
            _ => None,
        })
    }
}
