//! What the forward pass needs of a device, whichever it is.

use super::staging::Staging;
use super::tuning::Tuning;
use crate::error::Error;
use crate::recording::{BufferId, Recording, View};

/// A device that holds buffers and runs recordings.
pub trait Executor<'c>: Send {
    /// How kernels are best shaped here.
    fn tuning(&self) -> Tuning;

    /// A zeroed buffer of `bytes` bytes for activations, caches and small tables.
    fn allocate(&mut self, label: &str, bytes: u64) -> Result<BufferId, Error>;

    /// A buffer for checkpoint bytes: the pieces `(offset, bytes)`, ascending, 16-byte aligned. Where
    /// [`Executor::maps_weights`], the references are kept; elsewhere only room is made, and the bytes are written later.
    fn allocate_weights(
        &mut self,
        label: &str,
        bytes: u64,
        pieces: Vec<(u64, &'c [u8])>,
    ) -> Result<BufferId, Error>;

    /// Whether weights are used where the memory map has them.
    fn maps_weights(&self) -> bool;

    /// Writes to a buffer outside any recording: after all that was submitted, before all that will be.
    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error>;

    /// Hands a recording to the device, to be run after all that was submitted before. An adapter works on it while the
    /// caller goes on; the host runs it at once.
    fn submit(&mut self, recording: &Recording) -> Result<(), Error>;

    /// Waits for all that was submitted and returns the bytes of the reads of `recording`, which was the last, in order.
    fn complete(&mut self, recording: &Recording) -> Result<&[u8], Error>;

    /// Runs a recording to its end and returns the bytes of its reads, in order.
    fn run(&mut self, recording: &Recording) -> Result<&[u8], Error> {
        self.submit(recording)?;
        self.complete(recording)
    }

    /// Seconds between the first and the last timestamp of the passes of the recording completed last, where the device
    /// can tell.
    fn last_pass_seconds(&self) -> Option<f64>;

    /// Takes what the plan has for it besides buffers, and from then on no more.
    ///
    /// # Errors
    /// A device that refuses it.
    fn set_staging(&mut self, staging: &Staging) -> Result<(), Error>;

    /// Bytes that it has besides buffers, those among them that the driver takes for uploads on their way.
    fn staging_bytes(&self) -> u64;

    /// Recordings handed to the device so far, one submit each.
    fn submits(&self) -> u64;

    /// Seconds the CPU took to turn the last recording into commands of the device; 0 where there is no such step.
    fn last_encode_seconds(&self) -> f64 {
        0.0
    }
}

/// Runs one case of a kernel and returns the bytes of each of its buffers afterwards.
pub fn run_case(
    executor: &mut dyn Executor<'_>,
    kernel: porism_shaders::KernelId,
    case: &porism_shaders::Case,
) -> Result<Vec<Vec<u8>>, Error> {
    use crate::recording::{Dispatch, Groups, Label};
    let mut views = Vec::new();
    for (buffer, binding) in case.buffers.iter().zip(kernel.kernel().bindings) {
        let bytes = buffer.initial();
        let size = bytes.len().next_multiple_of(16).max(16) as u64;
        let view = View { buffer: executor.allocate(binding.name, size)?, offset: 0, bytes: size };
        let mut padded = bytes;
        padded.resize(size as usize, 0);
        executor.write(view, &padded)?;
        views.push(view);
    }
    let mut recording = Recording::default();
    let label = Label { what: kernel.kernel().name, layer: None };
    let program = (kernel, executor.tuning().features.without(case.without), case.constants);
    let mut dispatch = Dispatch::from_bytes(program, &case.params, Groups::Direct(case.groups), label);
    views.iter().for_each(|view| dispatch.bind(*view));
    recording.dispatch(dispatch);
    for view in &views {
        recording.read(*view);
    }
    let all = executor.run(&recording)?;
    let mut at = 0;
    Ok(case
        .buffers
        .iter()
        .zip(&views)
        .map(|(buffer, view)| {
            let bytes = all[at..at + buffer.initial().len()].to_vec();
            at += view.bytes as usize;
            bytes
        })
        .collect())
}
