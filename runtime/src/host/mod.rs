//! Runs recordings on the CPU with the kernels' twins. The oracle of the tests, and the fallback where no GPU is.

use porism_shaders::weights::WeightBytes;
use porism_shaders::{Bound, Call};

use crate::error::Error;
use crate::executor::{Executor, Tuning};
use crate::recording::{BufferId, Command, Dispatch, Groups, Recording, View};

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
#[derive(Default)]
pub struct HostExecutor<'c> {
    buffers: Vec<Buffer<'c>>,
    read_back: Vec<u8>,
}

impl<'c> HostExecutor<'c> {
    /// A host without buffers.
    pub fn new() -> Self {
        Self::default()
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
            (kernel.twin)(&mut Call { params, overrides: dispatch.overrides, groups, bindings });
        }
        for (index, words) in lent {
            self.buffers[index] = Buffer::Owned(words);
        }
    }
}

impl<'c> Executor<'c> for HostExecutor<'c> {
    fn tuning(&self) -> Tuning {
        Tuning { lanes_per_row: 1, max_binding_bytes: u64::MAX, max_buffer_bytes: u64::MAX }
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
        progress: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<BufferId, Error> {
        let bytes: u64 = pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        progress(bytes)?;
        self.buffers.push(Buffer::Weights(pieces));
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
        self.write_bytes(to, bytes);
        Ok(())
    }

    fn run(&mut self, recording: &Recording) -> Result<&[u8], Error> {
        self.read_back.clear();
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
        Ok(&self.read_back)
    }

    fn last_pass_seconds(&self) -> Option<f64> {
        None
    }
}
