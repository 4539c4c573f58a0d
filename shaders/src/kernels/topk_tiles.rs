//! Host twin and cases of `topk_tiles.wgsl`.

use rayon::prelude::*;

use super::order::ordered;
use super::topk::select;
use crate::case::random;
use crate::topk_tiles::{Bindings, Overrides, Params, TILE};
use crate::{Call, Case, CaseBuffer, Tolerance, index_scores_lanes};

// The maxima that it reads are of so many scores.
const _: () = assert!(index_scores_lanes::OF_MAXIMUM == TILE);

/// Scores that have a maximum.
pub const SCORES: usize = TILE as usize;

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let (rows, k) = (call.groups[0] as usize, p.k as usize);
    let bound = call.bindings::<Params>();
    let (scores, lengths, selected) = (bound.scores.f32(), bound.lengths.u32(), bound.selected.u32_mut());
    selected[..rows * k].par_chunks_exact_mut(k).enumerate().for_each(|(row, out)| {
        select(&scores[row * p.stride as usize..][..lengths[row] as usize + 1], out);
    });
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let random = |seed, length| random::f32s(seed, length);
    // Eleven values only, so that the boundary runs through thousands of equal ones.
    let coarse = |seed, length| -> Vec<f32> {
        random::f32s(seed, length).iter().map(|v| (v * 5.0).round() / 4.0).collect()
    };
    // Neighbours are alike: what is selected lies in few tiles.
    let smooth = |length: usize| -> Vec<f32> { (0..length).map(|i| (i as f32 * 1e-3).sin()).collect() };
    // Sixteen large ones in every hundredth tile.
    let clustered = |seed, length: usize| -> Vec<f32> {
        let lift = |i: usize| if i / SCORES % 100 == 7 { 4.0 } else { 0.0 };
        random::f32s(seed, length).iter().enumerate().map(|(i, v)| v + lift(i)).collect()
    };
    let mut infinite = coarse(6, 7776);
    infinite.iter_mut().step_by(2).for_each(|v| *v = f32::NEG_INFINITY);
    let mut subnormal = vec![0.0; 3000];
    subnormal.iter_mut().enumerate().for_each(|(i, v)| {
        *v = [0.0, -0.0, f32::from_bits(1), -f32::from_bits(1), f32::from_bits(0x7f_ffff)][i % 5];
    });
    let negative: Vec<f32> = random(13, 20_000).iter().map(|v| v - 2.0).collect();
    vec![
        case("163840 scores, all different", 2048, random(2, 163_840), &[163_840]),
        case("163840 scores, ties at the boundary", 2048, coarse(1, 163_840), &[163_840]),
        case("neighbours alike", 2048, smooth(131_072), &[131_072]),
        case("in clusters", 512, clustered(3, 60_000), &[60_000]),
        case("few tiles more than wanted", 64, random(4, 1100), &[1033]),
        case("all equal", 64, vec![-3.5; 50_000], &[50_000]),
        case("all minus infinity", 3, vec![f32::NEG_INFINITY; 300], &[300]),
        case("boundary above minus infinity", 100, infinite.clone(), &[7776]),
        case("more wanted than above minus infinity", 480, infinite, &[7776]),
        case("zeros of both signs and subnormals", 100, subnormal, &[3000]),
        case("negative", 300, negative, &[19_999]),
        case("k 1", 1, coarse(7, 3 * 1000), &[1000, 17, 16]),
        case("fewer tiles than wanted", 333, random(8, 2 * 668), &[668, 400]),
        case("around k", 2048, coarse(11, 4 * 2200), &[2047, 2048, 2049, 2200]),
        case("short and long rows", 16, random(12, 6 * 400), &[1, 15, 16, 17, 256, 400]),
    ]
}

/// `scores` are a row for each of `lengths`, equally long.
fn case(name: &str, k: usize, mut scores: Vec<f32>, lengths: &[usize]) -> Case {
    let rows = lengths.len();
    let stride = scores.len() / rows;
    let maxima_offset = scores.len().next_multiple_of(4);
    let maxima_stride = stride.div_ceil(SCORES).next_multiple_of(4);
    let largest = |tile: &[f32]| tile.iter().copied().max_by_key(|score| ordered(*score)).unwrap_or(f32::NAN);
    let mut maxima = Vec::new();
    for (row, length) in scores.chunks_exact(stride).zip(lengths) {
        maxima.extend(row[..*length].chunks(SCORES).map(largest));
        maxima.resize(maxima.len().next_multiple_of(maxima_stride), f32::NAN);
    }
    scores.resize(maxima_offset, f32::NAN);
    scores.extend(maxima);
    let params = Params {
        stride: stride as u32,
        k: k as u32,
        maxima_offset: maxima_offset as u32,
        maxima_stride: maxima_stride as u32,
    };
    Case::new(
        name,
        params,
        Overrides {},
        [rows as u32, 1, 1],
        Bindings {
            scores: CaseBuffer::f32(&scores),
            lengths: CaseBuffer::u32(&lengths.iter().map(|l| *l as u32 - 1).collect::<Vec<_>>()),
            selected: CaseBuffer::OutU32(vec![7; rows * k]),
        },
        Tolerance::EXACT,
    )
}
