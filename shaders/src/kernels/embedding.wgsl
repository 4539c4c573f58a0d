// h[t, :] = table[token_ids[t], :]      for ids in [first_row, first_row + rows); other tokens keep their h
// table: (rows, cols) of WEIGHT_TYPE, the rows of a larger table from first_row on   token_ids: u32 (T)   h: f32 (T, cols)
// scales: f32 (rows / 128, cols / 128), rounded up, counted from the window's own first row, as for every weight.
// A table of several pieces takes one dispatch per piece. Workgroups: (cols / 256, T).

import package::lib::weights::{element, F8E4M3, F32};

override WEIGHT_TYPE: u32 = 1u;

struct Params {
    cols: u32,
    first_row: u32,
    rows: u32,
    weight_offset: u32, // bytes, a multiple of 16
    scale_offset: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> token_ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;

const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y;
    let column = group.x * THREADS + lane;
    let row = token_ids[token] - params.first_row; // wraps to a large number below the window
    if (row >= params.rows || column >= params.cols) {
        return;
    }
    var shift = 1u; // log2 of the bytes of an element
    if (WEIGHT_TYPE == F8E4M3) {
        shift = 0u;
    } else if (WEIGHT_TYPE == F32) {
        shift = 2u;
    }
    let byte = params.weight_offset + ((row * params.cols + column) << shift);
    var value = element(WEIGHT_TYPE, weights[byte >> 4u][(byte >> 2u) & 3u], byte & 3u);
    if (WEIGHT_TYPE == F8E4M3) {
        value *= scales[params.scale_offset + row / 128u * ((params.cols + 127u) / 128u) + column / 128u];
    }
    h[token * params.cols + column] = value;
}
