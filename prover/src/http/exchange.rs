//! One request and its answer: connect, send, listen. Nothing is tried twice here.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};

use super::endpoint::{Endpoint, Key};
use super::stream::{Decoder, Flaw, Heard, clean, error_words};

/// What kind of trouble there was: it decides what is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection, or not with the one that was meant.
    Unreachable,
    /// A connection, and then nothing for too long.
    Silent,
    /// A status of 5xx, a cut stream.
    Broken,
    /// An answer, but not of this protocol.
    Garbled,
    /// Too many requests, or too much to do.
    Busy,
    /// The key or the account.
    Denied,
    /// There is nothing of this kind here, or not for us.
    Absent,
    /// This request.
    Refused,
}

/// A request that came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub kind: Kind,
    /// In words, without the key.
    pub what: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// Tokens that were generated in vain.
    pub wasted: u64,
}

impl Failure {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), retry_after: None, wasted: 0 }
    }
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub connect: Duration,
    /// Without text, or without any sign.
    pub silence: Duration,
}

/// A connection of its own, so that [`Agent::shutdown`] ends this request and no other.
pub(super) fn agent(endpoint: &Endpoint, patience: Patience) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // A redirected request would be repeated without its body, or its key be sent elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_per_write(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .timeout_recv_response(Some(patience.silence))
        .user_agent(concat!("porism/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
    // Nobody reaches this machine through a proxy elsewhere.
    let config = if endpoint.is_loopback() { config.proxy(None) } else { config };
    config.build().into()
}

/// Asks and listens to the end; `so_far` is how many tokens were heard.
pub(super) fn ask(
    agent: &Agent,
    endpoint: &Endpoint,
    body: &[u8],
    patience: Patience,
    so_far: &AtomicU64,
) -> Result<Heard, Failure> {
    let hide = |text: String| match endpoint.key() {
        Some(key) => key.hide(text),
        None => text,
    };
    let mut heard = try_ask(agent, endpoint, body, patience, so_far).map_err(|mut failure| {
        failure.what = clean(&hide(failure.what), WORDS);
        failure
    })?;
    // The key is no part of an answer, whoever repeats it.
    heard.thinking = hide(heard.thinking);
    heard.content = hide(heard.content);
    Ok(heard)
}

/// The most characters of an endpoint's words that are shown.
const WORDS: usize = 300;

fn try_ask(
    agent: &Agent,
    endpoint: &Endpoint,
    body: &[u8],
    patience: Patience,
    so_far: &AtomicU64,
) -> Result<Heard, Failure> {
    let mut request = agent
        .post(endpoint.target())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream, application/json");
    if let Some(header) = endpoint.key().map(Key::header) {
        request = request.header(header::AUTHORIZATION, header);
    }
    let mut response = request.send(body).map_err(|error| trouble(error, patience))?;
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(status, &mut response));
    }
    let form = response.body().mime_type().unwrap_or_default().to_ascii_lowercase();
    let understood = ["", "text/plain", "application/octet-stream"].contains(&form.as_str())
        || form.contains("json")
        || form.contains("event-stream");
    if !understood {
        let what = format!("answers with `{form}`, which is neither JSON nor a stream of events");
        return Err(Failure::new(Kind::Garbled, what));
    }
    listen(response.body_mut().as_reader(), patience, so_far)
}

fn listen(mut reader: impl io::Read, patience: Patience, so_far: &AtomicU64) -> Result<Heard, Failure> {
    /// Once the answer is whole, its count of tokens is not worth more.
    const LINGER: Duration = Duration::from_secs(10);
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; 16 << 10];
    let mut last_text = Instant::now();
    let outcome = loop {
        let read = match reader.read(&mut bytes) {
            Ok(0) => break decoder.end(true).map_err(flawed),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // Whoever has said why it ended has said all.
                let failure = trouble(error.into(), patience);
                break decoder.end(false).map_err(|_| failure);
            }
        };
        match decoder.push(&bytes[..read]) {
            Ok(true) => last_text = Instant::now(),
            Ok(false) => {}
            Err(flaw) => break Err(flawed(flaw)),
        }
        so_far.store(decoder.heard.tokens(), Ordering::Relaxed);
        if decoder.is_done() {
            break decoder.end(true).map_err(flawed);
        }
        let over = decoder.heard.finish.is_some();
        if last_text.elapsed() > if over { LINGER.min(patience.silence) } else { patience.silence } {
            break decoder.end(false).map_err(|_| silent(patience));
        }
    };
    match outcome {
        Ok(()) => Ok(decoder.heard),
        Err(failure) => Err(Failure { wasted: decoder.heard.tokens(), ..failure }),
    }
}

fn silent(patience: Patience) -> Failure {
    Failure::new(Kind::Silent, format!("says nothing for {} s", patience.silence.as_secs_f32()))
}

fn flawed(flaw: Flaw) -> Failure {
    match flaw {
        Flaw::Cut => Failure::new(Kind::Broken, "the answer ends in the middle"),
        Flaw::Garbled(what) => Failure::new(Kind::Garbled, what),
        Flaw::TooLong => Failure::new(Kind::Refused, "the answer is longer than any that can be asked for"),
        Flaw::Told(status, words) => {
            let kind = status.and_then(|status| StatusCode::from_u16(status).ok()).map_or(Kind::Broken, kind);
            Failure::new(kind, format!("says in its answer: {words}"))
        }
    }
}

fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        429 | 503 | 529 => Kind::Busy,
        408 | 409 | 425 => Kind::Broken,
        401 | 402 => Kind::Denied,
        403..=405 => Kind::Absent,
        status if status >= 500 => Kind::Broken,
        _ => Kind::Refused,
    }
}

fn refusal(status: StatusCode, response: &mut ureq::http::Response<ureq::Body>) -> Failure {
    let retry_after = retry_after(response.headers());
    let mut what = status.to_string();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
        let place = location.unwrap_or_default().split('?').next().unwrap_or_default();
        return Failure::new(Kind::Absent, format!("{what}: it has moved to `{place}`"));
    }
    let mut body = Vec::new();
    // Its words are worth having, but not needed.
    drop(response.body_mut().as_reader().take(64 << 10).read_to_end(&mut body));
    let words = match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(value) => error_words(value.get("error").unwrap_or(&value)),
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    if !words.trim().is_empty() {
        what = format!("{what}: {}", words.trim());
    }
    Failure { retry_after, ..Failure::new(kind(status), what) }
}

/// Seconds; the form with a date is left to our own back-off.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn trouble(error: ureq::Error, patience: Patience) -> Failure {
    use ureq::{Error, Timeout};
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            let seconds = patience.connect.as_secs_f32();
            Failure::new(Kind::Unreachable, format!("no connection within {seconds} s"))
        }
        Error::Timeout(_) => silent(patience),
        Error::HostNotFound => Failure::new(Kind::Unreachable, "there is no host of this name"),
        Error::Io(error) => {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable => Kind::Unreachable,
                // rustls wraps what it finds wrong with a certificate.
                io::ErrorKind::InvalidData => Kind::Unreachable,
                _ => Kind::Broken,
            };
            Failure::new(kind, error.to_string())
        }
        error @ (Error::Rustls(_)
        | Error::Tls(_)
        | Error::ConnectionFailed
        | Error::ConnectProxyFailed(_)
        | Error::InvalidProxyUrl) => Failure::new(Kind::Unreachable, error.to_string()),
        error @ Error::Protocol(_) => Failure::new(Kind::Garbled, error.to_string()),
        error => Failure::new(Kind::Broken, error.to_string()),
    }
}
