//! Host twin and cases of `route.wgsl`.

use std::cmp::Reverse;

use crate::case::random;
use crate::kernels::order::ordered;
use crate::kernels::reduce;
use crate::route::{Bindings, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let tokens = call.groups[0] as usize;
    let (experts, chosen) = (p.experts as usize, p.experts_per_token as usize);
    let bound = call.bindings::<Params>();
    let (logits, norms, expert_ids, expert_weights) =
        (bound.logits.f32(), bound.norms.f32(), bound.expert_ids.u32_mut(), bound.expert_weights.f32_mut());
    for (t, logits) in logits.chunks_exact(experts).enumerate().take(tokens) {
        let score: Vec<f32> = if p.softmax == 1 {
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let total = reduce::workgroup_sum(logits.iter().map(|l| (l - largest).exp()));
            logits.iter().map(|l| (l - largest).exp() / total).collect()
        } else {
            logits
                .iter()
                .map(|l| {
                    let power = (-l.abs()).exp();
                    if *l >= 0.0 { 1.0 / (1.0 + power) } else { power / (1.0 + power) }
                })
                .collect()
        };
        let bias = |e: usize| if p.has_bias == 1 { norms[p.bias_offset as usize + e] } else { 0.0 };
        let pick: Vec<f32> = score.iter().enumerate().map(|(e, s)| s + bias(e)).collect();

        let groups = if p.group_score == 0 { 1 } else { p.groups as usize };
        let group_size = experts / groups;
        let mut order: Vec<usize> = (0..groups).collect();
        if groups > 1 {
            let key = |g: &usize| {
                let (mut best, mut second) = (f32::MIN, f32::MIN);
                for value in &pick[g * group_size..][..group_size] {
                    second = second.max(best.min(*value));
                    best = best.max(*value);
                }
                Reverse(ordered(if p.group_score == 2 && group_size > 1 { best + second } else { best }))
            };
            order.sort_by_cached_key(key);
            order.truncate(p.topk_group as usize);
            order.sort();
        }
        let mut kept: Vec<usize> = order.iter().flat_map(|g| g * group_size..(g + 1) * group_size).collect();
        kept.sort_by_key(|e| Reverse(ordered(pick[*e])));

        let ids = &mut expert_ids[t * chosen..][..chosen];
        let weights = &mut expert_weights[t * chosen..][..chosen];
        for ((id, weight), e) in ids.iter_mut().zip(weights.iter_mut()).zip(kept) {
            *id = e as u32;
            *weight = score[e];
        }
        let divided = p.normalise == 1 && chosen > 1;
        if divided {
            let total = weights.iter().sum::<f32>() + 1e-20;
            weights.iter_mut().for_each(|weight| *weight /= total);
        }
        if !divided || p.scale_normalised == 1 {
            weights.iter_mut().for_each(|weight| *weight *= p.routed_scaling_factor);
        }
    }
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let v3 = Params {
        experts: 256,
        experts_per_token: 8,
        groups: 8,
        topk_group: 4,
        softmax: 0,
        group_score: 2,
        has_bias: 1,
        bias_offset: 3,
        normalise: 1,
        scale_normalised: 1,
        routed_scaling_factor: 2.5,
    };
    let v2 = Params {
        experts: 160,
        experts_per_token: 6,
        groups: 8,
        topk_group: 3,
        softmax: 1,
        group_score: 1,
        has_bias: 0,
        normalise: 0,
        scale_normalised: 0,
        routed_scaling_factor: 16.0,
        ..v3
    };
    // (name, params, tokens, scale of the logits, whether they are coarse, so that many are equal)
    [
        ("deepseek_v3", v3, 3, 4.0, false),
        ("deepseek_v3, equal picks", v3, 2, 2.0, true),
        ("deepseek_v3, one group", Params { experts: 384, groups: 1, topk_group: 1, ..v3 }, 2, 4.0, false),
        (
            "groups of one expert",
            Params { experts: 8, topk_group: 5, experts_per_token: 3, ..v3 },
            3,
            4.0,
            false,
        ),
        (
            "64 groups, 512 experts, 16 chosen, not divided",
            Params { experts: 512, experts_per_token: 16, groups: 64, topk_group: 7, normalise: 0, ..v3 },
            1,
            4.0,
            false,
        ),
        (
            "as many chosen as kept",
            Params { experts: 12, groups: 4, topk_group: 2, experts_per_token: 6, ..v3 },
            2,
            4.0,
            true,
        ),
        ("large logits", Params { experts: 64, ..v3 }, 2, 300.0, false),
        ("deepseek_v2, best of a group", v2, 3, 4.0, false),
        ("deepseek_v2, greedy", Params { experts: 64, group_score: 0, ..v2 }, 2, 4.0, false),
        ("deepseek_v2, greedy, equal scores", Params { experts: 77, group_score: 0, ..v2 }, 2, 1.0, true),
        ("deepseek_v2, divided, not scaled", Params { normalise: 1, ..v2 }, 2, 4.0, false),
        (
            "deepseek_v2, one chosen, scaled",
            Params { normalise: 1, experts_per_token: 1, ..v2 },
            2,
            4.0,
            false,
        ),
        ("deepseek_v3, one chosen", Params { experts_per_token: 1, ..v3 }, 2, 4.0, false),
    ]
    .into_iter()
    .map(|(name, params, tokens, scale, coarse): (&str, Params, usize, f32, bool)| {
        let round = |v: f32| if coarse { (v * 4.0).round() / 4.0 } else { v };
        let experts = params.experts as usize;
        let logits: Vec<f32> = random::f32s(1, tokens * experts).iter().map(|v| round(v * scale)).collect();
        let norms: Vec<f32> = random::f32s(2, 3 + experts).iter().map(|v| round(*v) / 4.0).collect();
        let chosen = tokens * params.experts_per_token as usize;
        let expected =
            logits.chunks(experts).flat_map(|logits| reference(&params, logits, &norms[3..])).collect();
        let buffers = Bindings {
            logits: CaseBuffer::f32(&logits),
            norms: CaseBuffer::f32(&norms),
            expert_ids: CaseBuffer::OutU32(vec![u32::MAX; chosen]),
            expert_weights: CaseBuffer::OutF32(vec![0.0; chosen]),
        };
        let groups = [tokens as u32, 1, 1];
        Case::new(name, params, Overrides::default(), groups, buffers, Tolerance::ELEMENTWISE).with_reference(
            3,
            expected,
            Tolerance::ELEMENTWISE,
        )
    })
    .collect()
}

/// Weights of the chosen experts in f64, by stable sorts.
fn reference(p: &Params, logits: &[f32], bias: &[f32]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
    let total: f64 = powers.iter().sum();
    let score: Vec<f64> = powers
        .iter()
        .map(|power| if p.softmax == 1 { power / total } else { power / (1.0 + power) })
        .collect();
    let mut pick: Vec<f64> =
        score.iter().zip(bias).map(|(s, b)| if p.has_bias == 1 { s + f64::from(*b) } else { *s }).collect();
    let groups = p.groups as usize;
    if p.group_score != 0 && groups > 1 {
        let group_size = pick.len() / groups;
        let scores: Vec<f64> = pick
            .chunks(group_size)
            .map(|picks| {
                let mut sorted = picks.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted.iter().take(p.group_score as usize).sum()
            })
            .collect();
        for g in descending(&scores).into_iter().skip(p.topk_group as usize) {
            pick[g * group_size..][..group_size].fill(f64::NEG_INFINITY);
        }
    }
    let chosen: Vec<f64> =
        descending(&pick).into_iter().take(p.experts_per_token as usize).map(|e| score[e]).collect();
    let factor = f64::from(p.routed_scaling_factor);
    if p.normalise == 1 && chosen.len() > 1 {
        let sum = chosen.iter().sum::<f64>() + 1e-20;
        let factor = if p.scale_normalised == 1 { factor } else { 1.0 };
        chosen.iter().map(|w| w / sum * factor).collect()
    } else {
        chosen.iter().map(|w| w * factor).collect()
    }
}

fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}
