//! An endpoint and what is known of it: whether it is there, how much it works on at once, when it may be asked again.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::endpoint::{Dialect, Endpoint};
use super::{HttpError, Options, exchange};

/// No news from a line for so long, and others are asked first.
const SUSPICIOUS: Duration = Duration::from_secs(5);
/// A request that waits for so long while others of its line get text waits for its turn.
pub(super) const QUEUED: Duration = Duration::from_secs(3);

/// An endpoint and what is known of it.
#[derive(Debug)]
pub(super) struct Line {
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    /// Threads that ask there, those included that were told to end and have not noticed.
    pub busy: usize,
    /// Of them those that were sent to find out whether it is back.
    pub explorers: usize,
    /// It has sent text.
    pub worked: bool,
    /// When the last sign of it came: a byte of an answer, or a refusal.
    pub news: Instant,
    /// The longest time without one while it had requests: some take long before they begin.
    longest_gap: Duration,
    /// When the last text came, of whatever request.
    pub text: Option<Instant>,
    /// Until then nothing is sent there.
    pub paused_until: Option<Instant>,
    /// Failures in a row that paused it.
    pub pauses: u32,
    /// Since when it is not there, while it is not.
    pub away: Option<Away>,
    /// So many requests it works on at once, where it told or where that was seen.
    pub slots: Option<usize>,
    // The most requests that were seen to get text at once.
    most_streaming: usize,
    /// Silences in a row that it lived through.
    pub silences: u32,
    /// Whether anybody is there, asked when it has been silent for long.
    pub probe: Option<Arc<OnceLock<bool>>>,
    /// Requests in a row that were lost there.
    pub lost_in_a_row: u32,
    /// What was last said of it, and when.
    pub told: Option<(String, Instant)>,
    /// Why nothing is sent there any more.
    pub left: Option<HttpError>,
    /// It is no longer among the endpoints.
    pub is_removed: bool,
}

/// A line that is not there.
#[derive(Debug)]
pub(super) struct Away {
    pub since: Instant,
    pub what: String,
    pub why: Absence,
}

/// How a line is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// There is nobody at the address.
    Unreachable,
    /// Somebody says that it is not there yet.
    Unready,
    /// It has too much to do, and nothing of ours.
    Busy,
    /// It takes requests and says nothing.
    Silent,
}

impl Line {
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            dialect: Dialect::default(),
            busy: 0,
            explorers: 0,
            worked: false,
            news: Instant::now(),
            longest_gap: Duration::ZERO,
            text: None,
            paused_until: None,
            pauses: 0,
            away: None,
            slots: endpoint.slots(),
            most_streaming: 0,
            silences: 0,
            probe: None,
            lost_in_a_row: 0,
            told: None,
            left: None,
            is_removed: false,
            endpoint,
        }
    }

    /// Whether requests may go there at all, sooner or later.
    pub fn is_usable(&self) -> bool {
        self.left.is_none() && !self.is_removed
    }

    /// Requests that are sent there at once: one more than it works on, so that it need not wait for us.
    pub fn limit(&self, options: &Options) -> usize {
        let most = options.parallel.max(1);
        self.slots.map_or(most, |slots| (slots + 1).min(most))
    }

    /// Whether requests are sent there as many as it takes, and not one at a time to find out whether it is back.
    pub fn is_there(&self) -> bool {
        self.away.as_ref().is_none_or(|away| away.why == Absence::Busy)
    }

    /// Whether a request may go there now.
    pub fn has_room(&self, now: Instant, options: &Options) -> bool {
        let has_place = if self.is_there() { self.busy < self.limit(options) } else { self.explorers == 0 };
        self.is_usable() && self.paused_until.is_none_or(|until| until <= now) && has_place
    }

    /// Whether it has requests and said nothing for a while.
    pub fn is_suspicious(&self, now: Instant) -> bool {
        self.away.is_some() || self.busy > 0 && now.saturating_duration_since(self.news) > SUSPICIOUS
    }

    /// A byte came, then.
    pub fn heard(&mut self, when: Instant) {
        if when > self.news {
            self.longest_gap = self.longest_gap.max(when - self.news);
            self.news = when;
        }
    }

    /// It gets a request. Silence begins with the first who waits.
    pub fn is_asked(&mut self) {
        if self.busy == 0 {
            self.news = Instant::now();
        }
        self.busy += 1;
    }

    /// Whether it has requests and is silent for much longer than it ever was.
    pub fn has_fallen_silent(&self, now: Instant) -> bool {
        let usual = SUSPICIOUS.max(self.longest_gap.saturating_mul(3));
        self.is_there() && self.worked && self.busy > 0 && now.saturating_duration_since(self.news) > usual
    }

    /// Whether text came of late.
    pub fn is_lively(&self, now: Instant) -> bool {
        self.is_usable() && self.text.is_some_and(|text| now.saturating_duration_since(text) < SUSPICIOUS)
    }

    /// Text came, then, of a request that was sent at `begin`. How long the line had been away, if it had.
    pub fn spoke(&mut self, when: Instant, begin: Instant) -> Option<Duration> {
        self.heard(when);
        self.worked = true;
        if self.text.is_none_or(|text| text < when) {
            (self.silences, self.probe) = (0, None);
        }
        self.text = Some(self.text.map_or(when, |text| text.max(when)));
        // Whoever ends may finish what it began before and take nothing new.
        let is_back = |away: &Away| away.since < if away.why == Absence::Silent { when } else { begin };
        if self.away.as_ref().is_some_and(is_back) {
            self.pauses = 0;
            self.paused_until = None;
            return self.away.take().map(|away| when.saturating_duration_since(away.since));
        }
        if self.away.is_none() {
            self.pauses = 0;
        }
        None
    }

    /// So many of its requests get text, and so many have waited for theirs for long. True when that tells how many it
    /// works on at once.
    pub fn seen(&mut self, now: Instant, streaming: usize, waiting: usize) -> bool {
        self.most_streaming = self.most_streaming.max(streaming);
        let is_fresh = self.text.is_some_and(|text| now.saturating_duration_since(text) < QUEUED);
        match self.slots {
            Some(slots) if streaming > slots => {
                self.slots = Some(streaming);
                false
            }
            None if waiting > 0 && streaming > 0 && is_fresh => {
                self.slots = Some(self.most_streaming);
                true
            }
            _ => false,
        }
    }

    /// It is not there; it is asked again after `pause`. True when that is news.
    pub fn goes_away(&mut self, now: Instant, what: &str, why: Absence, pause: Duration) -> bool {
        let is_new = self.away.is_none();
        let since = if why == Absence::Silent { self.news } else { now };
        let away = self.away.get_or_insert(Away { since, what: String::new(), why });
        (away.what, away.why) = (what.to_owned(), why);
        // Whoever comes back may be another machine.
        if is_new {
            self.slots = self.endpoint.slots();
            self.most_streaming = 0;
        }
        self.pause(now, pause);
        is_new
    }

    /// Asks on a thread of its own whether anybody is there.
    pub fn start_probe(&mut self, wait: Duration) {
        let answer = Arc::new(OnceLock::new());
        let (endpoint, told) = (self.endpoint.clone(), Arc::clone(&answer));
        let ask = move || {
            let _ = told.set(exchange::is_there(&endpoint, wait));
        };
        // Without a thread nobody answers.
        drop(std::thread::Builder::new().name("probe".to_owned()).spawn(ask));
        self.probe = Some(answer);
    }

    /// It has been silent for too long. Whether somebody is there all the same, for the first time.
    pub fn falls_silent(&mut self) -> bool {
        let is_there = self.probe.take().is_some_and(|answer| answer.get() == Some(&true));
        self.silences += 1;
        is_there && self.silences < 2
    }

    /// Nothing is sent there for so long.
    pub fn pause(&mut self, now: Instant, pause: Duration) {
        let until = now + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
    }

    /// Why nothing is to be hoped for from it any more, if nothing is.
    pub fn given_up(&self, now: Instant, options: &Options) -> Option<HttpError> {
        if let Some(error) = &self.left {
            return Some(error.clone());
        }
        let away = self.away.as_ref()?;
        let endpoint = self.endpoint.name().to_owned();
        let what = away.what.clone();
        let passed = now.saturating_duration_since(away.since);
        let seconds = passed.as_secs();
        match away.why {
            Absence::Silent => (passed > options.silence).then_some(HttpError::Silent { endpoint, seconds }),
            // An address that never answered may be wrong.
            Absence::Unreachable if !self.worked => {
                (passed > options.grace).then_some(HttpError::Unreachable { endpoint, what })
            }
            _ => (passed > options.outage).then_some(HttpError::Away { endpoint, what, seconds }),
        }
    }
}
