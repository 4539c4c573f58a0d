//! What an endpoint sends → text: server-sent events, or one JSON body where `stream` was ignored.
//!
//! Nothing here reads from the network: bytes are pushed in, so that every way of cutting them up can be tested.

use serde_json::Value;

use crate::complete::Finish;
use crate::parse;

/// The most bytes of thinking and answer together, of one event, and of a body that is not streamed. A completion of 128
/// Ki tokens has a sixtieth of it.
const TEXT_LIMIT: usize = 32 << 20;
/// Counts of tokens beyond this are no counts.
const MOST_TOKENS: u64 = 1 << 40;
/// Bytes of a token, where nobody counts tokens.
const BYTES_PER_TOKEN: u64 = 4;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It ended before it was whole.
    Cut,
    /// It is not what the protocol says, in words.
    Garbled(String),
    /// More than anybody asked for.
    TooLong,
    /// The endpoint says in the answer that it failed: its status if it gives one, and its words.
    Told(Option<u16>, String),
}

/// What was heard of an answer.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Heard {
    /// From fields of their own.
    pub thinking: String,
    /// The message itself.
    pub content: String,
    /// Why it ended, once it has.
    pub finish: Option<Finish>,
    /// The last word about the end that is none of the known ones.
    said: Option<String>,
    /// Tokens of the prompt and of the answer, where the endpoint counts.
    pub usage: Option<(u64, u64)>,
}

impl Heard {
    /// Tokens generated, counted or estimated.
    pub fn tokens(&self) -> u64 {
        let bytes = (self.thinking.len() + self.content.len()) as u64;
        self.usage.map_or_else(|| bytes.div_ceil(BYTES_PER_TOKEN), |(_, tokens)| tokens)
    }

    /// Tokens of a prompt, counted or estimated.
    pub fn prompt_tokens(&self, prompt: &str) -> u64 {
        self.usage.map_or_else(|| (prompt.len() as u64).div_ceil(BYTES_PER_TOKEN), |(tokens, _)| tokens)
    }

    /// Thinking and answer. Where there is no field for the thinking, it stands in the message, before `</think>`.
    pub fn parts(&self) -> (String, String) {
        if !self.thinking.trim().is_empty() {
            return (self.thinking.trim().to_owned(), self.content.trim().to_owned());
        }
        match self.content.trim_start().strip_prefix("<think>") {
            // It never came to an answer; what looks like one is a draft.
            Some(open) if !open.contains("</think>") => (open.trim().to_owned(), String::new()),
            _ => {
                let (thinking, answer) = parse::split_thinking(&self.content);
                (thinking.to_owned(), answer.to_owned())
            }
        }
    }

    /// Takes a chunk of a stream or a whole body; `named_error` where the event itself is called one. True when it brought
    /// text or an end.
    fn take(&mut self, value: &Value, named_error: bool) -> Result<bool, Flaw> {
        if let Some(flaw) = trouble(value, named_error) {
            return Err(flaw);
        }
        self.take_usage(&value["usage"]);
        let Some(choices) = value.get("choices").and_then(Value::as_array) else {
            // Some endpoints send events of their own between the chunks.
            return Ok(false);
        };
        // We ask for one answer; whoever counts from 1 has no other.
        let first = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0);
        let Some(choice) = first.or_else(|| choices.first()) else {
            return Ok(false);
        };
        let message = choice.get("delta").filter(|delta| delta.is_object()).unwrap_or(&choice["message"]);
        let before = self.thinking.len() + self.content.len();
        // Some endpoints send the same under both names.
        let thinking = ["reasoning_content", "reasoning"]
            .into_iter()
            .find_map(|name| message[name].as_str().filter(|text| !text.is_empty()));
        self.thinking.push_str(thinking.unwrap_or_default());
        match &message["content"] {
            Value::String(text) => self.content.push_str(text),
            Value::Array(parts) => {
                let texts = parts.iter().filter_map(|part| part["text"].as_str());
                texts.for_each(|text| self.content.push_str(text));
            }
            _ => {}
        }
        let after = self.thinking.len() + self.content.len();
        if after > TEXT_LIMIT {
            return Err(Flaw::TooLong);
        }
        // Some endpoints write an object with the reason's type.
        let reason = &choice["finish_reason"];
        if let Some(word) = reason.as_str().or_else(|| reason["type"].as_str()) {
            match ending(word) {
                Ending::Known(finish) => self.finish = Some(finish),
                Ending::Failed => {
                    return Err(Flaw::Told(None, format!("ended with `{}`", excerpt(word.as_bytes()))));
                }
                Ending::GoesOn => {}
                Ending::Unknown => self.said = Some(word.chars().take(64).collect()),
            }
        }
        Ok(after > before || self.finish.is_some())
    }

    /// Joins characters that came in halves.
    fn mend(&mut self) {
        for text in [&mut self.thinking, &mut self.content] {
            if text.contains(HALF) {
                *text = joined(text);
            }
        }
    }

    fn take_usage(&mut self, usage: &Value) {
        let count = |name: &str| usage[name].as_u64().filter(|count| *count <= MOST_TOKENS);
        if let (Some(prompt), Some(tokens)) = (count("prompt_tokens"), count("completion_tokens")) {
            self.usage = Some((prompt, tokens));
        }
    }
}

/// What a word about the end of an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// It is over, for a reason that is known.
    Known(Finish),
    /// It was broken off, which is no fault of the request.
    Failed,
    /// Placeholders while it goes on.
    GoesOn,
    /// Nobody knows; only the end of the stream tells.
    Unknown,
}

fn ending(word: &str) -> Ending {
    let lower = word.trim().to_ascii_lowercase();
    match lower.as_str() {
        ""
        | "null"
        | "none"
        | "undefined"
        | "in_progress"
        | "generating"
        | "continue"
        | "running"
        | "finish_reason_unspecified"
        | "unspecified" => Ending::GoesOn,
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "stop_token" | "stopped" | "end"
        | "complete" | "completed" | "finished" => Ending::Known(Finish::Stop),
        "length"
        | "max_tokens"
        | "max_length"
        | "max_new_tokens"
        | "max_output_tokens"
        | "model_length"
        | "context_length"
        | "model_context_window_exceeded" => Ending::Known(Finish::Length),
        "content_filter" | "tool_calls" | "function_call" | "tool_use" | "safety" | "recitation"
        | "refusal" | "blocklist" | "prohibited_content" | "repetition" => {
            Ending::Known(Finish::Other(lower))
        }
        "error"
        | "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "cancel"
        | "insufficient_system_resource"
        | "timeout"
        | "failed"
        | "failure"
        | "incomplete"
        | "interrupted"
        | "preempted"
        | "disconnect" => Ending::Failed,
        _ => Ending::Unknown,
    }
}

/// The trouble that an event tells of, however it is written. An event with choices is an answer unless it says `error`; one
/// without them is trouble when it carries a message or a code.
fn trouble(value: &Value, named_error: bool) -> Option<Flaw> {
    let told = |about: &Value| {
        let status = status(about).or_else(|| status(value));
        Some(Flaw::Told(status, error_words(about)))
    };
    for key in ["error", "errors"] {
        // `"error": ""` and `[]` stand for none.
        let about = &value[key];
        let is_none = about.is_null() || *about == Value::Bool(false) || about.as_str() == Some("");
        if !is_none && about.as_array().is_none_or(|list| !list.is_empty()) {
            return told(about);
        }
    }
    if named_error {
        return told(value);
    }
    if value["choices"].as_array().is_some_and(|choices| !choices.is_empty()) {
        return None;
    }
    if value["object"] == "error" || value["type"] == "error" {
        return told(value);
    }
    // Success has a code, too, with some.
    let code = ["code", "error_code", "status_code", "status", "statusCode"].into_iter().find_map(|key| {
        let code = &value[key];
        code.as_i64().or_else(|| code.as_str()?.trim().parse().ok())
    });
    let is_fine = matches!(code, Some(0 | 200..=299));
    let words = ["message", "msg", "detail", "details", "error_message", "error_msg", "errorMessage"];
    let has_words = words.iter().any(|key| !value[*key].is_null());
    if value["usage"].is_object() || is_fine {
        return None;
    }
    if code.is_some() || has_words { told(value) } else { None }
}

/// The words of an error object, as endpoints of different make write it.
pub(super) fn error_words(error: &Value) -> String {
    const NAMES: [&str; 9] = [
        "message",
        "detail",
        "details",
        "msg",
        "error_message",
        "error_msg",
        "errorMessage",
        "reason",
        "title",
    ];
    let words = error.as_str().or_else(|| {
        // The words may lie one level deeper, as in `{"detail": {"error": "…"}}`.
        NAMES.iter().find_map(|name| error[*name].as_str().or_else(|| error[*name]["message"].as_str()))
    });
    words.map_or_else(|| error.to_string(), str::to_owned)
}

/// The HTTP status that an error object names.
fn status(error: &Value) -> Option<u16> {
    ["code", "status", "status_code", "statusCode", "error_code"].into_iter().find_map(|key| {
        let code = &error[key];
        let number = code.as_u64().or_else(|| code.as_str()?.trim().parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    })
}

/// How a body is written; its first byte says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Events,
    Whole,
}

/// Takes bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    form: Option<Form>,
    // Bytes that are not understood yet: of a line, or of the whole body.
    rest: Vec<u8>,
    // How many of them were searched for the end of a line.
    searched: usize,
    // The last byte was a \r, and a \n after it belongs to it.
    after_return: bool,
    // The data lines of the event that is being read.
    data: Vec<u8>,
    has_data: bool,
    // It is called `error`.
    named_error: bool,
    done: bool,
    pub heard: Heard,
}

impl Decoder {
    /// Takes the next bytes. True when they brought text or an end; keep-alive comments and blanks do not.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<bool, Flaw> {
        if self.form.is_none() {
            // A byte order mark may stand before everything.
            let blank = |byte: &u8| byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(byte);
            let Some(begin) = bytes.iter().position(|byte| !blank(byte)) else {
                return Ok(false);
            };
            bytes = &bytes[begin..];
            self.form = Some(if bytes[0] == b'{' { Form::Whole } else { Form::Events });
        }
        if self.rest.len() + self.data.len() + bytes.len() > TEXT_LIMIT {
            return Err(Flaw::TooLong);
        }
        self.rest.extend_from_slice(bytes);
        if self.form == Some(Form::Whole) {
            return Ok(bytes.iter().any(|byte| !byte.is_ascii_whitespace()));
        }
        let buffer = std::mem::take(&mut self.rest);
        let mut progress = false;
        let mut start = 0;
        let mut at = self.searched;
        while let Some(end) = buffer[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let end = at + end;
            at = end + 1;
            // Lines end with \n, \r or both; both may come in different pieces.
            let second = std::mem::replace(&mut self.after_return, buffer[end] == b'\r');
            if !(second && buffer[end] == b'\n' && end == start) {
                progress |= self.line(&buffer[start..end])?;
            }
            start = at;
        }
        self.after_return &= start == buffer.len();
        self.rest = buffer[start..].to_vec();
        self.searched = self.rest.len();
        Ok(progress)
    }

    fn line(&mut self, line: &[u8]) -> Result<bool, Flaw> {
        if line.is_empty() {
            return self.event();
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            self.has_data = true;
            return Ok(false);
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name == b"event" {
            self.named_error = line[name.len()..].trim_ascii().ends_with(b"error");
            return Ok(false);
        }
        if matches!(name, b"" | b"id" | b"retry") {
            return Ok(false);
        }
        // A proxy that fails midway writes its error as it always does.
        if let Some(flaw) = parse_json(line).and_then(|value| trouble(&value, false)) {
            return Err(flaw);
        }
        Err(Flaw::Garbled(format!("sends `{}` where an event should be", excerpt(line))))
    }

    fn event(&mut self) -> Result<bool, Flaw> {
        let data = std::mem::take(&mut self.data);
        let named_error = std::mem::take(&mut self.named_error);
        if !std::mem::take(&mut self.has_data) || data.trim_ascii().is_empty() {
            return Ok(false);
        }
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return Ok(true);
        }
        let value = match parse_json(&data) {
            Some(value) => value,
            None if named_error => Value::String(excerpt(&data)),
            None => return Err(Flaw::Garbled(format!("sends `{}`, which is no JSON", excerpt(&data)))),
        };
        self.heard.take(&value, named_error)
    }

    /// Whether nothing more is to be waited for.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Nothing more comes. `whole`: the body ended as HTTP says, and was not cut off.
    pub fn end(&mut self, whole: bool) -> Result<(), Flaw> {
        match self.form {
            None if whole => Err(Flaw::Garbled("sends an empty body".to_owned())),
            None => Err(Flaw::Cut),
            Some(Form::Whole) if !whole => Err(Flaw::Cut),
            Some(Form::Whole) => self.end_whole(),
            Some(Form::Events) => {
                if whole && !self.done {
                    // The last event need not have its empty line; half an event is none.
                    let line = std::mem::take(&mut self.rest);
                    let last = self.line(&line).and_then(|_| self.event());
                    if self.heard.finish.is_none() && !self.done {
                        last?;
                    }
                }
                self.heard.mend();
                match self.heard.finish {
                    Some(_) => Ok(()),
                    // Some endpoints say that it is over, but not why, or in a word of their own.
                    None if self.done
                        && !(self.heard.content.is_empty() && self.heard.thinking.is_empty()) =>
                    {
                        let said = self.heard.said.take();
                        self.heard.finish = Some(said.map_or(Finish::Stop, Finish::Other));
                        Ok(())
                    }
                    None if self.done => Err(Flaw::Garbled("sends no choice".to_owned())),
                    None => Err(Flaw::Cut),
                }
            }
        }
    }

    fn end_whole(&mut self) -> Result<(), Flaw> {
        let body = std::mem::take(&mut self.rest);
        let value = parse_json(&body)
            .ok_or_else(|| Flaw::Garbled(format!("sends `{}`, which is no JSON", excerpt(&body))))?;
        self.heard.take(&value, false)?;
        self.heard.mend();
        if value["choices"].as_array().is_none_or(Vec::is_empty) {
            return Err(Flaw::Garbled("sends no choice".to_owned()));
        }
        let said = self.heard.said.take();
        self.heard.finish.get_or_insert(said.map_or(Finish::Stop, Finish::Other));
        Ok(())
    }
}

/// Marks a half of a character until the other one comes: no character that texts may have. Four hexadecimal digits follow,
/// of half a surrogate pair, or two and `--` of a byte.
const HALF: char = '\u{fdd0}';

/// JSON, also where a character is cut in two at the border of two texts: as half of an escaped pair, or between its bytes.
fn parse_json(bytes: &[u8]) -> Option<Value> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("{HALF}{byte:02x}--")));
    }
    let mut marked = String::with_capacity(text.len() + 16);
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        marked.push_str(before);
        let unit = |escape: &str| -> Option<u16> {
            u16::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok()
        };
        let (first, second) = (unit(escape), escape.get(6..).and_then(unit));
        let length = match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(half @ 0xd800..=0xdfff), _) => {
                marked.push_str(&format!("{HALF}{half:04x}"));
                rest = &escape[6..];
                continue;
            }
            // The escaped character belongs to its escape.
            _ => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        marked.push_str(&escape[..length]);
        rest = &escape[length..];
    }
    marked.push_str(rest);
    serde_json::from_str(&marked).ok()
}

/// A text with the halves that meet in it joined; a half alone becomes U+FFFD.
fn joined(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(HALF);
    out.push_str(parts.next().unwrap_or_default());
    let (mut units, mut bytes) = (Vec::<u16>::new(), Vec::<u8>::new());
    for part in parts {
        let (mark, after) = part.split_at_checked(4).unwrap_or((part, ""));
        match mark.strip_suffix("--").map(|byte| u8::from_str_radix(byte, 16)) {
            Some(Ok(byte)) => bytes.push(byte),
            _ => units.extend(u16::from_str_radix(mark, 16)),
        }
        if !after.is_empty() {
            out.push_str(&String::from_utf16_lossy(&std::mem::take(&mut units)));
            out.push_str(&String::from_utf8_lossy(&std::mem::take(&mut bytes)));
            out.push_str(after);
        }
    }
    out.push_str(&String::from_utf16_lossy(&units));
    out.push_str(&String::from_utf8_lossy(&bytes));
    out
}

/// The beginning of something strange, fit for a message.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 100;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
    clean(&text, SHOWN)
}

/// At most so many characters on one line.
pub(super) fn clean(text: &str, most: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = words.chars().filter(|c| !c.is_control()).take(most).collect();
    if shown.chars().count() == most {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn chunk(delta: &Value, finish: Option<&str>) -> String {
        let chunk = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    }

    /// Everything at once.
    fn decode(body: &str) -> Result<Heard, Flaw> {
        let mut decoder = Decoder::default();
        decoder.push(body.as_bytes())?;
        decoder.end(true)?;
        Ok(decoder.heard)
    }

    fn body() -> String {
        [
            ": keep-alive\r\n\r\n".to_owned(),
            chunk(&json!({"role": "assistant", "content": null}), None),
            "event: message\nid: 7\n".to_owned(),
            chunk(&json!({"content": "<thi"}), None),
            chunk(&json!({"content": "nk>Überlegt.</th"}), None).replace('\n', "\r\n"),
            chunk(&json!({"content": "ink>\n## Solution"}), None).replace('\n', "\r"),
            chunk(&json!({"content": " – q.e.d."}), Some("stop")),
            "data: {\"choices\": [],\r\ndata: \"usage\": {\"prompt_tokens\": 11, \"completion_tokens\": 22}}\n\n".to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat()
    }

    proptest! {
        #[test]
        fn a_stream_means_the_same_however_it_is_cut_up(cuts in proptest::collection::vec(1usize..40, 1..40)) {
            let body = body();
            let mut decoder = Decoder::default();
            let mut rest = body.as_bytes();
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                decoder.push(now).unwrap();
                rest = later;
            }
            decoder.end(true).unwrap();
            prop_assert_eq!(&decoder.heard, &decode(&body).unwrap());
            prop_assert_eq!(decoder.heard.usage, Some((11, 22)));
            prop_assert_eq!(decoder.heard.parts(), ("Überlegt.".to_owned(), "## Solution – q.e.d.".to_owned()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), lead in "(data: ?|\\{|: |)") {
            let mut decoder = Decoder::default();
            let outcome = decoder.push(lead.as_bytes()).and_then(|_| decoder.push(&bytes));
            drop(outcome.and_then(|_| decoder.end(true)));
        }
    }

    #[test]
    fn a_prefix_of_a_stream_is_cut_and_not_an_answer() {
        let body = body();
        let finished = body.find("\"finish_reason\":\"stop\"").unwrap();
        for end in (0..finished).filter(|end| body.is_char_boundary(*end)) {
            let outcome = decode(&body[..end]);
            assert!(outcome.is_err(), "{end}: {outcome:?}");
        }
        // Once the reason was given, what is missing is only the count.
        let heard = decode(&body[..body.find("data: [DONE]").unwrap()]).unwrap();
        assert_eq!((heard.finish, heard.usage), (Some(Finish::Stop), Some((11, 22))));
    }

    #[test]
    fn thinking_comes_from_its_fields_or_from_the_message() {
        for name in ["reasoning_content", "reasoning"] {
            let body = [
                chunk(&json!({name: "a"}), None),
                chunk(&json!({name: " b"}), None),
                chunk(&json!({"content": "c"}), Some("stop")),
            ];
            assert_eq!(decode(&body.concat()).unwrap().parts(), ("a b".to_owned(), "c".to_owned()));
        }
        let both = chunk(&json!({"reasoning": "a", "reasoning_content": "a", "content": "c"}), Some("stop"));
        assert_eq!(decode(&both).unwrap().parts(), ("a".to_owned(), "c".to_owned()));
        let open = chunk(&json!({"content": "<think>never ## Solution"}), Some("stop"));
        assert_eq!(decode(&open).unwrap().parts(), ("never ## Solution".to_owned(), String::new()));
        let template = chunk(&json!({"content": "begun by the template</think>c"}), Some("length"));
        let heard = decode(&template).unwrap();
        assert_eq!(heard.parts(), ("begun by the template".to_owned(), "c".to_owned()));
        assert_eq!(heard.finish, Some(Finish::Length));
    }

    #[test]
    fn one_body_is_an_answer_too() {
        let body = json!({
            "choices": [{"message": {"reasoning": "a", "content": [{"type": "text", "text": "c"}]}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2}
        });
        let heard = decode(&format!("\n  {body}\n")).unwrap();
        assert_eq!(heard.parts(), ("a".to_owned(), "c".to_owned()));
        assert_eq!((heard.finish, heard.usage), (Some(Finish::Length), Some((1, 2))));
        let cut = decode("{\"choices\": [{\"mess");
        assert!(matches!(cut, Err(Flaw::Garbled(_))), "{cut:?}");
    }

    #[test]
    fn what_is_no_answer_is_named() {
        let garbled = |body: &str| match decode(body) {
            Err(Flaw::Garbled(what)) => what,
            other => panic!("{body}: {other:?}"),
        };
        assert!(garbled("").contains("empty body"));
        assert!(garbled("{}").contains("no choice"));
        assert!(garbled("{\"choices\": []}").contains("no choice"));
        assert!(garbled("<html>\n").contains("<html>"));
        assert!(garbled("data: {oops}\n\n").contains("{oops}"));
        assert!(garbled("data: [DONE]\n\n").contains("no choice"));
        let told = decode("data: {\"error\": {\"message\": \"no room\", \"code\": 503}}\n\n");
        assert_eq!(told, Err(Flaw::Told(Some(503), "no room".to_owned())));
        let odd = json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "content_filter"}],
            "usage": {"prompt_tokens": u64::MAX, "completion_tokens": -1}});
        let heard = decode(&format!("data: {odd}\n\n")).unwrap();
        assert_eq!(heard.finish, Some(Finish::Other("content_filter".to_owned())));
        assert_eq!((heard.usage, heard.tokens(), heard.prompt_tokens("12345")), (None, 1, 2));
    }

    #[test]
    fn only_a_known_reason_ends_an_answer() {
        let with = |going: Option<&str>, last: Option<&str>| {
            let pieces = ["a", "b", "c"].map(|text| chunk(&json!({"content": text}), going));
            [pieces.concat(), chunk(&json!({}), last)].concat()
        };
        for placeholder in ["", "null", "None", " ", "in_progress", "something_new"] {
            let body = with(Some(placeholder), Some(placeholder));
            assert_eq!(decode(&body), Err(Flaw::Cut), "{placeholder}");
            let done = decode(&format!("{body}data: [DONE]\n\n")).unwrap();
            let expected = match placeholder {
                "something_new" => Finish::Other("something_new".to_owned()),
                _ => Finish::Stop,
            };
            assert_eq!((done.content.as_str(), done.finish), ("abc", Some(expected)), "{placeholder}");
        }
        for (reason, expected) in
            [("STOP", Finish::Stop), ("end_turn", Finish::Stop), ("MAX_TOKENS", Finish::Length)]
        {
            assert_eq!(decode(&with(None, Some(reason))).unwrap().finish, Some(expected));
        }
        let object = json!({"choices": [{"delta": {"content": "a"}, "finish_reason": {"type": "length", "length": 9}}]});
        assert_eq!(decode(&format!("data: {object}\n\n")).unwrap().finish, Some(Finish::Length));
        // What was broken off is asked for again.
        for reason in ["abort", "error", "insufficient_system_resource", "cancelled"] {
            let outcome = decode(&format!("{}data: [DONE]\n\n", with(None, Some(reason))));
            assert!(matches!(outcome, Err(Flaw::Told(None, _))), "{reason}: {outcome:?}");
        }
    }

    #[test]
    fn an_error_is_one_in_whatever_shape() {
        let begun = chunk(&json!({"content": "a"}), None);
        let told = |events: &str| match decode(&format!("{begun}{events}data: [DONE]\n\n")) {
            Err(Flaw::Told(status, words)) => (status, words),
            other => panic!("{events}: {other:?}"),
        };
        for (event, status) in [
            (
                json!({"object": "error", "message": "gone away", "type": "ServerError", "code": 500}),
                Some(500),
            ),
            (json!({"code": 503, "details": "gone away"}), Some(503)),
            (json!({"detail": "gone away"}), None),
            (json!({"message": "gone away"}), None),
            (json!({"status": 502, "msg": "gone away"}), Some(502)),
            (json!({"type": "error", "error": {"type": "overloaded", "message": "gone away"}}), None),
            (json!({"error": "gone away"}), None),
            (json!({"errors": [{"message": "gone away"}]}), None),
            (json!({"error": {"message": "gone away", "code": "504"}}), Some(504)),
            (json!({"choices": [], "code": 10013, "message": "gone away"}), None),
            (
                json!({"choices": [{"delta": {"content": ""}}], "error": {"code": 502, "message": "gone away"}}),
                Some(502),
            ),
        ] {
            let (found, words) = told(&format!("data: {event}\n\n"));
            assert!(found == status && words.contains("gone away"), "{event}: {found:?} {words}");
        }
        assert_eq!(told("event: error\ndata: {\"x\": \"gone away\"}\n\n").0, None);
        assert!(told("event: error\ndata: gone away\n\n").1.contains("gone away"));
        assert!(told("{\"error\":\"gone away\"}\n").1.contains("gone away"));
        // What others send between the pieces is none.
        for event in [
            json!({"choices": null}),
            json!({"choices": [], "other": 1}),
            json!({"id": "x", "timings": {"predicted_ms": 3}}),
            json!({"object": "ping"}),
            json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}, "message": "ok"}),
            json!({"code": 0, "message": "success"}),
            json!({"error": null, "choices": []}),
        ] {
            let rest = chunk(&json!({"content": "b"}), Some("stop"));
            let heard = decode(&format!("{begun}data: {event}\n\n{rest}data: [DONE]\n\n"));
            assert_eq!(heard.unwrap().content, "ab", "{event}");
        }
    }

    #[test]
    fn characters_may_come_in_halves() {
        let piece = |text: &[u8]| {
            let (head, tail) =
                (b"data: {\"choices\":[{\"delta\":{\"content\":\"".as_slice(), b"\"}}]}\n\n".as_slice());
            [head, text, tail].concat()
        };
        let heard = |pieces: &[&[u8]]| {
            let mut decoder = Decoder::default();
            for text in pieces {
                decoder.push(&piece(text)).unwrap();
            }
            decoder.push(b"data: [DONE]\n\n").unwrap();
            decoder.end(true).unwrap();
            decoder.heard.content
        };
        assert_eq!(heard(&[b"a\\ud83d", b"\\ude00b"]), "a😀b");
        assert_eq!(heard(&[b"\\ud83d\\ude00\\u00e9", b"\\uD83D", b"", b"\\uDE00"]), "😀é😀");
        assert_eq!(heard(&[b"a\xf0\x9f", b"\x98", b"\x80b"]), "a😀b");
        // A half that stays alone is none.
        assert_eq!(heard(&[b"a\\ud83d", b"b"]), "a\u{fffd}b");
        assert_eq!(heard(&[b"\\\\ud83d and \\\"", b"\\ude00"]), "\\ud83d and \"\u{fffd}");
        assert_eq!(parse_json(b"{\"a\": \\ud83d}"), None);
    }

    #[test]
    fn a_recorded_answer_cut_anywhere_is_whole_or_asked_for_again() {
        let thinking = ["Ünï ", "\u{1f44d}\u{1f3fd} \"q\" \\ \n\t", "√2 ≤ 3 – 你好"]
            .map(|text| chunk(&json!({"reasoning_content": text}), None));
        let escaped = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"## Solution\\n\\ud83d\"},\"finish_reason\":null}]}\n\n\
                       data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00 \\u00e9 \\\\frac{1}{2} \\\"x\\\"\"},\"finish_reason\":null}]}\r\n\r\n";
        let body = [
            ": ping\n\n".to_owned(),
            thinking.concat(),
            escaped.to_owned(),
            chunk(&json!({"content": "😀 ## Self Evaluation\n\\boxed{1}"}), None),
            chunk(&json!({}), Some("stop")),
            "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 41}}\n\n"
                .to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat();
        let whole = decode(&body).unwrap();
        assert_eq!(whole.usage, Some((7, 41)));
        let bytes = body.as_bytes();
        for cut in 0..bytes.len() {
            for clean in [true, false] {
                // In two pieces, so that the cut is a border, too.
                let mut decoder = Decoder::default();
                let pushed = decoder.push(&bytes[..cut / 2]).and_then(|_| decoder.push(&bytes[cut / 2..cut]));
                let outcome = pushed.and_then(|_| decoder.end(clean));
                let heard = &decoder.heard;
                let same = (&heard.thinking, &heard.content, &heard.finish)
                    == (&whole.thinking, &whole.content, &whole.finish);
                assert!(outcome.is_err() || same, "{cut} {clean}: {heard:?}");
            }
            // And the whole of it, cut in two.
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..cut]).unwrap();
            decoder.push(&bytes[cut..]).unwrap();
            decoder.end(true).unwrap();
            assert_eq!(decoder.heard, whole, "{cut}");
        }
    }

    #[test]
    fn endless_lines_and_texts_are_given_up() {
        let mut decoder = Decoder::default();
        let block = vec![b'x'; 1 << 20];
        decoder.push(b"data: ").unwrap();
        let blocks = (0..64).take_while(|_| decoder.push(&block).is_ok()).count();
        assert_eq!(blocks, TEXT_LIMIT / block.len() - 1);
        let mut decoder = Decoder::default();
        let chunk = chunk(&json!({"content": "x".repeat(1 << 20)}), None);
        let chunks = (0..64).take_while(|_| decoder.push(chunk.as_bytes()).is_ok()).count();
        assert_eq!(chunks, TEXT_LIMIT >> 20);
    }
}
