//! The local engine as the prover's answerer: continuous batching behind `Complete`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Result;
use porism_loader::Checkpoint;
use porism_prover::complete::{Answer, Complete, CompleteError, Completion, Finish, Request};
use porism_runtime::batch::{Batch, Event, JobId};
use porism_runtime::chat::{ChatTemplate, Message};
use porism_runtime::engine::Engine;
use porism_runtime::generate::{self, FinishReason};
use porism_runtime::sample::SamplingParams;
use porism_runtime::text::Tokenizer;

use crate::interrupt;
use crate::model::Model;
use crate::stream::TextStream;

/// A model that answers prompts.
pub struct Local<'e, 'c> {
    batch: Batch<'e, 'c>,
    words: Words,
    width: usize,
    deadline: Option<Instant>,
    jobs: HashMap<JobId, Job>,
    ready: VecDeque<Answer>,
    canceled_tokens: u64,
}

struct Job {
    ticket: u64,
    prompt: Vec<u32>,
    started: Instant,
    tokens: u64,
}

/// From text to ids and back.
pub struct Words {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    stop_ids: Vec<u32>,
}

impl Words {
    /// Reads what a model needs besides its weights.
    pub fn open(model: &Model, checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let tokenizer = model.tokenizer()?.with_vocab_size(config.vocab_size);
        let template = model.chat_template()?;
        template.ensure_vocabulary(&tokenizer)?;
        let mut stop_ids = config.eos_token_ids.clone();
        stop_ids.extend(tokenizer.eos_id());
        Ok(Self { tokenizer, template, stop_ids })
    }

    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(&self.template.encode_messages(&[Message::user(prompt)], true)?)?)
    }

    fn decode(&self, prompt: &[u32], ids: &[u32]) -> Result<(String, String)> {
        let mut stream = TextStream::new(&self.tokenizer, prompt, &[])?;
        let (mut thinking, mut answer) = (String::new(), String::new());
        for id in ids {
            let piece = stream.push(*id)?;
            thinking.push_str(&piece.reasoning);
            answer.push_str(&piece.answer);
        }
        let rest = stream.finish();
        thinking.push_str(&rest.reasoning);
        answer.push_str(&rest.answer);
        Ok((thinking, answer))
    }
}

impl<'e, 'c> Local<'e, 'c> {
    /// Answers with an engine opened for `width` sequences, until `deadline` or Ctrl-C.
    pub fn new(engine: &'e mut Engine<'c>, words: Words, width: usize, deadline: Option<Instant>) -> Self {
        let batch = Batch::new(engine);
        Self {
            batch,
            words,
            width,
            deadline,
            jobs: HashMap::new(),
            ready: VecDeque::new(),
            canceled_tokens: 0,
        }
    }

    /// What was computed and what was shared, for people.
    pub fn facts(&self) -> String {
        let facts = self.batch.facts();
        format!(
            "{} prompt tokens computed, {} shared, {} generated in {} steps, {} put back",
            facts.prefilled, facts.shared, facts.decoded, facts.steps, facts.put_back
        )
    }

    fn start(&mut self, request: &Request) -> Result<()> {
        let prompt = self.words.encode(&request.prompt)?;
        let asked = generate::Request {
            max_tokens: request.max_tokens as usize,
            sampling: SamplingParams {
                temperature: request.temperature,
                top_p: request.top_p,
                ..SamplingParams::default()
            },
            seed: request.seed,
            stop_ids: self.words.stop_ids.clone(),
        };
        let job = self.batch.submit(prompt.clone(), asked)?;
        self.jobs.insert(job, Job { ticket: request.ticket, prompt, started: Instant::now(), tokens: 0 });
        Ok(())
    }

    fn finish(&self, job: &Job, token_ids: &[u32], reason: FinishReason) -> Result<Completion> {
        let (thinking, answer) = self.words.decode(&job.prompt, token_ids)?;
        let finish = match reason {
            FinishReason::Stop => Finish::Stop,
            FinishReason::Length | FinishReason::ContextFull => Finish::Length,
            other => Finish::Other(other.name().to_owned()),
        };
        Ok(Completion {
            thinking,
            answer,
            finish,
            prompt_tokens: job.prompt.len() as u64,
            tokens: token_ids.len() as u64,
            seconds: job.started.elapsed().as_secs_f64(),
            served: None,
        })
    }
}

impl Complete for Local<'_, '_> {
    fn width(&self) -> usize {
        self.width
    }

    fn works_in_poll(&self) -> bool {
        true
    }

    fn submit(&mut self, request: Request) {
        // A prompt that does not fit costs its attempt only.
        if let Err(error) = self.start(&request) {
            let result = Err(crate::failure::describe(&error).into());
            self.ready.push_back(Answer { ticket: request.ticket, result, wasted: 0 });
        }
    }

    fn cancel(&mut self, ticket: u64) {
        self.ready.retain(|answer| answer.ticket != ticket);
        let job = self.jobs.iter().find(|(_, job)| job.ticket == ticket).map(|(id, _)| *id);
        if let Some(id) = job {
            self.batch.cancel(id);
            self.canceled_tokens += self.jobs.remove(&id).map_or(0, |job| job.tokens);
        }
    }

    fn canceled_tokens(&mut self) -> u64 {
        std::mem::take(&mut self.canceled_tokens)
    }

    fn progress(&self) -> Vec<(u64, u64)> {
        self.jobs.values().map(|job| (job.ticket, job.tokens)).collect()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let until = Instant::now() + wait;
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            let over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if interrupt::requested() || over {
                return Err(CompleteError::Interrupted);
            }
            if self.batch.is_idle() || Instant::now() >= until {
                return Ok(None);
            }
            let events = self.batch.step().map_err(|error| CompleteError::Broken(Box::new(error)))?;
            for event in events {
                let (job, outcome) = match event {
                    Event::Token { job, .. } => {
                        if let Some(job) = self.jobs.get_mut(&job) {
                            job.tokens += 1;
                        }
                        continue;
                    }
                    Event::Finished { job, token_ids, reason } => (job, Ok((token_ids, reason))),
                    // Its logits cannot be sampled from: the attempt is lost, the others go on.
                    Event::Failed { job, error, .. } => (job, Err(error.into())),
                };
                let Some(job) = self.jobs.remove(&job) else {
                    continue;
                };
                let result = outcome.and_then(|(token_ids, reason)| {
                    self.finish(&job, &token_ids, reason)
                        .map_err(|error| crate::failure::describe(&error).into())
                });
                self.ready.push_back(Answer { ticket: job.ticket, result, wasted: 0 });
            }
        }
    }
}
