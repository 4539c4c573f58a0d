// q_absorbed and index_q as absorb.wgsl has them (the formulas, the shapes and `Params` are there), for few tokens on GPUs: a
// lane loads 16 bytes of a row, eight lanes 128 bytes side by side, and 16 such eights share the 128 rows of a block.
// Workgroups of 128 lanes: for each head as many as its columns take (8 times 16 bytes each), then one per head of the indexer.
// Rows of kv_b_proj and the parts of queries begin at multiples of 16 bytes; nope and v are multiples of 8.
// Sum over n, as in absorb.wgsl: fma ascending over eight rows, the parts of a 128-block ascending, block sums · scale in block
// order.

import package::lib::rope::{rope_pair, rope_is_first, rope_partner, rotated};
import package::lib::weights::{F8E4M3, BF16, F16, E4M3_UNIT, e4m3x4_units, bf16x2};

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

@group(0) @binding(0) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> rope: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> q_absorbed: array<f32>;
@group(0) @binding(5) var<storage, read_write> index_q: array<f32>;

override WEIGHT_TYPE: u32 = 0u;

const THREADS: u32 = 128u;
const PARTS: u32 = 16u; // of a block, eight rows each

// Sums of a block's parts: 4 vec4 for each of eight lanes, or 2 or 1 where 16 bytes are 8 or 4 weights.
var<workgroup> parts: array<vec4<f32>, PARTS * 32u>;

// Sums of 16 columns; of the first 8 or 4 where weights are larger.
struct Columns {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y;
    let vectors = select(select(1u, 2u, WEIGHT_TYPE <= F16), 4u, WEIGHT_TYPE == F8E4M3);
    let columns = 32u * vectors;
    let column_groups = (params.kv_lora_rank + columns - 1u) / columns;
    if (group.x >= params.heads * column_groups) {
        index_query(token, group.x - params.heads * column_groups, lane);
        return;
    }
    let head = group.x / column_groups;
    let first_column = group.x % column_groups * columns;
    let query = token * params.stride + params.query_offset + head * (params.nope + params.rope_dim);
    let out = (token * params.heads + head) * (params.kv_lora_rank + params.rope_dim);
    if (first_column == 0u) {
        let q_pe = query + params.nope;
        for (var k = lane; k < params.rope_dim; k += THREADS) {
            let angle = rope[token * (params.rope_dim / 2u) + rope_pair(k, params.rope_dim, true)];
            let partner = query_value(q_pe + rope_partner(k, params.rope_dim, true));
            q_absorbed[out + params.kv_lora_rank + k] =
                rotated(query_value(q_pe + k), partner, rope_is_first(k, params.rope_dim, true), angle);
        }
    }

    let first_row = head * (params.nope + params.v);
    let row_vectors = params.kv_lora_rank / (4u * vectors);
    // Lanes beyond the last column take the last, for nothing.
    let chunk = min(first_column / (4u * vectors) + lane % 8u, row_vectors - 1u);
    let part = lane / 8u;
    let column = first_column + lane;
    let written = lane < columns && column < params.kv_lora_rank;
    var total = 0.0;
    for (var block = first_row / 128u; block * 128u < first_row + params.nope; block++) {
        let row = block * 128u + part * 8u;
        var sums = Columns();
        if (row >= first_row && row < first_row + params.nope) {
            sums = eight_rows(params.weight_offset / 16u + row * row_vectors + chunk, row_vectors, (query + row - first_row) / 4u);
        }
        workgroupBarrier(); // the last block's parts are no longer read
        let at = part * 8u * vectors + lane % 8u * vectors;
        parts[at] = sums.a;
        if (vectors > 1u) {
            parts[at + 1u] = sums.b;
        }
        if (vectors > 2u) {
            parts[at + 2u] = sums.c;
            parts[at + 3u] = sums.d;
        }
        workgroupBarrier();
        if (written) {
            var sum = 0.0;
            for (var p = 0u; p < PARTS; p++) {
                sum += parts[p * 8u * vectors + lane / 4u][lane % 4u];
            }
            var scale = 1.0;
            if (WEIGHT_TYPE == F8E4M3) {
                scale = scales[params.scale_offset + block * ((params.kv_lora_rank + 127u) / 128u) + column / 128u] * E4M3_UNIT;
            }
            total = fma(sum, scale, total);
        }
    }
    if (written) {
        q_absorbed[out + column] = total;
    }
}

// Eight rows from vector `at` of the weights on, times eight queries from vector `query` on.
fn eight_rows(at: u32, stride: u32, query: u32) -> Columns {
    let low = queries[query];
    let high = queries[query + 1u];
    let w0 = weights[at];
    let w1 = weights[at + stride];
    let w2 = weights[at + 2u * stride];
    let w3 = weights[at + 3u * stride];
    let w4 = weights[at + 4u * stride];
    let w5 = weights[at + 5u * stride];
    let w6 = weights[at + 6u * stride];
    let w7 = weights[at + 7u * stride];
    var sums = add_row(w0, low.x, Columns());
    sums = add_row(w1, low.y, sums);
    sums = add_row(w2, low.z, sums);
    sums = add_row(w3, low.w, sums);
    sums = add_row(w4, high.x, sums);
    sums = add_row(w5, high.y, sums);
    sums = add_row(w6, high.z, sums);
    return add_row(w7, high.w, sums);
}

// sums + w · q; E4M3 in its units.
fn add_row(w: vec4<u32>, q: f32, sums: Columns) -> Columns {
    var found = sums;
    if (WEIGHT_TYPE == F8E4M3) {
        found.a = fma(e4m3x4_units(w.x), vec4(q), sums.a);
        found.b = fma(e4m3x4_units(w.y), vec4(q), sums.b);
        found.c = fma(e4m3x4_units(w.z), vec4(q), sums.c);
        found.d = fma(e4m3x4_units(w.w), vec4(q), sums.d);
    } else if (WEIGHT_TYPE == BF16) {
        found.a = fma(vec4(bf16x2(w.x), bf16x2(w.y)), vec4(q), sums.a);
        found.b = fma(vec4(bf16x2(w.z), bf16x2(w.w)), vec4(q), sums.b);
    } else if (WEIGHT_TYPE == F16) {
        found.a = fma(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(q), sums.a);
        found.b = fma(vec4(unpack2x16float(w.z), unpack2x16float(w.w)), vec4(q), sums.b);
    } else {
        found.a = fma(bitcast<vec4<f32>>(w), vec4(q), sums.a);
    }
    return found;
}

fn query_value(at: u32) -> f32 {
    return queries[at / 4u][at % 4u];
}

// One head of the indexer's queries.
fn index_query(token: u32, head: u32, lane: u32) {
    let start = token * params.stride + params.index_offset + head * params.index_head_dim;
    let out = (token * params.index_heads + head) * params.index_head_dim;
    let interleaved = params.index_interleaved == 1u;
    for (var k = lane; k < params.index_head_dim; k += THREADS) {
        var value = query_value(start + k);
        if (k < params.rope_dim) {
            let angle = rope[token * (params.rope_dim / 2u) + rope_pair(k, params.rope_dim, interleaved)];
            let partner = query_value(start + rope_partner(k, params.rope_dim, interleaved));
            value = rotated(value, partner, rope_is_first(k, params.rope_dim, interleaved), angle);
        }
        index_q[out + k] = value;
    }
}
