//! Shards to several devices at once: each byte is read from disk once, a fixed amount of memory is used, and nobody
//! who is slow holds up the others for longer than their share of it.
//!
//! ```text
//! jobs ─► one cutter per destination ─► readers ─► one queue per destination ─► one thread per Sink
//!              ▲                          │                                        │
//!              └────────── buffers ◄──────┴────────────── given back ◄─────────────┘
//! ```
//!
//! A job is a tensor, or a part of one, for one destination. Consecutive jobs of a destination are read into one
//! buffer, in as few reads as their places in the files allow; jobs given in the order of the file become long
//! sequential reads. Whatever order the readers finish in, bytes reach a destination in the order of its jobs.
//!
//! [`stream`] brings all of it and returns then. [`Arriving`] only fills buffers: whoever has something else to do takes
//! them when it suits, and may change what comes first.
//!
//! A shard must stay as it was when the checkpoint was opened. Its length and time of change are compared before the
//! stream begins, when it is opened, after each read, and at the end. A shard that is deleted while it is open goes on
//! working where the system allows that (on Unix); one that is gone before that is an error.
//!
//! A file system may never answer, and a thread that waits for it cannot be ended. Readers therefore own what they use,
//! and whoever ends a stream leaves those behind that do not come back: they end by themselves when they are answered.

mod arriving;
mod batch;
mod files;
mod queue;
mod readers;

use crate::error::Error;
use crate::index::{Checkpoint, Location};
use batch::ALIGN;
use files::{Files, Source};
use queue::Queue;
use readers::{Readers, apart};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use arriving::Arriving;
pub use files::FileStatistics;

/// Bytes to be brought to a destination.
#[derive(Clone, Debug)]
pub struct Job<T> {
    /// Where to, as an index into the list of sinks.
    pub destination: usize,
    /// Where from: [`Checkpoint::location`], [`Checkpoint::scale_location`], or a part of these.
    pub from: Location,
    /// Whatever the destination needs to know about it.
    pub tag: T,
}

/// A destination: something that takes bytes, on a thread of its own.
pub trait Sink<T, E>: Send {
    /// Takes bytes of a job, which start at byte `offset` of it. Jobs come in the order of the list, their bytes from
    /// first to last; an empty job comes as one empty piece. The bytes are gone when this returns.
    ///
    /// # Errors
    /// Whatever it likes: the stream ends with it.
    fn write(&mut self, job: &Job<T>, offset: u64, bytes: &[u8]) -> Result<(), E>;

    /// Is told that all bytes of the job were written.
    ///
    /// # Errors
    /// As above.
    fn finish(&mut self, _job: &Job<T>) -> Result<(), E> {
        Ok(())
    }
}

impl<T, E, S: Sink<T, E> + ?Sized> Sink<T, E> for Box<S> {
    fn write(&mut self, job: &Job<T>, offset: u64, bytes: &[u8]) -> Result<(), E> {
        (**self).write(job, offset, bytes)
    }

    fn finish(&mut self, job: &Job<T>) -> Result<(), E> {
        (**self).finish(job)
    }
}

/// What happens meanwhile; told from the destinations' threads, or from the caller's.
#[derive(Debug)]
pub enum Event<'a, T> {
    /// Nothing in particular: told by the caller's thread about ten times a second, also while no byte arrives, so that
    /// whoever wants the stream to end need not wait for one.
    Tick,
    /// A destination has more of its bytes.
    Progress {
        /// Which.
        destination: usize,
        /// Bytes it has.
        done: u64,
        /// Bytes it will have.
        total: u64,
    },
    /// A destination has all of a job.
    Finished {
        /// The job's index in the list.
        index: usize,
        /// The job.
        job: &'a Job<T>,
    },
}

/// How it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Threads that read, at least 1.
    pub readers: usize,
    /// Bytes of all buffers together. Each destination gets at least one buffer of 8 KiB, whatever this says.
    pub memory: u64,
    /// Bytes of one buffer, at most: smaller where `memory` does not give each destination two of these.
    pub buffer: u64,
    /// Read what is not in the page cache past it, where the system can (Linux, most disks): what is read does not take
    /// the place of others.
    pub direct: bool,
}

impl Default for StreamOptions {
    /// 4 readers, 64 MiB in buffers of 4 MiB.
    fn default() -> Self {
        Self { readers: 4, memory: 64 << 20, buffer: 4 << 20, direct: true }
    }
}

impl StreamOptions {
    /// How many buffers there are, and how large they are.
    fn buffers(&self, destinations: usize) -> (usize, usize) {
        let destinations = destinations.max(1) as u64;
        let bytes = self.buffer.min(self.memory / (2 * destinations)) / ALIGN * ALIGN;
        let bytes = bytes.clamp(2 * ALIGN, 1 << 30);
        let count = (self.memory / bytes).max(destinations);
        (count.min(1 << 20) as usize, bytes as usize)
    }
}

/// What a destination did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationStatistics {
    /// Bytes it got.
    pub bytes: u64,
    /// Time it spent writing.
    pub writing: Duration,
    /// Time it spent waiting for bytes.
    pub waiting: Duration,
}

/// What a stream did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// From the first check to the last.
    pub elapsed: Duration,
    /// Per shard of which something was read.
    pub files: Vec<FileStatistics>,
    /// Per destination.
    pub destinations: Vec<DestinationStatistics>,
    /// Time in reads, of all readers together.
    pub reading: Duration,
    /// Time waiting for buffers, of all readers together: much of it means that destinations are slower than the disk.
    pub waiting: Duration,
    /// Buffers that were ever made.
    pub buffers: usize,
    /// Bytes of one.
    pub buffer_bytes: u64,
}

impl Statistics {
    /// Bytes that the jobs asked for.
    pub fn bytes(&self) -> u64 {
        self.destinations.iter().map(|destination| destination.bytes).sum()
    }
}

/// Why a stream ended before its end. Of several reasons it is the first, but a destination's goes before a shard's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// A shard is gone, was changed, or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] Error),
    /// A destination failed.
    #[error("{error}")]
    Sink {
        /// Which.
        destination: usize,
        /// What it says.
        error: E,
    },
    /// The receiver of events wanted it.
    #[error("{0}")]
    Event(E),
    /// The flag was set.
    #[error("stopped before everything was read")]
    Cancelled,
}

/// Reads all jobs' bytes and gives them to the sinks; returns when all is done, or soon after something went wrong: no
/// sink is called any more, and no thread is left over but readers that wait for a file system. A write that is under way
/// is waited for, a read is not.
///
/// Setting `cancel` ends it, as does an error of `events`. Jobs that [`Event::Finished`] reported are complete whatever
/// comes after.
///
/// # Errors
/// The first thing that went wrong.
///
/// # Panics
/// If a job's destination is no sink, and with a sink's or `events`' own panic, after everything has ended.
pub fn stream<T, E, S>(
    checkpoint: &Checkpoint,
    jobs: &[Job<T>],
    sinks: &mut [S],
    options: &StreamOptions,
    cancel: &AtomicBool,
    events: &(dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
) -> Result<Statistics, StreamError<E>>
where
    T: Sync,
    E: Send + 'static,
    S: Sink<T, E>,
{
    let begun = Instant::now();
    let mut files = Files::new(checkpoint.shared_shards(), options.direct);
    // The first tensor that is wanted of each shard, for messages.
    let mut shards: BTreeMap<u32, Location> = BTreeMap::new();
    for Job { from, .. } in jobs {
        let count = checkpoint.shards().len();
        assert!(from.shard() < count, "{from} in shard {}, the checkpoint has {count}", from.shard());
        files.expect(from.shard() as u32, from.bytes());
        shards.entry(from.shard() as u32).or_insert_with(|| from.clone());
    }
    let (files, shards) = (Arc::new(files), Arc::new(shards));
    let check = |vanished_too: bool| {
        let (files, shards) = (files.clone(), shards.clone());
        move || -> Result<(), Error> {
            for (&shard, first) in &*shards {
                let tensor = || first.to_string();
                if files.check_by_name(shard, &tensor)?.is_none() && vanished_too {
                    return Err(files.vanished(shard, &tensor));
                }
            }
            Ok(())
        }
    };
    let mut watch = Watch { cancel, events, told: begun };
    apart(check(true), || watch.failure())??;
    let mut statistics = run(files.clone(), jobs, sinks, options, cancel, events)?;
    // That one is gone by now is none of our business.
    apart(check(false), || watch.failure())??;
    statistics.files = files.statistics();
    statistics.elapsed = begun.elapsed();
    Ok(statistics)
}

/// How often the flag is looked at while everybody waits.
const LOOK: Duration = Duration::from_millis(5);
/// How often the receiver of events is asked.
const TICK: Duration = Duration::from_millis(100);

/// Whether the caller wants an end.
struct Watch<'a, T, E> {
    cancel: &'a AtomicBool,
    events: &'a (dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
    told: Instant,
}

impl<T, E> Watch<'_, T, E> {
    fn failure(&mut self) -> Option<StreamError<E>> {
        if self.cancel.load(Ordering::Relaxed) {
            return Some(StreamError::Cancelled);
        }
        if self.told.elapsed() < TICK {
            return None;
        }
        self.told = Instant::now();
        (self.events)(Event::Tick).err().map(StreamError::Event)
    }
}

fn run<T, E, S>(
    source: Arc<dyn Source>,
    jobs: &[Job<T>],
    sinks: &mut [S],
    options: &StreamOptions,
    cancel: &AtomicBool,
    events: &(dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
) -> Result<Statistics, StreamError<E>>
where
    T: Sync,
    E: Send + 'static,
    S: Sink<T, E>,
{
    let mut totals = vec![0u64; sinks.len()];
    for Job { destination, from, .. } in jobs {
        assert!(*destination < sinks.len(), "{from} for destination {destination} of {}", sinks.len());
        totals[*destination] += from.bytes();
    }
    let readers: Readers<StreamError<E>> = Readers::start(source, jobs, sinks.len(), options);
    let queue = readers.queue();
    let pipe = &Pipe { queue, jobs, cancel, events };
    let destinations = thread::scope(|scope| {
        let deliver = |(number, sink): (usize, _)| {
            let total = totals[number];
            scope.spawn(move || pipe.deliver(number, sink, total))
        };
        let sinks: Vec<_> = sinks.iter_mut().enumerate().map(deliver).collect();
        // The caller's thread watches the flag, so that the others need not wake up for it.
        let _ended = queue.stop_on_panic();
        let mut watch = Watch { cancel, events, told: Instant::now() };
        queue.watch(LOOK, || watch.failure());
        join(sinks)
    });
    let (buffer_bytes, result) = (readers.buffer_bytes() as u64, queue.result());
    let times = readers.end();
    let destinations = destinations.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let times = times.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok(Statistics {
        elapsed: Duration::ZERO,
        files: Vec::new(),
        destinations,
        reading: times.iter().map(|times| times.reading).sum(),
        waiting: times.iter().map(|times| times.waiting).sum(),
        buffers: result?,
        buffer_bytes,
    })
}

/// Waits for all, then gives the first panic if there is one.
fn join<R>(threads: Vec<thread::ScopedJoinHandle<'_, R>>) -> thread::Result<Vec<R>> {
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    results.into_iter().collect()
}

/// What the destinations' threads share.
struct Pipe<'a, T, E> {
    queue: &'a Queue<StreamError<E>>,
    jobs: &'a [Job<T>],
    cancel: &'a AtomicBool,
    events: &'a (dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
}

impl<T: Sync, E: Send> Pipe<'_, T, E> {
    fn cancelled(&self) -> bool {
        if self.cancel.load(Ordering::Relaxed) {
            self.queue.fail(StreamError::Cancelled, |_| false);
        }
        self.queue.is_stopped()
    }

    /// A destination's life.
    fn deliver(&self, destination: usize, sink: &mut impl Sink<T, E>, total: u64) -> DestinationStatistics {
        let _ended = self.queue.stop_on_panic();
        let mut statistics = DestinationStatistics::default();
        loop {
            let waited = Instant::now();
            let next = self.queue.next_to_write(destination);
            statistics.waiting += waited.elapsed();
            let Some((batch, buffer)) = next else { return statistics };
            for piece in &batch.pieces {
                if self.cancelled() {
                    return statistics;
                }
                let written = self.write(destination, sink, piece, &buffer, total, &mut statistics);
                if let Err(error) = written {
                    // What a destination says matters more than a shard that cannot be read as well.
                    self.queue.fail(error, |earlier| matches!(earlier, StreamError::Checkpoint(_)));
                    return statistics;
                }
            }
            self.queue.has_written(destination, buffer);
        }
    }

    fn write(
        &self,
        destination: usize,
        sink: &mut impl Sink<T, E>,
        piece: &batch::Piece,
        buffer: &[u8],
        total: u64,
        statistics: &mut DestinationStatistics,
    ) -> Result<(), StreamError<E>> {
        let job = &self.jobs[piece.job];
        let bytes = &buffer[piece.buffer.clone()];
        let begun = Instant::now();
        let mut written = sink.write(job, piece.offset, bytes);
        if piece.last {
            written = written.and_then(|()| sink.finish(job));
        }
        statistics.writing += begun.elapsed();
        written.map_err(|error| StreamError::Sink { destination, error })?;
        statistics.bytes += bytes.len() as u64;
        let done = statistics.bytes;
        (self.events)(Event::Progress { destination, done, total }).map_err(StreamError::Event)?;
        if piece.last {
            (self.events)(Event::Finished { index: piece.job, job }).map_err(StreamError::Event)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
