//! Twin of `lib/reduce.wgsl`: sums in the workgroup's own order.

const LANES: usize = crate::lib::reduce::REDUCE_LANES as usize;

/// Sum of `values`, value i being added up by lane i mod 128, then over the binary tree.
pub fn workgroup_sum(values: impl IntoIterator<Item = f32>) -> f32 {
    let mut partial = [0.0f32; LANES];
    for (index, value) in values.into_iter().enumerate() {
        partial[index % LANES] += value;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            partial[lane] += partial[lane + half];
        }
        half /= 2;
    }
    partial[0]
}
