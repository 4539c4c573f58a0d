//! Host twin and cases of `index_scores_lanes.wgsl`.

use super::dot::eight_lanes;
use super::index_scores::{case, compute};
use super::order::ordered;
use crate::index_scores_lanes::{OF_MAXIMUM, Overrides, Params, TILE};
use crate::{Call, Case, CaseBuffer, Interface as _, index_scores};

/// Most values of a key.
pub const MAX_DIM: u32 = 128;

impl index_scores::Params {
    /// The same for the kernel with lanes along a key; maxima are written where `maxima_stride` is not 0.
    pub fn along_dim(self, maxima_offset: u32, maxima_stride: u32) -> Params {
        let index_scores::Params { heads, dim, stride, weights_offset, scores_stride, .. } = self;
        Params {
            heads,
            dim,
            stride,
            weights_offset,
            scores_stride,
            pages_per_sequence: self.pages_per_sequence,
            scale: self.scale,
            maxima_offset,
            maxima_stride,
        }
    }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let scores = index_scores::Params {
        heads: p.heads,
        dim: p.dim,
        stride: p.stride,
        weights_offset: p.weights_offset,
        scores_stride: p.scores_stride,
        pages_per_sequence: p.pages_per_sequence,
        scale: p.scale,
    };
    compute(call, &scores, TILE as usize, |queries, key, weights| {
        let mut sums = [0.0f32; 4];
        for (head, (query, weight)) in queries.chunks_exact(key.len()).zip(weights).enumerate() {
            let sum = &mut sums[head % 4];
            *sum = eight_lanes(query, key).max(0.0).mul_add(*weight, *sum);
        }
        (sums[0] + sums[2]) + (sums[1] + sums[3])
    });
    if p.maxima_stride == 0 {
        return;
    }
    let tokens = call.groups[1] as usize;
    let bound = call.bindings::<Params>();
    let (positions, scores) = (bound.positions.u32(), bound.scores.f32_mut());
    let (scores, maxima) = scores.split_at_mut(p.maxima_offset as usize);
    for token in 0..tokens {
        let row = &scores[token * p.scores_stride as usize..][..positions[token] as usize + 1];
        let maxima = &mut maxima[token * p.maxima_stride as usize..];
        for (tile, largest) in row.chunks(OF_MAXIMUM as usize).zip(maxima) {
            *largest = tile.iter().copied().max_by_key(|score| ordered(*score)).expect("a chunk has values");
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    [
        ("real sizes", 64, 128, vec![70]),
        ("heads 4, dim 32", 4, 32, vec![0, 63, 64, 127, 128, 300]),
        ("heads 9, dim 36", 9, 36, vec![200, 5]),
        ("heads 1, dim 4", 1, 4, vec![129, 0, 3]),
        ("heads 18, dim 100", 18, 100, vec![65, 64]),
    ]
    .into_iter()
    .flat_map(|(name, heads, dim, positions)| {
        let with = |with_maxima| lanes(case(name, heads, dim, &positions), &positions, with_maxima);
        [with(false), with(true)]
    })
    .collect()
}

/// A case of `index_scores` for this kernel.
fn lanes(mut case: Case, positions: &[u32], with_maxima: bool) -> Case {
    let params: index_scores::Params = bytemuck::pod_read_unaligned(&case.params);
    let longest = *positions.iter().max().expect("a case has tokens") + 1;
    let (mut offset, mut stride) = (0, 0);
    if with_maxima {
        case.name += ", and maxima";
        offset = (positions.len() as u32 * params.scores_stride).next_multiple_of(4);
        stride = longest.div_ceil(OF_MAXIMUM).next_multiple_of(4);
        let (_, reference, _) = case.reference.as_mut().expect("scores have a reference");
        reference.resize(offset as usize, 0.0);
        for (token, position) in positions.iter().enumerate() {
            let row = reference[token * params.scores_stride as usize..][..*position as usize + 1].to_vec();
            let maxima = row.chunks(OF_MAXIMUM as usize);
            reference.extend(maxima.map(|tile| tile.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
            reference.resize(offset as usize + (token + 1) * stride as usize, 0.0);
        }
        case.buffers[6] = CaseBuffer::OutF32(vec![0.0; reference.len()]);
    }
    case.params = bytemuck::bytes_of(&params.along_dim(offset, stride)).to_vec();
    case.constants = Params::constants(Overrides {});
    case.groups = [longest.div_ceil(TILE), positions.len() as u32, 1];
    case
}
