//! The chat of `porism run` in a terminal.

use anyhow::Result;
use porism_runtime::chat::{ChatTemplate, Message};
use porism_runtime::generate::FinishReason;
use porism_runtime::text::{Tokenizer, read_answer};
use rustyline::error::ReadlineError;

use super::set::{Changed, Settings};
use crate::answering::{Job, Page, generate};
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
/set        show how answers are made: temperature, length, seed and so on
/set NAME VALUE   change that, as in `/set temp 0.7`
/clear      forget the conversation
/regen      answer the last question again
/bye        leave (Ctrl-D does too)
\"\"\"         begin and end a text of several lines
Ctrl-C      end the answer
A line that begins with a space is sent as it is, `/` or not.";

/// What a line that begins with `/` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    Help,
    Set(&'a str),
    Clear,
    Again,
    Leave,
    /// Something that is no command of ours, and which one may have been meant.
    Unknown(&'a str, Option<&'static str>),
}

/// The command in a line; `None` for what is to be sent, a path such as `/usr/bin` included.
fn command(line: &str) -> Option<Command<'_>> {
    const KNOWN: [&str; 8] = ["/help", "/?", "/set", "/clear", "/regen", "/bye", "/exit", "/quit"];
    let line = line.trim_end();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if !word.starts_with('/') || word[1..].contains('/') {
        return None;
    }
    Some(match word {
        "/set" => Command::Set(rest),
        "/help" | "/?" => Command::Help,
        "/clear" => Command::Clear,
        "/regen" => Command::Again,
        "/bye" | "/exit" | "/quit" => Command::Leave,
        _ => {
            let alike = |known: &&&str| strsim::jaro_winkler(&word.to_lowercase(), known) > 0.85;
            Command::Unknown(word, KNOWN.iter().find(alike).copied())
        }
    })
}

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
    let mut set = Settings {
        sampling: job.sampling.clone(),
        max_tokens: limits.max_tokens,
        seed: job.seed,
        think: !job.args.input.no_think,
        system: job.args.input.system.clone(),
    };
    let mut messages = opening(&set);
    loop {
        interrupt::reset();
        let question = match read_question(&mut editor, ui)? {
            Some(question) => question,
            None => return Ok(0),
        };
        match command(&question) {
            _ if question.trim().is_empty() => continue,
            Some(Command::Leave) => return Ok(0),
            Some(Command::Help) => {
                ui.note(HELP);
                continue;
            }
            Some(Command::Clear) => {
                messages = opening(&set);
                ui.aside("the conversation is forgotten");
                continue;
            }
            Some(Command::Set(words)) => {
                if words.trim().is_empty() {
                    ui.note(&set.list());
                    continue;
                }
                match set.set(words) {
                    Ok(Changed::Answers) => ui.aside("it holds from the next answer on; /set shows all"),
                    Ok(Changed::System) => {
                        messages = opening(&set);
                        ui.aside("the conversation begins anew");
                    }
                    Err(reason) => ui.warn(&reason),
                }
                continue;
            }
            Some(Command::Again) => {
                let last =
                    messages.iter().rposition(|message| message.role == porism_runtime::chat::Role::User);
                let Some(last) = last else {
                    ui.aside("there is no question yet");
                    continue;
                };
                messages.truncate(last + 1);
            }
            Some(Command::Unknown(word, meant)) => {
                let meant = meant.map_or(".".to_owned(), |meant| format!(", did you mean {meant}?"));
                ui.warn(&format!(
                    "there is no command {word}{meant} /help lists them; a line that begins with a space is sent as it is"
                ));
                continue;
            }
            None => match job.question(&question) {
                Ok(read) => messages.push(Message::user(read.unwrap_or(question))),
                Err(error) => {
                    ui.error(&failure::describe(&error), failure::hint(&error).as_deref());
                    continue;
                }
            },
        }

        let ids = job.encode(&messages, set.think, template, tokenizer)?;
        if ids.len() >= context {
            messages.pop();
            ui.warn(&format!(
                "the conversation has {} tokens, the context holds {context}; /clear forgets it, a larger --ctx-size holds more",
                ids.len()
            ));
            continue;
        }
        let mut request =
            job.request(set.max_tokens.map_or(usize::MAX, |tokens| tokens as usize), Some(tokenizer));
        request.sampling = set.sampling.clone();
        request.seed = set.seed;
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
            ui.aside(&finished.rates(set.seed, &engine.device_names()));
            for line in pool_lines(&engine) {
                ui.aside(&line);
            }
        }
        write_heat(&engine, &job.args.experts, ui);
        // Another answer to the same question should differ.
        set.seed = set.seed.wrapping_add(1);
        let answer = read_answer(finished.text.as_deref().unwrap_or_default(), finished.thinking);
        let mut message = Message::assistant(answer.content.unwrap_or_default());
        message.reasoning_content = answer.reasoning;
        messages.push(message);
    }
}

/// What stands before the first question.
fn opening(set: &Settings) -> Vec<Message> {
    set.system.iter().map(Message::system).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_questions() {
        assert_eq!(command("/set temp 0.5 "), Some(Command::Set("temp 0.5")));
        assert_eq!(command("/set"), Some(Command::Set("")));
        assert_eq!((command("/?"), command("/quit")), (Some(Command::Help), Some(Command::Leave)));
        assert_eq!(command("/regenerate"), Some(Command::Unknown("/regenerate", Some("/regen"))));
        assert_eq!(command("/sett temp 1"), Some(Command::Unknown("/sett", Some("/set"))));
        assert_eq!(command("/save model"), Some(Command::Unknown("/save", None)));
        for question in ["What is 1/2?", " /set is a command", "/usr/bin is a folder", "", "// a comment"] {
            assert_eq!(command(question), None, "{question}");
        }
    }
}
