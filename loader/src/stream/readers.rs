//! The threads that read. None of them borrows from whoever wants the bytes, so that nobody has to wait for one that gets
//! no answer from a file system.

use super::batch::Cutter;
use super::files::{Buffer, Source};
use super::queue::Queue;
use super::{Job, LOOK, StreamOptions};
use crate::error::Error;
use crate::index::Location;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long readers are waited for after a stream was ended early: nobody is left over where the disk is in order.
const GRACE: Duration = Duration::from_millis(250);

/// What a reader did.
#[derive(Default)]
pub(super) struct ReaderTimes {
    pub(super) reading: Duration,
    pub(super) waiting: Duration,
}

/// Readers at work.
pub(super) struct Readers<F> {
    shared: Arc<Shared<F>>,
    /// How each of them ended.
    ends: mpsc::Receiver<thread::Result<ReaderTimes>>,
    count: usize,
}

/// What they own together.
struct Shared<F> {
    queue: Queue<F>,
    /// Where each job's bytes are.
    places: Vec<Location>,
    source: Arc<dyn Source>,
    buffer_bytes: usize,
}

impl<F: From<Error> + Send + 'static> Readers<F> {
    /// Begins to read all jobs for so many destinations.
    pub(super) fn start<T>(
        source: Arc<dyn Source>,
        jobs: &[Job<T>],
        destinations: usize,
        options: &StreamOptions,
    ) -> Self {
        let mut lists = vec![Vec::new(); destinations];
        for (index, job) in jobs.iter().enumerate() {
            lists[job.destination].push(index);
        }
        let cutters = lists.into_iter().map(Cutter::new).collect();
        let (buffers, buffer_bytes) = options.buffers(destinations);
        let places = jobs.iter().map(|job| job.from.clone()).collect();
        let shared = Arc::new(Shared { queue: Queue::new(cutters, buffers), places, source, buffer_bytes });
        let (end, ends) = mpsc::channel();
        let count = options.readers.max(1);
        for _ in 0..count {
            let (shared, end) = (shared.clone(), end.clone());
            thread::spawn(move || {
                let times = catch_unwind(AssertUnwindSafe(|| shared.read()));
                // Nobody may be there to hear it.
                let _ = end.send(times);
            });
        }
        Readers { shared, ends, count }
    }

    pub(super) fn queue(&self) -> &Queue<F> {
        &self.shared.queue
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Why the stream was stopped.
    ///
    /// # Panics
    /// With a reader's panic, if that is why.
    pub(super) fn failure(&self) -> F {
        match self.queue().result() {
            Err(failure) => failure,
            Ok(_) => match self.ends.iter().find_map(Result::err) {
                Some(panic) => resume_unwind(panic),
                None => panic!("a stream that had failed was asked for more"),
            },
        }
    }

    /// Waits for the readers of a stream that is over, or for a moment where it was ended early; gives the first panic if
    /// there was one.
    pub(super) fn end(self) -> thread::Result<Vec<ReaderTimes>> {
        let until = Instant::now() + GRACE;
        let mut all = Vec::new();
        while all.len() < self.count {
            // With everything written none of them is reading.
            let end = match self.queue().is_done() {
                true => self.ends.recv().ok(),
                false => self.ends.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
            };
            let Some(end) = end else { break };
            all.push(end);
        }
        all.into_iter().collect()
    }
}

impl<F: From<Error>> Shared<F> {
    /// A reader's life.
    fn read(&self) -> ReaderTimes {
        let _ended = self.queue.stop_on_panic();
        let mut times = ReaderTimes::default();
        loop {
            let location = |job: usize| &self.places[job];
            let waited = Instant::now();
            let next = self.queue.next_to_read(|cutter| cutter.cut(location, self.buffer_bytes as u64));
            times.waiting += waited.elapsed();
            let Some((ticket, batch, buffer)) = next else { return times };
            let mut buffer = buffer.unwrap_or_else(|| Buffer::new(self.buffer_bytes));
            let begun = Instant::now();
            for read in &batch.reads {
                if self.queue.is_stopped() {
                    return times;
                }
                let blocks = read.blocks();
                let space = &mut buffer[read.at..][..(blocks.end - blocks.start) as usize];
                let tensor = || self.places[read.job].to_string();
                if let Err(error) = self.source.read(read, &tensor, space) {
                    self.queue.fail(error.into(), |_| false);
                    return times;
                }
            }
            times.reading += begun.elapsed();
            self.queue.has_read(ticket, batch, buffer);
        }
    }
}

/// Does what may wait for a file system, on a thread of its own. That thread is left behind when `failure` says so.
pub(super) fn apart<R: Send + 'static, F>(
    work: impl FnOnce() -> R + Send + 'static,
    mut failure: impl FnMut() -> Option<F>,
) -> Result<R, F> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let _ = send.send(catch_unwind(AssertUnwindSafe(work)));
    });
    loop {
        match receive.recv_timeout(LOOK) {
            Ok(done) => return Ok(done.unwrap_or_else(|panic| resume_unwind(panic))),
            Err(_) => {
                if let Some(failure) = failure() {
                    return Err(failure);
                }
            }
        }
    }
}
