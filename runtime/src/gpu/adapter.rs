//! Adapters: which there are, what they offer, and how one is opened.

use std::sync::{Arc, Mutex};

use crate::device::{Card, DeviceId, DeviceProfile, Limits, Shape, Tuning};
use crate::error::Error;
use crate::recording::Dispatch;

/// An opened adapter.
#[derive(Clone)]
pub struct Gpu {
    /// What it is.
    pub profile: DeviceProfile,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// How kernels are shaped for it.
    pub(crate) tuning: Tuning,
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
        index: DeviceId::Adapter(index),
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

/// There are only `count` adapters.
pub fn no_such_device(index: usize, count: usize) -> Error {
    let found = match count {
        0 => "no adapter".to_owned(),
        1 => "only device 0".to_owned(),
        count => format!("devices 0 to {}", count - 1),
    };
    Error::NoSuchDevice { index, found }
}

/// Opens adapter `index` without a self-test.
pub(super) fn open(index: usize) -> Result<Gpu, Error> {
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
    let tuning = Tuning::of(&profile, device.features().contains(wgpu::Features::SUBGROUP), Shape::asked());
    Ok(Gpu { profile, device, queue, tuning, lost })
}
