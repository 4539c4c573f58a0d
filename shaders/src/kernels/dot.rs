//! Dot products of checkpoint rows in the order of the shaders: k ascending inside a part of 16 columns, the eight parts of
//! a block of 128 ascending, then the blocks ascending, each with its scale.

use rayon::prelude::*;

use crate::weights::{BLOCK, WeightBytes, WeightType};

/// Columns whose products are summed first: those of one 16-byte load of FP8.
pub const PART: usize = 16;

/// A weight matrix as a kernel sees it: where its rows are and which scales they have.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The bound window.
    pub weights: WeightBytes<'a>,
    /// First byte of the matrix in the window.
    pub offset: usize,
    /// Element type.
    pub kind: WeightType,
    /// Columns of a row; rows follow each other without padding.
    pub cols: usize,
    /// Scales of the matrix, one per 128 × 128 block, row of blocks by row of blocks; unused unless FP8.
    pub scales: &'a [f32],
}

impl Matrix<'_> {
    /// Decodes row `row` without its scales into `out`.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.cols * self.kind.bytes();
        self.kind.decode(self.weights.get(self.offset + row * bytes, bytes), out);
    }

    /// Scale of block `block` of row `row`.
    pub fn scale(&self, row: usize, block: usize) -> f32 {
        match self.kind {
            WeightType::F8E4M3 => self.scales[row / BLOCK * self.cols.div_ceil(BLOCK) + block],
            _ => 1.0,
        }
    }

    /// `Σ_k W[row, k] · x[k]` for a decoded row.
    pub fn dot(&self, row: usize, decoded: &[f32], x: &[f32]) -> f32 {
        decoded.chunks(BLOCK).zip(x.chunks(BLOCK)).enumerate().fold(0.0, |total, (block, (w, x))| {
            let parts = w.chunks(PART).zip(x.chunks(PART));
            let sum = parts
                .fold(0.0f32, |sum, (w, x)| sum + w.iter().zip(x).fold(0.0f32, |part, (w, x)| part + w * x));
            total + sum * self.scale(row, block)
        })
    }
}

/// `Σ_k a[k] · b[k]` by eight lanes, as GPUs sum products of cached vectors: lane j has the values whose number / 4 is j modulo
/// 8, ascending; the eight are then added as a tree.
pub fn eight_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let lane = &mut lanes[i / 4 % 8];
        *lane = a.mul_add(*b, *lane);
    }
    let [p0, p1, p2, p3, p4, p5, p6, p7] = lanes;
    ((p0 + p4) + (p2 + p6)) + ((p1 + p5) + (p3 + p7))
}

/// `Σ_k W[row, k] · x[k]` of the first `rows` rows with each of `inputs`: row by row, one value per input.
pub fn project(matrix: &Matrix<'_>, rows: usize, inputs: &[&[f32]]) -> Vec<f32> {
    let mut out = vec![0.0; rows * inputs.len()];
    out.par_chunks_mut(16 * inputs.len().max(1)).enumerate().for_each_init(
        || vec![0.0; matrix.cols],
        |decoded, (chunk, out)| {
            for (i, out) in out.chunks_mut(inputs.len()).enumerate() {
                let row = chunk * 16 + i;
                matrix.decode_row(row, decoded);
                for (out, x) in out.iter_mut().zip(inputs) {
                    *out = matrix.dot(row, decoded, x);
                }
            }
        },
    );
    out
}

/// silu(gate) · up, elementwise, for x = [gate (cols) | up (cols)].
pub fn swiglu(x: &[f32]) -> Vec<f32> {
    let (gate, up) = x.split_at(x.len() / 2);
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}
