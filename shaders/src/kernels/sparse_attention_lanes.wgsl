// Attention of one token over its entries, as sparse_attention.wgsl has it (the formula, the shapes and `Params` are there), for
// GPUs: eight lanes lie along a latent, so that they read 128 bytes side by side, and have four heads of two entries at once.
// One workgroup of 256 lanes per split, group of 8 heads and token: one half has the first four heads, the other the rest.
// kv_lora_rank and rope_dim are multiples of 4.
//
// Order of a score: lane j of the eight sums the values whose number / 4 is j modulo 8, ascending; then
// ((p0 + p4) + (p2 + p6)) + ((p1 + p5) + (p3 + p7)). All other sums are as in sparse_attention.wgsl.

import package::lib::dot::dot4;
import package::lib::exchange::{other4, other2, other1};
import package::lib::heads::weighted4;
import package::lib::pages::{page_entry, cache_row};
import package::lib::tiles::{TILE, HEADS, scores, weights, largest, total, old_factor, new_factor, softmax};

struct Params {
    heads: u32,
    kv_lora_rank: u32,
    rope_dim: u32,
    dense: u32, // 1: selected is not read
    k: u32,
    k_stride: u32,
    pages_per_sequence: u32,
    splits: u32,
    tiles: u32,
    scale: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> q_absorbed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> latent_cache: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> selected: array<u32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> sequences: array<u32>;
@group(0) @binding(5) var<storage, read> page_table: array<u32>;
@group(0) @binding(6) var<storage, read_write> partial: array<vec4<f32>>;

const THREADS: u32 = 256u;
const HALF: u32 = 128u; // lanes with the same four heads
const ROUND: u32 = 32u; // entries whose scores are computed at a time

// Where the latent of each entry of the tile starts, in vectors of four values; four entries at a time.
var<workgroup> latent_starts: array<vec4<u32>, TILE / 4u>;

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
    let split = group.x;
    let first_head = group.y * HEADS;
    let token = group.z;
    let width = (params.kv_lora_rank + params.rope_dim) / 4u; // vectors
    let rank = params.kv_lora_rank / 4u;
    var entries = positions[token] + 1u;
    if (params.dense == 0u) {
        entries = min(entries, params.k);
    }
    // Heads beyond the last are computed as the last and not written.
    let last_head = min(HEADS, params.heads - first_head) - 1u;
    let my_head = lane / HALF * 4u;
    let query = vec4((token * params.heads + first_head) * width)
        + min(vec4(my_head) + vec4(0u, 1u, 2u, 3u), vec4(last_head)) * width;
    let row = (token * params.heads + first_head) * params.splits + split;

    for (var tile = 0u; tile < params.tiles; tile++) {
        let start = (split * params.tiles + tile) * TILE;
        if (start >= entries) {
            break;
        }
        let count = min(TILE, entries - start);
        workgroupBarrier(); // the last tile's entries and weights are no longer read
        if (lane < TILE) {
            // Entries beyond the last repeat it with weight 0.
            var s = start + min(lane, count - 1u);
            if (params.dense == 0u) {
                s = selected[token * params.k_stride + s];
            }
            let page = page_table[page_entry(sequences[token], params.pages_per_sequence, s)];
            latent_starts[lane / 4u][lane % 4u] = cache_row(page, s) * width;
        }
        workgroupBarrier();

        for (var round = 0u; round < count; round += ROUND) {
            let e = round + lane % HALF / 8u * 2u;
            let four = latent_starts[e / 4u];
            score(lane, e, my_head, select(four.zw, four.xy, e % 4u == 0u), query, width);
        }
        workgroupBarrier();
        softmax(lane, THREADS, tile, count);

        for (var base = 0u; base < rank; base += HALF) {
            let column = base + lane % HALF;
            let c = min(column, rank - 1u);
            var sum0 = vec4<f32>();
            var sum1 = vec4<f32>();
            var sum2 = vec4<f32>();
            var sum3 = vec4<f32>();
            for (var e = 0u; e < (count + 3u) / 4u; e++) {
                let starts = latent_starts[e];
                let x0 = latent_cache[starts.x + c];
                let x1 = latent_cache[starts.y + c];
                let x2 = latent_cache[starts.z + c];
                let x3 = latent_cache[starts.w + c];
                let at = my_head * (TILE / 4u) + e;
                sum0 = weighted4(weights[at], x0, x1, x2, x3, sum0);
                sum1 = weighted4(weights[at + TILE / 4u], x0, x1, x2, x3, sum1);
                sum2 = weighted4(weights[at + 2u * TILE / 4u], x0, x1, x2, x3, sum2);
                sum3 = weighted4(weights[at + 3u * TILE / 4u], x0, x1, x2, x3, sum3);
            }
            if (column < rank) {
                fold(row, my_head, last_head, tile, column, sum0);
                fold(row, my_head + 1u, last_head, tile, column, sum1);
                fold(row, my_head + 2u, last_head, tile, column, sum2);
                fold(row, my_head + 3u, last_head, tile, column, sum3);
            }
        }
        if (lane <= last_head) {
            partial[(row + lane * params.splits) * (rank + 1u) + rank] = vec4(largest[lane], total[lane], 0.0, 0.0);
        }
    }
}

// Scores of entries e and e + 1, whose latents are at `starts`, for four heads from `head` on, whose queries are at `query`.
fn score(lane: u32, e: u32, head: u32, starts: vec2<u32>, query: vec4<u32>, width: u32) {
    // An entry's products with each head.
    var a = vec4<f32>();
    var b = vec4<f32>();
    for (var i = lane % 8u; i < width; i += 8u) {
        let x0 = latent_cache[starts.x + i];
        let x1 = latent_cache[starts.y + i];
        let q0 = q_absorbed[query.x + i];
        let q1 = q_absorbed[query.y + i];
        let q2 = q_absorbed[query.z + i];
        let q3 = q_absorbed[query.w + i];
        a = vec4(dot4(q0, x0, a.x), dot4(q1, x0, a.y), dot4(q2, x0, a.z), dot4(q3, x0, a.w));
        b = vec4(dot4(q0, x1, b.x), dot4(q1, x1, b.y), dot4(q2, x1, b.z), dot4(q3, x1, b.w));
    }
    // Each of the eight gives away what others will sum: one of two entries, two of four heads, one of two.
    let fourth = (lane & 4u) != 0u;
    let second = (lane & 2u) != 0u;
    let first = (lane & 1u) != 0u;
    let all = select(a, b, fourth) + other4(lane, select(b, a, fourth), 4u);
    let two = select(all.xy, all.zw, second) + other2(lane, select(all.zw, all.xy, second), 2u);
    let one = select(two.x, two.y, first) + other1(lane, select(two.y, two.x, first), 1u);
    scores[(head + (lane & 3u)) * TILE + e + ((lane >> 2u) & 1u)] = one * params.scale;
}

// Writes a tile's sums of four columns, or folds them into those of the tiles before.
fn fold(first_row: u32, head: u32, last_head: u32, tile: u32, column: u32, sum: vec4<f32>) {
    if (head <= last_head) {
        let at = (first_row + head * params.splits) * (params.kv_lora_rank / 4u + 1u) + column;
        var value = sum;
        if (tile > 0u) {
            value = fma(value, vec4(new_factor[head]), partial[at] * old_factor[head]);
        }
        partial[at] = value;
    }
}
