// y[p, c + r] (= or +=) Σ_k W[r, k] · x[t, k]     the mat-vec for many tokens: each weight is decoded once for eight of them
// Shapes, types, SWIGLU and the order of the sums are the mat-vec's, so that a token's bits do not depend on its company.
// Dense: workgroup (i, j) computes rows of segment(i) for tokens 8 j … 8 j + 7; the second segment begins at workgroup
//   segment1.x, and so on.
// EXPERTS: workgroup (i, j) computes for tile j = (expert, first, count): the pairs p = pair_order[first …], t = p / picks
//   (with SWIGLU t = p); W's offsets are within the expert's slot.
// A thread has four rows, 32 apart, and eight tokens.

import package::lib::weights::{e4m3x4, bf16x2, element, element_bytes, F8E4M3, BF16};

override SWIGLU: u32 = 0u;
override EXPERTS: u32 = 0u;

const THREADS: u32 = 32u;
const TOKENS: u32 = 8u;
const ROWS: u32 = 128u; // of a workgroup

struct Params {
    segment0: vec4<u32>, // first workgroup, byte offset of W, index of its first scale, type
    segment1: vec4<u32>,
    segment2: vec4<u32>,
    segment3: vec4<u32>,
    rows: vec4<u32>, // of each segment
    columns: vec4<u32>, // c: where each segment's rows begin in y
    cols: u32,
    x_stride: u32,
    x_offset: u32,
    y_stride: u32,
    accumulate: u32, // 1: +=
    tokens: u32,
    picks: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pair_order: array<u32>;
@group(0) @binding(5) var<storage, read> slots: array<vec2<u32>>; // (experts): byte offset / 16 of each slot, or all ones; its first scale
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// Sums of four rows for tokens 0–3 (low) and 4–7 (high).
struct Tile {
    low0: vec4<f32>,
    low1: vec4<f32>,
    low2: vec4<f32>,
    low3: vec4<f32>,
    high0: vec4<f32>,
    high1: vec4<f32>,
    high2: vec4<f32>,
    high3: vec4<f32>,
}

@if(!broadcast)
var<workgroup> staged: array<vec4<f32>, 256>; // x of a block: 2 k + (0: tokens 0–3, 1: tokens 4–7)

fn x_at(index: u32) -> f32 {
    if (SWIGLU == 1u) {
        let gate = x[index];
        return gate / (1.0 + exp(-gate)) * x[index + params.cols];
    }
    return x[index];
}

fn word(index: u32) -> u32 {
    return weights[index >> 2u][index & 3u];
}

// One k: the weights of the four rows times x of the eight tokens.
fn add(tile: ptr<function, Tile>, w: vec4<f32>, low: vec4<f32>, high: vec4<f32>) {
    (*tile).low0 = fma(vec4(w.x), low, (*tile).low0);
    (*tile).low1 = fma(vec4(w.y), low, (*tile).low1);
    (*tile).low2 = fma(vec4(w.z), low, (*tile).low2);
    (*tile).low3 = fma(vec4(w.w), low, (*tile).low3);
    (*tile).high0 = fma(vec4(w.x), high, (*tile).high0);
    (*tile).high1 = fma(vec4(w.y), high, (*tile).high1);
    (*tile).high2 = fma(vec4(w.z), high, (*tile).high2);
    (*tile).high3 = fma(vec4(w.w), high, (*tile).high3);
}

// Four k: w0 … w3 are four consecutive weights of each row.
@if(!broadcast)
fn add_staged(tile: ptr<function, Tile>, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, k: u32) {
    add(tile, vec4(w0.x, w1.x, w2.x, w3.x), staged[2u * k], staged[2u * k + 1u]);
    add(tile, vec4(w0.y, w1.y, w2.y, w3.y), staged[2u * k + 2u], staged[2u * k + 3u]);
    add(tile, vec4(w0.z, w1.z, w2.z, w3.z), staged[2u * k + 4u], staged[2u * k + 5u]);
    add(tile, vec4(w0.w, w1.w, w2.w, w3.w), staged[2u * k + 6u], staged[2u * k + 7u]);
}

// Eight k: `low` and `high` of lane j are x at the j-th of them.
@if(broadcast)
fn add_eight(
    tile: ptr<function, Tile>,
    a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
    b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>,
    low: vec4<f32>, high: vec4<f32>,
) {
    add(tile, vec4(a0.x, a1.x, a2.x, a3.x), subgroupBroadcast(low, 0u), subgroupBroadcast(high, 0u));
    add(tile, vec4(a0.y, a1.y, a2.y, a3.y), subgroupBroadcast(low, 1u), subgroupBroadcast(high, 1u));
    add(tile, vec4(a0.z, a1.z, a2.z, a3.z), subgroupBroadcast(low, 2u), subgroupBroadcast(high, 2u));
    add(tile, vec4(a0.w, a1.w, a2.w, a3.w), subgroupBroadcast(low, 3u), subgroupBroadcast(high, 3u));
    add(tile, vec4(b0.x, b1.x, b2.x, b3.x), subgroupBroadcast(low, 4u), subgroupBroadcast(high, 4u));
    add(tile, vec4(b0.y, b1.y, b2.y, b3.y), subgroupBroadcast(low, 5u), subgroupBroadcast(high, 5u));
    add(tile, vec4(b0.z, b1.z, b2.z, b3.z), subgroupBroadcast(low, 6u), subgroupBroadcast(high, 6u));
    add(tile, vec4(b0.w, b1.w, b2.w, b3.w), subgroupBroadcast(low, 7u), subgroupBroadcast(high, 7u));
}

// What a thread multiplies: first bytes of its four rows, first elements of its eight rows of x.
struct Operands {
    rows: vec4<u32>,
    x_low: vec4<u32>,
    x_high: vec4<u32>,
}

fn x_four(rows: vec4<u32>, k: u32) -> vec4<f32> {
    return vec4(x_at(rows.x + k), x_at(rows.y + k), x_at(rows.z + k), x_at(rows.w + k));
}

// Adds `count` columns from `first` on.
fn add_block(tile: ptr<function, Tile>, kind: u32, operands: Operands, first: u32, count: u32, eight: u32) {
    if (kind == F8E4M3 && params.cols % 16u == 0u) {
        let at = (operands.rows + vec4(first)) / vec4(16u);
        for (var step = 0u; step < count / 16u; step++) {
            let p0 = weights[at.x + step];
            let p1 = weights[at.y + step];
            let p2 = weights[at.z + step];
            let p3 = weights[at.w + step];
            @if(broadcast) {
                let k = first + step * 16u + eight;
                add_eight(
                    tile,
                    e4m3x4(p0.x), e4m3x4(p1.x), e4m3x4(p2.x), e4m3x4(p3.x),
                    e4m3x4(p0.y), e4m3x4(p1.y), e4m3x4(p2.y), e4m3x4(p3.y),
                    x_four(operands.x_low, k), x_four(operands.x_high, k),
                );
                add_eight(
                    tile,
                    e4m3x4(p0.z), e4m3x4(p1.z), e4m3x4(p2.z), e4m3x4(p3.z),
                    e4m3x4(p0.w), e4m3x4(p1.w), e4m3x4(p2.w), e4m3x4(p3.w),
                    x_four(operands.x_low, k + 8u), x_four(operands.x_high, k + 8u),
                );
            }
            @if(!broadcast) {
                let k = step * 16u;
                add_staged(tile, e4m3x4(p0.x), e4m3x4(p1.x), e4m3x4(p2.x), e4m3x4(p3.x), k);
                add_staged(tile, e4m3x4(p0.y), e4m3x4(p1.y), e4m3x4(p2.y), e4m3x4(p3.y), k + 4u);
                add_staged(tile, e4m3x4(p0.z), e4m3x4(p1.z), e4m3x4(p2.z), e4m3x4(p3.z), k + 8u);
                add_staged(tile, e4m3x4(p0.w), e4m3x4(p1.w), e4m3x4(p2.w), e4m3x4(p3.w), k + 12u);
            }
        }
    } else if (kind == BF16 && params.cols % 8u == 0u) {
        let at = (operands.rows + vec4(first * 2u)) / vec4(16u);
        for (var step = 0u; step < count / 8u; step++) {
            let p0 = weights[at.x + step];
            let p1 = weights[at.y + step];
            let p2 = weights[at.z + step];
            let p3 = weights[at.w + step];
            let a0 = vec4(bf16x2(p0.x), bf16x2(p0.y));
            let a1 = vec4(bf16x2(p1.x), bf16x2(p1.y));
            let a2 = vec4(bf16x2(p2.x), bf16x2(p2.y));
            let a3 = vec4(bf16x2(p3.x), bf16x2(p3.y));
            let b0 = vec4(bf16x2(p0.z), bf16x2(p0.w));
            let b1 = vec4(bf16x2(p1.z), bf16x2(p1.w));
            let b2 = vec4(bf16x2(p2.z), bf16x2(p2.w));
            let b3 = vec4(bf16x2(p3.z), bf16x2(p3.w));
            @if(broadcast) {
                let k = first + step * 8u + eight;
                add_eight(tile, a0, a1, a2, a3, b0, b1, b2, b3, x_four(operands.x_low, k), x_four(operands.x_high, k));
            }
            @if(!broadcast) {
                add_staged(tile, a0, a1, a2, a3, step * 8u);
                add_staged(tile, b0, b1, b2, b3, step * 8u + 4u);
            }
        }
    } else {
        // Rows that are not aligned, and types that are rare.
        for (var k = 0u; k < count; k++) {
            let byte = operands.rows + vec4((first + k) * element_bytes(kind));
            let w = vec4(
                element(kind, word(byte.x / 4u), byte.x % 4u),
                element(kind, word(byte.y / 4u), byte.y % 4u),
                element(kind, word(byte.z / 4u), byte.z % 4u),
                element(kind, word(byte.w / 4u), byte.w % 4u),
            );
            @if(broadcast) {
                add(tile, w, x_four(operands.x_low, first + k), x_four(operands.x_high, first + k));
            }
            @if(!broadcast) {
                add(tile, w, staged[2u * k], staged[2u * k + 1u]);
            }
        }
    }
}

fn store(row: u32, rows: u32, column: u32, count: u32, lines: array<u32, 8>, low: vec4<f32>, high: vec4<f32>) {
    if (row >= rows) {
        return;
    }
    var line = lines;
    var values = array<f32, 8>(low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w);
    for (var t = 0u; t < count; t++) {
        let at = line[t] * params.y_stride + column + row;
        if (params.accumulate == 1u) {
            y[at] += values[t];
        } else {
            y[at] = values[t];
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    var eight = 0u;
    @if(broadcast) {
        eight = subgroup_lane % 8u;
    }
    var segment = params.segment0;
    var rows = params.rows.x;
    var column = params.columns.x;
    if (params.rows.y > 0u && group.x >= params.segment1.x) {
        segment = params.segment1;
        rows = params.rows.y;
        column = params.columns.y;
    }
    if (params.rows.z > 0u && group.x >= params.segment2.x) {
        segment = params.segment2;
        rows = params.rows.z;
        column = params.columns.z;
    }
    if (params.rows.w > 0u && group.x >= params.segment3.x) {
        segment = params.segment3;
        rows = params.rows.w;
        column = params.columns.w;
    }
    var base = segment.y;
    var scale_base = segment.z;
    var first_line = group.y * TOKENS;
    var count = min(TOKENS, params.tokens - first_line);
    if (EXPERTS == 1u) {
        let tile = tiles[group.y];
        let slot = slots[tile.x];
        if (slot.x == 0xffffffffu) {
            return; // in another slab
        }
        base += slot.x * 16u;
        scale_base += slot.y;
        first_line = tile.y;
        count = tile.z;
    }
    // Rows of y and of x; tokens beyond the last repeat it, so that all lanes work along.
    var lines: array<u32, 8>;
    var x_rows: array<u32, 8>;
    for (var t = 0u; t < TOKENS; t++) {
        var line = first_line + min(t, count - 1u);
        var x_row = line;
        if (EXPERTS == 1u) {
            line = pair_order[line];
            x_row = line;
            if (SWIGLU == 0u) {
                x_row = line / params.picks;
            }
        }
        lines[t] = line;
        x_rows[t] = x_row * params.x_stride + params.x_offset;
    }
    let kind = segment.w;
    let row = (group.x - segment.x) * ROWS + thread;
    let used = min(vec4(row, row + 32u, row + 64u, row + 96u), vec4(rows - 1u));
    var operands: Operands;
    operands.rows = vec4(base) + used * vec4(params.cols * element_bytes(kind));
    operands.x_low = vec4(x_rows[0], x_rows[1], x_rows[2], x_rows[3]);
    operands.x_high = vec4(x_rows[4], x_rows[5], x_rows[6], x_rows[7]);
    let blocks = (params.cols + 127u) / 128u;
    let scale_rows = vec4(scale_base) + used / vec4(128u) * vec4(blocks);
    var total: Tile;
    for (var b = 0u; b < blocks; b++) {
        let first = b * 128u;
        let columns = min(128u, params.cols - first);
        @if(!broadcast) {
            workgroupBarrier();
            for (var i = thread; i < columns * TOKENS; i += THREADS) {
                let t = i / columns;
                let k = i % columns;
                staged[2u * k + t / 4u][t % 4u] = x_at(x_rows[t] + first + k);
            }
            workgroupBarrier();
        }
        var tile: Tile;
        add_block(&tile, kind, operands, first, columns, eight);
        var scale = vec4(1.0);
        if (kind == F8E4M3) {
            scale = vec4(scales[scale_rows.x + b], scales[scale_rows.y + b], scales[scale_rows.z + b], scales[scale_rows.w + b]);
        }
        total.low0 = fma(tile.low0, vec4(scale.x), total.low0);
        total.low1 = fma(tile.low1, vec4(scale.y), total.low1);
        total.low2 = fma(tile.low2, vec4(scale.z), total.low2);
        total.low3 = fma(tile.low3, vec4(scale.w), total.low3);
        total.high0 = fma(tile.high0, vec4(scale.x), total.high0);
        total.high1 = fma(tile.high1, vec4(scale.y), total.high1);
        total.high2 = fma(tile.high2, vec4(scale.z), total.high2);
        total.high3 = fma(tile.high3, vec4(scale.w), total.high3);
    }
    store(row, rows, column, count, lines, total.low0, total.high0);
    store(row + 32u, rows, column, count, lines, total.low1, total.high1);
    store(row + 64u, rows, column, count, lines, total.low2, total.high2);
    store(row + 96u, rows, column, count, lines, total.low3, total.high3);
}
