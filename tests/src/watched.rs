//! An executor that passes everything on, and on the way counts, narrows or fails as a test wants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use porism_runtime::Error;
use porism_runtime::device::{Executor, OpenDevice, Staging, Tuning};
use porism_runtime::recording::{BufferId, Recording, View};

/// What is watched; shared with the test.
#[derive(Clone, Default)]
pub struct Watch {
    /// The device binds no more bytes at once than this.
    pub binding: Option<u64>,
    /// Bytes allocated so far.
    pub allocated: Arc<AtomicU64>,
    /// Submits until one runs out of memory; `None`: never.
    pub submits_left: Arc<Mutex<Option<u32>>>,
    /// Writes so far.
    pub writes: Arc<AtomicU64>,
    /// Writes until one runs out of memory; `None`: never.
    pub writes_left: Arc<Mutex<Option<u32>>>,
    /// Called before each write.
    pub before_write: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called before each submit.
    pub before_submit: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Whether this is the time at which memory runs out, once.
fn runs_out(left: &Mutex<Option<u32>>) -> Result<(), Error> {
    let mut left = left.lock().expect("no test panics holding it");
    if *left == Some(0) {
        *left = None;
        return Err(Error::OutOfMemory {
            device: "scarce".into(),
            label: "step".into(),
            bytes: 1,
            limit: "the driver has none left".into(),
        });
    }
    *left = left.map(|left| left - 1);
    Ok(())
}

/// Puts a watch between a device and the engine.
pub fn watched<'c>(mut device: OpenDevice<'c>, watch: &Watch) -> OpenDevice<'c> {
    device.executor = Box::new(Watched { executor: device.executor, watch: watch.clone() });
    device
}

struct Watched<'c> {
    executor: Box<dyn Executor<'c> + 'c>,
    watch: Watch,
}

impl<'c> Executor<'c> for Watched<'c> {
    fn tuning(&self) -> Tuning {
        let tuning = self.executor.tuning();
        Tuning { max_binding_bytes: self.watch.binding.unwrap_or(tuning.max_binding_bytes), ..tuning }
    }

    fn allocate(&mut self, label: &str, bytes: u64) -> Result<BufferId, Error> {
        self.watch.allocated.fetch_add(bytes, Ordering::Relaxed);
        self.executor.allocate(label, bytes)
    }

    fn allocate_weights(
        &mut self,
        label: &str,
        bytes: u64,
        pieces: Vec<(u64, &'c [u8])>,
    ) -> Result<BufferId, Error> {
        if let Some(binding) = self.watch.binding {
            assert!(bytes <= binding, "{label}: {bytes} bytes in a buffer, {binding} can be bound");
        }
        self.watch.allocated.fetch_add(bytes, Ordering::Relaxed);
        self.executor.allocate_weights(label, bytes, pieces)
    }

    fn maps_weights(&self) -> bool {
        self.executor.maps_weights()
    }

    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
        if let Some(before_write) = &self.watch.before_write {
            before_write();
        }
        runs_out(&self.watch.writes_left)?;
        self.watch.writes.fetch_add(1, Ordering::Relaxed);
        self.executor.write(to, bytes)
    }

    fn submit(&mut self, recording: &Recording) -> Result<(), Error> {
        if let Some(before_submit) = &self.watch.before_submit {
            before_submit();
        }
        runs_out(&self.watch.submits_left)?;
        self.executor.submit(recording)
    }

    fn complete(&mut self, recording: &Recording) -> Result<&[u8], Error> {
        self.executor.complete(recording)
    }

    fn last_pass_seconds(&self) -> Option<f64> {
        self.executor.last_pass_seconds()
    }

    fn set_staging(&mut self, staging: &Staging) -> Result<(), Error> {
        self.executor.set_staging(staging)
    }

    fn staging_bytes(&self) -> u64 {
        self.executor.staging_bytes()
    }

    fn submits(&self) -> u64 {
        self.executor.submits()
    }

    fn last_encode_seconds(&self) -> f64 {
        self.executor.last_encode_seconds()
    }
}
