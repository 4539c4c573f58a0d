//! What the CPU side has.

use std::path::Path;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The host as a device.
#[derive(Clone, Debug, Serialize)]
pub struct HostProfile {
    /// E.g. `AMD EPYC 9654`.
    pub name: String,
    /// Threads that run at once.
    pub cores: usize,
    /// Bytes of memory, those of the container where one sets a limit; 0 where the system does not say.
    pub memory_bytes: u64,
    /// Bytes of it that can be had now, those among them that hold pages of files.
    pub available_bytes: u64,
    /// Instruction sets that matter here.
    pub features: Vec<&'static str>,
}

impl HostProfile {
    /// Asks the system.
    pub fn read() -> Self {
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::everything());
        let system = System::new_with_specifics(wanted).ok();
        let (mut memory_bytes, mut available_bytes) =
            system.as_ref().map_or((0, 0), |system| (system.total_memory(), system.available_memory()));
        let limits = system.as_ref().and_then(System::cgroup_limits);
        if let Some(limits) = limits.filter(|limits| limits.total_memory > 0) {
            memory_bytes = memory_bytes.min(limits.total_memory);
            // Pages of files count as used, and are given back when something else is wanted.
            available_bytes = available_bytes.min(limits.total_memory.saturating_sub(limits.rss));
        }
        let brand =
            system.as_ref().and_then(|system| system.cpus().first()).map_or("", |cpu| cpu.brand()).trim();
        Self {
            name: if brand.is_empty() { System::cpu_arch() } else { brand.to_owned() },
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes,
            available_bytes,
            features: features(),
        }
    }
}

/// Bytes that can be written where a path is or would be; `None` where the system does not say.
pub fn free_space(place: &Path) -> Option<u64> {
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    // What is not there yet would be made in the nearest folder above that is.
    let place = place.ancestors().find_map(|place| {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        place.canonicalize().ok()
    })?;
    // The mount point that is nearest above it.
    let holding = disks.iter().filter(|disk| place.starts_with(disk.mount_point()));
    holding.max_by_key(|disk| disk.mount_point().components().count()).map(sysinfo::Disk::available_space)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::arch::is_x86_feature_detected!("avx512bw")),
    ];
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    vec!["neon"]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
