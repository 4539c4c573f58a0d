//! Who answers. The search hands over requests and asks for answers; how many are worked on at once is the answerer's
//! affair.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::roles::Key;

/// One prompt to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Names the request until it is answered; never used twice.
    pub ticket: u64,
    /// What it is for: an answerer may have other models for other roles.
    pub key: Key,
    /// The user's message.
    pub prompt: String,
    /// Seed of the draws: the same request gives the same answer, whatever else is worked on.
    pub seed: u64,
    /// At most so many tokens, the thinking included.
    pub max_tokens: u32,
    /// Divides the logits.
    pub temperature: f32,
    /// Share of the probability that is kept.
    pub top_p: f32,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    Stop,
    /// As many tokens as allowed, or as the context holds.
    Length,
    /// Something else that an endpoint named.
    Other(String),
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// What came before `</think>`.
    pub thinking: String,
    /// What came after it.
    pub answer: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// How long it took.
    pub seconds: f64,
    /// Who answered, where that was not in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Served>,
}

/// How an endpoint answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Its address, without anything secret.
    pub endpoint: String,
    /// Whether the numbers of tokens are estimated, because it does not count them.
    pub estimated: bool,
    /// Tries until it answered, the last one included.
    pub tries: u32,
}

impl Completion {
    /// Whether its tokens are estimated.
    pub(crate) fn is_estimated(&self) -> bool {
        self.served.as_ref().is_some_and(|served| served.estimated)
    }

    /// That it ended before it was whole, in words and with whose limit it was; `asked` is how many tokens were allowed.
    pub fn cut_short(&self, asked: u32) -> Option<String> {
        match &self.finish {
            Finish::Stop => None,
            Finish::Other(why) => Some(format!("ended with `{why}`")),
            Finish::Length if self.tokens >= u64::from(asked) => {
                Some(format!("ran out of tokens: {asked} were allowed"))
            }
            Finish::Length => {
                let whose = match &self.served {
                    Some(served) => format!("the endpoint's own limit or its context ({})", served.endpoint),
                    None => "the context".to_owned(),
                };
                Some(format!(
                    "ran out of tokens after {} of the {asked} allowed: {whose} ended it",
                    self.tokens
                ))
            }
        }
    }

    /// Why nothing can be read in an answer that should have had `wanted` in it.
    pub fn lacks(&self, wanted: &str) -> String {
        match (self.answer.trim().is_empty(), self.thinking.trim().is_empty()) {
            (true, false) => "the answer is empty: all of it came as thinking (reasoning_content)".to_owned(),
            (true, true) => "the answer is empty".to_owned(),
            _ => format!("has no {wanted}"),
        }
    }
}

/// Why an attempt is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// In words.
    pub what: String,
    /// It says nothing of the request: nobody could be reached, or answered in full. Worth asking again another day.
    pub network: bool,
    /// The context that prompt and answer do not fit, where that was the reason and the endpoint said how large it is.
    pub context: Option<u32>,
}

impl From<String> for Lost {
    fn from(what: String) -> Self {
        Self { what, ..Self::default() }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request's.
    pub ticket: u64,
    /// The completion, or why this attempt is lost; the search goes on without it.
    pub result: Result<Completion, Lost>,
    /// Tokens generated in tries that came to nothing.
    pub wasted: u64,
}

/// Why nothing more can be answered.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// Somebody asked for an end; what was under way is lost.
    #[error("interrupted")]
    Interrupted,
    /// The engine or every endpoint failed.
    #[error(transparent)]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Answers requests.
pub trait Complete {
    /// How many requests are worth having under way at once.
    fn width(&self) -> usize;

    /// Whether a request of this kind would be worked on at once, as far as [`width`](Complete::width) goes.
    fn has_room_for(&self, _key: &Key) -> bool {
        true
    }

    /// Whether it is [`poll`](Complete::poll) that does the work, and does not merely wait for it.
    fn works_in_poll(&self) -> bool {
        false
    }

    /// Whether it asks others, whose answers come in any order: then a budget counts what is under way, too.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Takes a request.
    fn submit(&mut self, request: Request);

    /// Forgets a request; no answer will come for it, unless it has come already.
    fn cancel(&mut self, ticket: u64);

    /// Tokens that canceled requests had cost, since this was last asked.
    fn canceled_tokens(&mut self) -> u64 {
        0
    }

    /// Tickets under way with the tokens generated for each so far, as far as they are known.
    fn progress(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    /// Waits for an answer, in whatever order; `None` when there is none after about so long.
    ///
    /// # Errors
    /// [`CompleteError`] when no request can be answered any more.
    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError>;

    /// What somebody who waits should know, such as that a request is sent again; each is given once.
    fn notices(&mut self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nothing_can_be_read_is_said() {
        let served = Served { endpoint: "http://a/v1".to_owned(), estimated: false, tries: 1 };
        let completion = |thinking: &str, answer: &str, finish: Finish, tokens: u64| Completion {
            thinking: thinking.to_owned(),
            answer: answer.to_owned(),
            finish,
            prompt_tokens: 1,
            tokens,
            seconds: 0.0,
            served: Some(served.clone()),
        };
        let whole = |thinking: &str, answer: &str| completion(thinking, answer, Finish::Stop, 5);
        assert_eq!(whole("t", "a").cut_short(9), None);
        assert!(whole("## Solution", " ").lacks("`## Solution`").contains("all of it came as thinking"));
        assert_eq!(whole("", "").lacks("x"), "the answer is empty");
        assert_eq!(whole("t", "a").lacks("score in a box"), "has no score in a box");
        let short = |tokens: u64| completion("", "a", Finish::Length, tokens).cut_short(9).unwrap();
        assert_eq!(short(9), "ran out of tokens: 9 were allowed");
        assert!(short(5).contains("after 5 of the 9 allowed") && short(5).contains("(http://a/v1)"));
        let local = Completion { served: None, ..completion("", "a", Finish::Length, 5) };
        assert!(local.cut_short(9).unwrap().contains("the context ended it"));
        let other = completion("", "a", Finish::Other("content_filter".to_owned()), 5);
        assert_eq!(other.cut_short(9).unwrap(), "ended with `content_filter`");
    }
}
