//! The forward pass of the DeepSeek family, recorded once as plain data and run on a WebGPU adapter or on the host.
//!
//! Start reading at [`model::forward`].

pub mod chat;
pub mod error;
pub mod executor;
pub mod gpu;
pub mod host;
pub mod recording;
pub mod sample;
pub mod text;

pub use error::Error;
