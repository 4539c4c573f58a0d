// y[p, c + r] (= or +=) Σ_k W[r, k] · x[t, k]     for up to four weights W that share x, as stored in the checkpoint
// x: f32 (·, x_stride)   y: f32 (·, y_stride)   W: (rows, cols), F8_E4M3 with one f32 scale per 128 × 128 block, or BF16, F16, F32
// SWIGLU: x[t, k] becomes silu(x[t, k]) · x[t, cols + k].
// EXPERTS: workgroup row p < pairs is the pair (token t = p / picks, expert expert_ids[p]); W's offsets are within the
//   expert's slot. Rows p ≥ pairs are the shared expert of token p - pairs: they use segments 2 and 3, routed ones 0 and 1.
// Order of a sum: k ascending inside a part of 16 columns, the eight parts of a block of 128 ascending, then the blocks
// ascending. The mat-mul has the same, and so has matvec_lanes.
//
// A thread has a row: the form for adapters that are CPUs, where threads are lanes of a vector. Bindings 0–2 (weights, scales, x)
// are those of lib/rows.

import package::lib::weights::element_bytes;
import package::lib::rows::{block_sum, block_scale};

override SWIGLU: u32 = 0u;
override EXPERTS: u32 = 0u;

const THREADS: u32 = 64u;

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

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    var eight = 0u;
    @if(broadcast) {
        eight = subgroup_lane % 8u;
    }
    let shared_expert = EXPERTS == 1u && group.y >= params.pairs;
    var segment = params.segment0;
    var rows = params.rows.x;
    var column = params.columns.x;
    if (shared_expert) {
        segment = params.segment2;
        rows = params.rows.z;
        column = params.columns.z;
    } else if (params.rows.y > 0u && group.x >= params.segment1.x) {
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
    var token = group.y;
    var base = segment.y;
    var scale_base = segment.z;
    if (EXPERTS == 1u) {
        token = select(group.y / params.picks, group.y - params.pairs, shared_expert);
        if (SWIGLU == 1u) {
            token = group.y; // x has a row per pair
        }
        if (!shared_expert) {
            let expert = expert_ids[group.y];
            let slot = slots[expert];
            if (slot.x == 0xffffffffu) {
                return; // in another slab
            }
            base += slot.x * 16u;
            scale_base += slot.y;
        }
    }
    let row = (group.x - segment.x) * THREADS + thread;
    if ((group.x - segment.x) * THREADS >= rows) {
        return; // the other kind of expert has more rows
    }
    let used_row = min(row, rows - 1u); // lanes beyond the last row work along, so that all lanes share x
    let kind = segment.w;
    let row_base = base + used_row * params.cols * element_bytes(kind);
    let x_row = token * params.x_stride + params.x_offset;
    let blocks = (params.cols + 127u) / 128u;
    let row_scales = scale_base + used_row / 128u * blocks;
    var total = 0.0;
    for (var b = 0u; b < blocks; b++) {
        let sum = block_sum(kind, row_base, params.cols, x_row, SWIGLU, b, eight);
        total = fma(sum, block_scale(kind, row_scales, b), total);
    }
    if (row < rows) {
        let at = group.y * params.y_stride + column + row;
        if (params.accumulate == 1u) {
            total += y[at];
        }
        y[at] = total;
    }
}
