//! The kernels of Porism: WGSL sources linked and validated at build time, each with its host twin and its cases.
//!
//! A kernel is a sibling pair `kernels/NAME.wgsl` + `kernels/NAME.rs`: one entry point, and the same computation on the
//! host, told by the same `Params`. What a call of it takes is generated from the shader: `NAME::Params`, `NAME::Bindings`,
//! `NAME::Overrides`, and its constants. Nothing here names a GPU crate.

pub mod call;
pub mod case;
pub mod float8;
pub mod interface;
pub mod kernels;
mod table;
pub mod weights;

pub use call::{Bound, Call};
pub use case::{Case, CaseBuffer, Tolerance};
pub use interface::{Constants, Interface};
pub use table::KERNELS;

/// A WGSL kernel and everything that is known about it at build time.
#[derive(Debug)]
pub struct Kernel {
    /// File name of the pair, e.g. `matmul`.
    pub name: &'static str,
    /// Storage buffers of group 0, in binding order.
    pub bindings: &'static [Binding],
    /// The WGSL `override` constants, by name.
    pub overrides: &'static [Override],
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
    pub fn variant(&self, features: Features) -> &'static Variant {
        self.variants
            .iter()
            .filter(|variant| features.contains(variant.features))
            .max_by_key(|variant| variant.features.0.count_ones())
            .expect("the variant without features always exists")
    }

    /// Name and value of each override constant.
    pub fn named<'c>(&self, constants: &'c Constants) -> impl Iterator<Item = (&'static str, u32)> + use<'c> {
        let names = self.overrides.iter().enumerate();
        names.map(|(index, constant)| (constant.name, constants.get(index)))
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

/// A WGSL `override` constant, a u32.
#[derive(Debug)]
pub struct Override {
    /// Its name in the shader.
    pub name: &'static str,
    /// Its value where nobody gives one.
    pub default: u32,
}

/// A linked source.
#[derive(Debug)]
pub struct Variant {
    /// The `@if` features that are on.
    pub features: Features,
    /// Plain WGSL.
    pub wgsl: &'static str,
}

/// Some of the `@if` features of kernels, which are optional: each is on where a device offers what it needs and it pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u32);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);

    /// These and those of `other`.
    #[must_use]
    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// These but those of `other`.
    #[must_use]
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// The name of each, as in `@if(NAME)`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        FEATURES.iter().filter(move |(_, feature)| self.contains(*feature)).map(|(name, _)| *name)
    }
}

/// A kernel by its place in [`KERNELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub u16);

include!(concat!(env!("OUT_DIR"), "/interfaces.rs"));
