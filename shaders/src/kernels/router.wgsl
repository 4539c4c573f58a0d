// x[t, :] = h[t, :] · norm_weight / sqrt(mean_k h[t, k]² + eps)      logits[t, e] = Σ_k gate[e, k] · x[t, k]
// h, x: f32 (T, cols)   norm_weight: f32 (cols) in `norms`   gate: (experts, cols) of WEIGHT_TYPE   logits: f32 (T, experts)
// Workgroups: (experts / 8, T / TOKENS). Each normalises its tokens anew, which is cheaper than a dispatch in between;
// the first of a token writes x. TOKENS is 1, or 4, which reads gate a quarter as often.
// CAREFUL: a row of gate does not begin at a multiple of 8 bytes and 4 columns.
// Order of a sum: lane (k / 4) mod 128 adds its products in ascending k; lane l joins l + 16, l + 32, …; then 16 sums
// in order. Nothing depends on T or TOKENS.

import package::lib::dot::dot4;
import package::lib::reduce::workgroup_sum;
import package::lib::weights::{element, e4m3x4, bf16x2, F8E4M3, BF16, F32};

override WEIGHT_TYPE: u32 = 1u;
override CAREFUL: u32 = 0u;
override TOKENS: u32 = 1u;

const LANES: u32 = 128u;
const EXPERTS: u32 = 8u; // of a workgroup

struct Params {
    tokens: u32,
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
@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;

// Sums to be joined over the lanes, two planes of one vec4 per lane at a time, of four experts each for one token or of one
// expert each for four: memory that a workgroup does not take lets others run beside it.
const PLANES: u32 = 2u;
var<workgroup> planes: array<vec4<f32>, PLANES * LANES>;
var<workgroup> joined: array<vec4<f32>, PLANES * 16u>; // (planes, 16)

// Four values of a row from column k on, k a multiple of 4; careful: zero beyond the row.
fn gate4(row: u32, k: u32) -> vec4<f32> {
    let first = row * params.cols + k;
    var values: vec4<f32>;
    if (CAREFUL == 1u) {
        for (var i = 0u; i < 4u; i++) {
            if (k + i < params.cols) {
                var shift = 1u; // log2 of the bytes of an element
                if (WEIGHT_TYPE == F8E4M3) {
                    shift = 0u;
                } else if (WEIGHT_TYPE == F32) {
                    shift = 2u;
                }
                let byte = params.weight_offset + ((first + i) << shift);
                values[i] = element(WEIGHT_TYPE, weights[byte >> 3u][(byte >> 2u) & 1u], byte & 3u);
            }
        }
    } else if (WEIGHT_TYPE == F8E4M3) {
        let byte = params.weight_offset + first;
        values = e4m3x4(weights[byte >> 3u][(byte >> 2u) & 1u]);
    } else if (WEIGHT_TYPE == F32) {
        let at = (params.weight_offset + 4u * first) >> 3u;
        values = bitcast<vec4<f32>>(vec4<u32>(weights[at], weights[at + 1u]));
    } else {
        let words = weights[(params.weight_offset + 2u * first) >> 3u];
        if (WEIGHT_TYPE == BF16) {
            values = vec4<f32>(bf16x2(words.x), bf16x2(words.y));
        } else {
            values = vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
        }
    }
    if (WEIGHT_TYPE == F8E4M3) {
        values *= scales[params.scale_offset + row / 128u * ((params.cols + 127u) / 128u) + k / 128u];
    }
    return values;
}

fn is_column(k: u32) -> bool {
    return CAREFUL == 0u || k < params.cols;
}

// Joins what the lanes have for two planes; plane p's sum ends in joined[16 p].
fn join(lane: u32, low: vec4<f32>, high: vec4<f32>) {
    planes[lane] = low;
    planes[LANES + lane] = high;
    workgroupBarrier();
    if (lane < 16u * PLANES) {
        let first = lane / 16u * LANES + lane % 16u;
        var sum = planes[first];
        for (var part = 1u; part < 8u; part++) {
            sum += planes[first + 16u * part];
        }
        joined[lane] = sum;
    }
    workgroupBarrier();
    if (lane < PLANES) {
        var sum = joined[16u * lane];
        for (var part = 1u; part < 16u; part++) {
            sum += joined[16u * lane + part];
        }
        joined[16u * lane] = sum;
    }
    workgroupBarrier();
}

fn one_token(token: u32, first_expert: u32, writes_x: bool, lane: u32) {
    let row = token * params.cols;
    var squares = 0.0;
    for (var k = lane; k < params.cols; k += LANES) {
        squares = fma(h[row + k], h[row + k], squares);
    }
    let scale = inverseSqrt(workgroup_sum(lane, squares) / f32(params.cols) + params.eps);

    let expert = min(first_expert + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.experts - 1u));
    let more = min(first_expert + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(params.experts - 1u));
    var sums: vec4<f32>;
    var more_sums: vec4<f32>;
    for (var k = lane * 4u; k < params.cols; k += LANES * 4u) {
        var x4: vec4<f32>;
        for (var i = 0u; i < 4u; i++) {
            if (is_column(k + i)) {
                x4[i] = h[row + k + i] * scale * norms[params.norm_offset + k + i];
                if (writes_x) {
                    x[row + k + i] = x4[i];
                }
            }
        }
        sums.x = dot4(gate4(expert.x, k), x4, sums.x);
        sums.y = dot4(gate4(expert.y, k), x4, sums.y);
        sums.z = dot4(gate4(expert.z, k), x4, sums.z);
        sums.w = dot4(gate4(expert.w, k), x4, sums.w);
        more_sums.x = dot4(gate4(more.x, k), x4, more_sums.x);
        more_sums.y = dot4(gate4(more.y, k), x4, more_sums.y);
        more_sums.z = dot4(gate4(more.z, k), x4, more_sums.z);
        more_sums.w = dot4(gate4(more.w, k), x4, more_sums.w);
    }
    join(lane, sums, more_sums);
    if (lane < EXPERTS && first_expert + lane < params.experts) {
        logits[token * params.experts + first_expert + lane] = joined[lane / 4u * 16u][lane % 4u];
    }
}

// One value of each of four tokens; those beyond the last repeat it.
fn four(rows: vec4<u32>, k: u32) -> vec4<f32> {
    return vec4<f32>(h[rows.x + k], h[rows.y + k], h[rows.z + k], h[rows.w + k]);
}

struct Columns {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// sum + Σ_k gate[k] · x[k] for four tokens.
fn dot_columns(gate: vec4<f32>, x4: Columns, sum: vec4<f32>) -> vec4<f32> {
    let with_a = fma(vec4<f32>(gate.x), x4.a, sum);
    let with_b = fma(vec4<f32>(gate.y), x4.b, with_a);
    let with_c = fma(vec4<f32>(gate.z), x4.c, with_b);
    return fma(vec4<f32>(gate.w), x4.d, with_c);
}

fn four_tokens(first_token: u32, first_expert: u32, writes_x: bool, lane: u32) {
    let tokens = first_token + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = min(tokens, vec4<u32>(params.tokens - 1u)) * params.cols;
    var squares: vec4<f32>;
    for (var k = lane; k < params.cols; k += LANES) {
        let values = four(rows, k);
        squares = fma(values, values, squares);
    }
    // As workgroup_sum does.
    planes[lane] = squares;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            planes[lane] += planes[lane + half];
        }
        workgroupBarrier();
    }
    let scale = inverseSqrt(planes[0] / f32(params.cols) + params.eps);
    workgroupBarrier();

    let last_expert = params.experts - 1u;
    var sum0: vec4<f32>;
    var sum1: vec4<f32>;
    var sum2: vec4<f32>;
    var sum3: vec4<f32>;
    var sum4: vec4<f32>;
    var sum5: vec4<f32>;
    var sum6: vec4<f32>;
    var sum7: vec4<f32>;
    for (var k = lane * 4u; k < params.cols; k += LANES * 4u) {
        var x4: Columns;
        x4.a = four(rows, k) * scale * norms[params.norm_offset + k];
        if (is_column(k + 1u)) {
            x4.b = four(rows, k + 1u) * scale * norms[params.norm_offset + k + 1u];
        }
        if (is_column(k + 2u)) {
            x4.c = four(rows, k + 2u) * scale * norms[params.norm_offset + k + 2u];
        }
        if (is_column(k + 3u)) {
            x4.d = four(rows, k + 3u) * scale * norms[params.norm_offset + k + 3u];
        }
        if (writes_x) {
            for (var t = 0u; t < 4u; t++) {
                if (tokens[t] < params.tokens) {
                    x[rows[t] + k] = x4.a[t];
                    if (is_column(k + 1u)) {
                        x[rows[t] + k + 1u] = x4.b[t];
                    }
                    if (is_column(k + 2u)) {
                        x[rows[t] + k + 2u] = x4.c[t];
                    }
                    if (is_column(k + 3u)) {
                        x[rows[t] + k + 3u] = x4.d[t];
                    }
                }
            }
        }
        sum0 = dot_columns(gate4(min(first_expert, last_expert), k), x4, sum0);
        sum1 = dot_columns(gate4(min(first_expert + 1u, last_expert), k), x4, sum1);
        sum2 = dot_columns(gate4(min(first_expert + 2u, last_expert), k), x4, sum2);
        sum3 = dot_columns(gate4(min(first_expert + 3u, last_expert), k), x4, sum3);
        sum4 = dot_columns(gate4(min(first_expert + 4u, last_expert), k), x4, sum4);
        sum5 = dot_columns(gate4(min(first_expert + 5u, last_expert), k), x4, sum5);
        sum6 = dot_columns(gate4(min(first_expert + 6u, last_expert), k), x4, sum6);
        sum7 = dot_columns(gate4(min(first_expert + 7u, last_expert), k), x4, sum7);
    }
    two_experts(first_token, first_expert, lane, sum0, sum1);
    two_experts(first_token, first_expert + 2u, lane, sum2, sum3);
    two_experts(first_token, first_expert + 4u, lane, sum4, sum5);
    two_experts(first_token, first_expert + 6u, lane, sum6, sum7);
}

// Logits of four tokens for two experts, from the lanes' sums.
fn two_experts(first_token: u32, first_expert: u32, lane: u32, low: vec4<f32>, high: vec4<f32>) {
    join(lane, low, high);
    let expert = first_expert + lane % 2u;
    let token = first_token + lane / 2u;
    if (lane < 8u && expert < params.experts && token < params.tokens) {
        logits[token * params.experts + expert] = joined[lane % 2u * 16u][lane / 2u];
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (TOKENS == 4u) {
        four_tokens(group.y * 4u, group.x * EXPERTS, group.x == 0u, lane);
    } else {
        one_token(group.y, group.x * EXPERTS, group.x == 0u, lane);
    }
}
