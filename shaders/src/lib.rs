//! The kernels of Porism: WGSL sources linked and validated at build time, each with its host twin and its cases.
//!
//! A kernel is a sibling pair `kernels/NAME.wgsl` + `kernels/NAME.rs`: one entry point, and the same computation on the
//! host, told by the same `Params`. Nothing here names a GPU crate.

pub mod call;
pub mod case;
pub mod float8;
pub mod kernels;
pub mod weights;

pub use call::{Binder, Bound, Call, Overrides};
pub use case::{Case, CaseBuffer, Tolerance};

/// A WGSL kernel and everything that is known about it at build time.
#[derive(Debug)]
pub struct Kernel {
    /// File name of the pair, e.g. `matmul`.
    pub name: &'static str,
    /// Storage buffers of group 0, in binding order.
    pub bindings: &'static [Binding],
    /// Names of the WGSL `override` constants.
    pub overrides: &'static [&'static str],
    /// Size of `Params` in bytes, at most 128; 0 when the kernel has none.
    pub params_bytes: u32,
    /// One linked source per combination of `@if` features.
    pub variants: &'static [Variant],
    /// The same computation on the host.
    pub twin: fn(&mut Call<'_>),
    /// Inputs on which the kernel must agree with its twin.
    pub cases: fn() -> Vec<Case>,
}

impl Kernel {
    /// The variant with all those of `features` that this kernel knows.
    pub fn variant(&self, features: &[&str]) -> &'static Variant {
        self.variants
            .iter()
            .filter(|variant| variant.features.iter().all(|f| features.contains(f)))
            .max_by_key(|variant| variant.features.len())
            .expect("the variant without features always exists")
    }
}

/// A storage buffer of a kernel.
#[derive(Debug)]
pub struct Binding {
    /// Its name in the shader.
    pub name: &'static str,
    /// Whether the kernel writes it.
    pub writes: bool,
}

/// A linked source.
#[derive(Debug)]
pub struct Variant {
    /// The `@if` features that are on.
    pub features: &'static [&'static str],
    /// Plain WGSL.
    pub wgsl: &'static str,
}

/// A kernel by its place in [`KERNELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub u16);

impl KernelId {
    /// The kernel itself.
    pub fn kernel(self) -> &'static Kernel {
        &KERNELS[self.0 as usize]
    }
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
