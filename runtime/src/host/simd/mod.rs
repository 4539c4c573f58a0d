//! Vectors of f32 for the host's kernels: one small trait, one file per instruction set, chosen at run time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod vector;

pub(super) use vector::{Bf16, E4m3, Element, F16, F32, Simd, Vectorised, sum_each};

/// The instruction sets there are.
#[derive(Clone, Copy, Debug)]
pub struct Path(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    Portable(portable::Portable),
}

impl Path {
    /// All that this processor has, the fastest first; the last one is the portable one.
    pub fn all() -> Vec<Path> {
        let kinds = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Kind::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Kind::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Kind::Neon),
            Some(Kind::Portable(portable::Portable)),
        ];
        kinds.into_iter().flatten().map(Path).collect()
    }

    /// The fastest.
    pub fn best() -> Path {
        Self::all()[0]
    }

    /// Its name, e.g. `AVX-512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "NEON",
            Kind::Portable(_) => "portable",
        }
    }

    /// Runs a computation with it.
    #[inline]
    pub(super) fn run<T: Vectorised>(self, task: T) -> T::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(simd) => simd.run(task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(simd) => simd.run(task),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(simd) => simd.run(task),
            Kind::Portable(simd) => task.run(simd),
        }
    }
}
