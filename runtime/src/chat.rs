//! Messages to a prompt.
//!
//! A checkpoint that ships a Jinja template says itself how its prompts are written; [`ChatTemplate`] runs it as
//! Hugging Face does. V3.2 ships none: [`encode_messages`] is its encoding, written out as code.
//!
//! The prompt is text with special tokens spelled out; [`crate::text::Tokenizer::encode`] recognises them and adds none.

mod dates;
mod expression;
mod jinja;
mod json;
mod literal;
mod operations;
mod python;
mod translate;

use std::path::{Path, PathBuf};

use minijinja::{Environment, Error as JinjaError, Value};
use serde::Serialize;

use self::jinja::{describe, environment, refusal};
use self::translate::translated;
use crate::text::{CONFIG_LIMIT, NamedTokens, Tokenizer, read_small_file};

/// What goes wrong between messages and a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Nothing to encode.
    #[error("there are no messages: give at least one")]
    NoMessages,
    /// An assistant's message after the last user's, which with thinking on needs its reasoning.
    #[error(
        "message {index}: an assistant message after the last user message needs `reasoning_content` when thinking is on"
    )]
    MissingReasoning {
        /// Its place in the conversation, from 0.
        index: usize,
    },
    /// A message of a conversation file that is not understood.
    #[error("message {index}: {reason}")]
    Message {
        /// Its place in the conversation, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A conversation file that is not understood.
    #[error("the conversation is not understood: {reason}")]
    Conversation {
        /// What is wrong with it.
        reason: String,
    },
    /// A template file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that should hold the template does not.
    #[error("{file}: {reason}")]
    Malformed {
        /// The file, or its name where it came as bytes.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The template is not valid Jinja, or failed on these messages.
    #[error("the chat template of {file} failed: {reason}")]
    Template {
        /// The file, or its name where it came as bytes.
        file: String,
        /// What the template engine says, with the line.
        reason: String,
    },
    /// The template itself refused the messages (`raise_exception`).
    #[error("the chat template of {file} refuses these messages: {reason}")]
    Refused {
        /// The file, or its name where it came as bytes.
        file: String,
        /// The template's own words.
        reason: String,
    },
    /// There is no template, and the vocabulary is not one our own encoding can be used with.
    #[error(
        "the checkpoint has no chat template and its vocabulary lacks `{token}`: give the prompt as it is (`--raw`)"
    )]
    ForeignVocabulary {
        /// The first token that is missing.
        token: &'static str,
    },
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions before the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; of an assistant the answer without its reasoning.
    pub content: String,
    /// An assistant's reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl Message {
    /// A system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into(), reasoning_content: None }
    }

    /// A user's message.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into(), reasoning_content: None }
    }

    /// An assistant's answer, without reasoning.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into(), reasoning_content: None }
    }

    /// The same message with its reasoning.
    #[must_use]
    pub fn with_reasoning(mut self, reasoning: impl Into<String>) -> Self {
        self.reasoning_content = Some(reasoning.into());
        self
    }
}

const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";
const USER: &str = "<｜User｜>";
const ASSISTANT: &str = "<｜Assistant｜>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// The V3.1 / V3.2 encoding, for checkpoints that ship no template.
///
/// ```text
/// BOS, then of each message in order
///   system     content
///   user       <｜User｜> content <｜Assistant｜>, then <think> if it is the last user message and thinking is on,
///              else </think>
///   assistant  content EOS; with thinking on and no user message after it: reasoning </think> content EOS
/// ```
///
/// # Errors
/// [`ChatError::NoMessages`]; [`ChatError::MissingReasoning`] where the last form needs a reasoning and there is none.
pub fn encode_messages(messages: &[Message], thinking: bool) -> Result<String, ChatError> {
    if messages.is_empty() {
        return Err(ChatError::NoMessages);
    }
    let last_user = messages.iter().rposition(|message| message.role == Role::User);
    let mut prompt = String::from(BOS);
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::System => prompt.push_str(&message.content),
            Role::User => {
                let opened = if thinking && Some(index) == last_user { THINK } else { THINK_END };
                prompt.extend([USER, &message.content, ASSISTANT, opened]);
            }
            Role::Assistant => {
                if thinking && last_user.is_none_or(|last| index > last) {
                    let reasoning =
                        message.reasoning_content.as_deref().filter(|reasoning| !reasoning.is_empty());
                    let reasoning = reasoning.ok_or(ChatError::MissingReasoning { index })?;
                    prompt.extend([reasoning, THINK_END]);
                }
                prompt.extend([&message.content, EOS]);
            }
        }
    }
    Ok(prompt)
}

/// How a checkpoint writes its prompts.
#[derive(Debug)]
pub struct ChatTemplate {
    jinja: Option<Jinja>,
}

#[derive(Debug)]
struct Jinja {
    environment: Environment<'static>,
    file: String,
    tokens: NamedTokens,
}

/// The name the one template has inside its environment.
const TEMPLATE: &str = "chat_template";

impl ChatTemplate {
    /// Finds a checkpoint's template: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else
    /// `assets/chat_template.jinja`, else our own encoding.
    ///
    /// # Errors
    /// [`ChatError::Read`], [`ChatError::Malformed`], [`ChatError::Template`] for a file that is there and unusable.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ChatError> {
        let dir = dir.as_ref();
        let read = |name: &str| {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(None);
            }
            match read_small_file(&path, CONFIG_LIMIT) {
                Ok(bytes) => Ok(Some((path.display().to_string(), bytes))),
                Err(source) => Err(ChatError::Read { path, source }),
            }
        };
        let config = read("tokenizer_config.json")?;
        let before = read("chat_template.jinja")?;
        let after = read("assets/chat_template.jinja")?;
        Self::build(config, before, after)
    }

    /// As [`ChatTemplate::from_dir`] from the files' contents: `template` is what `chat_template.jinja` holds.
    ///
    /// # Errors
    /// [`ChatError::Malformed`], [`ChatError::Template`].
    pub fn from_bytes(
        tokenizer_config_json: Option<&[u8]>,
        template: Option<&[u8]>,
    ) -> Result<Self, ChatError> {
        let named = |name: &str, bytes: Option<&[u8]>| bytes.map(|bytes| (name.to_string(), bytes.to_vec()));
        Self::build(
            named("tokenizer_config.json", tokenizer_config_json),
            named("chat_template.jinja", template),
            None,
        )
    }

    /// Our own encoding, whatever a checkpoint says.
    pub fn built_in() -> Self {
        Self { jinja: None }
    }

    /// The file the template is from; `None` for our own encoding.
    pub fn file(&self) -> Option<&str> {
        self.jinja.as_ref().map(|jinja| jinja.file.as_str())
    }

    /// Checks that our own encoding, where it is what serves, finds its tokens in the vocabulary.
    ///
    /// # Errors
    /// [`ChatError::ForeignVocabulary`].
    pub fn ensure_vocabulary(&self, tokenizer: &Tokenizer) -> Result<(), ChatError> {
        let needed = [BOS, EOS, USER, ASSISTANT, THINK, THINK_END];
        match needed.into_iter().find(|token| tokenizer.token_id(token).is_none()) {
            Some(token) if self.jinja.is_none() => Err(ChatError::ForeignVocabulary { token }),
            _ => Ok(()),
        }
    }

    fn build(
        config: Option<(String, Vec<u8>)>,
        before: Option<(String, Vec<u8>)>,
        after: Option<(String, Vec<u8>)>,
    ) -> Result<Self, ChatError> {
        let mut tokens = NamedTokens::default();
        let mut in_config = None;
        if let Some((file, bytes)) = config {
            let malformed = |reason: String| ChatError::Malformed { file: file.clone(), reason };
            let json: serde_json::Value =
                serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
            tokens = NamedTokens::from_config(&json).map_err(malformed)?;
            let source = template_of(json.get("chat_template")).map_err(malformed)?;
            in_config = source.map(|source| (file.clone(), source.into_bytes()));
        }
        let Some((file, bytes)) = before.or(in_config).or(after) else {
            return Ok(Self::built_in());
        };
        let source = String::from_utf8(bytes).map_err(|error| ChatError::Malformed {
            file: file.clone(),
            reason: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
        })?;
        let mut environment = environment();
        unpanicked(|| environment.add_template_owned(TEMPLATE, translated(&source)))
            .map_err(|error| ChatError::Template { file: file.clone(), reason: describe(&error) })?;
        Ok(Self { jinja: Some(Jinja { environment, file, tokens }) })
    }

    /// The prompt after which the model speaks.
    ///
    /// # Errors
    /// [`ChatError::NoMessages`]; of a template [`ChatError::Refused`] or [`ChatError::Template`]; of our own encoding
    /// what [`encode_messages`] says.
    pub fn encode_messages(&self, messages: &[Message], thinking: bool) -> Result<String, ChatError> {
        let Some(Jinja { environment, file, tokens }) = &self.jinja else {
            return encode_messages(messages, thinking);
        };
        if messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        let failed = |error: JinjaError| match refusal(&error) {
            Some(reason) => ChatError::Refused { file: file.clone(), reason },
            None => ChatError::Template { file: file.clone(), reason: describe(&error) },
        };
        // A token the checkpoint does not name stays undefined, as in Hugging Face.
        let token = |token: &Option<String>| token.clone().map_or(Value::UNDEFINED, Value::from);
        let context = minijinja::context! {
            messages => messages,
            bos_token => token(&tokens.bos_token),
            eos_token => token(&tokens.eos_token),
            pad_token => token(&tokens.pad_token),
            unk_token => token(&tokens.unk_token),
            add_generation_prompt => true,
            thinking => thinking,
            enable_thinking => thinking,
            tools => (),
            documents => (),
        };
        let render = || environment.get_template(TEMPLATE).and_then(|template| template.render(context));
        unpanicked(render).map_err(failed)
    }
}

/// The engine panics on some templates (slices that run backwards over what is empty); of a file from anywhere that must be
/// an error.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, JinjaError>) -> Result<T, JinjaError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| {
        let reason = "the template engine cannot compute this";
        Err(JinjaError::new(minijinja::ErrorKind::InvalidOperation, reason))
    })
}

/// `chat_template` of a `tokenizer_config.json`: a string, or a list of named ones of which `default` counts.
fn template_of(value: Option<&serde_json::Value>) -> Result<Option<String>, String> {
    let list = match value {
        None | Some(serde_json::Value::Null) => return Ok(None),
        Some(serde_json::Value::String(source)) => return Ok(Some(source.clone())),
        Some(serde_json::Value::Array(list)) => list,
        Some(_) => return Err("`chat_template` is neither a string nor a list of named ones".to_string()),
    };
    let mut named = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let text = |key: &str| {
            let text = entry.get(key).and_then(|text| text.as_str());
            text.ok_or_else(|| format!("`chat_template[{index}]` has no string `{key}`"))
        };
        named.push((text("name")?, text("template")?));
    }
    let default = named.iter().find(|(name, _)| *name == "default");
    match (default, named.as_slice()) {
        (Some((_, source)), _) | (None, [(_, source)]) => Ok(Some((*source).to_string())),
        (None, []) => Ok(None),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            Err(format!("`chat_template` has no template named `default`, only {}", names.join(", ")))
        }
    }
}

/// What a conversation file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Whether the model is to think; on where the file does not say.
    pub thinking: bool,
}

/// Reads `{"messages": [{"role", "content", "reasoning_content"?}], "thinking": true}`.
///
/// # Errors
/// [`ChatError::Conversation`] for anything wrong outside the messages, [`ChatError::Message`] naming the place of
/// the first message that is wrong, [`ChatError::NoMessages`].
pub fn conversation_from_json(json: &str) -> Result<Conversation, ChatError> {
    let wrong = |reason: String| ChatError::Conversation { reason };
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
    let Some(object) = value.as_object() else {
        return Err(wrong(format!("expected an object with `messages`, found {}", kind_of(&value))));
    };
    if let Some(key) = object.keys().find(|key| !matches!(key.as_str(), "messages" | "thinking")) {
        return Err(wrong(format!("unknown key `{key}`; the keys are messages and thinking")));
    }
    let thinking = match object.get("thinking") {
        None | Some(serde_json::Value::Null) => true,
        Some(serde_json::Value::Bool(thinking)) => *thinking,
        Some(other) => {
            return Err(wrong(format!("`thinking` is {}, expected true or false", kind_of(other))));
        }
    };
    let messages = match object.get("messages") {
        Some(serde_json::Value::Array(messages)) => messages,
        Some(other) => return Err(wrong(format!("`messages` is {}, expected an array", kind_of(other)))),
        None => return Err(wrong("`messages` is missing".to_string())),
    };
    if messages.is_empty() {
        return Err(ChatError::NoMessages);
    }
    let messages = messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            message_from_json(message).map_err(|reason| ChatError::Message { index, reason })
        })
        .collect::<Result<_, _>>()?;
    Ok(Conversation { messages, thinking })
}

fn message_from_json(value: &serde_json::Value) -> Result<Message, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("expected an object with `role` and `content`, found {}", kind_of(value)));
    };
    let known = |key: &str| matches!(key, "role" | "content" | "reasoning_content");
    if let Some((key, _)) = object.iter().find(|(key, value)| !known(key) && !value.is_null()) {
        return Err(format!("unknown key `{key}`; the keys are role, content and reasoning_content"));
    }
    let text = |key: &str| match object.get(key) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{key}` is {}, expected a string", kind_of(other))),
    };
    let role = match text("role")?.as_deref() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some(other) => {
            return Err(format!("unknown role `{other}`; the roles are system, user and assistant"));
        }
        None => return Err("`role` is missing".to_string()),
    };
    let reasoning_content = text("reasoning_content")?;
    if reasoning_content.is_some() && role != Role::Assistant {
        return Err("`reasoning_content` belongs to assistant messages only".to_string());
    }
    let content = text("content")?.ok_or("`content` is missing")?;
    Ok(Message { role, content, reasoning_content })
}

fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}
