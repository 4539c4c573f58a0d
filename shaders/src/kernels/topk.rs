//! Host twin and cases of `topk.wgsl`.

use rayon::prelude::*;

use crate::case::random;
use crate::topk::{Bindings, NOTHING, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let rows = call.groups[0] as usize;
    let k = p.k as usize;
    let bound = call.bindings::<Params>();
    let (scores, lengths, selected) = (bound.scores.f32(), bound.lengths.u32(), bound.selected.u32_mut());
    selected[..rows * k].par_chunks_exact_mut(k).enumerate().for_each(|(row, out)| {
        let length = if p.fixed_length == 1 { p.length } else { lengths[row] + 1 } as usize;
        select(&scores[row * p.stride as usize..][..length], out);
    });
}

/// Indices of the `out.len()` largest scores, ascending.
pub(super) fn select(scores: &[f32], out: &mut [u32]) {
    let (length, k) = (scores.len(), out.len());
    out.fill(NOTHING);
    if length <= k {
        (0..).zip(&mut out[..length]).for_each(|(i, out)| *out = i);
        return;
    }
    let mut keys: Vec<u32> = scores.iter().map(|score| ordered(*score)).collect();
    let (_, &mut threshold, above) = keys.select_nth_unstable(length - k);
    let mut ties = k - above.iter().filter(|key| **key > threshold).count();
    let mut at = 0;
    for (i, score) in (0..).zip(scores) {
        let key = ordered(*score);
        let tie = key == threshold && ties > 0;
        ties -= usize::from(tie);
        if key > threshold || tie {
            out[at] = i;
            at += 1;
        }
    }
}

/// A number whose order as u32 is that of the score.
fn ordered(score: f32) -> u32 {
    let bits = if score.to_bits() == 0x8000_0000 { 0 } else { score.to_bits() };
    bits ^ if bits >> 31 == 1 { 0xffff_ffff } else { 0x8000_0000 }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let random = |seed, length| random::f32s(seed, length);
    // Eleven values only, so that the boundary runs through thousands of equal ones.
    let coarse = |seed, length| -> Vec<f32> {
        random::f32s(seed, length).iter().map(|v| (v * 5.0).round() / 4.0).collect()
    };
    let mut close = random(5, 3000);
    // Differences in the last bits only.
    close
        .iter_mut()
        .enumerate()
        .for_each(|(i, v)| *v = f32::from_bits(1.0f32.to_bits() + (i as u32 * 7919) % 1500));
    let mut infinite = coarse(6, 777);
    infinite.iter_mut().step_by(2).for_each(|v| *v = f32::NEG_INFINITY);
    let mut subnormal = vec![0.0; 300];
    subnormal.iter_mut().enumerate().for_each(|(i, v)| {
        *v = [0.0, -0.0, f32::from_bits(1), -f32::from_bits(1), f32::from_bits(0x7f_ffff)][i % 5];
    });
    let positions = |lengths: &[usize]| Some(lengths.iter().map(|l| *l as u32 - 1).collect::<Vec<_>>());
    vec![
        case("163840 scores, ties at the boundary", 2048, 1, coarse(1, 163_840), None),
        case("163840 scores, all different", 2048, 1, random(2, 163_840), None),
        case("all equal", 64, 1, vec![-3.5; 5000], None),
        case("all minus infinity", 3, 1, vec![f32::NEG_INFINITY; 300], None),
        case("more wanted than above minus infinity", 500, 1, infinite.clone(), None),
        case("boundary above minus infinity", 100, 1, infinite, None),
        case("zeros of both signs and subnormals", 100, 1, subnormal, None),
        case("last bits only", 1000, 1, close, None),
        case("k 1", 1, 3, coarse(7, 3 * 1001), None),
        case("k is the length", 333, 2, random(8, 666), None),
        case("k above the length", 400, 2, random(9, 666), None),
        case("one less than the length", 332, 2, coarse(10, 666), None),
        case("around 2048", 2048, 4, coarse(11, 4 * 2200), positions(&[2047, 2048, 2049, 2200])),
        case("short and long rows", 16, 6, random(12, 6 * 300), positions(&[1, 15, 16, 17, 256, 300])),
    ]
}

/// `scores` are `rows` equally long rows; with `positions` the lengths come from the buffer.
fn case(name: &str, k: usize, rows: usize, scores: Vec<f32>, positions: Option<Vec<u32>>) -> Case {
    let stride = scores.len() / rows;
    let params = Params {
        stride: stride as u32,
        k: k as u32,
        length: stride as u32,
        fixed_length: positions.is_none().into(),
    };
    let lengths = positions.unwrap_or_else(|| vec![0; rows]);
    Case::new(
        name,
        params,
        Overrides::default(),
        [rows as u32, 1, 1],
        Bindings {
            scores: CaseBuffer::f32(&scores),
            lengths: CaseBuffer::u32(&lengths),
            selected: CaseBuffer::OutU32(vec![7; rows * k]),
        },
        Tolerance::EXACT,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bound;

    /// The definition: a stable sort by descending score.
    #[test]
    fn the_twin_agrees_with_a_stable_sort() {
        for case in cases() {
            let params: Params = bytemuck::pod_read_unaligned(&case.params);
            let [scores, lengths, mut selected]: [Vec<u32>; 3] = std::array::from_fn(|binding| {
                let bytes = case.buffers[binding].initial();
                bytes.chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
            });
            let bindings = vec![
                Bound::Read(bytemuck::cast_slice(&scores)),
                Bound::Read(bytemuck::cast_slice(&lengths)),
                Bound::Write(bytemuck::cast_slice_mut(&mut selected)),
            ];
            twin(&mut Call {
                params: &case.params,
                constants: case.constants,
                groups: case.groups,
                bindings,
            });

            let scores: Vec<f32> = scores.into_iter().map(f32::from_bits).collect();
            for row in 0..case.groups[0] as usize {
                let length = if params.fixed_length == 1 { params.length } else { lengths[row] + 1 };
                let score = |i: &u32| scores[row * params.stride as usize + *i as usize];
                let mut indices: Vec<u32> = (0..length).collect();
                indices.sort_by(|a, b| score(b).partial_cmp(&score(a)).unwrap());
                indices.truncate(params.k as usize);
                indices.sort_unstable();
                indices.resize(params.k as usize, NOTHING);
                assert_eq!(
                    selected[row * params.k as usize..][..params.k as usize],
                    indices,
                    "{}, row {row}",
                    case.name
                );
            }
        }
    }
}
