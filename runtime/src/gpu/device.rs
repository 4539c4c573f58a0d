//! Adapters: which there are, what they offer, and how one is opened.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::selftest::{self, SelfTest};
use crate::error::Error;
use crate::plan::{Class, Device};
use crate::recording::Dispatch;

/// A device by the number `porism devices` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceIndex {
    /// An adapter.
    Adapter(usize),
    /// The CPU.
    Host,
}

impl DeviceIndex {
    /// The name of a device of this number, which tells equal ones apart.
    pub fn named(self, name: &str) -> String {
        match self {
            DeviceIndex::Adapter(index) => format!("{index}: {name}"),
            DeviceIndex::Host => name.to_owned(),
        }
    }
}

impl Serialize for DeviceIndex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DeviceIndex::Adapter(index) => serializer.serialize_u64(*index as u64),
            DeviceIndex::Host => serializer.serialize_str("host"),
        }
    }
}

/// The limits that decide how a model is laid out on an adapter.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are WebGPU's")]
pub struct Limits {
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
    pub max_storage_buffers_per_shader_stage: u32,
    pub max_compute_workgroup_storage_size: u32,
    pub max_compute_invocations_per_workgroup: u32,
    pub max_compute_workgroups_per_dimension: u32,
    pub min_storage_buffer_offset_alignment: u32,
    pub max_immediate_size: u32,
    pub min_subgroup_size: u32,
    pub max_subgroup_size: u32,
}

/// An adapter as `porism devices` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceProfile {
    /// Its number.
    pub index: DeviceIndex,
    /// E.g. `AMD Radeon RX 7900 XTX`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl`.
    pub backend: String,
    /// `discrete-gpu`, `integrated-gpu`, `virtual-gpu`, `cpu`, `other`.
    pub device_type: String,
    /// Name of the driver.
    pub driver: String,
    /// Version of the driver.
    pub driver_info: String,
    /// Bytes of its memory, where the driver tells.
    pub memory_bytes: Option<u64>,
    /// What it offers.
    pub limits: Limits,
    /// Optional WebGPU features that Porism may use.
    pub features: Vec<String>,
    /// Verdicts of the self-test; empty until it has run.
    pub selftest: Vec<SelfTest>,
    /// The card that it is on.
    #[serde(skip)]
    pub card: Card,
}

/// What tells physical cards apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Ids of who made it and what it is, as its backend has them.
    pub ids: [u32; 2],
    /// Where it is plugged in; empty where the backend does not tell.
    pub bus: String,
}

impl DeviceProfile {
    /// Whether it is a driver that computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.class() == Class::Software
    }

    /// As a plan sees it, with so many bytes of its memory to be used.
    pub fn planned(&self, budget: Option<u64>) -> Device {
        let binding = self.limits.max_storage_buffer_binding_size;
        Device::new(&self.index.named(&self.name), self.class(), budget, binding)
    }

    /// What it is to a plan.
    pub fn class(&self) -> Class {
        match self.device_type.as_str() {
            "discrete-gpu" => Class::Discrete,
            "integrated-gpu" => Class::Integrated,
            "cpu" => Class::Software,
            _ => Class::Other,
        }
    }
}

/// An opened adapter.
#[derive(Clone)]
pub struct Gpu {
    /// What it is.
    pub profile: DeviceProfile,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// `@if` features of kernels that are on here.
    pub(crate) kernel_features: Vec<&'static str>,
    /// Set by the driver when the device is gone.
    pub(crate) lost: Arc<Mutex<Option<String>>>,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    // wgpu checks indirect arguments with a hidden dispatch per indirect call. Ours are written by our own kernels,
    // which clamp them.
    descriptor.flags.remove(wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL);
    wgpu::Instance::new(descriptor)
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let mut found = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    // Real GPUs first, in a stable order.
    found.sort_by_key(|adapter| {
        let info = adapter.get_info();
        let rank = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        (rank, info.name.clone(), info.driver_info.clone())
    });
    found
}

/// The adapters of this machine, without self-test.
pub fn adapters() -> Vec<DeviceProfile> {
    enumerate().iter().enumerate().map(|(index, adapter)| profile(index, adapter)).collect()
}

fn profile(index: usize, adapter: &wgpu::Adapter) -> DeviceProfile {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = [
        (wgpu::Features::SUBGROUP, "subgroup"),
        (wgpu::Features::SHADER_F16, "shader-f16"),
        (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
        (wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, "mappable-primary-buffers"),
        (wgpu::Features::IMMEDIATES, "immediates"),
    ]
    .into_iter()
    .filter(|(feature, _)| adapter.features().contains(*feature))
    .map(|(_, name)| name.to_owned())
    .collect();
    let device_type = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete-gpu",
        wgpu::DeviceType::IntegratedGpu => "integrated-gpu",
        wgpu::DeviceType::VirtualGpu => "virtual-gpu",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    };
    DeviceProfile {
        index: DeviceIndex::Adapter(index),
        name: info.name,
        backend: info.backend.to_string().to_lowercase(),
        device_type: device_type.to_owned(),
        driver: info.driver,
        driver_info: info.driver_info,
        memory_bytes: memory_bytes(adapter),
        limits: Limits {
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            max_immediate_size: limits.max_immediate_size,
            min_subgroup_size: info.subgroup_min_size,
            max_subgroup_size: info.subgroup_max_size,
        },
        features,
        selftest: Vec::new(),
        card: Card { ids: [info.vendor, info.device], bus: info.device_pci_bus_id },
    }
}

/// Bytes of an adapter's memory. WebGPU does not tell; Vulkan does. Metal and D3D12 would through crates that nothing else
/// here needs, so that on those a budget has to be given.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    /// VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: nothing of the adapter is destroyed or kept; the guard outlives the query.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is of this instance, and both live as long as the guard.
    let properties = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = properties.memory_heaps.iter().take(properties.memory_heap_count as usize);
    // A card whose memory the host sees a part of has a heap for that part.
    let local = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    Some(local.map(|heap| heap.size).sum()).filter(|bytes| *bytes > 0)
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn memory_bytes(_adapter: &wgpu::Adapter) -> Option<u64> {
    None
}

/// Opens adapter `index` and runs its self-test. Paths that fail are switched off; an adapter that fails a test every
/// model needs is refused.
pub fn open(index: usize) -> Result<Gpu, Error> {
    let mut gpu = open_untested(index)?;
    selftest::run(&mut gpu)?;
    Ok(gpu)
}

/// There are only `count` adapters.
pub fn no_such_device(index: usize, count: usize) -> Error {
    let found = match count {
        0 => "no adapter".to_owned(),
        1 => "only device 0".to_owned(),
        count => format!("devices 0 to {}", count - 1),
    };
    Error::NoSuchDevice { index, found }
}

fn open_untested(index: usize) -> Result<Gpu, Error> {
    let found = enumerate();
    let Some(adapter) = found.get(index) else { return Err(no_such_device(index, found.len())) };
    let profile = profile(index, adapter);
    let wanted = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::IMMEDIATES;
    let l = &profile.limits;
    let immediates = adapter.features().contains(wgpu::Features::IMMEDIATES);
    for (what, found, needed) in [
        (
            "bytes of immediate data",
            if immediates { l.max_immediate_size } else { 0 },
            Dispatch::MAX_PARAMS as u32,
        ),
        ("storage buffers per kernel", l.max_storage_buffers_per_shader_stage, Dispatch::MAX_BINDINGS as u32),
        ("bytes of workgroup memory", l.max_compute_workgroup_storage_size, 32 << 10),
        ("threads per workgroup", l.max_compute_invocations_per_workgroup, 256),
    ] {
        if found < needed {
            let reason =
                format!("its driver offers {found} {what}, {needed} are needed; a newer driver may help");
            return Err(Error::OpenDevice { device: profile.name, reason });
        }
    }
    let opened = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("porism"),
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    }));
    let (device, queue) = opened
        .map_err(|error| Error::OpenDevice { device: profile.name.clone(), reason: error.to_string() })?;
    let lost: Arc<Mutex<Option<String>>> = Arc::default();
    let flag = Arc::clone(&lost);
    device.set_device_lost_callback(move |reason, message| {
        *flag.lock().expect("never poisoned") = Some(format!("{reason:?}: {message}"));
    });
    // Errors are taken by scopes; one that slips through must not abort the process.
    device.on_uncaptured_error(Arc::new(|error: wgpu::Error| tracing::error!("outside any scope: {error}")));
    let mut kernel_features = Vec::new();
    // One load shared by eight lanes pays where lanes are CPU vector lanes; GPUs do it by themselves.
    if profile.is_software()
        && device.features().contains(wgpu::Features::SUBGROUP)
        && profile.limits.min_subgroup_size >= 8
    {
        kernel_features.push("broadcast");
    }
    Ok(Gpu { profile, device, queue, kernel_features, lost })
}
