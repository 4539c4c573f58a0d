//! What an instruction set has to offer, and what is computed with it.

use porism_shaders::weights::WeightType;

/// An instruction set. A value of it is the proof that the processor has it.
///
/// Slices handed in must be long enough; every implementation checks that before it reads or writes.
pub(in super::super) trait Simd: Copy + Send + Sync {
    /// Lanes of f32.
    type V: Copy;
    /// How many.
    const LANES: usize;
    /// Values that are decoded at once: four vectors, in order.
    const CHUNK: usize = 4 * Self::LANES;
    /// Rows of weights by tokens of a mat-mul tile whose sums fit the registers: 8 × 3 or else 4 × 3.
    const MANY_REGISTERS: bool;
    /// What decoded E4M3 values must still be multiplied with: a power of two.
    const E4M3_FACTOR: f32;

    /// The same value in all lanes.
    fn splat(self, value: f32) -> Self::V;
    /// The first values of a slice.
    fn load(self, from: &[f32]) -> Self::V;
    /// Into the first values of a slice.
    fn store(self, value: Self::V, to: &mut [f32]);
    /// a · b + c with one rounding; the portable path rounds twice.
    fn multiply_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The value or, where it is below 0 or NaN, 0.
    fn positive(self, value: Self::V) -> Self::V;
    /// Sum of the lanes, halves folded onto each other.
    fn sum(self, value: Self::V) -> f32;
    /// The [`Simd::sum`] of each, the same bits.
    #[inline(always)]
    fn sums(self, values: [Self::V; 4]) -> [f32; 4] {
        [self.sum(values[0]), self.sum(values[1]), self.sum(values[2]), self.sum(values[3])]
    }
    /// Asks for a cache line that is read soon; any address will do.
    fn prefetch(self, _address: *const u8) {}
    /// A chunk of E4M3 codes, in units of [`Simd::E4M3_FACTOR`]; 0x7f and 0xff give NaN.
    fn e4m3(self, from: &[u8]) -> [Self::V; 4];
    /// A chunk of BF16.
    fn bf16(self, from: &[u8]) -> [Self::V; 4];
    /// A chunk of F16.
    fn f16(self, from: &[u8]) -> [Self::V; 4];
    /// A chunk of F32, wherever it lies.
    fn f32(self, from: &[u8]) -> [Self::V; 4];
}

/// The [`Simd::sum`] of each of N vectors.
#[inline(always)]
pub(in super::super) fn sum_each<S: Simd, const N: usize>(simd: S, values: [S::V; N]) -> [f32; N] {
    // No closures around vectors: one that is not inlined is compiled without the instruction set.
    let mut results = [0.0; N];
    let mut fours = values.chunks_exact(4);
    for (results, four) in results.chunks_exact_mut(4).zip(&mut fours) {
        results.copy_from_slice(&simd.sums([four[0], four[1], four[2], four[3]]));
    }
    for (result, value) in results[N / 4 * 4..].iter_mut().zip(fours.remainder()) {
        *result = simd.sum(*value);
    }
    results
}

/// How the elements of a weight are decoded; a type, so that loops are compiled for each.
pub(in super::super) trait Element {
    /// Bytes of one.
    const BYTES: usize;
    /// Whether blocks have scales.
    const SCALED: bool;
    /// A chunk of them.
    fn decode<S: Simd>(simd: S, from: &[u8]) -> [S::V; 4];
}

macro_rules! element {
    ($name:ident, $kind:expr, $scaled:expr, $decode:ident) => {
        #[doc = concat!("Decodes with [`Simd::", stringify!($decode), "`].")]
        pub(in super::super) struct $name;
        impl Element for $name {
            const BYTES: usize = match $kind {
                WeightType::F8E4M3 => 1,
                WeightType::BF16 | WeightType::F16 => 2,
                WeightType::F32 => 4,
            };
            const SCALED: bool = $scaled;
            #[inline(always)]
            fn decode<S: Simd>(simd: S, from: &[u8]) -> [S::V; 4] {
                simd.$decode(from)
            }
        }
    };
}
element!(E4m3, WeightType::F8E4M3, true, e4m3);
element!(Bf16, WeightType::BF16, false, bf16);
element!(F16, WeightType::F16, false, f16);
element!(F32, WeightType::F32, false, f32);

/// A computation that can run with any instruction set.
pub(in super::super) trait Vectorised {
    /// What comes out.
    type Output;
    /// Runs; to be `#[inline(always)]`, so that it is compiled with the features of whoever calls it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
