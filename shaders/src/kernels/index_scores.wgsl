// scores[t, s] = scale · Σ_h max(0, index_q[t, h] · k[s]) · w[t, h]      s ≤ positions[t]; scale = index_heads^-½ · index_head_dim^-½
// k[s] = index_cache row of position s of the token's sequence   w[t, h] = projected[t, weights_offset + h]
// index_q: f32 (T, heads, dim)   index_cache: f32 (rows, dim)   projected: f32 (T, stride)   positions, sequences: u32 (T)
// page_table: u32 (sequences, pages_per_sequence)   scores: f32 (T, scores_stride), left alone beyond the position
// One workgroup per token and tile of 128 positions; 64 lanes, two positions each. The dot product goes through dim in
// order, the sum through the heads in order.

import package::lib::dot::dot4;
import package::lib::pages::{page_entry, cache_row};

struct Params {
    heads: u32,
    dim: u32,
    stride: u32,
    weights_offset: u32,
    scores_stride: u32,
    pages_per_sequence: u32,
    scale: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> index_q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> index_cache: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> projected: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> sequences: array<u32>;
@group(0) @binding(5) var<storage, read> page_table: array<u32>;
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;

// 1 where dim is not a multiple of 4.
override CAREFUL: u32 = 0u;

const LANES: u32 = 64u;
const TILE: u32 = 128u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let token = group.y;
    let position = positions[token];
    let start = group.x * TILE;
    if (start > position) {
        return;
    }
    // A lane beyond the last position reads the last one and writes nothing.
    let s0 = start + lane;
    let s1 = s0 + LANES;
    let key0 = key_start(sequences[token], min(s0, position));
    let key1 = key_start(sequences[token], min(s1, position));

    var score0 = 0.0;
    var score1 = 0.0;
    for (var head = 0u; head < params.heads; head += 8u) {
        let query = (token * params.heads + head) * params.dim;
        // Heads beyond the last repeat it with weight 0.
        let last = params.heads - 1u - head;
        var a0 = 0.0; var a1 = 0.0; var a2 = 0.0; var a3 = 0.0;
        var a4 = 0.0; var a5 = 0.0; var a6 = 0.0; var a7 = 0.0;
        var b0 = 0.0; var b1 = 0.0; var b2 = 0.0; var b3 = 0.0;
        var b4 = 0.0; var b5 = 0.0; var b6 = 0.0; var b7 = 0.0;
        @if(broadcast)
        let mine = query + min(subgroup_lane & 7u, last) * params.dim;
        for (var k = 0u; k < params.dim; k += 4u) {
            let x = key(key0 + k, k);
            let y = key(key1 + k, k);
            @if(broadcast) {
                // A uniform load costs as much as eight different ones where lanes are emulated: eight heads at once.
                let q = query4(mine + k, k);
                let q0 = subgroupBroadcast(q, 0u);
                a0 = dot4(q0, x, a0);
                b0 = dot4(q0, y, b0);
                let q1 = subgroupBroadcast(q, 1u);
                a1 = dot4(q1, x, a1);
                b1 = dot4(q1, y, b1);
                let q2 = subgroupBroadcast(q, 2u);
                a2 = dot4(q2, x, a2);
                b2 = dot4(q2, y, b2);
                let q3 = subgroupBroadcast(q, 3u);
                a3 = dot4(q3, x, a3);
                b3 = dot4(q3, y, b3);
                let q4 = subgroupBroadcast(q, 4u);
                a4 = dot4(q4, x, a4);
                b4 = dot4(q4, y, b4);
                let q5 = subgroupBroadcast(q, 5u);
                a5 = dot4(q5, x, a5);
                b5 = dot4(q5, y, b5);
                let q6 = subgroupBroadcast(q, 6u);
                a6 = dot4(q6, x, a6);
                b6 = dot4(q6, y, b6);
                let q7 = subgroupBroadcast(q, 7u);
                a7 = dot4(q7, x, a7);
                b7 = dot4(q7, y, b7);
            }
            @if(!broadcast) {
                let q0 = query4(query + k, k);
                a0 = dot4(q0, x, a0);
                b0 = dot4(q0, y, b0);
                let q1 = query4(query + min(1u, last) * params.dim + k, k);
                a1 = dot4(q1, x, a1);
                b1 = dot4(q1, y, b1);
                let q2 = query4(query + min(2u, last) * params.dim + k, k);
                a2 = dot4(q2, x, a2);
                b2 = dot4(q2, y, b2);
                let q3 = query4(query + min(3u, last) * params.dim + k, k);
                a3 = dot4(q3, x, a3);
                b3 = dot4(q3, y, b3);
                let q4 = query4(query + min(4u, last) * params.dim + k, k);
                a4 = dot4(q4, x, a4);
                b4 = dot4(q4, y, b4);
                let q5 = query4(query + min(5u, last) * params.dim + k, k);
                a5 = dot4(q5, x, a5);
                b5 = dot4(q5, y, b5);
                let q6 = query4(query + min(6u, last) * params.dim + k, k);
                a6 = dot4(q6, x, a6);
                b6 = dot4(q6, y, b6);
                let q7 = query4(query + min(7u, last) * params.dim + k, k);
                a7 = dot4(q7, x, a7);
                b7 = dot4(q7, y, b7);
            }
        }
        let weights = token * params.stride + params.weights_offset + head;
        let w0 = projected[weights];
        score0 = fma(max(a0, 0.0), w0, score0);
        score1 = fma(max(b0, 0.0), w0, score1);
        let w1 = weight(weights, 1u, last);
        score0 = fma(max(a1, 0.0), w1, score0);
        score1 = fma(max(b1, 0.0), w1, score1);
        let w2 = weight(weights, 2u, last);
        score0 = fma(max(a2, 0.0), w2, score0);
        score1 = fma(max(b2, 0.0), w2, score1);
        let w3 = weight(weights, 3u, last);
        score0 = fma(max(a3, 0.0), w3, score0);
        score1 = fma(max(b3, 0.0), w3, score1);
        let w4 = weight(weights, 4u, last);
        score0 = fma(max(a4, 0.0), w4, score0);
        score1 = fma(max(b4, 0.0), w4, score1);
        let w5 = weight(weights, 5u, last);
        score0 = fma(max(a5, 0.0), w5, score0);
        score1 = fma(max(b5, 0.0), w5, score1);
        let w6 = weight(weights, 6u, last);
        score0 = fma(max(a6, 0.0), w6, score0);
        score1 = fma(max(b6, 0.0), w6, score1);
        let w7 = weight(weights, 7u, last);
        score0 = fma(max(a7, 0.0), w7, score0);
        score1 = fma(max(b7, 0.0), w7, score1);
    }
    let row = token * params.scores_stride;
    if (s0 <= position) {
        scores[row + s0] = score0 * params.scale;
    }
    if (s1 <= position) {
        scores[row + s1] = score1 * params.scale;
    }
}

fn key_start(sequence: u32, position: u32) -> u32 {
    return cache_row(page_table[page_entry(sequence, params.pages_per_sequence, position)], position) * params.dim;
}

// The weight of head `offset` of a group of eight, of which `last` is the last there is.
fn weight(weights: u32, offset: u32, last: u32) -> f32 {
    return select(0.0, projected[weights + offset], offset <= last);
}

// Four values of a query from value k on; beyond dim they are 0.
fn query4(at: u32, k: u32) -> vec4<f32> {
    if (CAREFUL == 0u) {
        return index_q[at / 4u];
    }
    return before_end(k, vec4(query1(at), query1(at + 1u), query1(at + 2u), query1(at + 3u)));
}

fn query1(at: u32) -> f32 {
    return index_q[at / 4u][at % 4u];
}

// Four values of a key from value k on; beyond dim they are 0.
fn key(at: u32, k: u32) -> vec4<f32> {
    if (CAREFUL == 0u) {
        return index_cache[at / 4u];
    }
    return before_end(k, vec4(key1(at), key1(at + 1u), key1(at + 2u), key1(at + 3u)));
}

fn key1(at: u32) -> f32 {
    return index_cache[at / 4u][at % 4u];
}

fn before_end(k: u32, values: vec4<f32>) -> vec4<f32> {
    return select(vec4(0.0), values, vec4(k, k + 1u, k + 2u, k + 3u) < vec4(params.dim));
}
