// out[r] = (m = max_i l_i, Σ_i exp((l_i − m) / temperature), count of candidates, count of i whose l_i is not finite),
//          then for each of the C candidates (id, l_id); floats as bits
// l = logits[r, :], of which max and sum take the finite ones   logits: f32 (rows, vocab_size)
// indices: u32 (rows, C), 0xffffffff where there is none, which is what id becomes then; its l is 0
// temperatures: f32 (rows), > 0   out: u32 (rows, 4 + 2 C). One workgroup per row.
// Order of the sum: thread (i mod 256) in ascending i, then a binary tree.

const LANES: u32 = 256u;
const NONE: u32 = 0xffffffffu;
const LOWEST: f32 = -3.4028234e38;

struct Params {
    vocab_size: u32,
    candidates: u32, // C
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<u32>; // bits
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read> temperatures: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

var<workgroup> largest_of: array<f32, LANES>;
var<workgroup> sum_of: array<f32, LANES>;
var<workgroup> not_finite_of: array<u32, LANES>;
var<workgroup> count_of: array<u32, LANES>;

fn is_finite(bits: u32) -> bool {
    return (bits & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * params.vocab_size;
    let to = group.x * (4u + 2u * params.candidates);
    var largest = LOWEST;
    var not_finite = 0u;
    for (var id = lane; id < params.vocab_size; id += LANES) {
        let bits = logits[row + id];
        let finite = is_finite(bits);
        largest = max(largest, bitcast<f32>(select(bitcast<u32>(LOWEST), bits, finite)));
        not_finite += u32(!finite);
    }
    var count = 0u;
    for (var c = lane; c < params.candidates; c += LANES) {
        let id = indices[group.x * params.candidates + c];
        var bits = 0u;
        if (id < params.vocab_size) {
            bits = logits[row + id];
            count += 1u;
        }
        out[to + 4u + 2u * c] = select(NONE, id, id < params.vocab_size);
        out[to + 5u + 2u * c] = bits;
    }
    largest_of[lane] = largest;
    not_finite_of[lane] = not_finite;
    count_of[lane] = count;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            largest_of[lane] = max(largest_of[lane], largest_of[lane + half]);
            not_finite_of[lane] += not_finite_of[lane + half];
            count_of[lane] += count_of[lane + half];
        }
        workgroupBarrier();
    }

    largest = largest_of[0];
    let temperature = temperatures[group.x];
    var sum = 0.0;
    for (var id = lane; id < params.vocab_size; id += LANES) {
        let bits = logits[row + id];
        if (is_finite(bits)) {
            sum += exp((bitcast<f32>(bits) - largest) / temperature);
        }
    }
    sum_of[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            sum_of[lane] += sum_of[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        out[to] = bitcast<u32>(largest);
        out[to + 1u] = bitcast<u32>(sum_of[0]);
        out[to + 2u] = count_of[0];
        out[to + 3u] = not_finite_of[0];
    }
}
