//! Where an endpoint is, which model it is asked for, and with which key.

use std::fmt;

use serde::Serialize;
use ureq::http::{HeaderValue, Uri};

use crate::complete::Request;
use crate::roles::fingerprint;
use crate::store::Model;

/// A secret that is sent to an endpoint, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    secret: String,
    header: HeaderValue,
}

impl Key {
    /// # Errors
    /// [`EndpointError::Key`] when it cannot be sent in a header.
    pub fn new(secret: &str) -> Result<Self, EndpointError> {
        let secret = secret.trim().to_owned();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EndpointError::Key);
        }
        let header = HeaderValue::from_str(&format!("Bearer {secret}"));
        let mut header = header.map_err(|_| EndpointError::Key)?;
        header.set_sensitive(true);
        Ok(Self { secret, header })
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A text without the key, should the endpoint repeat it. Placeholders such as `EMPTY` are no secrets.
    pub(super) fn hide(&self, text: String) -> String {
        const SECRET: usize = 12;
        if self.secret.len() < SECRET || !text.contains(&self.secret) {
            return text;
        }
        text.replace(&self.secret, "[key]")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What is wrong with the description of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not an address of this kind.
    #[error("`{url}` is no address of an endpoint: {what}; give one as in `https://host/v1`")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The address has a secret in it.
    #[error(
        "the address of the endpoint at {host} has a user or a password in it; give the key in an environment variable"
    )]
    Credentials {
        /// The rest of it.
        host: String,
    },
    /// No name of a model.
    #[error("the model of {url} has no name")]
    Model {
        /// The endpoint.
        url: String,
    },
    /// The key.
    #[error("the key is empty or has characters that cannot be sent")]
    Key,
}

/// A model behind an address.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    // Where requests go.
    target: String,
    // The address without the path of requests and without a query: that is what is shown and told apart.
    name: String,
    model: String,
    // Of the weights behind the name, as whoever runs the endpoint calls it.
    revision: Option<String>,
    key: Option<Key>,
    is_loopback: bool,
    is_encrypted: bool,
    // Requests it works on at once, where it told.
    slots: Option<usize>,
}

/// What requests are sent to, below the address of an endpoint.
const PATH: &str = "/chat/completions";

impl Endpoint {
    /// `url` is the base, as in `https://host/v1`, or the whole address with `/chat/completions`; without a path, `/v1` is
    /// meant.
    ///
    /// # Errors
    /// [`EndpointError`]
    pub fn new(url: &str, model: &str, key: Option<Key>) -> Result<Self, EndpointError> {
        let url = url.trim();
        // A password may stand in what cannot be read, too.
        let shown = match url.rsplit_once('@') {
            Some((_, host)) => format!("…@{host}"),
            None => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        };
        let wrong = |what| EndpointError::Url { url: shown.clone(), what };
        let uri: Uri = url.parse().map_err(|_| wrong("it cannot be read"))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(wrong("it begins with neither http:// nor https://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials { host: authority.host().to_owned() });
        }
        if authority.host().is_empty() {
            return Err(wrong("it has no host"));
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(wrong("its port is no port"));
        }
        let path = uri.path().trim_end_matches('/');
        let path = match path.strip_suffix(PATH) {
            Some(base) => base,
            None if path.is_empty() => "/v1",
            None => path,
        };
        let name = format!("{scheme}://{}{path}", authority.as_str().to_ascii_lowercase());
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        if model.trim().is_empty() {
            return Err(EndpointError::Model { url: name });
        }
        let host = authority.host().trim_matches(['[', ']']);
        let address: Option<std::net::IpAddr> = host.parse().ok();
        Ok(Self {
            target: format!("{name}{PATH}{query}"),
            is_loopback: host.eq_ignore_ascii_case("localhost")
                || address.is_some_and(|address| address.is_loopback()),
            is_encrypted: scheme == "https",
            name,
            model: model.trim().to_owned(),
            revision: None,
            key,
            slots: None,
        })
    }

    /// The same with a revision of the model: another one is another model.
    #[must_use]
    pub fn with_revision(mut self, revision: Option<&str>) -> Self {
        self.revision = revision.map(str::trim).filter(|revision| !revision.is_empty()).map(str::to_owned);
        self
    }

    /// The same, told to work on so many requests at once.
    #[must_use]
    pub fn with_slots(mut self, slots: Option<usize>) -> Self {
        self.slots = slots.filter(|slots| *slots > 0);
        self
    }

    /// The address, without anything secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the model is called there.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether a key travels where others can read it.
    pub fn shows_key(&self) -> bool {
        self.key.is_some() && !self.is_encrypted && !self.is_loopback
    }

    pub(super) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    pub(super) fn slots(&self) -> Option<usize> {
        self.slots
    }

    /// The address of something else there: below the base, or below the host for what begins with `/`.
    pub(super) fn sibling(&self, path: &str) -> String {
        let host_end =
            self.name.find("://").and_then(|at| self.name[at + 3..].find('/').map(|end| at + 3 + end));
        match path.strip_prefix('/') {
            Some(_) => format!("{}{path}", &self.name[..host_end.unwrap_or(self.name.len())]),
            None => format!("{}/{path}", self.name),
        }
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.is_loopback
    }
}

/// Which model answers at these endpoints: its name and revision. Where they are is a fact of each answer, and may change
/// from one session of a run to the next.
pub fn identity(endpoints: &[Endpoint]) -> Model {
    let sorted = |mut parts: Vec<String>| {
        parts.sort_unstable();
        parts.dedup();
        parts
    };
    let named = |endpoint: &Endpoint| match &endpoint.revision {
        Some(revision) => format!("{} ({revision})", endpoint.model),
        None => endpoint.model.clone(),
    };
    let names = sorted(endpoints.iter().map(named).collect());
    let models = sorted(endpoints.iter().map(|endpoint| endpoint.model.clone()).collect());
    let revisions = sorted(endpoints.iter().filter_map(|endpoint| endpoint.revision.clone()).collect());
    Model {
        fingerprint: fingerprint(
            std::iter::once("endpoint").chain(names.iter().map(String::as_str)).map(str::as_bytes),
        ),
        name: models.join(", "),
        revision: (!revisions.is_empty()).then(|| revisions.join(", ")),
        endpoints: sorted(endpoints.iter().map(|endpoint| endpoint.name.clone()).collect()),
    }
}

/// What an endpoint does not understand or allow, and we can do without. Each is remembered once it was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    no_stream: bool,
    no_stream_options: bool,
    no_seed: bool,
    no_temperature: bool,
    no_top_p: bool,
    // The limit has its newer name.
    completion_tokens: bool,
    // The limit has no name that is understood.
    no_limit: bool,
    // Tokens an answer may have at most.
    most_output: Option<u32>,
}

impl Dialect {
    /// Reads a refusal of a request with this limit: what is done otherwise from now on, in words; `None` when the next
    /// request would be the same.
    pub fn learn(&mut self, words: &str, max_tokens: u32) -> Option<String> {
        let before = *self;
        let about = Words::new(words);
        let asked = self.max_tokens(max_tokens);
        let names_old = about.names("maxtokens");
        let names_new = about.names("maxcompletiontokens");
        if about.names("streamoptions") {
            self.no_stream_options = true;
        } else if about.names("seed") {
            self.no_seed = true;
        } else if about.names("topp") && !self.no_top_p {
            // Where the two exclude each other, the temperature says more.
            self.no_top_p = true;
        } else if about.names("temperature") && !self.no_temperature {
            self.no_temperature = true;
        } else if names_new
            && !self.completion_tokens
            && (about.says(&["instead", "use ", "unsupported", "not supported"]) || !names_old)
        {
            self.completion_tokens = true;
        } else if (names_old || names_new || about.is_about_output()) && !is_about_context(words) {
            match asked {
                None => {}
                Some(_) if about.says(UNKNOWN_FIELD) && about.numbers.is_empty() => {
                    self.no_limit = self.completion_tokens;
                    self.completion_tokens = true;
                }
                Some(asked) => {
                    let most = about
                        .numbers
                        .iter()
                        .copied()
                        .filter(|most| (1..u64::from(asked)).contains(most))
                        .max();
                    match most.and_then(|most| u32::try_from(most).ok()) {
                        Some(most) => self.most_output = Some(most),
                        None if asked > LEAST_OUTPUT => self.most_output = Some(asked / 2),
                        None => self.no_limit = true,
                    }
                }
            }
        } else if about.names("stream") || about.says(&["streaming is not", "streaming not"]) {
            self.no_stream = true;
        }
        (*self != before).then(|| self.news(before))
    }

    fn news(&self, before: Self) -> String {
        if let Some(most) = self.most_output.filter(|_| self.most_output != before.most_output) {
            return format!("asking for at most {most} tokens from now on");
        }
        let pairs = [
            (self.no_stream_options, before.no_stream_options, "without stream_options"),
            (self.no_seed, before.no_seed, "without a seed (answers cannot be had again)"),
            (self.no_top_p, before.no_top_p, "without top_p"),
            (self.no_temperature, before.no_temperature, "without a temperature (the endpoint's own holds)"),
            (self.no_limit, before.no_limit, "without a limit of tokens"),
            (self.completion_tokens, before.completion_tokens, "with max_completion_tokens"),
            (self.no_stream, before.no_stream, "without a stream"),
        ];
        let changed = pairs.iter().find(|(now, before, _)| now != before);
        format!("asking {} from now on", changed.map_or("otherwise", |(_, _, how)| how))
    }

    /// The limit that is sent.
    fn max_tokens(&self, asked: u32) -> Option<u32> {
        (!self.no_limit).then(|| self.most_output.map_or(asked, |most| most.min(asked)))
    }

    /// The body of a request; `unlimited`: the endpoint says how long an answer may be.
    pub fn body(self, model: &str, request: &Request, unlimited: bool) -> Vec<u8> {
        let tokens = self.max_tokens(request.max_tokens).filter(|_| !unlimited);
        let body = Body {
            model,
            messages: [Message { role: "user", content: &request.prompt }],
            stream: !self.no_stream,
            stream_options: (!self.no_stream_options && !self.no_stream)
                .then_some(StreamOptions { include_usage: true }),
            max_tokens: tokens.filter(|_| !self.completion_tokens),
            max_completion_tokens: tokens.filter(|_| self.completion_tokens),
            temperature: (!self.no_temperature).then_some(request.temperature),
            top_p: (!self.no_top_p).then_some(request.top_p),
            seed: (!self.no_seed).then_some(request.seed),
        };
        serde_json::to_vec(&body).expect("a request is JSON")
    }
}

/// Below this a limit that is called too large without a number is left out.
const LEAST_OUTPUT: u32 = 256;

/// How servers call a field that they do not have.
const UNKNOWN_FIELD: &[&str] = &[
    "unknown",
    "unrecognized",
    "unexpected",
    "not permitted",
    "extra",
    "no such field",
    "not allowed",
    "unsupported",
];

/// A refusal taken apart.
struct Words {
    lower: String,
    /// Names as they are without their marks: `top_p`, `topP` and `top-p` are `topp`.
    names: Vec<String>,
    numbers: Vec<u64>,
}

impl Words {
    fn new(words: &str) -> Self {
        let lower = words.to_ascii_lowercase();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let names = lower.split(|c| !is_part(c)).filter(|word| !word.is_empty());
        let names = names.map(|word| word.chars().filter(char::is_ascii_alphanumeric).collect()).collect();
        Self { numbers: numbers(&lower), lower, names }
    }

    fn names(&self, name: &str) -> bool {
        self.names.iter().any(|word| word == name)
    }

    fn says(&self, parts: &[&str]) -> bool {
        parts.iter().any(|part| self.lower.contains(part))
    }

    fn is_about_output(&self) -> bool {
        self.names("maxnewtokens")
            || self.names("maxoutputtokens")
            || self.says(&[
                "output token",
                "completion token",
                "new tokens",
                "tokens to generate",
                "tokens can be generated",
            ])
    }
}

/// The whole numbers of a text: `8192`, `8,192`, `8_192`, `128k`.
fn numbers(text: &str) -> Vec<u64> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let is_word =
            rest[..at].chars().next_back().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '.');
        rest = &rest[at..];
        let mut digits = String::new();
        let mut length = 0;
        for (place, c) in rest.char_indices() {
            let next_is_digit = rest[place + c.len_utf8()..].starts_with(|c: char| c.is_ascii_digit());
            match c {
                '0'..='9' => digits.push(c),
                ',' | '_' if next_is_digit => {}
                _ => break,
            }
            length = place + c.len_utf8();
        }
        rest = &rest[length..];
        let factor = if rest.starts_with('k') && !rest[1..].starts_with(|c: char| c.is_alphabetic()) {
            1024
        } else {
            1
        };
        // Fractions and parts of names are no limits.
        let is_fraction =
            rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if let (false, false, Ok(number)) = (is_word, is_fraction, digits.parse::<u64>()) {
            found.push(number.saturating_mul(factor));
        }
    }
    found
}

/// Ways of saying that prompt and answer do not fit.
const ABOUT_CONTEXT: [&str; 11] = [
    "context length",
    "context window",
    "context size",
    "context_length",
    "context limit",
    "n_ctx",
    "max_model_len",
    "maximum sequence length",
    "prompt is too long",
    "input is too long",
    "too many input tokens",
];

/// Whether prompt and limit together are refused as more than the model's context.
pub(super) fn is_about_context(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ABOUT_CONTEXT.iter().any(|about| words.contains(about))
}

/// How large the context is, where a refusal says so: the first number after it is named.
pub(super) fn context_in(words: &str) -> Option<u32> {
    let words = words.to_ascii_lowercase();
    let named =
        ABOUT_CONTEXT[..8].iter().filter_map(|about| words.find(about).map(|at| at + about.len())).min()?;
    numbers(&words[named..])
        .into_iter()
        .find_map(|number| u32::try_from(number).ok().filter(|size| *size >= 16))
}

/// Whether a refusal is about the key or the account.
pub(super) fn is_about_key(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    const PARTS: [&str; 14] = [
        "api key",
        "api-key",
        "api_key",
        "apikey",
        "authentication",
        "unauthorized",
        "unauthenticated",
        "credentials",
        "access token",
        "quota",
        "billing",
        "insufficient balance",
        "insufficient credit",
        "invalid token",
    ];
    PARTS.iter().any(|part| words.contains(part))
}

/// Whether a refusal is about the model's name.
pub(super) fn is_about_model(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    const PARTS: [&str; 12] = [
        "not found",
        "not exist",
        "n't exist",
        "unknown model",
        "invalid model",
        "no such model",
        "no model",
        "not available",
        "not a valid model",
        "model_not_found",
        "unsupported model",
        "not served",
    ];
    words.contains("model") && PARTS.iter().any(|part| words.contains(part))
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{Key as Place, Role};

    fn target(url: &str) -> (String, String) {
        let endpoint = Endpoint::new(url, "m", None).unwrap();
        (endpoint.name().to_owned(), endpoint.target().to_owned())
    }

    #[test]
    fn an_address_may_be_given_with_or_without_its_path() {
        let whole = ("http://host:8000/v1".to_owned(), "http://host:8000/v1/chat/completions".to_owned());
        for url in [
            "http://host:8000",
            "http://host:8000/",
            "http://host:8000/v1",
            "HTTP://Host:8000/v1/",
            "http://host:8000/v1/chat/completions",
            " http://host:8000/v1/chat/completions/ ",
        ] {
            assert_eq!(target(url), whole, "{url}");
        }
        let (name, target) = target("https://host/a/b?version=1&key=secret");
        assert_eq!(name, "https://host/a/b");
        assert_eq!(target, "https://host/a/b/chat/completions?version=1&key=secret");
    }

    #[test]
    fn a_bad_address_is_refused_without_its_secrets() {
        for url in [
            "",
            "host",
            "host:80",
            "ftp://host/v1",
            "http://",
            "http://ho st/",
            "https://host:99999/v1",
            "http:///v1",
        ] {
            assert!(matches!(Endpoint::new(url, "m", None), Err(EndpointError::Url { .. })), "{url}");
        }
        for url in ["http://me:secret@host/v1", "ftp://me:secret@host", "https://secret@ho st"] {
            let error = Endpoint::new(url, "m", None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Endpoint::new("http://host", " ", None).is_err());
        for secret in ["", "  ", "a b", "a\nb", "schlüssel"] {
            assert_eq!(Key::new(secret), Err(EndpointError::Key), "{secret:?}");
        }
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let key = Key::new("sk-0123456789abcdef\n").unwrap();
        let endpoint = Endpoint::new("http://host", "m", Some(key.clone())).unwrap();
        assert!(!format!("{endpoint:?} {key:?} {:?}", key.header()).contains("0123456789"));
        assert_eq!(key.header(), "Bearer sk-0123456789abcdef");
        assert_eq!(key.hide("no such key: sk-0123456789abcdef!".to_owned()), "no such key: [key]!");
        let placeholder = Key::new("EMPTY").unwrap();
        assert_eq!(placeholder.hide("EMPTY".to_owned()), "EMPTY");
        assert!(endpoint.shows_key());
        for url in ["http://127.0.0.1:1", "http://localhost/v1", "http://[::1]:8", "https://host"] {
            assert!(!Endpoint::new(url, "m", Some(key.clone())).unwrap().shows_key(), "{url}");
        }
    }

    #[test]
    fn who_answers_is_told_apart_by_model_and_revision_alone() {
        let endpoint = |url: &str, model: &str, key: Option<&str>| {
            Endpoint::new(url, model, key.map(|key| Key::new(key).unwrap())).unwrap()
        };
        let one = identity(&[endpoint("http://a", "m", None), endpoint("http://b", "m", None)]);
        assert_eq!((one.name.as_str(), one.endpoints.len()), ("m", 2));
        let moved = [
            identity(&[endpoint("http://b/v1/", "m", Some("k")), endpoint("http://A/v1?key=x", "m", None)]),
            identity(&[endpoint("http://elsewhere:9", "m", None)]),
            identity(&[endpoint("https://a", " m ", None).with_revision(Some(" "))]),
        ];
        assert!(moved.iter().all(|other| other.fingerprint == one.fingerprint && other.name == one.name));
        let others = [
            identity(&[endpoint("http://a", "n", None)]),
            identity(&[endpoint("http://a", "n", None), endpoint("http://b", "m", None)]),
            identity(&[endpoint("http://a", "m", None).with_revision(Some("2"))]),
        ];
        assert!(others.iter().all(|other| other.fingerprint != one.fingerprint));
        assert_eq!((others[2].name.as_str(), others[2].revision.as_deref()), ("m", Some("2")));
    }

    #[test]
    fn what_else_an_endpoint_has_is_beside_it() {
        let endpoint = Endpoint::new("http://host:8000/a/v1", "m", None).unwrap();
        assert_eq!(endpoint.sibling("models"), "http://host:8000/a/v1/models");
        assert_eq!(endpoint.sibling("/props"), "http://host:8000/props");
    }

    #[test]
    fn what_an_endpoint_refuses_is_left_out() {
        let key = Place { problem: 0, round: 0, proof: 0, role: Role::Generate, reading: 0 };
        let request = Request {
            ticket: 0,
            key,
            prompt: "p".to_owned(),
            seed: (1 << 53) - 1,
            max_tokens: 9,
            temperature: 1.0,
            top_p: 0.95,
        };
        let mut dialect = Dialect::default();
        let text = |dialect: Dialect| String::from_utf8(dialect.body("m", &request, false)).unwrap();
        assert_eq!(
            text(dialect),
            r#"{"model":"m","messages":[{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"temperature":1.0,"top_p":0.95,"seed":9007199254740991}"#
        );
        assert!(!String::from_utf8(dialect.body("m", &request, true)).unwrap().contains("tokens"));
        assert_eq!(dialect.learn("the prompt is too long", 9), None);
        let words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        assert!(dialect.learn(words, 9).unwrap().contains("max_completion_tokens"));
        assert!(dialect.learn("extra fields not permitted: stream_options, seed", 9).is_some());
        assert!(dialect.learn("extra fields not permitted: seed", 9).is_some());
        assert_eq!(
            text(dialect),
            r#"{"model":"m","messages":[{"role":"user","content":"p"}],"stream":true,"max_completion_tokens":9,"temperature":1.0,"top_p":0.95}"#
        );
    }

    #[test]
    fn sampling_parameters_are_left_out_one_by_one() {
        let fresh = Dialect::default();
        let after = |words: &[&str]| {
            let mut dialect = fresh;
            for words in words {
                assert!(dialect.learn(words, 99).is_some(), "{words}");
            }
            dialect
        };
        let both = "give either temperature or top_p, not the two together";
        assert_eq!(after(&[both]), Dialect { no_top_p: true, ..fresh });
        assert_eq!(after(&[both, both]), Dialect { no_top_p: true, no_temperature: true, ..fresh });
        for words in
            ["this model does not take the parameter top_p", "`topP` is deprecated", "top-p: not supported"]
        {
            assert_eq!(after(&[words]), Dialect { no_top_p: true, ..fresh }, "{words}");
        }
        assert_eq!(
            after(&["temperature is fixed for this model and must be left out"]),
            Dialect { no_temperature: true, ..fresh }
        );
        assert_eq!(after(&["Streaming is not supported"]), Dialect { no_stream: true, ..fresh });
        assert_eq!(after(&["unknown field `stream_options`"]), Dialect { no_stream_options: true, ..fresh });
        // The stop and the steps of others are not ours.
        for words in ["stop parts must be texts", "n must be 1", "no"] {
            assert_eq!(fresh.clone().learn(words, 99), None, "{words}");
        }
    }

    #[test]
    fn limits_of_output_are_learned_from_their_numbers() {
        let most = |words: &str| {
            let mut dialect = Dialect::default();
            let news = dialect.learn(words, 131_072);
            (dialect.most_output, news.is_some())
        };
        for (words, expected) in [
            ("max_tokens has to lie between 1 and 8192", 8192),
            (
                "max_tokens: 131072 output tokens were asked for, and 16384 is the most that can be generated here",
                16384,
            ),
            ("field max_tokens: expected a whole number up to 1024", 1024),
            ("max_tokens is too large: 131072. This model supports at most 4,096 completion tokens", 4096),
            ("max_completion_tokens must be <= 32k", 32768),
            ("at most 2_048 new tokens", 2048),
            ("`max_new_tokens` must be at most 512 (gpt-4.1-mini v2)", 512),
            ("max_tokens is too large", 65536),
        ] {
            let mut dialect = Dialect { completion_tokens: true, ..Dialect::default() };
            dialect.learn(words, 131_072);
            assert_eq!(dialect.most_output, Some(expected), "{words}");
        }
        assert_eq!(most("this answer is too long"), (None, false));
        let mut dialect = Dialect::default();
        let unknown = "unknown field `max_tokens`";
        assert!(dialect.learn(unknown, 9).is_some() && dialect.completion_tokens && !dialect.no_limit);
        assert!(dialect.learn("unknown field `max_completion_tokens`", 9).is_some() && dialect.no_limit);
        assert_eq!(dialect.learn(unknown, 9), None);
    }

    #[test]
    fn the_context_is_read_out_of_a_refusal() {
        for (words, expected) in [
            (
                "request (3532 tokens) exceeds the available context size (2048 tokens), try increasing it",
                Some(2048),
            ),
            (
                "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
                Some(4096),
            ),
            (
                "exceeds the model's maximum context length of 131,072 tokens. You requested a total of 5",
                Some(131_072),
            ),
            ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", Some(4096)),
            ("the request exceeds the available context size, try increasing it", None),
            ("prompt is too long: 5000", None),
        ] {
            assert!(is_about_context(words), "{words}");
            assert_eq!(context_in(words), expected, "{words}");
        }
        assert!(!is_about_context("max_tokens has to lie between 1 and 8192"));
    }

    #[test]
    fn keys_and_models_are_recognised_behind_any_status() {
        for words in [
            "Incorrect API key provided",
            "Authentication Error, invalid token",
            "You exceeded your current quota",
        ] {
            assert!(is_about_key(words) && !is_about_model(words), "{words}");
        }
        for words in [
            "The model `big` does not exist.",
            "Invalid model name passed in model=big. Call `/v1/models` to view available models",
            "model_not_found",
        ] {
            assert!(is_about_model(words) && !is_about_key(words), "{words}");
        }
        assert!(!is_about_model("this model does not take the parameter top_p"));
    }
}
