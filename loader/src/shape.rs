//! What a tensor is like: the type of its elements and its shape.

use crate::config::BLOCK;
use std::fmt;

/// The dtypes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// 2 bytes, the upper half of an F32.
    Bf16,
    /// 2 bytes, IEEE.
    F16,
    /// 1 byte, with a [`Scale`](crate::Scale) per block of 128 × 128.
    F8E4m3,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::F8E4m3 => 1,
        }
    }

    /// As in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F8E4m3 => "F8_E4M3",
        }
    }
}

/// The dtypes of block scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleDtype {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
    /// 1 byte, a power of two.
    F8E8m0,
}

impl ScaleDtype {
    /// Bytes of one scale.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::F8E8m0 => 1,
        }
    }

    /// As in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F8E8m0 => "F8_E8M0",
        }
    }
}

/// One or two dimensions; all weights of the family have no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [u32; 2],
    rank: u8,
}

impl Shape {
    /// (length)
    pub const fn vector(length: u32) -> Self {
        Self { sizes: [length, 0], rank: 1 }
    }

    /// (rows, columns): a linear weight's outputs and inputs.
    pub const fn matrix(rows: u32, columns: u32) -> Self {
        Self { sizes: [rows, columns], rank: 2 }
    }

    /// The sizes, outermost first.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes[..self.rank.into()]
    }

    /// Rows; a vector is one row.
    pub fn rows(&self) -> u32 {
        if self.rank == 1 { 1 } else { self.sizes[0] }
    }

    /// Elements of a row.
    pub fn columns(&self) -> u32 {
        if self.rank == 1 { self.sizes[0] } else { self.sizes[1] }
    }

    /// Elements in all.
    pub fn elements(&self) -> u64 {
        u64::from(self.rows()) * u64::from(self.columns())
    }

    /// Rows and columns of the block scales of an FP8 weight of this shape; the last block of a row or column may be
    /// short.
    pub fn scale_shape(&self) -> [u32; 2] {
        [self.rows().div_ceil(BLOCK), self.columns().div_ceil(BLOCK)]
    }
}

/// `[7168, 2048]`
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
