// y[p, c + r] (= or +=) Σ_k W[r, k] · x[t, k]     the mat-vec for many tokens: each weight is decoded once for eight of them
// Shapes, types, SWIGLU and the order of the sums are the mat-vec's, so that a token's bits do not depend on its company.
// Dense: workgroup (i, j) computes rows of segment(i) for tokens 8 j … 8 j + 7; the second segment begins at workgroup
//   segment1.x, and so on.
// EXPERTS: workgroup (i, j) computes for tile j = (expert, first, count): the pairs p = pair_order[first …], t = p / picks
//   (with SWIGLU t = p); W's offsets are within the expert's slot.
// Order of a sum: k ascending inside a part of 16 columns, the eight parts of a block ascending, then the blocks.
// A thread has eight tokens and on GPUs two rows, 64 apart; on adapters that are CPUs (`broadcast`) eight rows, 16 apart, since
// what costs there are loads: eight lanes hand round the x that each has loaded one column of, for 64 products.

import package::lib::weights::{e4m3x4, e4m3x4_units, E4M3_UNIT, bf16x2, element, element_bytes, F8E4M3, BF16};

override SWIGLU: u32 = 0u;
override EXPERTS: u32 = 0u;

@if(broadcast)
const THREADS: u32 = 16u;
@if(!broadcast)
const THREADS: u32 = 64u;
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

// Sums of a thread's rows for tokens 0–3 (low) and 4–7 (high).
struct Tile {
    low0: vec4<f32>,
    low1: vec4<f32>,
    high0: vec4<f32>,
    high1: vec4<f32>,
    @if(broadcast) low2: vec4<f32>,
    @if(broadcast) low3: vec4<f32>,
    @if(broadcast) high2: vec4<f32>,
    @if(broadcast) high3: vec4<f32>,
}

@if(!broadcast)
var<workgroup> staged: array<vec4<f32>, 256>; // x of a block: 2 k + (0: tokens 0–3, 1: tokens 4–7)
var<workgroup> lines: array<u32, TOKENS>; // rows of y
var<workgroup> x_rows: array<u32, TOKENS>; // first elements of the rows of x

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

// One k: the weights of the rows times x of the eight tokens.
fn add(tile: ptr<function, Tile>, w: vec4<f32>, low: vec4<f32>, high: vec4<f32>) {
    (*tile).low0 = fma(vec4(w.x), low, (*tile).low0);
    (*tile).low1 = fma(vec4(w.y), low, (*tile).low1);
    (*tile).high0 = fma(vec4(w.x), high, (*tile).high0);
    (*tile).high1 = fma(vec4(w.y), high, (*tile).high1);
    @if(broadcast) {
        (*tile).low2 = fma(vec4(w.z), low, (*tile).low2);
        (*tile).low3 = fma(vec4(w.w), low, (*tile).low3);
        (*tile).high2 = fma(vec4(w.z), high, (*tile).high2);
        (*tile).high3 = fma(vec4(w.w), high, (*tile).high3);
    }
}

// sums + part.
fn add_part(sums: ptr<function, Tile>, part: Tile) {
    (*sums).low0 += part.low0;
    (*sums).low1 += part.low1;
    (*sums).high0 += part.high0;
    (*sums).high1 += part.high1;
    @if(broadcast) {
        (*sums).low2 += part.low2;
        (*sums).low3 += part.low3;
        (*sums).high2 += part.high2;
        (*sums).high3 += part.high3;
    }
}

// Four k: w0 and w1 are four consecutive weights of each row.
@if(!broadcast)
fn add_staged(tile: ptr<function, Tile>, w0: vec4<f32>, w1: vec4<f32>, k: u32) {
    add(tile, vec4(w0.x, w1.x, 0.0, 0.0), staged[2u * k], staged[2u * k + 1u]);
    add(tile, vec4(w0.y, w1.y, 0.0, 0.0), staged[2u * k + 2u], staged[2u * k + 3u]);
    add(tile, vec4(w0.z, w1.z, 0.0, 0.0), staged[2u * k + 4u], staged[2u * k + 5u]);
    add(tile, vec4(w0.w, w1.w, 0.0, 0.0), staged[2u * k + 6u], staged[2u * k + 7u]);
}

// Sums of four rows for four tokens: as many as there are registers for. All eight tokens' at once would be in memory.
@if(broadcast)
struct Half {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
}

// One k: the weights of four rows times x of four tokens.
@if(broadcast)
fn add_half(half: ptr<function, Half>, w: vec4<f32>, x: vec4<f32>) {
    (*half).r0 = fma(vec4(w.x), x, (*half).r0);
    (*half).r1 = fma(vec4(w.y), x, (*half).r1);
    (*half).r2 = fma(vec4(w.z), x, (*half).r2);
    (*half).r3 = fma(vec4(w.w), x, (*half).r3);
}

// Eight consecutive weights of each of four rows.
@if(broadcast)
struct Eight {
    a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
    b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>,
}

// Eight k of four tokens: `x` of lane j is theirs at the j-th of them.
@if(broadcast)
fn add_eight(half: ptr<function, Half>, w: Eight, x: vec4<f32>) {
    add_half(half, vec4(w.a0.x, w.a1.x, w.a2.x, w.a3.x), subgroupBroadcast(x, 0u));
    add_half(half, vec4(w.a0.y, w.a1.y, w.a2.y, w.a3.y), subgroupBroadcast(x, 1u));
    add_half(half, vec4(w.a0.z, w.a1.z, w.a2.z, w.a3.z), subgroupBroadcast(x, 2u));
    add_half(half, vec4(w.a0.w, w.a1.w, w.a2.w, w.a3.w), subgroupBroadcast(x, 3u));
    add_half(half, vec4(w.b0.x, w.b1.x, w.b2.x, w.b3.x), subgroupBroadcast(x, 4u));
    add_half(half, vec4(w.b0.y, w.b1.y, w.b2.y, w.b3.y), subgroupBroadcast(x, 5u));
    add_half(half, vec4(w.b0.z, w.b1.z, w.b2.z, w.b3.z), subgroupBroadcast(x, 6u));
    add_half(half, vec4(w.b0.w, w.b1.w, w.b2.w, w.b3.w), subgroupBroadcast(x, 7u));
}

// x of eight tokens at 16 columns: lane j has those j and 8 + j.
@if(broadcast)
struct Inputs {
    low: vec4<f32>,
    high: vec4<f32>,
    next_low: vec4<f32>,
    next_high: vec4<f32>,
}

// sums + a part of 16 columns, of which the second eight are there where `both`: four tokens, then the other four.
@if(broadcast)
fn add_sixteen(sums: Tile, w: Eight, v: Eight, x: Inputs, both: bool) -> Tile {
    var low: Half;
    add_eight(&low, w, x.low);
    if (both) {
        add_eight(&low, v, x.next_low);
    }
    var found = sums;
    found.low0 += low.r0;
    found.low1 += low.r1;
    found.low2 += low.r2;
    found.low3 += low.r3;
    var high: Half;
    add_eight(&high, w, x.high);
    if (both) {
        add_eight(&high, v, x.next_high);
    }
    found.high0 += high.r0;
    found.high1 += high.r1;
    found.high2 += high.r2;
    found.high3 += high.r3;
    return found;
}

// What a thread multiplies: first bytes of its rows, first elements of its eight rows of x.
struct Operands {
    rows: vec4<u32>,
    @if(broadcast) more_rows: vec4<u32>,
    @if(broadcast) x_low: vec4<u32>,
    @if(broadcast) x_high: vec4<u32>,
}

@if(broadcast)
fn x_four(rows: vec4<u32>, k: u32) -> vec4<f32> {
    return vec4(x_at(rows.x + k), x_at(rows.y + k), x_at(rows.z + k), x_at(rows.w + k));
}

@if(broadcast)
fn inputs(operands: Operands, k: u32, both: bool) -> Inputs {
    let next = select(k, k + 8u, both);
    return Inputs(
        x_four(operands.x_low, k), x_four(operands.x_high, k), x_four(operands.x_low, next), x_four(operands.x_high, next),
    );
}

// sums + 16 columns of four rows, whose weights begin at vec4 `at` of each, by one part.
@if(broadcast)
fn add_f8(sums: Tile, at: vec4<u32>, x: Inputs) -> Tile {
    let p0 = weights[at.x];
    let p1 = weights[at.y];
    let p2 = weights[at.z];
    let p3 = weights[at.w];
    let w = Eight(
        e4m3x4(p0.x), e4m3x4(p1.x), e4m3x4(p2.x), e4m3x4(p3.x),
        e4m3x4(p0.y), e4m3x4(p1.y), e4m3x4(p2.y), e4m3x4(p3.y),
    );
    let v = Eight(
        e4m3x4(p0.z), e4m3x4(p1.z), e4m3x4(p2.z), e4m3x4(p3.z),
        e4m3x4(p0.w), e4m3x4(p1.w), e4m3x4(p2.w), e4m3x4(p3.w),
    );
    return add_sixteen(sums, w, v, x, true);
}

// 16 columns whose weights begin at vec4 `at` of each row; x of them is staged from `k` on.
@if(!broadcast)
fn f8_part(at: vec4<u32>, k: u32) -> Tile {
    var part: Tile;
    let p0 = weights[at.x];
    let p1 = weights[at.y];
    add_staged(&part, e4m3x4_units(p0.x), e4m3x4_units(p1.x), k);
    add_staged(&part, e4m3x4_units(p0.y), e4m3x4_units(p1.y), k + 4u);
    add_staged(&part, e4m3x4_units(p0.z), e4m3x4_units(p1.z), k + 8u);
    add_staged(&part, e4m3x4_units(p0.w), e4m3x4_units(p1.w), k + 12u);
    return part;
}

// Eight BF16 weights of four rows.
@if(broadcast)
fn bf16_eight(at: vec4<u32>) -> Eight {
    let p0 = weights[at.x];
    let p1 = weights[at.y];
    let p2 = weights[at.z];
    let p3 = weights[at.w];
    return Eight(
        vec4(bf16x2(p0.x), bf16x2(p0.y)), vec4(bf16x2(p1.x), bf16x2(p1.y)),
        vec4(bf16x2(p2.x), bf16x2(p2.y)), vec4(bf16x2(p3.x), bf16x2(p3.y)),
        vec4(bf16x2(p0.z), bf16x2(p0.w)), vec4(bf16x2(p1.z), bf16x2(p1.w)),
        vec4(bf16x2(p2.z), bf16x2(p2.w)), vec4(bf16x2(p3.z), bf16x2(p3.w)),
    );
}

// sums + 16 columns of BF16, or eight where not `both`, by one part.
@if(broadcast)
fn add_bf16(sums: Tile, at: vec4<u32>, x: Inputs, both: bool) -> Tile {
    return add_sixteen(sums, bf16_eight(at), bf16_eight(select(at, at + vec4(1u), both)), x, both);
}

// part + 8 columns.
@if(!broadcast)
fn bf16_staged(part: ptr<function, Tile>, at: vec4<u32>, k: u32) {
    let p0 = weights[at.x];
    let p1 = weights[at.y];
    add_staged(part, vec4(bf16x2(p0.x), bf16x2(p0.y)), vec4(bf16x2(p1.x), bf16x2(p1.y)), k);
    add_staged(part, vec4(bf16x2(p0.z), bf16x2(p0.w)), vec4(bf16x2(p1.z), bf16x2(p1.w)), k + 4u);
}

fn any_weight(kind: u32, byte: u32) -> f32 {
    return element(kind, word(byte / 4u), byte % 4u);
}

// The sums of a block: `count` columns from `first` on.
@if(!broadcast)
fn add_block(sums: ptr<function, Tile>, kind: u32, operands: Operands, first: u32, count: u32) {
    if (kind == F8E4M3 && params.cols % 16u == 0u) {
        let at = (operands.rows + vec4(first)) / vec4(16u);
        for (var step = 0u; step < count / 16u; step++) {
            add_part(sums, f8_part(at + vec4(step), step * 16u));
        }
    } else if (kind == BF16 && params.cols % 8u == 0u) {
        let at = (operands.rows + vec4(first * 2u)) / vec4(16u);
        for (var step = 0u; step < count / 8u; step += 2u) {
            var part: Tile;
            bf16_staged(&part, at + vec4(step), step * 8u);
            if (step + 1u < count / 8u) {
                bf16_staged(&part, at + vec4(step + 1u), step * 8u + 8u);
            }
            add_part(sums, part);
        }
    } else {
        // Rows that are not aligned, and types that are rare.
        for (var start = 0u; start < count; start += 16u) {
            var part: Tile;
            for (var k = start; k < min(start + 16u, count); k++) {
                let byte = operands.rows + vec4((first + k) * element_bytes(kind));
                var w = vec4(any_weight(kind, byte.x), any_weight(kind, byte.y), 0.0, 0.0);
                if (kind == F8E4M3) {
                    w *= 1.0 / E4M3_UNIT;
                }
                add(&part, w, staged[2u * k], staged[2u * k + 1u]);
            }
            add_part(sums, part);
        }
    }
}

// The sums of a block's rows, four and four.
@if(broadcast)
struct Sums {
    a: Tile,
    b: Tile,
}

@if(broadcast)
fn block(kind: u32, operands: Operands, first: u32, count: u32, eight: u32) -> Sums {
    var sums: Sums;
    let k = first + eight;
    if (kind == F8E4M3 && params.cols % 16u == 0u) {
        let at = (operands.rows + vec4(first)) / vec4(16u);
        let more = (operands.more_rows + vec4(first)) / vec4(16u);
        for (var step = 0u; step < count / 16u; step++) {
            let x = inputs(operands, k + step * 16u, true);
            sums.a = add_f8(sums.a, at + vec4(step), x);
            sums.b = add_f8(sums.b, more + vec4(step), x);
        }
    } else if (kind == BF16 && params.cols % 8u == 0u) {
        let at = (operands.rows + vec4(first * 2u)) / vec4(16u);
        let more = (operands.more_rows + vec4(first * 2u)) / vec4(16u);
        for (var step = 0u; step < count / 8u; step += 2u) {
            let both = step + 1u < count / 8u;
            let x = inputs(operands, k + step * 8u, both);
            sums.a = add_bf16(sums.a, at + vec4(step), x, both);
            sums.b = add_bf16(sums.b, more + vec4(step), x, both);
        }
    } else {
        // Rows that are not aligned, and types that are rare.
        for (var start = 0u; start < count; start += 16u) {
            var part: Tile;
            var more: Tile;
            for (var k = start; k < min(start + 16u, count); k++) {
                let low = x_four(operands.x_low, first + k);
                let high = x_four(operands.x_high, first + k);
                add(&part, any_weights(kind, operands.rows + vec4((first + k) * element_bytes(kind))), low, high);
                add(&more, any_weights(kind, operands.more_rows + vec4((first + k) * element_bytes(kind))), low, high);
            }
            var a = sums.a;
            var b = sums.b;
            add_part(&a, part);
            add_part(&b, more);
            sums = Sums(a, b);
        }
    }
    return sums;
}

@if(broadcast)
fn any_weights(kind: u32, byte: vec4<u32>) -> vec4<f32> {
    return vec4(any_weight(kind, byte.x), any_weight(kind, byte.y), any_weight(kind, byte.z), any_weight(kind, byte.w));
}

// total + sums · the scale of each row.
@if(broadcast)
fn add_scaled(total: Tile, sums: Tile, scale: vec4<f32>) -> Tile {
    return Tile(
        fma(sums.low0, vec4(scale.x), total.low0), fma(sums.low1, vec4(scale.y), total.low1),
        fma(sums.high0, vec4(scale.x), total.high0), fma(sums.high1, vec4(scale.y), total.high1),
        fma(sums.low2, vec4(scale.z), total.low2), fma(sums.low3, vec4(scale.w), total.low3),
        fma(sums.high2, vec4(scale.z), total.high2), fma(sums.high3, vec4(scale.w), total.high3),
    );
}

@if(broadcast)
fn scales_of(rows: vec4<u32>, b: u32) -> vec4<f32> {
    return vec4(scales[rows.x + b], scales[rows.y + b], scales[rows.z + b], scales[rows.w + b]);
}

fn put(at: u32, value: f32) {
    if (params.accumulate == 1u) {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

// Values of a row for `count` tokens.
fn store(row: u32, rows: u32, column: u32, count: u32, low: vec4<f32>, high: vec4<f32>) {
    if (row >= rows) {
        return;
    }
    let at = column + row;
    put(lines[0] * params.y_stride + at, low.x);
    if (count > 1u) { put(lines[1] * params.y_stride + at, low.y); }
    if (count > 2u) { put(lines[2] * params.y_stride + at, low.z); }
    if (count > 3u) { put(lines[3] * params.y_stride + at, low.w); }
    if (count > 4u) { put(lines[4] * params.y_stride + at, high.x); }
    if (count > 5u) { put(lines[5] * params.y_stride + at, high.y); }
    if (count > 6u) { put(lines[6] * params.y_stride + at, high.z); }
    if (count > 7u) { put(lines[7] * params.y_stride + at, high.w); }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @if(broadcast) @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
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
    if (thread < TOKENS) {
        var line = first_line + min(thread, count - 1u);
        var x_row = line;
        if (EXPERTS == 1u) {
            line = pair_order[line];
            x_row = line;
            if (SWIGLU == 0u) {
                x_row = line / params.picks;
            }
        }
        lines[thread] = line;
        x_rows[thread] = x_row * params.x_stride + params.x_offset;
    }
    workgroupBarrier();
    let kind = segment.w;
    let row = (group.x - segment.x) * ROWS + thread;
    let used = min(vec4(row) + vec4(0u, 1u, 2u, 3u) * vec4(THREADS), vec4(rows - 1u));
    var operands: Operands;
    operands.rows = vec4(base) + used * vec4(params.cols * element_bytes(kind));
    let blocks = (params.cols + 127u) / 128u;
    let scale_rows = vec4(scale_base) + used / vec4(128u) * vec4(blocks);
    @if(broadcast) {
        let more_used = min(vec4(row) + vec4(4u, 5u, 6u, 7u) * vec4(THREADS), vec4(rows - 1u));
        let more_scale_rows = vec4(scale_base) + more_used / vec4(128u) * vec4(blocks);
        operands.more_rows = vec4(base) + more_used * vec4(params.cols * element_bytes(kind));
        operands.x_low = vec4(x_rows[0], x_rows[1], x_rows[2], x_rows[3]);
        operands.x_high = vec4(x_rows[4], x_rows[5], x_rows[6], x_rows[7]);
        var a: Tile;
        var c: Tile;
        for (var b = 0u; b < blocks; b++) {
            let sums = block(kind, operands, b * 128u, min(128u, params.cols - b * 128u), subgroup_lane % 8u);
            var scale = vec4(1.0);
            var more_scale = vec4(1.0);
            if (kind == F8E4M3) {
                scale = scales_of(scale_rows, b);
                more_scale = scales_of(more_scale_rows, b);
            }
            a = add_scaled(a, sums.a, scale);
            c = add_scaled(c, sums.b, more_scale);
        }
        store(row, rows, column, count, a.low0, a.high0);
        store(row + THREADS, rows, column, count, a.low1, a.high1);
        store(row + 2u * THREADS, rows, column, count, a.low2, a.high2);
        store(row + 3u * THREADS, rows, column, count, a.low3, a.high3);
        store(row + 4u * THREADS, rows, column, count, c.low0, c.high0);
        store(row + 5u * THREADS, rows, column, count, c.low1, c.high1);
        store(row + 6u * THREADS, rows, column, count, c.low2, c.high2);
        store(row + 7u * THREADS, rows, column, count, c.low3, c.high3);
    }
    @if(!broadcast) {
        var total: Tile;
        for (var b = 0u; b < blocks; b++) {
            let first = b * 128u;
            let columns = min(128u, params.cols - first);
            workgroupBarrier();
            // A thread takes two columns of every token: neighbours read neighbours.
            for (var t = 0u; t < TOKENS; t++) {
                for (var k = thread; k < columns; k += THREADS) {
                    staged[2u * k + t / 4u][t % 4u] = x_at(x_rows[t] + first + k);
                }
            }
            workgroupBarrier();
            var sums: Tile;
            add_block(&sums, kind, operands, first, columns);
            var scale = vec4(1.0);
            if (kind == F8E4M3) {
                scale.x = scales[scale_rows.x + b];
                scale.y = scales[scale_rows.y + b];
                scale *= E4M3_UNIT;
            }
            total.low0 = fma(sums.low0, vec4(scale.x), total.low0);
            total.low1 = fma(sums.low1, vec4(scale.y), total.low1);
            total.high0 = fma(sums.high0, vec4(scale.x), total.high0);
            total.high1 = fma(sums.high1, vec4(scale.y), total.high1);
        }
        store(row, rows, column, count, total.low0, total.high0);
        store(row + THREADS, rows, column, count, total.low1, total.high1);
    }
}
