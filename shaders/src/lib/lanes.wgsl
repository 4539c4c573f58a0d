// Dot products of four stored rows with x, by 64 lanes that lie along K: what the mat-vecs of a GPU share. A lane takes 16
// consecutive columns of each row, so that eight lanes read a block of 128 as one line, and loads its 16 x once for all rows.
// The first three bindings are theirs.
//
// Order of a sum: k ascending inside a part of 16 columns; the eight parts of a block ascending; then total = fma(sum of the
// block, its scale, total), blocks ascending. The other mat-vecs and the mat-mul have the same.
//
// The parts of a block are handed over between eight lanes of a subgroup (`shuffle`, where subgroups have eight lanes or
// more), elsewhere through workgroup memory. Both give the same bits.

import package::lib::dot::dot4;
import package::lib::weights::{e4m3x4_units, E4M3_UNIT, bf16x2, element, element_bytes, F8E4M3, BF16};

const LANES: u32 = 64u;
const ROWS: u32 = 4u;

// Blocks of all that a workgroup sums, at least.
override BLOCKS: u32 = 64u;

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;

var<workgroup> block_sums: array<vec4<f32>, BLOCKS>; // of each row
var<workgroup> block_scales: array<vec2<f32>, BLOCKS>; // of rows 0 and 1, of rows 2 and 3
@if(!shuffle)
var<workgroup> parts: array<vec4<f32>, LANES>;

// Four rows to be multiplied with one x.
struct Rows {
    bytes: vec4<u32>, // where they begin
    scales: vec2<u32>, // first scale of rows 0 and 1, of rows 2 and 3
    kind: u32,
    cols: u32,
    x: u32, // where x begins
}

fn dot16(w: vec4<u32>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
    return dot4(e4m3x4_units(w.w), d, dot4(e4m3x4_units(w.z), c, dot4(e4m3x4_units(w.y), b, dot4(e4m3x4_units(w.x), a, 0.0))));
}

fn dot8(w: vec4<u32>, a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return dot4(vec4(bf16x2(w.z), bf16x2(w.w)), b, dot4(vec4(bf16x2(w.x), bf16x2(w.y)), a, sum));
}

// The part `c` of each row, FP8 at multiples of 16 bytes.
fn f8_parts(rows: vec4<u32>, c: u32, x_row: u32) -> vec4<f32> {
    let w0 = weights[rows.x + c];
    let w1 = weights[rows.y + c];
    let w2 = weights[rows.z + c];
    let w3 = weights[rows.w + c];
    let at = x_row + 4u * c;
    let xa = x[at];
    let xb = x[at + 1u];
    let xc = x[at + 2u];
    let xd = x[at + 3u];
    return vec4(dot16(w0, xa, xb, xc, xd), dot16(w1, xa, xb, xc, xd), dot16(w2, xa, xb, xc, xd), dot16(w3, xa, xb, xc, xd));
}

// The part `c` of each row, BF16 at multiples of 16 bytes; `steps` of eight columns are there.
fn bf16_parts(rows: vec4<u32>, c: u32, steps: u32, x_row: u32) -> vec4<f32> {
    var sums = vec4(0.0);
    for (var step = 2u * c; step < min(2u * c + 2u, steps); step++) {
        let xa = x[x_row + 2u * step];
        let xb = x[x_row + 2u * step + 1u];
        sums = vec4(
            dot8(weights[rows.x + step], xa, xb, sums.x),
            dot8(weights[rows.y + step], xa, xb, sums.y),
            dot8(weights[rows.z + step], xa, xb, sums.z),
            dot8(weights[rows.w + step], xa, xb, sums.w),
        );
    }
    return sums;
}

fn word(index: u32) -> u32 {
    return weights[index >> 2u][index & 3u];
}

// The part `c` of each row wherever they lie, and of types that are rare.
fn any_parts(rows: Rows, c: u32) -> vec4<f32> {
    var sums = vec4(0.0);
    for (var k = 16u * c; k < min(16u * c + 16u, rows.cols); k++) {
        let byte = rows.bytes + vec4(k * element_bytes(rows.kind));
        let w = vec4(
            element(rows.kind, word(byte.x / 4u), byte.x % 4u),
            element(rows.kind, word(byte.y / 4u), byte.y % 4u),
            element(rows.kind, word(byte.z / 4u), byte.z % 4u),
            element(rows.kind, word(byte.w / 4u), byte.w % 4u),
        );
        let at = rows.x + k;
        sums = fma(w, vec4(x[at >> 2u][at & 3u]), sums);
    }
    return sums;
}

// Keeps the sums of the blocks whose parts the lanes have: `mine` is part `c` of each row, and a row has `blocks` of them,
// which go to block_sums from `first` on. Eight lanes that follow each other are of one subgroup.
fn keep(mine: vec4<f32>, lane: u32, c: u32, first: u32, blocks: u32) {
    @if(shuffle) {
        // Each lane gives two rows to the lane four further on and gets its own two from there, then one row for one of the
        // lane two further on; then it has every other part of one row, and its neighbour has the rest.
        let fourth = (lane & 4u) != 0u;
        let second = (lane & 2u) != 0u;
        let two = subgroupShuffleXor(select(mine.zw, mine.xy, fourth), 4u);
        let low = select(mine.xy, two, fourth);
        let high = select(two, mine.zw, fourth);
        let one = subgroupShuffleXor(select(vec2(low.y, high.y), vec2(low.x, high.x), second), 2u);
        let a = select(vec2(low.x, high.x), one, second);
        let b = select(one, vec2(low.y, high.y), second);
        let other = subgroupShuffleXor(vec4(a, b), 1u);
        // On even lanes.
        let sum = ((((((a.x + other.x) + b.x) + other.z) + a.y) + other.y) + b.y) + other.w;
        if ((lane & 1u) == 0u && c / 8u < blocks) {
            block_sums[first + c / 8u][(lane >> 1u) & 3u] = sum;
        }
    }
    @if(!shuffle) {
        workgroupBarrier();
        parts[lane] = mine;
        workgroupBarrier();
        // Eight lanes' parts, summed by one of them.
        if (lane % 8u == 0u && c / 8u < blocks) {
            var sum = parts[lane];
            for (var i = 1u; i < 8u; i++) {
                sum += parts[lane + i];
            }
            block_sums[first + c / 8u] = sum;
        }
    }
}

// Puts the sums and scales of all blocks of `rows` into block_sums and block_scales, from `first` on.
fn sum_blocks(rows: Rows, lane: u32, first: u32) {
    let chunks = (rows.cols + 15u) / 16u; // lanes beyond the last take it again, for nothing
    let blocks = (rows.cols + 127u) / 128u;
    for (var b = lane; b < blocks; b += LANES) {
        var scale = vec2(1.0);
        if (rows.kind == F8E4M3) {
            scale = vec2(scales[rows.scales.x + b], scales[rows.scales.y + b]) * E4M3_UNIT;
        }
        block_scales[first + b] = scale;
    }
    if (rows.kind == F8E4M3 && rows.cols % 16u == 0u && rows.x % 4u == 0u) {
        let at = rows.bytes / vec4(16u);
        for (var base = 0u; base < chunks; base += LANES) {
            let c = base + lane;
            let mine = f8_parts(at, min(c, chunks - 1u), rows.x / 4u);
            keep(select(vec4(0.0), mine, c < chunks), lane, c, first, blocks);
        }
    } else if (rows.kind == BF16 && rows.cols % 8u == 0u && rows.x % 4u == 0u) {
        let at = rows.bytes / vec4(16u);
        for (var base = 0u; base < chunks; base += LANES) {
            let c = base + lane;
            let mine = bf16_parts(at, min(c, chunks - 1u), rows.cols / 8u, rows.x / 4u);
            keep(select(vec4(0.0), mine, c < chunks), lane, c, first, blocks);
        }
    } else {
        // `element` decodes E4M3 to values, not units.
        for (var base = 0u; base < chunks; base += LANES) {
            let c = base + lane;
            var mine = vec4(0.0);
            if (c < chunks) {
                mine = any_parts(rows, c) * select(1.0, 1.0 / E4M3_UNIT, rows.kind == F8E4M3);
            }
            keep(mine, lane, c, first, blocks);
        }
    }
}

// What row `row` of the four comes to: its blocks from `first` on.
fn total(row: u32, first: u32, blocks: u32) -> f32 {
    var sum = 0.0;
    for (var b = first; b < first + blocks; b++) {
        sum = fma(block_sums[b][row], block_scales[b][row / 2u], sum);
    }
    return sum;
}

fn silu(gate: f32) -> f32 {
    return gate / (1.0 + exp(-gate));
}
