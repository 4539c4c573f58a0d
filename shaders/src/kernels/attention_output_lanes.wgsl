// out[t, h, i] as attention_output.wgsl has it (the formulas, the shapes and `Params` are there), for GPUs: 32 lanes lie along
// kv_lora_rank, 16 columns each, and hold their o while the rows of W_UV go by, four at a time.
// One workgroup of 256 lanes per head, 64 rows and token. kv_lora_rank is a multiple of 16 and at most 2048, splits at most 128.
// Sum over c, as in attention_output.wgsl and everywhere: 16 columns ascending, the eight parts of a block ascending, then
// block sums · scale in order.

import package::lib::dot::dot4;
import package::lib::exchange::{other4, other2};
import package::lib::weights::{F8E4M3, BF16, F16, E4M3_UNIT, e4m3x4_units, bf16x2};

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
// Sizes of `latent` and of `block_sums`: kv_lora_rank / 4, and 16 per block of 128 columns. Memory that a workgroup does not take
// lets others run beside it.
override VECTORS: u32 = 512u;
override SUMS: u32 = 256u;

const THREADS: u32 = 256u;
const TILE: u32 = 128u; // entries, as in sparse_attention
const ROWS: u32 = 64u; // of a workgroup
const MAX_SPLITS: u32 = 128u;

var<workgroup> latent: array<vec4<f32>, VECTORS>; // o
var<workgroup> ends: array<vec2<f32>, MAX_SPLITS>; // m and l of each split
var<workgroup> factors: array<vec2<f32>, MAX_SPLITS>; // what the sums before a split and its own are multiplied with
var<workgroup> block_sums: array<vec4<f32>, SUMS>; // (rows / 4, blocks), of four rows each

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
    let row_groups = (params.v + ROWS - 1u) / ROWS;
    let head = group.x / row_groups;
    let first = group.x % row_groups * ROWS;
    combine(lane, token, head);
    workgroupBarrier();

    let chunks = params.kv_lora_rank / 16u;
    let blocks = (params.kv_lora_rank + 127u) / 128u;
    let first_row = head * (params.nope + params.v) + params.nope + first;
    let last = min(ROWS, params.v - first) - 1u;
    let team = lane / 32u;
    for (var base = 0u; base < chunks; base += 32u) {
        let c = base + lane % 32u;
        // Lanes beyond the last take it again, for nothing.
        let used = min(c, chunks - 1u);
        let o0 = latent[4u * used];
        let o1 = latent[4u * used + 1u];
        let o2 = latent[4u * used + 2u];
        let o3 = latent[4u * used + 3u];
        for (var round = 0u; round < ROWS / 32u; round++) {
            let four = round * 8u + team;
            let rows = first_row + min(vec4(4u * four) + vec4(0u, 1u, 2u, 3u), vec4(last));
            var mine = vec4(
                sixteen(rows.x * chunks + used, o0, o1, o2, o3),
                sixteen(rows.y * chunks + used, o0, o1, o2, o3),
                sixteen(rows.z * chunks + used, o0, o1, o2, o3),
                sixteen(rows.w * chunks + used, o0, o1, o2, o3),
            );
            mine = select(vec4(0.0), mine, c < chunks);
            let sum = eight_parts(lane, mine);
            if ((lane & 1u) == 0u && c / 8u < blocks) {
                block_sums[four * blocks + c / 8u][(lane >> 1u) & 3u] = sum;
            }
        }
    }
    workgroupBarrier();
    if (lane <= last) {
        let row = first_row + lane;
        var total = 0.0;
        for (var block = 0u; block < blocks; block++) {
            var scale = 1.0;
            if (WEIGHT_TYPE == F8E4M3) {
                scale = scales[params.scale_offset + row / 128u * blocks + block] * E4M3_UNIT;
            }
            total = fma(block_sums[lane / 4u * blocks + block][lane % 4u], scale, total);
        }
        out[(token * params.heads + head) * params.v + first + lane] = total;
    }
}

// o of the head, from its splits.
fn combine(lane: u32, token: u32, head: u32) {
    var entries = positions[token] + 1u;
    if (params.dense == 0u) {
        entries = min(entries, params.k);
    }
    let splits = (entries + TILE * params.tiles - 1u) / (TILE * params.tiles);
    let rank = (params.kv_lora_rank + 3u) / 4u; // vectors
    let start = (token * params.heads + head) * params.splits * (rank + 1u);
    if (lane < splits) {
        ends[lane] = partial[start + lane * (rank + 1u) + rank].xy;
    }
    workgroupBarrier();
    if (lane > 0u && lane < splits) {
        var before = ends[0].x;
        for (var split = 1u; split < lane; split++) {
            before = max(before, ends[split].x);
        }
        let both = max(before, ends[lane].x);
        factors[lane] = vec2(exp(before - both), exp(ends[lane].x - both));
    }
    workgroupBarrier();
    for (var c = lane; c < rank; c += THREADS) {
        var l = ends[0].y;
        var sum = partial[start + c];
        for (var split = 1u; split < splits; split += 4u) {
            // Four loads at a time; those beyond the last are not used.
            let at = start + min(vec4(split) + vec4(0u, 1u, 2u, 3u), vec4(splits - 1u)) * (rank + 1u) + c;
            let x0 = partial[at.x];
            let x1 = partial[at.y];
            let x2 = partial[at.z];
            let x3 = partial[at.w];
            l = fold(split, l);
            sum = fma(x0, vec4(factors[split].y), sum * factors[split].x);
            if (split + 1u < splits) {
                l = fold(split + 1u, l);
                sum = fma(x1, vec4(factors[split + 1u].y), sum * factors[split + 1u].x);
            }
            if (split + 2u < splits) {
                l = fold(split + 2u, l);
                sum = fma(x2, vec4(factors[split + 2u].y), sum * factors[split + 2u].x);
            }
            if (split + 3u < splits) {
                l = fold(split + 3u, l);
                sum = fma(x3, vec4(factors[split + 3u].y), sum * factors[split + 3u].x);
            }
        }
        latent[c] = sum / l;
    }
}

// l of the splits before and of this one.
fn fold(split: u32, l: f32) -> f32 {
    return fma(ends[split].y, factors[split].y, l * factors[split].x);
}

// Weights of the part `at`, a row's 16 columns, times o; E4M3 in its units.
fn sixteen(at: u32, o0: vec4<f32>, o1: vec4<f32>, o2: vec4<f32>, o3: vec4<f32>) -> f32 {
    let base = params.weight_offset / 16u;
    if (WEIGHT_TYPE == F8E4M3) {
        let w = weights[base + at];
        return dot4(e4m3x4_units(w.w), o3, dot4(e4m3x4_units(w.z), o2, dot4(e4m3x4_units(w.y), o1, dot4(e4m3x4_units(w.x), o0, 0.0))));
    }
    if (WEIGHT_TYPE <= F16) {
        let low = weights[base + 2u * at];
        let high = weights[base + 2u * at + 1u];
        return dot4(halves(high.zw), o3, dot4(halves(high.xy), o2, dot4(halves(low.zw), o1, dot4(halves(low.xy), o0, 0.0))));
    }
    let first = dot4(bitcast<vec4<f32>>(weights[base + 4u * at]), o0, 0.0);
    let second = dot4(bitcast<vec4<f32>>(weights[base + 4u * at + 1u]), o1, first);
    let third = dot4(bitcast<vec4<f32>>(weights[base + 4u * at + 2u]), o2, second);
    return dot4(bitcast<vec4<f32>>(weights[base + 4u * at + 3u]), o3, third);
}

fn halves(words: vec2<u32>) -> vec4<f32> {
    if (WEIGHT_TYPE == BF16) {
        return vec4(bf16x2(words.x), bf16x2(words.y));
    }
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// The sum, ascending, of what eight lanes have for one of four rows: row (lane / 2) % 4, on even lanes.
fn eight_parts(lane: u32, mine: vec4<f32>) -> f32 {
    let fourth = (lane & 4u) != 0u;
    let second = (lane & 2u) != 0u;
    // Each lane gives two rows to the lane four further on and gets its own two from there, then one row for one of the lane
    // two further on; then it has every other part of one row, and its neighbour has the rest.
    let two = other2(lane, select(mine.zw, mine.xy, fourth), 4u);
    let low = select(mine.xy, two, fourth);
    let high = select(two, mine.zw, fourth);
    let one = other2(lane, select(vec2(low.y, high.y), vec2(low.x, high.x), second), 2u);
    let a = select(vec2(low.x, high.x), one, second);
    let b = select(one, vec2(low.y, high.y), second);
    let other = other4(lane, vec4(a, b), 1u);
    return ((((((a.x + other.x) + b.x) + other.z) + a.y) + other.y) + b.y) + other.w;
}
