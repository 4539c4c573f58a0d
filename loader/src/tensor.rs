//! A tensor's bytes as they lie in the file, with what is needed to read them as numbers.

use crate::config::BLOCK;
use crate::names::Role;
use crate::shape::{Dtype, ScaleDtype, Shape};
use half::{bf16, f16};
use porism_shaders::float8::{e4m3_to_f32, e8m0_to_f32};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The block scales of an FP8 weight: W[i, j] = e4m3(byte) · scale[i / 128, j / 128].
#[derive(Clone, Copy)]
pub struct Scale<'a> {
    /// How a scale is stored.
    pub dtype: ScaleDtype,
    /// Blocks of rows, blocks of columns.
    pub shape: [u32; 2],
    /// Little-endian, row by row; not aligned to anything.
    pub bytes: &'a [u8],
    /// The shard, which need not be the weight's.
    pub file: &'a Path,
}

impl fmt::Debug for Scale<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scale({} {:?} in {})", self.dtype.name(), self.shape, self.file.display())
    }
}

impl Scale<'_> {
    /// The scale of one block.
    pub fn at(&self, row: u32, column: u32) -> f32 {
        let [rows, columns] = self.shape;
        assert!(row < rows && column < columns, "block [{row}, {column}] of {:?}", self.shape);
        self.element(row as usize * columns as usize + column as usize)
    }

    fn element(&self, index: usize) -> f32 {
        let two = |i: usize| [self.bytes[2 * i], self.bytes[2 * i + 1]];
        match self.dtype {
            ScaleDtype::F32 => {
                f32::from_le_bytes(self.bytes[4 * index..][..4].try_into().expect("four bytes"))
            }
            ScaleDtype::Bf16 => bf16::from_le_bytes(two(index)).to_f32(),
            ScaleDtype::F8E8m0 => e8m0_to_f32(self.bytes[index]),
        }
    }

    /// All scales, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.shape[0] as usize * self.shape[1] as usize).map(|index| self.element(index)).collect()
    }
}

/// A tensor of a [`crate::Checkpoint`], borrowed from its map.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// What it is for.
    pub role: Role,
    /// How an element is stored.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Shape,
    /// Little-endian, row by row; exactly `shape.elements() · dtype.bytes()` of them, not aligned to anything.
    pub bytes: &'a [u8],
    /// There exactly if the dtype is FP8.
    pub scale: Option<Scale<'a>>,
    /// The shard it is in.
    pub file: &'a Path,
    /// Where in the shard its bytes start.
    pub file_offset: u64,
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(
            f,
            "Tensor({} {} {} in {file}, scale {:?})",
            self.role,
            self.dtype.name(),
            self.shape,
            self.scale
        )
    }
}

impl<'a> Tensor<'a> {
    /// Its name in the checkpoint.
    pub fn name(&self) -> String {
        self.role.to_string()
    }

    /// Bytes of the weight and its scales.
    pub fn stored_bytes(&self) -> u64 {
        self.bytes.len() as u64 + self.scale.map_or(0, |scale| scale.bytes.len() as u64)
    }

    /// The bytes of some rows. A vector has one row.
    pub fn row_bytes(&self, rows: Range<u32>) -> &'a [u8] {
        assert!(rows.start <= rows.end && rows.end <= self.shape.rows(), "rows {rows:?} of {}", self.shape);
        let row = self.shape.columns() as usize * self.dtype.bytes() as usize;
        &self.bytes[rows.start as usize * row..rows.end as usize * row]
    }

    /// The values of some rows, dequantised: for norms, biases and tests; large weights are decoded where they are
    /// used.
    pub fn rows_to_f32(&self, rows: Range<u32>) -> Vec<f32> {
        let bytes = self.row_bytes(rows.clone());
        match self.dtype {
            Dtype::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
            Dtype::Bf16 => {
                let (words, _) = bytes.as_chunks::<2>();
                words.iter().map(|word| bf16::from_le_bytes(*word).to_f32()).collect()
            }
            Dtype::F16 => {
                let (words, _) = bytes.as_chunks::<2>();
                words.iter().map(|word| f16::from_le_bytes(*word).to_f32()).collect()
            }
            Dtype::F8E4m3 => {
                let scale = self.scale.as_ref().expect("FP8 weights have scales, checked when opened");
                let columns = self.shape.columns() as usize;
                let mut values = Vec::with_capacity(bytes.len());
                for (row, line) in rows.zip(bytes.chunks_exact(columns.max(1))) {
                    for (block, codes) in (0..).zip(line.chunks(BLOCK as usize)) {
                        let factor = scale.at(row / BLOCK, block);
                        values.extend(codes.iter().map(|code| e4m3_to_f32(*code) * factor));
                    }
                }
                values
            }
        }
    }

    /// All values, dequantised.
    pub fn to_f32(&self) -> Vec<f32> {
        self.rows_to_f32(0..self.shape.rows())
    }
}

/// The first E4M3 code in `codes` that is NaN (0x7f or 0xff).
///
/// Eight codes at a time: large weights are searched at about the speed of memory.
pub fn find_nan(codes: &[u8]) -> Option<usize> {
    const SIGNS: u64 = 0x8080_8080_8080_8080;
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Without its sign a NaN is 0x7f, and adding one carries into the sign of that byte and no further.
    let has_nan = |word: u64| ((word & !SIGNS) + ONES) & SIGNS != 0;
    let is_nan = |code: &u8| code & 0x7f == 0x7f;
    const STRIDE: usize = 64;
    let (blocks, rest) = codes.as_chunks::<STRIDE>();
    for (index, block) in blocks.iter().enumerate() {
        let (words, _) = block.as_chunks::<8>();
        let any = words.iter().fold(false, |any, word| any | has_nan(u64::from_ne_bytes(*word)));
        if any {
            return block.iter().position(is_nan).map(|at| index * STRIDE + at);
        }
    }
    rest.iter().position(is_nan).map(|at| blocks.len() * STRIDE + at)
}
