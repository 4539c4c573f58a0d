//! Runs recordings on the CPU, reading weights where the memory map has them. The kernels that take the time are
//! computed with vectors (`vectorised.rs` lists them), the others by their twins.

use porism_shaders::weights::WeightBytes;
use porism_shaders::{Bound, Call};

use crate::device::{Executor, Staging, Tuning};
use crate::error::Error;
use crate::recording::{BufferId, Command, Dispatch, Groups, Recording, View};

mod attention;
mod dots;
mod kernels;
mod simd;
mod vectorised;

pub use simd::Path;

/// A buffer on the host.
enum Buffer<'c> {
    /// Memory of our own; u32 so that casts to f32 and u32 are aligned.
    Owned(Vec<u32>),
    /// Checkpoint bytes where the memory map has them.
    Weights(Vec<(u64, &'c [u8])>),
    /// Lent to the running twin.
    Lent,
}

/// The CPU as a device.
pub struct HostExecutor<'c> {
    /// The instruction set, or none where all is left to the twins.
    path: Option<Path>,
    buffers: Vec<Buffer<'c>>,
    read_back: Vec<u8>,
    /// Bytes of `read_back` that the plan has, where there is one: what takes more gives it back.
    read_back_bytes: Option<usize>,
    /// Kept so that kernels need not ask for memory again.
    scratch: [Vec<f32>; 2],
    /// Recordings run so far.
    submits: u64,
}

impl Default for HostExecutor<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'c> HostExecutor<'c> {
    /// A host without buffers that uses the best of the processor.
    pub fn new() -> Self {
        Self::with(Some(Path::best()))
    }

    /// A host that runs the twins of all kernels: the oracle of the tests.
    pub fn twins() -> Self {
        Self::with(None)
    }

    /// A host that computes with one instruction set, or with the twins.
    pub fn with(path: Option<Path>) -> Self {
        HostExecutor {
            path,
            buffers: Vec::new(),
            read_back: Vec::new(),
            read_back_bytes: None,
            scratch: Default::default(),
            submits: 0,
        }
    }

    fn bytes(&self, view: View) -> &[u8] {
        let range = view.offset as usize..(view.offset + view.bytes) as usize;
        match &self.buffers[view.buffer.0 as usize] {
            Buffer::Owned(words) => &bytemuck::cast_slice(words)[range],
            Buffer::Weights(_) => panic!("checkpoint bytes are read by kernels only"),
            Buffer::Lent => panic!("a buffer that is written is bound only once"),
        }
    }

    fn write_bytes(&mut self, to: View, bytes: &[u8]) {
        match &mut self.buffers[to.buffer.0 as usize] {
            Buffer::Owned(words) => {
                bytemuck::cast_slice_mut(words)[to.offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            _ => panic!("checkpoint bytes are never written"),
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch) {
        let kernel = dispatch.kernel.kernel();
        let groups = match dispatch.groups {
            Groups::Direct(groups) => groups,
            Groups::Indirect(view) => bytemuck::pod_read_unaligned(&self.bytes(view)[..12]),
        };
        let views = dispatch.bindings();
        let mut scratch = std::mem::take(&mut self.scratch);
        // Buffers that are written leave the table for the time of the call, the others are borrowed from it.
        let mut lent: Vec<(usize, Vec<u32>)> = Vec::new();
        for (view, binding) in views.iter().zip(kernel.bindings) {
            if binding.writes {
                let slot = &mut self.buffers[view.buffer.0 as usize];
                match std::mem::replace(slot, Buffer::Lent) {
                    Buffer::Owned(words) => lent.push((view.buffer.0 as usize, words)),
                    _ => panic!("{}: `{}` cannot be written", dispatch.label, binding.name),
                }
            }
        }
        {
            let mut writable = lent.iter_mut();
            let bindings = views
                .iter()
                .zip(kernel.bindings)
                .map(|(view, binding)| {
                    let range = view.offset as usize..(view.offset + view.bytes) as usize;
                    if binding.writes {
                        let words = &mut writable.next().expect("lent above").1;
                        return Bound::Write(&mut bytemuck::cast_slice_mut(words)[range]);
                    }
                    match &self.buffers[view.buffer.0 as usize] {
                        Buffer::Owned(words) => Bound::Read(&bytemuck::cast_slice(words)[range]),
                        Buffer::Weights(pieces) => Bound::Weights(WeightBytes::Pieces(pieces, view.offset)),
                        Buffer::Lent => {
                            panic!("{}: the buffer of `{}` is also written", dispatch.label, binding.name)
                        }
                    }
                })
                .collect();
            let params = &dispatch.params[..kernel.params_bytes as usize];
            let mut call = Call { params, constants: dispatch.constants, groups, bindings };
            match self.path.and_then(|path| Some((path, vectorised::of(dispatch.kernel)?))) {
                Some((path, run)) => run(path, &mut scratch, &mut call),
                None => (kernel.twin)(&mut call),
            }
        }
        self.scratch = scratch;
        for (index, words) in lent {
            self.buffers[index] = Buffer::Owned(words);
        }
    }
}

impl<'c> Executor<'c> for HostExecutor<'c> {
    fn tuning(&self) -> Tuning {
        Tuning::HOST
    }

    fn allocate(&mut self, label: &str, bytes: u64) -> Result<BufferId, Error> {
        let words = usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX);
        let mut buffer: Vec<u32> = Vec::new();
        buffer.try_reserve_exact(words).map_err(|_| Error::OutOfMemory {
            device: "host".into(),
            label: label.into(),
            bytes,
            limit: "the operating system refused it".into(),
        })?;
        buffer.resize(words, 0);
        self.buffers.push(Buffer::Owned(buffer));
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn allocate_weights(
        &mut self,
        _label: &str,
        _bytes: u64,
        pieces: Vec<(u64, &'c [u8])>,
    ) -> Result<BufferId, Error> {
        self.buffers.push(Buffer::Weights(pieces));
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn maps_weights(&self) -> bool {
        true
    }

    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
        self.write_bytes(to, bytes);
        Ok(())
    }

    fn submit(&mut self, recording: &Recording) -> Result<(), Error> {
        // On a thread of the pool: threads that share out work of their own need not be woken for every kernel.
        rayon::scope(|_| self.run_here(recording));
        Ok(())
    }

    fn complete(&mut self, _recording: &Recording) -> Result<&[u8], Error> {
        Ok(&self.read_back)
    }

    fn last_pass_seconds(&self) -> Option<f64> {
        None
    }

    fn set_staging(&mut self, staging: &Staging) -> Result<(), Error> {
        let refuse = |bytes: u64| Error::OutOfMemory {
            device: "host".into(),
            label: "staging".into(),
            bytes,
            limit: "the operating system refused it".into(),
        };
        let read_back = usize::try_from(staging.read_back).unwrap_or(usize::MAX);
        self.read_back = Vec::new();
        self.read_back.try_reserve_exact(read_back).map_err(|_| refuse(staging.read_back))?;
        self.read_back_bytes = Some(read_back);
        for (scratch, values) in self.scratch.iter_mut().zip(staging.scratch) {
            *scratch = Vec::new();
            let length = usize::try_from(values).unwrap_or(usize::MAX);
            scratch.try_reserve_exact(length).map_err(|_| refuse(4 * values))?;
        }
        Ok(())
    }

    fn staging_bytes(&self) -> u64 {
        let values: usize = self.scratch.iter().map(Vec::capacity).sum();
        (self.read_back.capacity() + 4 * values) as u64
    }

    fn submits(&self) -> u64 {
        self.submits
    }
}

impl HostExecutor<'_> {
    fn run_here(&mut self, recording: &Recording) {
        self.read_back.clear();
        self.read_back.shrink_to(self.read_back_bytes.unwrap_or(usize::MAX));
        self.submits += 1;
        for command in recording.commands() {
            match command {
                Command::Upload { to, from } => self.write_bytes(*to, recording.upload_bytes(*to, *from)),
                Command::Dispatch(dispatch) => self.dispatch(dispatch),
                Command::Copy { from, to } => {
                    let bytes = self.bytes(*from).to_vec();
                    self.write_bytes(*to, &bytes);
                }
                Command::Read(view) => {
                    let mut read_back = std::mem::take(&mut self.read_back);
                    read_back.extend_from_slice(self.bytes(*view));
                    self.read_back = read_back;
                }
            }
        }
    }
}
