//! How a host twin is called: the same Params, overrides, workgroup counts and bindings as the shader.

use crate::interface::{Constants, Interface};
use crate::weights::WeightBytes;

/// One dispatch, as a twin sees it.
pub struct Call<'a> {
    /// Bytes of the kernel's `Params`.
    pub params: &'a [u8],
    /// The override constants.
    pub constants: Constants,
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// The bound buffers, in binding order.
    pub bindings: Vec<Bound<'a>>,
}

impl<'a> Call<'a> {
    /// The kernel's `Params`.
    pub fn params<P: Interface>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.params[..size_of::<P>()])
    }

    /// The override constants by name.
    pub fn overrides<P: Interface>(&self) -> P::Overrides {
        P::overrides(&self.constants)
    }

    /// The bound buffers by name.
    ///
    /// # Panics
    /// Where the call has fewer than the kernel.
    pub fn bindings<P: Interface>(&mut self) -> P::Bindings<&mut Bound<'a>> {
        P::bind(self.bindings.iter_mut()).expect("a call has all bindings of its kernel")
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
    /// f32 to read.
    pub fn f32(&self) -> &[f32] {
        bytemuck::cast_slice(self.read())
    }

    /// u32 to read.
    pub fn u32(&self) -> &[u32] {
        bytemuck::cast_slice(self.read())
    }

    /// Weight bytes.
    pub fn weights(&self) -> WeightBytes<'_> {
        match self {
            Bound::Weights(weights) => *weights,
            Bound::Read(bytes) => WeightBytes::Whole(bytes),
            Bound::Write(bytes) => WeightBytes::Whole(bytes),
        }
    }

    /// f32 to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.write())
    }

    /// u32 to write.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(self.write())
    }

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
