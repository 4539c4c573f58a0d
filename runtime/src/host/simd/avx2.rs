//! AVX2 with FMA and F16C: Haswell, Zen and later. E4M3 becomes F16 bits of value / 256, which the processor converts.

use std::arch::x86_64::*;

use super::vector::{Simd, Vectorised};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2(()))
    }

    #[inline]
    pub(super) fn run<T: Vectorised>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_features<T: Vectorised>(simd: Avx2, task: T) -> T::Output {
            task.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { with_features(self, task) }
    }
}

/// 16 E4M3 codes, in units of 256. Called by methods of [`Avx2`] only.
#[inline(always)]
fn sixteen(from: &[u8]) -> [__m256; 2] {
    assert!(from.len() >= 16);
    // SAFETY: 16 bytes are there; an `Avx2` of the caller proves the features.
    unsafe {
        let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast()));
        // s s…s eeee mmm → s 0 eeee mmm 0000000: exponent and mantissa where F16 has them, its bias being 8 more.
        let bits = _mm256_and_si256(_mm256_slli_epi16::<7>(codes), _mm256_set1_epi16(0xbf80_u16 as i16));
        // 0x7f and 0xff are NaN; as F16 bits they would be a number.
        let most = _mm256_set1_epi16(0x3f80);
        let nan = _mm256_cmpeq_epi16(_mm256_and_si256(bits, most), most);
        let bits = _mm256_or_si256(bits, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
        [_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(bits))]
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const MANY_REGISTERS: bool = false;
    const E4M3_FACTOR: f32 = 256.0;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= 8);
        // SAFETY: 8 values are there; `self` proves the feature.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        assert!(to.len() >= 8);
        // SAFETY: 8 values are there; `self` proves the feature.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn positive(self, value: __m256) -> __m256 {
        // SAFETY: `self` proves the feature. Of a NaN and a number the second comes out.
        unsafe { _mm256_max_ps(value, _mm256_setzero_ps()) }
    }

    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint that reads nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn e4m3(self, from: &[u8]) -> [__m256; 4] {
        assert!(from.len() >= 32);
        let [a, b] = sixteen(&from[..16]);
        let [c, d] = sixteen(&from[16..]);
        [a, b, c, d]
    }

    #[inline(always)]
    fn bf16(self, from: &[u8]) -> [__m256; 4] {
        assert!(from.len() >= 64);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(16)) {
            // SAFETY: 16 bytes are there; `self` proves the features.
            *value = unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            };
        }
        values
    }

    #[inline(always)]
    fn f16(self, from: &[u8]) -> [__m256; 4] {
        assert!(from.len() >= 64);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(16)) {
            // SAFETY: 16 bytes are there; `self` proves the features.
            *value = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) };
        }
        values
    }

    #[inline(always)]
    fn f32(self, from: &[u8]) -> [__m256; 4] {
        assert!(from.len() >= 128);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(32)) {
            // SAFETY: 32 bytes are there, at any alignment; `self` proves the feature.
            *value = unsafe { _mm256_loadu_ps(from.as_ptr().cast()) };
        }
        values
    }
}
