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
    /// Weights in its memory by kind, slots for streamed experts among them. The host's are pages of the mapped files.
    pub weights: ByKind,
    /// The host's weights that are read from disk again whenever they are wanted, since its memory is full. Not part of
    /// `weights`.
    pub disk: ByKind,
    /// Where the experts are that are streamed to it.
    pub files: Files,
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

/// Bytes of streamed experts in the files, by where those are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Pages that host memory keeps.
    pub page_cache: u64,
    /// On disk, read again at each use.
    pub disk: u64,
}

impl DevicePlan {
    /// Bytes that are read from disk for it again whenever they are wanted.
    pub fn from_disk(&self) -> u64 {
        self.disk.total() + self.files.disk
    }

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

/// What is worth knowing about a plan. Devices are named by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A layer's experts lie in several bindings, which takes more dispatches.
    Bindings {
        /// Where.
        device: usize,
        /// Bytes that it binds at once.
        at_once: u64,
        /// Experts that those hold.
        experts: u64,
        /// Bindings of a layer.
        bindings: u64,
    },
    /// Weights of the host for which its memory has no room.
    Disk {
        /// The host.
        device: usize,
        /// Bytes of routed experts, of which a step reads those that are picked.
        experts: u64,
        /// Bytes of weights that every token needs.
        always: u64,
    },
    /// Experts that are brought when they are picked.
    Streamed {
        /// Where they are computed.
        device: usize,
        /// How many.
        experts: u32,
        /// Slots there.
        slots: u32,
        /// Where they come from.
        files: Files,
    },
    /// A device without anything to do.
    Idle {
        /// Which.
        device: usize,
    },
    /// The checkpoint has layers that predict several tokens; they are not used.
    NoMultiTokenPrediction,
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
    pub notes: Vec<Note>,
}

impl Plan {
    /// Bytes of weights wherever they are: on devices, in host memory and on disk.
    pub fn weights(&self) -> u64 {
        self.loaded() + self.disk()
    }

    /// Bytes that are read from disk again whenever they are wanted.
    pub fn disk(&self) -> u64 {
        self.devices.iter().map(DevicePlan::from_disk).sum()
    }

    /// Bytes that are read from disk once until every weight is where the plan has it.
    pub fn loaded(&self) -> u64 {
        self.devices.iter().map(|device| device.weights.total() + device.files.page_cache).sum()
    }
}
