//! AVX-512 with byte permutes: Ice Lake, Zen 4 and later. E4M3 is looked up, 64 codes at a time.

use std::arch::x86_64::*;

use porism_shaders::float8::E4M3;

use super::vector::{Simd, Vectorised};

/// Proof that the processor has F, BW and VBMI.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma"))
        .then_some(Avx512(()))
    }

    #[inline]
    pub(super) fn run<T: Vectorised>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx2,fma")]
        fn with_features<T: Vectorised>(simd: Avx512, task: T) -> T::Output {
            task.run(simd)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { with_features(self, task) }
    }
}

/// 64 bytes in a register's order.
#[repr(align(64))]
struct Bytes([u8; 64]);

/// Byte `half` (0: lower, 1: upper) of the BF16 value of the codes from `first` on; every E4M3 value is a BF16 value.
const fn table(first: usize, half: u32) -> Bytes {
    let mut bytes = [0; 64];
    let mut code = 0;
    while code < 64 {
        bytes[code] = (E4M3[first + code].to_bits() >> (16 + 8 * half)) as u8;
        code += 1;
    }
    Bytes(bytes)
}

static LOWER: [Bytes; 2] = [table(0, 0), table(64, 0)];
static UPPER: [Bytes; 2] = [table(0, 1), table(64, 1)];

/// Where each byte goes so that interleaving halves within lanes of 16 bytes and then taking even and odd words apart
/// leaves the values in order.
static SPREAD: Bytes = {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        let (lane, within) = (at / 16, at % 16);
        let (vector, word) = (within / 8 * 2 + within % 2, within % 8 / 2);
        order[at] = (vector * 16 + lane * 4 + word) as u8;
        at += 1;
    }
    Bytes(order)
};

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const MANY_REGISTERS: bool = true;
    const E4M3_FACTOR: f32 = 1.0;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= 16);
        // SAFETY: 16 values are there; `self` proves the feature.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        assert!(to.len() >= 16);
        // SAFETY: 16 values are there; `self` proves the feature.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the feature.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn positive(self, value: __m512) -> __m512 {
        // SAFETY: `self` proves the feature. Of a NaN and a number the second comes out.
        unsafe { _mm512_max_ps(value, _mm512_setzero_ps()) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves the features.
        unsafe {
            let upper =
                _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_castps512_ps256(upper));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn sums(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` proves the features; `sums` has room for four values.
        unsafe {
            // Upper halves onto lower ones: eight lanes of two vectors, then four of all, two and one.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            let four = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one)));
            sums
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint that reads nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn e4m3(self, from: &[u8]) -> [__m512; 4] {
        assert!(from.len() >= 64);
        // SAFETY: 64 bytes are there, and the tables are of 64 aligned bytes; `self` proves the features.
        unsafe {
            let codes = _mm512_permutexvar_epi8(
                _mm512_load_si512(SPREAD.0.as_ptr().cast()),
                _mm512_loadu_si512(from.as_ptr().cast()),
            );
            // The lookup goes by the lower seven bits; the sign is the eighth.
            let lower = _mm512_permutex2var_epi8(
                _mm512_load_si512(LOWER[0].0.as_ptr().cast()),
                codes,
                _mm512_load_si512(LOWER[1].0.as_ptr().cast()),
            );
            let upper = _mm512_permutex2var_epi8(
                _mm512_load_si512(UPPER[0].0.as_ptr().cast()),
                codes,
                _mm512_load_si512(UPPER[1].0.as_ptr().cast()),
            );
            // upper | (codes & 0x80)
            let upper = _mm512_ternarylogic_epi32::<0xf8>(upper, codes, _mm512_set1_epi8(-128));
            let first = _mm512_unpacklo_epi8(lower, upper);
            let second = _mm512_unpackhi_epi8(lower, upper);
            let odd = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(first)),
                _mm512_castsi512_ps(_mm512_and_si512(first, odd)),
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(second)),
                _mm512_castsi512_ps(_mm512_and_si512(second, odd)),
            ]
        }
    }

    #[inline(always)]
    fn bf16(self, from: &[u8]) -> [__m512; 4] {
        assert!(from.len() >= 128);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(32)) {
            // SAFETY: 32 bytes are there; `self` proves the features.
            *value = unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            };
        }
        values
    }

    #[inline(always)]
    fn f16(self, from: &[u8]) -> [__m512; 4] {
        assert!(from.len() >= 128);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(32)) {
            // SAFETY: 32 bytes are there; `self` proves the features.
            *value = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) };
        }
        values
    }

    #[inline(always)]
    fn f32(self, from: &[u8]) -> [__m512; 4] {
        assert!(from.len() >= 256);
        let mut values = [self.splat(0.0); 4];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(64)) {
            // SAFETY: 64 bytes are there, at any alignment; `self` proves the feature.
            *value = unsafe { _mm512_loadu_ps(from.as_ptr().cast()) };
        }
        values
    }
}
