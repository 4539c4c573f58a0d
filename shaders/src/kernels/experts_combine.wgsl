// h[t, d] += Σ_k expert_weights[t, k] · part[t · K + k, d] + shared[t, d]      k ascending; `overwrite`: = instead of +=
// Pairs of weight 0 are left out, whatever `part` holds for them: their experts are computed elsewhere.
// part: f32 (T · K, cols)   expert_weights: f32 (T, K)   shared: f32 (T, cols), ignored unless has_shared   h: f32 (T, cols)
// Workgroups: (cols / 256, T). A thread sums four columns, so that each weight is loaded once for them.

const LANES: u32 = 64u;
const COLUMNS: u32 = 256u; // of a workgroup, four for each lane

struct Params {
    cols: u32,
    experts_per_token: u32, // K
    has_shared: u32,
    overwrite: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> part: array<f32>;
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>;
@group(0) @binding(2) var<storage, read> shared_output: array<f32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y;
    // Beyond the row the last column is summed and not stored.
    let columns = group.x * COLUMNS + lane + vec4<u32>(0u, LANES, 2u * LANES, 3u * LANES);
    let inside = min(columns, vec4<u32>(params.cols - 1u));
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < params.experts_per_token; k++) {
        let pair = token * params.experts_per_token + k;
        let weight = expert_weights[pair];
        if (weight != 0.0) {
            let at = inside + pair * params.cols;
            sum = fma(vec4<f32>(weight), vec4<f32>(part[at.x], part[at.y], part[at.z], part[at.w]), sum);
        }
    }
    let at = inside + token * params.cols;
    if (params.has_shared == 1u) {
        sum += vec4<f32>(shared_output[at.x], shared_output[at.y], shared_output[at.z], shared_output[at.w]);
    }
    for (var i = 0u; i < 4u; i++) {
        if (columns[i] < params.cols) {
            if (params.overwrite == 1u) {
                h[at[i]] = sum[i];
            } else {
                h[at[i]] += sum[i];
            }
        }
    }
}
