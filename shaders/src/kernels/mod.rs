//! The host twins and cases, one module beside each shader.

pub mod reduce;
pub mod rms_norm;
