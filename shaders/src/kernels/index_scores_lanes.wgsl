// scores[t, s] as index_scores.wgsl has it (the formula, the shapes and `Params` are there), for GPUs: eight lanes lie along a key,
// so that they read 128 bytes side by side, and hold two keys while the heads' queries go by, four heads at a time.
// One workgroup of 256 lanes per token and tile of 64 positions. dim is a multiple of 4 and at most 128.
//
// Where maxima_stride is not 0, the largest score of every 16 goes to scores too, from maxima_offset on (T, maxima_stride): what
// topk_tiles.wgsl reads first.
//
// Order of a dot product: lane j of the eight sums the values whose number / 4 is j modulo 8, ascending; then
// ((p0 + p4) + (p2 + p6)) + ((p1 + p5) + (p3 + p7)). Order of the heads: those whose number is m modulo 4, ascending; then
// (s0 + s2) + (s1 + s3).

import package::lib::dot::dot4;
import package::lib::exchange::{other4, other2, other1};
import package::lib::order::ordered;
import package::lib::pages::{page_entry, cache_row};

struct Params {
    heads: u32,
    dim: u32,
    stride: u32,
    weights_offset: u32,
    scores_stride: u32,
    pages_per_sequence: u32,
    scale: f32,
    maxima_offset: u32,
    maxima_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> index_q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> index_cache: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> projected: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> sequences: array<u32>;
@group(0) @binding(5) var<storage, read> page_table: array<u32>;
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;

const THREADS: u32 = 256u;
const TILE: u32 = 64u;
const OF_MAXIMUM: u32 = 16u; // scores

// Of each position.
var<workgroup> tile_scores: array<f32, TILE>;

@compute @workgroup_size(THREADS)
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
    let position = positions[token];
    if (group.x * TILE > position) {
        return;
    }
    let width = params.dim / 4u; // vectors
    // Positions beyond the last are the last one again, and not written.
    let s = group.x * TILE + lane / 8u * 2u;
    let key0 = key_start(sequences[token], min(s, position), width);
    let key1 = key_start(sequences[token], min(s + 1u, position), width);
    // Vectors beyond the last are 0.
    let at = vec4(lane % 8u) + vec4(0u, 8u, 16u, 24u);
    let there = at < vec4(width);
    let used = min(at, vec4(width - 1u));
    let x0 = select(vec4(0.0), index_cache[key0 + used.x], there.x);
    let x1 = select(vec4(0.0), index_cache[key0 + used.y], there.y);
    let x2 = select(vec4(0.0), index_cache[key0 + used.z], there.z);
    let x3 = select(vec4(0.0), index_cache[key0 + used.w], there.w);
    let z0 = select(vec4(0.0), index_cache[key1 + used.x], there.x);
    let z1 = select(vec4(0.0), index_cache[key1 + used.y], there.y);
    let z2 = select(vec4(0.0), index_cache[key1 + used.z], there.z);
    let z3 = select(vec4(0.0), index_cache[key1 + used.w], there.w);

    let fourth = (lane & 4u) != 0u; // has the second position
    let second = (lane & 2u) != 0u;
    let first = (lane & 1u) != 0u;
    let my_head = (lane & 2u) + (lane & 1u);
    let query = token * params.heads * width;
    let weight = token * params.stride + params.weights_offset;
    let last = params.heads - 1u;
    var score = 0.0;
    for (var head = 0u; head < params.heads; head += 4u) {
        // Heads beyond the last repeat it with weight 0.
        let heads = vec4(query) + min(vec4(head) + vec4(0u, 1u, 2u, 3u), vec4(last)) * width;
        // The products of each head with both keys.
        var a = vec4<f32>();
        var b = vec4<f32>();
        let q0 = query4(heads, used.x);
        a = products(q0, x0, a);
        b = products(q0, z0, b);
        let q1 = query4(heads, used.y);
        a = products(q1, x1, a);
        b = products(q1, z1, b);
        let q2 = query4(heads, used.z);
        a = products(q2, x2, a);
        b = products(q2, z2, b);
        let q3 = query4(heads, used.w);
        a = products(q3, x3, a);
        b = products(q3, z3, b);
        // Each of the eight gives away what others will sum: one of two positions, two of four heads, one of two.
        let all = select(a, b, fourth) + other4(lane, select(b, a, fourth), 4u);
        let two = select(all.xy, all.zw, second) + other2(lane, select(all.zw, all.xy, second), 2u);
        let one = select(two.x, two.y, first) + other1(lane, select(two.y, two.x, first), 1u);
        let mine = head + my_head;
        score = fma(max(one, 0.0), select(0.0, projected[weight + min(mine, last)], mine <= last), score);
    }
    score += other1(lane, score, 2u);
    score += other1(lane, score, 1u);
    let written = group.x * TILE + lane / 4u;
    if (lane % 4u == 0u && written <= position) {
        scores[token * params.scores_stride + written] = score * params.scale;
        tile_scores[lane / 4u] = score * params.scale;
    }
    if (params.maxima_stride > 0u) {
        workgroupBarrier();
        let first_of_mine = group.x * TILE + lane * OF_MAXIMUM;
        if (lane < TILE / OF_MAXIMUM && first_of_mine <= position) {
            // By keys, since max may take subnormals for zero.
            var largest = tile_scores[lane * OF_MAXIMUM];
            for (var i = 1u; i < min(OF_MAXIMUM, position - first_of_mine + 1u); i++) {
                let other = tile_scores[lane * OF_MAXIMUM + i];
                largest = select(largest, other, ordered(other) > ordered(largest));
            }
            scores[params.maxima_offset + token * params.maxima_stride + group.x * (TILE / OF_MAXIMUM) + lane] = largest;
        }
    }
}

// Four values of each of four heads.
struct Queries {
    h0: vec4<f32>,
    h1: vec4<f32>,
    h2: vec4<f32>,
    h3: vec4<f32>,
}

fn query4(heads: vec4<u32>, at: u32) -> Queries {
    return Queries(index_q[heads.x + at], index_q[heads.y + at], index_q[heads.z + at], index_q[heads.w + at]);
}

// sums + q · x of each head.
fn products(q: Queries, x: vec4<f32>, sums: vec4<f32>) -> vec4<f32> {
    return vec4(dot4(q.h0, x, sums.x), dot4(q.h1, x, sums.y), dot4(q.h2, x, sums.z), dot4(q.h3, x, sums.w));
}

fn key_start(sequence: u32, position: u32, width: u32) -> u32 {
    return cache_row(page_table[page_entry(sequence, params.pages_per_sequence, position)], position) * width;
}
