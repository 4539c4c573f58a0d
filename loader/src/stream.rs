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
//! A shard must stay as it was when the checkpoint was opened. Its length and time of change are compared before the
//! stream begins, when it is opened, after each read, and at the end. A shard that is deleted while it is open goes on
//! working where the system allows that (on Unix); one that is gone before that is an error.

mod batch;
mod files;
mod queue;

use crate::error::Error;
use crate::index::{Checkpoint, Location};
use batch::{ALIGN, Cutter};
use files::{Buffer, Files, Source};
use queue::Queue;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// What happens meanwhile; told from the destinations' threads.
#[derive(Debug)]
pub enum Event<'a, T> {
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
/// thread is left over, and no sink is called any more. A write that is under way is waited for.
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
    E: Send,
    S: Sink<T, E>,
{
    let begun = Instant::now();
    let mut files = Files::new(checkpoint, options.direct);
    // The first tensor that is wanted of each shard, for messages.
    let mut shards: BTreeMap<u32, &Location> = BTreeMap::new();
    for Job { from, .. } in jobs {
        let count = checkpoint.shards().len();
        assert!(from.shard() < count, "{from} in shard {}, the checkpoint has {count}", from.shard());
        files.expect(from.shard() as u32, from.bytes());
        shards.entry(from.shard() as u32).or_insert(from);
    }
    for (&shard, first) in &shards {
        let tensor = || first.to_string();
        files.check_by_name(shard, &tensor)?.ok_or_else(|| files.vanished(shard, &tensor))?;
    }
    let mut statistics = run(&files, jobs, sinks, options, cancel, events)?;
    for (&shard, first) in &shards {
        // That it is gone by now is none of our business.
        files.check_by_name(shard, &|| first.to_string())?;
    }
    statistics.files = files.statistics();
    statistics.elapsed = begun.elapsed();
    Ok(statistics)
}

/// How often the flag is looked at while everybody waits.
const WATCH: Duration = Duration::from_millis(5);

fn run<T, E, S>(
    source: &dyn Source,
    jobs: &[Job<T>],
    sinks: &mut [S],
    options: &StreamOptions,
    cancel: &AtomicBool,
    events: &(dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
) -> Result<Statistics, StreamError<E>>
where
    T: Sync,
    E: Send,
    S: Sink<T, E>,
{
    let mut lists = vec![Vec::new(); sinks.len()];
    let mut totals = vec![0u64; sinks.len()];
    for (index, Job { destination, from, .. }) in jobs.iter().enumerate() {
        assert!(*destination < sinks.len(), "{from} for destination {destination} of {}", sinks.len());
        lists[*destination].push(index);
        totals[*destination] += from.bytes();
    }
    let cutters: Vec<Cutter> = lists.into_iter().map(Cutter::new).collect();
    let (buffers, buffer_bytes) = options.buffers(sinks.len());
    let queue: Queue<StreamError<E>> = Queue::new(cutters, buffers);
    let pipe = Pipe { queue: &queue, jobs, source, cancel, events, buffer_bytes };
    let pipe = &pipe;

    let (destinations, readers) = thread::scope(|scope| {
        let deliver = |(number, sink): (usize, _)| {
            let total = totals[number];
            scope.spawn(move || pipe.deliver(number, sink, total))
        };
        let sinks: Vec<_> = sinks.iter_mut().enumerate().map(deliver).collect();
        let readers: Vec<_> = (0..options.readers.max(1)).map(|_| scope.spawn(|| pipe.read())).collect();
        // The caller's thread watches the flag, so that the others need not wake up for it.
        queue.watch(WATCH, || cancel.load(Ordering::Relaxed).then_some(StreamError::Cancelled));
        (join(sinks), join(readers))
    });
    let destinations = destinations.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let readers = readers.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let made = queue.into_result()?;
    Ok(Statistics {
        elapsed: Duration::ZERO,
        files: Vec::new(),
        destinations,
        reading: readers.iter().map(|times| times.reading).sum(),
        waiting: readers.iter().map(|times| times.waiting).sum(),
        buffers: made,
        buffer_bytes: buffer_bytes as u64,
    })
}

/// Waits for all, then gives the first panic if there is one.
fn join<R>(threads: Vec<thread::ScopedJoinHandle<'_, R>>) -> thread::Result<Vec<R>> {
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    results.into_iter().collect()
}

/// What the threads share.
struct Pipe<'a, T, E> {
    queue: &'a Queue<StreamError<E>>,
    jobs: &'a [Job<T>],
    source: &'a dyn Source,
    cancel: &'a AtomicBool,
    events: &'a (dyn Fn(Event<'_, T>) -> Result<(), E> + Sync),
    buffer_bytes: usize,
}

#[derive(Default)]
struct ReaderTimes {
    reading: Duration,
    waiting: Duration,
}

impl<T: Sync, E: Send> Pipe<'_, T, E> {
    /// A reader's life.
    fn read(&self) -> ReaderTimes {
        let _ended = self.queue.stop_on_panic();
        let mut times = ReaderTimes::default();
        loop {
            let location = |job: usize| &self.jobs[job].from;
            let waited = Instant::now();
            let next = self.queue.next_to_read(|cutter| cutter.cut(location, self.buffer_bytes as u64));
            times.waiting += waited.elapsed();
            let Some((ticket, batch, buffer)) = next else { return times };
            let mut buffer = buffer.unwrap_or_else(|| Buffer::new(self.buffer_bytes));
            let begun = Instant::now();
            for read in &batch.reads {
                if self.cancelled() {
                    return times;
                }
                let blocks = read.blocks();
                let space = &mut buffer[read.at..][..(blocks.end - blocks.start) as usize];
                let tensor = || self.jobs[read.job].from.to_string();
                if let Err(error) = self.source.read(read, &tensor, space) {
                    self.queue.fail(error.into(), |_| false);
                    return times;
                }
            }
            times.reading += begun.elapsed();
            self.queue.has_read(ticket, batch, buffer);
        }
    }

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
