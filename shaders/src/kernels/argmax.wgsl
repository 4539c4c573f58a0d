// out[r] = (id of the largest of logits[r, :], its bits)      ties to the lowest id
// logits: f32 (rows, vocab_size), read as bits   out: u32 (rows, 2). One workgroup per row.
// A NaN counts as larger than everything, so that the reader of the bits sees it.

import package::lib::order::ordered;

const LANES: u32 = 256u;

struct Params {
    vocab_size: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> keys: array<u32, LANES>;
var<workgroup> ids: array<u32, LANES>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * params.vocab_size;
    var best_key = 0u; // below the key of every value
    var best_id = 0u;
    for (var id = lane; id < params.vocab_size; id += LANES) {
        let key = ordered(bitcast<f32>(logits[row + id]));
        if (key > best_key) {
            best_key = key;
            best_id = id;
        }
    }
    keys[lane] = best_key;
    ids[lane] = best_id;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            let key = keys[lane + half];
            let id = ids[lane + half];
            if (key > keys[lane] || (key == keys[lane] && id < ids[lane])) {
                keys[lane] = key;
                ids[lane] = id;
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        out[2u * group.x] = ids[0];
        out[2u * group.x + 1u] = logits[row + ids[0]];
    }
}
