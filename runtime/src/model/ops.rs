//! The vocabulary of the forward pass: one function per kernel, which checks that each view is as long as the kernel needs
//! it, and records a dispatch.

mod attention;
mod experts;
mod sampling;

use porism_shaders as shaders;
use porism_shaders::Interface;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::kernels::{experts_down_lanes, matvec_lanes};
use porism_shaders::weights::{BLOCK, WeightType};

use crate::cache::RowCopy;
use crate::device::{Shape, Tuning};
use crate::recording::{Dispatch, Groups, Label, Recording, View};
use crate::weights::pieces::{EmbeddingPiece, Piece, Projection};

/// From so many tokens on a mat-mul decodes each weight once for eight of them. Both give the same bits.
pub(crate) const MATMUL_FROM: u32 = 3;

/// Activations: rows of f32 in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The buffer.
    pub view: View,
    /// Values from one row to the next.
    pub stride: u32,
    /// Index of the first value of interest in a row.
    pub offset: u32,
}

impl Rows {
    /// Rows of `stride` values.
    pub fn new(view: View, stride: u32) -> Self {
        Rows { view, stride, offset: 0 }
    }

    /// The same rows from value `offset` on.
    pub fn at(self, offset: u32) -> Self {
        Rows { offset: self.offset + offset, ..self }
    }
}

/// What a projection does besides multiplying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// x is silu(gate) · up of rows [gate | up].
    pub swiglu: bool,
    /// y += instead of y =.
    pub accumulate: bool,
}

/// Records dispatches for `tokens` tokens.
pub struct Ops<'r> {
    /// Where to.
    pub recording: &'r mut Recording,
    /// The device's.
    pub tuning: Tuning,
    /// How many tokens the step has.
    pub tokens: u32,
    /// Which layer is being recorded.
    pub layer: Option<u32>,
    /// A small buffer for bindings that a mode of a kernel leaves unused.
    pub unused: View,
}

/// A view that is bound to a kernel, and how many bytes of it the kernel may read or write.
#[derive(Clone, Copy, Debug)]
struct Operand {
    view: View,
    needed: u64,
}

/// Values of four bytes of this shape.
fn shaped<const N: usize>(view: View, shape: [u32; N]) -> Operand {
    let values = shape.into_iter().map(u64::from).fold(1, u64::saturating_mul);
    Operand { view, needed: values.saturating_mul(4) }
}

/// `rows` rows, `stride` values from one to the next, of which the last has `width`.
fn strided(view: View, rows: u32, stride: u32, width: u32) -> Operand {
    let before = u64::from(rows.saturating_sub(1)) * u64::from(stride);
    Operand { view, needed: (before + u64::from(width)) * 4 }
}

/// Where the weights and the scales of some matrices with `cols` columns end.
fn matrices<'s>(
    (weights, scales): (View, View),
    segments: impl IntoIterator<Item = &'s Segment>,
    cols: u32,
) -> [Operand; 2] {
    let (mut bytes, mut count) = (0, 0);
    for segment in segments {
        let kind = WeightType::from_code(segment.kind);
        let elements = u64::from(segment.rows) * u64::from(cols);
        bytes = bytes.max(u64::from(segment.offset) + elements * kind.bytes() as u64);
        if kind == WeightType::F8E4M3 {
            let blocks = segment.rows.div_ceil(BLOCK as u32) * cols.div_ceil(BLOCK as u32);
            count = count.max(segment.scale_offset + blocks);
        }
    }
    [Operand { view: weights, needed: bytes }, shaped(scales, [count])]
}

/// Values from the first column of y on that some matrices write.
fn width(segments: &[Segment]) -> u32 {
    segments.iter().map(|segment| segment.column + segment.rows).max().unwrap_or(0)
}

/// Workgroups of one dimension that WebGPU promises.
const MAX_GROUPS: u32 = 65535;

/// Whether a row of `cols` columns has its block sums within the workgroup memory of a mat-vec with lanes along K.
fn fits(cols: u32) -> bool {
    cols.div_ceil(BLOCK as u32) <= matvec_lanes::MOST_BLOCKS
}

/// The override `BLOCKS` for rows of `cols` columns.
fn blocks_of(cols: u32) -> u32 {
    matvec_lanes::blocks_of(cols.div_ceil(BLOCK as u32))
}

impl Ops<'_> {
    fn push<P: Interface>(
        &mut self,
        what: &'static str,
        params: &P,
        overrides: P::Overrides,
        bound: P::Bindings<Operand>,
        groups: [u32; 3],
    ) {
        self.push_groups(what, params, overrides, bound, Groups::Direct(groups));
    }

    fn push_groups<P: Interface>(
        &mut self,
        what: &'static str,
        params: &P,
        overrides: P::Overrides,
        bound: P::Bindings<Operand>,
        groups: Groups,
    ) {
        let label = Label { what, layer: self.layer };
        let mut names = P::KERNEL.kernel().bindings.iter();
        let views = bound.into_iter().map(|Operand { view, needed }| {
            let name = names.next().map_or("", |binding| binding.name);
            assert!(
                needed <= view.bytes,
                "{label}: `{name}` has {} bytes, the kernel needs {needed}",
                view.bytes
            );
            view
        });
        let views = P::bind(views).expect("as many as there are");
        let features = self.tuning.features;
        self.recording.dispatch(Dispatch::new(features, params, overrides, views, groups, label));
    }

    /// Copies rows of a cache of `width` values each.
    pub fn copy_rows(&mut self, copy: RowCopy, width: u32, cache: View) {
        let count = copy.rows * width;
        let params = shaders::copy_rows::Params {
            source: copy.source * width,
            destination: copy.destination * width,
            count,
        };
        let last = copy.source.max(copy.destination) + copy.rows;
        let bound = shaders::copy_rows::Bindings { cache: shaped(cache, [last, width]) };
        let groups = [count.div_ceil(shaders::copy_rows::THREADS), 1, 1];
        self.push("copy_rows", &params, Default::default(), bound, groups);
    }

    /// Rows of the embedding for the step's token ids. h: (tokens, hidden_size)
    pub fn embedding(&mut self, pieces: &[EmbeddingPiece], cols: u32, token_ids: View, h: View) {
        for EmbeddingPiece { first_row, piece } in pieces {
            let segment = piece.segments[0];
            let params = shaders::embedding::Params {
                cols,
                first_row: *first_row,
                rows: segment.rows,
                weight_offset: segment.offset,
                scale_offset: segment.scale_offset,
            };
            let [weights, scales] = matrices((piece.weights, piece.scales), [&segment], cols);
            let bound = shaders::embedding::Bindings {
                weights,
                scales,
                token_ids: shaped(token_ids, [self.tokens]),
                h: shaped(h, [self.tokens, cols]),
            };
            let overrides = shaders::embedding::Overrides { weight_type: segment.kind };
            let groups = [cols.div_ceil(shaders::embedding::THREADS), self.tokens, 1];
            self.push("embed_tokens", &params, overrides, bound, groups);
        }
    }

    /// y = rms(x) · weight, of row `rows[t]` when `gather` is given, for `count` rows.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn rms_norm(
        &mut self,
        what: &'static str,
        x: Rows,
        weight: View,
        gather: Option<View>,
        cols: u32,
        eps: f32,
        y: View,
        count: u32,
    ) {
        let params =
            shaders::rms_norm::Params { cols, x_stride: x.stride, gather: gather.is_some().into(), eps };
        let bound = shaders::rms_norm::Bindings {
            // Which rows are gathered is known on the device only.
            x: strided(x.view, if gather.is_some() { 1 } else { count }, x.stride, cols),
            weight: shaped(weight, [cols]),
            rows: gather.map_or(shaped(self.unused, [0]), |rows| shaped(rows, [count])),
            y: shaped(y, [count, cols]),
        };
        self.push(what, &params, Default::default(), bound, [count, 1, 1]);
    }

    /// y = x Wᵀ for all matrices of a projection, `count` rows of x.
    pub fn project(
        &mut self,
        what: &'static str,
        weights: &Projection,
        x: Rows,
        y: Rows,
        form: Form,
        count: u32,
    ) {
        for piece in &weights.pieces {
            self.project_piece(what, piece, weights.cols, x, y, form, count);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    fn project_piece(
        &mut self,
        what: &'static str,
        piece: &Piece,
        cols: u32,
        x: Rows,
        y: Rows,
        form: Form,
        count: u32,
    ) {
        let mut segments = [Segment::default(); 4];
        for (moved, segment) in segments.iter_mut().zip(&piece.segments) {
            *moved = Segment { column: segment.column + y.offset, ..*segment };
        }
        let segments = &segments[..piece.segments.len()];
        let [weights, scales] = matrices((piece.weights, piece.scales), segments, cols);
        let x_width = x.offset + if form.swiglu { 2 * cols } else { cols };
        let x_view = strided(x.view, count, x.stride, x_width);
        let y_view = strided(y.view, count, y.stride, width(segments));
        let unused = shaped(self.unused, [0]);
        if count >= MATMUL_FROM {
            let (packed, groups) = Segments::pack(segments, shaders::matmul::ROWS, None);
            let params = shaders::matmul::Params {
                cols,
                x_stride: x.stride,
                x_offset: x.offset,
                y_stride: y.stride,
                accumulate: form.accumulate.into(),
                tokens: count,
                ..Default::default()
            }
            .with(&packed);
            let overrides = shaders::matmul::Overrides { swiglu: form.swiglu.into(), experts: 0 };
            let bound = shaders::matmul::Bindings {
                weights,
                scales,
                x: x_view,
                tiles: unused,
                pair_order: unused,
                slots: unused,
                y: y_view,
            };
            let groups = [groups, count.div_ceil(shaders::matmul::TOKENS), 1];
            self.push(what, &params, overrides, bound, groups);
        } else {
            let along_k = !form.swiglu && self.along_k(segments, cols);
            let rows = if along_k { matvec_lanes::ROWS } else { shaders::matvec::THREADS };
            let (packed, groups) = Segments::pack(segments, rows, None);
            let params = shaders::matvec::Params {
                cols,
                x_stride: x.stride,
                x_offset: x.offset,
                y_stride: y.stride,
                accumulate: form.accumulate.into(),
                ..Default::default()
            }
            .with(&packed);
            let (x, expert_ids, slots, y) = (x_view, unused, unused, y_view);
            let groups = [groups, count, 1];
            if along_k {
                let bound = shaders::matvec_lanes::Bindings { weights, scales, x, expert_ids, slots, y };
                let overrides =
                    shaders::matvec_lanes::Overrides { blocks: blocks_of(cols), ..Default::default() };
                self.push(what, &params.along_k(), overrides, bound, groups);
            } else {
                let bound = shaders::matvec::Bindings { weights, scales, x, expert_ids, slots, y };
                let overrides = shaders::matvec::Overrides { swiglu: form.swiglu.into(), experts: 0 };
                self.push(what, &params, overrides, bound, groups);
            }
        }
    }

    /// Gate and up of x: rows [gate | up] of `act`, or silu(gate) · up at once where the device's mat-vec does that. Returns
    /// whether it did.
    pub fn gate_up(&mut self, what: &'static str, weights: &Projection, x: Rows, act: Rows) -> bool {
        let (count, cols) = (self.tokens, weights.cols);
        let piece = match &weights.pieces[..] {
            [piece] if count < MATMUL_FROM && self.pairs_up(&piece.segments, cols) => piece,
            _ => {
                self.project(what, weights, x, act, Form::default(), count);
                return false;
            }
        };
        let rows = piece.segments[0].rows;
        let (packed, _) = Segments::pack(&piece.segments, matvec_lanes::ROWS / 2, None);
        let params = shaders::matvec::Params {
            cols,
            x_stride: x.stride,
            x_offset: x.offset,
            y_stride: act.stride,
            ..Default::default()
        }
        .with(&packed)
        .along_k();
        let [of_weights, scales] = matrices((piece.weights, piece.scales), &piece.segments, cols);
        let bound = shaders::matvec_lanes::Bindings {
            weights: of_weights,
            scales,
            x: strided(x.view, count, x.stride, x.offset + cols),
            expert_ids: shaped(self.unused, [0]),
            slots: shaped(self.unused, [0]),
            y: strided(act.view, count, act.stride, piece.segments[0].column + rows),
        };
        let overrides =
            shaders::matvec_lanes::Overrides { paired: 1, blocks: blocks_of(cols), ..Default::default() };
        self.push(what, &params, overrides, bound, [rows.div_ceil(matvec_lanes::ROWS / 2), count, 1]);
        true
    }

    /// Whether the device's mat-vec has lanes along K and can have them for these weights.
    fn along_k(&self, segments: &[Segment], cols: u32) -> bool {
        let groups: u32 = segments.iter().map(|segment| segment.rows.div_ceil(matvec_lanes::ROWS)).sum();
        self.tuning.shape == Shape::Gpu && fits(cols) && groups <= MAX_GROUPS
    }

    /// Whether it can have silu(gate) · up of two weights, or of two and then two of a shared expert, as its result.
    fn pairs_up(&self, segments: &[Segment], cols: u32) -> bool {
        let alike =
            |two: &[Segment]| matches!(two, [a, b] if a.rows == b.rows && a.kind == b.kind && fits(a.rows));
        self.along_k(segments, cols) && segments.chunks(2).all(alike)
    }

    /// Whether a token's experts can be summed in one dispatch: everywhere where threads have rows, within the workgroup's
    /// memory where lanes lie along K.
    pub fn sums_experts(&self, picks: u32, cols: u32, shared_cols: u32) -> bool {
        let blocks = picks * cols.div_ceil(BLOCK as u32) + shared_cols.div_ceil(BLOCK as u32);
        self.tuning.shape == Shape::Cpu
            || (picks <= experts_down_lanes::MOST_PICKS && blocks <= matvec_lanes::MOST_BLOCKS)
    }

    /// Threads of a workgroup that could use `wanted`: few where threads are lanes of a CPU.
    fn threads(&self, wanted: u32) -> u32 {
        match self.tuning.shape {
            Shape::Cpu => 32,
            Shape::Gpu => wanted.next_multiple_of(32).clamp(32, 128),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::BufferId;

    fn view(values: u64) -> View {
        View { buffer: BufferId(0), offset: 0, bytes: 4 * values }
    }

    fn norm(x: u64, weight: u64, y: u64) {
        let mut recording = Recording::default();
        let unused = view(4);
        let mut ops =
            Ops { recording: &mut recording, tuning: Tuning::HOST, tokens: 3, layer: Some(7), unused };
        ops.rms_norm("norm", Rows::new(view(x), 9), view(weight), None, 8, 1e-6, view(y), 3);
        assert_eq!(recording.dispatches().count(), 1);
    }

    #[test]
    fn views_that_are_just_long_enough_are_bound() {
        norm(9 + 9 + 8, 8, 3 * 8);
    }

    #[test]
    #[should_panic(expected = "layer 7 / norm: `x` has 100 bytes, the kernel needs 104")]
    fn rows_that_end_too_early_are_refused_with_both_sizes() {
        norm(9 + 9 + 7, 8, 3 * 8);
    }

    #[test]
    #[should_panic(expected = "layer 7 / norm: `weight` has 28 bytes, the kernel needs 32")]
    fn a_weight_of_another_length_is_refused_with_both_sizes() {
        norm(9 + 9 + 8, 7, 3 * 8);
    }

    #[test]
    #[should_panic(expected = "layer 7 / norm: `y` has 92 bytes, the kernel needs 96")]
    fn a_result_without_room_is_refused_with_both_sizes() {
        norm(9 + 9 + 8, 8, 3 * 8 - 1);
    }
}
