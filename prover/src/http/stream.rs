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

    /// Takes a chunk of a stream or a whole body. True when it brought text or an end.
    fn take(&mut self, value: &Value) -> Result<bool, Flaw> {
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            return Err(Flaw::Told(status(error), error_words(error)));
        }
        self.take_usage(&value["usage"]);
        let Some(choices) = value.get("choices").and_then(Value::as_array) else {
            // Some endpoints send events of their own between the chunks.
            return Ok(false);
        };
        let Some(choice) = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0) else {
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
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(match finish {
                "stop" | "eos" | "end_turn" | "stop_sequence" => Finish::Stop,
                "length" | "max_tokens" => Finish::Length,
                other => Finish::Other(other.chars().take(64).collect()),
            });
        }
        Ok(after > before || self.finish.is_some())
    }

    fn take_usage(&mut self, usage: &Value) {
        let count = |name: &str| usage[name].as_u64().filter(|count| *count <= MOST_TOKENS);
        if let (Some(prompt), Some(tokens)) = (count("prompt_tokens"), count("completion_tokens")) {
            self.usage = Some((prompt, tokens));
        }
    }
}

/// The words of an error object, as endpoints of different make write it.
pub(super) fn error_words(error: &Value) -> String {
    let words = error.as_str().or_else(|| error["message"].as_str()).or_else(|| error["detail"].as_str());
    words.map_or_else(|| error.to_string(), str::to_owned)
}

/// The HTTP status that an error object names.
fn status(error: &Value) -> Option<u16> {
    let code = &error["code"];
    let number = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
    u16::try_from(number).ok().filter(|status| (400..600).contains(status))
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
        if matches!(name, b"" | b"event" | b"id" | b"retry") {
            return Ok(false);
        }
        Err(Flaw::Garbled(format!("sends `{}` where an event should be", excerpt(line))))
    }

    fn event(&mut self) -> Result<bool, Flaw> {
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) || data.trim_ascii().is_empty() {
            return Ok(false);
        }
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return Ok(true);
        }
        let value: Value = serde_json::from_slice(&data)
            .map_err(|_| Flaw::Garbled(format!("sends `{}`, which is no JSON", excerpt(&data))))?;
        self.heard.take(&value)
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
                match self.heard.finish {
                    Some(_) => Ok(()),
                    // Some endpoints say that it is over, but not why.
                    None if self.done
                        && !(self.heard.content.is_empty() && self.heard.thinking.is_empty()) =>
                    {
                        self.heard.finish = Some(Finish::Stop);
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
        let value: Value = serde_json::from_slice(&body)
            .map_err(|_| Flaw::Garbled(format!("sends `{}`, which is no JSON", excerpt(&body))))?;
        self.heard.take(&value)?;
        if value["choices"].as_array().is_none_or(Vec::is_empty) {
            return Err(Flaw::Garbled("sends no choice".to_owned()));
        }
        self.heard.finish.get_or_insert(Finish::Stop);
        Ok(())
    }
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
