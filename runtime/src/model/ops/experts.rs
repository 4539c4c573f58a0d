//! Kernels of the router and of experts.

use porism_shaders as shaders;
use porism_shaders::kernels::matvec_lanes;
use porism_shaders::kernels::segments::{Segment, Segments};
use porism_shaders::weights::BLOCK;

use super::{Operand, Ops, Rows, blocks_of, matrices, shaped, strided, width};
use crate::recording::{Groups, View};
use crate::weights::pieces::{Experts, Piece, Projection, Slab, SlotLayout};

/// What a mat-vec with the weights of experts does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Rows [gate | up] of a token's x.
    GateUp,
    /// silu(gate) · up of a token's x.
    Paired,
    /// A pair's row of x.
    Down,
    /// A pair's row [gate | up], which becomes silu(gate) · up on the way.
    ActivateAndDown,
}

impl Ops<'_> {
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
        let (segment, tokens) = (gate.segments[0], self.tokens);
        params.tokens = tokens;
        params.weight_offset = segment.offset;
        params.scale_offset = segment.scale_offset;
        let [weights, scales] = matrices((gate.weights, gate.scales), [&segment], params.cols);
        let bound = shaders::router::Bindings {
            h: shaped(h, [tokens, params.cols]),
            norms: shaped(norms, [params.norm_offset + params.cols]),
            weights,
            scales,
            x: shaped(x, [tokens, params.cols]),
            logits: shaped(logits, [tokens, params.experts]),
        };
        let share = if tokens >= 4 { 4 } else { 1 };
        let careful = (!params.cols.is_multiple_of(4)).into();
        let overrides = shaders::router::Overrides { weight_type: segment.kind, careful, tokens: share };
        let groups = [params.experts.div_ceil(shaders::router::EXPERTS), tokens.div_ceil(share), 1];
        self.push("router", &params, overrides, bound, groups);
    }

    /// Chooses experts and their weights. See `route.wgsl`.
    pub fn route(&mut self, params: &shaders::route::Params, bound: shaders::route::Bindings<View>) {
        let (p, tokens) = (params, self.tokens);
        let bound = shaders::route::Bindings {
            logits: shaped(bound.logits, [tokens, p.experts]),
            norms: shaped(bound.norms, [if p.has_bias == 1 { p.bias_offset + p.experts } else { 0 }]),
            expert_ids: shaped(bound.expert_ids, [tokens, p.experts_per_token]),
            expert_weights: shaped(bound.expert_weights, [tokens, p.experts_per_token]),
        };
        self.push("route", params, Default::default(), bound, [tokens, 1, 1]);
    }

    /// Sorts pairs by expert and writes the workgroup counts of the two expert mat-muls. See `group_experts.wgsl`.
    pub fn group_experts(
        &mut self,
        params: &shaders::group_experts::Params,
        bound: shaders::group_experts::Bindings<View>,
    ) {
        let p = params;
        let tiles = p.pairs / p.tile + p.experts.min(p.pairs);
        let bound = shaders::group_experts::Bindings {
            expert_ids: shaped(bound.expert_ids, [p.pairs]),
            pair_order: shaped(bound.pair_order, [p.pairs]),
            tiles: shaped(bound.tiles, [tiles, 4]),
            arguments: shaped(bound.arguments, [8]),
        };
        self.push("group_experts", params, Default::default(), bound, [1, 1, 1]);
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
        let step = if paired { Step::Paired } else { Step::GateUp };
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
        let step = if activated { Step::Down } else { Step::ActivateAndDown };
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
        step: Step,
    ) {
        let along_k = match step {
            Step::GateUp => self.along_k(segments, cols),
            Step::Paired | Step::Down => true,
            Step::ActivateAndDown => false,
        };
        let rows_per_group = match (along_k, step) {
            (false, _) => shaders::matvec::THREADS,
            (true, Step::Paired) => matvec_lanes::ROWS / 2,
            (true, _) => matvec_lanes::ROWS,
        };
        let shared_from = (segments.len() > 2).then_some(2);
        let (packed, mut groups) = Segments::pack(segments, rows_per_group, shared_from);
        let mut written = width(segments);
        if step == Step::Paired {
            groups = segments.iter().map(|segment| segment.rows.div_ceil(rows_per_group)).max().unwrap_or(0);
            written = segments.iter().step_by(2).map(|gate| gate.column + gate.rows).max().unwrap_or(0);
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
        let [weights, scales] = matrices((slab.weights, slab.scales), segments, cols);
        let (rows, of_x) = match step {
            Step::GateUp | Step::Paired => (self.tokens, cols),
            Step::Down => (lines, cols),
            Step::ActivateAndDown => (lines, 2 * cols),
        };
        let x = strided(x.view, rows, x.stride, x.offset + of_x);
        let (expert_ids, slots) = (shaped(expert_ids, [pairs]), shaped(slab.slots, [2]));
        let y = strided(y.view, lines, y.stride, written);
        let groups = [groups, lines, 1];
        if along_k {
            let overrides = shaders::matvec_lanes::Overrides {
                experts: 1,
                paired: (step == Step::Paired).into(),
                pairs: (step == Step::Down).into(),
                blocks: blocks_of(cols),
            };
            let bound = shaders::matvec_lanes::Bindings { weights, scales, x, expert_ids, slots, y };
            self.push(what, &params.along_k(), overrides, bound, groups);
        } else {
            let swiglu = (step == Step::ActivateAndDown).into();
            let overrides = shaders::matvec::Overrides { swiglu, experts: 1 };
            let bound = shaders::matvec::Bindings { weights, scales, x, expert_ids, slots, y };
            self.push(what, &params, overrides, bound, groups);
        }
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
        let of_slab = (slab.weights, slab.scales);
        let [weights, scales] = matrices(of_slab, [&experts.slot.down], cols);
        let [shared_weights, shared_scales] = matrices(of_slab, [&shared_segment], shared_cols);
        let larger = |a: Operand, b: Operand| if a.needed < b.needed { b } else { a };
        let pairs = self.tokens * picks;
        let lines = if shared_cols > 0 { pairs + self.tokens } else { pairs };
        let (weights, scales) = (larger(weights, shared_weights), larger(scales, shared_scales));
        let values = if activated { 1 } else { 2 };
        let x = larger(
            strided(act.view, pairs, act.stride, values * cols),
            strided(act.view, lines, act.stride, values * shared_cols),
        );
        let (expert_ids, slots) = (shaped(expert_ids, [pairs]), shaped(slab.slots, [2]));
        let (expert_weights, h) = (shaped(expert_weights, [pairs]), shaped(h, [self.tokens, rows]));
        let what = "experts_down";
        if activated {
            let blocks = picks * cols.div_ceil(BLOCK as u32) + shared_cols.div_ceil(BLOCK as u32);
            let overrides =
                shaders::experts_down_lanes::Overrides { blocks: matvec_lanes::blocks_of(blocks) };
            let bound = shaders::experts_down_lanes::Bindings {
                weights,
                scales,
                x,
                expert_ids,
                slots,
                expert_weights,
                h,
            };
            let groups = [rows.div_ceil(matvec_lanes::ROWS), self.tokens, 1];
            self.push(what, &params.along_k(), overrides, bound, groups);
        } else {
            let bound =
                shaders::experts_down::Bindings { weights, scales, x, expert_ids, slots, expert_weights, h };
            let groups = [rows.div_ceil(shaders::experts_down::THREADS), self.tokens, 1];
            self.push(what, &params, Default::default(), bound, groups);
        }
    }

    /// Workgroups in x of the expert mat-mul over `segments`.
    pub fn experts_matmul_groups(segments: &[Segment]) -> u32 {
        Segments::pack(segments, shaders::matmul::ROWS, None).1
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
        let (packed, _) = Segments::pack(segments, shaders::matmul::ROWS, None);
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
        let overrides = shaders::matmul::Overrides { swiglu: swiglu.into(), experts: 1 };
        let [weights, scales] = matrices((slab.weights, slab.scales), segments, cols);
        let pairs = self.tokens * picks;
        let (rows, of_x) = if swiglu { (pairs, 2 * cols) } else { (self.tokens, cols) };
        let bound = shaders::matmul::Bindings {
            weights,
            scales,
            x: strided(x.view, rows, x.stride, x.offset + of_x),
            tiles: shaped(tiles, [4]),
            pair_order: shaped(pair_order, [pairs]),
            slots: shaped(slab.slots, [2]),
            y: strided(y.view, pairs, y.stride, width(segments)),
        };
        self.push_groups(what, &params, overrides, bound, Groups::Indirect(groups));
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
        let tokens = self.tokens;
        let bound = shaders::experts_combine::Bindings {
            part: shaped(part, [tokens, picks, cols]),
            expert_weights: shaped(expert_weights, [tokens, picks]),
            shared_output: shared.map_or(shaped(self.unused, [0]), |shared| shaped(shared, [tokens, cols])),
            h: shaped(h, [tokens, cols]),
        };
        let groups = [cols.div_ceil(shaders::experts_combine::COLUMNS), tokens, 1];
        self.push("experts_combine", &params, Default::default(), bound, groups);
    }
}
