//! Two answerers as one: who writes and who reads may be different models.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::complete::{Answer, Complete, CompleteError, Request};
use crate::roles::Key;

/// A writer and a reader. Each gets the requests of its roles, as many as it has room for.
pub struct Pair<'a> {
    writer: Side<'a>,
    reader: Side<'a>,
}

struct Side<'a> {
    complete: &'a mut dyn Complete,
    queue: VecDeque<Request>,
    under_way: HashSet<u64>,
}

impl Side<'_> {
    fn feed(&mut self) {
        while self.under_way.len() < self.complete.width().max(1)
            && let Some(request) = self.queue.pop_front()
        {
            self.under_way.insert(request.ticket);
            self.complete.submit(request);
        }
    }

    fn has_room(&self) -> bool {
        self.queue.len() + self.under_way.len() < self.complete.width().max(1)
    }

    fn cancel(&mut self, ticket: u64) {
        self.queue.retain(|request| request.ticket != ticket);
        if self.under_way.remove(&ticket) {
            self.complete.cancel(ticket);
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let answer = self.complete.poll(wait)?;
        if let Some(answer) = &answer {
            self.under_way.remove(&answer.ticket);
        }
        Ok(answer)
    }
}

impl<'a> Pair<'a> {
    /// Proofs are written by `writer`; all that is read, judged and compared goes to `reader`.
    pub fn new(writer: &'a mut dyn Complete, reader: &'a mut dyn Complete) -> Self {
        let side = |complete| Side { complete, queue: VecDeque::new(), under_way: HashSet::new() };
        Self { writer: side(writer), reader: side(reader) }
    }
}

/// How long one side is listened to while the other one may have something to say.
const TURN: Duration = Duration::from_millis(10);

impl Complete for Pair<'_> {
    fn width(&self) -> usize {
        self.writer.complete.width().max(1) + self.reader.complete.width().max(1)
    }

    fn has_room_for(&self, key: &Key) -> bool {
        if key.role.writes() { self.writer.has_room() } else { self.reader.has_room() }
    }

    fn is_elsewhere(&self) -> bool {
        self.writer.complete.is_elsewhere() || self.reader.complete.is_elsewhere()
    }

    fn submit(&mut self, request: Request) {
        let side = if request.key.role.writes() { &mut self.writer } else { &mut self.reader };
        side.queue.push_back(request);
        side.feed();
    }

    fn cancel(&mut self, ticket: u64) {
        self.writer.cancel(ticket);
        self.reader.cancel(ticket);
    }

    fn canceled_tokens(&mut self) -> u64 {
        self.writer.complete.canceled_tokens() + self.reader.complete.canceled_tokens()
    }

    fn progress(&self) -> Vec<(u64, u64)> {
        let mut all = self.writer.complete.progress();
        all.extend(self.reader.complete.progress());
        all
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let until = Instant::now() + wait;
        loop {
            for side in [&mut self.writer, &mut self.reader] {
                side.feed();
                // One that works elsewhere is asked without waiting for it.
                if !side.complete.works_in_poll()
                    && let Some(answer) = side.poll(Duration::ZERO)?
                {
                    return Ok(Some(answer));
                }
            }
            let sides = [&mut self.writer, &mut self.reader];
            let busy = [0, 1].map(|index: usize| !sides[index].under_way.is_empty());
            let works = [0, 1].map(|index: usize| busy[index] && sides[index].complete.works_in_poll());
            for (index, side) in sides.into_iter().enumerate() {
                let other = 1 - index;
                // While one side computes, the other one is not waited for.
                if busy[other] && (!busy[index] || works[other] && !works[index]) {
                    continue;
                }
                let left = until.saturating_duration_since(Instant::now());
                if let Some(answer) = side.poll(if busy[other] { left.min(TURN) } else { left })? {
                    return Ok(Some(answer));
                }
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    fn notices(&mut self) -> Vec<String> {
        let mut notices = self.writer.complete.notices();
        notices.extend(self.reader.complete.notices());
        notices
    }
}
