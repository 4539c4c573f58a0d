//! Models behind OpenAI-compatible endpoints, as answerers.
//!
//! ```text
//! submit → queue → a free place at an endpoint → a thread that asks once ─┬→ an answer
//!            ↑                                                            └→ trouble: wait, and again; or lost
//!            └──────────────── when its time has come ←───────────────────────┘
//! ```
//!
//! All decisions are made in [`Endpoints::poll`], on the caller's thread. A request that keeps failing costs its attempt
//! only; an endpoint at which nothing works any more is left, and when none is left the run ends, to be gone on with.
//!
//! Whoever collects the events of `log` must leave out the target `ureq_proto`: at the level `trace` it writes down what is
//! sent, keys included.

mod endpoint;
mod exchange;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ureq::Agent;

pub use self::endpoint::{Endpoint, EndpointError, Key, identity};

use self::endpoint::Dialect;
use self::exchange::{Failure, Kind, Patience};
use self::stream::Heard;
use crate::complete::{Answer, Complete, CompleteError, Completion, Request, Served};

/// How endpoints are dealt with.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Requests under way at each endpoint at most.
    pub parallel: usize,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an endpoint may say nothing, be it before an answer or within one.
    pub silence: Duration,
    /// Tries of a request, the first included.
    pub tries: u32,
    /// How long is waited before the second try; before each further one twice as long, up to a minute.
    pub wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 16,
            connect: Duration::from_secs(30),
            // Whoever ignores `stream` is silent for as long as the whole answer takes, and busy hosts let requests queue.
            silence: Duration::from_mins(10),
            tries: 8,
            wait: Duration::from_secs(1),
        }
    }
}

/// Silence, and answers that are none, are waited for or paid for in full each time.
const DEAR_TRIES: u32 = 3;
/// As long as nothing ever came from an endpoint, its address may simply be wrong.
const FIRST_TRIES: u32 = 3;
/// So many requests lost in a row are the endpoint's fault and not theirs.
const LOST_IN_A_ROW: u32 = 4;
/// The longest wait of our own.
const MOST_WAIT: Duration = Duration::from_mins(1);
/// The longest wait that an endpoint may ask for.
const MOST_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Why no endpoint answers any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// It is not there.
    #[error("{endpoint}: cannot be reached: {what}")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// Why not.
        what: String,
    },
    /// It wants another key, or money.
    #[error("{endpoint}: does not let us in: {what}")]
    Denied {
        /// Its address.
        endpoint: String,
        /// What it says.
        what: String,
    },
    /// There is no such model, or no endpoint of this kind.
    #[error("{endpoint}: does not answer for the model `{model}`: {what}")]
    Absent {
        /// Its address.
        endpoint: String,
        /// The model that was asked for.
        model: String,
        /// What it says.
        what: String,
    },
    /// It is there, and nothing works.
    #[error("{endpoint}: {requests} requests in a row came to nothing, the last one with: {what}")]
    Failing {
        /// Its address.
        endpoint: String,
        /// How many.
        requests: u32,
        /// What was wrong with the last one.
        what: String,
    },
}

/// Endpoints of one model, as one answerer.
#[derive(Debug)]
pub struct Endpoints {
    options: Options,
    lines: Vec<Line>,
    jobs: HashMap<u64, Job>,
    // Tickets of requests that may be sent, in the order in which they came.
    queue: VecDeque<u64>,
    ready: VecDeque<Answer>,
    notices: Vec<String>,
    sender: Sender<Report>,
    receiver: Receiver<Report>,
}

/// An endpoint and what is known of it.
#[derive(Debug)]
struct Line {
    endpoint: Endpoint,
    dialect: Dialect,
    busy: usize,
    paused_until: Option<Instant>,
    worked: bool,
    lost_in_a_row: u32,
    // What was last said of it, and when.
    told: Option<(String, Instant)>,
    left: Option<HttpError>,
}

/// A request until it is answered.
#[derive(Debug)]
struct Job {
    request: Request,
    started: Instant,
    tries: u32,
    dear_tries: u32,
    // Its limit is beyond the endpoint's context, which ends it early enough.
    unlimited: bool,
    wasted: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Queued,
    Waiting { until: Instant },
    Running { agent: Agent, so_far: Arc<AtomicU64> },
}

/// What a thread found out.
#[derive(Debug)]
struct Report {
    ticket: u64,
    line: usize,
    dialect: Dialect,
    outcome: Result<Heard, Failure>,
}

impl Endpoints {
    /// Answers with the model behind these endpoints; requests go to the one that has most room.
    ///
    /// # Panics
    /// Without an endpoint.
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Self {
        assert!(!endpoints.is_empty(), "no endpoint");
        let line = |endpoint| Line {
            endpoint,
            dialect: Dialect::default(),
            busy: 0,
            paused_until: None,
            worked: false,
            lost_in_a_row: 0,
            told: None,
            left: None,
        };
        let (sender, receiver) = channel();
        Self {
            options,
            lines: endpoints.into_iter().map(line).collect(),
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            notices: Vec::new(),
            sender,
            receiver,
        }
    }

    fn patience(&self) -> Patience {
        Patience { connect: self.options.connect, silence: self.options.silence }
    }

    /// Sends what can be sent.
    fn start(&mut self) {
        let now = Instant::now();
        let mut due: Vec<(Instant, u64)> = self
            .jobs
            .iter()
            .filter_map(|(ticket, job)| match job.place {
                Place::Waiting { until } if until <= now => Some((until, *ticket)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        for (_, ticket) in due {
            self.enqueue(ticket);
        }
        while let Some(ticket) = self.queue.front().copied() {
            let Some(line) = self.free_line(now) else {
                break;
            };
            self.queue.pop_front();
            self.send(ticket, line);
        }
    }

    fn enqueue(&mut self, ticket: u64) {
        if let Some(job) = self.jobs.get_mut(&ticket) {
            job.place = Place::Queued;
            self.queue.push_back(ticket);
        }
    }

    /// The endpoint with most room.
    fn free_line(&self, now: Instant) -> Option<usize> {
        let usable = |line: &Line| {
            line.left.is_none()
                && line.busy < self.options.parallel.max(1)
                && line.paused_until.is_none_or(|until| until <= now)
        };
        let free = self.lines.iter().enumerate().filter(|(_, line)| usable(line));
        free.min_by_key(|(index, line)| (line.lost_in_a_row, line.busy, *index)).map(|(index, _)| index)
    }

    fn send(&mut self, ticket: u64, index: usize) {
        let patience = self.patience();
        let (Some(job), line) = (self.jobs.get_mut(&ticket), &mut self.lines[index]) else {
            return;
        };
        let agent = exchange::agent(&line.endpoint, patience);
        let so_far = Arc::new(AtomicU64::new(0));
        job.place = Place::Running { agent: agent.clone(), so_far: Arc::clone(&so_far) };
        line.busy += 1;
        let (endpoint, dialect) = (line.endpoint.clone(), line.dialect);
        let body = dialect.body(endpoint.model(), &job.request, job.unlimited);
        let sender = self.sender.clone();
        let work = move || {
            let outcome = exchange::ask(&agent, &endpoint, &body, patience, &so_far);
            // Whoever dropped the receiver wants no answer.
            drop(sender.send(Report { ticket, line: index, dialect, outcome }));
        };
        let thread = std::thread::Builder::new().name(format!("completion {ticket}")).spawn(work);
        if let Err(error) = thread {
            let what = format!("cannot be asked: no thread: {error}");
            let failure = Failure { kind: Kind::Broken, what, retry_after: None, wasted: 0 };
            drop(self.sender.send(Report { ticket, line: index, dialect, outcome: Err(failure) }));
        }
    }

    fn settle(&mut self, report: Report) {
        let Report { ticket, line: index, dialect, outcome } = report;
        let line = &mut self.lines[index];
        line.busy -= 1;
        // A canceled one.
        let Some(job) = self.jobs.get_mut(&ticket) else {
            return;
        };
        match outcome {
            Ok(heard) => {
                line.worked = true;
                line.lost_in_a_row = 0;
                let completion = complete(heard, job, &line.endpoint);
                let wasted = job.wasted;
                self.jobs.remove(&ticket);
                self.ready.push_back(Answer { ticket, result: Ok(completion), wasted });
            }
            Err(failure) => self.fail(ticket, index, dialect, &failure),
        }
    }

    /// Decides whether and when a request is sent again.
    fn fail(&mut self, ticket: u64, index: usize, asked: Dialect, failure: &Failure) {
        let (line, now) = (&mut self.lines[index], Instant::now());
        let Some(job) = self.jobs.get_mut(&ticket) else {
            return;
        };
        let name = line.endpoint.name();
        let what = &failure.what;
        job.wasted += failure.wasted;
        if failure.kind == Kind::Refused {
            if !job.unlimited && endpoint::is_about_context(what) {
                job.unlimited = true;
                self.notices.push(format!("{name}: {what}; asking without a limit of tokens"));
                self.enqueue(ticket);
                return;
            }
            // Several requests may have been refused for the same reason: the first one was enough to learn from.
            let mut learned = asked;
            if learned.learn(what) {
                if line.dialect.learn(what) {
                    self.notices.push(format!("{name}: {what}; asking without it from now on"));
                }
                self.enqueue(ticket);
                return;
            }
        }
        job.tries += 1;
        job.dear_tries += u32::from(matches!(failure.kind, Kind::Silent | Kind::Garbled));
        let tries = match failure.kind {
            Kind::Denied | Kind::Refused | Kind::Absent => 1,
            Kind::Unreachable if !line.worked => FIRST_TRIES.min(self.options.tries),
            _ => self.options.tries,
        };
        let again = job.tries < tries && job.dear_tries < DEAR_TRIES;
        if let Some(asked) = failure.retry_after {
            let until = now + asked.min(MOST_RETRY_AFTER);
            line.paused_until = Some(line.paused_until.map_or(until, |before| before.max(until)));
        }
        if again {
            let wait = back_off(self.options.wait, job.tries, job.request.seed);
            let wait = wait.max(failure.retry_after.unwrap_or_default().min(MOST_RETRY_AFTER));
            job.place = Place::Waiting { until: now + wait };
            // Requests under way at once fail together: once is enough.
            let news = format!("{what} (try {} of {tries})", job.tries);
            let is_told = |told: &(String, Instant)| told.0 == news && now - told.1 < Duration::from_secs(1);
            if !line.told.as_ref().is_some_and(is_told) {
                self.notices.push(format!("{name}: {news}; again in {:.1} s", wait.as_secs_f64()));
                line.told = Some((news, now));
            }
            return;
        }
        self.lose(ticket, index, failure);
    }

    /// A request that is not sent to this endpoint again.
    fn lose(&mut self, ticket: u64, index: usize, failure: &Failure) {
        let line = &mut self.lines[index];
        let (endpoint, what) = (line.endpoint.name().to_owned(), failure.what.clone());
        // What is wrong with one request says nothing of the next one, once any was answered.
        line.lost_in_a_row += u32::from(!(failure.kind == Kind::Refused && line.worked));
        let requests = line.lost_in_a_row;
        let left = match failure.kind {
            Kind::Denied => Some(HttpError::Denied { endpoint, what }),
            Kind::Unreachable if !line.worked => Some(HttpError::Unreachable { endpoint, what }),
            Kind::Absent if !line.worked => {
                Some(HttpError::Absent { endpoint, model: line.endpoint.model().to_owned(), what })
            }
            _ if requests >= LOST_IN_A_ROW => Some(HttpError::Failing { endpoint, requests, what }),
            _ => None,
        };
        let name = line.endpoint.name();
        let Some(error) = left else {
            let Some(job) = self.jobs.remove(&ticket) else {
                return;
            };
            let tries = if job.tries > 1 { format!(" ({} tries)", job.tries) } else { String::new() };
            let result = Err(format!("{name}: {}{tries}", failure.what));
            self.ready.push_back(Answer { ticket, result, wasted: job.wasted });
            return;
        };
        if line.left.is_none() {
            self.notices.push(format!("{error}; no more requests are sent there"));
            line.left = Some(error);
        }
        // Another endpoint may answer it; without one it is not lost either, but asked for when the run goes on.
        if let Some(job) = self.jobs.get_mut(&ticket) {
            (job.tries, job.dear_tries) = (0, 0);
        }
        self.enqueue(ticket);
    }

    /// When something is to be done that no thread reports.
    fn next_time(&self) -> Option<Instant> {
        let waiting = self.jobs.values().filter_map(|job| match job.place {
            Place::Waiting { until } => Some(until),
            _ => None,
        });
        let pauses =
            self.lines.iter().filter(|line| line.left.is_none()).filter_map(|line| line.paused_until);
        let now = Instant::now();
        waiting.chain(pauses.filter(|until| *until > now && !self.queue.is_empty())).min()
    }

    /// Why nothing can be answered any more; requests under way are waited for.
    fn broken(&self) -> Option<HttpError> {
        let is_running = |job: &Job| matches!(job.place, Place::Running { .. });
        if self.lines.iter().any(|line| line.left.is_none()) || self.jobs.values().any(is_running) {
            return None;
        }
        self.lines.iter().find_map(|line| line.left.clone())
    }
}

/// 1, 2, 4, … times the first wait, up to a minute, and a quarter more or less, so that requests that failed together do
/// not come back together.
fn back_off(first: Duration, tries: u32, seed: u64) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(MOST_WAIT);
    let random = (seed ^ u64::from(tries)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    doubled.mul_f64(0.75 + random as f64 / f64::from(1 << 17))
}

fn complete(heard: Heard, job: &Job, endpoint: &Endpoint) -> Completion {
    let (thinking, answer) = heard.parts();
    Completion {
        thinking,
        answer,
        prompt_tokens: heard.prompt_tokens(&job.request.prompt),
        tokens: heard.tokens(),
        seconds: job.started.elapsed().as_secs_f64(),
        served: Some(Served {
            endpoint: endpoint.name().to_owned(),
            estimated: heard.usage.is_none(),
            tries: job.tries + 1,
        }),
        finish: heard.finish.unwrap_or(crate::complete::Finish::Stop),
    }
}

impl Complete for Endpoints {
    fn width(&self) -> usize {
        let usable = self.lines.iter().filter(|line| line.left.is_none()).count();
        usable.max(1) * self.options.parallel.max(1)
    }

    fn submit(&mut self, request: Request) {
        let ticket = request.ticket;
        let job = Job {
            request,
            started: Instant::now(),
            tries: 0,
            dear_tries: 0,
            unlimited: false,
            wasted: 0,
            place: Place::Queued,
        };
        self.jobs.insert(ticket, job);
        self.queue.push_back(ticket);
        self.start();
    }

    fn cancel(&mut self, ticket: u64) {
        self.ready.retain(|answer| answer.ticket != ticket);
        self.queue.retain(|queued| *queued != ticket);
        // Its place is free once its thread has noticed.
        if let Some(Job { place: Place::Running { agent, .. }, .. }) = self.jobs.remove(&ticket) {
            agent.shutdown();
        }
    }

    fn progress(&self) -> Vec<(u64, u64)> {
        let tokens = |job: &Job| match &job.place {
            Place::Running { so_far, .. } => so_far.load(Ordering::Relaxed),
            Place::Queued | Place::Waiting { .. } => 0,
        };
        self.jobs.iter().map(|(ticket, job)| (*ticket, tokens(job))).collect()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let until = Instant::now() + wait;
        loop {
            while let Ok(report) = self.receiver.try_recv() {
                self.settle(report);
            }
            self.start();
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            if let Some(error) = self.broken() {
                return Err(CompleteError::Broken(Box::new(error)));
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            let next = self.next_time().map_or(until, |next| next.min(until));
            if let Ok(report) = self.receiver.recv_timeout(next.saturating_duration_since(now)) {
                self.settle(report);
            }
        }
    }

    fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        for (_, job) in self.jobs.drain() {
            if let Place::Running { agent, .. } = job.place {
                agent.shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute() {
        let first = Duration::from_secs(1);
        for seed in [0, 1, 77, u64::MAX] {
            for tries in 1..40 {
                let wait = back_off(first, tries, seed).as_secs_f64();
                let middle = 2f64.powi(tries.min(7) as i32 - 1).min(60.0);
                assert!((0.75 * middle..=1.25 * middle).contains(&wait), "{tries}: {wait}");
                assert_eq!(wait, back_off(first, tries, seed).as_secs_f64());
            }
        }
        assert_ne!(back_off(first, 1, 3), back_off(first, 1, 4));
    }
}
