//! No instructions in particular: loops over eight lanes that compilers turn into whatever there is.

use porism_shaders::weights::WeightType;

use super::vector::Simd;

/// Any processor.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Portable;

#[inline(always)]
fn decode(kind: WeightType, from: &[u8]) -> [[f32; 8]; 4] {
    let mut values = [[0.0; 8]; 4];
    for (values, bytes) in values.iter_mut().zip(from.chunks_exact(8 * kind.bytes())) {
        kind.decode(bytes, values);
    }
    values
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const MANY_REGISTERS: bool = false;
    const E4M3_FACTOR: f32 = 1.0;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; 8] {
        std::array::from_fn(|lane| from[lane])
    }

    #[inline(always)]
    fn store(self, value: [f32; 8], to: &mut [f32]) {
        to[..8].copy_from_slice(&value);
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn positive(self, value: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| value[lane].max(0.0))
    }

    #[inline(always)]
    fn sum(self, v: [f32; 8]) -> f32 {
        let [a, b, c, d] = std::array::from_fn(|lane| v[lane] + v[lane + 4]);
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn e4m3(self, from: &[u8]) -> [[f32; 8]; 4] {
        decode(WeightType::F8E4M3, from)
    }

    #[inline(always)]
    fn bf16(self, from: &[u8]) -> [[f32; 8]; 4] {
        decode(WeightType::BF16, from)
    }

    #[inline(always)]
    fn f16(self, from: &[u8]) -> [[f32; 8]; 4] {
        decode(WeightType::F16, from)
    }

    #[inline(always)]
    fn f32(self, from: &[u8]) -> [[f32; 8]; 4] {
        decode(WeightType::F32, from)
    }
}
