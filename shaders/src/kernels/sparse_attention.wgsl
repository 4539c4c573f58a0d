// Attention of one token over its entries, in tiles of 128: scores, their largest m, l = Σ exp(score − m), Σ exp(score − m) · c.
// score[h, e] = scale · q_absorbed[t, h] · latent[e]        over kv_lora_rank + rope_dim values
// partial[t, h, split] = Σ_e exp(score − m) · c[e] (kv_lora_rank values) | m, l          c = the first kv_lora_rank of latent
// entries: selected[t, 0 .. min(k, positions[t] + 1)], or when dense all s ≤ positions[t]; a split is `tiles` tiles of them,
// folded one after the other as attention_output folds splits: one split of all tiles gives the bits of many splits of one.
// q_absorbed: f32 (T, heads, kv_lora_rank + rope_dim)   latent_cache: f32 (rows, kv_lora_rank + rope_dim)
// selected: u32 (T, k_stride), ascending logical positions   positions, sequences: u32 (T)   page_table: u32 (sequences, pages_per_sequence)
// partial: f32 (T, heads, splits, kv_lora_rank rounded up to a multiple of 4, plus 4); splits without entries are not written.
// One workgroup per split, group of 8 heads and token; every latent is loaded once for the scores and once for the sums.

import package::lib::heads::{Fours, Ones, dots, weighted};
@if(broadcast)
import package::lib::heads::shared_fours;
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

// 1 where kv_lora_rank + rope_dim is not a multiple of 4.
override CAREFUL: u32 = 0u;
// 32 or 64 (two entries per lane at a time: fewer loads) or 128 (one: more threads).
override THREADS: u32 = 128u;

// Where the latent of each entry of the tile starts, in values.
var<workgroup> latent_starts: array<u32, TILE>;

@compute @workgroup_size(THREADS)
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

    // Entries whose scores are computed at a time.
    let chunk_size = min(2u * THREADS, TILE);
    for (var tile = 0u; tile < params.tiles; tile++) {
        let start = (split * params.tiles + tile) * TILE;
        if (start >= entries) {
            break;
        }
        let count = min(TILE, entries - start);
        workgroupBarrier(); // the last tile's entries and weights are no longer read
        for (var e = lane; e < TILE; e += THREADS) {
            // Entries beyond the last repeat it with weight 0.
            var s = start + min(e, count - 1u);
            if (params.dense == 0u) {
                s = selected[token * params.k_stride + s];
            }
            let page = page_table[page_entry(sequences[token], params.pages_per_sequence, s)];
            latent_starts[e] = cache_row(page, s) * width;
        }
        workgroupBarrier();

        for (var chunk = 0u; chunk < count; chunk += chunk_size) {
            let e0 = chunk + lane;
            let e1 = e0 + chunk_size - THREADS;
            let start0 = latent_starts[e0];
            let start1 = latent_starts[e1];
            var products0 = Ones();
            var products1 = Ones();
            for (var c = 0u; c < width; c += 4u) {
                @if(broadcast)
                let q = shared_fours(query4(my_query + c, c));
                @if(!broadcast)
                let q = queries(query, c, last_head);
                products0 = dots(q, latent4(start0 + c, c), products0);
                if (chunk_size > THREADS) {
                    products1 = dots(q, latent4(start1 + c, c), products1);
                }
            }
            write_scores(e0, products0);
            if (chunk_size > THREADS) {
                write_scores(e1, products1);
            }
        }
        workgroupBarrier();
        softmax(lane, THREADS, tile, count);

        for (var base = 0u; base < params.kv_lora_rank; base += 4u * THREADS) {
            let column = base + 4u * lane;
            let c = select(0u, column, column < params.kv_lora_rank);
            var sums = Fours();
            for (var e = 0u; e < count; e += 4u) {
                @if(broadcast)
                let p = shared_fours(weights[(subgroup_lane & 7u) * (TILE / 4u) + e / 4u]);
                @if(!broadcast)
                let p = weights_of(e);
                @if(broadcast)
                let my_start = latent_starts[e + (subgroup_lane & 3u)];
                @if(broadcast)
                let starts = vec4(
                    subgroupBroadcast(my_start, 0u), subgroupBroadcast(my_start, 1u),
                    subgroupBroadcast(my_start, 2u), subgroupBroadcast(my_start, 3u),
                );
                @if(!broadcast)
                let starts = vec4(latent_starts[e], latent_starts[e + 1u], latent_starts[e + 2u], latent_starts[e + 3u]);
                let x0 = latent4(starts.x + c, c);
                let x1 = latent4(starts.y + c, c);
                let x2 = latent4(starts.z + c, c);
                let x3 = latent4(starts.w + c, c);
                sums = weighted(p, x0, x1, x2, x3, sums);
            }
            let row = (token * params.heads + first_head) * params.splits + split;
            fold(row, 0u, last_head, tile, column, sums.h0);
            fold(row, 1u, last_head, tile, column, sums.h1);
            fold(row, 2u, last_head, tile, column, sums.h2);
            fold(row, 3u, last_head, tile, column, sums.h3);
            fold(row, 4u, last_head, tile, column, sums.h4);
            fold(row, 5u, last_head, tile, column, sums.h5);
            fold(row, 6u, last_head, tile, column, sums.h6);
            fold(row, 7u, last_head, tile, column, sums.h7);
        }
        if (lane <= last_head) {
            let row = (token * params.heads + first_head + lane) * params.splits + split;
            partial[row * row_vectors() + row_vectors() - 1u] = vec4(largest[lane], total[lane], 0.0, 0.0);
        }
    }
}

fn write_scores(e: u32, products: Ones) {
    scores[e] = products.low.x * params.scale;
    scores[TILE + e] = products.low.y * params.scale;
    scores[2u * TILE + e] = products.low.z * params.scale;
    scores[3u * TILE + e] = products.low.w * params.scale;
    scores[4u * TILE + e] = products.high.x * params.scale;
    scores[5u * TILE + e] = products.high.y * params.scale;
    scores[6u * TILE + e] = products.high.z * params.scale;
    scores[7u * TILE + e] = products.high.w * params.scale;
}

// Vectors of a row of partial.
fn row_vectors() -> u32 {
    return (params.kv_lora_rank + 3u) / 4u + 1u;
}

// Writes a tile's sums of four columns, or folds them into those of the tiles before.
fn fold(first_row: u32, head: u32, last_head: u32, tile: u32, column: u32, sum: vec4<f32>) {
    if (head <= last_head && column < params.kv_lora_rank) {
        let at = (first_row + head * params.splits) * row_vectors() + column / 4u;
        var value = select(vec4(0.0), sum, vec4(column) + vec4(0u, 1u, 2u, 3u) < vec4(params.kv_lora_rank));
        if (tile > 0u) {
            value = fma(value, vec4(new_factor[head]), partial[at] * old_factor[head]);
        }
        partial[at] = value;
    }
}

// Weights of four entries from e on.
@if(!broadcast)
fn weights_of(e: u32) -> Fours {
    let at = e / 4u;
    return Fours(
        weights[at], weights[TILE / 4u + at], weights[2u * TILE / 4u + at], weights[3u * TILE / 4u + at],
        weights[4u * TILE / 4u + at], weights[5u * TILE / 4u + at], weights[6u * TILE / 4u + at], weights[7u * TILE / 4u + at],
    );
}

@if(!broadcast)
fn queries(start: u32, c: u32, last: u32) -> Fours {
    let width = params.kv_lora_rank + params.rope_dim;
    return Fours(
        query4(start + c, c),
        query4(start + min(1u, last) * width + c, c),
        query4(start + min(2u, last) * width + c, c),
        query4(start + min(3u, last) * width + c, c),
        query4(start + min(4u, last) * width + c, c),
        query4(start + min(5u, last) * width + c, c),
        query4(start + min(6u, last) * width + c, c),
        query4(start + min(7u, last) * width + c, c),
    );
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
