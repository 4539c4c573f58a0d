// o[c] = Σ_splits e^(m − M) · acc[c] / Σ_splits e^(m − M) · l        M = the largest m, splits folded in order
// out[t, h, i] = Σ_c W_UV[h, i, c] · o[c]
// partial: f32 (T, heads, splits, kv_lora_rank rounded up to a multiple of 4, plus 4), acc | m, l of sparse_attention, whose
// k, dense, splits and tiles these are
// W_UV[h, i] = row h · (nope + v) + nope + i of kv_b_proj (heads · (nope + v), kv_lora_rank)   positions: u32 (T)
// out: f32 (T, heads, v)   kv_lora_rank ≤ 2048
// One workgroup per head and token; a lane owns a row. Sum over c: fma in order over 16 columns,
// these parts of a 128-block in order, block sums · scale in order.

import package::lib::dot::dot4;
import package::lib::weights::{F8E4M3, BF16, F16, e4m3x4, bf16x2};

struct Params {
    heads: u32,
    nope: u32,
    v: u32,
    kv_lora_rank: u32,
    dense: u32, // 1: all positions were attended to
    k: u32,
    splits: u32,
    tiles: u32,
    weight_offset: u32, // bytes, a multiple of 16
    scale_offset: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override WEIGHT_TYPE: u32 = 0u;
// 1 where kv_lora_rank is not a multiple of 16.
override CAREFUL: u32 = 0u;
// Multiple of 32, at most 128; as many as v is enough.
override THREADS: u32 = 128u;

const TILE: u32 = 128u; // entries, as in sparse_attention
const MAX_KV_LORA_RANK: u32 = 2048u;

// o, four values at a time, with zeros up to a multiple of 16.
var<workgroup> latent: array<vec4<f32>, MAX_KV_LORA_RANK / 4u>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let head = group.x;
    let token = group.y;
    let rank = params.kv_lora_rank;
    var entries = positions[token] + 1u;
    if (params.dense == 0u) {
        entries = min(entries, params.k);
    }
    let splits = (entries + TILE * params.tiles - 1u) / (TILE * params.tiles);
    let vectors = (rank + 3u) / 4u + 1u;
    let first = (token * params.heads + head) * params.splits * vectors;
    for (var c = 4u * lane; c < (rank + 15u) / 16u * 16u; c += 4u * THREADS) {
        let end = partial[first + vectors - 1u];
        var m = end.x;
        var l = end.y;
        var sum = partial4(first, c);
        for (var split = 1u; split < splits; split++) {
            let row = first + split * vectors;
            let new_end = partial[row + vectors - 1u];
            let both = max(m, new_end.x);
            let old_factor = exp(m - both);
            let new_factor = exp(new_end.x - both);
            m = both;
            l = fma(new_end.y, new_factor, l * old_factor);
            sum = fma(partial4(row, c), vec4(new_factor), sum * old_factor);
        }
        latent[c / 4u] = sum / l;
    }
    workgroupBarrier();

    let row_bytes = rank * select(select(4u, 2u, WEIGHT_TYPE <= F16), 1u, WEIGHT_TYPE == F8E4M3);
    let column_blocks = (rank + 127u) / 128u;
    for (var base = 0u; base < params.v; base += THREADS) {
        // Lanes beyond the last row compute it too and write nothing.
        let i = min(base + lane, params.v - 1u);
        let row = head * (params.nope + params.v) + params.nope + i;
        let row_start = params.weight_offset + row * row_bytes;
        var total = 0.0;
        for (var block = 0u; block < column_blocks; block++) {
            let end = min(128u * block + 128u, rank);
            var sum = 0.0;
            for (var c = 128u * block; c < end; c += 16u) {
                var o0: vec4<f32>; var o1: vec4<f32>; var o2: vec4<f32>; var o3: vec4<f32>;
                @if(broadcast) {
                    let o = latent[c / 4u + (subgroup_lane & 3u)];
                    o0 = subgroupBroadcast(o, 0u);
                    o1 = subgroupBroadcast(o, 1u);
                    o2 = subgroupBroadcast(o, 2u);
                    o3 = subgroupBroadcast(o, 3u);
                }
                @if(!broadcast) {
                    o0 = latent[c / 4u];
                    o1 = latent[c / 4u + 1u];
                    o2 = latent[c / 4u + 2u];
                    o3 = latent[c / 4u + 3u];
                }
                sum += sixteen(row_start, c, o0, o1, o2, o3);
            }
            var scale = 1.0;
            if (WEIGHT_TYPE == F8E4M3) {
                scale = scales[params.scale_offset + (row / 128u) * column_blocks + block];
            }
            total = fma(sum, scale, total);
        }
        if (base + lane < params.v) {
            out[(token * params.heads + head) * params.v + i] = total;
        }
    }
}

// Four columns of a split's sums; beyond the rank they are 0.
fn partial4(row: u32, c: u32) -> vec4<f32> {
    return select(vec4(0.0), partial[row + c / 4u], vec4(c, c + 1u, c + 2u, c + 3u) < vec4(params.kv_lora_rank));
}

// Weights of columns c .. c + 16 · o
fn sixteen(row_start: u32, c: u32, o0: vec4<f32>, o1: vec4<f32>, o2: vec4<f32>, o3: vec4<f32>) -> f32 {
    if (CAREFUL == 1u) {
        var total = dot4(careful4(row_start, c), o0, 0.0);
        total = dot4(careful4(row_start, c + 4u), o1, total);
        total = dot4(careful4(row_start, c + 8u), o2, total);
        return dot4(careful4(row_start, c + 12u), o3, total);
    }
    if (WEIGHT_TYPE == F8E4M3) {
        let codes = weights[(row_start + c) / 16u];
        let total = dot4(e4m3x4(codes.y), o1, dot4(e4m3x4(codes.x), o0, 0.0));
        return dot4(e4m3x4(codes.w), o3, dot4(e4m3x4(codes.z), o2, total));
    }
    if (WEIGHT_TYPE <= F16) {
        let at = (row_start + 2u * c) / 16u;
        let low = weights[at];
        let high = weights[at + 1u];
        let total = dot4(halves(low.zw), o1, dot4(halves(low.xy), o0, 0.0));
        return dot4(halves(high.zw), o3, dot4(halves(high.xy), o2, total));
    }
    let at = (row_start + 4u * c) / 16u;
    var total = dot4(bitcast<vec4<f32>>(weights[at]), o0, 0.0);
    total = dot4(bitcast<vec4<f32>>(weights[at + 1u]), o1, total);
    total = dot4(bitcast<vec4<f32>>(weights[at + 2u]), o2, total);
    return dot4(bitcast<vec4<f32>>(weights[at + 3u]), o3, total);
}

fn halves(words: vec2<u32>) -> vec4<f32> {
    if (WEIGHT_TYPE == BF16) {
        return vec4(bf16x2(words.x), bf16x2(words.y));
    }
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Four weights from column c on of a row that starts at any byte; beyond the rank they are 0.
fn careful4(row_start: u32, c: u32) -> vec4<f32> {
    var four: vec4<f32>;
    if (WEIGHT_TYPE == F8E4M3) {
        four = e4m3x4(word(row_start + c));
    } else if (WEIGHT_TYPE <= F16) {
        let at = row_start + 2u * c;
        four = halves(vec2(word(at), word(at + 4u)));
    } else {
        let at = row_start + 4u * c;
        four = bitcast<vec4<f32>>(vec4(word(at), word(at + 4u), word(at + 8u), word(at + 12u)));
    }
    return select(vec4(0.0), four, vec4(c, c + 1u, c + 2u, c + 3u) < vec4(params.kv_lora_rank));
}

// The 32 bits at byte `at`.
fn word(at: u32) -> u32 {
    let low = weights[at >> 4u][(at >> 2u) & 3u];
    let shift = (at & 3u) * 8u;
    let next = at + 4u;
    let high = weights[next >> 4u][(next >> 2u) & 3u];
    return select((low >> shift) | (high << ((32u - shift) & 31u)), low, shift == 0u);
}
