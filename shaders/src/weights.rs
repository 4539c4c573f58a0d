//! Checkpoint bytes as the kernels see them: which bytes, of which type, with which scales.

use crate::float8::E4M3;
use crate::lib::weights as lib;

/// Rows and columns that share one FP8 scale.
pub const BLOCK: usize = 128;

/// Element types of weights, with the codes the shaders use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum WeightType {
    /// F8_E4M3 with one f32 scale per 128 × 128 block.
    F8E4M3 = lib::F8E4M3,
    /// BF16.
    BF16 = lib::BF16,
    /// F16.
    F16 = lib::F16,
    /// F32.
    F32 = lib::F32,
}

impl WeightType {
    /// From the code used in `Params`.
    pub fn from_code(code: u32) -> Self {
        match code {
            lib::F8E4M3 => WeightType::F8E4M3,
            lib::BF16 => WeightType::BF16,
            lib::F16 => WeightType::F16,
            lib::F32 => WeightType::F32,
            _ => panic!("weight type {code}"),
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            WeightType::F8E4M3 => 1,
            WeightType::BF16 | WeightType::F16 => 2,
            WeightType::F32 => 4,
        }
    }

    /// Decodes `row.len() / bytes()` elements without scales. Codes 0x7f and 0xff of E4M3 give NaN.
    pub fn decode(self, row: &[u8], out: &mut [f32]) {
        match self {
            WeightType::F8E4M3 => {
                for (value, byte) in out.iter_mut().zip(row) {
                    *value = E4M3[*byte as usize];
                }
            }
            WeightType::BF16 => {
                for (value, pair) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
                }
            }
            WeightType::F16 => {
                for (value, pair) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *value = half::f16::from_le_bytes([pair[0], pair[1]]).to_f32();
                }
            }
            WeightType::F32 => {
                for (value, four) in out.iter_mut().zip(row.chunks_exact(4)) {
                    *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                }
            }
        }
    }
}

/// A window of weight bytes. On an adapter it is one binding; on the host it is either one slice or several pieces of
/// the memory-mapped shards that together look like that binding.
#[derive(Clone, Copy, Debug)]
pub enum WeightBytes<'a> {
    /// One slice.
    Whole(&'a [u8]),
    /// Pieces `(offset in the window, bytes)`, ascending; no read crosses a piece.
    Pieces(&'a [(u64, &'a [u8])], u64),
}

impl<'a> WeightBytes<'a> {
    /// `len` bytes at `offset` of the window.
    pub fn get(&self, offset: usize, len: usize) -> &'a [u8] {
        match self {
            WeightBytes::Whole(bytes) => &bytes[offset..offset + len],
            WeightBytes::Pieces(pieces, base) => {
                let at = base + offset as u64;
                let piece = pieces.partition_point(|(start, _)| *start <= at) - 1;
                let (start, bytes) = pieces[piece];
                let from = (at - start) as usize;
                &bytes[from..from + len]
            }
        }
    }
}
