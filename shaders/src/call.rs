//! How a host twin is called: the same Params, overrides, workgroup counts and bindings as the shader.

use crate::weights::WeightBytes;

/// Values of a kernel's `override` constants, in no particular order; absent ones keep the shader's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overrides {
    values: [(&'static str, u32); Overrides::MAX],
    len: usize,
}

impl Overrides {
    /// Most overrides one kernel may be given.
    pub const MAX: usize = 6;

    /// No overrides.
    pub const fn none() -> Self {
        Overrides { values: [("", 0); Self::MAX], len: 0 }
    }

    /// The same with `name` set to `value`.
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        assert!(self.len < Self::MAX, "more than {} overrides", Self::MAX);
        self.values[self.len] = (name, value);
        self.len += 1;
        self
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.values[..self.len].iter().copied()
    }

    /// The value given for `name`, or `default`.
    pub fn get(&self, name: &str, default: u32) -> u32 {
        self.iter().find(|(n, _)| *n == name).map_or(default, |(_, value)| value)
    }
}

/// One dispatch, as a twin sees it.
pub struct Call<'a> {
    /// Bytes of the kernel's `Params`.
    pub params: &'a [u8],
    /// The override constants.
    pub overrides: Overrides,
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// The bound buffers, in binding order.
    pub bindings: Vec<Bound<'a>>,
}

impl<'a> Call<'a> {
    /// The kernel's `Params`.
    pub fn params<P: bytemuck::Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.params[..size_of::<P>()])
    }

    /// The bindings, to be taken apart in binding order.
    pub fn binder(&mut self) -> Binder<'_, 'a> {
        Binder { rest: self.bindings.iter_mut() }
    }
}

/// Hands out the bindings of a call one after the other.
pub struct Binder<'c, 'a> {
    rest: std::slice::IterMut<'c, Bound<'a>>,
}

impl<'c, 'a> Binder<'c, 'a> {
    fn next(&mut self) -> &'c mut Bound<'a> {
        self.rest.next().expect("the twin asks for more bindings than the shader has")
    }

    /// The next binding as f32 to read.
    pub fn f32(&mut self) -> &'c [f32] {
        bytemuck::cast_slice(self.next().read())
    }

    /// The next binding as u32 to read.
    pub fn u32(&mut self) -> &'c [u32] {
        bytemuck::cast_slice(self.next().read())
    }

    /// The next binding as weight bytes.
    pub fn weights(&mut self) -> WeightBytes<'c> {
        match self.next() {
            Bound::Weights(weights) => *weights,
            Bound::Read(bytes) => WeightBytes::Whole(bytes),
            Bound::Write(bytes) => WeightBytes::Whole(bytes),
        }
    }

    /// The next binding as f32 to write.
    pub fn f32_mut(&mut self) -> &'c mut [f32] {
        bytemuck::cast_slice_mut(self.next().write())
    }

    /// The next binding as u32 to write.
    pub fn u32_mut(&mut self) -> &'c mut [u32] {
        bytemuck::cast_slice_mut(self.next().write())
    }
}

/// A buffer bound to a call.
pub enum Bound<'a> {
    /// Bytes that are only read, 4-byte aligned.
    Read(&'a [u8]),
    /// Checkpoint bytes, which on the host stay where the memory map has them.
    Weights(WeightBytes<'a>),
    /// Bytes that may be written, 4-byte aligned.
    Write(&'a mut [u8]),
}

impl Bound<'_> {
    fn read(&self) -> &[u8] {
        match self {
            Bound::Read(bytes) => bytes,
            Bound::Write(bytes) => bytes,
            Bound::Weights(_) => panic!("weights are read through `weights()`"),
        }
    }

    fn write(&mut self) -> &mut [u8] {
        match self {
            Bound::Write(bytes) => bytes,
            _ => panic!("binding is read only"),
        }
    }
}
