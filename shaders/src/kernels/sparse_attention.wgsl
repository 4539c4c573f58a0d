// Attention of one token over its entries, in tiles of 128: scores, their largest m, l = Σ exp(score − m), Σ exp(score − m) · c.
// score[h, e] = scale · q_absorbed[t, h] · latent[e]        over kv_lora_rank + rope_dim values
// partial[t, h, split] = Σ_e exp(score − m) · c[e] (kv_lora_rank values) | m | l          c = the first kv_lora_rank of latent
// entries: selected[t, 0 .. min(k, positions[t] + 1)], or when dense all s ≤ positions[t]; a split is `tiles` tiles of them,
// folded one after the other as attention_output folds splits: one split of all tiles gives the bits of many splits of one.
// q_absorbed: f32 (T, heads, kv_lora_rank + rope_dim)   latent_cache: f32 (rows, kv_lora_rank + rope_dim)
// selected: u32 (T, k_stride), ascending logical positions   positions, sequences: u32 (T)   page_table: u32 (sequences, pages_per_sequence)
// partial: f32 (T, heads, splits, kv_lora_rank + 2); splits without entries are not written.
// One workgroup per split, group of 8 heads and token; every latent is loaded once for the scores and once for the sums.

import package::lib::dot::dot4;
import package::lib::pages::{page_entry, cache_row};

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
@group(0) @binding(6) var<storage, read_write> partial: array<f32>;

// 1 where kv_lora_rank + rope_dim is not a multiple of 4.
override CAREFUL: u32 = 0u;
// 64 (two entries per lane: fewer loads) or 128 (one: more threads).
override LANES: u32 = 128u;

const TILE: u32 = 128u;
const HEADS: u32 = 8u;
// Lanes that share the softmax of one head, and entries of each.
const SHARES: u32 = 8u;
const SHARE: u32 = TILE / SHARES;

// Where the latent of each entry of the tile starts, in values.
var<workgroup> latent_starts: array<u32, TILE>;
var<workgroup> scores: array<f32, HEADS * TILE>;
// exp(score − m), four entries at a time; 0 beyond the last entry.
var<workgroup> weights: array<vec4<f32>, HEADS * TILE / 4u>;
var<workgroup> share_max: array<f32, HEADS * SHARES>;
var<workgroup> share_sum: array<f32, HEADS * SHARES>;
// Of each head, over the tiles so far: m, l, and the factors that bring old and new sums to the same m.
var<workgroup> largest: array<f32, HEADS>;
var<workgroup> total: array<f32, HEADS>;
var<workgroup> old_factor: array<f32, HEADS>;
var<workgroup> new_factor: array<f32, HEADS>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let split = group.x;
    let first_head = group.y * HEADS;
    let token = group.z;
    let width = params.kv_lora_rank + params.rope_dim;
    let position = positions[token];
    var entries = position + 1u;
    if (params.dense == 0u) {
        entries = min(entries, params.k);
    }
    // Heads beyond the last are computed as the last and not written.
    let last_head = min(HEADS, params.heads - first_head) - 1u;
    let query = (token * params.heads + first_head) * width;
    @if(broadcast)
    let my_query = query + min(subgroup_lane & 7u, last_head) * width;

    for (var tile = 0u; tile < params.tiles; tile++) {
        let start = (split * params.tiles + tile) * TILE;
        if (start >= entries) {
            break;
        }
        let count = min(TILE, entries - start);
        workgroupBarrier(); // the last tile's entries and weights are no longer read
        for (var e = lane; e < TILE; e += LANES) {
            // Entries beyond the last repeat it with weight 0.
            var s = start + min(e, count - 1u);
            if (params.dense == 0u) {
                s = selected[token * params.k_stride + s];
            }
            let page = page_table[page_entry(sequences[token], params.pages_per_sequence, s)];
            latent_starts[e] = cache_row(page, s) * width;
        }
        workgroupBarrier();

        let x_start = latent_starts[lane];
        let y_start = latent_starts[min(lane + 64u, TILE - 1u)];
        var a0 = 0.0; var a1 = 0.0; var a2 = 0.0; var a3 = 0.0;
        var a4 = 0.0; var a5 = 0.0; var a6 = 0.0; var a7 = 0.0;
        var b0 = 0.0; var b1 = 0.0; var b2 = 0.0; var b3 = 0.0;
        var b4 = 0.0; var b5 = 0.0; var b6 = 0.0; var b7 = 0.0;
        for (var c = 0u; c < width; c += 4u) {
            var q0: vec4<f32>; var q1: vec4<f32>; var q2: vec4<f32>; var q3: vec4<f32>;
            var q4: vec4<f32>; var q5: vec4<f32>; var q6: vec4<f32>; var q7: vec4<f32>;
            @if(broadcast) {
                // A uniform load costs as much as eight different ones where lanes are emulated: eight heads at once.
                let q = query4(my_query + c, c);
                q0 = subgroupBroadcast(q, 0u);
                q1 = subgroupBroadcast(q, 1u);
                q2 = subgroupBroadcast(q, 2u);
                q3 = subgroupBroadcast(q, 3u);
                q4 = subgroupBroadcast(q, 4u);
                q5 = subgroupBroadcast(q, 5u);
                q6 = subgroupBroadcast(q, 6u);
                q7 = subgroupBroadcast(q, 7u);
            }
            @if(!broadcast) {
                q0 = query4(query + c, c);
                q1 = query4(query + min(1u, last_head) * width + c, c);
                q2 = query4(query + min(2u, last_head) * width + c, c);
                q3 = query4(query + min(3u, last_head) * width + c, c);
                q4 = query4(query + min(4u, last_head) * width + c, c);
                q5 = query4(query + min(5u, last_head) * width + c, c);
                q6 = query4(query + min(6u, last_head) * width + c, c);
                q7 = query4(query + min(7u, last_head) * width + c, c);
            }
            let x = latent4(x_start + c, c);
            a0 = dot4(q0, x, a0);
            a1 = dot4(q1, x, a1);
            a2 = dot4(q2, x, a2);
            a3 = dot4(q3, x, a3);
            a4 = dot4(q4, x, a4);
            a5 = dot4(q5, x, a5);
            a6 = dot4(q6, x, a6);
            a7 = dot4(q7, x, a7);
            if (LANES == 64u) {
                let y = latent4(y_start + c, c);
                b0 = dot4(q0, y, b0);
                b1 = dot4(q1, y, b1);
                b2 = dot4(q2, y, b2);
                b3 = dot4(q3, y, b3);
                b4 = dot4(q4, y, b4);
                b5 = dot4(q5, y, b5);
                b6 = dot4(q6, y, b6);
                b7 = dot4(q7, y, b7);
            }
        }
        scores[lane] = a0 * params.scale;
        scores[TILE + lane] = a1 * params.scale;
        scores[2u * TILE + lane] = a2 * params.scale;
        scores[3u * TILE + lane] = a3 * params.scale;
        scores[4u * TILE + lane] = a4 * params.scale;
        scores[5u * TILE + lane] = a5 * params.scale;
        scores[6u * TILE + lane] = a6 * params.scale;
        scores[7u * TILE + lane] = a7 * params.scale;
        if (LANES == 64u) {
            scores[64u + lane] = b0 * params.scale;
            scores[TILE + 64u + lane] = b1 * params.scale;
            scores[2u * TILE + 64u + lane] = b2 * params.scale;
            scores[3u * TILE + 64u + lane] = b3 * params.scale;
            scores[4u * TILE + 64u + lane] = b4 * params.scale;
            scores[5u * TILE + 64u + lane] = b5 * params.scale;
            scores[6u * TILE + 64u + lane] = b6 * params.scale;
            scores[7u * TILE + 64u + lane] = b7 * params.scale;
        }
        workgroupBarrier();
        softmax(lane, tile, count);

        for (var base = 0u; base < params.kv_lora_rank; base += 4u * LANES) {
            let column = base + 4u * lane;
            let c = select(0u, column, column < params.kv_lora_rank);
            var sum0 = vec4<f32>(); var sum1 = vec4<f32>(); var sum2 = vec4<f32>(); var sum3 = vec4<f32>();
            var sum4 = vec4<f32>(); var sum5 = vec4<f32>(); var sum6 = vec4<f32>(); var sum7 = vec4<f32>();
            for (var e = 0u; e < count; e += 4u) {
                var start0: u32; var start1: u32; var start2: u32; var start3: u32;
                var p0: vec4<f32>; var p1: vec4<f32>; var p2: vec4<f32>; var p3: vec4<f32>;
                var p4: vec4<f32>; var p5: vec4<f32>; var p6: vec4<f32>; var p7: vec4<f32>;
                @if(broadcast) {
                    let p = weights[(subgroup_lane & 7u) * (TILE / 4u) + e / 4u];
                    p0 = subgroupBroadcast(p, 0u);
                    p1 = subgroupBroadcast(p, 1u);
                    p2 = subgroupBroadcast(p, 2u);
                    p3 = subgroupBroadcast(p, 3u);
                    p4 = subgroupBroadcast(p, 4u);
                    p5 = subgroupBroadcast(p, 5u);
                    p6 = subgroupBroadcast(p, 6u);
                    p7 = subgroupBroadcast(p, 7u);
                    let latent_start = latent_starts[e + (subgroup_lane & 3u)];
                    start0 = subgroupBroadcast(latent_start, 0u);
                    start1 = subgroupBroadcast(latent_start, 1u);
                    start2 = subgroupBroadcast(latent_start, 2u);
                    start3 = subgroupBroadcast(latent_start, 3u);
                }
                @if(!broadcast) {
                    p0 = weights[e / 4u];
                    p1 = weights[TILE / 4u + e / 4u];
                    p2 = weights[2u * (TILE / 4u) + e / 4u];
                    p3 = weights[3u * (TILE / 4u) + e / 4u];
                    p4 = weights[4u * (TILE / 4u) + e / 4u];
                    p5 = weights[5u * (TILE / 4u) + e / 4u];
                    p6 = weights[6u * (TILE / 4u) + e / 4u];
                    p7 = weights[7u * (TILE / 4u) + e / 4u];
                    start0 = latent_starts[e];
                    start1 = latent_starts[e + 1u];
                    start2 = latent_starts[e + 2u];
                    start3 = latent_starts[e + 3u];
                }
                let x0 = latent4(start0 + c, c);
                let x1 = latent4(start1 + c, c);
                let x2 = latent4(start2 + c, c);
                let x3 = latent4(start3 + c, c);
                sum0 = four_entries(p0, x0, x1, x2, x3, sum0);
                sum1 = four_entries(p1, x0, x1, x2, x3, sum1);
                sum2 = four_entries(p2, x0, x1, x2, x3, sum2);
                sum3 = four_entries(p3, x0, x1, x2, x3, sum3);
                sum4 = four_entries(p4, x0, x1, x2, x3, sum4);
                sum5 = four_entries(p5, x0, x1, x2, x3, sum5);
                sum6 = four_entries(p6, x0, x1, x2, x3, sum6);
                sum7 = four_entries(p7, x0, x1, x2, x3, sum7);
            }
            let row = (token * params.heads + first_head) * params.splits + split;
            fold(row, 0u, last_head, tile, column, sum0);
            fold(row, 1u, last_head, tile, column, sum1);
            fold(row, 2u, last_head, tile, column, sum2);
            fold(row, 3u, last_head, tile, column, sum3);
            fold(row, 4u, last_head, tile, column, sum4);
            fold(row, 5u, last_head, tile, column, sum5);
            fold(row, 6u, last_head, tile, column, sum6);
            fold(row, 7u, last_head, tile, column, sum7);
        }
        if (lane <= last_head) {
            let row = (token * params.heads + first_head + lane) * params.splits + split;
            let end = row * (params.kv_lora_rank + 2u) + params.kv_lora_rank;
            partial[end] = largest[lane];
            partial[end + 1u] = total[lane];
        }
    }
}

// From scores to weights, largest, total and the two factors.
fn softmax(lane: u32, tile: u32, count: u32) {
    let head = lane / SHARES;
    let first = head * TILE + (lane % SHARES) * SHARE;
    if (head < HEADS) {
        var m = scores[first];
        for (var j = 1u; j < SHARE; j++) {
            m = max(m, scores[first + j]);
        }
        share_max[lane] = m;
    }
    workgroupBarrier();
    if (head < HEADS) {
        let m = head_max(head);
        var sum = 0.0;
        for (var j = 0u; j < SHARE; j += 4u) {
            let e = (lane % SHARES) * SHARE + j;
            let four = vec4(scores[first + j], scores[first + j + 1u], scores[first + j + 2u], scores[first + j + 3u]);
            let inside = vec4(e, e + 1u, e + 2u, e + 3u) < vec4(count);
            let weight = select(vec4(0.0), exp(four - m), inside);
            weights[(first + j) / 4u] = weight;
            sum = (((sum + weight.x) + weight.y) + weight.z) + weight.w;
        }
        share_sum[lane] = sum;
    }
    workgroupBarrier();
    if (lane < HEADS) {
        let m = head_max(lane);
        var l = 0.0;
        for (var j = 0u; j < SHARES; j++) {
            l += share_sum[lane * SHARES + j];
        }
        if (tile == 0u) {
            largest[lane] = m;
            total[lane] = l;
        } else {
            let old_m = largest[lane];
            let both = max(old_m, m);
            old_factor[lane] = exp(old_m - both);
            new_factor[lane] = exp(m - both);
            largest[lane] = both;
            total[lane] = fma(l, new_factor[lane], total[lane] * old_factor[lane]);
        }
    }
    workgroupBarrier();
}

fn head_max(head: u32) -> f32 {
    var m = share_max[head * SHARES];
    for (var j = 1u; j < SHARES; j++) {
        m = max(m, share_max[head * SHARES + j]);
    }
    return m;
}

// sum + p.x · x0 + p.y · x1 + p.z · x2 + p.w · x3, in this order.
fn four_entries(
    p: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, sum: vec4<f32>,
) -> vec4<f32> {
    return fma(vec4(p.w), x3, fma(vec4(p.z), x2, fma(vec4(p.y), x1, fma(vec4(p.x), x0, sum))));
}

// Writes a tile's sums of four columns, or folds them into those of the tiles before.
fn fold(first_row: u32, head: u32, last_head: u32, tile: u32, column: u32, sum: vec4<f32>) {
    if (head > last_head) {
        return;
    }
    let start = (first_row + head * params.splits) * (params.kv_lora_rank + 2u) + column;
    for (var k = 0u; k < min(4u, max(params.kv_lora_rank, column) - column); k++) {
        var value = sum[k];
        if (tile > 0u) {
            value = fma(value, new_factor[head], partial[start + k] * old_factor[head]);
        }
        partial[start + k] = value;
    }
}

// Four values of a query from value c on; beyond the width they are 0.
fn query4(at: u32, c: u32) -> vec4<f32> {
    if (CAREFUL == 0u) {
        return q_absorbed[at / 4u];
    }
    return before_end(c, vec4(query1(at), query1(at + 1u), query1(at + 2u), query1(at + 3u)));
}

fn query1(at: u32) -> f32 {
    return q_absorbed[at / 4u][at % 4u];
}

// Four values of a latent from value c on; beyond the width they are 0.
fn latent4(at: u32, c: u32) -> vec4<f32> {
    if (CAREFUL == 0u) {
        return latent_cache[at / 4u];
    }
    return before_end(c, vec4(latent1(at), latent1(at + 1u), latent1(at + 2u), latent1(at + 3u)));
}

fn latent1(at: u32) -> f32 {
    return latent_cache[at / 4u][at % 4u];
}

fn before_end(c: u32, values: vec4<f32>) -> vec4<f32> {
    let width = params.kv_lora_rank + params.rope_dim;
    return select(vec4(0.0), values, vec4(c, c + 1u, c + 2u, c + 3u) < vec4(width));
}
