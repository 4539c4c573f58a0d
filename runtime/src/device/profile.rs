//! What an adapter says of itself, and what it was found to do right.

use serde::Serialize;

use super::description::Device;
use super::id::DeviceId;
use super::nominal::Class;

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
    pub index: DeviceId,
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

/// Result of one self-test.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// What was tried.
    pub name: &'static str,
    /// How it went.
    pub verdict: Verdict,
}

/// How a self-test went.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should.
    Pass,
    /// Wrong, in what way; the path is switched off.
    Fail(String),
    /// The adapter does not offer it, or Porism does not use it there.
    Absent,
}
