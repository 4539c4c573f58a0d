//! Models behind OpenAI-compatible endpoints, as answerers.
//!
//! ```text
//! submit → queue → a line with room → a thread that asks once ─┬→ an answer
//!            ↑                                                 └→ trouble
//!            ├─ at once: the line is not there, has too much to do, or wants another request ←┤
//!            └─ when its time has come: this request failed ←─────────────────────────────────┴→ too often: lost
//! ```
//!
//! A *line* is an endpoint and what is known of it (`line.rs`). All decisions are made in [`Endpoints::poll`], on the caller's
//! thread, from what threads report and from what their watches show meanwhile. An outage costs time and no request: a line that
//! is not there is paused and asked again, one request at a time, while the others take its requests. A request that keeps failing
//! costs its attempt only. When nothing is to be hoped for from any line the run ends, to be gone on with.
//!
//! Whoever collects the events of `log` must leave out the target `ureq_proto`: at the level `trace` it writes down what is
//! sent, keys included.

mod endpoint;
mod exchange;
mod follow;
mod line;
mod stream;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ureq::Agent;

pub use self::endpoint::{Endpoint, EndpointError, Key, identity};
pub use self::exchange::{About, about};
pub use self::follow::Followed;

use self::endpoint::Dialect;
use self::exchange::{Failure, Kind, Patience, Watch};
use self::line::{Absence, Line, QUEUED};
use self::stream::Heard;
use crate::complete::{Answer, Complete, CompleteError, Completion, Lost, Request, Served};

/// How endpoints are dealt with.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Requests under way at each endpoint at most.
    pub parallel: usize,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an endpoint may say nothing, while it has requests: nothing at all, not to one of them.
    pub silence: Duration,
    /// The same once text flows.
    pub stall: Duration,
    /// How long an endpoint that was there is waited for: refused connections, and answers that it is not ready.
    pub outage: Duration,
    /// The same of one that never answered: its address may simply be wrong.
    pub grace: Duration,
    /// Tries of a request at each endpoint, the first included; outages do not count.
    pub tries: u32,
    /// How long is waited before the second try; before each further one twice as long, up to a minute.
    pub wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 16,
            connect: Duration::from_secs(30),
            // Whoever ignores `stream` is silent for as long as the whole answer takes.
            silence: Duration::from_mins(10),
            stall: Duration::from_mins(2),
            // Models of hundreds of gigabytes take that long to load.
            outage: Duration::from_hours(1),
            grace: Duration::from_secs(20),
            tries: 8,
            wait: Duration::from_secs(1),
        }
    }
}

/// Silence within an answer, and answers that are none, are paid for in full each time.
const DEAR_TRIES: u32 = 3;
/// So many requests lost in a row are the endpoint's fault and not theirs.
const LOST_IN_A_ROW: u32 = 4;
/// The longest wait of our own.
const MOST_WAIT: Duration = Duration::from_mins(1);
/// The same for a line that is not there: to ask is cheap, and it should be noticed when it is back.
const MOST_PAUSE: Duration = Duration::from_secs(10);
/// The longest wait that an endpoint may ask for.
const MOST_RETRY_AFTER: Duration = Duration::from_mins(10);
/// Once the answer is whole, its count of tokens is not worth more.
const LINGER: Duration = Duration::from_secs(10);
/// A request that waited so long for its first word at a line that is full or says nothing goes to one with room; four times
/// as long before it does so again.
const MOVE: Duration = Duration::from_secs(5);
/// The same of one that had text, which is then lost.
const MOVE_WITH_TEXT: Duration = Duration::from_secs(15);

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
    /// It was there, or says that it will be, and is waited for no longer.
    #[error("{endpoint}: has been away for {seconds} s: {what}")]
    Away {
        /// Its address.
        endpoint: String,
        /// What it said last.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// It takes requests, and no news comes of any of them.
    #[error("{endpoint}: takes requests and has said nothing to any of them for {seconds} s")]
    Silent {
        /// Its address.
        endpoint: String,
        /// For how long.
        seconds: u64,
    },
    /// It never answered, and refuses what is asked.
    #[error("{endpoint}: refuses what it is asked: {what}")]
    Refuses {
        /// Its address.
        endpoint: String,
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
    canceled_tokens: u64,
    next_attempt: u64,
    followed: Option<Followed>,
    sender: Sender<Report>,
    receiver: Receiver<Report>,
}

/// A request until it is answered.
#[derive(Debug)]
struct Job {
    request: Request,
    started: Instant,
    /// How often it was sent.
    sent: u32,
    /// How often it failed, by line.
    tries: HashMap<usize, u32>,
    dear_tries: u32,
    /// How often it went to another line for having waited.
    moves: u32,
    /// The line that it was taken from.
    avoid: Option<usize>,
    // Its limit is beyond the endpoint's context, which ends it early enough.
    unlimited: bool,
    wasted: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Queued,
    Waiting { until: Instant },
    Running(Running),
}

/// A thread that asks.
#[derive(Debug)]
struct Running {
    /// Its number: what others report of this request is old.
    attempt: u64,
    line: usize,
    dialect: Dialect,
    agent: Agent,
    watch: Arc<Watch>,
    /// It was told to end.
    is_ended: bool,
}

impl Running {
    fn end(&mut self) {
        self.is_ended = true;
        self.agent.clone().shutdown();
    }
}

/// What a thread found out.
#[derive(Debug)]
struct Report {
    ticket: u64,
    attempt: u64,
    line: usize,
    explores: bool,
    outcome: Result<Heard, Failure>,
}

impl Endpoints {
    /// Answers with the model behind these endpoints; requests go to the one that has most room.
    ///
    /// # Panics
    /// Without an endpoint.
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Self {
        assert!(!endpoints.is_empty(), "no endpoint");
        let (sender, receiver) = channel();
        Self {
            options,
            lines: endpoints.into_iter().map(Line::new).collect(),
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            notices: Vec::new(),
            canceled_tokens: 0,
            next_attempt: 0,
            followed: None,
            sender,
            receiver,
        }
    }

    /// The same, with endpoints that may be others later: what a file says while it is worked.
    #[must_use]
    pub fn following(mut self, followed: Followed) -> Self {
        self.followed = Some(followed);
        self
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
            self.enqueue(ticket, false);
        }
        let mut left_over = VecDeque::new();
        while let Some(ticket) = self.queue.pop_front() {
            match self.line_for(ticket, now) {
                Some(line) => self.send(ticket, line),
                None => left_over.push_back(ticket),
            }
            if !self.lines.iter().any(|line| line.has_room(now, &self.options)) {
                break;
            }
        }
        left_over.append(&mut self.queue);
        self.queue = left_over;
    }

    /// Into the queue; what was sent before goes first.
    fn enqueue(&mut self, ticket: u64, first: bool) {
        if let Some(job) = self.jobs.get_mut(&ticket) {
            job.place = Place::Queued;
            if first { self.queue.push_front(ticket) } else { self.queue.push_back(ticket) }
        }
    }

    /// Where a request is sent: to a line with room that is there and has failed it least, and of those to the least busy one.
    fn line_for(&self, ticket: u64, now: Instant) -> Option<usize> {
        let job = self.jobs.get(&ticket)?;
        let tries = |index: usize| job.tries.get(&index).copied().unwrap_or(0);
        let fits = |index: usize, line: &Line| {
            line.has_room(now, &self.options) && tries(index) < self.options.tries
        };
        let lines = self.lines.iter().enumerate().filter(|(index, line)| fits(*index, line));
        let order = |(index, line): &(usize, &Line)| {
            let load = line.busy * 1000 / line.limit(&self.options);
            (
                job.avoid == Some(*index),
                line.is_suspicious(now),
                tries(*index),
                line.lost_in_a_row,
                load,
                line.busy,
                *index,
            )
        };
        lines.min_by_key(order).map(|(index, _)| index)
    }

    fn send(&mut self, ticket: u64, index: usize) {
        // Whoever watches the timers ends it long before.
        let longest = self.options.outage.max(self.options.silence) + Duration::from_mins(1);
        let patience = Patience { connect: self.options.connect, longest };
        let (Some(job), line) = (self.jobs.get_mut(&ticket), &mut self.lines[index]) else {
            return;
        };
        let agent = exchange::agent(&line.endpoint, patience);
        let watch = Arc::new(Watch::new());
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        job.sent += 1;
        job.place = Place::Running(Running {
            attempt,
            line: index,
            dialect: line.dialect,
            agent: agent.clone(),
            watch: Arc::clone(&watch),
            is_ended: false,
        });
        line.is_asked();
        let explores = !line.is_there();
        line.explorers += usize::from(explores);
        let endpoint = line.endpoint.clone();
        let body = line.dialect.body(endpoint.model(), &job.request, job.unlimited);
        let sender = self.sender.clone();
        let work = move || {
            let outcome = exchange::ask(&agent, &endpoint, &body, patience, &watch);
            // Whoever dropped the receiver wants no answer.
            drop(sender.send(Report { ticket, attempt, line: index, explores, outcome }));
        };
        let thread = std::thread::Builder::new().name(format!("completion {ticket}")).spawn(work);
        if let Err(error) = thread {
            let failure = Failure::new(Kind::Broken, format!("cannot be asked: no thread: {error}"));
            drop(self.sender.send(Report { ticket, attempt, line: index, explores, outcome: Err(failure) }));
        }
    }

    fn settle(&mut self, report: Report) {
        let Report { ticket, attempt, line: index, explores, outcome } = report;
        let line = &mut self.lines[index];
        line.busy -= 1;
        line.explorers -= usize::from(explores);
        let Some(job) = self.jobs.get_mut(&ticket) else {
            return;
        };
        // A canceled one, or one that is elsewhere by now.
        let Place::Running(running) = &job.place else { return };
        if running.attempt != attempt {
            return;
        }
        match outcome {
            Ok(heard) => {
                line.lost_in_a_row = 0;
                let back = line.spoke(Instant::now(), running.watch.begin());
                let completion = complete(heard, job, &line.endpoint);
                let wasted = job.wasted;
                self.jobs.remove(&ticket);
                self.ready.push_back(Answer { ticket, result: Ok(completion), wasted });
                self.tell_return(index, back);
            }
            Err(failure) => self.fail(ticket, &failure),
        }
    }

    fn tell_return(&mut self, index: usize, away: Option<Duration>) {
        if let Some(away) = away {
            let name = self.lines[index].endpoint.name();
            self.notices.push(format!("{name}: answers again after {:.0} s", away.as_secs_f64()));
        }
    }

    /// Looks at the clocks of all requests under way.
    fn tend(&mut self, now: Instant) {
        let mut counts = vec![(0, 0); self.lines.len()];
        let mut returns = Vec::new();
        for job in self.jobs.values_mut() {
            let Place::Running(running) = &mut job.place else { continue };
            let (line, watch) = (&mut self.lines[running.line], &running.watch);
            if let Some(byte) = watch.byte() {
                line.heard(byte);
            }
            match (watch.text(), watch.end()) {
                (Some(text), end) => {
                    returns.push((running.line, line.spoke(text, watch.begin())));
                    counts[running.line].0 += usize::from(end.is_none());
                }
                (None, _) if now.saturating_duration_since(watch.begin()) > QUEUED => {
                    counts[running.line].1 += 1
                }
                (None, _) => {}
            }
            // The reader takes the end of the connection for the end of an answer that is whole.
            let lingers = watch
                .end()
                .is_some_and(|end| now.saturating_duration_since(end) > LINGER.min(self.options.silence));
            if lingers && !running.is_ended {
                running.end();
            }
        }
        for (index, back) in returns {
            self.tell_return(index, back);
        }
        for (index, (streaming, waiting)) in counts.into_iter().enumerate() {
            let line = &mut self.lines[index];
            if line.seen(now, streaming, waiting) {
                let (name, slots) = (line.endpoint.name(), line.slots.unwrap_or(0));
                self.notices.push(format!(
                    "{name}: works on {slots} at once; no more than {} are sent there",
                    slots + 1
                ));
            }
        }
        self.doubt_silent(now);
        self.end_silent(now);
        self.relocate(now);
    }

    /// A line that says nothing to any of its requests while others get text gets no new ones, but one to see whether it is back.
    fn doubt_silent(&mut self, now: Instant) {
        if !self.lines.iter().any(|line| line.is_lively(now)) {
            return;
        }
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            if line.has_fallen_silent(now) {
                let what =
                    format!("says nothing for {} s", now.saturating_duration_since(line.news).as_secs());
                line.goes_away(now, &what, Absence::Silent, MOST_PAUSE);
                self.tell(index, &what, "new requests go to the others meanwhile");
            }
        }
    }

    /// Ends requests of which no news comes, unless others at their line get text: then they wait for their turn. Shortly
    /// before it is asked whether anybody is there at all.
    fn end_silent(&mut self, now: Instant) {
        /// So long before the end of patience somebody is asked.
        const LEAD: Duration = Duration::from_secs(5);
        let Options { silence, stall, outage, .. } = self.options;
        let mut silent = Vec::new();
        let mut probed = HashSet::new();
        for (ticket, job) in &self.jobs {
            let Place::Running(running) = &job.place else { continue };
            let (watch, line) = (&running.watch, &self.lines[running.line]);
            if watch.end().is_some() {
                continue;
            }
            let limit = if watch.text().is_some() { stall.min(silence) } else { silence };
            let own = watch.byte().unwrap_or(watch.begin());
            let quiet = now.saturating_duration_since(own.max(line.text.unwrap_or(own)));
            // Comments, and the news of others, are no answer for ever.
            let without_text = now.saturating_duration_since(watch.text().unwrap_or(watch.begin()));
            if quiet > limit || without_text > outage.max(limit) {
                silent.push((*ticket, running.line, if quiet > limit { limit } else { outage.max(limit) }));
            } else if quiet > limit - LEAD.min(limit / 2) && line.probe.is_none() {
                probed.insert((running.line, LEAD.min(limit / 2).mul_f64(0.8)));
            }
        }
        for (index, wait) in probed {
            if self.lines[index].probe.is_none() {
                self.lines[index].start_probe(wait);
            }
        }
        let mut there = HashMap::new();
        for (ticket, index, limit) in silent {
            let is_there = *there.entry(index).or_insert_with(|| self.lines[index].falls_silent());
            self.take_back(ticket);
            let kind = if is_there { Kind::Hung } else { Kind::Silent };
            let what = format!("says nothing for {} s", limit.as_secs_f32());
            self.fail(ticket, &Failure::new(kind, what));
        }
    }

    /// Requests that wait at a line that is full or says nothing go to one with room, if nobody else wants it.
    fn relocate(&mut self, now: Instant) {
        if self.lines.len() < 2 || !self.queue.is_empty() {
            return;
        }
        let mut moved = Vec::new();
        for (ticket, job) in &self.jobs {
            let Place::Running(running) = &job.place else { continue };
            let (watch, line) = (&running.watch, &self.lines[running.line]);
            let base = if watch.text().is_some() { MOVE_WITH_TEXT } else { MOVE };
            let patience = base.saturating_mul(4u32.saturating_pow(job.moves.min(8)));
            let own = watch.byte().unwrap_or(watch.begin());
            let is_full = line.busy > line.limit(&self.options) && watch.text().is_none();
            let is_quiet = now.saturating_duration_since(line.news) > base;
            if watch.end().is_some()
                || now.saturating_duration_since(own) < patience
                || !(is_full || is_quiet)
            {
                continue;
            }
            let is_better = |(index, other): (usize, &Line)| {
                index != running.line
                    && other.has_room(now, &self.options)
                    && !other.is_suspicious(now)
                    && other.worked
                    && other.news > watch.begin()
            };
            if self.lines.iter().enumerate().any(is_better) {
                moved.push((*ticket, running.line));
            }
        }
        // One by one: the room of a line is taken by the first.
        for (ticket, from) in moved.into_iter().take(1) {
            self.take_back(ticket);
            if let Some(job) = self.jobs.get_mut(&ticket) {
                job.moves += 1;
                job.avoid = Some(from);
            }
            self.enqueue(ticket, true);
        }
    }

    /// Takes a request from its line; the tokens that had come were in vain.
    fn take_back(&mut self, ticket: u64) {
        if let Some(job) = self.jobs.get_mut(&ticket)
            && let Place::Running(running) = &mut job.place
        {
            running.end();
            job.wasted += running.watch.tokens();
        }
    }

    /// Decides whether, where and when a request is sent again. Its place still names the thread that failed.
    fn fail(&mut self, ticket: u64, failure: &Failure) {
        let now = Instant::now();
        let Some(job) = self.jobs.get_mut(&ticket) else { return };
        let Place::Running(running) = &job.place else { return };
        let (index, asked, had_text) = (running.line, running.dialect, running.watch.text().is_some());
        let line = &mut self.lines[index];
        let what = failure.what.as_str();
        job.wasted += failure.wasted;
        let is_word =
            !matches!(failure.kind, Kind::Silent | Kind::Hung) && !what.starts_with(exchange::NO_CONNECTION);
        if is_word {
            line.heard(now);
        }
        let wait = failure.retry_after.map(|asked| asked.min(MOST_RETRY_AFTER));
        if line.is_removed {
            self.enqueue(ticket, true);
            return;
        }
        match failure.kind {
            Kind::Refused => self.refused(ticket, index, asked, failure),
            Kind::Denied => self.leave(ticket, index, failure),
            Kind::Absent if !line.worked => self.leave(ticket, index, failure),
            // Nobody becomes trustworthy by waiting.
            Kind::Unreachable if !line.worked && what.contains("certificate") => {
                self.leave(ticket, index, failure)
            }
            // Whoever was there and does not even take connections has stopped.
            Kind::Unreachable if line.worked && !is_word => {
                self.goes_away(ticket, index, what, Absence::Silent, wait);
            }
            Kind::Unreachable => self.goes_away(ticket, index, what, Absence::Unreachable, wait),
            Kind::Absent | Kind::Away => self.goes_away(ticket, index, what, Absence::Unready, wait),
            Kind::Busy => {
                let streaming = self.streaming(index);
                if streaming == 0 {
                    self.goes_away(ticket, index, what, Absence::Busy, wait);
                    return;
                }
                // It has as much to do as it wants.
                let line = &mut self.lines[index];
                line.slots = Some(line.slots.map_or(streaming, |slots| slots.min(streaming)));
                self.pause(index, what, wait);
                self.enqueue(ticket, true);
            }
            Kind::Silent => {
                job.dear_tries += u32::from(had_text);
                if job.dear_tries >= DEAR_TRIES {
                    self.lose(ticket, index, failure);
                    return;
                }
                self.goes_away(ticket, index, what, Absence::Silent, wait);
            }
            Kind::Broken | Kind::Garbled | Kind::Hung => self.broke(ticket, index, failure, wait),
        }
    }

    /// How many requests of a line get text.
    fn streaming(&self, index: usize) -> usize {
        let gets_text = |job: &&Job| match &job.place {
            Place::Running(running) => running.line == index && running.watch.text().is_some(),
            _ => false,
        };
        self.jobs.values().filter(gets_text).count()
    }

    /// Nothing is sent to a line for a while; returns for how long.
    fn pause(&mut self, index: usize, what: &str, asked: Option<Duration>) -> Duration {
        let now = Instant::now();
        let line = &mut self.lines[index];
        line.pauses += 1;
        let own = back_off(self.options.wait, line.pauses, index as u64).min(MOST_PAUSE);
        let pause = asked.unwrap_or(own);
        line.pause(now, pause);
        self.tell(index, what, &format!("again in {:.1} s", pause.as_secs_f64()));
        pause
    }

    /// A line is not there. The request goes to another one, or waits without having failed.
    fn goes_away(&mut self, ticket: u64, index: usize, what: &str, why: Absence, asked: Option<Duration>) {
        let now = Instant::now();
        let line = &mut self.lines[index];
        line.pauses += 1;
        let own = back_off(self.options.wait, line.pauses, index as u64).min(MOST_PAUSE);
        if line.goes_away(now, what, why, asked.unwrap_or(own)) {
            let limit = match why {
                Absence::Silent => self.options.silence,
                Absence::Unreachable if !line.worked => self.options.grace,
                _ => self.options.outage,
            };
            let elsewhere = self
                .lines
                .iter()
                .enumerate()
                .any(|(other, line)| other != index && line.is_usable() && line.away.is_none());
            let then = if elsewhere { "; its requests go to the others meanwhile" } else { "" };
            let news = format!("waiting for it, {} at most{then}", spoken(limit));
            self.tell(index, what, &news);
        }
        self.enqueue(ticket, true);
    }

    /// Says something of a line, once where several requests find out the same at once.
    fn tell(&mut self, index: usize, what: &str, then: &str) {
        let (line, now) = (&mut self.lines[index], Instant::now());
        let is_told = |told: &(String, Instant)| told.0 == what && now - told.1 < Duration::from_secs(1);
        if !line.told.as_ref().is_some_and(is_told) {
            self.notices.push(format!("{}: {what}; {then}", line.endpoint.name()));
            line.told = Some((what.to_owned(), now));
        }
    }

    /// A request that an endpoint does not take: perhaps it takes another one.
    fn refused(&mut self, ticket: u64, index: usize, asked: Dialect, failure: &Failure) {
        let Some(job) = self.jobs.get_mut(&ticket) else { return };
        let line = &mut self.lines[index];
        let (name, what) = (line.endpoint.name(), failure.what.as_str());
        // The status has numbers of its own.
        let words = what.split_once(": ").map_or(what, |(_, words)| words);
        let most = job.request.max_tokens;
        // Several requests may have been refused for the same reason: the first one was enough to learn from.
        let mut learned = asked;
        if learned.learn(words, most).is_some() {
            if let Some(news) = line.dialect.learn(words, most) {
                self.notices.push(format!("{name}: {what}; {news}"));
            }
            self.enqueue(ticket, true);
            return;
        }
        let is_context = endpoint::is_about_context(words);
        if is_context && !job.unlimited {
            job.unlimited = true;
            self.notices.push(format!("{name}: {what}; asking without a limit of tokens"));
            self.enqueue(ticket, true);
            return;
        }
        if !line.worked {
            // It may be the address, or what is asked of everyone: nothing is lost before anything was answered.
            self.leave(ticket, index, failure);
            return;
        }
        let hint = if is_context {
            "; the prompt does not fit its context: start the server with a larger one (llama-server -c, vLLM \
             --max-model-len, SGLang --context-length)"
        } else {
            ""
        };
        let lost = Lost {
            what: format!("{name}: {what}{hint}"),
            network: false,
            context: endpoint::context_in(words).filter(|_| is_context),
        };
        self.answer_lost(ticket, lost);
    }

    /// A request that failed by itself: again later, elsewhere at once, or lost.
    fn broke(&mut self, ticket: u64, index: usize, failure: &Failure, asked: Option<Duration>) {
        let now = Instant::now();
        if let Some(asked) = asked {
            self.lines[index].pause(now, asked);
        }
        let Some(job) = self.jobs.get_mut(&ticket) else { return };
        let tries = job.tries.entry(index).or_default();
        *tries += 1;
        let tries = *tries;
        job.dear_tries += u32::from(matches!(failure.kind, Kind::Garbled | Kind::Hung));
        let all: u32 = job.tries.values().sum();
        let may_be_tried = |(other, line): (usize, &Line)| {
            line.is_usable() && job.tries.get(&other).copied().unwrap_or(0) < self.options.tries
        };
        if job.dear_tries >= DEAR_TRIES || !self.lines.iter().enumerate().any(may_be_tried) {
            self.lose(ticket, index, failure);
            return;
        }
        let (what, most) = (&failure.what, self.options.tries);
        let elsewhere = self.lines.iter().enumerate().any(|(other, line)| {
            other != index && line.has_room(now, &self.options) && !line.is_suspicious(now)
        });
        let wait = back_off(self.options.wait, all, job.request.seed).max(asked.unwrap_or_default());
        let what = format!("{what} (try {tries} of {most})");
        if elsewhere {
            job.avoid = Some(index);
            self.tell(index, &what, "asking another endpoint");
            self.enqueue(ticket, true);
            return;
        }
        job.place = Place::Waiting { until: now + wait };
        self.tell(index, &what, &format!("again in {:.1} s", wait.as_secs_f64()));
    }

    /// A request that is not sent to this endpoint again.
    fn lose(&mut self, ticket: u64, index: usize, failure: &Failure) {
        let line = &mut self.lines[index];
        line.lost_in_a_row += 1;
        if line.lost_in_a_row >= LOST_IN_A_ROW {
            self.leave(ticket, index, failure);
            return;
        }
        let sent = self.jobs.get(&ticket).map_or(0, |job| job.sent);
        let tries = if sent > 1 { format!(" ({sent} tries)") } else { String::new() };
        let what = format!("{}: {}{tries}", self.lines[index].endpoint.name(), failure.what);
        self.answer_lost(ticket, Lost { what, network: true, context: None });
    }

    fn answer_lost(&mut self, ticket: u64, lost: Lost) {
        if let Some(job) = self.jobs.remove(&ticket) {
            self.ready.push_back(Answer { ticket, result: Err(lost), wasted: job.wasted });
        }
    }

    /// Nothing more is sent to a line. Another one may answer the request; without one it is not lost either, but asked for
    /// when the run goes on.
    fn leave(&mut self, ticket: u64, index: usize, failure: &Failure) {
        let line = &mut self.lines[index];
        let (endpoint, what) = (line.endpoint.name().to_owned(), failure.what.clone());
        let error = match failure.kind {
            Kind::Denied => HttpError::Denied { endpoint, what },
            Kind::Absent => HttpError::Absent { endpoint, model: line.endpoint.model().to_owned(), what },
            Kind::Refused => HttpError::Refuses { endpoint, what },
            Kind::Unreachable => HttpError::Unreachable { endpoint, what },
            _ => HttpError::Failing { endpoint, requests: line.lost_in_a_row, what },
        };
        if line.left.is_none() {
            self.notices.push(format!("{error}; no more requests are sent there"));
            line.left = Some(error);
        }
        if let Some(job) = self.jobs.get_mut(&ticket) {
            job.tries.clear();
            job.dear_tries = 0;
        }
        self.enqueue(ticket, true);
    }

    /// Takes other endpoints when the file says others.
    fn follow(&mut self) {
        let Some(outcome) = self.followed.as_mut().and_then(Followed::changed) else { return };
        let endpoints = match outcome {
            Ok(endpoints) => endpoints,
            Err(words) => {
                self.notices.push(words);
                return;
            }
        };
        let mut gone = Vec::new();
        for (index, line) in self.lines.iter_mut().enumerate() {
            let stays = endpoints.iter().any(|endpoint| endpoint.name() == line.endpoint.name());
            if !stays && !line.is_removed {
                self.notices.push(format!("{}: no longer among the endpoints", line.endpoint.name()));
                line.is_removed = true;
                gone.push(index);
            }
        }
        for endpoint in endpoints {
            match self.lines.iter_mut().find(|line| line.endpoint.name() == endpoint.name()) {
                Some(line) if line.is_removed => {
                    self.notices.push(format!("{}: among the endpoints again", endpoint.name()));
                    (line.is_removed, line.left, line.away) = (false, None, None);
                    (line.paused_until, line.pauses, line.lost_in_a_row) = (None, 0, 0);
                }
                Some(_) => {}
                None => {
                    self.notices.push(format!("{}: a new endpoint", endpoint.name()));
                    self.lines.push(Line::new(endpoint));
                }
            }
        }
        // What has no text yet loses nothing by going elsewhere; the others may end where they are.
        let waits = |job: &Job| match &job.place {
            Place::Running(running) => gone.contains(&running.line) && running.watch.text().is_none(),
            _ => false,
        };
        let tickets: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| waits(job)).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.take_back(ticket);
            self.enqueue(ticket, true);
        }
    }

    /// When something is to be done that no thread reports.
    fn next_time(&self) -> Instant {
        // Clocks are looked at this often.
        const TICK: Duration = Duration::from_millis(50);
        let now = Instant::now();
        let waiting = self.jobs.values().filter_map(|job| match job.place {
            Place::Waiting { until } => Some(until),
            _ => None,
        });
        let pauses = self.lines.iter().filter(|line| line.is_usable()).filter_map(|line| line.paused_until);
        let pauses = pauses.filter(|until| *until > now && !self.queue.is_empty());
        waiting.chain(pauses).min().map_or(now + TICK, |time| time.min(now + TICK))
    }

    /// Why nothing can be answered any more; requests that get text are waited for.
    fn broken(&self) -> Option<HttpError> {
        let now = Instant::now();
        let lines = self.lines.iter().filter(|line| !line.is_removed);
        let given_up: Vec<HttpError> =
            lines.map(|line| line.given_up(now, &self.options)).collect::<Option<_>>()?;
        let is_lively = |job: &Job| match &job.place {
            Place::Running(running) => {
                let byte = running.watch.byte();
                byte.is_some_and(|byte| {
                    now.saturating_duration_since(byte) <= self.options.stall.min(self.options.silence)
                })
            }
            Place::Waiting { .. } | Place::Queued => false,
        };
        // A thread that is about to say why is worth waiting for, where the line was left for what another one found.
        let is_asked = |job: &Job| match &job.place {
            Place::Running(running) => self.lines[running.line].left.is_some() && !running.is_ended,
            _ => false,
        };
        if self.jobs.values().any(|job| is_lively(job) || is_asked(job)) {
            return None;
        }
        given_up.into_iter().next()
    }
}

/// A time for people: `90 s`, `10 min`, `1 h`.
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1} s", time.as_secs_f64()),
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
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
            tries: job.sent,
        }),
        finish: heard.finish.unwrap_or(crate::complete::Finish::Stop),
    }
}

impl Complete for Endpoints {
    fn width(&self) -> usize {
        let there = self.lines.iter().filter(|line| line.is_usable() && line.is_there());
        let room: usize = there.map(|line| line.limit(&self.options)).sum();
        // What hangs where nobody answers takes no place from the others.
        let hangs = |job: &&Job| match &job.place {
            Place::Running(running) => !self.lines[running.line].is_there(),
            _ => false,
        };
        (room + self.jobs.values().filter(hangs).count()).max(1)
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn submit(&mut self, request: Request) {
        let ticket = request.ticket;
        let job = Job {
            request,
            started: Instant::now(),
            sent: 0,
            tries: HashMap::new(),
            dear_tries: 0,
            moves: 0,
            avoid: None,
            unlimited: false,
            wasted: 0,
            place: Place::Queued,
        };
        self.jobs.insert(ticket, job);
        self.queue.push_back(ticket);
        self.start();
    }

    fn cancel(&mut self, ticket: u64) {
        self.ready.retain(|answer| {
            if answer.ticket == ticket {
                self.canceled_tokens +=
                    answer.wasted + answer.result.as_ref().map_or(0, |completion| completion.tokens);
            }
            answer.ticket != ticket
        });
        self.queue.retain(|queued| *queued != ticket);
        // Its place is free once its thread has noticed.
        self.take_back(ticket);
        if let Some(job) = self.jobs.remove(&ticket) {
            self.canceled_tokens += job.wasted;
        }
    }

    fn canceled_tokens(&mut self) -> u64 {
        std::mem::take(&mut self.canceled_tokens)
    }

    fn progress(&self) -> Vec<(u64, u64)> {
        let tokens = |job: &Job| match &job.place {
            Place::Running(running) => running.watch.tokens(),
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
            self.follow();
            self.tend(Instant::now());
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
            let next = self.next_time().min(until);
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
        for (_, mut job) in self.jobs.drain() {
            if let Place::Running(running) = &mut job.place {
                running.end();
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
