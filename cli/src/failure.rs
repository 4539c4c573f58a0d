//! What went wrong, in words, with an exit code and a way out.

use porism_prover::problem::ProblemError;
use porism_prover::prompts::PromptError;
use porism_runtime::chat::ChatError;
use porism_runtime::error::WayOut;
use porism_runtime::text::TextError;
use porism_runtime::units;

use crate::names;

/// The command line, or a file it names, cannot be used.
pub const USAGE: u8 = 2;
/// Model files are missing or damaged.
pub const MODEL: u8 = 3;
/// No usable device, or out of memory.
pub const DEVICE: u8 = 4;
/// Nobody answers at an endpoint, or not us.
pub const NETWORK: u8 = 5;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;
/// The exit code would have been an answer that nobody was there to read; 128 + SIGPIPE, as for programs that the signal ends.
pub const UNHEARD: u8 = 141;

/// The codes, for `porism --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    ran fine, and the answer is no (`doctor` found a fault, or --outside-domain was needed)
  2    the command line, or a file it names, cannot be used
  3    model files are missing or damaged
  4    no usable device, or out of memory
  5    network
  130  interrupted
  141  `prove`, `check` or `doctor` could not say its answer: nobody read stdout any more";

/// An error found here, with its code and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into(), hint: None }
    }

    /// The model cannot be used.
    pub fn model(message: impl Into<String>) -> Self {
        Self { code: MODEL, message: message.into(), hint: None }
    }

    /// Nobody could be reached, or answered in full.
    pub fn network(message: impl Into<String>) -> Self {
        Self { code: NETWORK, message: message.into(), hint: None }
    }

    /// Adds what can be done about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The exit code of an error; a reader that went away is handled before.
pub fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(error) = cause.downcast_ref::<porism_runtime::Error>() {
            return runtime_code(error);
        }
        if cause.is::<porism_prover::http::HttpError>() {
            return NETWORK;
        }
        if matches!(cause.downcast_ref(), Some(porism_prover::search::SearchError::Network(_))) {
            return NETWORK;
        }
        if cause.is::<porism_prover::store::StoreError>() {
            return USAGE;
        }
        if cause.is::<porism_loader::Error>() {
            return MODEL;
        }
        if let Some(error) = cause.downcast_ref::<TextError>() {
            return match error {
                TextError::Encode { .. } | TextError::IdOutOfRange { .. } | TextError::EmptyStop { .. } => {
                    USAGE
                }
                _ => MODEL,
            };
        }
        if let Some(error) = cause.downcast_ref::<ChatError>() {
            return match error {
                ChatError::Read { .. }
                | ChatError::Malformed { .. }
                | ChatError::Template { .. }
                | ChatError::ForeignVocabulary { .. } => MODEL,
                _ => USAGE,
            };
        }
    }
    USAGE
}

fn runtime_code(error: &porism_runtime::Error) -> u8 {
    use porism_runtime::Error as E;
    match error {
        E::Loader(_) | E::Unsupported(_) => MODEL,
        E::ContextTooLong { .. } | E::TokenOutOfRange { .. } | E::EmptyPrompt | E::Sample(_) => USAGE,
        E::Interrupted => INTERRUPTED,
        _ => DEVICE,
    }
}

/// What can be done about an error, where there is something to say.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.hint.clone();
        }
        if let Some(error) = cause.downcast_ref() {
            return loader_hint(error);
        }
        if let Some(porism_runtime::Error::DoesNotFit { ways_out, .. }) = cause.downcast_ref() {
            let words: Vec<String> = ways_out.iter().map(way_out).collect();
            return Some(words.join("; or "));
        }
        if let Some(error) = cause.downcast_ref() {
            return Some(http_hint(error).to_owned());
        }
        if let Some(error) = cause.downcast_ref::<TextError>() {
            return text_hint(error);
        }
        if let Some(error) = cause.downcast_ref::<PromptError>() {
            return prompt_hint(error);
        }
        if let Some(ProblemError::Empty(_)) = cause.downcast_ref() {
            return Some("give a text, a file, or `-` for stdin, and a statement in it".to_owned());
        }
        if let Some(ProblemError::Malformed { .. }) = cause.downcast_ref() {
            let example = "a set is a JSON array, or lines, of rows such as {\"id\": 1, \"question\": \"Prove that …\"}";
            return Some(example.to_owned());
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return io_hint(error).map(str::to_owned);
        }
        cause.downcast_ref::<porism_runtime::Error>().and_then(runtime_hint)
    })
}

fn way_out(way: &WayOut) -> String {
    match way {
        WayOut::AddHost => {
            "add `host` to the devices: what does not fit on the others is then computed from host memory"
                .to_owned()
        }
        WayOut::Context(tokens) => format!("shorten the context: `--ctx-size {tokens}` fits"),
        WayOut::Memory(device, bytes) => format!("give {device} {} more", units::size(*bytes)),
        WayOut::AddDevice => "add a device".to_owned(),
    }
}

/// What can be done in general, where nothing better is known: `verb` is the command that failed.
pub fn last_hint(code: u8, verb: &str) -> Option<String> {
    match code {
        USAGE => Some(format!("`porism {verb} --help` explains the arguments, with examples")),
        MODEL => Some("`porism doctor MODEL` looks through a model's files".to_owned()),
        DEVICE => Some("`porism doctor` finds out more; `--device host` works without a GPU".to_owned()),
        _ => None,
    }
}

fn prompt_hint(error: &PromptError) -> Option<String> {
    let words = match error {
        PromptError::Malformed { .. } => {
            "a prompt set has the texts generate, verify, meta_verify and refine, as models/porism-tiny/prompts.toml; leave --prompts \
             away for the model's or the built-in ones"
        }
        PromptError::Missing { .. } => "put it where the text belongs that the model is to read",
        PromptError::Read { .. } | PromptError::TooLong { .. } => return None,
    };
    Some(words.to_owned())
}

/// What to do about a file.
fn io_hint(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind as E;
    Some(match error.kind() {
        E::NotFound => "check the path; it is read from the folder that the command runs in",
        E::PermissionDenied => "name a file or folder that you may use, or have its permissions changed",
        E::IsADirectory => "that is a folder; name a file, perhaps one in it",
        E::NotADirectory => "a part of the path is a file; name a folder",
        E::StorageFull | E::QuotaExceeded => "make room there, or name a place on another disk",
        E::ReadOnlyFilesystem => "nothing can be written there; name another place",
        E::AlreadyExists => "name another place, or take away what is there",
        _ => return None,
    })
}

fn text_hint(error: &TextError) -> Option<String> {
    Some(match error {
        TextError::NoTokenizer { .. } => {
            "download the tokenizer's files of the model into its folder: tokenizer.json and tokenizer_config.json".to_owned()
        }
        TextError::IdOutOfRange { .. } => "`porism tokenize MODEL` writes ids that this model has".to_owned(),
        _ => return None,
    })
}

fn loader_hint(error: &porism_loader::Error) -> Option<String> {
    use porism_loader::Error as E;
    let repository = |file: &std::path::Path| porism_loader::repository_of(file);
    Some(match error {
        E::NoModel { name, as_directory, as_name } => names::absent(name, as_directory, as_name).hint,
        E::MissingShard { file, .. } | E::MissingFile { file, .. } | E::Truncated { file, .. } => {
            match (repository(file), error) {
                (Some(repository), _) => {
                    format!("`hf download {repository}` fetches what is missing, and leaves what is there")
                }
                (None, E::MissingFile { .. }) => {
                    "a model is a folder with config.json and its .safetensors files; give the folder that holds them".to_owned()
                }
                _ => "download or copy that file again".to_owned(),
            }
        }
        E::Exists { .. } => "name another folder, or empty this one".to_owned(),
        _ => return None,
    })
}

fn http_hint(error: &porism_prover::http::HttpError) -> &'static str {
    use porism_prover::http::HttpError as E;
    match error {
        E::Unreachable { .. } => "check the address and that the server runs; nothing was lost",
        E::Denied { .. } => {
            "put the right key into PORISM_ENDPOINT_KEY, or name its variable with --endpoint-key-env (for the verifier \
             PORISM_VERIFIER_KEY and --verifier-key-env)"
        }
        E::Absent { .. } => {
            "check the address, which mostly ends in /v1, and the name of the model; `curl ADDRESS/models` lists them"
        }
        E::Away { .. } => {
            "look whether the server runs; raise --endpoint-outage to wait longer; nothing was lost"
        }
        E::Silent { .. } => {
            "look whether the server still works; where answers are not streamed, raise --endpoint-timeout; nothing was lost"
        }
        E::Refuses { .. } => {
            "look at what the server wants; where the prompt is too long for it, give it a larger context; nothing was lost"
        }
        E::Failing { .. } => "look into the server's log; where it is slow, raise --endpoint-timeout",
    }
}

fn runtime_hint(error: &porism_runtime::Error) -> Option<String> {
    use porism_runtime::Error as E;
    let words = match error {
        E::NoSuchDevice { .. } => "`porism devices` lists what there is; `--device host` always works",
        E::OpenDevice { .. } | E::SelfTest { .. } | E::Driver { .. } => {
            "`porism doctor` finds out more; `--device host` works without a GPU"
        }
        E::DeviceLost { .. } => {
            "run it again; if it is lost again, see the system's log for the driver's reason"
        }
        E::OutOfMemory { .. } => {
            "choose another device or a shorter `--ctx-size`; `--device host` uses host memory"
        }
        E::Budget { .. } => "raise the budget in `--device`, or shorten `--ctx-size` or `-n`",
        E::ContextTooLong { .. } => "shorten the prompt, or raise `--ctx-size` where the model allows it",
        E::ContextBeyondModel { .. } => {
            "ask for fewer tokens (`--ctx-size`, `-n`, `--prefill`, `--depth`), or shorten the prompt"
        }
        E::TokenOutOfRange { .. } => "`porism tokenize MODEL` writes ids that this model has",
        E::EmptyPrompt => "give a prompt: as an argument, with `--file`, or on stdin",
        E::Loader(error) => return loader_hint(error),
        _ => return None,
    };
    Some(words.to_owned())
}

/// The error and its causes on one line. Some errors already end with their cause's words; these are not repeated.
pub fn describe(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let words = match cause.downcast_ref() {
            Some(porism_loader::Error::NoModel { name, as_directory, as_name }) => {
                names::absent(name, as_directory, as_name).message
            }
            _ => cause.to_string().replace('\n', " "),
        };
        if line.is_empty() {
            line = words;
        } else if !line.contains(&words) {
            line.push_str(": ");
            line.push_str(&words);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let io = std::io::Error::from_raw_os_error(2);
        let error: anyhow::Error = porism_loader::Error::Read { file: "weights".into(), source: io }.into();
        let words = describe(&error.context("opening the model"));
        assert_eq!(
            words,
            "opening the model: weights: cannot be read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn codes_are_found_under_context() {
        let error = Err::<(), _>(porism_runtime::Error::EmptyPrompt).context("while running").unwrap_err();
        assert_eq!(code(&error), USAGE);
        let error: anyhow::Error = porism_runtime::Error::ContextBeyondModel { asked: 9, limit: 3 }.into();
        assert_eq!(code(&error), DEVICE);
        assert!(hint(&error).unwrap().contains("--ctx-size"));
    }
}
