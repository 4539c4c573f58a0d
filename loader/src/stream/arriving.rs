//! A stream that nobody has to wait for: readers fill buffers, and whoever owns the destinations takes what is there when
//! it suits.

use super::files::Files;
use super::readers::Readers;
use super::{Job, Sink, StreamError, StreamOptions};
use crate::error::Error;
use crate::index::Checkpoint;
use std::sync::Arc;

/// Bytes on their way, to be taken. Dropping it ends the reading.
pub struct Arriving<T> {
    jobs: Vec<Job<T>>,
    readers: Readers<Error>,
}

impl<T> Arriving<T> {
    /// Begins to read. Jobs come in the order of the list, but for those that are hastened.
    ///
    /// # Panics
    /// If a job's destination is not below `destinations`, or its shard none of the checkpoint's.
    pub fn start(
        checkpoint: &Checkpoint,
        jobs: Vec<Job<T>>,
        destinations: usize,
        options: &StreamOptions,
    ) -> Self {
        let mut files = Files::new(checkpoint.shared_shards(), options.direct);
        for Job { from, .. } in &jobs {
            files.expect(from.shard() as u32, from.bytes());
        }
        Self::of(Arc::new(files), jobs, destinations, options)
    }

    pub(super) fn of(
        source: Arc<dyn super::Source>,
        jobs: Vec<Job<T>>,
        destinations: usize,
        options: &StreamOptions,
    ) -> Self {
        let readers = Readers::start(source, &jobs, destinations, options);
        Self { jobs, readers }
    }

    /// Of a destination's jobs that nobody has begun to read, these come first.
    pub fn hasten(&mut self, destination: usize, wanted: impl Fn(&Job<T>) -> bool) {
        let wanted: Vec<bool> = self.jobs.iter().map(wanted).collect();
        self.readers.queue().change(destination, |cutter| cutter.hasten(&wanted));
    }

    /// Of a destination's jobs that nobody has begun to read, these do not come. The others may still, so that the sink
    /// has to be ready to throw them away.
    pub fn skip(&mut self, destination: usize, unwanted: impl Fn(&Job<T>) -> bool) {
        let unwanted: Vec<bool> = self.jobs.iter().map(unwanted).collect();
        self.readers.queue().change(destination, |cutter| cutter.skip(&unwanted));
    }

    /// Gives the sink what the next buffer of a destination has. `false` where there is none: none yet, unless `wait`, or
    /// none any more.
    ///
    /// # Errors
    /// A shard that is gone, was changed or cannot be read, or what the sink says. Nothing more comes then: what was not
    /// finished has to be started again.
    ///
    /// # Panics
    /// With a reader's own panic, or when asked again after an error.
    pub fn take<E>(
        &mut self,
        destination: usize,
        wait: bool,
        sink: &mut impl Sink<T, E>,
    ) -> Result<bool, StreamError<E>> {
        let queue = self.readers.queue();
        let next = if wait { queue.next_to_write(destination) } else { queue.next_if_read(destination) };
        let Some((batch, buffer)) = next else {
            return match queue.is_stopped() {
                true => Err(StreamError::Checkpoint(self.readers.failure())),
                false => Ok(false),
            };
        };
        for piece in &batch.pieces {
            let job = &self.jobs[piece.job];
            let mut written = sink.write(job, piece.offset, &buffer[piece.buffer.clone()]);
            if piece.last {
                written = written.and_then(|()| sink.finish(job));
            }
            if let Err(error) = written {
                queue.end();
                return Err(StreamError::Sink { destination, error });
            }
        }
        queue.has_written(destination, buffer);
        Ok(true)
    }
}

impl<T> Drop for Arriving<T> {
    fn drop(&mut self) {
        self.readers.queue().end();
    }
}
