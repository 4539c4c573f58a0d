//! The kernels that read most weights, as the twins compute them but with vectors and threads.

use porism_shaders as shaders;
use porism_shaders::Call;
use porism_shaders::kernels::order::ordered;
use porism_shaders::kernels::reduce;
use porism_shaders::kernels::segments::Segments;
use porism_shaders::weights::{BLOCK, WeightType};
use rayon::prelude::*;

use super::dots::{Dots, Matrix, Products};
use super::simd::Path;

/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 32 << 10;
/// Rows of a task whose results lie on the stack.
const STACK_ROWS: usize = 64;

/// Rows of activations, padded with zeros to whole blocks.
struct Inputs<'a> {
    values: &'a [f32],
    first: usize,
    stride: usize,
    cols: usize,
}

impl<'a> Inputs<'a> {
    /// `count` rows of `cols` values, `stride` apart, from value `first` of x on; with `with_swiglu` of twice as many
    /// that become silu(gate) · up. Only what cannot be read where it is goes through `scratch`.
    fn new(
        x: &'a [f32],
        [first, stride]: [usize; 2],
        [count, cols]: [usize; 2],
        with_swiglu: bool,
        scratch: &'a mut Vec<f32>,
    ) -> Self {
        let padded = cols.next_multiple_of(BLOCK);
        if !with_swiglu && cols == padded {
            return Inputs { values: x, first, stride, cols };
        }
        scratch.resize(count * padded, 0.0);
        scratch.par_chunks_mut(padded).with_min_len(4).enumerate().for_each(|(row, out)| {
            let from = &x[first + row * stride..];
            if with_swiglu {
                activate(&from[..2 * cols], out);
            } else {
                out[..cols].copy_from_slice(&from[..cols]);
            }
            out[cols..].fill(0.0);
        });
        Inputs { values: scratch, first: 0, stride: padded, cols: padded }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[self.first + row * self.stride..][..self.cols]
    }
}

/// silu(gate) · up of [gate | up].
fn activate(x: &[f32], out: &mut [f32]) {
    let (gate, up) = x.split_at(x.len() / 2);
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + (-gate).exp()) * up;
    }
}

/// Rows of a task, so that threads have some to choose from and none is too small.
fn task_rows(row_bytes: usize, all_rows: usize) -> usize {
    let least = TASK_BYTES.div_ceil(row_bytes.max(1));
    all_rows.div_ceil(4 * rayon::current_num_threads()).max(least).next_multiple_of(8)
}

/// Segments with rows, by column: [first workgroup, offset, first scale, type], rows, column.
fn present(segments: &Segments, range: std::ops::Range<usize>) -> Vec<([u32; 4], usize, usize)> {
    let all = segments.unpack();
    let mut found: Vec<_> = all[range]
        .iter()
        .filter(|(_, rows, _)| *rows > 0)
        .map(|(packed, rows, column)| (*packed, *rows as usize, *column as usize))
        .collect();
    found.sort_by_key(|(_, _, column)| *column);
    found
}

/// Some rows of a mat-vec.
struct Task<'a> {
    matrix: Matrix<'a>,
    first: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Task<'_> {
    fn run(self, path: Path, accumulate: bool) {
        let Task { matrix, first, x, out } = self;
        if !accumulate {
            return path.run(Dots { matrix: &matrix, first, x, out });
        }
        for (part, out) in out.chunks_mut(STACK_ROWS).enumerate() {
            let mut found = [0.0; STACK_ROWS];
            let found = &mut found[..out.len()];
            path.run(Dots { matrix: &matrix, first: first + part * STACK_ROWS, x, out: found });
            out.iter_mut().zip(found).for_each(|(out, found)| *out += *found);
        }
    }
}

/// `matvec.wgsl`
pub(super) fn matvec(path: Path, scratch: &mut Vec<f32>, call: &mut Call<'_>) {
    let p: shaders::matvec::Params = call.params();
    let overrides = call.overrides::<shaders::matvec::Params>();
    let with_swiglu = overrides.swiglu == 1;
    let experts = overrides.experts == 1;
    let groups = call.groups;
    let bound = call.bindings::<shaders::matvec::Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (expert_ids, slots, y) = (bound.expert_ids.u32(), bound.slots.u32(), bound.y.f32_mut());
    let (cols, lines) = (p.cols as usize, groups[1] as usize);
    let (pairs, picks) = (p.pairs as usize, p.picks as usize);
    let segments = Segments {
        packed: [p.segment0, p.segment1, p.segment2, p.segment3],
        rows: p.rows,
        columns: p.columns,
    };
    // Rows of x: one per line, or in EXPERTS mode without SwiGLU one per token.
    let count = if experts && !with_swiglu { (pairs / picks).max(lines - pairs) } else { lines };
    let at = [p.x_offset as usize, p.x_stride as usize];
    let inputs = Inputs::new(x, at, [count, cols], with_swiglu, scratch);
    let mut tasks = Vec::new();
    for (line, y) in y.chunks_mut(p.y_stride as usize).enumerate().take(lines) {
        let shared = experts && line >= pairs;
        let (mut base, mut scale_base) = (0, 0);
        if experts && !shared {
            let expert = expert_ids[line];
            let slot = slots[2 * expert as usize];
            if slot == u32::MAX {
                continue;
            }
            base = slot as usize * 16;
            scale_base = slots[2 * expert as usize + 1] as usize;
        }
        let row = match (experts && !with_swiglu, shared) {
            (false, _) => line,
            (true, true) => line - pairs,
            (true, false) => line / picks,
        };
        let range = match (experts, shared) {
            (false, _) => 0..4,
            (true, true) => 2..4,
            (true, false) => 0..2,
        };
        let (mut rest, mut at) = (y, 0);
        for ([first, offset, scale_offset, kind], rows, column) in present(&segments, range) {
            let reachable = groups[0].saturating_sub(first) * shaders::matvec::THREADS;
            let rows = rows.min(reachable as usize);
            let matrix = Matrix::new(
                weights,
                base + offset as usize,
                WeightType::from_code(kind),
                [rows, cols],
                &scales[(scale_base + scale_offset as usize).min(scales.len())..],
            );
            let (out, after) = rest[column - at..].split_at_mut(rows);
            (rest, at) = (after, column + rows);
            let size = task_rows(matrix.row_bytes(), rows * lines);
            for (chunk, out) in out.chunks_mut(size).enumerate() {
                tasks.push(Task { matrix, first: chunk * size, x: inputs.row(row), out });
            }
        }
    }
    let accumulate = p.accumulate == 1;
    tasks.into_par_iter().with_max_len(1).for_each(|task| task.run(path, accumulate));
}

/// Tokens of a mat-mul that share their weights: all of a dense one, those of an expert otherwise.
struct Batch {
    base: usize,
    scale_base: usize,
    lines: Vec<usize>,
}

/// `matmul.wgsl`
pub(super) fn matmul(path: Path, scratch: &mut [Vec<f32>; 2], call: &mut Call<'_>) {
    let p: shaders::matmul::Params = call.params();
    let overrides = call.overrides::<shaders::matmul::Params>();
    let with_swiglu = overrides.swiglu == 1;
    let experts = overrides.experts == 1;
    let groups = call.groups;
    let bound = call.bindings::<shaders::matmul::Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (tiles, pair_order, slots) = (bound.tiles.u32(), bound.pair_order.u32(), bound.slots.u32());
    let y = bound.y.f32_mut();
    let (cols, tokens, y_stride) = (p.cols as usize, p.tokens as usize, p.y_stride as usize);
    let segments = Segments {
        packed: [p.segment0, p.segment1, p.segment2, p.segment3],
        rows: p.rows,
        columns: p.columns,
    };
    let mut batches: Vec<Batch> = Vec::new();
    let mut lines = tokens.min((groups[1] * shaders::matmul::TOKENS) as usize);
    if experts {
        lines = tokens * p.picks as usize;
        let mut last = None;
        for tile in tiles.chunks_exact(4).take(groups[1] as usize) {
            let (expert, first, count) = (tile[0], tile[1] as usize, tile[2] as usize);
            let slot = slots[2 * expert as usize];
            if slot == u32::MAX {
                continue;
            }
            let picked = pair_order[first..first + count].iter().map(|line| *line as usize);
            // Tiles of an expert follow each other: its weights are decoded once for all of them.
            if last.replace(expert) == Some(expert) {
                batches.last_mut().expect("made with the tile before").lines.extend(picked);
                continue;
            }
            let scale_base = slots[2 * expert as usize + 1] as usize;
            batches.push(Batch { base: slot as usize * 16, scale_base, lines: picked.collect() });
        }
    } else {
        batches.push(Batch { base: 0, scale_base: 0, lines: (0..lines).collect() });
    }
    let [prepared, found] = scratch;
    let picks = if experts && !with_swiglu { p.picks as usize } else { 1 };
    let at = [p.x_offset as usize, p.x_stride as usize];
    let inputs = Inputs::new(x, at, [lines / picks, cols], with_swiglu, prepared);

    // Results go where their task has them together and from there to their lines.
    struct Part<'a> {
        matrix: Matrix<'a>,
        first: usize,
        rows: usize,
        x: &'a [&'a [f32]],
        out: &'a mut [f32],
    }
    let x: Vec<Vec<&[f32]>> = batches
        .iter()
        .map(|batch| batch.lines.iter().map(|line| inputs.row(line / picks)).collect())
        .collect();
    let segments = present(&segments, 0..4);
    let columns: usize = segments.iter().map(|(_, rows, _)| rows).sum();
    let computed: usize = batches.iter().map(|batch| batch.lines.len()).sum();
    found.resize(computed * columns, 0.0);
    // (first value in `found`, line within its batch, column of y, rows) of what a line of y gets.
    let mut pieces: Vec<Vec<(usize, usize, usize)>> = vec![Vec::new(); lines];
    let mut parts = Vec::new();
    let (mut rest, mut at) = (&mut found[..], 0);
    for (batch, x) in batches.iter().zip(&x) {
        for ([first, offset, scale_offset, kind], rows, column) in &segments {
            let rows = (*rows).min((groups[0].saturating_sub(*first) * shaders::matmul::ROWS) as usize);
            let matrix = Matrix::new(
                weights,
                batch.base + *offset as usize,
                WeightType::from_code(*kind),
                [rows, cols],
                &scales[(batch.scale_base + *scale_offset as usize).min(scales.len())..],
            );
            let size = task_rows(matrix.row_bytes(), columns * batches.len());
            for first in (0..rows).step_by(size) {
                let rows = size.min(rows - first);
                let (out, after) = rest.split_at_mut(rows * x.len());
                rest = after;
                parts.push(Part { matrix, first, rows, x, out });
                for (index, line) in batch.lines.iter().enumerate() {
                    pieces[*line].push((at + index * rows, column + first, rows));
                }
                at += rows * x.len();
            }
        }
    }
    parts.into_par_iter().with_max_len(1).for_each(|Part { matrix, first, rows, x, out }| {
        path.run(Products { matrix: &matrix, first, rows, x, out });
    });
    y.par_chunks_mut(y_stride).zip(pieces).with_min_len(8).for_each(|(y, pieces)| {
        for (at, column, rows) in pieces {
            for (y, found) in y[column..][..rows].iter_mut().zip(&found[at..]) {
                *y = if p.accumulate == 1 { *y + found } else { *found };
            }
        }
    });
}

/// `experts_down.wgsl`
pub(super) fn experts_down(path: Path, scratch: &mut [Vec<f32>; 2], call: &mut Call<'_>) {
    let p: shaders::experts_down::Params = call.params();
    let tokens = call.groups[1] as usize;
    let bound = call.bindings::<shaders::experts_down::Params>();
    let (weights, scales, x) = (bound.weights.weights(), bound.scales.f32(), bound.x.f32());
    let (expert_ids, slots) = (bound.expert_ids.u32(), bound.slots.u32());
    let (expert_weights, h) = (bound.expert_weights.f32(), bound.h.f32_mut());
    let (rows, cols, picks) = (p.rows as usize, p.cols as usize, p.picks as usize);
    let (pairs, x_stride) = (p.pairs as usize, p.x_stride as usize);
    let [routed, shared] = scratch;
    let inputs = Inputs::new(x, [0, x_stride], [tokens * picks, cols], true, routed);
    let shared_cols = p.shared_cols as usize;
    let shared = (shared_cols > 0).then(|| {
        let kind = WeightType::from_code(p.shared_type);
        let scales = &scales[p.shared_scale_offset as usize..];
        let matrix = Matrix::new(weights, p.shared_offset as usize, kind, [rows, shared_cols], scales);
        (matrix, Inputs::new(x, [pairs * x_stride, x_stride], [tokens, shared_cols], true, shared))
    });
    let kind = WeightType::from_code(p.weight_type);
    for (token, h) in h.chunks_exact_mut(rows).enumerate().take(tokens) {
        let picked: Vec<_> = (token * picks..(token + 1) * picks)
            .map(|pair| {
                let expert = expert_ids[pair];
                let offset = slots[2 * expert as usize] as usize * 16 + p.weight_offset as usize;
                let scales = &scales[(p.scale_offset + slots[2 * expert as usize + 1]) as usize..];
                let matrix = Matrix::new(weights, offset, kind, [rows, cols], scales);
                (matrix, inputs.row(pair), expert_weights[pair])
            })
            .collect();
        let size = task_rows(cols * kind.bytes() * (picks + 1), rows).min(STACK_ROWS);
        h.par_chunks_mut(size).enumerate().for_each(|(chunk, h)| {
            let (mut sums, mut found) = ([0.0; STACK_ROWS], [0.0; STACK_ROWS]);
            let (sums, found) = (&mut sums[..h.len()], &mut found[..h.len()]);
            let first = chunk * size;
            for (matrix, x, weight) in &picked {
                path.run(Dots { matrix, first, x, out: found });
                sums.iter_mut().zip(&*found).for_each(|(sum, part)| *sum += weight * part);
            }
            if let Some((matrix, inputs)) = &shared {
                path.run(Dots { matrix, first, x: inputs.row(token), out: found });
                sums.iter_mut().zip(&*found).for_each(|(sum, part)| *sum += part);
            }
            h.iter_mut().zip(&*sums).for_each(|(h, sum)| *h += sum);
        });
    }
}

/// `router.wgsl`
pub(super) fn router(path: Path, scratch: &mut [Vec<f32>; 2], call: &mut Call<'_>) {
    let p: shaders::router::Params = call.params();
    let overrides = call.overrides::<shaders::router::Params>();
    let (tokens, cols, experts) = (p.tokens as usize, p.cols as usize, p.experts as usize);
    let kind = WeightType::from_code(overrides.weight_type);
    let bound = call.bindings::<shaders::router::Params>();
    let (h, norms, weights) = (bound.h.f32(), bound.norms.f32(), bound.weights.weights());
    let (scales, x, logits) = (bound.scales.f32(), bound.x.f32_mut(), bound.logits.f32_mut());
    let norm = &norms[p.norm_offset as usize..][..cols];
    let rows = h.par_chunks_exact(cols).zip(x.par_chunks_exact_mut(cols)).take(tokens);
    rows.with_min_len(8).for_each(|(h, x)| {
        let squares = reduce::workgroup_sum(h.iter().map(|v| v * v));
        let scale = 1.0 / (squares / cols as f32 + p.eps).sqrt();
        for ((x, h), weight) in x.iter_mut().zip(h).zip(norm) {
            *x = h * scale * weight;
        }
    });
    let [prepared, found] = scratch;
    let inputs = Inputs::new(x, [0, cols], [tokens, cols], false, prepared);
    let x: Vec<&[f32]> = (0..tokens).map(|token| inputs.row(token)).collect();
    let scales = &scales[(p.scale_offset as usize).min(scales.len())..];
    let matrix = Matrix::new(weights, p.weight_offset as usize, kind, [experts, cols], scales);
    let size = task_rows(matrix.row_bytes(), experts);
    found.resize(tokens * experts, 0.0);
    found.par_chunks_mut(size * tokens).enumerate().for_each(|(chunk, out)| {
        let rows = out.len() / tokens;
        path.run(Products { matrix: &matrix, first: chunk * size, rows, x: &x, out });
    });
    for (token, logits) in logits.chunks_exact_mut(experts).enumerate().take(tokens) {
        for (chunk, logits) in logits.chunks_mut(size).enumerate() {
            let rows = logits.len();
            logits.copy_from_slice(&found[chunk * size * tokens + token * rows..][..rows]);
        }
    }
}

/// `argmax.wgsl`: of equal ones the first.
pub(super) fn argmax(call: &mut Call<'_>) {
    let p: shaders::argmax::Params = call.params();
    let rows = call.groups[0] as usize;
    let bound = call.bindings::<shaders::argmax::Params>();
    let (logits, out) = (bound.logits.f32(), bound.out.u32_mut());
    for (logits, out) in logits.chunks_exact(p.vocab_size as usize).zip(out.chunks_exact_mut(2)).take(rows) {
        let best = logits.iter().map(|value| ordered(*value)).max();
        let id = logits.iter().position(|value| Some(ordered(*value)) == best);
        let id = id.expect("a vocabulary is not empty");
        out.copy_from_slice(&[id as u32, logits[id].to_bits()]);
    }
}
