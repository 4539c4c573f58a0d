// selected[r] = indices of the k largest of scores[r, 0 .. lengths[r] + 1], ascending, padded with 0xffffffff, as topk.wgsl has
// it, where the largest score of every 16 is known (index_scores_lanes.wgsl): the k-th largest of those is no more than the k-th
// largest score, so all that is selected lies in the tiles that reach it, k of them and those that tie.
// scores: f32 (rows, stride), then from maxima_offset on (rows, maxima_stride), the largest of scores 16 i to 16 i + 15
// lengths: u32 (rows)   selected: u32 (rows, k)
// Exact: ties go to the lowest index, −0 equals +0, infinities are numbers like others; NaN must not occur.
// One workgroup per row. First the tiles that reach the bound are listed, then the scores that do; where a list has no room for
// them, all tiles or scores are gone through instead. Of what is listed the k-th largest key is found digit by digit (8 bits
// each, by histograms), then every lane walks its own stretch of the list and writes what is above or ties.

struct Params {
    stride: u32,
    k: u32,
    maxima_offset: u32, // this one and the next are multiples of 4, and stride, where there is more than one row
    maxima_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> scores: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> selected: array<u32>;

const LANES: u32 = 256u;
const BINS: u32 = 256u;
const TILE: u32 = 16u;
const NOTHING: u32 = 0xffffffffu;
// Tiles and scores that can be listed.
const MOST_TILES: u32 = 2304u;
const MOST_SCORES: u32 = 4096u;

// What is gone through: the tiles' maxima, all scores, those of the listed tiles, those listed themselves.
const MAXIMA: u32 = 0u;
const ALL: u32 = 1u;
const OF_TILES: u32 = 2u;
const LISTED: u32 = 3u;

var<workgroup> histogram: array<atomic<u32>, BINS>;
var<workgroup> running: array<vec2<u32>, LANES>;
// The digit of the k-th largest key, and how many of the keys with this digit are among the k.
var<workgroup> digit: u32;
var<workgroup> wanted_in_digit: u32;
// Number of a tile in the low 16 bits; which of its scores reach the bound in the high ones.
var<workgroup> tiles: array<u32, MOST_TILES>;
var<workgroup> listed: array<u32, MOST_SCORES>;

struct Row {
    scores: u32, // where they begin
    maxima: u32,
    length: u32,
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let out = group.x * params.k;
    var row: Row;
    row.scores = group.x * params.stride;
    row.maxima = params.maxima_offset + group.x * params.maxima_stride;
    row.length = lengths[group.x] + 1u;
    if (row.length <= params.k) {
        for (var i = lane; i < params.k; i += LANES) {
            selected[out + i] = select(NOTHING, i, i < row.length);
        }
        return;
    }

    var kind = ALL;
    var count = row.length;
    let all_tiles = (row.length + TILE - 1u) / TILE;
    if (all_tiles > params.k) {
        let bound = kth_largest(lane, row, MAXIMA, all_tiles).x;
        let tile_count = list_tiles(lane, row, all_tiles, bound);
        if (tile_count <= MOST_TILES) {
            kind = OF_TILES;
            count = tile_count * TILE;
            let score_count = list_scores(lane, row, tile_count, bound);
            if (score_count <= MOST_SCORES) {
                kind = LISTED;
                count = score_count;
            }
        }
    }
    let found = kth_largest(lane, row, kind, count);
    let threshold = found.x;
    let wanted = found.y;

    // Of the keys equal to the threshold the first `wanted` are selected.
    let stretch = (count + LANES - 1u) / LANES;
    let start = min(lane * stretch, count);
    let end = min(start + stretch, count);
    var counts = vec2(0u);
    for (var i = start; i < end; i++) {
        let key = key_of(row, kind, i);
        counts += select(vec2(0u), vec2(1u), vec2(key > threshold, key == threshold));
    }
    let before = sum_before(lane, counts);
    var ties = before.y;
    var at = out + before.x + min(ties, wanted);
    for (var i = start; i < end; i++) {
        let key = key_of(row, kind, i);
        if (key > threshold || (key == threshold && ties < wanted)) {
            selected[at] = index_of(kind, i);
            at++;
        }
        ties += select(0u, 1u, key == threshold);
    }
}

// Where element i of what is gone through stands in the row.
fn index_of(kind: u32, i: u32) -> u32 {
    if (kind == LISTED) {
        return listed[i];
    }
    if (kind == OF_TILES) {
        return (tiles[i / TILE] & 0xffffu) * TILE + i % TILE;
    }
    return i;
}

// Its key; 0, which is no score's, beyond the row's end.
fn key_of(row: Row, kind: u32, i: u32) -> u32 {
    if (kind == MAXIMA) {
        let at = row.maxima + i;
        return ordered(vec4(scores[at / 4u][at % 4u])).x;
    }
    let index = index_of(kind, i);
    let at = row.scores + index;
    return select(0u, ordered(vec4(scores[at / 4u][at % 4u])).x, index < row.length);
}

// The k-th largest key of `count`, and how many of those equal to it are among the k.
fn kth_largest(lane: u32, row: Row, kind: u32, count: u32) -> vec2<u32> {
    var threshold = 0u; // the digits found so far
    var found = 0u; // their bits
    var wanted = params.k; // how many keys that start with these digits are among the k
    for (var shift = 24u; shift < 32u; shift -= 8u) {
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        for (var i = lane; i < count; i += LANES) {
            let key = key_of(row, kind, i);
            if ((key & found) == threshold) {
                atomicAdd(&histogram[(key >> shift) & 0xffu], 1u);
            }
        }
        workgroupBarrier();
        // Lane 0 has the highest bin.
        let bin = BINS - 1u - lane;
        let mine = atomicLoad(&histogram[bin]);
        let above = sum_before(lane, vec2(mine, 0u)).x;
        if (above < wanted && wanted <= above + mine) {
            digit = bin;
            wanted_in_digit = wanted - above;
        }
        workgroupBarrier();
        threshold |= digit << shift;
        found |= 0xffu << shift;
        wanted = wanted_in_digit;
        workgroupBarrier();
    }
    return vec2(threshold, wanted);
}

// Lists the tiles that reach the bound, in their order, if there is room; how many they are.
fn list_tiles(lane: u32, row: Row, all_tiles: u32, bound: u32) -> u32 {
    // Four at a time.
    let fours = (all_tiles + 3u) / 4u;
    let stretch = (fours + LANES - 1u) / LANES;
    let start = min(lane * stretch, fours);
    let end = min(start + stretch, fours);
    var count = 0u;
    for (var four = start; four < end; four++) {
        let reach = reaching(scores[row.maxima / 4u + four], 4u * four, all_tiles, bound);
        count += countOneBits(reach);
    }
    let before = sum_before(lane, vec2(count, 0u)).x;
    let all = total();
    if (all <= MOST_TILES) {
        var at = before;
        for (var four = start; four < end; four++) {
            var reach = reaching(scores[row.maxima / 4u + four], 4u * four, all_tiles, bound);
            while (reach != 0u) {
                tiles[at] = 4u * four + firstTrailingBit(reach);
                at++;
                reach &= reach - 1u;
            }
        }
    }
    workgroupBarrier();
    return all;
}

// Lists the scores of the listed tiles that reach the bound, in their order, if there is room; how many they are.
fn list_scores(lane: u32, row: Row, tile_count: u32, bound: u32) -> u32 {
    let stretch = (tile_count + LANES - 1u) / LANES;
    let start = min(lane * stretch, tile_count);
    let end = min(start + stretch, tile_count);
    var count = 0u;
    for (var i = start; i < end; i++) {
        let tile = tiles[i];
        let at = (row.scores + tile * TILE) / 4u;
        let first = tile * TILE;
        let reach = reaching(scores[at], first, row.length, bound)
            | (reaching(scores[at + 1u], first + 4u, row.length, bound) << 4u)
            | (reaching(scores[at + 2u], first + 8u, row.length, bound) << 8u)
            | (reaching(scores[at + 3u], first + 12u, row.length, bound) << 12u);
        tiles[i] = tile | (reach << 16u);
        count += countOneBits(reach);
    }
    let before = sum_before(lane, vec2(count, 0u)).x;
    let all = total();
    if (all <= MOST_SCORES) {
        var at = before;
        for (var i = start; i < end; i++) {
            let tile = tiles[i];
            var reach = tile >> 16u;
            while (reach != 0u) {
                listed[at] = (tile & 0xffffu) * TILE + firstTrailingBit(reach);
                at++;
                reach &= reach - 1u;
            }
        }
    }
    workgroupBarrier();
    return all;
}

// A bit for each of four values, of which the first has number `first`, that reaches the bound and is before the end.
fn reaching(values: vec4<f32>, first: u32, end: u32, bound: u32) -> u32 {
    let keys = ordered(values);
    let bits = select(vec4(0u), vec4(1u, 2u, 4u, 8u), keys >= vec4(bound));
    let all = (bits.x | bits.y) | (bits.z | bits.w);
    return all & ((1u << min(4u, end - min(first, end))) - 1u);
}

// Numbers whose order as u32 is that of the scores; the sign of zero is dropped by its bits, since a comparison may take
// subnormals for zero.
fn ordered(values: vec4<f32>) -> vec4<u32> {
    let raw = bitcast<vec4<u32>>(values);
    let bits = select(raw, vec4(0u), raw == vec4(0x80000000u));
    return bits ^ select(vec4(0x80000000u), vec4(0xffffffffu), (bits >> vec4(31u)) == vec4(1u));
}

// Sum of `value` over the lanes before this one.
fn sum_before(lane: u32, value: vec2<u32>) -> vec2<u32> {
    running[lane] = value;
    workgroupBarrier();
    for (var distance = 1u; distance < LANES; distance <<= 1u) {
        var sum = running[lane];
        if (lane >= distance) {
            sum += running[lane - distance];
        }
        workgroupBarrier();
        running[lane] = sum;
        workgroupBarrier();
    }
    return running[lane] - value;
}

// Sum over all lanes of what sum_before has summed last, the same for all.
fn total() -> u32 {
    return workgroupUniformLoad(&running[LANES - 1u]).x;
}
