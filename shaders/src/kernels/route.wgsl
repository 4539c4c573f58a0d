// score[e] = sigmoid(logits[t, e]) or softmax over e      pick = score + bias
// Groups of experts (deepseek_v3: sum of a group's two best picks, deepseek_v2: its best pick): only the topk_group best
// keep their experts. The top picks of those, descending, ties to the lowest index, are the token's experts; their
// weight is the score without bias, divided by the sum of the chosen (+ 1e-20) and scaled, as the flags say.
// logits: f32 (T, experts)   bias: f32 (experts) in `norms`   expert_ids: u32 (T, K)   expert_weights: f32 (T, K)
// experts ≤ 512, groups ≤ 64, K ≤ 16, and K ≤ topk_group · experts / groups. One workgroup per token.
// NaN logits give some distinct experts, never an index out of range.

import package::lib::order::ordered;
import package::lib::reduce::{workgroup_max, workgroup_sum};

const LANES: u32 = 128u;
const LOWEST: f32 = -3.4028234e38;

struct Params {
    experts: u32,
    experts_per_token: u32, // K
    groups: u32,
    topk_group: u32,
    softmax: u32, // 1: softmax, 0: sigmoid
    group_score: u32, // 0: no groups, 1: the best pick, 2: the sum of the two best
    has_bias: u32,
    bias_offset: u32,
    normalise: u32, // 1: weights are divided by their sum when K > 1
    scale_normalised: u32, // 1: and scaled as well (deepseek_v3), 0: scaled only if not divided (deepseek_v2)
    routed_scaling_factor: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read_write> expert_ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> expert_weights: array<f32>;

var<workgroup> score: array<f32, 512>;
var<workgroup> pick: array<f32, 512>;
var<workgroup> group_key: array<u32, 64>;
var<workgroup> group_is_kept: array<u32, 64>;
var<workgroup> kept_group: array<u32, 64>; // ascending
var<workgroup> chosen: array<f32, 16>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x;
    let row = token * params.experts;
    if (params.softmax == 1u) {
        var largest = LOWEST;
        for (var e = lane; e < params.experts; e += LANES) {
            largest = max(largest, logits[row + e]);
        }
        largest = workgroup_max(lane, largest);
        var total = 0.0;
        for (var e = lane; e < params.experts; e += LANES) {
            let power = exp(logits[row + e] - largest);
            score[e] = power;
            total += power;
        }
        total = workgroup_sum(lane, total);
        for (var e = lane; e < params.experts; e += LANES) {
            score[e] /= total;
        }
    } else {
        for (var e = lane; e < params.experts; e += LANES) {
            let logit = logits[row + e];
            let power = exp(-abs(logit));
            score[e] = select(power, 1.0, logit >= 0.0) / (1.0 + power);
        }
    }
    for (var e = lane; e < params.experts; e += LANES) {
        var bias = 0.0;
        if (params.has_bias == 1u) {
            bias = norms[params.bias_offset + e];
        }
        pick[e] = score[e] + bias;
    }
    workgroupBarrier();

    // Without groups all experts are one group that is kept.
    var groups = 1u;
    var kept_groups = 1u;
    if (params.group_score != 0u) {
        groups = params.groups;
        kept_groups = params.topk_group;
    }
    let group_size = params.experts / groups;
    if (groups == 1u) {
        if (lane == 0u) {
            kept_group[0] = 0u;
        }
    } else {
        if (lane < groups) {
            var best = LOWEST;
            var second = LOWEST;
            for (var i = 0u; i < group_size; i++) {
                let value = pick[lane * group_size + i];
                second = max(second, min(best, value));
                best = max(best, value);
            }
            if (params.group_score == 2u && group_size > 1u) {
                best += second;
            }
            group_key[lane] = ordered(best);
        }
        workgroupBarrier();
        if (lane < groups) {
            let key = group_key[lane];
            var rank = 0u;
            for (var other = 0u; other < groups; other++) {
                let other_key = group_key[other];
                rank += u32(other_key > key || (other_key == key && other < lane));
            }
            group_is_kept[lane] = u32(rank < kept_groups);
        }
        workgroupBarrier();
        if (lane < groups && group_is_kept[lane] == 1u) {
            var place = 0u;
            for (var other = 0u; other < lane; other++) {
                place += group_is_kept[other];
            }
            kept_group[place] = lane;
        }
    }
    workgroupBarrier();

    // The rank of an expert is the number of better ones: no two are equal, since ties go by index.
    for (var c = lane; c < kept_groups * group_size; c += LANES) {
        let e = kept_group[c / group_size] * group_size + c % group_size;
        let key = ordered(pick[e]);
        var rank = 0u;
        for (var kept = 0u; kept < kept_groups; kept++) {
            let first = kept_group[kept] * group_size;
            for (var other = first; other < first + group_size; other++) {
                let other_key = ordered(pick[other]);
                rank += u32(other_key > key || (other_key == key && other < e));
            }
        }
        if (rank < params.experts_per_token) {
            expert_ids[token * params.experts_per_token + rank] = e;
            chosen[rank] = score[e];
        }
    }
    workgroupBarrier();

    if (lane < params.experts_per_token) {
        var weight = chosen[lane];
        let divided = params.normalise == 1u && params.experts_per_token > 1u;
        if (divided) {
            var total = 0.0;
            for (var i = 0u; i < params.experts_per_token; i++) {
                total += chosen[i];
            }
            weight /= total + 1e-20;
        }
        if (!divided || params.scale_normalised == 1u) {
            weight *= params.routed_scaling_factor;
        }
        expert_weights[token * params.experts_per_token + lane] = weight;
    }
}
