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
    key: Option<Key>,
    is_loopback: bool,
    is_encrypted: bool,
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
            key,
        })
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

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.is_loopback
    }
}

/// Which model answers at these endpoints: their addresses and the model's name, whatever their order and keys.
pub fn identity(endpoints: &[Endpoint]) -> Model {
    let sorted = |part: fn(&Endpoint) -> &str| {
        let mut parts: Vec<String> = endpoints.iter().map(|endpoint| part(endpoint).to_owned()).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    };
    let mut pairs: Vec<String> =
        endpoints.iter().map(|endpoint| format!("{}\0{}", endpoint.name, endpoint.model)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    Model {
        name: sorted(Endpoint::model).join(", "),
        fingerprint: fingerprint(
            std::iter::once("endpoint").chain(pairs.iter().map(String::as_str)).map(str::as_bytes),
        ),
        endpoints: sorted(Endpoint::name),
    }
}

/// What an endpoint does not understand and we can do without. Each is left out once it was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    no_stream_options: bool,
    no_seed: bool,
    completion_tokens: bool,
}

impl Dialect {
    /// Reads a refusal: true when the next request will be another one.
    pub fn learn(&mut self, words: &str) -> bool {
        let before = *self;
        // Newer models of some hosts want the limit under this name only, and say so.
        self.completion_tokens |= words.contains("max_completion_tokens");
        self.no_stream_options |= words.contains("stream_options");
        self.no_seed |= words.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "seed");
        *self != before
    }

    /// The body of a request; `unlimited`: the endpoint says how long an answer may be.
    pub fn body(self, model: &str, request: &Request, unlimited: bool) -> Vec<u8> {
        let tokens = (!unlimited).then_some(request.max_tokens);
        let body = Body {
            model,
            messages: [Message { role: "user", content: &request.prompt }],
            stream: true,
            stream_options: (!self.no_stream_options).then_some(StreamOptions { include_usage: true }),
            max_tokens: tokens.filter(|_| !self.completion_tokens),
            max_completion_tokens: tokens.filter(|_| self.completion_tokens),
            temperature: request.temperature,
            top_p: request.top_p,
            seed: (!self.no_seed).then_some(request.seed),
        };
        serde_json::to_vec(&body).expect("a request is JSON")
    }
}

/// Whether prompt and limit together are refused as more than the model's context.
pub(super) fn is_about_context(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["context length", "context window", "context size"].iter().any(|about| words.contains(about))
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
    temperature: f32,
    top_p: f32,
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
    fn who_answers_is_told_apart_by_address_and_model_alone() {
        let endpoint = |url: &str, model: &str, key: Option<&str>| {
            Endpoint::new(url, model, key.map(|key| Key::new(key).unwrap())).unwrap()
        };
        let one = identity(&[endpoint("http://a", "m", None), endpoint("http://b", "m", None)]);
        let same =
            identity(&[endpoint("http://b/v1/", "m", Some("k")), endpoint("http://A/v1?key=x", "m", None)]);
        assert_eq!(one, same);
        assert_eq!((one.name.as_str(), one.endpoints.len()), ("m", 2));
        let others = [
            identity(&[endpoint("http://a", "m", None)]),
            identity(&[endpoint("http://a", "n", None), endpoint("http://b", "m", None)]),
            identity(&[endpoint("http://a", "m", None), endpoint("http://b:8/v1", "m", None)]),
            identity(&[endpoint("https://a", "m", None), endpoint("http://b", "m", None)]),
        ];
        assert!(others.iter().all(|other| other.fingerprint != one.fingerprint));
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
        assert!(!dialect.learn("the prompt is too long"));
        assert!(dialect.learn("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."));
        assert!(!dialect.learn("max_completion_tokens is too large"));
        assert!(dialect.learn("extra fields not permitted: stream_options, seed"));
        assert_eq!(
            text(dialect),
            r#"{"model":"m","messages":[{"role":"user","content":"p"}],"stream":true,"max_completion_tokens":9,"temperature":1.0,"top_p":0.95}"#
        );
    }
}
