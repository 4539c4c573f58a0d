//! The vocabulary of the forward pass: one function per kernel, which checks shapes and records a dispatch.

use porism_shaders as shaders;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::kernels::{
    copy_rows, experts_down, experts_down_lanes, index_scores, matmul, matvec, matvec_lanes, router,
    sparse_attention,
};
use porism_shaders::weights::WeightType;
use porism_shaders::{KernelId, Overrides};

use crate::cache::RowCopy;
use crate::device::{Shape, Tuning};
use crate::recording::{Dispatch, Groups, Label, Recording, View};
use crate::weights::pieces::{EmbeddingPiece, Experts, Piece, Projection, Slab, SlotLayout};

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

/// What a mat-vec with the weights of experts does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpertsStep {
    /// Rows [gate | up] of a token's x.
    GateUp,
    /// silu(gate) · up of a token's x.
    Paired,
    /// A pair's row of x.
    Down,
    /// A pair's row [gate | up], which becomes silu(gate) · up on the way.
    ActivateAndDown,
}

/// Workgroups of one dimension that WebGPU promises.
const MAX_GROUPS: u32 = 65535;

/// Whether a row of `cols` columns has its block sums within the workgroup memory of a mat-vec with lanes along K.
fn fits(cols: u32) -> bool {
    cols.div_ceil(128) <= matvec_lanes::MOST_BLOCKS
}

/// The override `BLOCKS` for rows of `cols` columns.
fn blocks_of(cols: u32) -> u32 {
    matvec_lanes::blocks_of(cols.div_ceil(128))
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

impl Ops<'_> {
    fn push<P: bytemuck::Pod>(
        &mut self,
        what: &'static str,
        kernel: KernelId,
        overrides: Overrides,
        params: &P,
        bound: &[View],
        groups: [u32; 3],
    ) {
        self.push_groups(what, kernel, overrides, params, bound, Groups::Direct(groups));
    }

    fn push_groups<P: bytemuck::Pod>(
        &mut self,
        what: &'static str,
        kernel: KernelId,
        overrides: Overrides,
        params: &P,
        bound: &[View],
        groups: Groups,
    ) {
        let label = Label { what, layer: self.layer };
        let features = self.tuning.features;
        self.recording.dispatch(Dispatch::new(kernel, features, overrides, params, bound, groups, label));
    }

    /// Copies rows of a cache of `width` values each.
    pub fn copy_rows(&mut self, copy: RowCopy, width: u32, cache: View) {
        let count = copy.rows * width;
        let params = shaders::copy_rows::Params {
            source: copy.source * width,
            destination: copy.destination * width,
            count,
        };
        let groups = [count.div_ceil(copy_rows::THREADS), 1, 1];
        self.push("copy_rows", shaders::COPY_ROWS, Overrides::none(), &params, &[cache], groups);
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
            let bound = [piece.weights, piece.scales, token_ids, h];
            let overrides = Overrides::none().with("WEIGHT_TYPE", segment.kind);
            let groups = [cols.div_ceil(256), self.tokens, 1];
            self.push("embed_tokens", shaders::EMBEDDING, overrides, &params, &bound, groups);
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
        let bound = [x.view, weight, gather.unwrap_or(self.unused), y];
        self.push(what, shaders::RMS_NORM, Overrides::none(), &params, &bound, [count, 1, 1]);
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
        if count >= MATMUL_FROM {
            let (packed, groups) = Segments::pack(segments, matmul::ROWS, None);
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
            let overrides = Overrides::none().with("SWIGLU", form.swiglu.into());
            let bound = [piece.weights, piece.scales, x.view, self.unused, self.unused, self.unused, y.view];
            let groups = [groups, count.div_ceil(matmul::TOKENS), 1];
            self.push(what, shaders::MATMUL, overrides, &params, &bound, groups);
        } else {
            let along_k = !form.swiglu && self.along_k(segments, cols);
            let rows = if along_k { matvec_lanes::ROWS } else { matvec::THREADS };
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
            let (kernel, overrides) = if along_k {
                (shaders::MATVEC_LANES, Overrides::none().with("BLOCKS", blocks_of(cols)))
            } else {
                (shaders::MATVEC, Overrides::none().with("SWIGLU", form.swiglu.into()))
            };
            let bound = [piece.weights, piece.scales, x.view, self.unused, self.unused, y.view];
            self.push(what, kernel, overrides, &params, &bound, [groups, count, 1]);
        }
    }

    /// Gate and up of x: rows [gate | up] of `act`, or silu(gate) · up at once where the device's mat-vec does that. Returns
    /// whether it did.
    pub fn gate_up(&mut self, what: &'static str, weights: &Projection, x: Rows, act: Rows) -> bool {
        let count = self.tokens;
        let [piece] = &weights.pieces[..] else {
            self.project(what, weights, x, act, Form::default(), count);
            return false;
        };
        if count >= MATMUL_FROM || !self.pairs_up(&piece.segments, weights.cols) {
            self.project(what, weights, x, act, Form::default(), count);
            return false;
        }
        let (packed, _) = Segments::pack(&piece.segments, matvec_lanes::ROWS / 2, None);
        let params = shaders::matvec::Params {
            cols: weights.cols,
            x_stride: x.stride,
            x_offset: x.offset,
            y_stride: act.stride,
            ..Default::default()
        }
        .with(&packed);
        let overrides = Overrides::none().with("PAIRED", 1).with("BLOCKS", blocks_of(weights.cols));
        let bound = [piece.weights, piece.scales, x.view, self.unused, self.unused, act.view];
        let groups = [piece.segments[0].rows.div_ceil(matvec_lanes::ROWS / 2), count, 1];
        self.push(what, shaders::MATVEC_LANES, overrides, &params, &bound, groups);
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
        let blocks = picks * cols.div_ceil(128) + shared_cols.div_ceil(128);
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

    /// Norms, rope and cache writes of what x was projected to. See `latent_cache.wgsl`.
    pub fn latent_cache(&mut self, params: &shaders::latent_cache::Params, bound: [View; 7]) {
        let groups = [self.tokens, 1, 1];
        self.push("latent_cache", shaders::LATENT_CACHE, Overrides::none(), params, &bound, groups);
    }

    /// Queries into the latent space, rope of the rest and of the indexer's queries. See `absorb.wgsl`.
    pub fn absorb(&mut self, kind: u32, params: &shaders::absorb::Params, bound: [View; 6]) {
        let row_bytes = params.kv_lora_rank as usize * WeightType::from_code(kind).bytes();
        let share = if self.tokens >= 4 { 4 } else { 1 };
        let overrides = Overrides::none()
            .with("WEIGHT_TYPE", kind)
            .with("CAREFUL", (!row_bytes.is_multiple_of(4)).into())
            .with("TOKENS", share)
            .with("THREADS", self.threads(params.kv_lora_rank.div_ceil(4)));
        let groups = [params.heads + u32::from(params.index_heads > 0), self.tokens.div_ceil(share), 1];
        self.push("absorb", shaders::ABSORB, overrides, params, &bound, groups);
    }

    /// The indexer's scores of all positions up to `longest` tokens. See `index_scores.wgsl`.
    pub fn index_scores(&mut self, params: &shaders::index_scores::Params, bound: [View; 7], longest: u32) {
        let overrides = Overrides::none().with("CAREFUL", (!params.dim.is_multiple_of(4)).into());
        let groups = [longest.div_ceil(index_scores::TILE as u32), self.tokens, 1];
        self.push("index_scores", shaders::INDEX_SCORES, overrides, params, &bound, groups);
    }

    /// The k largest of each row of scores. See `topk.wgsl`.
    pub fn topk(&mut self, what: &'static str, params: &shaders::topk::Params, bound: [View; 3], rows: u32) {
        self.push(what, shaders::TOPK, Overrides::none(), params, &bound, [rows, 1, 1]);
    }

    /// Attention over the selected latents, in splits. See `sparse_attention.wgsl`.
    pub fn sparse_attention(&mut self, params: &shaders::sparse_attention::Params, bound: [View; 7]) {
        let width = params.kv_lora_rank + params.rope_dim;
        let overrides = Overrides::none()
            .with("CAREFUL", (!width.is_multiple_of(4)).into())
            .with("THREADS", self.threads(128));
        let groups = [params.splits, params.heads.div_ceil(sparse_attention::HEADS as u32), self.tokens];
        self.push("sparse_attention", shaders::SPARSE_ATTENTION, overrides, params, &bound, groups);
    }

    /// Combines the splits and applies W_UV. See `attention_output.wgsl`.
    pub fn attention_output(
        &mut self,
        kind: u32,
        params: &shaders::attention_output::Params,
        bound: [View; 5],
    ) {
        let row_bytes = params.kv_lora_rank as usize * WeightType::from_code(kind).bytes();
        let careful = !row_bytes.is_multiple_of(16) || !params.kv_lora_rank.is_multiple_of(16);
        let overrides = Overrides::none()
            .with("WEIGHT_TYPE", kind)
            .with("CAREFUL", careful.into())
            .with("THREADS", params.v.next_multiple_of(32).clamp(32, 128));
        let groups = [params.heads, self.tokens, 1];
        self.push("attention_output", shaders::ATTENTION_OUTPUT, overrides, params, &bound, groups);
    }

    /// x = rms(h) · norm and the router's logits. See `router.wgsl`.
    pub fn router(
        &mut self,
        gate: &Piece,
        mut params: shaders::router::Params,
        h: View,
        norms: View,
        x: View,
        logits: View,
    ) {
        let segment = gate.segments[0];
        params.tokens = self.tokens;
        params.weight_offset = segment.offset;
        params.scale_offset = segment.scale_offset;
        let share = if self.tokens >= 4 { 4 } else { 1 };
        let overrides = Overrides::none()
            .with("WEIGHT_TYPE", segment.kind)
            .with("CAREFUL", (!params.cols.is_multiple_of(4)).into())
            .with("TOKENS", share)
            .with("PLANES", 128 * router::planes(share))
            .with("JOINED", 16 * router::planes(share));
        let groups = [params.experts.div_ceil(8), self.tokens.div_ceil(share), 1];
        self.push(
            "router",
            shaders::ROUTER,
            overrides,
            &params,
            &[h, norms, gate.weights, gate.scales, x, logits],
            groups,
        );
    }

    /// Chooses experts and their weights. See `route.wgsl`.
    pub fn route(&mut self, params: &shaders::route::Params, bound: [View; 4]) {
        self.push("route", shaders::ROUTE, Overrides::none(), params, &bound, [self.tokens, 1, 1]);
    }

    /// Sorts pairs by expert and writes the workgroup counts of the two expert mat-muls. See `group_experts.wgsl`.
    pub fn group_experts(&mut self, params: &shaders::group_experts::Params, bound: [View; 4]) {
        self.push("group_experts", shaders::GROUP_EXPERTS, Overrides::none(), params, &bound, [1, 1, 1]);
    }

    /// Decode: gate and up of the picked experts in `slab` and, if given, of the shared one, which then lies in it too;
    /// act has a row per pair, then one per token. Returns whether they are silu(gate) · up already.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn experts_gate_up(
        &mut self,
        slot: &SlotLayout,
        slab: &Slab,
        shared: Option<&Projection>,
        picks: u32,
        cols: u32,
        x: Rows,
        expert_ids: View,
        act: Rows,
    ) -> bool {
        let mut segments = slot.gate_up.to_vec();
        let pairs = self.tokens * picks;
        let mut lines = pairs;
        if let Some(shared) = shared {
            segments.extend(&shared.pieces[0].segments);
            lines += self.tokens;
        }
        let paired = self.pairs_up(&segments, cols);
        let step = if paired { ExpertsStep::Paired } else { ExpertsStep::GateUp };
        let what = "experts_gate_up";
        self.experts_matvec(what, slab, &segments, (pairs, picks, lines), cols, x, expert_ids, act, step);
        paired
    }

    /// Decode over several slabs: down projections of the picked experts in `slab`, one row of `part` per pair; `activated`
    /// says whether `act` is silu(gate) · up.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn experts_down_parts(
        &mut self,
        slot: &SlotLayout,
        slab: &Slab,
        picks: u32,
        cols: u32,
        act: Rows,
        expert_ids: View,
        part: Rows,
        activated: bool,
    ) {
        let pairs = self.tokens * picks;
        let segments = [slot.down];
        let step = if activated { ExpertsStep::Down } else { ExpertsStep::ActivateAndDown };
        let what = "experts_down";
        self.experts_matvec(what, slab, &segments, (pairs, picks, pairs), cols, act, expert_ids, part, step);
    }

    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    fn experts_matvec(
        &mut self,
        what: &'static str,
        slab: &Slab,
        segments: &[Segment],
        (pairs, picks, lines): (u32, u32, u32),
        cols: u32,
        x: Rows,
        expert_ids: View,
        y: Rows,
        step: ExpertsStep,
    ) {
        let along_k = match step {
            ExpertsStep::GateUp => self.along_k(segments, cols),
            ExpertsStep::Paired | ExpertsStep::Down => true,
            ExpertsStep::ActivateAndDown => false,
        };
        let rows = match (along_k, step) {
            (false, _) => matvec::THREADS,
            (true, ExpertsStep::Paired) => matvec_lanes::ROWS / 2,
            (true, _) => matvec_lanes::ROWS,
        };
        let shared_from = (segments.len() > 2).then_some(2);
        let (packed, mut groups) = Segments::pack(segments, rows, shared_from);
        if step == ExpertsStep::Paired {
            groups = segments.iter().map(|segment| segment.rows.div_ceil(rows)).max().unwrap_or(0);
        }
        let params = shaders::matvec::Params {
            cols,
            x_stride: x.stride,
            x_offset: x.offset,
            y_stride: y.stride,
            pairs,
            picks,
            ..Default::default()
        }
        .with(&packed);
        let experts = Overrides::none().with("EXPERTS", 1);
        let (kernel, overrides) = if along_k {
            let overrides = experts
                .with("PAIRED", (step == ExpertsStep::Paired).into())
                .with("PAIRS", (step == ExpertsStep::Down).into())
                .with("BLOCKS", blocks_of(cols));
            (shaders::MATVEC_LANES, overrides)
        } else {
            (shaders::MATVEC, experts.with("SWIGLU", (step == ExpertsStep::ActivateAndDown).into()))
        };
        let bound = [slab.weights, slab.scales, x.view, expert_ids, slab.slots, y.view];
        self.push(what, kernel, overrides, &params, &bound, [groups, lines, 1]);
    }

    /// Decode with all experts in one slab: down projections, weights, shared expert and residual in one dispatch; `activated`
    /// says whether `act` is silu(gate) · up.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn experts_down(
        &mut self,
        experts: &Experts,
        picks: u32,
        rows: u32,
        cols: u32,
        act: Rows,
        expert_ids: View,
        expert_weights: View,
        h: View,
        activated: bool,
    ) {
        let slab = &experts.slabs[0];
        let shared = experts.shared_down.as_ref().map(|down| (down.cols, down.pieces[0].segments[0]));
        let (shared_cols, shared_segment) = shared.unwrap_or_default();
        let params = shaders::experts_down::Params {
            rows,
            cols,
            picks,
            pairs: self.tokens * picks,
            x_stride: act.stride,
            weight_offset: experts.slot.down.offset,
            scale_offset: experts.slot.down.scale_offset,
            weight_type: experts.slot.down.kind,
            shared_cols,
            shared_offset: shared_segment.offset,
            shared_scale_offset: shared_segment.scale_offset,
            shared_type: shared_segment.kind,
        };
        let bound = [slab.weights, slab.scales, act.view, expert_ids, slab.slots, expert_weights, h];
        if activated {
            let blocks = picks * cols.div_ceil(128) + shared_cols.div_ceil(128);
            let overrides = Overrides::none().with("BLOCKS", matvec_lanes::blocks_of(blocks));
            let groups = [rows.div_ceil(matvec_lanes::ROWS), self.tokens, 1];
            self.push("experts_down", shaders::EXPERTS_DOWN_LANES, overrides, &params, &bound, groups);
        } else {
            let groups = [rows.div_ceil(experts_down::THREADS), self.tokens, 1];
            self.push("experts_down", shaders::EXPERTS_DOWN, Overrides::none(), &params, &bound, groups);
        }
    }

    /// Workgroups in x of the expert mat-mul over `segments`.
    pub fn experts_matmul_groups(segments: &[Segment]) -> u32 {
        Segments::pack(segments, matmul::ROWS, None).1
    }

    /// Prefill: mat-mul of the tiles of `group_experts` with the experts of a slab. y has a row per pair.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn experts_matmul(
        &mut self,
        what: &'static str,
        slab: &Slab,
        segments: &[Segment],
        picks: u32,
        cols: u32,
        x: Rows,
        [tiles, pair_order]: [View; 2],
        y: Rows,
        swiglu: bool,
        groups: View,
    ) {
        let (packed, _) = Segments::pack(segments, matmul::ROWS, None);
        let params = shaders::matmul::Params {
            cols,
            x_stride: x.stride,
            x_offset: x.offset,
            y_stride: y.stride,
            tokens: self.tokens,
            picks,
            ..Default::default()
        }
        .with(&packed);
        let overrides = Overrides::none().with("SWIGLU", swiglu.into()).with("EXPERTS", 1);
        let bound = [slab.weights, slab.scales, x.view, tiles, pair_order, slab.slots, y.view];
        self.push_groups(what, shaders::MATMUL, overrides, &params, &bound, Groups::Indirect(groups));
    }

    /// h += Σ weight · part + shared, or h = where `overwrite`. See `experts_combine.wgsl`.
    #[expect(clippy::too_many_arguments, reason = "a formula with its operands")]
    pub fn experts_combine(
        &mut self,
        cols: u32,
        picks: u32,
        part: View,
        expert_weights: View,
        shared: Option<View>,
        h: View,
        overwrite: bool,
    ) {
        let params = shaders::experts_combine::Params {
            cols,
            experts_per_token: picks,
            has_shared: shared.is_some().into(),
            overwrite: overwrite.into(),
        };
        let bound = [part, expert_weights, shared.unwrap_or(self.unused), h];
        let groups = [cols.div_ceil(256), self.tokens, 1];
        self.push("experts_combine", shaders::EXPERTS_COMBINE, Overrides::none(), &params, &bound, groups);
    }

    /// The id and value of the largest logit of each row.
    pub fn argmax(&mut self, vocab_size: u32, logits: View, out: View, rows: u32) {
        let params = shaders::argmax::Params { vocab_size };
        self.push("argmax", shaders::ARGMAX, Overrides::none(), &params, &[logits, out], [rows, 1, 1]);
    }

    /// What the host samples from: the largest logits of each row and the sum over all. See `candidates.wgsl`.
    pub fn candidates(&mut self, vocab_size: u32, count: u32, bound: [View; 4], rows: u32) {
        let params = shaders::candidates::Params { vocab_size, candidates: count };
        self.push("candidates", shaders::CANDIDATES, Overrides::none(), &params, &bound, [rows, 1, 1]);
    }

    /// Makes tokens that occurred less likely, in place. See `repetition_penalty.wgsl`.
    pub fn repetition_penalty(&mut self, count: u32, rows: u32, vocab_size: u32, bound: [View; 3]) {
        let params = shaders::repetition_penalty::Params { count, rows, vocab_size };
        let groups = [count.div_ceil(256), 1, 1];
        self.push(
            "repetition_penalty",
            shaders::REPETITION_PENALTY,
            Overrides::none(),
            &params,
            &bound,
            groups,
        );
    }
}
