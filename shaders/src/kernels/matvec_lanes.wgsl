// y[p, c + r] (= or +=) Σ_k W[r, k] · x[t, k]     the mat-vec for GPUs: lanes lie along K, and four rows share the loads of x
// Shapes, types, `Params` and EXPERTS are those of matvec.wgsl, and so is the order of the sums (lib/lanes.wgsl): the same bits.
// PAIRED: the weights are gate and up of the same shape, one after the other, and y[p, c + r] = silu(gate_r) · up_r with the
//   column c of the gate. A workgroup has two rows of each; where there are segments, it counts by them from 0.
// PAIRS: with EXPERTS, x has a row per pair instead of one per token.

import package::lib::lanes::{Rows, ROWS, LANES, sum_blocks, total, silu};
import package::lib::weights::{element_bytes, F8E4M3, BF16};

override EXPERTS: u32 = 0u;
override PAIRED: u32 = 0u;
override PAIRS: u32 = 0u;

struct Params {
    segment0: vec4<u32>, // first workgroup, byte offset of W, index of its first scale, type
    segment1: vec4<u32>,
    segment2: vec4<u32>,
    segment3: vec4<u32>,
    rows: vec4<u32>, // of each segment
    columns: vec4<u32>, // c: where each segment's rows begin in y
    cols: u32,
    x_stride: u32,
    x_offset: u32,
    y_stride: u32,
    accumulate: u32, // 1: +=
    pairs: u32,
    picks: u32,
}
var<immediate> params: Params;

@group(0) @binding(3) var<storage, read> expert_ids: array<u32>;
@group(0) @binding(4) var<storage, read> slots: array<vec2<u32>>; // (experts): byte offset / 16 of each slot, or all ones; its first scale
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @if(!shuffle) @builtin(local_invocation_index) lane: u32,
    @if(shuffle) @builtin(subgroup_id) subgroup: u32,
    @if(shuffle) @builtin(subgroup_size) size: u32,
    @if(shuffle) @builtin(subgroup_invocation_id) inside: u32,
) {
    @if(shuffle)
    let lane = subgroup * size + inside;
    let shared_expert = EXPERTS == 1u && group.y >= params.pairs;
    // The gate, where weights are paired; then `up` is what follows it.
    var segment = params.segment0;
    var up = params.segment1;
    var rows = params.rows.x;
    var column = params.columns.x;
    if (shared_expert) {
        segment = params.segment2;
        up = params.segment3;
        rows = params.rows.z;
        column = params.columns.z;
    }
    if (PAIRED == 0u) {
        if (!shared_expert && params.rows.y > 0u && group.x >= params.segment1.x) {
            segment = params.segment1;
            rows = params.rows.y;
            column = params.columns.y;
        }
        if ((EXPERTS == 0u || shared_expert) && params.rows.z > 0u && group.x >= params.segment2.x) {
            segment = params.segment2;
            rows = params.rows.z;
            column = params.columns.z;
        }
        if ((EXPERTS == 0u || shared_expert) && params.rows.w > 0u && group.x >= params.segment3.x) {
            segment = params.segment3;
            rows = params.rows.w;
            column = params.columns.w;
        }
    }
    var token = group.y;
    var base = 0u;
    var scale_base = 0u;
    if (EXPERTS == 1u) {
        if (PAIRS == 0u) {
            token = select(group.y / params.picks, group.y - params.pairs, shared_expert);
        }
        if (!shared_expert) {
            let slot = slots[expert_ids[group.y]];
            if (slot.x == 0xffffffffu) {
                return; // in another slab
            }
            base = slot.x * 16u;
            scale_base = slot.y;
        }
    }
    let row_bytes = params.cols * element_bytes(segment.w);
    let blocks = (params.cols + 127u) / 128u;
    var first = 0u;
    var four: Rows;
    four.kind = segment.w;
    four.cols = params.cols;
    four.x = token * params.x_stride + params.x_offset;
    // Rows beyond the last are the last one again.
    if (PAIRED == 1u) {
        first = group.x * (ROWS / 2u);
        let used = min(vec2(first, first + 1u), vec2(rows - 1u));
        four.bytes = vec4(vec2(base + segment.y) + used * row_bytes, vec2(base + up.y) + used * row_bytes);
        four.scales = vec2(scale_base) + vec2(segment.z, up.z) + vec2(first / 128u * blocks);
    } else {
        first = (group.x - segment.x) * ROWS;
        let used = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(rows - 1u));
        four.bytes = vec4(base + segment.y) + used * row_bytes;
        four.scales = vec2(scale_base + segment.z + first / 128u * blocks);
    }
    if (first >= rows) {
        return; // the other kind of expert has more rows
    }
    sum_blocks(four, lane, 0u);
    workgroupBarrier();
    let at = group.y * params.y_stride + column + first + lane;
    if (PAIRED == 1u) {
        if (lane < ROWS / 2u && first + lane < rows) {
            let gate = total(lane, 0u, blocks);
            y[at] = silu(gate) * total(lane + 2u, 0u, blocks);
        }
    } else if (lane < ROWS && first + lane < rows) {
        var sum = total(lane, 0u, blocks);
        if (params.accumulate == 1u) {
            sum += y[at];
        }
        y[at] = sum;
    }
}
