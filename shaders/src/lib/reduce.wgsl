// Sums and maxima over a workgroup of 128, in a fixed order: partials in lane order, then a binary tree.

const REDUCE_LANES: u32 = 128u;
var<workgroup> reduce_partial: array<f32, REDUCE_LANES>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    reduce_partial[lane] = value;
    workgroupBarrier();
    for (var half = REDUCE_LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            reduce_partial[lane] += reduce_partial[lane + half];
        }
        workgroupBarrier();
    }
    let total = reduce_partial[0];
    workgroupBarrier();
    return total;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    reduce_partial[lane] = value;
    workgroupBarrier();
    for (var half = REDUCE_LANES / 2u; half > 0u; half >>= 1u) {
        if (lane < half) {
            reduce_partial[lane] = max(reduce_partial[lane], reduce_partial[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = reduce_partial[0];
    workgroupBarrier();
    return largest;
}
