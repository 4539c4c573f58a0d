//! NEON, which every 64-bit ARM has. E4M3 is looked up, 16 codes at a time.

use std::arch::aarch64::*;

use porism_shaders::float8::E4M3;
use porism_shaders::weights::WeightType;

use super::vector::{Simd, Vectorised};

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

/// Entries of a table. Called by methods of [`Neon`] only.
#[inline(always)]
fn look_up(table: &[u8; 128], index: uint8x16_t) -> uint8x16_t {
    // SAFETY: each half of a table has 64 bytes; a `Neon` of the caller proves the feature.
    unsafe {
        let (first, last) = (vld1q_u8_x4(table.as_ptr()), vld1q_u8_x4(table[64..].as_ptr()));
        // An index outside of 64 entries gives 0 in the first lookup and leaves its result alone in the second.
        vqtbx4q_u8(vqtbl4q_u8(first, index), last, vsubq_u8(index, vdupq_n_u8(64)))
    }
}

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
    fn positive(self, value: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves the feature. Of a NaN and a number the number comes out.
        unsafe { vmaxnmq_f32(value, vdupq_n_f32(0.0)) }
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
        // SAFETY: 16 bytes are there; `self` proves the feature.
        unsafe {
            let codes = vld1q_u8(from.as_ptr());
            let index = vandq_u8(codes, vdupq_n_u8(0x7f));
            let lower = look_up(&LOWER, index);
            let upper = vorrq_u8(look_up(&UPPER, index), vandq_u8(codes, vdupq_n_u8(0x80)));
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
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(8)) {
            // SAFETY: 8 bytes are there; `self` proves the feature.
            *value = unsafe {
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from.as_ptr()))))
            };
        }
        values
    }

    /// By the definition: the intrinsics for F16 are newer than our toolchain, and few checkpoints have it.
    #[inline(always)]
    fn f16(self, from: &[u8]) -> [float32x4_t; 4] {
        let mut values = [0.0; 16];
        WeightType::F16.decode(&from[..32], &mut values);
        [self.load(&values), self.load(&values[4..]), self.load(&values[8..]), self.load(&values[12..])]
    }

    #[inline(always)]
    fn f32(self, from: &[u8]) -> [float32x4_t; 4] {
        assert!(from.len() >= 64);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(16)) {
            // SAFETY: 16 bytes are there, read as bytes at any alignment; `self` proves the feature.
            *value = unsafe { vreinterpretq_f32_u8(vld1q_u8(from.as_ptr())) };
        }
        values
    }
}
