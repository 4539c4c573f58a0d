// h[t, r] += (Σ_i expert_weights[t, i] · Σ_k W_e[r, k] · a[t·picks + i, k]) + Σ_k S[r, k] · a[pairs + t, k]
// with e = expert_ids[t·picks + i], a = silu(gate) · up of the rows of x: the down projections of the picked experts and of
// the shared expert, combined and added to the residual in one dispatch (decode, all experts of the layer in one slab).
// x: f32 (pairs + tokens, x_stride), rows [gate | up]   W_e: (rows, cols)   S: (rows, shared_cols)   h: f32 (tokens, rows)
// Order: picks ascending, then the shared expert, then the residual, as experts_combine has it.

import package::lib::weights::element_bytes;
import package::lib::rows::{block_sum, block_scale};

const THREADS: u32 = 64u;

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

fn row_dot(kind: u32, base: u32, row_scales: u32, cols: u32, x_row: u32, eight: u32) -> f32 {
    var total = 0.0;
    for (var b = 0u; b < (cols + 127u) / 128u; b++) {
        total = fma(block_sum(kind, base, cols, x_row, 1u, b, eight), block_scale(kind, row_scales, b), total);
    }
    return total;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    var eight = 0u;
    @if(broadcast) {
        eight = subgroup_lane % 8u;
    }
    let token = id.y;
    let row = min(id.x, params.rows - 1u); // lanes beyond the last row work along, so that all lanes share x
    let blocks = (params.cols + 127u) / 128u;
    var sum = 0.0;
    for (var pick = 0u; pick < params.picks; pick++) {
        let pair = token * params.picks + pick;
        let expert = expert_ids[pair];
        let base = slots[expert].x * 16u + params.weight_offset + row * params.cols * element_bytes(params.weight_type);
        let row_scales = params.scale_offset + slots[expert].y + row / 128u * blocks;
        let part = row_dot(params.weight_type, base, row_scales, params.cols, pair * params.x_stride, eight);
        sum = fma(expert_weights[pair], part, sum);
    }
    if (params.shared_cols > 0u) {
        let base = params.shared_offset + row * params.shared_cols * element_bytes(params.shared_type);
        let row_scales = params.shared_scale_offset + row / 128u * ((params.shared_cols + 127u) / 128u);
        let x_row = (params.pairs + token) * params.x_stride;
        sum += row_dot(params.shared_type, base, row_scales, params.shared_cols, x_row, eight);
    }
    if (id.x < params.rows) {
        h[token * params.rows + row] += sum;
    }
}
