//! A device on paper: it has every buffer and computes nothing, so a model of any size is recorded in no time. What the forward
//! pass asks of a GPU at the true shapes can so be looked at on any machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use porism_runtime::device::{Class, Executor, OpenDevice, Shape, Staging, Tuning};
use porism_runtime::recording::{BufferId, Command, Dispatch, Recording, View};
use porism_runtime::{DeviceId, Error};
use porism_shaders::Features;

/// Buffers longer than this are not kept: they hold weights and caches.
const KEPT: u64 = 64 << 20;

/// What a GPU is that passes every self-test.
pub const GPU: Tuning = Tuning {
    shape: Shape::Gpu,
    features: Features::HALF.with(Features::SHUFFLE),
    max_binding_bytes: (4 << 30) - 4,
};

/// What the host has written so far, by buffer.
#[derive(Debug, Default)]
pub struct Written {
    lengths: Vec<u64>,
    words: HashMap<u32, Vec<Option<u32>>>,
}

impl Written {
    fn write(&mut self, to: View, bytes: &[u8]) {
        let length = self.lengths[to.buffer.0 as usize];
        if length > KEPT {
            return;
        }
        let words = self.words.entry(to.buffer.0).or_insert_with(|| vec![None; (length / 4) as usize]);
        for (at, four) in bytes.chunks_exact(4).enumerate() {
            words[to.offset as usize / 4 + at] =
                Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        }
    }

    /// A word of a view, if the host has written it.
    pub fn word(&self, view: View, at: u32) -> Option<u32> {
        *self.words.get(&view.buffer.0)?.get(view.offset as usize / 4 + at as usize)?
    }
}

/// Called for each dispatch that is submitted.
pub type Reader = Box<dyn FnMut(&Dispatch, &Written) + Send>;

/// The device, and who reads what it is asked for.
pub fn paper<'c>(reader: Arc<Mutex<Option<Reader>>>) -> OpenDevice<'c> {
    let executor = Paper { written: Written::default(), reader, read: Vec::new() };
    let class = Class::Discrete;
    OpenDevice {
        spec: DeviceId::Adapter(0).into(),
        name: "paper".into(),
        executor: Box::new(executor),
        class,
    }
}

struct Paper {
    written: Written,
    reader: Arc<Mutex<Option<Reader>>>,
    read: Vec<u8>,
}

impl<'c> Executor<'c> for Paper {
    fn tuning(&self) -> Tuning {
        GPU
    }

    fn allocate(&mut self, _label: &str, bytes: u64) -> Result<BufferId, Error> {
        self.written.lengths.push(bytes);
        Ok(BufferId(self.written.lengths.len() as u32 - 1))
    }

    fn allocate_weights(
        &mut self,
        label: &str,
        bytes: u64,
        _pieces: Vec<(u64, &'c [u8])>,
    ) -> Result<BufferId, Error> {
        Executor::allocate(self, label, bytes)
    }

    fn maps_weights(&self) -> bool {
        true
    }

    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
        self.written.write(to, bytes);
        Ok(())
    }

    fn submit(&mut self, recording: &Recording) -> Result<(), Error> {
        let mut reader = self.reader.lock().expect("no reader panics");
        self.read.clear();
        for command in recording.commands() {
            match command {
                Command::Upload { to, from } => {
                    self.written.write(*to, recording.upload_bytes(*to, *from));
                }
                Command::Dispatch(dispatch) => {
                    if let Some(reader) = reader.as_mut() {
                        reader(dispatch, &self.written);
                    }
                }
                Command::Copy { .. } => {}
                Command::Read(view) => self.read.resize(self.read.len() + view.bytes as usize, 0),
            }
        }
        Ok(())
    }

    fn complete(&mut self, _recording: &Recording) -> Result<&[u8], Error> {
        Ok(&self.read)
    }

    fn last_pass_seconds(&self) -> Option<f64> {
        None
    }

    fn set_staging(&mut self, _staging: &Staging) -> Result<(), Error> {
        Ok(())
    }

    fn staging_bytes(&self) -> u64 {
        0
    }

    fn submits(&self) -> u64 {
        0
    }
}
