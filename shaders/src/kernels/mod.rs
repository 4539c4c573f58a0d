//! The host twins and cases, one module beside each shader.

pub mod reduce;
pub mod dot;
pub mod experts_down;
pub mod matmul;
pub mod matvec;
pub mod rms_norm;
pub mod segments;
