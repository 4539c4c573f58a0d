//! Who reads what next, and whose turn each buffer is: the one place where threads of a stream wait for each other.

use super::batch::{Batch, Cutter};
use super::files::Buffer;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Batches on their way, and the buffers they are in.
pub(super) struct Queue<F> {
    state: Mutex<State<F>>,
    /// A copy of whether the stream is to end, to be asked without waiting.
    stopped: AtomicBool,
    /// A buffer came free, or a destination is done with all it will get.
    readers: Condvar,
    /// One per destination: its next batch is there.
    destinations: Vec<Condvar>,
    /// The stream is over.
    over: Condvar,
    /// Buffers there may be.
    buffers: usize,
}

struct State<F> {
    free: Vec<Buffer>,
    made: usize,
    lanes: Vec<Lane>,
    /// The first thing that went wrong.
    failure: Option<F>,
    stopped: bool,
}

/// A destination's way.
struct Lane {
    cutter: Cutter,
    /// Batches that were cut and not yet taken, the oldest first; those still being read are `None`.
    batches: VecDeque<Option<(Batch, Buffer)>>,
    /// The number of the oldest of them; the first batch ever is 0.
    oldest: u64,
    /// Buffers it has: being read, waiting, or being written.
    held: usize,
}

impl Lane {
    fn is_done(&self) -> bool {
        self.cutter.is_done() && self.held == 0
    }
}

/// Where a batch belongs once it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    lane: usize,
    number: u64,
}

impl<F> Queue<F> {
    pub(super) fn new(cutters: Vec<Cutter>, buffers: usize) -> Self {
        let destinations = cutters.iter().map(|_| Condvar::new()).collect();
        let lane = |cutter| Lane { cutter, batches: VecDeque::new(), oldest: 0, held: 0 };
        let lanes = cutters.into_iter().map(lane).collect();
        let state = State { free: Vec::new(), made: 0, lanes, failure: None, stopped: false };
        Self {
            state: Mutex::new(state),
            stopped: AtomicBool::new(false),
            readers: Condvar::new(),
            destinations,
            over: Condvar::new(),
            buffers,
        }
    }

    /// No code of others runs under the lock, so whoever panicked left it in order.
    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch to be read and a buffer for it, `None` for one that is still to be made; waits while every
    /// destination that wants more has its share of buffers. `None` when there is no more to read.
    pub(super) fn next_to_read(
        &self,
        cut: impl Fn(&mut Cutter) -> Batch,
    ) -> Option<(Ticket, Batch, Option<Buffer>)> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.lanes.iter().all(|lane| lane.cutter.is_done()) {
                return None;
            }
            // A destination may hold its share among those that are not done, so that a slow one leaves the others
            // theirs. The one that has least comes first.
            let active = state.lanes.iter().filter(|lane| !lane.is_done()).count();
            let share = (self.buffers / active.max(1)).max(1);
            let there = !state.free.is_empty() || state.made < self.buffers;
            let hungry = |(_, lane): &(usize, &Lane)| !lane.cutter.is_done() && lane.held < share;
            let next = state.lanes.iter().enumerate().filter(hungry).min_by_key(|(_, lane)| lane.held);
            if let Some((number, _)) = next.filter(|_| there) {
                let buffer = state.free.pop();
                state.made += usize::from(buffer.is_none());
                let lane = &mut state.lanes[number];
                let batch = cut(&mut lane.cutter);
                let ticket = Ticket { lane: number, number: lane.oldest + lane.batches.len() as u64 };
                lane.batches.push_back(None);
                lane.held += 1;
                if state.lanes.iter().all(|lane| lane.cutter.is_done()) {
                    self.readers.notify_all(); // who waits here can go home
                }
                return Some((ticket, batch, buffer));
            }
            state = self.readers.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a batch that was read where its destination finds it.
    pub(super) fn has_read(&self, ticket: Ticket, batch: Batch, buffer: Buffer) {
        let mut state = self.lock();
        let lane = &mut state.lanes[ticket.lane];
        lane.batches[(ticket.number - lane.oldest) as usize] = Some((batch, buffer));
        if ticket.number == lane.oldest {
            self.destinations[ticket.lane].notify_one();
        }
    }

    /// A destination's next batch; waits until it is read. `None` when it has all, or the stream ends early.
    pub(super) fn next_to_write(&self, destination: usize) -> Option<(Batch, Buffer)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let lane = &mut state.lanes[destination];
            if lane.is_done() {
                return None;
            }
            if let Some(batch) = lane.batches.front_mut().and_then(Option::take) {
                lane.batches.pop_front();
                lane.oldest += 1;
                return Some(batch);
            }
            state = self.destinations[destination].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A destination's next batch if it is read.
    pub(super) fn next_if_read(&self, destination: usize) -> Option<(Batch, Buffer)> {
        let mut state = self.lock();
        if state.stopped {
            return None;
        }
        let lane = &mut state.lanes[destination];
        let batch = lane.batches.front_mut().and_then(Option::take)?;
        lane.batches.pop_front();
        lane.oldest += 1;
        Some(batch)
    }

    /// Lets what a destination will get be changed.
    pub(super) fn change(&self, destination: usize, change: impl FnOnce(&mut Cutter)) {
        let mut state = self.lock();
        change(&mut state.lanes[destination].cutter);
        // There may be nothing left to read.
        self.readers.notify_all();
        self.destinations[destination].notify_all();
    }

    /// Gives back the buffer of [`Self::next_to_write`] or [`Self::next_if_read`].
    pub(super) fn has_written(&self, destination: usize, buffer: Buffer) {
        let mut state = self.lock();
        state.free.push(buffer);
        state.lanes[destination].held -= 1;
        // A destination that is done leaves its share to the others, which may be work for all readers.
        self.readers.notify_all();
        if state.lanes.iter().all(Lane::is_done) {
            self.over.notify_all();
        }
    }

    /// Ends the stream. The first failure counts, unless a later one `replaces` it.
    pub(super) fn fail(&self, failure: F, replaces: impl Fn(&F) -> bool) {
        self.stop(Some(failure), replaces);
    }

    /// Ends the stream without a failure.
    pub(super) fn end(&self) {
        self.stop(None, |_| false);
    }

    fn stop(&self, failure: Option<F>, replaces: impl Fn(&F) -> bool) {
        let mut state = self.lock();
        if !state.stopped || state.failure.as_ref().is_some_and(replaces) {
            state.failure = failure;
        }
        state.stopped = true;
        self.stopped.store(true, Ordering::Relaxed);
        self.readers.notify_all();
        self.destinations.iter().for_each(Condvar::notify_all);
        self.over.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the stream if the thread that holds this panics.
    pub(super) fn stop_on_panic(&self) -> impl Drop + '_ {
        struct Guard<'a, F>(&'a Queue<F>);
        impl<F> Drop for Guard<'_, F> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.stop(None, |_| false);
                }
            }
        }
        Guard(self)
    }

    /// Waits until all is done or stopped, and asks `failure` every so often whether it shall be.
    pub(super) fn watch(&self, every: Duration, mut failure: impl FnMut() -> Option<F>) {
        let is_over = |state: &State<F>| state.stopped || state.lanes.iter().all(Lane::is_done);
        while !is_over(&self.lock()) {
            // Without the lock: this may be code of others.
            if let Some(failure) = failure() {
                return self.fail(failure, |_| false);
            }
            let state = self.lock();
            if !is_over(&state) {
                drop(self.over.wait_timeout(state, every).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// How many buffers were made, or what went wrong, once. A panic is the threads' own.
    pub(super) fn result(&self) -> Result<usize, F> {
        let mut state = self.lock();
        match state.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(state.made),
        }
    }

    /// Whether nothing is left to be written, so that all readers are done or about to be.
    pub(super) fn is_done(&self) -> bool {
        self.lock().lanes.iter().all(Lane::is_done)
    }
}
