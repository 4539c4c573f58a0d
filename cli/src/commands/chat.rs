//! The chat of `porism run` in a terminal.

use anyhow::Result;
use porism_runtime::chat::{ChatTemplate, Message};
use porism_runtime::generate::FinishReason;
use porism_runtime::text::{Tokenizer, read_answer};
use rustyline::error::ReadlineError;

use super::run::{Job, Page, generate};
use crate::failure;
use crate::interrupt;
use crate::opening::{pool_lines, write_heat};
use crate::stream::TextStream;
use crate::ui::Ui;

/// Tokens of a conversation when nobody says how many.
const DEFAULT_CONTEXT: u32 = 8192;

/// Begin and end a text of several lines.
const QUOTES: &str = "\"\"\"";

const HELP: &str = "\
/clear      forget the conversation
/regen      answer the last question again
/bye        leave (Ctrl-D does too)
\"\"\"         begin and end a text of several lines
Ctrl-C      end the answer";

pub fn run(job: &Job<'_>, tokenizer: &Tokenizer, template: &ChatTemplate) -> Result<u8> {
    let (ui, limits) = (job.ui, &job.args.sampling);
    let limit = job.checkpoint.config().max_position_embeddings;
    let context = limits.context.unwrap_or(limit.min(DEFAULT_CONTEXT));
    let mut engine = job.open(context as usize)?;
    let context = engine.context();
    ui.aside(&format!(
        "{} on {}, {context} tokens of context; /help for help",
        job.model.label(),
        &engine.device_names()
    ));
    if let Some(known) = job.bounds.known() {
        ui.note(&known.reservation());
    }

    let mut editor = rustyline::DefaultEditor::new()?;
    let mut messages = job.opening();
    let mut seed = job.seed;
    loop {
        interrupt::reset();
        let question = match read_question(&mut editor, ui)? {
            Some(question) => question,
            None => return Ok(0),
        };
        match question.trim() {
            "" => continue,
            "/bye" | "/exit" | "/quit" => return Ok(0),
            "/help" | "/?" => {
                ui.note(HELP);
                continue;
            }
            "/clear" => {
                messages = job.opening();
                ui.aside("the conversation is forgotten");
                continue;
            }
            "/regen" => {
                let last =
                    messages.iter().rposition(|message| message.role == porism_runtime::chat::Role::User);
                let Some(last) = last else {
                    ui.aside("there is no question yet");
                    continue;
                };
                messages.truncate(last + 1);
            }
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                ui.aside(&format!("unknown command {command}; /help lists them"));
                continue;
            }
            _ => match job.question(&question) {
                Ok(read) => messages.push(Message::user(read.unwrap_or(question))),
                Err(error) => {
                    ui.error(&failure::describe(&error), failure::hint(&error).as_deref());
                    continue;
                }
            },
        }

        let ids = job.encode(&messages, template, tokenizer)?;
        if ids.len() >= context {
            messages.pop();
            ui.warn(&format!(
                "the conversation has {} tokens, the context holds {context}; /clear forgets it, a larger --ctx-size holds more",
                ids.len()
            ));
            continue;
        }
        let mut request =
            job.request(limits.max_tokens.map_or(usize::MAX, |tokens| tokens as usize), Some(tokenizer));
        request.seed = seed;
        let stream = TextStream::new(tokenizer, &ids, &limits.stop)?;
        interrupt::reset();
        let finished = match generate(&mut engine, &ids, &request, Some(stream), Box::new(Page::new(ui))) {
            Ok(finished) => finished,
            // A device that is gone stays gone; the conversation ends with what it said.
            Err(broken) => return Err(broken.error),
        };
        ui.text("\n")?;
        let asked = messages.last().map(|message| message.content.clone()).unwrap_or_default();
        job.tell(job.judge(&asked, &finished).as_ref());
        if finished.reason == FinishReason::ContextFull {
            ui.warn("the context is full; /clear begins a new conversation");
        }
        if job.args.output.verbose {
            ui.aside(&finished.rates(seed, &engine.device_names()));
            for line in pool_lines(&engine) {
                ui.aside(&line);
            }
        }
        write_heat(&engine, &job.args.experts)?;
        // Another answer to the same question should differ.
        seed = seed.wrapping_add(1);
        let answer = read_answer(finished.text.as_deref().unwrap_or_default(), finished.thinking);
        let mut message = Message::assistant(answer.content.unwrap_or_default());
        message.reasoning_content = answer.reasoning;
        messages.push(message);
    }
}

/// What came of asking for a line.
enum Line {
    Text(String),
    /// Ctrl-C: what was typed is dropped, as in a shell.
    Dropped,
    /// Ctrl-D.
    End,
}

/// A line, or several between `"""`, empty where it was dropped; `None` at the end of input.
fn read_question(editor: &mut rustyline::DefaultEditor, ui: &Ui) -> Result<Option<String>> {
    let first = match read_line(editor, ">>> ")? {
        Line::Text(first) => first,
        Line::Dropped => {
            ui.aside("/bye or Ctrl-D leaves");
            return Ok(Some(String::new()));
        }
        Line::End => return Ok(None),
    };
    let Some(opened) = first.trim_start().strip_prefix(QUOTES) else {
        remember(editor, &first);
        return Ok(Some(first));
    };
    let mut text = opened.to_owned();
    while !text.trim_end().ends_with(QUOTES) {
        match read_line(editor, "... ")? {
            Line::Text(line) => text.extend(["\n", &line]),
            Line::Dropped => return Ok(Some(String::new())),
            Line::End => return Ok(None),
        }
    }
    let text = text.trim_end().trim_end_matches(QUOTES).trim_matches('\n').to_owned();
    remember(editor, &text);
    Ok(Some(text))
}

fn read_line(editor: &mut rustyline::DefaultEditor, prompt: &str) -> Result<Line> {
    match editor.readline(prompt) {
        Ok(line) => Ok(Line::Text(line)),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
        Err(error) => Err(failure::Failure::usage(format!("cannot read the terminal: {error}")).into()),
    }
}

fn remember(editor: &mut rustyline::DefaultEditor, text: &str) {
    if !text.trim().is_empty() {
        // A line that is not kept is only not offered again.
        let _ = editor.add_history_entry(text);
    }
}
