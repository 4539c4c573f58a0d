//! Everything that names wgpu: adapters, their self-test, and the executor that runs recordings on one of them.

mod adapter;
mod executor;
mod selftest;
mod uploads;

pub use adapter::{Gpu, adapters, no_such_device};
pub use executor::GpuExecutor;

use crate::error::Error;

/// Opens adapter `index` and runs its self-test. Paths that fail are switched off; an adapter that fails a test every
/// model needs is refused.
///
/// # Errors
/// An adapter that does not exist, cannot be opened, or computes wrongly.
pub fn open(index: usize) -> Result<Gpu, Error> {
    let mut gpu = adapter::open(index)?;
    selftest::run(&mut gpu)?;
    Ok(gpu)
}
