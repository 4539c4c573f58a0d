//! WGSL kernels, their host twins and cases.
