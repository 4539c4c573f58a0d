//! Which kernels are computed with vectors; the others are left to their twins.

use porism_shaders::{self as shaders, Call, KernelId};

use super::simd::Path;
use super::{attention, kernels};

/// A kernel with vectors, and two pieces of memory for its intermediate results.
pub(super) type Run = fn(Path, &mut [Vec<f32>; 2], &mut Call<'_>);

/// The version of a kernel with vectors, if there is one.
pub(super) fn of(kernel: KernelId) -> Option<Run> {
    Some(match kernel {
        shaders::MATVEC => |path, scratch, call| kernels::matvec(path, &mut scratch[0], call),
        shaders::MATMUL => kernels::matmul,
        shaders::EXPERTS_DOWN => kernels::experts_down,
        shaders::ROUTER => kernels::router,
        shaders::ARGMAX => |_, _, call| kernels::argmax(call),
        shaders::ABSORB => |path, scratch, call| attention::absorb(path, &mut scratch[0], call),
        shaders::INDEX_SCORES => |path, scratch, call| attention::index_scores(path, &mut scratch[0], call),
        shaders::SPARSE_ATTENTION => |path, _, call| attention::sparse_attention(path, call),
        shaders::ATTENTION_OUTPUT => attention::attention_output,
        _ => return None,
    })
}
