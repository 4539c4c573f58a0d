//! NEON, which every 64-bit ARM has. E4M3 is looked up, 16 codes at a time.

use std::arch::aarch64::*;

use porism_shaders::float8::E4M3;
use porism_shaders::weights::WeightType;

use super::{Simd, Vectorised};

/// Proof that the processor has NEON.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    #[inline]
    pub(super) fn run<T: Vectorised>(self, task: T) -> T::Output {
        #[target_feature(enable = "neon")]
        fn with_features<T: Vectorised>(simd: Neon, task: T) -> T::Output {
            task.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the feature.
        unsafe { with_features(self, task) }
    }
}

/// Byte `half` (0: lower, 1: upper) of the BF16 value of codes 0 to 127; every E4M3 value is a BF16 value.
const fn table(half: u32) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut code = 0;
    while code < 128 {
        bytes[code] = (E4M3[code].to_bits() >> (16 + 8 * half)) as u8;
        code += 1;
    }
    bytes
}

static LOWER: [u8; 128] = table(0);
static UPPER: [u8; 128] = table(1);

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const MANY_REGISTERS: bool = true;
    const E4M3_FACTOR: f32 = 1.0;

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        assert!(from.len() >= 4);
        // SAFETY: 4 values are there; `self` proves the feature.
        unsafe { vld1q_f32(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: float32x4_t, to: &mut [f32]) {
        assert!(to.len() >= 4);
        // SAFETY: 4 values are there; `self` proves the feature.
        unsafe { vst1q_f32(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn multiply_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        // SAFETY: `self` proves the feature.
        unsafe {
            let two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn e4m3(self, from: &[u8]) -> [float32x4_t; 4] {
        assert!(from.len() >= 16);
        // SAFETY: 16 bytes are there, and each half of a table has 64; `self` proves the feature.
        unsafe {
            let table = |bytes: &[u8; 128], half: usize| vld1q_u8_x4(bytes.as_ptr().add(64 * half));
            let codes = vld1q_u8(from.as_ptr());
            let index = vandq_u8(codes, vdupq_n_u8(0x7f));
            let second = vsubq_u8(index, vdupq_n_u8(64));
            // An index outside of 64 entries gives 0 in the first lookup and leaves its result alone in the second.
            let look = |bytes| vqtbx4q_u8(vqtbl4q_u8(table(bytes, 0), index), table(bytes, 1), second);
            let lower = look(&LOWER);
            let upper = vorrq_u8(look(&UPPER), vandq_u8(codes, vdupq_n_u8(0x80)));
            let first = vreinterpretq_u16_u8(vzip1q_u8(lower, upper));
            let last = vreinterpretq_u16_u8(vzip2q_u8(lower, upper));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(first))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(first))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(last))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(last))),
            ]
        }
    }

    #[inline(always)]
    fn bf16(self, from: &[u8]) -> [float32x4_t; 4] {
        assert!(from.len() >= 32);
        // SAFETY: 8 of the 32 bytes from 8 i on; `self` proves the feature.
        std::array::from_fn(|i| unsafe {
            let words = vreinterpret_u16_u8(vld1_u8(from.as_ptr().add(8 * i)));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(words))
        })
    }

    /// By the definition: the intrinsics for F16 are newer than our toolchain, and few checkpoints have it.
    #[inline(always)]
    fn f16(self, from: &[u8]) -> [float32x4_t; 4] {
        let mut values = [0.0; 16];
        WeightType::F16.decode(&from[..32], &mut values);
        std::array::from_fn(|i| self.load(&values[4 * i..]))
    }

    #[inline(always)]
    fn f32(self, from: &[u8]) -> [float32x4_t; 4] {
        assert!(from.len() >= 64);
        // SAFETY: 16 of the 64 bytes from 16 i on, read as bytes at any alignment; `self` proves the feature.
        std::array::from_fn(|i| unsafe { vreinterpretq_f32_u8(vld1q_u8(from.as_ptr().add(16 * i))) })
    }
}
