//! Token ids as they come → text, parted into reasoning and answer and cut at stop strings.

use porism_runtime::text::{Detokenizer, Specials, StopStrings, TextError, ThinkSplitter, Tokenizer};

/// What a token adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// All of it, `</think>` included.
    pub text: String,
    /// What of it is reasoning.
    pub reasoning: String,
    /// What of it is the answer.
    pub answer: String,
    /// A stop string was met; nothing comes after it.
    pub stopped: bool,
}

/// The text of one generation.
pub struct TextStream {
    detokenizer: Detokenizer,
    stops: StopStrings,
    splitter: ThinkSplitter,
    think: Option<u32>,
    thinking: bool,
    started: bool,
    text: String,
}

impl TextStream {
    /// Starts after a prompt of these ids. The model is reasoning when the prompt ends with `<think>` (and perhaps a
    /// newline), whoever wrote it there, or when its first token is `<think>`.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], stops: &[String]) -> Result<Self, TextError> {
        let think = tokenizer.token_id("<think>");
        let opened = think.and_then(|think| prompt.iter().rposition(|id| *id == think));
        let thinking = match opened {
            Some(at) => tokenizer.decode(&prompt[at + 1..], Specials::Show)?.trim().is_empty(),
            None => false,
        };
        Ok(Self {
            detokenizer: Detokenizer::new(tokenizer, Specials::ShowThinkEnd),
            stops: StopStrings::new(stops)?,
            splitter: ThinkSplitter::new(thinking),
            think,
            thinking,
            started: false,
            text: String::new(),
        })
    }

    /// Takes the next id.
    pub fn push(&mut self, id: u32) -> Result<Piece, TextError> {
        let first = !std::mem::replace(&mut self.started, true);
        if first && self.think == Some(id) {
            self.thinking = true;
            self.splitter = ThinkSplitter::new(true);
            return Ok(Piece::default());
        }
        let text = self.detokenizer.push(id)?;
        Ok(self.take(&text))
    }

    fn take(&mut self, text: &str) -> Piece {
        let stop = self.stops.push(text);
        self.part(stop.text, stop.stopped.is_some())
    }

    fn part(&mut self, text: String, stopped: bool) -> Piece {
        let parts = self.splitter.push(&text);
        self.text.push_str(&text);
        Piece { text, reasoning: parts.reasoning, answer: parts.answer, stopped }
    }

    /// Ends: text that was held back.
    pub fn finish(&mut self) -> Piece {
        let rest = self.detokenizer.finish();
        let mut last = self.take(&rest);
        if !last.stopped {
            let held = self.stops.finish();
            let more = self.part(held, false);
            last.text.push_str(&more.text);
            last.reasoning.push_str(&more.reasoning);
            last.answer.push_str(&more.answer);
        }
        // Already part of the text, only not yet of the reasoning.
        last.reasoning.push_str(&self.splitter.finish().reasoning);
        last
    }

    /// All text so far: reasoning, `</think>`, answer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the text began with reasoning.
    pub fn thinking(&self) -> bool {
        self.thinking
    }

    /// Whether the answer has begun.
    pub fn answering(&self) -> bool {
        self.splitter.answering()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn all(prompt: &str, output: &str, stops: &[&str]) -> (String, String, String, bool) {
        let tokenizer = Model::Embedded.tokenizer().unwrap();
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&tokenizer, &tokenizer.encode(prompt).unwrap(), &stops).unwrap();
        let (mut reasoning, mut answer, mut text, mut stopped) =
            (String::new(), String::new(), String::new(), false);
        let mut take = |piece: Piece| {
            reasoning.push_str(&piece.reasoning);
            answer.push_str(&piece.answer);
            text.push_str(&piece.text);
            stopped |= piece.stopped;
            stopped
        };
        for id in tokenizer.encode(output).unwrap() {
            if take(stream.push(id).unwrap()) {
                break;
            }
        }
        take(stream.finish());
        assert_eq!(text, stream.text());
        (text, reasoning, answer, stopped)
    }

    #[test]
    fn reasoning_and_answer_are_parted() {
        let (text, reasoning, answer, stopped) =
            all("<think>", "Let us see</think>42 = 42 ✓<｜end▁of▁sentence｜>", &[]);
        assert_eq!(text, "Let us see</think>42 = 42 ✓");
        assert_eq!((reasoning.as_str(), answer.as_str(), stopped), ("Let us see", "42 = 42 ✓", false));
        // Without `<think>` all of it is the answer; a model may also open it by itself.
        assert_eq!(all("Hello", "plain", &[]).2, "plain");
        let opened = all("Hello", "<think>hm</think>yes", &[]);
        assert_eq!((opened.1.as_str(), opened.2.as_str()), ("hm", "yes"));
        assert_eq!(all("<think>\n", "hm</think>yes", &[]).1, "hm");
        assert_eq!(all("<think>x</think>", "hm", &[]).2, "hm");
        // Reasoning that never ends stays reasoning, even where it looks like an end.
        assert_eq!(all("<think>", "a < b", &[]).1, "a < b");
    }

    #[test]
    fn stop_strings_cut() {
        let (text, _, answer, stopped) = all("x", "one two three", &["two"]);
        assert_eq!((text.as_str(), answer.as_str(), stopped), ("one ", "one ", true));
        // The beginning of a stop string at the end is text.
        assert_eq!(all("x", "one tw", &["two"]).2, "one tw");
    }
}
