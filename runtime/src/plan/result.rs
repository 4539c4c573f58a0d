//! What planning comes to: which device holds what, to the byte, and how fast that will be.

use std::ops::Range;

use crate::device::Staging;
use crate::weights::layout::ByKind;

/// Where an expert is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the device.
    pub device: usize,
    /// Whether its bytes stay there; otherwise they are streamed into a slot when it is picked.
    pub resident: bool,
}

/// A device's part of a plan. Bytes are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePlan {
    /// Weights in its memory by kind, slots for streamed experts among them.
    pub weights: ByKind,
    /// Weights that the host reads from disk, since its memory is full; not part of `weights`.
    pub disk: u64,
    /// Latent and indexer caches of its layers.
    pub cache: u64,
    /// Activations and inputs.
    pub activations: u64,
    /// What its executor has besides.
    pub staging: Staging,
    /// The layers it is home to.
    pub layers: Range<u32>,
    /// Whether it looks tokens up.
    pub embedding: bool,
    /// Whether it computes the logits.
    pub head: bool,
    /// Experts that it computes and keeps.
    pub experts: u32,
    /// Experts that it computes after they were streamed to it.
    pub streamed: u32,
    /// Slots for those.
    pub slots: u32,
}

impl DevicePlan {
    /// Bytes of its memory.
    pub fn total(&self) -> u64 {
        self.weights.total() + self.cache + self.activations + self.staging.bytes()
    }
}

/// What a plan promises.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Tokens generated per second, all sequences together.
    pub decode_tokens_per_second: f64,
    /// Tokens of a prompt per second.
    pub prefill_tokens_per_second: f64,
    /// The device and what of it takes most of the time of a step that generates.
    pub limited_by: String,
    /// The same for a prompt.
    pub prefill_limited_by: String,
}

/// Which device holds what.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order of the devices.
    pub devices: Vec<DevicePlan>,
    /// By layer and expert; empty for layers without experts.
    pub placement: Vec<Vec<Place>>,
    /// Tokens of a prefill step.
    pub chunk: usize,
    /// Rates.
    pub predicted: Predicted,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Plan {
    /// Bytes of weights on all devices and on disk.
    pub fn weights(&self) -> u64 {
        self.devices.iter().map(|device| device.weights.total() + device.disk).sum()
    }
}
