//! Experts that come after the engine is there: they are read while tokens are computed, and written between two steps,
//! by the thread that drives the devices. A step waits for those that it needs, and these are read before all others; what
//! it computes does not depend on when they came.

use std::collections::BTreeMap;

use porism_loader::stream::{Arriving, Job, Sink, StreamOptions};
use porism_loader::{Checkpoint, LayerRole, Role};

use super::load::{Device, Fill, failure};
use super::slots::Key;
use crate::device::Executor;
use crate::error::Error;
use crate::recording::View;

/// Buffers take no more than this part of what is to come: what is in them comes before what is wanted now.
const PART_IN_BUFFERS: u64 = 16;

/// What is on its way.
pub struct Arrivals<'c> {
    checkpoint: &'c Checkpoint,
    /// Whether codes are looked through.
    check: bool,
    /// Bytes for each device that are written between two steps.
    per_step: u64,
    /// What has not been written, by device and expert.
    open: Vec<BTreeMap<Key, Vec<Fill>>>,
    /// Bytes of a tensor that do not fill a word yet, by device.
    unaligned: Vec<Vec<u8>>,
    /// None when all is there, and after something went wrong: what is open is then read again.
    stream: Option<Arriving<View>>,
}

/// The expert to which a tensor belongs.
pub(crate) fn expert_of(role: Role) -> Option<Key> {
    match role {
        Role::Layer { layer, part: LayerRole::Expert { expert, .. } } => Some((layer, expert)),
        _ => None,
    }
}

impl<'c> Arrivals<'c> {
    /// Begins to read matrices of experts for each device, of which `per_step` bytes are written between two steps.
    pub fn new(checkpoint: &'c Checkpoint, fills: Vec<Vec<Fill>>, check: bool, per_step: u64) -> Self {
        let mut open: Vec<BTreeMap<Key, Vec<Fill>>> = Vec::new();
        for fills in fills {
            let mut of_device: BTreeMap<Key, Vec<Fill>> = BTreeMap::new();
            for fill in fills {
                let key = expert_of(fill.from.role()).expect("only experts come later");
                of_device.entry(key).or_default().push(fill);
            }
            open.push(of_device);
        }
        let unaligned = vec![vec![]; open.len()];
        let mut arrivals = Arrivals { checkpoint, check, per_step, open, unaligned, stream: None };
        arrivals.begin();
        arrivals
    }

    /// Bytes that have not been written.
    pub fn bytes(&self) -> u64 {
        self.open.iter().flat_map(BTreeMap::values).flatten().map(|fill| fill.from.bytes()).sum()
    }

    /// Whether all is there.
    pub fn is_done(&self) -> bool {
        self.open.iter().all(BTreeMap::is_empty)
    }

    /// Whether experts of a layer are on their way to a device.
    pub fn has(&self, device: usize, layer: u32) -> bool {
        self.open[device].range((layer, 0)..=(layer, u32::MAX)).next().is_some()
    }

    /// Waits for these experts of a layer, which are read before all others.
    ///
    /// # Errors
    /// A shard that is gone, was changed or cannot be read, codes that are not numbers, or a device that fails. What did
    /// not arrive is read again when it is asked for again.
    pub fn wait_for(
        &mut self,
        device: usize,
        executor: &mut (dyn Executor<'c> + 'c),
        layer: u32,
        experts: &[u32],
    ) -> Result<(), Error> {
        let lacks = |open: &BTreeMap<Key, Vec<Fill>>| {
            experts.iter().any(|expert| open.contains_key(&(layer, *expert)))
        };
        if !lacks(&self.open[device]) {
            return Ok(());
        }
        self.begin();
        if let Some(stream) = &mut self.stream {
            stream.hasten(device, |job| {
                expert_of(job.from.role()).is_some_and(|key| key.0 == layer && experts.contains(&key.1))
            });
        }
        while lacks(&self.open[device]) {
            let taken = self.take(device, executor, true)?;
            assert!(taken.is_some(), "whatever is open is on its way");
        }
        Ok(())
    }

    /// Writes what was read for a device meanwhile, as much as may be in one step.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn write_some(&mut self, device: usize, executor: &mut (dyn Executor<'c> + 'c)) -> Result<(), Error> {
        self.begin();
        let mut written = 0;
        while written < self.per_step && !self.open[device].is_empty() {
            match self.take(device, executor, false)? {
                Some(bytes) => written += bytes,
                None => break,
            }
        }
        Ok(())
    }

    /// Waits for the next buffer of a device that lacks something, and writes it.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn write_next(&mut self, device: usize, executor: &mut (dyn Executor<'c> + 'c)) -> Result<(), Error> {
        self.begin();
        if !self.open[device].is_empty() {
            self.take(device, executor, true)?;
        }
        Ok(())
    }

    /// Forgets experts that a device has no place for any more, and says which.
    pub fn keep(&mut self, device: usize, keep: impl Fn(Key) -> bool) -> Vec<Key> {
        let gone: Vec<Key> = self.open[device].keys().copied().filter(|key| !keep(*key)).collect();
        if gone.is_empty() {
            return gone;
        }
        self.open[device].retain(|key, _| keep(*key));
        if let Some(stream) = &mut self.stream {
            stream.skip(device, |job| expert_of(job.from.role()).is_none_or(|key| gone.contains(&key)));
        }
        gone
    }

    /// Ends the reading; what is open is read again when it is wanted.
    pub fn stop(&mut self) {
        self.stream = None;
    }

    /// Begins to read, unless that is going on or there is nothing to be read.
    fn begin(&mut self) {
        if self.stream.is_some() || self.is_done() {
            return;
        }
        let mut jobs = Vec::new();
        for (destination, open) in self.open.iter().enumerate() {
            let fills = open.values().flatten().cloned();
            jobs.extend(fills.map(|fill| Job { destination, from: fill.from, tag: fill.to }));
        }
        // In the order of the files.
        jobs.sort_by_key(|job| (job.destination, job.from.shard(), job.from.range().start));
        self.unaligned.iter_mut().for_each(Vec::clear);
        let options = StreamOptions::default();
        let memory = options.memory.min(self.bytes() / PART_IN_BUFFERS);
        let options = StreamOptions { memory, ..options };
        self.stream = Some(Arriving::start(self.checkpoint, jobs, self.open.len(), &options));
    }

    /// Writes a buffer and says how many bytes that were.
    fn take(
        &mut self,
        device: usize,
        executor: &mut (dyn Executor<'c> + 'c),
        wait: bool,
    ) -> Result<Option<u64>, Error> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let check = self.check.then_some(self.checkpoint);
        let unaligned = &mut self.unaligned[device];
        let written = Device { executor, checkpoint: check, unaligned };
        let mut sink = Destination { device: written, open: &mut self.open[device], bytes: 0 };
        let result = stream.take(device, wait, &mut sink);
        let bytes = sink.bytes;
        match result {
            Ok(taken) => Ok(taken.then_some(bytes)),
            Err(error) => {
                self.stream = None;
                Err(failure(error))
            }
        }
    }
}

/// A device and what it lacks.
struct Destination<'e, 'c> {
    device: Device<'e, 'c>,
    open: &'e mut BTreeMap<Key, Vec<Fill>>,
    bytes: u64,
}

impl Destination<'_, '_> {
    /// What came for an expert that was forgotten meanwhile has no place: another is there.
    fn wants(&self, job: &Job<View>) -> bool {
        expert_of(job.from.role()).is_some_and(|key| self.open.contains_key(&key))
    }
}

impl Sink<View, Error> for Destination<'_, '_> {
    fn write(&mut self, job: &Job<View>, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        if self.wants(job) { self.device.write(job, offset, bytes) } else { Ok(()) }
    }

    fn finish(&mut self, job: &Job<View>) -> Result<(), Error> {
        if !self.wants(job) {
            return Ok(());
        }
        self.device.finish(job)?;
        if let Some(key) = expert_of(job.from.role())
            && let Some(fills) = self.open.get_mut(&key)
        {
            fills.retain(|fill| fill.to != job.tag);
            if fills.is_empty() {
                self.open.remove(&key);
            }
        }
        Ok(())
    }
}
