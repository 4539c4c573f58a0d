//! Everything that names wgpu: adapters, their self-test, and the executor that runs recordings on one of them.

mod device;
mod engine;
mod selftest;
mod uploads;

pub use device::{Card, DeviceIndex, DeviceProfile, Gpu, Limits, adapters, no_such_device, open};
pub use engine::GpuExecutor;
pub use selftest::{SelfTest, Verdict};
