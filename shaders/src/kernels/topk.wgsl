// selected[r] = indices of the k largest of scores[r, 0 .. length], ascending, padded with 0xffffffff
// length = lengths[r] + 1, or params.length when fixed   scores: f32 (rows, stride)   lengths: u32 (rows)   selected: u32 (rows, k)
// Exact: ties go to the lowest index, −0 equals +0, infinities are numbers like others; NaN must not occur.
// One workgroup per row. Scores become u32 keys of the same order; the k-th largest key is found digit by digit (11, 11
// and 10 bits, by histograms), then every lane walks its own stretch of the row and writes what is above or ties.

struct Params {
    stride: u32,
    k: u32,
    length: u32,
    fixed_length: u32, // 1: all rows have params.length scores and lengths is not read
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> selected: array<u32>;

const LANES: u32 = 256u;
const BINS: u32 = 2048u;
const BINS_PER_LANE: u32 = BINS / LANES;
const NOTHING: u32 = 0xffffffffu;

var<workgroup> histogram: array<atomic<u32>, BINS>;
var<workgroup> running: array<vec2<u32>, LANES>;
// The digit of the k-th largest key, and how many of the keys with this digit are among the k.
var<workgroup> digit: u32;
var<workgroup> wanted_in_digit: u32;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x;
    let first = row * params.stride;
    let out = row * params.k;
    var length = params.length;
    if (params.fixed_length == 0u) {
        length = lengths[row] + 1u;
    }
    if (length <= params.k) {
        for (var i = lane; i < params.k; i += LANES) {
            selected[out + i] = select(NOTHING, i, i < length);
        }
        return;
    }

    var threshold = 0u; // the digits of the k-th largest key found so far
    var found = 0u; // their bits
    var wanted = params.k; // how many keys that start with these digits are among the k
    for (var turn = 0u; turn < 3u; turn++) {
        let shift = select(select(0u, 10u, turn == 1u), 21u, turn == 0u);
        let digit_mask = select(BINS - 1u, BINS / 2u - 1u, turn == 2u);
        for (var bin = lane; bin < BINS; bin += LANES) {
            atomicStore(&histogram[bin], 0u);
        }
        workgroupBarrier();
        for (var i = lane; i < length; i += LANES) {
            let key = ordered(scores[first + i]);
            if ((key & found) == threshold) {
                atomicAdd(&histogram[(key >> shift) & digit_mask], 1u);
            }
        }
        workgroupBarrier();
        // Lane 0 has the highest bins.
        let top_bin = BINS - 1u - lane * BINS_PER_LANE;
        var mine = 0u;
        for (var j = 0u; j < BINS_PER_LANE; j++) {
            mine += atomicLoad(&histogram[top_bin - j]);
        }
        var above = sum_before(lane, vec2(mine, 0u)).x;
        if (above < wanted && wanted <= above + mine) {
            for (var j = 0u; j < BINS_PER_LANE; j++) {
                let here = atomicLoad(&histogram[top_bin - j]);
                if (above < wanted && wanted <= above + here) {
                    digit = top_bin - j;
                    wanted_in_digit = wanted - above;
                }
                above += here;
            }
        }
        workgroupBarrier();
        threshold |= digit << shift;
        found |= digit_mask << shift;
        wanted = wanted_in_digit;
    }

    // Of the keys equal to the threshold the first `wanted` are selected.
    let stretch = (length + LANES - 1u) / LANES;
    let start = min(lane * stretch, length);
    let end = min(start + stretch, length);
    var counts = vec2(0u);
    for (var i = start; i < end; i++) {
        let key = ordered(scores[first + i]);
        counts += select(vec2(0u), vec2(1u), vec2(key > threshold, key == threshold));
    }
    let before = sum_before(lane, counts);
    var ties = before.y;
    var at = out + before.x + min(ties, wanted);
    for (var i = start; i < end; i++) {
        let key = ordered(scores[first + i]);
        if (key > threshold || (key == threshold && ties < wanted)) {
            selected[at] = i;
            at++;
        }
        ties += select(0u, 1u, key == threshold);
    }
}

// A number whose order as u32 is that of the score; the sign of zero is dropped by its bits, since a comparison may
// take subnormals for zero.
fn ordered(score: f32) -> u32 {
    let raw = bitcast<u32>(score);
    let bits = select(raw, 0u, raw == 0x80000000u);
    return bits ^ select(0x80000000u, 0xffffffffu, (bits >> 31u) == 1u);
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
