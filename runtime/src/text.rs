//! Text to token ids and back.
//!
//! [`Tokenizer`] reads a checkpoint's `tokenizer.json`; [`Detokenizer`] turns ids into text one token at a time
//! without ever splitting a character; [`StopStrings`] and [`ThinkSplitter`] read that stream of text.
//!
//! The DeepSeek family uses byte-level BPE: a token is a run of bytes, and a character may be spread over several
//! tokens. So decoding is concatenating bytes and reading them as UTF-8, with U+FFFD for every run of bytes that
//! is none, and streaming is the same thing done as soon as the bytes settle what the character is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What goes wrong between text and token ids.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The directory has only a `tiktoken.model`, as Kimi's checkpoints do.
    #[error(
        "{path}: a tiktoken vocabulary without `tokenizer.json` is not supported for text; token ids still work (`--ids FILE`)"
    )]
    Tiktoken {
        /// The vocabulary that was found.
        path: PathBuf,
    },
    /// The directory has no tokenizer at all.
    #[error("{dir}: no `tokenizer.json` here; token ids still work (`--ids FILE`)")]
    NoTokenizer {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// A tokenizer file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tokenizer file does not hold what it should.
    #[error("{file}: {reason}")]
    Malformed {
        /// The file, or its name where it came as bytes.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer decodes in a way other than byte-level.
    #[error(
        "{file}: its decoder is `{found}`, only `ByteLevel` (byte-level BPE) is supported for text; token ids still work (`--ids FILE`)"
    )]
    Decoder {
        /// The file, or its name where it came as bytes.
        file: String,
        /// The decoder it names.
        found: String,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer could not encode the text: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is out of range: the vocabulary has {vocab_size} ids, 0 to {}", vocab_size.saturating_sub(1))]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// How many ids there are.
        vocab_size: u32,
    },
    /// A stop string that would stop everything.
    #[error("stop string {index} is empty: give at least one character")]
    EmptyStop {
        /// Its place in the list, from 0.
        index: usize,
    },
}

/// The largest `tokenizer.json` read; the largest published one of the family is 8 MB.
const TOKENIZER_LIMIT: u64 = 256 << 20;
/// The largest `tokenizer_config.json` read.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;
/// Ids at or above this are refused at load: tables are sized by the largest id.
const MAX_VOCABULARY: u32 = 1 << 21;

/// The token that ends the reasoning.
pub const THINK_END: &str = "</think>";

/// Which special tokens appear in decoded text. Special is what `tokenizer.json` marks as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Specials {
    /// None of them.
    #[default]
    Hide,
    /// All of them, as they are written in the vocabulary.
    Show,
    /// Only `</think>`, so that the reasoning can be told from the answer.
    ShowThinkEnd,
}

/// A checkpoint's tokenizer. Cloning is cheap, the vocabulary is shared.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    // The model may have more rows than the tokenizer has tokens; those ids decode to nothing.
    vocab_size: u32,
}

#[derive(Debug)]
struct Inner {
    encoder: tokenizers::Tokenizer,
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    named: NamedTokens,
    think_end: Option<u32>,
}

/// The part of `tokenizer.json` that is looked at before the library reads it; the rest is checked to be JSON.
#[derive(serde::Deserialize)]
struct Outline {
    decoder: Option<serde_json::Value>,
}

/// The bytes of one token: `bytes[start..start + len]`. An id without a token has none.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    start: u32,
    len: u32,
    special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` where there is one, from a checkpoint's directory.
    ///
    /// # Errors
    /// [`TextError::Tiktoken`] when there is only a `tiktoken.model`, [`TextError::NoTokenizer`] when there is
    /// neither, and otherwise what [`Tokenizer::from_bytes`] says, naming the file.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TextError> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let tiktoken = dir.join("tiktoken.model");
            return Err(if tiktoken.exists() {
                TextError::Tiktoken { path: tiktoken }
            } else {
                TextError::NoTokenizer { dir: dir.to_path_buf() }
            });
        }
        let tokenizer_json = read_file(&path, TOKENIZER_LIMIT)?;
        let config_path = dir.join("tokenizer_config.json");
        let config_json =
            if config_path.exists() { Some(read_file(&config_path, CONFIG_LIMIT)?) } else { None };
        Self::build(
            &tokenizer_json,
            config_json.as_deref(),
            &path.display().to_string(),
            &config_path.display().to_string(),
        )
    }

    /// Reads the two files' contents.
    ///
    /// # Errors
    /// [`TextError::Malformed`] for anything but a tokenizer, [`TextError::Decoder`] for one that is not byte-level.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Self, TextError> {
        Self::build(tokenizer_json, tokenizer_config_json, "tokenizer.json", "tokenizer_config.json")
    }

    fn build(
        tokenizer_json: &[u8],
        config_json: Option<&[u8]>,
        file: &str,
        config_file: &str,
    ) -> Result<Self, TextError> {
        let malformed = |reason: String| TextError::Malformed { file: file.to_string(), reason };
        let outline: Outline =
            serde_json::from_slice(tokenizer_json).map_err(|error| malformed(error.to_string()))?;
        let decoders = decoders(outline.decoder.as_ref());
        // What bytes are joined already is not changed by fusing it.
        if !matches!(decoders.split_first(), Some((first, rest)) if first == "ByteLevel" && rest.iter().all(|name| name == "Fuse"))
        {
            let found = if decoders.is_empty() { "none".to_string() } else { decoders.join(", ") };
            return Err(TextError::Decoder { file: file.to_string(), found });
        }
        // The library panics on some damaged files (a decoder that is not JSON, a `Precompiled` normalizer without
        // its table); of a file from anywhere that must be an error. The outline above has caught most already.
        let mut encoder = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(tokenizer_json))
            .map_err(|_| malformed("the tokenizer library cannot read it".to_string()))?
            .map_err(|error| malformed(error.to_string()))?;
        // A file may carry the settings of whoever saved it; a prompt is never cut or filled up.
        encoder.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
        encoder.with_padding(None);
        let named = match config_json {
            Some(json) => NamedTokens::from_json(json)
                .map_err(|reason| TextError::Malformed { file: config_file.to_string(), reason })?,
            None => NamedTokens::default(),
        };

        let added = encoder.get_added_tokens_decoder();
        let vocabulary = encoder.get_vocab(false);
        let largest = vocabulary.values().chain(added.keys()).copied().max();
        let vocab_size = match largest {
            None => return Err(malformed("the vocabulary is empty".to_string())),
            Some(id) if id >= MAX_VOCABULARY => {
                return Err(malformed(format!(
                    "token id {id} is beyond the largest supported, {}",
                    MAX_VOCABULARY - 1
                )));
            }
            Some(id) => id + 1,
        };
        let mut pieces = vec![Piece::default(); vocab_size as usize];
        let mut bytes = Vec::with_capacity(tokenizer_json.len() / 4);
        let byte_of = char_to_byte();
        // The order matters where both name an id: the added token is the one decoded.
        let added_tokens = added.iter().map(|(&id, token)| (token.content.as_str(), id, true));
        let tokens = vocabulary.iter().map(|(token, &id)| (token.as_str(), id, false));
        for (token, id, is_text) in tokens.chain(added_tokens) {
            let start = bytes.len();
            // An added token is the text that is looked for before bytes become letters, and the text it stands for.
            if is_text {
                bytes.extend_from_slice(token.as_bytes());
            } else {
                push_token_bytes(token, &byte_of, &mut bytes);
            }
            pieces[id as usize] = Piece {
                start: u32::try_from(start)
                    .map_err(|_| malformed("the vocabulary is beyond 4 GiB".to_string()))?,
                len: u32::try_from(bytes.len() - start)
                    .map_err(|_| malformed("a token beyond 4 GiB".to_string()))?,
                special: encoder.get_added_vocabulary().is_special_token(token),
            };
        }
        let think_end = encoder.token_to_id(THINK_END);
        let inner = Inner { encoder, pieces, bytes, named, think_end };
        Ok(Self { inner: Arc::new(inner), vocab_size })
    }

    /// Tells how many ids the model knows, where that is more than the tokenizer has tokens for: those ids are then
    /// in range and decode to nothing. A smaller number changes nothing.
    #[must_use]
    pub fn with_vocab_size(mut self, vocab_size: u32) -> Self {
        self.vocab_size = self.vocab_size.max(vocab_size);
        self
    }

    /// One more than the largest id that is in range.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The ids of `text`. Special tokens written in the text are recognised; none is added (no BOS).
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self
            .inner
            .encoder
            .encode_fast(text, false)
            .map_err(|e| TextError::Encode { reason: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, with U+FFFD for bytes that are not UTF-8.
    ///
    /// # Errors
    /// [`TextError::IdOutOfRange`].
    pub fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, TextError> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.visible_bytes(id, specials)?);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// The bytes of one token whether it is special or not; no bytes for an id without a token.
    ///
    /// # Errors
    /// [`TextError::IdOutOfRange`].
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TextError> {
        Ok(self.piece(id)?.0)
    }

    /// The id of a token as the vocabulary writes it, e.g. `<｜User｜>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.encoder.token_to_id(token)
    }

    /// Whether an id is a special token's.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.pieces.get(id as usize).is_some_and(|piece| piece.special)
    }

    /// The id of the `bos_token` of `tokenizer_config.json`.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_id(self.inner.named.bos_token.as_deref()?)
    }

    /// The id of the `eos_token` of `tokenizer_config.json`.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_id(self.inner.named.eos_token.as_deref()?)
    }

    fn piece(&self, id: u32) -> Result<(&[u8], bool), TextError> {
        match self.inner.pieces.get(id as usize) {
            Some(piece) => {
                let start = piece.start as usize;
                Ok((&self.inner.bytes[start..start + piece.len as usize], piece.special))
            }
            None if id < self.vocab_size => Ok((&[], false)),
            None => Err(TextError::IdOutOfRange { id, vocab_size: self.vocab_size }),
        }
    }

    fn visible_bytes(&self, id: u32, specials: Specials) -> Result<&[u8], TextError> {
        let (bytes, special) = self.piece(id)?;
        let shown = match specials {
            Specials::Show => true,
            Specials::Hide => !special,
            Specials::ShowThinkEnd => !special || self.inner.think_end == Some(id),
        };
        Ok(if shown { bytes } else { &[] })
    }
}

/// The types of a decoder's parts, in their order: a decoder may be a sequence of others.
fn decoders(decoder: Option<&serde_json::Value>) -> Vec<String> {
    let Some(kind) = decoder.and_then(|decoder| decoder.get("type")?.as_str()) else {
        return Vec::new();
    };
    match (kind, decoder.and_then(|decoder| decoder.get("decoders")?.as_array())) {
        // serde_json has bounded how deep they nest.
        ("Sequence", Some(parts)) => parts.iter().flat_map(|part| decoders(Some(part))).collect(),
        _ => vec![kind.to_string()],
    }
}

/// Byte-level BPE writes each byte as one printable character; this is the way back, by code point.
/// Printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 in order.
fn char_to_byte() -> [Option<u8>; 0x144] {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let code = if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            usize::from(byte)
        } else {
            next += 1;
            next - 1
        };
        table[code] = Some(byte);
    }
    table
}

/// A token with any character outside the table stands for its own UTF-8.
fn push_token_bytes(token: &str, byte_of: &[Option<u8>; 0x144], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        match byte_of.get(character as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, TextError> {
    read_small_file(path, limit).map_err(|source| TextError::Read { path: path.to_path_buf(), source })
}

/// Reads a whole file of at most `limit` bytes, which is what its name says.
pub(crate) fn read_small_file(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let bytes = porism_loader::read_small_file(path, limit)?;
    // A template in whose place a pointer lies would be a valid template.
    if let Some(found) = porism_loader::StandIn::of(&bytes) {
        let message = format!("in its place is {found}; {}", found.remedy());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// The tokens `tokenizer_config.json` gives a role.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedTokens {
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
    pub(crate) pad_token: Option<String>,
    pub(crate) unk_token: Option<String>,
}

impl NamedTokens {
    fn from_json(json: &[u8]) -> Result<Self, String> {
        let config: serde_json::Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        Self::from_config(&config)
    }

    pub(crate) fn from_config(config: &serde_json::Value) -> Result<Self, String> {
        let object = config.as_object().ok_or("expected a JSON object")?;
        let token = |key: &str| match object.get(key) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
            // Written with its attributes: {"__type": "AddedToken", "content": …}
            Some(value) => match value.get("content").and_then(|content| content.as_str()) {
                Some(text) => Ok(Some(text.to_string())),
                None => Err(format!("`{key}` is neither a string nor an object with `content`")),
            },
        };
        Ok(Self {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            pad_token: token("pad_token")?,
            unk_token: token("unk_token")?,
        })
    }
}

/// Turns a stream of ids into text that never splits a character.
///
/// The pieces, the last one from [`Detokenizer::finish`] included, add up byte for byte to what
/// [`Tokenizer::decode`] makes of all the ids. Each push costs the token's length, whatever came before.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    specials: Specials,
    // The beginning of a character whose end has not come: at most three bytes between pushes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts a stream.
    pub fn new(tokenizer: &Tokenizer, specials: Specials) -> Self {
        Self { tokenizer: tokenizer.clone(), specials, pending: Vec::new() }
    }

    /// The text this token settles; empty while a character is incomplete and for hidden tokens.
    ///
    /// # Errors
    /// [`TextError::IdOutOfRange`]; the stream then goes on as if the id had not been pushed.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let bytes = self.tokenizer.visible_bytes(id, self.specials)?;
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        let unfinished = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[length..];
                        }
                        // The bytes so far begin a character: later ones decide.
                        None => break after.len(),
                    }
                }
            }
        };
        self.pending.drain(..self.pending.len() - unfinished);
        Ok(text)
    }

    /// Ends the stream: a character left unfinished becomes U+FFFD. A new stream may begin afterwards.
    pub fn finish(&mut self) -> String {
        let text =
            if self.pending.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() };
        self.pending.clear();
        text
    }
}

/// What [`StopStrings::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopPiece {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// Which stop string was met, by its place in the list; generation ends here.
    pub stopped: Option<usize>,
}

/// Finds stop strings in streamed text and cuts before them.
///
/// Text that may be the beginning of a stop string is held back until it is settled. The stop string whose end
/// comes first wins, the longest of those that end together, so how the text was cut into pieces never matters.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<Stop>,
    held: String,
    stopped: Option<usize>,
}

/// One stop string and how many of its bytes the end of the text matches (Knuth, Morris, Pratt).
#[derive(Debug, Clone)]
struct Stop {
    text: String,
    // border[i]: length of the longest proper prefix of text that ends text[..=i]
    border: Vec<usize>,
    matched: usize,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut border = vec![0; bytes.len()];
        let mut matched = 0;
        for i in 1..bytes.len() {
            while matched > 0 && bytes[i] != bytes[matched] {
                matched = border[matched - 1];
            }
            if bytes[i] == bytes[matched] {
                matched += 1;
            }
            border[i] = matched;
        }
        Self { text, border, matched: 0 }
    }

    /// Takes one byte; true when the stop string is complete.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if self.matched == bytes.len() {
            self.matched = self.border[self.matched - 1];
        }
        while self.matched > 0 && byte != bytes[self.matched] {
            self.matched = self.border[self.matched - 1];
        }
        if byte == bytes[self.matched] {
            self.matched += 1;
        }
        self.matched == bytes.len()
    }
}

impl StopStrings {
    /// Starts a stream that ends at any of `stops`; with none of them everything passes at once.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self, TextError> {
        let stops: Vec<Stop> = stops.into_iter().map(|stop| Stop::new(stop.into())).collect();
        match stops.iter().position(|stop| stop.text.is_empty()) {
            Some(index) => Err(TextError::EmptyStop { index }),
            None => Ok(Self { stops, held: String::new(), stopped: None }),
        }
    }

    /// Takes the next piece of text. After a stop nothing more comes through.
    pub fn push(&mut self, piece: &str) -> StopPiece {
        self.push_and_rest(piece).0
    }

    /// As `push`, and what of the piece lies behind the stop string.
    fn push_and_rest<'a>(&mut self, piece: &'a str) -> (StopPiece, &'a str) {
        if self.stopped.is_some() {
            return (StopPiece { text: String::new(), stopped: self.stopped }, piece);
        }
        for (position, byte) in piece.bytes().enumerate() {
            let mut met: Option<(usize, usize)> = None;
            for (index, stop) in self.stops.iter_mut().enumerate() {
                if stop.step(byte) && met.is_none_or(|(_, longest)| stop.text.len() > longest) {
                    met = Some((index, stop.text.len()));
                }
            }
            if let Some((index, length)) = met {
                self.stopped = Some(index);
                // A match of whole characters ends and begins between characters, so both cuts are sound.
                let (before, rest) = piece.split_at(position + 1);
                let mut text = std::mem::take(&mut self.held);
                text.push_str(before);
                text.truncate(text.len() - length);
                return (StopPiece { text, stopped: self.stopped }, rest);
            }
        }
        let held = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        self.held = text.split_off(text.len() - held);
        (StopPiece { text, stopped: None }, "")
    }

    /// Ends the stream: the text that was held back, which turned out to be no stop string.
    pub fn finish(&mut self) -> String {
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// The stop string that was met, by its place in the list.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }
}

/// A piece of a model's output, parted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThinkPiece {
    /// Text before `</think>`.
    pub reasoning: String,
    /// Text after it.
    pub answer: String,
}

/// Parts streamed text at the first `</think>`: before it is the reasoning, after it the answer.
///
/// The text must still contain `</think>`: decode with [`Specials::ShowThinkEnd`].
#[derive(Debug, Clone)]
pub struct ThinkSplitter {
    // None once the answer has begun.
    reasoning: Option<StopStrings>,
}

impl ThinkSplitter {
    /// Starts a stream. With thinking off all of it is the answer.
    pub fn new(thinking: bool) -> Self {
        let end =
            StopStrings { stops: vec![Stop::new(THINK_END.to_string())], held: String::new(), stopped: None };
        Self { reasoning: thinking.then_some(end) }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> ThinkPiece {
        let Some(reasoning) = &mut self.reasoning else {
            return ThinkPiece { reasoning: String::new(), answer: piece.to_string() };
        };
        let (before, rest) = reasoning.push_and_rest(piece);
        if before.stopped.is_some() {
            self.reasoning = None;
        }
        ThinkPiece { reasoning: before.text, answer: rest.to_string() }
    }

    /// Ends the stream: text held back because it might have begun `</think>`.
    pub fn finish(&mut self) -> ThinkPiece {
        let reasoning = self.reasoning.as_mut().map(StopStrings::finish).unwrap_or_default();
        ThinkPiece { reasoning, answer: String::new() }
    }

    /// Whether the text is in the answer, that is, thinking was off or `</think>` has come.
    pub fn answering(&self) -> bool {
        self.reasoning.is_none()
    }
}

/// A model's whole output, parted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reasoning; `None` with thinking off.
    pub reasoning: Option<String>,
    /// The answer; `None` when thinking was on and never ended.
    pub content: Option<String>,
}

/// Parts a whole output as [`ThinkSplitter`] does a stream.
pub fn read_answer(text: &str, thinking: bool) -> Answer {
    if !thinking {
        return Answer { reasoning: None, content: Some(text.to_string()) };
    }
    match text.split_once(THINK_END) {
        Some((reasoning, content)) => {
            Answer { reasoning: Some(reasoning.to_string()), content: Some(content.to_string()) }
        }
        None => Answer { reasoning: Some(text.to_string()), content: None },
    }
}
