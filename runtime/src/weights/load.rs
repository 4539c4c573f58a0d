//! Weights on their way to the devices: first every device gets its buffers and says what belongs where, then the shards
//! are read once, for all devices at the same time. The host needs none of it: it computes from the map.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use porism_loader::stream::{Event, Job, Sink, StreamError, StreamOptions, stream};
use porism_loader::{Checkpoint, Dtype, Location, find_nan};

use crate::device::Executor;
use crate::error::Error;
use crate::recording::View;

/// Bytes of a checkpoint and where on a device they belong.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The place, padded to whole words.
    pub to: View,
    /// The bytes.
    pub from: Location,
}

/// Bytes loaded so far.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    /// Number of the device in the list.
    pub device: usize,
    /// Bytes on it.
    pub done: u64,
    /// Bytes there will be.
    pub total: u64,
}

/// A device that is being loaded.
pub struct Loading<'e, 'c> {
    /// What writes to its buffers.
    pub executor: &'e mut (dyn Executor<'c> + 'c),
    /// What belongs there.
    pub fills: Vec<Fill>,
}

/// Brings everything to its place. `check` refuses FP8 codes that are not numbers, as they pass by. `progress` is called for
/// every piece, and about ten times a second while none arrives: its error ends the loading, also where a file system
/// does not answer.
///
/// # Errors
/// A shard that is gone, was changed or cannot be read, a device that fails, or what `progress` returns.
pub fn load(
    checkpoint: &Checkpoint,
    devices: Vec<Loading<'_, '_>>,
    check: bool,
    progress: &mut (dyn FnMut(LoadProgress) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let mut jobs: Vec<Job<View>> = Vec::new();
    let mut sinks = Vec::new();
    let mut unaligned = vec![vec![]; devices.len()];
    for ((device, Loading { executor, fills }), unaligned) in
        devices.into_iter().enumerate().zip(&mut unaligned)
    {
        jobs.extend(fills.into_iter().map(|fill| Job { destination: device, from: fill.from, tag: fill.to }));
        sinks.push(Device { executor, checkpoint: check.then_some(checkpoint), unaligned });
    }
    // What every token needs comes first, and within that the order of the files.
    jobs.sort_by_key(|job| (job.destination, is_expert(&job.from), job.from.shard(), job.from.range().start));
    let mut totals = vec![0u64; sinks.len()];
    jobs.iter().for_each(|job| totals[job.destination] += job.from.bytes());
    let total: u64 = totals.iter().sum();
    let options = StreamOptions::default();
    let options = StreamOptions { memory: options.memory.min(total / 2), ..options };
    // With what was told last, and whether it wanted an end.
    let progress = Mutex::new((progress, None, false));
    let told = |event: Event<'_, View>| {
        let mut progress = progress.lock().expect("a callback that panicked ends the stream");
        let (progress, last, ended) = &mut *progress;
        if *ended {
            return Err(Error::Interrupted);
        }
        if let Event::Progress { destination, done, total } = event {
            *last = Some(LoadProgress { device: destination, done, total });
        }
        match (event, *last) {
            // While nothing arrives it is told again, so that it can be answered with an end.
            (Event::Progress { .. } | Event::Tick, last) => {
                let last = last.unwrap_or(LoadProgress { device: 0, done: 0, total: totals[0] });
                let result = progress(last);
                *ended = result.is_err();
                result
            }
            (Event::Finished { .. }, _) => Ok(()),
        }
    };
    // The progress is asked often enough.
    let never = AtomicBool::new(false);
    let result = stream(checkpoint, &jobs, &mut sinks, &options, &never, &told);
    let statistics = result.map_err(failure)?;
    tracing::debug!(
        "{} bytes read in {:.2} s: {:.2} s in reads, {:.2} s waiting for buffers, of {} readers together",
        statistics.bytes(),
        statistics.elapsed.as_secs_f64(),
        statistics.reading.as_secs_f64(),
        statistics.waiting.as_secs_f64(),
        options.readers
    );
    for (device, did) in statistics.destinations.iter().enumerate() {
        tracing::debug!(
            "device {device}: {} bytes, {:.2} s writing them, {:.2} s waiting for them",
            did.bytes,
            did.writing.as_secs_f64(),
            did.waiting.as_secs_f64()
        );
    }
    Ok(())
}

pub(crate) fn is_expert(from: &Location) -> bool {
    from.role().kind() == porism_loader::Kind::RoutedExpert
}

/// What ended a stream, in our words.
pub(crate) fn failure(error: StreamError<Error>) -> Error {
    match error {
        StreamError::Checkpoint(error) => error.into(),
        StreamError::Sink { error, .. } | StreamError::Event(error) => error,
        _ => Error::Interrupted,
    }
}

/// A device as a destination.
pub(crate) struct Device<'e, 'c> {
    pub(crate) executor: &'e mut (dyn Executor<'c> + 'c),
    /// Where codes are looked through.
    pub(crate) checkpoint: Option<&'e Checkpoint>,
    /// Bytes of the job that do not fill a word yet: devices are written to in words, and a file is cut anywhere.
    pub(crate) unaligned: &'e mut Vec<u8>,
}

impl Sink<View, Error> for Device<'_, '_> {
    fn write(&mut self, job: &Job<View>, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if let Some(checkpoint) = self.checkpoint {
            let role = job.from.role();
            let tensor = checkpoint.tensor(role).filter(|tensor| tensor.dtype == Dtype::F8E4m3);
            if let Some((tensor, position)) = tensor.zip(find_nan(bytes)) {
                let start = checkpoint.location(role).map_or(0, |whole| whole.range().start);
                let first = job.from.range().start - start + offset;
                return Err(tensor.not_a_number(first + position as u64).into());
            }
        }
        if offset == 0 {
            // The job before may have been forgotten in the middle.
            self.unaligned.clear();
        }
        let mut at = offset - self.unaligned.len() as u64;
        let mut bytes = bytes;
        if !self.unaligned.is_empty() {
            let wanted = (4 - self.unaligned.len()).min(bytes.len());
            self.unaligned.extend(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.unaligned.len() < 4 {
                return Ok(());
            }
            self.executor.write(job.tag.slice(at, 4), self.unaligned)?;
            self.unaligned.clear();
            at += 4;
        }
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        if !words.is_empty() {
            self.executor.write(job.tag.slice(at, words.len() as u64), words)?;
        }
        self.unaligned.extend(rest);
        Ok(())
    }

    fn finish(&mut self, job: &Job<View>) -> Result<(), Error> {
        if !self.unaligned.is_empty() {
            let at = job.from.bytes() - self.unaligned.len() as u64;
            self.unaligned.resize(4, 0);
            self.executor.write(job.tag.slice(at, 4), self.unaligned)?;
            self.unaligned.clear();
        }
        Ok(())
    }
}
