// h[t, r] += (Σ_i expert_weights[t, i] · Σ_k W_e[r, k] · a[t·picks + i, k]) + Σ_k S[r, k] · a[pairs + t, k]
// with e = expert_ids[t·picks + i]: the down projections of the picked experts and of the shared expert, combined and added to
// the residual in one dispatch (decode, all experts of the layer in one slab), with lanes along K.
// a: f32 (pairs + tokens, x_stride), already silu(gate) · up   W_e: (rows, cols)   S: (rows, shared_cols)   h: f32 (tokens, rows)
// `Params` and the order of the sums are those of experts_down.wgsl; a row's dot products have the order of lib/lanes.wgsl.

import package::lib::lanes::{Rows, ROWS, LANES, sum_blocks, total};
import package::lib::weights::{element_bytes, F8E4M3, BF16};

struct Params {
    rows: u32,
    cols: u32, // moe_intermediate_size
    picks: u32,
    pairs: u32,
    x_stride: u32,
    weight_offset: u32, // bytes, within a slot
    scale_offset: u32,
    weight_type: u32,
    shared_cols: u32, // 0: no shared expert
    shared_offset: u32, // bytes, within the slab
    shared_scale_offset: u32,
    shared_type: u32,
}
var<immediate> params: Params;

@group(0) @binding(3) var<storage, read> expert_ids: array<u32>;
@group(0) @binding(4) var<storage, read> slots: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> expert_weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> h: array<f32>;

// Experts whose sums are kept at once: their blocks fill block_sums, and there is a part of each row per expert.
const MOST: u32 = 16u;
var<workgroup> products: array<vec4<f32>, MOST>;

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
    let token = group.y;
    let first = group.x * ROWS;
    let used = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
    let row_bytes = params.cols * element_bytes(params.weight_type);
    let blocks = (params.cols + 127u) / 128u;
    for (var pick = 0u; pick < params.picks; pick++) {
        let pair = token * params.picks + pick;
        let slot = slots[expert_ids[pair]];
        var four: Rows;
        four.kind = params.weight_type;
        four.cols = params.cols;
        four.x = pair * params.x_stride;
        four.bytes = vec4(slot.x * 16u + params.weight_offset) + used * row_bytes;
        four.scales = vec2(params.scale_offset + slot.y + first / 128u * blocks);
        sum_blocks(four, lane, pick * blocks);
    }
    let shared_first = params.picks * blocks;
    let shared_blocks = (params.shared_cols + 127u) / 128u;
    if (params.shared_cols > 0u) {
        var four: Rows;
        four.kind = params.shared_type;
        four.cols = params.shared_cols;
        four.x = (params.pairs + token) * params.x_stride;
        four.bytes = vec4(params.shared_offset) + used * params.shared_cols * element_bytes(params.shared_type);
        four.scales = vec2(params.shared_scale_offset + first / 128u * shared_blocks);
        sum_blocks(four, lane, shared_first);
    }
    workgroupBarrier();
    // A lane per expert and row.
    for (var i = lane; i < params.picks * ROWS; i += LANES) {
        products[i / ROWS][i % ROWS] = total(i % ROWS, i / ROWS * blocks, blocks);
    }
    workgroupBarrier();
    if (lane < ROWS && first + lane < params.rows) {
        var sum = 0.0;
        for (var pick = 0u; pick < params.picks; pick++) {
            sum = fma(expert_weights[token * params.picks + pick], products[pick][lane], sum);
        }
        if (params.shared_cols > 0u) {
            sum += total(lane, shared_first, shared_blocks);
        }
        h[token * params.rows + first + lane] += sum;
    }
}
