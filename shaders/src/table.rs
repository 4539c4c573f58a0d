//! The table of all kernels.

use crate::{Binding, Features, Kernel, KernelId, Override, Variant};

impl KernelId {
    /// The kernel itself.
    pub fn kernel(self) -> &'static Kernel {
        &KERNELS[self.0 as usize]
    }
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));
