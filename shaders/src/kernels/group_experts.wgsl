// Sorts the pairs (token, k) by expert, stably, and cuts every expert's run into tiles for a mat-mul over its tokens.
// expert_ids: u32 (pairs), pair p = t · K + k   pair_order: u32 (pairs), the p by expert, then by p
// tiles: (expert, first index into pair_order, count ≤ tile, 0), by expert; those from tile_count on are not written
// arguments: (x_groups, tile_count, 1, tile_count) for each of two indirect dispatches
// pairs ≤ 16384, experts ≤ 512, tiles holds at least pairs / tile + min(experts, pairs). One workgroup.
//
// Every segment of consecutive pairs is counted and placed by one thread in order, so no order comes from atomics.

const LANES: u32 = 256u;
const COUNTERS: u32 = 4096u; // words of two 16-bit counters

struct Params {
    pairs: u32,
    experts: u32,
    tile: u32,
    x_groups_0: u32,
    x_groups_1: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> expert_ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> pair_order: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> arguments: array<vec4<u32>>;

// (segments, words): word w of a segment counts experts 2w (low half) and 2w + 1 (high half); later it holds where
// their next pairs go.
var<workgroup> counters: array<u32, COUNTERS>;
// Pairs (low half) and tiles (high half) of the experts up to and including those of a lane.
var<workgroup> running: array<u32, LANES>;

fn tiles_of(count: u32) -> u32 {
    return (count + params.tile - 1u) / params.tile;
}

fn write_tiles(expert: u32, first_pair: u32, count: u32, first_tile: u32) {
    for (var i = 0u; i * params.tile < count; i++) {
        let done = i * params.tile;
        tiles[first_tile + i] = vec4<u32>(expert, first_pair + done, min(params.tile, count - done), 0u);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let words = (params.experts + 1u) / 2u; // of a segment
    let segments = min(LANES, COUNTERS / words);
    let length = (params.pairs + segments - 1u) / segments;
    let begin = min(lane * length, params.pairs);
    var end = begin;
    if (lane < segments) {
        end = min(begin + length, params.pairs);
    }
    let my_counters = lane * words;

    for (var i = lane; i < segments * words; i += LANES) {
        counters[i] = 0u;
    }
    workgroupBarrier();
    for (var p = begin; p < end; p++) {
        let expert = expert_ids[p];
        counters[my_counters + (expert >> 1u)] += 1u << (16u * (expert & 1u));
    }
    workgroupBarrier();

    // From here to the placing, a lane owns the experts 2 · lane and 2 · lane + 1.
    var counts = 0u;
    if (lane < words) {
        for (var segment = 0u; segment < segments; segment++) {
            counts += counters[segment * words + lane];
        }
    }
    let low = counts & 0xffffu;
    let high = counts >> 16u;
    let mine = (low + high) | ((tiles_of(low) + tiles_of(high)) << 16u);
    running[lane] = mine;
    workgroupBarrier();
    for (var step = 1u; step < LANES; step <<= 1u) {
        var before = 0u;
        if (lane >= step) {
            before = running[lane - step];
        }
        workgroupBarrier();
        running[lane] += before;
        workgroupBarrier();
    }
    let before = running[lane] - mine;
    let first_low = before & 0xffffu;
    let first_high = first_low + low;
    if (lane < words) {
        var next = first_low | (first_high << 16u);
        for (var segment = 0u; segment < segments; segment++) {
            let here = counters[segment * words + lane];
            counters[segment * words + lane] = next;
            next += here;
        }
        write_tiles(2u * lane, first_low, low, before >> 16u);
        write_tiles(2u * lane + 1u, first_high, high, (before >> 16u) + tiles_of(low));
    }
    if (lane == 0u) {
        let tile_count = running[LANES - 1u] >> 16u;
        arguments[0] = vec4<u32>(params.x_groups_0, tile_count, 1u, tile_count);
        arguments[1] = vec4<u32>(params.x_groups_1, tile_count, 1u, tile_count);
    }
    workgroupBarrier();

    for (var p = begin; p < end; p++) {
        let expert = expert_ids[p];
        let at = my_counters + (expert >> 1u);
        let shift = 16u * (expert & 1u);
        pair_order[(counters[at] >> shift) & 0xffffu] = p;
        counters[at] += 1u << shift;
    }
}
