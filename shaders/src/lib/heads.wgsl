// Eight heads at a time: what every head does with the same cached vector.

import package::lib::dot::dot4;

// Four values of each head.
struct Fours {
    h0: vec4<f32>, h1: vec4<f32>, h2: vec4<f32>, h3: vec4<f32>,
    h4: vec4<f32>, h5: vec4<f32>, h6: vec4<f32>, h7: vec4<f32>,
}

// One value of each head.
struct Ones {
    low: vec4<f32>,
    high: vec4<f32>,
}

// What lanes 0 to 7 of the subgroup hold, for all lanes. Where lanes are emulated a uniform load costs as much as eight
// different ones.
@if(broadcast)
fn shared_fours(mine: vec4<f32>) -> Fours {
    return Fours(
        subgroupBroadcast(mine, 0u), subgroupBroadcast(mine, 1u), subgroupBroadcast(mine, 2u), subgroupBroadcast(mine, 3u),
        subgroupBroadcast(mine, 4u), subgroupBroadcast(mine, 5u), subgroupBroadcast(mine, 6u), subgroupBroadcast(mine, 7u),
    );
}

// sums + q · x of each head.
fn dots(q: Fours, x: vec4<f32>, sums: Ones) -> Ones {
    return Ones(
        vec4(dot4(q.h0, x, sums.low.x), dot4(q.h1, x, sums.low.y), dot4(q.h2, x, sums.low.z), dot4(q.h3, x, sums.low.w)),
        vec4(dot4(q.h4, x, sums.high.x), dot4(q.h5, x, sums.high.y), dot4(q.h6, x, sums.high.z), dot4(q.h7, x, sums.high.w)),
    );
}

// sums + x0 · p.x + x1 · p.y + x2 · p.z + x3 · p.w of each head, in this order.
fn weighted(p: Fours, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, sums: Fours) -> Fours {
    return Fours(
        weighted4(p.h0, x0, x1, x2, x3, sums.h0), weighted4(p.h1, x0, x1, x2, x3, sums.h1),
        weighted4(p.h2, x0, x1, x2, x3, sums.h2), weighted4(p.h3, x0, x1, x2, x3, sums.h3),
        weighted4(p.h4, x0, x1, x2, x3, sums.h4), weighted4(p.h5, x0, x1, x2, x3, sums.h5),
        weighted4(p.h6, x0, x1, x2, x3, sums.h6), weighted4(p.h7, x0, x1, x2, x3, sums.h7),
    );
}

fn weighted4(p: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(vec4(p.w), x3, fma(vec4(p.z), x2, fma(vec4(p.y), x1, fma(vec4(p.x), x0, sum))));
}
