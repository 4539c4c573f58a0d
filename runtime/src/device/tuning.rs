//! How kernels are shaped for a device.

use porism_shaders::Features;

use super::profile::DeviceProfile;

/// What a device's threads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Lanes of a CPU's vectors: a thread has a row, and goes through its memory by itself.
    Cpu,
    /// Lanes of a GPU: those side by side read side by side, and there are thousands of them.
    Gpu,
}

impl Shape {
    /// What the variable `PORISM_KERNELS` asks for (`cpu` or `gpu`), if anything: a driver that computes on the CPU can so be
    /// given what a GPU gets, to test it.
    pub fn asked() -> Option<Self> {
        match std::env::var("PORISM_KERNELS").as_deref() {
            Ok("cpu") => Some(Shape::Cpu),
            Ok("gpu") => Some(Shape::Gpu),
            _ => None,
        }
    }
}

/// How kernels are best shaped for a device. Every shape sums products with weights in the same order; a driver may still round
/// one differently. Dot products with cached vectors have an order for each shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Which form of the mat-vecs a device gets, and how large workgroups are.
    pub shape: Shape,
    /// Optional features of kernels that are on.
    pub features: Features,
    /// Largest view that can be bound, in bytes.
    pub max_binding_bytes: u64,
}

impl Tuning {
    /// For the CPU: no view is too large, and its kernels have no optional features.
    pub const HOST: Tuning =
        Tuning { shape: Shape::Cpu, features: Features::NONE, max_binding_bytes: u64::MAX };

    /// For an adapter, before its self-test; `subgroups` says whether its device offers subgroup operations, `asked` which
    /// shape is wanted whatever it is.
    pub fn of(profile: &DeviceProfile, subgroups: bool, asked: Option<Shape>) -> Self {
        let shape = asked.unwrap_or(if profile.is_software() { Shape::Cpu } else { Shape::Gpu });
        let eights = subgroups && profile.limits.min_subgroup_size >= 8;
        let features = match (shape, eights) {
            // One load shared by eight lanes pays where lanes are CPU vector lanes; GPUs do it by themselves.
            (Shape::Cpu, true) => Features::BROADCAST,
            (Shape::Cpu, false) => Features::NONE,
            // Eight lanes hand over sums where they are of one subgroup.
            (Shape::Gpu, true) => Features::HALF.with(Features::SHUFFLE),
            (Shape::Gpu, false) => Features::HALF,
        };
        Tuning { shape, features, max_binding_bytes: profile.limits.max_storage_buffer_binding_size }
    }
}
