// Dot products of a stored row with x, shared by the mat-vecs. The three bindings are theirs.
// Order of a sum: k ascending inside a part of 16 columns, the eight parts of a block ascending; the blocks are then added
// ascending, each times its scale.
//
// On adapters that are CPUs (`broadcast`) eight lanes load eight values of x at once and hand them round, since a load
// of one value by all lanes costs as much as eight loads there: all lanes of a subgroup then need the same x.

import package::lib::weights::{e4m3x4, bf16x2, element, element_bytes, F8E4M3, BF16};

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

// x at `index`, or its gated activation: silu(gate) · up, with up `cols` further on.
fn x_at(index: u32, swiglu: u32, cols: u32) -> f32 {
    if (swiglu == 1u) {
        let gate = x[index];
        return gate / (1.0 + exp(-gate)) * x[index + cols];
    }
    return x[index];
}

// 16 products: the codes of one vec4, ascending, with x at `at`.
fn f8_step(codes: vec4<u32>, at: u32, eight: u32, swiglu: u32, cols: u32, sum_in: f32) -> f32 {
    var sum = sum_in;
    let w0 = e4m3x4(codes.x);
    let w1 = e4m3x4(codes.y);
    let w2 = e4m3x4(codes.z);
    let w3 = e4m3x4(codes.w);
    @if(broadcast) {
        let low = x_at(at + eight, swiglu, cols);
        let high = x_at(at + 8u + eight, swiglu, cols);
        sum = fma(w0.x, subgroupBroadcast(low, 0u), sum);
        sum = fma(w0.y, subgroupBroadcast(low, 1u), sum);
        sum = fma(w0.z, subgroupBroadcast(low, 2u), sum);
        sum = fma(w0.w, subgroupBroadcast(low, 3u), sum);
        sum = fma(w1.x, subgroupBroadcast(low, 4u), sum);
        sum = fma(w1.y, subgroupBroadcast(low, 5u), sum);
        sum = fma(w1.z, subgroupBroadcast(low, 6u), sum);
        sum = fma(w1.w, subgroupBroadcast(low, 7u), sum);
        sum = fma(w2.x, subgroupBroadcast(high, 0u), sum);
        sum = fma(w2.y, subgroupBroadcast(high, 1u), sum);
        sum = fma(w2.z, subgroupBroadcast(high, 2u), sum);
        sum = fma(w2.w, subgroupBroadcast(high, 3u), sum);
        sum = fma(w3.x, subgroupBroadcast(high, 4u), sum);
        sum = fma(w3.y, subgroupBroadcast(high, 5u), sum);
        sum = fma(w3.z, subgroupBroadcast(high, 6u), sum);
        sum = fma(w3.w, subgroupBroadcast(high, 7u), sum);
    }
    @if(!broadcast) {
        sum = fma(w0.x, x_at(at, swiglu, cols), sum);
        sum = fma(w0.y, x_at(at + 1u, swiglu, cols), sum);
        sum = fma(w0.z, x_at(at + 2u, swiglu, cols), sum);
        sum = fma(w0.w, x_at(at + 3u, swiglu, cols), sum);
        sum = fma(w1.x, x_at(at + 4u, swiglu, cols), sum);
        sum = fma(w1.y, x_at(at + 5u, swiglu, cols), sum);
        sum = fma(w1.z, x_at(at + 6u, swiglu, cols), sum);
        sum = fma(w1.w, x_at(at + 7u, swiglu, cols), sum);
        sum = fma(w2.x, x_at(at + 8u, swiglu, cols), sum);
        sum = fma(w2.y, x_at(at + 9u, swiglu, cols), sum);
        sum = fma(w2.z, x_at(at + 10u, swiglu, cols), sum);
        sum = fma(w2.w, x_at(at + 11u, swiglu, cols), sum);
        sum = fma(w3.x, x_at(at + 12u, swiglu, cols), sum);
        sum = fma(w3.y, x_at(at + 13u, swiglu, cols), sum);
        sum = fma(w3.z, x_at(at + 14u, swiglu, cols), sum);
        sum = fma(w3.w, x_at(at + 15u, swiglu, cols), sum);
    }
    return sum;
}

// 8 products: the BF16 values of one vec4, ascending, with x at `at`.
fn bf16_step(values: vec4<u32>, at: u32, eight: u32, swiglu: u32, cols: u32, sum_in: f32) -> f32 {
    var sum = sum_in;
    let w0 = bf16x2(values.x);
    let w1 = bf16x2(values.y);
    let w2 = bf16x2(values.z);
    let w3 = bf16x2(values.w);
    @if(broadcast) {
        let all = x_at(at + eight, swiglu, cols);
        sum = fma(w0.x, subgroupBroadcast(all, 0u), sum);
        sum = fma(w0.y, subgroupBroadcast(all, 1u), sum);
        sum = fma(w1.x, subgroupBroadcast(all, 2u), sum);
        sum = fma(w1.y, subgroupBroadcast(all, 3u), sum);
        sum = fma(w2.x, subgroupBroadcast(all, 4u), sum);
        sum = fma(w2.y, subgroupBroadcast(all, 5u), sum);
        sum = fma(w3.x, subgroupBroadcast(all, 6u), sum);
        sum = fma(w3.y, subgroupBroadcast(all, 7u), sum);
    }
    @if(!broadcast) {
        sum = fma(w0.x, x_at(at, swiglu, cols), sum);
        sum = fma(w0.y, x_at(at + 1u, swiglu, cols), sum);
        sum = fma(w1.x, x_at(at + 2u, swiglu, cols), sum);
        sum = fma(w1.y, x_at(at + 3u, swiglu, cols), sum);
        sum = fma(w2.x, x_at(at + 4u, swiglu, cols), sum);
        sum = fma(w2.y, x_at(at + 5u, swiglu, cols), sum);
        sum = fma(w3.x, x_at(at + 6u, swiglu, cols), sum);
        sum = fma(w3.y, x_at(at + 7u, swiglu, cols), sum);
    }
    return sum;
}

fn word(index: u32) -> u32 {
    return weights[index >> 2u][index & 3u];
}

// Σ over block b (of 128 columns) of the row that starts at byte `base`, with x from `x_row` on.
fn block_sum(kind: u32, base: u32, cols: u32, x_row: u32, swiglu: u32, b: u32, eight: u32) -> f32 {
    let first = b * 128u;
    let count = min(128u, cols - first);
    var sum = 0.0;
    if (kind == F8E4M3 && cols % 16u == 0u) {
        let row = (base + first) / 16u;
        for (var step = 0u; step < count / 16u; step++) {
            sum += f8_step(weights[row + step], x_row + first + step * 16u, eight, swiglu, cols, 0.0);
        }
    } else if (kind == BF16 && cols % 8u == 0u) {
        let row = (base + first * 2u) / 16u;
        for (var step = 0u; step < count / 8u; step += 2u) {
            var part = bf16_step(weights[row + step], x_row + first + step * 8u, eight, swiglu, cols, 0.0);
            if (step + 1u < count / 8u) {
                part = bf16_step(weights[row + step + 1u], x_row + first + step * 8u + 8u, eight, swiglu, cols, part);
            }
            sum += part;
        }
    } else {
        // Rows that are not aligned, and types that are rare.
        var part = 0.0;
        for (var k = 0u; k < count; k++) {
            let byte = base + (first + k) * element_bytes(kind);
            part = fma(element(kind, word(byte / 4u), byte % 4u), x_at(x_row + first + k, swiglu, cols), part);
            if (k % 16u == 15u || k + 1u == count) {
                sum += part;
                part = 0.0;
            }
        }
    }
    return sum;
}

// Scale of block b of a row whose scales start at `row_scales`.
fn block_scale(kind: u32, row_scales: u32, b: u32) -> f32 {
    if (kind == F8E4M3) {
        return scales[row_scales + b];
    }
    return 1.0;
}
