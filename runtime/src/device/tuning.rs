//! How kernels are shaped for a device.

use porism_shaders::Features;

use super::profile::DeviceProfile;

/// How kernels are best shaped for a device. Part of the device plan: changing it may change the last bits of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Threads that share a row in a mat-vec: 1 where threads are lanes of a CPU, more where loads must coalesce.
    pub lanes_per_row: u32,
    /// Optional features of kernels that are on.
    pub features: Features,
    /// Largest view that can be bound, in bytes.
    pub max_binding_bytes: u64,
}

impl Tuning {
    /// For the CPU: no view is too large, and its kernels have no optional features.
    pub const HOST: Tuning =
        Tuning { lanes_per_row: 1, features: Features::NONE, max_binding_bytes: u64::MAX };

    /// For an adapter, before its self-test; `subgroups` says whether its device offers subgroup operations.
    pub fn of(profile: &DeviceProfile, subgroups: bool) -> Self {
        let software = profile.is_software();
        let mut features = Features::NONE;
        // One load shared by eight lanes pays where lanes are CPU vector lanes; GPUs do it by themselves.
        if software && subgroups && profile.limits.min_subgroup_size >= 8 {
            features = features.with(Features::BROADCAST);
        }
        Tuning {
            lanes_per_row: if software { 1 } else { 8 },
            features,
            max_binding_bytes: profile.limits.max_storage_buffer_binding_size,
        }
    }
}
