//! A checkpoint with a tokenizer behind the prover's trait, as small as it can be.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use porism_loader::Checkpoint;
use porism_prover::complete::{Answer, Complete, CompleteError, Completion, Finish, Lost, Request};
use porism_runtime::batch::{Batch, Event, JobId};
use porism_runtime::chat::{ChatTemplate, Message};
use porism_runtime::engine::Engine;
use porism_runtime::generate::{self, FinishReason};
use porism_runtime::sample::SamplingParams;
use porism_runtime::text::{Specials, Tokenizer, read_answer};

/// Answers with an engine, as many requests at once as it has sequences.
pub struct Answerer<'e, 'c> {
    batch: Batch<'e, 'c>,
    width: usize,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    stop_ids: Vec<u32>,
    jobs: HashMap<JobId, (u64, u64)>,
    ready: Vec<Answer>,
}

impl<'e, 'c> Answerer<'e, 'c> {
    /// The engine must be one of this checkpoint, whose tokenizer is in `folder`.
    ///
    /// # Panics
    /// If the tokenizer or the chat template cannot be read.
    pub fn new(engine: &'e mut Engine<'c>, checkpoint: &Checkpoint, folder: &Path) -> Self {
        let config = checkpoint.config();
        let tokenizer = Tokenizer::from_dir(folder).expect("a tokenizer").with_vocab_size(config.vocab_size);
        let template = ChatTemplate::from_dir(folder).expect("a chat template");
        let mut stop_ids = config.eos_token_ids.clone();
        stop_ids.extend(tokenizer.eos_id());
        let width = engine.sequences();
        let batch = Batch::new(engine);
        Self { batch, width, tokenizer, template, stop_ids, jobs: HashMap::new(), ready: Vec::new() }
    }

    fn completion(&self, prompt_tokens: u64, ids: &[u32], reason: FinishReason) -> Result<Completion, Lost> {
        let text = self.tokenizer.decode(ids, Specials::ShowThinkEnd).map_err(|error| error.to_string())?;
        let parted = read_answer(&text, true);
        Ok(Completion {
            thinking: parted.reasoning.unwrap_or_default(),
            answer: parted.content.unwrap_or_default(),
            finish: if reason == FinishReason::Stop { Finish::Stop } else { Finish::Length },
            prompt_tokens,
            tokens: ids.len() as u64,
            seconds: 0.0,
            served: None,
        })
    }

    fn start(&mut self, request: &Request) -> Result<(JobId, u64), String> {
        let text = self.template.encode_messages(&[Message::user(&request.prompt)], true);
        let prompt = self.tokenizer.encode(&text.map_err(|error| error.to_string())?);
        let prompt = prompt.map_err(|error| error.to_string())?;
        let tokens = prompt.len() as u64;
        let sampling = SamplingParams {
            temperature: request.temperature,
            top_p: request.top_p,
            ..SamplingParams::default()
        };
        let asked = generate::Request {
            max_tokens: request.max_tokens as usize,
            sampling,
            seed: request.seed,
            stop_ids: self.stop_ids.clone(),
        };
        Ok((self.batch.submit(prompt, asked).map_err(|error| error.to_string())?, tokens))
    }
}

impl Complete for Answerer<'_, '_> {
    fn width(&self) -> usize {
        self.width
    }

    fn submit(&mut self, request: Request) {
        match self.start(&request) {
            Ok((job, prompt_tokens)) => drop(self.jobs.insert(job, (request.ticket, prompt_tokens))),
            Err(error) => {
                self.ready.push(Answer { ticket: request.ticket, result: Err(error.into()), wasted: 0 })
            }
        }
    }

    fn cancel(&mut self, ticket: u64) {
        self.ready.retain(|answer| answer.ticket != ticket);
        let job = self.jobs.iter().find(|(_, job)| job.0 == ticket).map(|(id, _)| *id);
        if let Some(job) = job {
            self.batch.cancel(job);
            self.jobs.remove(&job);
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let until = Instant::now() + wait;
        while self.ready.is_empty() && !self.batch.is_idle() && Instant::now() < until {
            let events = self.batch.step().map_err(|error| CompleteError::Broken(Box::new(error)))?;
            for event in events {
                let (job, outcome) = match event {
                    Event::Token { .. } => continue,
                    Event::Finished { job, token_ids, reason } => (job, Ok((token_ids, reason))),
                    Event::Failed { job, error, .. } => (job, Err(error.into())),
                };
                if let Some((ticket, prompt_tokens)) = self.jobs.remove(&job) {
                    let result =
                        outcome.and_then(|(ids, reason)| self.completion(prompt_tokens, &ids, reason));
                    self.ready.push(Answer { ticket, result, wasted: 0 });
                }
            }
        }
        Ok(self.ready.pop())
    }
}
