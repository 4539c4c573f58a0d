// q_absorbed[t, h, c] = Σ_n q_nope[t, h, n] · W_UK[h, n, c]           c < kv_lora_rank
// q_absorbed[t, h, kv_lora_rank ..] = rope(q_pe[t, h])                 interleaved pairs
// index_q[t, h] = rope on the first rope_dim values of the indexer's query, half-split or interleaved pairs
// queries: f32 (T, stride), holding q (heads, nope + rope_dim) at query_offset and the indexer's (index_heads,
// index_head_dim) at index_offset   W_UK[h, n] = row h · (nope + v) + n of kv_b_proj (heads · (nope + v), kv_lora_rank)
// rope: (cos, sin) (T, rope_dim / 2)   q_absorbed: f32 (T, heads, kv_lora_rank + rope_dim)   index_q: f32 (T, index_heads, index_head_dim)
// One workgroup per head and TOKENS tokens, one more for the indexer where there is one; a lane owns 4 columns.
// Sum over n: fma in ascending order over the rows of kv_b_proj whose number / 8 is the same, these parts of a 128-block of rows
// ascending, block sums · scale in block order.

import package::lib::rope::{rope_pair, rope_is_first, rope_partner, rotated};
import package::lib::weights::{F8E4M3, BF16, F16, e4m3x4, bf16x2};

struct Params {
    tokens: u32,
    stride: u32,
    query_offset: u32,
    index_offset: u32,
    heads: u32,
    nope: u32,
    rope_dim: u32,
    v: u32,
    kv_lora_rank: u32,
    index_heads: u32,
    index_head_dim: u32,
    index_interleaved: u32, // 1: the indexer's queries are rotated in interleaved pairs
    weight_offset: u32, // bytes, a multiple of 16
    scale_offset: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> queries: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> rope: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> q_absorbed: array<f32>;
@group(0) @binding(5) var<storage, read_write> index_q: array<f32>;

override WEIGHT_TYPE: u32 = 0u;
// 1 where a row of kv_b_proj is not a whole number of 32-bit words.
override CAREFUL: u32 = 0u;
// 1 or 4: how many tokens share the decoding of a weight.
override TOKENS: u32 = 1u;
// As many as kv_lora_rank / 4 rounded up to 32 is enough.
override THREADS: u32 = 128u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let first_token = group.y * TOKENS;
    if (group.x == params.heads) {
        for (var t = first_token; t < min(first_token + TOKENS, params.tokens); t++) {
            index_queries(t, lane);
        }
        return;
    }
    let head = group.x;
    for (var t = first_token; t < min(first_token + TOKENS, params.tokens); t++) {
        let q_pe = query_start(t, head) + params.nope;
        for (var k = lane; k < params.rope_dim; k += THREADS) {
            let angle = rope[t * (params.rope_dim / 2u) + rope_pair(k, params.rope_dim, true)];
            let partner = queries[q_pe + rope_partner(k, params.rope_dim, true)];
            q_absorbed[absorbed_start(t, head) + params.kv_lora_rank + k] =
                rotated(queries[q_pe + k], partner, rope_is_first(k, params.rope_dim, true), angle);
        }
    }

    let first_row = head * (params.nope + params.v);
    let column_bytes = select(select(4u, 2u, WEIGHT_TYPE <= F16), 1u, WEIGHT_TYPE == F8E4M3);
    let row_bytes = params.kv_lora_rank * column_bytes;
    let column_blocks = (params.kv_lora_rank + 127u) / 128u;
    // Tokens beyond the last are computed as the last and not written.
    let last = params.tokens - 1u;
    let query0 = query_start(first_token, head);
    let query1 = query_start(min(first_token + 1u, last), head);
    let query2 = query_start(min(first_token + 2u, last), head);
    let query3 = query_start(min(first_token + 3u, last), head);
    for (var base = 0u; base < params.kv_lora_rank; base += 4u * THREADS) {
        let column = base + 4u * lane;
        var sum0 = vec4<f32>();
        var sum1 = vec4<f32>();
        var sum2 = vec4<f32>();
        var sum3 = vec4<f32>();
        var n = 0u;
        while (n < params.nope) {
            let row = first_row + n;
            let block_end = min(params.nope, n + 128u - row % 128u);
            var scale = 1.0;
            if (WEIGHT_TYPE == F8E4M3) {
                scale = scales[params.scale_offset + (row / 128u) * column_blocks + column / 128u];
            }
            var block0 = vec4<f32>();
            var block1 = vec4<f32>();
            var block2 = vec4<f32>();
            var block3 = vec4<f32>();
            var at = params.weight_offset + row * row_bytes + column * column_bytes;
            while (n < block_end) {
                let part_end = min(block_end, n + 8u - (first_row + n) % 8u);
                var part0 = vec4<f32>();
                var part1 = vec4<f32>();
                var part2 = vec4<f32>();
                var part3 = vec4<f32>();
                @if(broadcast)
                if (part_end - n == 8u) {
                    // A uniform load costs as much as eight different ones where lanes are emulated: eight rows at once.
                    let mine = subgroup_lane & 7u;
                    let q0 = queries[query0 + n + mine];
                    var q1 = 0.0;
                    var q2 = 0.0;
                    var q3 = 0.0;
                    if (TOKENS > 1u) {
                        q1 = queries[query1 + n + mine];
                        q2 = queries[query2 + n + mine];
                        q3 = queries[query3 + n + mine];
                    }
                    let w0 = weights4(at);
                    let w1 = weights4(at + row_bytes);
                    let w2 = weights4(at + 2u * row_bytes);
                    let w3 = weights4(at + 3u * row_bytes);
                    let w4 = weights4(at + 4u * row_bytes);
                    let w5 = weights4(at + 5u * row_bytes);
                    let w6 = weights4(at + 6u * row_bytes);
                    let w7 = weights4(at + 7u * row_bytes);
                    at += 8u * row_bytes;
                    part0 = eight_rows(w0, w1, w2, w3, w4, w5, w6, w7, q0);
                    if (TOKENS > 1u) {
                        part1 = eight_rows(w0, w1, w2, w3, w4, w5, w6, w7, q1);
                        part2 = eight_rows(w0, w1, w2, w3, w4, w5, w6, w7, q2);
                        part3 = eight_rows(w0, w1, w2, w3, w4, w5, w6, w7, q3);
                    }
                    n = part_end;
                }
                for (; n < part_end; n++) {
                    let w = weights4(at);
                    at += row_bytes;
                    part0 = fma(w, vec4(queries[query0 + n]), part0);
                    if (TOKENS > 1u) {
                        part1 = fma(w, vec4(queries[query1 + n]), part1);
                        part2 = fma(w, vec4(queries[query2 + n]), part2);
                        part3 = fma(w, vec4(queries[query3 + n]), part3);
                    }
                }
                block0 += part0;
                if (TOKENS > 1u) {
                    block1 += part1;
                    block2 += part2;
                    block3 += part3;
                }
            }
            sum0 = fma(block0, vec4(scale), sum0);
            if (TOKENS > 1u) {
                sum1 = fma(block1, vec4(scale), sum1);
                sum2 = fma(block2, vec4(scale), sum2);
                sum3 = fma(block3, vec4(scale), sum3);
            }
        }
        write(first_token, head, column, sum0);
        if (TOKENS > 1u) {
            write(first_token + 1u, head, column, sum1);
            write(first_token + 2u, head, column, sum2);
            write(first_token + 3u, head, column, sum3);
        }
    }
}

fn query_start(token: u32, head: u32) -> u32 {
    return token * params.stride + params.query_offset + head * (params.nope + params.rope_dim);
}

fn absorbed_start(token: u32, head: u32) -> u32 {
    return (token * params.heads + head) * (params.kv_lora_rank + params.rope_dim);
}

fn write(token: u32, head: u32, column: u32, value: vec4<f32>) {
    if (token < params.tokens && column < params.kv_lora_rank) {
        let start = absorbed_start(token, head) + column;
        let room = params.kv_lora_rank - column;
        q_absorbed[start] = value.x;
        if (room > 1u) {
            q_absorbed[start + 1u] = value.y;
        }
        if (room > 2u) {
            q_absorbed[start + 2u] = value.z;
        }
        if (room > 3u) {
            q_absorbed[start + 3u] = value.w;
        }
    }
}

fn index_queries(token: u32, lane: u32) {
    let out = token * params.index_heads * params.index_head_dim;
    let start = token * params.stride + params.index_offset;
    let angles = token * (params.rope_dim / 2u);
    let pairs = params.rope_dim / 2u;
    let interleaved = params.index_interleaved == 1u;
    for (var i = lane; i < params.index_heads * pairs; i += THREADS) {
        let pair = i % pairs;
        let first = i / pairs * params.index_head_dim + select(pair, 2u * pair, interleaved);
        let second = first + select(pairs, 1u, interleaved);
        let angle = rope[angles + pair];
        let a = queries[start + first];
        let b = queries[start + second];
        index_q[out + first] = rotated(a, b, true, angle);
        index_q[out + second] = rotated(b, a, false, angle);
    }
    let plain = params.index_head_dim - params.rope_dim;
    for (var i = lane; i < params.index_heads * plain; i += THREADS) {
        let at = i / plain * params.index_head_dim + params.rope_dim + i % plain;
        index_q[out + at] = queries[start + at];
    }
}

// Σ_j w_j · q of lane j, in the order of the rows.
@if(broadcast)
fn eight_rows(
    w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>,
    w4: vec4<f32>, w5: vec4<f32>, w6: vec4<f32>, w7: vec4<f32>,
    q: f32,
) -> vec4<f32> {
    var total = w0 * vec4(subgroupBroadcast(q, 0u));
    total = fma(w1, vec4(subgroupBroadcast(q, 1u)), total);
    total = fma(w2, vec4(subgroupBroadcast(q, 2u)), total);
    total = fma(w3, vec4(subgroupBroadcast(q, 3u)), total);
    total = fma(w4, vec4(subgroupBroadcast(q, 4u)), total);
    total = fma(w5, vec4(subgroupBroadcast(q, 5u)), total);
    total = fma(w6, vec4(subgroupBroadcast(q, 6u)), total);
    return fma(w7, vec4(subgroupBroadcast(q, 7u)), total);
}

// The 32 bits at byte `at`.
fn word(at: u32) -> u32 {
    let low = weights[at >> 4u][(at >> 2u) & 3u];
    if (CAREFUL == 1u) {
        let shift = (at & 3u) * 8u;
        let next = at + 4u;
        let high = weights[next >> 4u][(next >> 2u) & 3u];
        return select((low >> shift) | (high << ((32u - shift) & 31u)), low, shift == 0u);
    }
    return low;
}

// Four weights from byte `at` on.
fn weights4(at: u32) -> vec4<f32> {
    if (WEIGHT_TYPE == F8E4M3) {
        return e4m3x4(word(at));
    }
    if (WEIGHT_TYPE == BF16) {
        return vec4(bf16x2(word(at)), bf16x2(word(at + 4u)));
    }
    if (WEIGHT_TYPE == F16) {
        return vec4(unpack2x16float(word(at)), unpack2x16float(word(at + 4u)));
    }
    return bitcast<vec4<f32>>(vec4(word(at), word(at + 4u), word(at + 8u), word(at + 12u)));
}
