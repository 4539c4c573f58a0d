//! Generating: prompt in, tokens out, one sequence after the other's choosing.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::cache::SequenceId;
use crate::engine::{Engine, Output, Reduced, RowSampling, Work};
use crate::error::Error;
use crate::sample::{Candidates, Choice, Sampler, SamplingParams};

/// What is to be generated.
#[derive(Clone, Debug)]
pub struct Request {
    /// At most so many tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens that end the answer; they are part of it.
    pub stop_ids: Vec<u32>,
}

/// Why generating ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token, or a stop string that the caller found.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The caller wanted no more.
    Interrupted,
    /// The context is full.
    ContextFull,
}

impl FinishReason {
    /// As `--json` says it.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Interrupted => "interrupted",
            FinishReason::ContextFull => "context_full",
        }
    }
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens, the prompt's excluded.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens whose logits had to be read whole, because the candidates did not settle the draw.
    pub full_logits: usize,
    /// Seconds until the first token.
    pub prefill_seconds: f64,
    /// Seconds for the others.
    pub decode_seconds: f64,
}

/// Generates from a prompt in a sequence of its own; `on_token` sees each token as it comes and may end it.
///
/// # Errors
/// An empty prompt, ids out of range, a prompt longer than the context, or a device that fails.
pub fn generate(
    engine: &mut Engine<'_>,
    prompt: &[u32],
    request: &Request,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<FinishReason>,
) -> Result<Generated, Error> {
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    engine.check_ids(prompt)?;
    if prompt.len() > engine.context() {
        return Err(Error::ContextTooLong { tokens: prompt.len(), context: engine.context() });
    }
    let sequence = engine.open_sequence().expect("no sequence is left open between calls");
    let result = continue_sequence(engine, sequence, prompt, request, on_token);
    engine.close_sequence(sequence);
    result
}

/// Generates in a sequence that may hold tokens already; `next` are the tokens that follow them. The last generated
/// token is not cached yet: it begins the next call's `next`.
pub fn continue_sequence(
    engine: &mut Engine<'_>,
    sequence: SequenceId,
    next: &[u32],
    request: &Request,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<FinishReason>,
) -> Result<Generated, Error> {
    let mut chooser = Chooser::new(request, next)?;
    let started = Instant::now();
    let mut prefill_seconds = 0.0;
    let mut token_ids = Vec::new();
    let finish = |token_ids, finish_reason, chooser: &Chooser, prefill_seconds| Generated {
        token_ids,
        finish_reason,
        full_logits: chooser.full_logits,
        prefill_seconds,
        decode_seconds: started.elapsed().as_secs_f64() - prefill_seconds,
    };
    if request.max_tokens == 0 {
        return Ok(finish(token_ids, FinishReason::Length, &chooser, 0.0));
    }
    let mut pending = next.to_vec();
    loop {
        if engine.cached(sequence) + pending.len() > engine.context() {
            return Ok(finish(token_ids, FinishReason::ContextFull, &chooser, prefill_seconds));
        }
        let chunks = pending.chunks(engine.chunk()).count();
        let mut token = None;
        for (index, tokens) in pending.chunks(engine.chunk()).enumerate() {
            let work = Work { sequence, tokens };
            if index + 1 < chunks {
                engine.step(&[work], Output::Nothing)?;
            } else {
                token = Some(chooser.step(engine, work)?);
            }
        }
        let token = token.expect("there is at least one chunk");
        if token_ids.is_empty() {
            prefill_seconds = started.elapsed().as_secs_f64();
        }
        token_ids.push(token);
        if let ControlFlow::Break(reason) = on_token(token) {
            return Ok(finish(token_ids, reason, &chooser, prefill_seconds));
        }
        if request.stop_ids.contains(&token) {
            return Ok(finish(token_ids, FinishReason::Stop, &chooser, prefill_seconds));
        }
        if token_ids.len() == request.max_tokens {
            return Ok(finish(token_ids, FinishReason::Length, &chooser, prefill_seconds));
        }
        pending.clear();
        pending.push(token);
    }
}

/// Chooses the tokens of one sequence from what the device reduced the logits to.
pub(crate) struct Chooser {
    sampler: Sampler,
    seen: Vec<u32>,
    known: HashSet<u32>,
    pub(crate) full_logits: usize,
}

impl Chooser {
    pub(crate) fn new(request: &Request, prompt: &[u32]) -> Result<Self, Error> {
        let mut chooser = Chooser {
            sampler: Sampler::new(request.sampling.clone(), request.seed)?,
            seen: vec![],
            known: HashSet::new(),
            full_logits: 0,
        };
        prompt.iter().for_each(|id| chooser.see(*id));
        Ok(chooser)
    }

    fn see(&mut self, id: u32) {
        if self.sampler.params().repetition_penalty != 1.0 && self.known.insert(id) {
            self.seen.push(id);
        }
    }

    /// Whether the most likely token of the logits as they are is all that is needed.
    pub(crate) fn wants_argmax(&self) -> bool {
        self.sampler.params().is_greedy() && self.sampler.params().repetition_penalty == 1.0
    }

    /// How the device is to prepare the logits.
    pub(crate) fn row(&self) -> RowSampling<'_> {
        let params = self.sampler.params();
        RowSampling {
            temperature: if params.is_greedy() { 1.0 } else { params.temperature },
            repetition_penalty: params.repetition_penalty,
            seen: &self.seen,
        }
    }

    /// The token that the device found most likely.
    pub(crate) fn take(&mut self, token: u32) -> u32 {
        self.see(token);
        token
    }

    /// The next token from the candidates in row `row` of the engine's last step.
    pub(crate) fn choose(
        &mut self,
        engine: &mut Engine<'_>,
        row: usize,
        of: &Candidates,
    ) -> Result<u32, Error> {
        let token = match self.sampler.choose(of)? {
            Choice::Token(token) => token,
            Choice::NeedLogits => {
                self.full_logits += 1;
                self.sampler.choose_full(&engine.read_logits(row)?)?
            }
        };
        Ok(self.take(token))
    }

    fn step(&mut self, engine: &mut Engine<'_>, work: Work<'_>) -> Result<u32, Error> {
        if self.wants_argmax() {
            match engine.step(&[work], Output::Argmax)? {
                Reduced::Tokens(tokens) => Ok(self.take(tokens[0])),
                other => unreachable!("asked for tokens, got {other:?}"),
            }
        } else {
            match engine.step(&[work], Output::Candidates(&[self.row()]))? {
                Reduced::Candidates(candidates) => self.choose(engine, 0, &candidates[0]),
                other => unreachable!("asked for candidates, got {other:?}"),
            }
        }
    }
}
