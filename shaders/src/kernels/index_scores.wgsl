// scores[t, s] = scale · Σ_h max(0, index_q[t, h] · k[s]) · w[t, h]      s ≤ positions[t]; scale = index_heads^-½ · index_head_dim^-½
// k[s] = index_cache row of position s of the token's sequence   w[t, h] = projected[t, weights_offset + h]
// index_q: f32 (T, heads, dim)   index_cache: f32 (rows, dim)   projected: f32 (T, stride)   positions, sequences: u32 (T)
// page_table: u32 (sequences, pages_per_sequence)   scores: f32 (T, scores_stride), left alone beyond the position
// One workgroup per token and tile of 128 positions; 64 lanes, two positions each. The dot product goes through dim in
// order, the sum through the heads in order.

import package::lib::heads::{Fours, Ones, dots};
@if(broadcast)
import package::lib::heads::shared_fours;
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
    for (var head = 0u; head < params.heads; head += 16u) {
        let query = (token * params.heads + head) * params.dim;
        // Heads beyond the last repeat it with weight 0.
        let last = params.heads - 1u - head;
        var low0 = Ones(); // heads 0 to 7, first position
        var low1 = Ones();
        var high0 = Ones();
        var high1 = Ones();
        @if(broadcast) {
            let low_query = query + min(subgroup_lane & 7u, last) * params.dim;
            let high_query = query + min((subgroup_lane & 7u) + 8u, last) * params.dim;
            for (var k = 0u; k < params.dim; k += 4u) {
                let x0 = key(key0 + k, k);
                let x1 = key(key1 + k, k);
                let low = shared_fours(query4(low_query + k, k));
                low0 = dots(low, x0, low0);
                low1 = dots(low, x1, low1);
                let high = shared_fours(query4(high_query + k, k));
                high0 = dots(high, x0, high0);
                high1 = dots(high, x1, high1);
            }
        }
        @if(!broadcast) {
            for (var k = 0u; k < params.dim; k += 4u) {
                let x0 = key(key0 + k, k);
                let x1 = key(key1 + k, k);
                let low = queries(query, k, 0u, last);
                low0 = dots(low, x0, low0);
                low1 = dots(low, x1, low1);
                let high = queries(query, k, 8u, last);
                high0 = dots(high, x0, high0);
                high1 = dots(high, x1, high1);
            }
        }
        let first_weight = token * params.stride + params.weights_offset + head;
        score0 = weigh(first_weight, 0u, last, low0, score0);
        score0 = weigh(first_weight, 8u, last, high0, score0);
        score1 = weigh(first_weight, 0u, last, low1, score1);
        score1 = weigh(first_weight, 8u, last, high1, score1);
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

@if(!broadcast)
fn queries(start: u32, k: u32, first: u32, last: u32) -> Fours {
    return Fours(
        query4(start + min(first, last) * params.dim + k, k),
        query4(start + min(first + 1u, last) * params.dim + k, k),
        query4(start + min(first + 2u, last) * params.dim + k, k),
        query4(start + min(first + 3u, last) * params.dim + k, k),
        query4(start + min(first + 4u, last) * params.dim + k, k),
        query4(start + min(first + 5u, last) * params.dim + k, k),
        query4(start + min(first + 6u, last) * params.dim + k, k),
        query4(start + min(first + 7u, last) * params.dim + k, k),
    );
}

// score + Σ max(0, dot) · weight over eight heads, in order.
fn weigh(weights: u32, first: u32, last: u32, products: Ones, score: f32) -> f32 {
    var sum = fma(max(products.low.x, 0.0), weight(weights, first, last), score);
    sum = fma(max(products.low.y, 0.0), weight(weights, first + 1u, last), sum);
    sum = fma(max(products.low.z, 0.0), weight(weights, first + 2u, last), sum);
    sum = fma(max(products.low.w, 0.0), weight(weights, first + 3u, last), sum);
    sum = fma(max(products.high.x, 0.0), weight(weights, first + 4u, last), sum);
    sum = fma(max(products.high.y, 0.0), weight(weights, first + 5u, last), sum);
    sum = fma(max(products.high.z, 0.0), weight(weights, first + 6u, last), sum);
    return fma(max(products.high.w, 0.0), weight(weights, first + 7u, last), sum);
}

// The weight of head `offset` of a group, of which `last` is the last there is.
fn weight(weights: u32, offset: u32, last: u32) -> f32 {
    return select(0.0, projected[weights + min(offset, last)], offset <= last);
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
