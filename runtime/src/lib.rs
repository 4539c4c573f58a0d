//! The forward pass of the DeepSeek family, recorded once as plain data and run on a WebGPU adapter or on the host.
//!
//! Start reading at [`model`].

pub mod batch;
pub mod cache;
pub mod chat;
pub mod device;
pub mod engine;
pub mod error;
pub mod generate;
pub mod gpu;
pub mod host;
pub mod measure;
pub mod model;
pub mod options;
pub mod plan;
pub mod recording;
pub mod rig;
pub mod sample;
pub mod text;
pub mod units;
pub mod weights;

pub use device::{DeviceId, DeviceSpec};
pub use engine::{Engine, Schedule};
pub use error::Error;
pub use options::EngineOptions;
