//! What whoever calls a kernel has to give: `Params`, bindings and override constants, with the names that they have in the
//! shader. The types themselves are generated from it, so that a call that does not fit does not compile:
//!
//! ```
//! use porism_shaders::{Interface, argmax, matvec};
//! let bound = argmax::Bindings { logits: "a", out: "b" };
//! assert_eq!(bound.into_iter().collect::<Vec<_>>(), ["a", "b"]);
//! let overrides = matvec::Overrides { swiglu: 1, ..Default::default() };
//! let constants = matvec::Params::constants(overrides);
//! let named: Vec<_> = matvec::Params::KERNEL.kernel().named(&constants).collect();
//! assert_eq!(named, [("EXPERTS", 0), ("SWIGLU", 1)]);
//! ```
//!
//! A binding that is missing or that the kernel does not have:
//!
//! ```compile_fail
//! let bound = porism_shaders::argmax::Bindings { logits: "a" };
//! ```
//! ```compile_fail
//! let bound = porism_shaders::argmax::Bindings { logits: "a", out: "b", y: "c" };
//! ```
//!
//! An override constant that the kernel does not have:
//!
//! ```compile_fail
//! let overrides = porism_shaders::argmax::Overrides { swiglu: 1 };
//! ```

use crate::KernelId;

/// A kernel by the type of its `Params`: what else belongs to a call of it.
pub trait Interface: bytemuck::Pod {
    /// Which kernel.
    const KERNEL: KernelId;
    /// Something for each binding, by name; in binding order when gone through.
    type Bindings<T>: IntoIterator<Item = T>;
    /// A value for each override constant, by name; by default the shader's.
    type Overrides: Copy + Default;

    /// Bindings out of a list in binding order; `None` where it is too short.
    fn bind<T>(all: impl Iterator<Item = T>) -> Option<Self::Bindings<T>>;

    /// Override constants in the order of [`crate::Kernel::overrides`].
    fn constants(of: Self::Overrides) -> Constants;

    /// The same by name.
    fn overrides(of: &Constants) -> Self::Overrides;
}

/// Values of all override constants of a kernel, in the order of [`crate::Kernel::overrides`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constants {
    values: [u32; Constants::MAX],
}

impl Constants {
    /// Most overrides that a kernel may have.
    pub const MAX: usize = 6;

    /// Of these values.
    pub(crate) fn new(all: &[u32]) -> Self {
        let mut values = [0; Self::MAX];
        values[..all.len()].copy_from_slice(all);
        Constants { values }
    }

    /// Value number `index`.
    pub fn get(&self, index: usize) -> u32 {
        self.values[index]
    }
}
