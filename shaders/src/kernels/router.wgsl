// x[t, :] = h[t, :] · norm_weight / sqrt(mean_k h[t, k]² + eps)      logits[t, e] = Σ_k gate[e, k] · x[t, k]
// h, x: f32 (T, cols)   norm_weight: f32 (cols) in `norms`   gate: (experts, cols) of WEIGHT_TYPE   logits: f32 (T, experts)
// Workgroups: (experts / 8, T). Each normalises its token anew, which is cheaper than a dispatch in between; the first
// of a token writes x. CAREFUL: rows of gate need not begin at a word (cols not a multiple of 4).
// Order of a sum: lane (k / 4) mod 128 adds its products in ascending k; lane l joins l + 16, l + 32, …; then 16 sums
// in order. Nothing depends on T.

import package::lib::dot::dot4;
import package::lib::reduce::workgroup_sum;
import package::lib::weights::{element, e4m3x4, bf16x2, F8E4M3, BF16, F32};

override WEIGHT_TYPE: u32 = 1u;
override CAREFUL: u32 = 0u;

const LANES: u32 = 128u;
const EXPERTS: u32 = 8u; // of a workgroup

struct Params {
    cols: u32,
    experts: u32,
    weight_offset: u32, // bytes, a multiple of 16
    scale_offset: u32,
    norm_offset: u32,
    eps: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;

var<workgroup> partial: array<f32, 1024>; // (EXPERTS, LANES)
var<workgroup> joined: array<f32, 128>; // (EXPERTS, 16)

fn word(index: u32) -> u32 {
    return weights[index >> 2u][index & 3u];
}

// Four values of a row from column k on, k a multiple of 4; careful: zero beyond the row.
fn gate4(row: u32, k: u32) -> vec4<f32> {
    let first = row * params.cols + k;
    var values: vec4<f32>;
    if (CAREFUL == 1u) {
        for (var i = 0u; i < 4u; i++) {
            if (k + i < params.cols) {
                var shift = 1u;
                if (WEIGHT_TYPE == F8E4M3) {
                    shift = 0u;
                } else if (WEIGHT_TYPE == F32) {
                    shift = 2u;
                }
                let byte = params.weight_offset + ((first + i) << shift);
                values[i] = element(WEIGHT_TYPE, word(byte >> 2u), byte & 3u);
            }
        }
    } else if (WEIGHT_TYPE == F8E4M3) {
        values = e4m3x4(word((params.weight_offset + first) >> 2u));
    } else if (WEIGHT_TYPE == F32) {
        let at = (params.weight_offset >> 2u) + first;
        values = bitcast<vec4<f32>>(vec4<u32>(word(at), word(at + 1u), word(at + 2u), word(at + 3u)));
    } else {
        let at = (params.weight_offset + 2u * first) >> 2u;
        if (WEIGHT_TYPE == BF16) {
            values = vec4<f32>(bf16x2(word(at)), bf16x2(word(at + 1u)));
        } else {
            values = vec4<f32>(unpack2x16float(word(at)), unpack2x16float(word(at + 1u)));
        }
    }
    if (WEIGHT_TYPE == F8E4M3) {
        values *= scales[params.scale_offset + row / 128u * ((params.cols + 127u) / 128u) + k / 128u];
    }
    return values;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let from_row = group.y * params.cols;
    var squares = 0.0;
    for (var k = lane; k < params.cols; k += LANES) {
        squares += h[from_row + k] * h[from_row + k];
    }
    let scale = inverseSqrt(workgroup_sum(lane, squares) / f32(params.cols) + params.eps);

    let first_expert = group.x * EXPERTS;
    let last_expert = params.experts - 1u;
    var sums: array<f32, EXPERTS>;
    for (var k = lane * 4u; k < params.cols; k += LANES * 4u) {
        var x4: vec4<f32>;
        for (var i = 0u; i < 4u; i++) {
            if (CAREFUL == 0u || k + i < params.cols) {
                x4[i] = h[from_row + k + i] * scale * norms[params.norm_offset + k + i];
                if (group.x == 0u) {
                    x[from_row + k + i] = x4[i];
                }
            }
        }
        for (var i = 0u; i < EXPERTS; i++) {
            sums[i] = dot4(gate4(min(first_expert + i, last_expert), k), x4, sums[i]);
        }
    }

    for (var i = 0u; i < EXPERTS; i++) {
        partial[i * LANES + lane] = sums[i];
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var part = 0u; part < 8u; part++) {
        sum += partial[lane / 16u * LANES + lane % 16u + 16u * part];
    }
    joined[lane] = sum;
    workgroupBarrier();
    if (lane < EXPERTS && first_expert + lane < params.experts) {
        var logit = 0.0;
        for (var part = 0u; part < 16u; part++) {
            logit += joined[lane * 16u + part];
        }
        logits[group.y * params.experts + first_expert + lane] = logit;
    }
}
