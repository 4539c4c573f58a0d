//! Requests under way, and what each is about.

use std::collections::HashMap;
use std::time::Duration;

use crate::complete::{Answer, Complete, CompleteError, Request};
use crate::roles::Key;
use crate::settings::Settings;

/// How long an answer is waited for before somebody looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(100);

/// The requests that an answerer works on for somebody, each with what it is about.
pub(crate) struct UnderWay<T> {
    asked: HashMap<u64, T>,
    next_ticket: u64,
}

impl<T> UnderWay<T> {
    pub fn new() -> Self {
        Self { asked: HashMap::new(), next_ticket: 0 }
    }

    pub fn len(&self) -> usize {
        self.asked.len()
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.asked.values()
    }

    pub fn get(&self, ticket: u64) -> Option<&T> {
        self.asked.get(&ticket)
    }

    /// Asks for a completion.
    pub fn submit(
        &mut self,
        complete: &mut dyn Complete,
        settings: &Settings,
        (key, prompt, seed): (Key, String, u64),
        about: T,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket, about);
        complete.submit(Request {
            ticket,
            key,
            prompt,
            seed,
            max_tokens: settings.max_tokens(key.role),
            temperature: settings.temperature(key.role),
            top_p: settings.top_p,
        });
    }

    /// Waits a moment for an answer, and passes on what the answerer has to say. `None` without an answer, or with one that is
    /// no longer wanted.
    ///
    /// # Errors
    /// As [`Complete::poll`].
    pub fn poll(
        &mut self,
        complete: &mut dyn Complete,
        notice: &mut dyn FnMut(&str),
    ) -> Result<Option<(T, Answer)>, CompleteError> {
        let polled = complete.poll(WAIT);
        complete.notices().iter().for_each(|words| notice(words));
        Ok(polled?.and_then(|answer| Some((self.asked.remove(&answer.ticket)?, answer))))
    }

    /// Gives up what nobody wants any more.
    pub fn cancel(&mut self, complete: &mut dyn Complete, is_unwanted: impl Fn(&T) -> bool) {
        self.asked.retain(|ticket, about| {
            let is_unwanted = is_unwanted(about);
            if is_unwanted {
                complete.cancel(*ticket);
            }
            !is_unwanted
        });
    }
}
