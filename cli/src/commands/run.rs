//! `porism run`: one prompt → one answer. Without a prompt in a terminal, `chat.rs` takes over.

use std::io::IsTerminal as _;

use anyhow::Result;
use porism_loader::{ModelConfig, Options};
use porism_prover::recompute::Flaw;
use porism_runtime::chat::Message;
use porism_runtime::generate::FinishReason;
use porism_runtime::sample::SamplingParams;
use porism_runtime::text::{StopStrings, TextError, Tokenizer, read_answer};
use serde_json::json;

use super::chat;
use super::prove::outside_words;
use crate::answering::{Finished, Job, Page, Sink, generate};
use crate::args::{Run, SamplingArgs};
use crate::domain::Bounds;
use crate::failure::{self, Failure, INTERRUPTED};
use crate::interrupt;
use crate::opening::{pool_lines, write_heat};
use crate::settings::{self, model_and_prompt};
use crate::stream::{Piece, TextStream};
use crate::ui::Ui;

/// Tokens of an answer when nobody says how many.
const DEFAULT_TOKENS: usize = 4096;

pub fn run(args: &Run, ui: &Ui) -> Result<u8> {
    let input = &args.input;
    let other_prompt = input.prompt.is_some() || input.file.is_some() || input.ids.is_some();
    let (first, second) = (args.model_or_prompt.clone(), args.prompt_argument.clone());
    let chosen = model_and_prompt(input.model.as_deref(), first, second, other_prompt)?;
    let prompt = match (&input.ids, input.prompt.clone().or(chosen.prompt), &input.file) {
        (Some(_), _, _) => None,
        (None, Some(prompt), _) => Some(prompt),
        (None, None, Some(file)) => Some(settings::read_text(file)?),
        (None, None, None) if std::io::stdin().is_terminal() => None,
        (None, None, None) => Some(settings::read_text("-".as_ref())?),
    };

    let checkpoint = chosen.model.checkpoint(Options { allow_nan: args.device.allow_nan })?;
    let config = checkpoint.config();
    let sampling = sampling(&args.sampling, config)?;
    StopStrings::new(args.sampling.stop.iter().cloned())?;
    let seed = args.sampling.seed.unwrap_or_else(settings::random_seed);
    // Ids and raw text are no questions.
    let asks = input.ids.is_none() && !input.raw;
    let bounds = Bounds::of(asks.then_some(&chosen.model))?;
    let job = Job { args, ui, model: &chosen.model, checkpoint: &checkpoint, bounds, sampling, seed };
    interrupt::install();
    match (&input.ids, prompt) {
        (Some(file), _) => {
            let ids = settings::read_ids(file, config.vocab_size)?;
            job.answer_ids(&ids)
        }
        (None, Some(prompt)) => job.answer_text(&prompt),
        (None, None) => job.chat(),
    }
}

/// What the flags, the checkpoint's generation_config.json and our defaults say, in this order. The file has been checked:
/// what it says means what it means to other programs, so that whatever is refused here was typed.
fn sampling(args: &SamplingArgs, config: &ModelConfig) -> Result<SamplingParams> {
    let of = &config.generation;
    let greedy = of.do_sample == Some(false);
    let own = SamplingParams::default();
    // What is too small to divide by leaves the most likely token.
    let divisor = |t: f64| if t < f64::from(SamplingParams::MIN_TEMPERATURE) { 0.0 } else { t as f32 };
    let temperature = if greedy { 0.0 } else { of.temperature.map_or(own.temperature, divisor) };
    let params = SamplingParams {
        temperature: args.temperature.unwrap_or(temperature),
        top_k: args.top_k.or(of.top_k).unwrap_or(own.top_k),
        // The smallest share is that of one token.
        top_p: args.top_p.or(of.top_p.map(|p| (p as f32).max(f32::MIN_POSITIVE))).unwrap_or(own.top_p),
        min_p: args.min_p.or(of.min_p.map(|p| p as f32)).unwrap_or(own.min_p),
        repetition_penalty: args
            .repetition_penalty
            .or(of.repetition_penalty.map(|penalty| penalty as f32))
            .unwrap_or(own.repetition_penalty),
        seed: args.seed,
    };
    params.validate().map_err(porism_runtime::Error::from)?;
    Ok(params)
}

/// Tokens the caches hold, and tokens generated at most; `None` as many as the context leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    context: usize,
    max_tokens: Option<usize>,
}

/// Room for a prompt of so many tokens in a model made for `limit`.
fn room(
    prompt: usize,
    max_tokens: Option<u32>,
    context: Option<u32>,
    limit: u32,
) -> Result<Room, porism_runtime::Error> {
    use porism_runtime::Error as E;
    let limit = limit as usize;
    let context = context.map(|context| context as usize);
    let max_tokens = max_tokens.map(|tokens| tokens as usize);
    if let Some(asked) = context.filter(|context| *context > limit) {
        return Err(E::ContextBeyondModel { asked, limit });
    }
    let most = context.unwrap_or(limit);
    if prompt > most {
        return Err(E::ContextTooLong { tokens: prompt, context: most });
    }
    match (context, max_tokens) {
        (Some(context), _) => Ok(Room { context, max_tokens }),
        (None, Some(tokens)) if prompt + tokens > limit => {
            Err(E::ContextBeyondModel { asked: prompt + tokens, limit })
        }
        (None, Some(tokens)) => Ok(Room { context: prompt + tokens, max_tokens }),
        (None, None) if prompt + DEFAULT_TOKENS > limit => Ok(Room { context: limit, max_tokens: None }),
        (None, None) => Ok(Room { context: prompt + DEFAULT_TOKENS, max_tokens: Some(DEFAULT_TOKENS) }),
    }
}

/// What a prompt is to a model that may state what it knows.
enum Asked {
    /// A question of the domain, as the model reads it; any question where the model states none.
    Question(String),
    /// A question that it does not know.
    Outside,
    /// No question: ids, or text as it is.
    Other,
}

impl<'a> Job<'a> {
    fn answer_ids(&self, ids: &[u32]) -> Result<u8> {
        match self.tokenizer() {
            Ok(tokenizer) => self.answer(ids, Ok(&tokenizer), &Asked::Other),
            Err(error) if self.args.sampling.stop.is_empty() => self.answer(ids, Err(&error), &Asked::Other),
            Err(error) => Err(anyhow::Error::from(error).context("`--stop` needs a tokenizer")),
        }
    }

    fn answer_text(&self, prompt: &str) -> Result<u8> {
        let mut asked = Asked::Other;
        let prompt = if self.args.input.raw {
            prompt.to_owned()
        } else {
            // Files and pipes end with a newline that nobody means.
            let prompt = prompt.trim_end_matches(['\n', '\r']);
            if prompt.trim().is_empty() {
                return Err(porism_runtime::Error::EmptyPrompt.into());
            }
            let question = self.question(prompt)?;
            asked = question.clone().map_or(Asked::Outside, Asked::Question);
            question.unwrap_or_else(|| prompt.to_owned())
        };
        let tokenizer = self.tokenizer()?;
        let ids = if self.args.input.raw {
            tokenizer.encode(&prompt)?
        } else {
            let mut messages = self.opening();
            messages.push(Message::user(prompt));
            self.encode(&messages, !self.args.input.no_think, &self.template(&tokenizer)?, &tokenizer)?
        };
        if ids.is_empty() {
            return Err(porism_runtime::Error::EmptyPrompt.into());
        }
        self.answer(&ids, Ok(&tokenizer), &asked)
    }

    /// What a program finds in the answer to a question.
    pub fn judge(&self, question: &str, finished: &Finished) -> Option<Result<(), Flaw>> {
        let answer = read_answer(finished.text.as_deref()?, finished.thinking);
        self.bounds.judge(question, &answer.content?)
    }

    /// Says that, so that a wrong proof is not the last word.
    pub fn tell(&self, found: Option<&Result<(), Flaw>>) {
        match found {
            Some(Ok(())) => {
                self.ui.note("recomputed by a program: every step holds, and the last one is what was asked");
            }
            Some(Err(flaw)) => {
                self.ui.warn(&format!("recomputed by a program, which finds a flaw: {}", flaw.why));
            }
            None => {}
        }
    }

    /// A question as the model reads it; `None` if the model does not know such, and is asked all the same.
    pub fn question(&self, text: &str) -> Result<Option<String>> {
        let question = self.bounds.question(text, self.args.input.outside_domain)?;
        match (&question, self.bounds.known()) {
            (Some(question), Some(_)) if question != text.trim() => {
                self.ui.aside(&format!("read as: {question}"))
            }
            (None, Some(known)) => self.ui.warn(&outside_words(&known)),
            _ => {}
        }
        Ok(question)
    }

    fn chat(&self) -> Result<u8> {
        if self.args.output.json {
            return Err(Failure::usage("`--json` needs a prompt")
                .hint("give PROMPT, `--file` or `--ids`")
                .into());
        }
        if self.args.input.raw {
            return Err(Failure::usage("`--raw` needs a prompt").hint("give PROMPT or `--file`").into());
        }
        let tokenizer = self.tokenizer()?;
        let template = self.template(&tokenizer)?;
        chat::run(self, &tokenizer, &template)
    }

    /// Ids in, text out; or ids out where there is a reason for having no tokenizer.
    fn answer(&self, ids: &[u32], tokenizer: Result<&Tokenizer, &TextError>, asked: &Asked) -> Result<u8> {
        let (tokenizer, untold) = (tokenizer.ok(), tokenizer.err());
        let (ui, json) = (self.ui, self.args.output.json);
        let limits = &self.args.sampling;
        let limit = self.checkpoint.config().max_position_embeddings;
        let room = room(ids.len(), limits.max_tokens, limits.context, limit)?;
        let request = self.request(room.max_tokens.unwrap_or(usize::MAX), tokenizer);
        let stream = tokenizer.map(|tokenizer| TextStream::new(tokenizer, ids, &limits.stop)).transpose()?;
        let mut engine = self.open(room.context)?;
        if json {
            let mut start = json!({
                "event": "start",
                "schema": 1,
                "model": self.model.label(),
                "device": engine.device_names(),
                "prompt_tokens": ids.len(),
                "max_tokens": room.max_tokens,
                "context": room.context,
                "seed": self.seed,
                "sampling": {
                    "temperature": as_typed(self.sampling.temperature),
                    "top_k": self.sampling.top_k,
                    "top_p": as_typed(self.sampling.top_p),
                    "min_p": as_typed(self.sampling.min_p),
                    "repetition_penalty": as_typed(self.sampling.repetition_penalty),
                },
            });
            if let Some(known) = self.bounds.known() {
                start["knows"] = json!(known.knows);
                start["outside_domain"] = json!(matches!(asked, Asked::Outside));
            }
            ui.json(&start)?;
        }
        if let Some(reason) = untold.filter(|_| !json) {
            ui.warn(&format!("{reason}; printing token ids"));
        }
        let sink: Box<dyn Sink> = match (json, tokenizer) {
            (true, _) => Box::new(JsonLines { ui }),
            (false, Some(_)) => Box::new(Page::new(ui)),
            (false, None) => Box::new(Ids { ui, any: false }),
        };
        let outcome = generate(&mut engine, ids, &request, stream, sink);
        let finished = match outcome {
            Ok(finished) => finished,
            Err(broken) => {
                if json {
                    ui.json(&json!({
                        "event": "end",
                        "token_ids": broken.token_ids,
                        "text": broken.text,
                        "finish_reason": "error",
                        "error": failure::describe(&broken.error),
                    }))?;
                }
                return Err(broken.error);
            }
        };
        let found = match asked {
            Asked::Question(question) => self.judge(question, &finished),
            Asked::Outside | Asked::Other => None,
        };
        if json {
            let mut end = finished.json();
            if let Some(found) = &found {
                let why = found.as_ref().err().map(|flaw| &flaw.why);
                end["recomputed"] = json!({"holds": found.is_ok(), "why": why});
            }
            ui.json(&end)?;
        } else if finished.no_answer && !ui.stdout_is_terminal() {
            ui.warn(&format!(
                "the reasoning did not end within {} tokens, so there is no answer; raise -n, or use --no-think",
                finished.token_ids.len()
            ));
        }
        if !json {
            self.tell(found.as_ref());
        }
        if self.args.output.verbose {
            ui.aside(&finished.rates(self.seed, &engine.device_names()));
            for line in pool_lines(&engine) {
                ui.aside(&line);
            }
        }
        write_heat(&engine, &self.args.experts, ui);
        // Who asks a model about what it does not know gets an answer that does not count.
        Ok(if finished.reason == FinishReason::Interrupted {
            INTERRUPTED
        } else {
            u8::from(matches!(asked, Asked::Outside))
        })
    }
}

/// The number as a person writes it: 0.95, not the nearest f32's 0.949999988.
fn as_typed(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

struct JsonLines<'a> {
    ui: &'a Ui,
}

impl Sink for JsonLines<'_> {
    fn token(&mut self, id: u32, piece: Option<&Piece>) -> Result<()> {
        self.ui.json(&json!({ "event": "token", "id": id, "text": piece.map(|piece| &piece.text) }))
    }

    fn end(&mut self, rest: Option<&Piece>) -> Result<()> {
        match rest.filter(|rest| !rest.text.is_empty()) {
            // It belongs to the tokens before, but only now is it certain.
            Some(rest) => self.ui.json(&json!({ "event": "token", "id": null, "text": rest.text })),
            None => Ok(()),
        }
    }
}

/// Ids of a model without a tokenizer, as one JSON array.
struct Ids<'a> {
    ui: &'a Ui,
    any: bool,
}

impl Sink for Ids<'_> {
    fn token(&mut self, id: u32, _: Option<&Piece>) -> Result<()> {
        let before = if std::mem::replace(&mut self.any, true) { ", " } else { "[" };
        Ok(self.ui.text(&format!("{before}{id}"))?)
    }

    fn end(&mut self, _: Option<&Piece>) -> Result<()> {
        Ok(self.ui.text(if self.any { "]\n" } else { "[]\n" })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use porism_runtime::Error as E;

    #[test]
    fn sampling_defaults_of_a_model_are_taken_unless_something_was_typed() {
        use clap::Parser as _;
        let checkpoint = crate::model::Model::Embedded.checkpoint(Options::default()).unwrap();
        let of = |line: &str, generation: &serde_json::Value| {
            let command = crate::args::Cli::try_parse_from(line.split(' ')).unwrap().command;
            let crate::args::Command::Run(args) = command else { panic!("{line}") };
            let mut config = checkpoint.config().clone();
            let number = |key: &str| generation[key].as_f64();
            config.generation.temperature = number("temperature");
            config.generation.top_p = number("top_p");
            config.generation.min_p = number("min_p");
            config.generation.repetition_penalty = number("repetition_penalty");
            config.generation.top_k = generation["top_k"].as_u64().map(|top_k| top_k as u32);
            sampling(&args.sampling, &config).unwrap()
        };
        let all = serde_json::json!({"temperature": 0.5, "top_p": 0.75, "min_p": 0.25, "top_k": 7, "repetition_penalty": 1.5});
        let taken = of("porism run -p x", &all);
        assert_eq!((taken.temperature, taken.top_p, taken.min_p), (0.5, 0.75, 0.25));
        assert_eq!((taken.top_k, taken.repetition_penalty), (7, 1.5));
        let typed = of("porism run -p x --temp 1 --top-p 1 --min-p 0 --top-k 0 --repetition-penalty 1", &all);
        assert_eq!(typed, SamplingParams::default());
        // What is too small to divide by, and a share of nothing, leave the most likely token.
        assert!(of("porism run -p x", &serde_json::json!({"temperature": 1e-6})).is_greedy());
        let one = of("porism run -p x", &serde_json::json!({"top_p": 0.0}));
        assert!(one.top_p > 0.0 && one.top_p < 1e-30 && one.validate().is_ok());
        assert_eq!(of("porism run -p x --top-p 0.5", &serde_json::json!({"top_p": 0.0})).top_p, 0.5);
    }

    #[test]
    fn caches_are_sized_for_prompt_and_answer() {
        let size = |prompt, n, c| room(prompt, n, c, 1024).map(|room| (room.context, room.max_tokens));
        assert_eq!(size(10, Some(32), None).unwrap(), (42, Some(32)));
        assert_eq!(size(10, None, None).unwrap(), (1024, None));
        assert_eq!(room(10, None, None, 163_840).unwrap(), Room { context: 4106, max_tokens: Some(4096) });
        assert_eq!(size(10, None, Some(64)).unwrap(), (64, None));
        assert_eq!(size(10, Some(100), Some(64)).unwrap(), (64, Some(100)));
        assert_eq!(size(64, None, Some(64)).unwrap(), (64, None));
        assert!(matches!(size(65, None, Some(64)), Err(E::ContextTooLong { tokens: 65, context: 64 })));
        assert!(matches!(size(1025, None, None), Err(E::ContextTooLong { tokens: 1025, context: 1024 })));
        assert!(matches!(size(10, None, Some(1025)), Err(E::ContextBeyondModel { asked: 1025, .. })));
        assert!(matches!(size(10, Some(1015), None), Err(E::ContextBeyondModel { asked: 1025, .. })));
    }
}
