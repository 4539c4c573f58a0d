//! Continuous batching: many generations on one engine. Sequences join and leave at every step, prompts are computed in
//! chunks beside the decoding of others, and what a new prompt has in common with a cached sequence is not computed again.
//!
//! A sequence's tokens do not depend on what else is in the batch: kernels give a token the same bits in any company.

use std::collections::VecDeque;

use crate::cache::SequenceId;
use crate::engine::{Engine, Output, Reduced, Work};
use crate::error::Error;
use crate::generate::{Chooser, FinishReason, Request};

/// Shorter common beginnings are computed again rather than shared.
const SHARE_FROM: usize = 16;

/// A generation handed to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What happened in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A generation has its next token.
    Token {
        /// Whose.
        job: JobId,
        /// Which.
        token: u32,
    },
    /// A generation has ended; all its tokens are given once more.
    Finished {
        /// Which.
        job: JobId,
        /// The generated tokens.
        token_ids: Vec<u32>,
        /// Why it ended.
        reason: FinishReason,
    },
    /// A generation cannot go on: its logits cannot be sampled from. The others can.
    Failed {
        /// Which.
        job: JobId,
        /// The tokens generated before.
        token_ids: Vec<u32>,
        /// What is wrong.
        error: String,
    },
}

/// Tokens computed and saved by a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFacts {
    /// Tokens of prompts that went through the model.
    pub prefilled: u64,
    /// Tokens of prompts that were taken from cached sequences.
    pub shared: u64,
    /// Tokens generated.
    pub decoded: u64,
    /// Times a sequence was put back for want of cache pages.
    pub put_back: u64,
    /// Steps of the device.
    pub steps: u64,
}

/// Generations in progress on an engine.
pub struct Batch<'e, 'c> {
    engine: &'e mut Engine<'c>,
    waiting: VecDeque<Job>,
    running: Vec<Running>,
    /// Ended sequences, oldest first, whose pages are kept for sharing until somebody needs them.
    kept: VecDeque<Kept>,
    next_id: u64,
    facts: BatchFacts,
}

struct Job {
    id: JobId,
    /// Prompt and, after a put-back, the tokens generated so far.
    tokens: Vec<u32>,
    prompt_len: usize,
    chooser: Chooser,
    request: Request,
}

struct Running {
    job: Job,
    sequence: SequenceId,
}

struct Kept {
    tokens: Vec<u32>,
    sequence: SequenceId,
}

impl<'e, 'c> Batch<'e, 'c> {
    /// An empty batch on an engine opened for several sequences.
    pub fn new(engine: &'e mut Engine<'c>) -> Self {
        Batch {
            engine,
            waiting: VecDeque::new(),
            running: vec![],
            kept: VecDeque::new(),
            next_id: 0,
            facts: BatchFacts::default(),
        }
    }

    /// What was computed and what was saved so far.
    pub fn facts(&self) -> BatchFacts {
        self.facts
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Hands a generation over; it runs when its turn comes, and gives at least one token.
    ///
    /// # Errors
    /// An empty prompt, ids out of range, a prompt longer than the context, or sampling parameters out of range.
    pub fn submit(&mut self, prompt: Vec<u32>, request: Request) -> Result<JobId, Error> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.engine.check_ids(&prompt)?;
        if prompt.len() > self.engine.context() {
            return Err(Error::ContextTooLong { tokens: prompt.len(), context: self.engine.context() });
        }
        let id = JobId(self.next_id);
        self.next_id += 1;
        let chooser = Chooser::new(&request, &prompt)?;
        let prompt_len = prompt.len();
        self.waiting.push_back(Job { id, tokens: prompt, prompt_len, chooser, request });
        Ok(id)
    }

    /// Takes a generation out, wherever it is; what it has generated is returned.
    pub fn cancel(&mut self, id: JobId) -> Option<Vec<u32>> {
        if let Some(index) = self.waiting.iter().position(|job| job.id == id) {
            let job = self.waiting.remove(index)?;
            return Some(job.tokens[job.prompt_len..].to_vec());
        }
        let index = self.running.iter().position(|running| running.job.id == id)?;
        let running = self.running.remove(index);
        self.engine.close_sequence(running.sequence);
        Some(running.job.tokens[running.job.prompt_len..].to_vec())
    }

    /// One step of the device for all that run: a token for each sequence that decodes, a chunk for each prompt that is
    /// being computed, as far as a step has room.
    ///
    /// # Errors
    /// A device that fails; no generation is lost from the batch, but those of a lost device cannot go on.
    pub fn step(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        self.admit();
        let room = self.engine.chunk();
        let mut plan: Vec<(usize, usize)> = Vec::new();
        let mut used = 0;
        // The oldest first: decoding sequences take one token each, prompts what is left of the step.
        for index in 0..self.running.len() {
            let running = &self.running[index];
            let left = running.job.tokens.len() - self.engine.cached(running.sequence);
            let count = left.min(room - used);
            if count > 0 {
                plan.push((index, count));
                used += count;
            }
        }
        self.make_room(&mut plan);
        if plan.is_empty() {
            return Ok(events);
        }
        let work: Vec<Work<'_>> = plan
            .iter()
            .map(|(index, count)| {
                let running = &self.running[*index];
                let cached = self.engine.cached(running.sequence);
                Work { sequence: running.sequence, tokens: &running.job.tokens[cached..cached + count] }
            })
            .collect();
        let argmax = plan.iter().all(|(index, _)| self.running[*index].job.chooser.wants_argmax());
        let rows: Vec<_> = plan.iter().map(|(index, _)| self.running[*index].job.chooser.row()).collect();
        let output = if argmax { Output::Argmax } else { Output::Candidates(&rows) };
        let reduced = self.engine.step(&work, output)?;
        self.facts.steps += 1;
        let mut failed = Vec::new();
        for (row, (index, count)) in plan.iter().enumerate() {
            let running = &mut self.running[*index];
            let decoding = running.job.tokens.len() > running.job.prompt_len;
            if !decoding || *count > 1 {
                self.facts.prefilled += *count as u64;
            }
            if self.engine.cached(running.sequence) < running.job.tokens.len() {
                continue;
            }
            let token = match &reduced {
                Reduced::Tokens(tokens) => Ok(running.job.chooser.take(tokens[row])),
                Reduced::Candidates(candidates) => {
                    running.job.chooser.choose(self.engine, row, &candidates[row])
                }
                Reduced::Nothing => unreachable!("an output was asked for"),
            };
            let token = match token {
                Ok(token) => token,
                Err(error) => {
                    failed.push((running.job.id, error.to_string()));
                    continue;
                }
            };
            running.job.tokens.push(token);
            self.facts.decoded += 1;
            events.push(Event::Token { job: running.job.id, token });
        }
        for (job, error) in failed {
            let token_ids = self.cancel(job).expect("it is running");
            events.push(Event::Failed { job, token_ids, error });
        }
        self.retire(&mut events);
        Ok(events)
    }

    /// Runs until nothing is left; every event goes to `on_event`.
    pub fn run(&mut self, on_event: &mut dyn FnMut(Event)) -> Result<(), Error> {
        while !self.is_idle() {
            for event in self.step()? {
                on_event(event);
            }
        }
        Ok(())
    }

    /// Starts waiting generations in order while there is a sequence for them.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front() {
            let mut best: Option<(SequenceId, usize, usize)> = None;
            let sources = self
                .running
                .iter()
                .map(|r| (r.sequence, &r.job.tokens))
                .chain(self.kept.iter().map(|k| (k.sequence, &k.tokens)));
            for (sequence, tokens) in sources {
                let common = common_prefix(&job.tokens, tokens).min(job.tokens.len() - 1);
                if best.is_none_or(|(_, most, _)| common > most) {
                    best = Some((sequence, common, self.engine.cached(sequence)));
                }
            }
            let best = best.filter(|(_, common, _)| *common >= SHARE_FROM);
            if let Some((_, common, cached)) = best
                && cached < common
            {
                return; // what they share is being computed right now
            }
            let sequence = loop {
                let found = match best {
                    Some((of, common, _)) => self.engine.fork_sequence(of, common),
                    None => self.engine.open_sequence(),
                };
                let of = best.map(|(of, ..)| of);
                match found {
                    Some(sequence) => break sequence,
                    None if self.drop_kept(of) => {}
                    None => return,
                }
            };
            let job = self.waiting.pop_front().expect("looked at above");
            if let Some((_, common, _)) = best {
                self.facts.shared += common as u64;
            }
            self.running.push(Running { job, sequence });
        }
    }

    /// Gives the oldest kept sequence's pages back; not those of `except`.
    fn drop_kept(&mut self, except: Option<SequenceId>) -> bool {
        match self.kept.iter().position(|kept| Some(kept.sequence) != except) {
            None => false,
            Some(index) => {
                let kept = self.kept.remove(index).expect("just found");
                self.engine.close_sequence(kept.sequence);
                true
            }
        }
    }

    /// Sees to it that there are pages for the plan: kept sequences go first, then the youngest is put back, not lost.
    fn make_room(&mut self, plan: &mut Vec<(usize, usize)>) {
        loop {
            let needed: usize = plan
                .iter()
                .map(|(index, count)| self.engine.pages_needed(self.running[*index].sequence, *count))
                .sum();
            if needed <= self.engine.free_pages() {
                return;
            }
            if self.drop_kept(None) {
                continue;
            }
            assert!(self.running.len() > 1, "one sequence always fits: the cache holds a whole context");
            let youngest = self.running.pop().expect("more than one");
            plan.retain(|(index, _)| *index < self.running.len());
            self.engine.close_sequence(youngest.sequence);
            self.waiting.push_front(youngest.job);
            self.facts.put_back += 1;
        }
    }

    /// Takes out what has ended; its sequence is kept for others to share.
    fn retire(&mut self, events: &mut Vec<Event>) {
        let mut index = 0;
        while index < self.running.len() {
            let job = &self.running[index].job;
            let generated = &job.tokens[job.prompt_len..];
            let reason = match generated.last() {
                Some(token) if job.request.stop_ids.contains(token) => Some(FinishReason::Stop),
                _ if generated.len() >= job.request.max_tokens => Some(FinishReason::Length),
                _ if job.tokens.len() > self.engine.context() => Some(FinishReason::ContextFull),
                _ => None,
            };
            match reason {
                None => index += 1,
                Some(reason) => {
                    let Running { job, sequence } = self.running.remove(index);
                    events.push(Event::Finished {
                        job: job.id,
                        token_ids: job.tokens[job.prompt_len..].to_vec(),
                        reason,
                    });
                    self.kept.push_back(Kept { tokens: job.tokens, sequence });
                }
            }
        }
    }
}

impl Drop for Batch<'_, '_> {
    /// The engine is left without sequences of this batch.
    fn drop(&mut self) {
        for running in self.running.drain(..) {
            self.engine.close_sequence(running.sequence);
        }
        for kept in self.kept.drain(..) {
            self.engine.close_sequence(kept.sequence);
        }
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
