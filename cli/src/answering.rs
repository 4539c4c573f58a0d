//! An answer of a local model: what is known before it, its tokens as they come, and where they are shown.

use std::ops::ControlFlow;

use anyhow::Result;
use porism_loader::Checkpoint;
use porism_runtime::EngineOptions;
use porism_runtime::chat::{ChatTemplate, Message};
use porism_runtime::engine::Engine;
use porism_runtime::generate::{self, FinishReason, Request};
use porism_runtime::sample::SamplingParams;
use porism_runtime::text::{TextError, Tokenizer};
use serde_json::{Value, json};

use crate::args::Run;
use crate::domain::Bounds;
use crate::interrupt;
use crate::model::Model;
use crate::opening::open_engine;
use crate::stream::{Piece, TextStream};
use crate::ui::Ui;

/// All that is known before a device is opened.
pub struct Job<'a> {
    pub args: &'a Run,
    pub ui: &'a Ui,
    pub model: &'a Model,
    pub checkpoint: &'a Checkpoint,
    /// What the model knows.
    pub bounds: Bounds,
    pub sampling: SamplingParams,
    pub seed: u64,
}

impl<'a> Job<'a> {
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        Ok(self.model.tokenizer()?.with_vocab_size(self.checkpoint.config().vocab_size))
    }

    pub fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let template = self.model.chat_template()?;
        template.ensure_vocabulary(tokenizer)?;
        Ok(template)
    }

    /// What stands before the first question.
    pub fn opening(&self) -> Vec<Message> {
        self.args.input.system.iter().map(Message::system).collect()
    }

    /// The ids of a conversation.
    pub fn encode(
        &self,
        messages: &[Message],
        thinking: bool,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>> {
        let prompt = template.encode_messages(messages, thinking)?;
        let ids = tokenizer.encode(&prompt)?;
        let vocab_size = self.checkpoint.config().vocab_size;
        match ids.iter().position(|id| *id >= vocab_size) {
            None => Ok(ids),
            Some(position) => {
                let id = ids[position].into();
                Err(porism_runtime::Error::TokenOutOfRange { id, position, vocab_size }.into())
            }
        }
    }

    /// What ends an answer, and how long it may be.
    pub fn request(&self, max_tokens: usize, tokenizer: Option<&Tokenizer>) -> Request {
        let mut stop_ids = Vec::new();
        if !self.args.sampling.ignore_eos {
            stop_ids.clone_from(&self.checkpoint.config().eos_token_ids);
            stop_ids.extend(tokenizer.and_then(Tokenizer::eos_id));
        }
        Request { max_tokens, sampling: self.sampling.clone(), seed: self.seed, stop_ids }
    }

    /// Opens the device and loads the weights.
    pub fn open(&self, context: usize) -> Result<Engine<'a>> {
        let (device, experts) = (&self.args.device, Some(&self.args.experts));
        open_engine(self.ui, self.model, self.checkpoint, device, experts, EngineOptions::new(context))
    }
}

/// Where tokens go as they come.
pub trait Sink {
    /// One token, and the text it settles where there is a tokenizer.
    fn token(&mut self, id: u32, piece: Option<&Piece>) -> Result<()>;
    /// The text that was held back; nothing comes after it.
    fn end(&mut self, rest: Option<&Piece>) -> Result<()>;
}

/// Text for a person or a file: the reasoning apart, the answer on stdout, a newline at the end of each.
pub struct Page<'a> {
    ui: &'a Ui,
    reasoned: bool,
    answered: bool,
    // Whether what was printed last ended a line.
    line_ended: bool,
}

impl<'a> Page<'a> {
    pub fn new(ui: &'a Ui) -> Self {
        Self { ui, reasoned: false, answered: false, line_ended: true }
    }

    fn show(&mut self, piece: &Piece) -> Result<()> {
        if !piece.reasoning.is_empty() {
            self.ui.reasoning(&piece.reasoning)?;
            self.reasoned = true;
            self.line_ended = piece.reasoning.ends_with('\n');
        }
        let mut answer = piece.answer.as_str();
        if self.reasoned && !self.answered {
            // The lines between reasoning and answer are ours.
            answer = answer.trim_start_matches(['\n', '\r']);
            if !answer.is_empty() {
                self.ui.reasoning(if self.line_ended { "\n" } else { "\n\n" })?;
            }
        }
        if !answer.is_empty() {
            self.ui.text(answer)?;
            self.answered = true;
            self.line_ended = answer.ends_with('\n');
        }
        Ok(())
    }
}

impl Sink for Page<'_> {
    fn token(&mut self, _: u32, piece: Option<&Piece>) -> Result<()> {
        piece.map_or(Ok(()), |piece| self.show(piece))
    }

    fn end(&mut self, rest: Option<&Piece>) -> Result<()> {
        if let Some(rest) = rest {
            self.show(rest)?;
        }
        if !self.line_ended {
            if self.answered { self.ui.text("\n")? } else { self.ui.reasoning("\n")? }
        }
        Ok(())
    }
}

/// A generation that came to its end.
pub struct Finished {
    pub token_ids: Vec<u32>,
    pub text: Option<String>,
    pub reason: FinishReason,
    /// The text begins with reasoning.
    pub thinking: bool,
    /// The reasoning never ended.
    pub no_answer: bool,
    prompt_tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
}

/// One that did not, with what there was by then.
pub struct Broken {
    pub token_ids: Vec<u32>,
    pub text: Option<String>,
    pub error: anyhow::Error,
}

impl Finished {
    fn prefill_rate(&self) -> Option<f64> {
        (self.prefill_seconds > 0.0).then(|| self.prompt_tokens as f64 / self.prefill_seconds)
    }

    /// The first token comes from the prefill.
    fn decode_rate(&self) -> Option<f64> {
        let tokens = self.token_ids.len().saturating_sub(1);
        (tokens > 0 && self.decode_seconds > 0.0).then(|| tokens as f64 / self.decode_seconds)
    }

    pub fn json(&self) -> Value {
        json!({
            "event": "end",
            "token_ids": self.token_ids,
            "text": self.text,
            "finish_reason": self.reason.name(),
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.token_ids.len(),
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "prefill_tokens_per_second": self.prefill_rate(),
            "tokens_per_second": self.decode_rate(),
        })
    }

    /// A line for `--verbose`.
    pub fn rates(&self, seed: u64, device: &str) -> String {
        let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" at {rate:.1} tokens/s"));
        format!(
            "prompt: {} tokens{} · generated: {} tokens{} · ended by {} · seed {seed} · {device}",
            self.prompt_tokens,
            rate(self.prefill_rate()),
            self.token_ids.len(),
            rate(self.decode_rate()),
            self.reason.name()
        )
    }
}

/// Generates, handing every token to `sink` as it comes. What was generated before an error is kept.
pub fn generate(
    engine: &mut Engine<'_>,
    prompt: &[u32],
    request: &Request,
    mut stream: Option<TextStream>,
    mut sink: Box<dyn Sink + '_>,
) -> Result<Finished, Box<Broken>> {
    let mut token_ids = Vec::new();
    let mut failed: Option<anyhow::Error> = None;
    let mut stopped = false;
    let result = generate::generate(engine, prompt, request, &mut |id| {
        token_ids.push(id);
        let mut emit = || -> Result<bool> {
            let piece = stream.as_mut().map(|stream| stream.push(id)).transpose()?;
            sink.token(id, piece.as_ref())?;
            Ok(piece.is_some_and(|piece| piece.stopped))
        };
        match emit() {
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(FinishReason::Interrupted)
            }
            Ok(true) => {
                stopped = true;
                ControlFlow::Break(FinishReason::Stop)
            }
            Ok(false) if interrupt::requested() => ControlFlow::Break(FinishReason::Interrupted),
            Ok(false) => ControlFlow::Continue(()),
        }
    });
    let rest = stream.as_mut().map(|stream| if stopped { Piece::default() } else { stream.finish() });
    let ended = if failed.is_none() { sink.end(rest.as_ref()) } else { Ok(()) };
    let text = stream.as_ref().map(|stream| stream.text().to_owned());
    let error = failed.or(ended.err());
    match (error, result) {
        (Some(error), _) => Err(Box::new(Broken { token_ids, text, error })),
        (None, Err(error)) => Err(Box::new(Broken { token_ids, text, error: error.into() })),
        (None, Ok(generated)) => Ok(Finished {
            token_ids: generated.token_ids,
            text,
            reason: generated.finish_reason,
            thinking: stream.as_ref().is_some_and(TextStream::thinking),
            no_answer: stream.is_some_and(|stream| !stream.answering()),
            prompt_tokens: prompt.len(),
            prefill_seconds: generated.prefill_seconds,
            decode_seconds: generated.decode_seconds,
        }),
    }
}
