//! One request and its answer: connect, send, listen. Nothing is tried twice here.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};

use super::endpoint::{Endpoint, Key, is_about_key, is_about_model};
use super::stream::{Decoder, Flaw, Heard, clean, error_words};

/// What kind of trouble there was: it decides what is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection, or not with the one that was meant.
    Unreachable,
    /// Somebody says that it is not there now: it loads, or what is behind the proxy is gone.
    Away,
    /// A connection, and then nothing for too long, as if nobody were there.
    Silent,
    /// The same, while somebody is there.
    Hung,
    /// A status of 500, a cut stream.
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
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), retry_after: None, wasted: 0 }
    }
}

/// How long is waited for what, on a thread that nobody can wake. Whoever watches it ends it earlier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub connect: Duration,
    pub longest: Duration,
}

/// What a thread has heard, and when: the other side of the timers.
#[derive(Debug)]
pub(super) struct Watch {
    begin: Instant,
    // Milliseconds since then, plus one; zero is never.
    byte: AtomicU64,
    text: AtomicU64,
    end: AtomicU64,
    tokens: AtomicU64,
}

impl Watch {
    pub fn new() -> Self {
        let zero = AtomicU64::default;
        Self { begin: Instant::now(), byte: zero(), text: zero(), end: zero(), tokens: zero() }
    }

    fn note(&self, what: &AtomicU64) {
        let passed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        what.store(passed + 1, Ordering::Relaxed);
    }

    fn time(&self, of: &AtomicU64) -> Option<Instant> {
        let passed = of.load(Ordering::Relaxed).checked_sub(1)?;
        self.begin.checked_add(Duration::from_millis(passed))
    }

    /// When the request was sent.
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// When the last byte of an answer came, keep-alive comments included.
    pub fn byte(&self) -> Option<Instant> {
        self.time(&self.byte)
    }

    /// When the last text came.
    pub fn text(&self) -> Option<Instant> {
        self.time(&self.text)
    }

    /// When it was said that the answer is whole.
    pub fn end(&self) -> Option<Instant> {
        self.time(&self.end)
    }

    /// Tokens heard so far, estimated until the endpoint says how many.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }
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
        .timeout_per_write(Some(patience.longest))
        .timeout_per_read(Some(patience.longest))
        .timeout_recv_response(Some(patience.longest))
        .user_agent(concat!("porism/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
    // Nobody reaches this machine through a proxy elsewhere.
    let config = if endpoint.is_loopback() { config.proxy(None) } else { config };
    config.build().into()
}

/// Asks and listens to the end; `watch` is told what is heard.
pub(super) fn ask(
    agent: &Agent,
    endpoint: &Endpoint,
    body: &[u8],
    patience: Patience,
    watch: &Watch,
) -> Result<Heard, Failure> {
    let hide = |text: String| match endpoint.key() {
        Some(key) => key.hide(text),
        None => text,
    };
    let mut heard = try_ask(agent, endpoint, body, patience, watch).map_err(|mut failure| {
        failure.what = clean(&hide(failure.what), WORDS);
        failure
    })?;
    // The key is no part of an answer, whoever repeats it.
    heard.thinking = hide(heard.thinking);
    heard.content = hide(heard.content);
    Ok(heard)
}

/// How a failure begins of which it cannot be told whether anybody is there.
pub(super) const NO_CONNECTION: &str = "no connection within";

/// The most characters of an endpoint's words that are shown.
const WORDS: usize = 300;

fn try_ask(
    agent: &Agent,
    endpoint: &Endpoint,
    body: &[u8],
    patience: Patience,
    watch: &Watch,
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
    listen(response.body_mut().as_reader(), patience, watch)
}

fn listen(mut reader: impl io::Read, patience: Patience, watch: &Watch) -> Result<Heard, Failure> {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; 16 << 10];
    let outcome = loop {
        let read = match reader.read(&mut bytes) {
            Ok(0) => break decoder.end(true).map_err(flawed),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // Whoever has said why it ended has said all: the count of tokens is not worth more than a short wait.
                let failure = trouble(error.into(), patience);
                break decoder.end(false).map_err(|_| failure);
            }
        };
        watch.note(&watch.byte);
        match decoder.push(&bytes[..read]) {
            Ok(true) => watch.note(&watch.text),
            Ok(false) => {}
            Err(flaw) => break Err(flawed(flaw)),
        }
        watch.tokens.store(decoder.heard.tokens(), Ordering::Relaxed);
        if decoder.heard.finish.is_some() && watch.end().is_none() {
            watch.note(&watch.end);
        }
        if decoder.is_done() {
            break decoder.end(true).map_err(flawed);
        }
    };
    match outcome {
        Ok(()) => Ok(decoder.heard),
        Err(failure) => Err(Failure { wasted: decoder.heard.tokens(), ..failure }),
    }
}

/// That nothing came for so long.
pub(super) fn silent(limit: Duration) -> Failure {
    Failure::new(Kind::Silent, format!("says nothing for {} s", limit.as_secs_f32()))
}

fn flawed(flaw: Flaw) -> Failure {
    match flaw {
        Flaw::Cut => Failure::new(Kind::Broken, "the answer ends in the middle"),
        Flaw::Garbled(what) => Failure::new(Kind::Garbled, what),
        Flaw::TooLong => Failure::new(Kind::Refused, "the answer is longer than any that can be asked for"),
        Flaw::Told(status, words) => {
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            // Whoever had begun to answer had accepted the request.
            let kind = match status.map(|status| kind(status, &words)) {
                Some(Kind::Refused | Kind::Absent) | None => Kind::Broken,
                Some(kind) => kind,
            };
            Failure::new(kind, format!("says in its answer: {words}"))
        }
    }
}

fn kind(status: StatusCode, words: &str) -> Kind {
    let status = status.as_u16();
    match status {
        // Some have no money under the status of too many requests.
        429 if is_about_key(words) && !words.to_ascii_lowercase().contains("per minute") => Kind::Denied,
        429 => Kind::Busy,
        502..=504 | 520..=530 => Kind::Away,
        500 if is_about_absence(words) => Kind::Away,
        408 | 409 | 425 => Kind::Broken,
        401 | 402 => Kind::Denied,
        403..=405 => Kind::Absent,
        status if status >= 500 => Kind::Broken,
        // Behind a proxy everything may be a bad request.
        _ if is_about_key(words) => Kind::Denied,
        _ if is_about_model(words) => Kind::Absent,
        _ => Kind::Refused,
    }
}

/// Whether a proxy says that there is nobody behind it.
fn is_about_absence(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    const PARTS: [&str; 8] = [
        "loading model",
        "model is loading",
        "connection error",
        "connection refused",
        "cannot connect",
        "upstream",
        "no healthy",
        "service unavailable",
    ];
    PARTS.iter().any(|part| words.contains(part))
}

fn refusal(status: StatusCode, response: &mut ureq::http::Response<ureq::Body>) -> Failure {
    let retry_after = retry_after(response.headers(), SystemTime::now());
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
        Ok(value) => error_words(value.get("error").filter(|error| !error.is_null()).unwrap_or(&value)),
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    let kind = kind(status, &words);
    if !words.trim().is_empty() {
        what = format!("{what}: {}", words.trim());
    }
    Failure { retry_after, ..Failure::new(kind, what) }
}

/// When to come back: in milliseconds, in seconds, or as a date, which is read against the sender's own clock where it tells.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(milliseconds) = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1e3).ok();
    }
    let value = text("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let then = date(value)?;
    let now = text("date")
        .and_then(date)
        .or_else(|| now.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()))?;
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// Seconds since 1970 of a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`, also with `-`, a year of two digits, or in
/// the order of C's `asctime`.
fn date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let (mut year, mut month, mut day, mut seconds) = (None, None, None, None);
    for word in text.split([' ', ',', '-']).filter(|word| !word.is_empty()) {
        let start = word.get(..3).map(str::to_ascii_lowercase);
        if let Some(place) = MONTHS.iter().position(|name| Some(*name) == start.as_deref()) {
            month = u64::try_from(place + 1).ok();
        } else if word.contains(':') {
            let mut parts = word.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 61));
            let (hours, minutes) = (parts.next()??, parts.next()??);
            seconds = Some(hours * 3600 + minutes * 60 + parts.next().flatten().unwrap_or(0));
        } else if let Ok(number) = word.parse::<u64>() {
            match number {
                1970..=9999 => year = Some(number),
                1..=31 if day.is_none() => day = Some(number),
                0..=99 => year = Some(if number < 70 { 2000 } else { 1900 } + number),
                _ => return None,
            }
        }
    }
    let (year, month, day) = (year?, month?, day?);
    // Days since 1970-03-01 of a year that begins in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)?.checked_mul(86_400)?.checked_add(seconds?)
}

fn trouble(error: ureq::Error, patience: Patience) -> Failure {
    use ureq::{Error, Timeout};
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            let seconds = patience.connect.as_secs_f32();
            Failure::new(Kind::Unreachable, format!("{NO_CONNECTION} {seconds} s"))
        }
        Error::Timeout(_) => silent(patience.longest),
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

/// Whether anybody is there: any answer to any question tells, within `wait`.
pub(super) fn is_there(endpoint: &Endpoint, wait: Duration) -> bool {
    let agent = agent(endpoint, Patience { connect: wait, longest: wait });
    let mut request = agent.get(endpoint.sibling("models"));
    if let Some(header) = endpoint.key().map(Key::header) {
        request = request.header(header::AUTHORIZATION, header);
    }
    request.call().is_ok()
}

/// What an endpoint tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Tokens of prompt and answer together.
    pub context: Option<u32>,
    /// Requests it works on at once.
    pub slots: Option<usize>,
    /// The models it lists; empty where it lists none.
    pub models: Vec<String>,
}

/// Asks an endpoint what it is: its list of models and, of llama-server, its settings. Whoever does not answer within `wait`,
/// or with something else, tells nothing; that is no failure.
pub fn about(endpoint: &Endpoint, wait: Duration) -> About {
    let get = |path: &str| -> Option<serde_json::Value> {
        let agent = agent(endpoint, Patience { connect: wait, longest: wait });
        let mut request = agent.get(endpoint.sibling(path)).header(header::ACCEPT, "application/json");
        if let Some(header) = endpoint.key().map(Key::header) {
            request = request.header(header::AUTHORIZATION, header);
        }
        let mut response = request.call().ok().filter(|response| response.status().is_success())?;
        let mut body = Vec::new();
        response.body_mut().as_reader().take(4 << 20).read_to_end(&mut body).ok()?;
        serde_json::from_slice(&body).ok()
    };
    let Some(models) = get("models") else {
        return About::default();
    };
    let mut about = About::default();
    about.read_models(&models, endpoint.model());
    if let Some(props) = get("/props") {
        about.read_props(&props);
    }
    about
}

impl About {
    fn read_models(&mut self, list: &serde_json::Value, model: &str) {
        let Some(entries) = list["data"].as_array().or_else(|| list["models"].as_array()) else { return };
        let id = |entry: &serde_json::Value| {
            ["id", "name", "model"].iter().find_map(|key| entry[*key].as_str().map(str::to_owned))
        };
        self.models = entries.iter().filter_map(id).take(1000).collect();
        // Whoever has one model takes every name for it.
        let own = entries.iter().find(|entry| id(entry).as_deref() == Some(model));
        let entry = own.or_else(|| entries.first().filter(|_| entries.len() == 1));
        const NAMES: [&str; 6] = [
            "max_model_len",
            "context_length",
            "context_window",
            "max_context_length",
            "n_ctx",
            "loaded_context_length",
        ];
        let Some(entry) = entry else { return };
        let size = |of: &serde_json::Value| NAMES.iter().find_map(|key| of[*key].as_u64());
        self.context = size(entry).or_else(|| size(&entry["meta"])).and_then(plausible);
    }

    fn read_props(&mut self, props: &serde_json::Value) {
        let slots = props["total_slots"].as_u64().and_then(|slots| usize::try_from(slots).ok());
        self.slots = slots.filter(|slots| (1..=4096).contains(slots)).or(self.slots);
        // Of each slot, which is a part of the server's.
        let context =
            props["default_generation_settings"]["n_ctx"].as_u64().or_else(|| props["n_ctx"].as_u64());
        self.context = context.and_then(plausible).or(self.context);
    }
}

/// A context that a model may have.
fn plausible(tokens: u64) -> Option<u32> {
    u32::try_from(tokens).ok().filter(|tokens| (64..=1 << 28).contains(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_time_to_come_back_may_be_a_number_or_a_date() {
        let at = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            retry_after(&headers, UNIX_EPOCH + Duration::from_secs(784_111_777))
                .map(|wait| wait.as_secs_f64())
        };
        assert_eq!(at(&[("retry-after", "12")]), Some(12.0));
        assert_eq!(at(&[("retry-after", " 1.5 ")]), Some(1.5));
        assert_eq!(at(&[("retry-after", "9"), ("retry-after-ms", "250")]), Some(0.25));
        // Ten seconds after 784111777.
        for date in
            ["Sun, 06 Nov 1994 08:49:47 GMT", "Sunday, 06-Nov-94 08:49:47 GMT", "Sun Nov  6 08:49:47 1994"]
        {
            assert_eq!(at(&[("retry-after", date)]), Some(10.0), "{date}");
        }
        // The server's clock is a minute behind ours.
        let skewed =
            [("retry-after", "Sun, 06 Nov 1994 08:48:47 GMT"), ("date", "Sun, 06 Nov 1994 08:48:37 GMT")];
        assert_eq!(at(&skewed), Some(10.0));
        assert_eq!(at(&[("retry-after", "Sun, 06 Nov 1993 08:49:47 GMT")]), Some(0.0));
        for nonsense in ["soon", "-5", "", "Sun, 99 Foo 1994", "06 Nov 1994"] {
            assert_eq!(at(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(at(&[]), None);
        assert_eq!(date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(date("Tue, 29 Feb 2028 12:00:00 GMT"), Some(1_835_438_400));
    }

    #[test]
    fn statuses_are_understood_together_with_their_words() {
        let of = |status: u16, words: &str| kind(StatusCode::from_u16(status).unwrap(), words);
        assert_eq!(of(503, "Loading model"), Kind::Away);
        assert_eq!(of(502, ""), Kind::Away);
        assert_eq!(of(500, "litellm.APIConnectionError: Connection error."), Kind::Away);
        assert_eq!(of(500, "out of memory"), Kind::Broken);
        assert_eq!(of(429, "slow down"), Kind::Busy);
        assert_eq!(of(429, "You exceeded your current quota, please check your plan"), Kind::Denied);
        assert_eq!(of(400, "Authentication Error: no API key given"), Kind::Denied);
        assert_eq!(of(400, "Invalid model name passed in model=x"), Kind::Absent);
        assert_eq!(of(400, "the prompt has a bad word"), Kind::Refused);
    }

    #[test]
    fn what_an_endpoint_tells_of_itself_is_read() {
        let read = |models: serde_json::Value| {
            let mut about = About::default();
            about.read_models(&models, "m");
            about
        };
        let vllm =
            read(json!({"object": "list", "data": [{"id": "other"}, {"id": "m", "max_model_len": 32768}]}));
        assert_eq!((vllm.context, vllm.slots, vllm.models.len()), (Some(32768), None, 2));
        assert_eq!(
            read(json!({"data": [{"id": "other", "max_model_len": 9}, {"id": "another"}]})).context,
            None
        );
        let mut llama = read(json!({"data": [{"id": "file.gguf", "meta": {"n_ctx_train": 163840}}]}));
        assert_eq!(llama.context, None, "what it was trained with is not what it has room for");
        llama.read_props(&json!({"total_slots": 4, "default_generation_settings": {"n_ctx": 4096}}));
        assert_eq!((llama.context, llama.slots), (Some(4096), Some(4)));
        for odd in
            [json!(null), json!([]), json!({"data": 3}), json!({"data": [{"id": 3, "max_model_len": -1}]})]
        {
            assert_eq!(read(odd), About::default());
        }
    }
}
