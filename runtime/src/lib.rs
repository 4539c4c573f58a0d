//! The forward pass of the DeepSeek family, recorded once as plain data and run on a WebGPU adapter or on the host.
//!
//! Start reading at [`model::forward`].

pub mod arrivals;
pub mod batch;
pub mod cache;
pub mod chat;
pub mod engine;
pub mod error;
pub mod executor;
pub mod experts;
pub mod generate;
pub mod gpu;
pub mod host;
pub mod layout;
pub mod loading;
pub mod measure;
pub mod model;
pub mod ops;
pub mod plan;
pub mod recording;
pub mod rig;
pub mod sample;
pub mod staging;
pub mod text;
pub mod units;
pub mod weights;

pub use engine::{DeviceSpec, Engine, EngineOptions, Schedule};
pub use error::Error;
