//! Devices that are open.

use super::description::Device;
use super::executor::Executor;
use super::id::{DeviceId, DeviceSpec};
use super::nominal::Class;
use crate::error::Error;
use crate::gpu::{self, GpuExecutor};
use crate::host::HostExecutor;

/// A device that is ready to be loaded.
pub struct OpenDevice<'c> {
    /// Which, and how much of it.
    pub spec: DeviceSpec,
    /// For people.
    pub name: String,
    /// What runs its recordings.
    pub executor: Box<dyn Executor<'c> + 'c>,
    /// What it is. By that, and by nothing that is measured, it gets its part of the model.
    pub class: Class,
}

impl OpenDevice<'_> {
    /// Opens a device.
    ///
    /// # Errors
    /// A device that does not exist or cannot be used.
    pub fn open(spec: DeviceSpec) -> Result<Self, Error> {
        let DeviceId::Adapter(index) = spec.index else {
            let (name, executor) = ("host".into(), Box::new(HostExecutor::new()));
            return Ok(OpenDevice { spec, name, executor, class: Class::Host });
        };
        let gpu = gpu::open(index)?;
        let (name, class) = (gpu.profile.name.clone(), gpu.profile.class());
        let mut executor = GpuExecutor::new(gpu);
        executor.enable_timestamps();
        Ok(OpenDevice { spec, name, executor: Box::new(executor), class })
    }

    /// As the plan sees it.
    pub(crate) fn planned(&self) -> Device {
        let binding = self.executor.tuning().max_binding_bytes;
        Device::new(&self.spec.index.named(&self.name), self.class, self.spec.budget, binding)
    }
}
