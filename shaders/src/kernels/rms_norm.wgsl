// y[t, k] = x[r, k] · weight[k] / sqrt(mean_k x[r, k]² + eps)      r = rows[t] when gathering, else t
// x: f32 (·, x_stride)   weight: f32 (cols)   rows: u32 (tokens)   y: f32 (tokens, cols)
// One workgroup per token.

import package::lib::reduce::workgroup_sum;

struct Params {
    cols: u32,
    x_stride: u32,
    gather: u32, // 1: x's row is rows[t]
    eps: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x;
    var row = token;
    if (params.gather == 1u) {
        row = rows[token];
    }
    let x_row = row * params.x_stride;
    var squares = 0.0;
    for (var k = lane; k < params.cols; k += 128u) {
        squares += x[x_row + k] * x[x_row + k];
    }
    let scale = inverseSqrt(workgroup_sum(lane, squares) / f32(params.cols) + params.eps);
    for (var k = lane; k < params.cols; k += 128u) {
        y[token * params.cols + k] = x[x_row + k] * scale * weight[k];
    }
}
