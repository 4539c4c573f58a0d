// Eight lanes that follow each other hand values round: by subgroup shuffles (`shuffle`, where a subgroup has eight lanes or
// more), elsewhere through workgroup memory, in uniform control flow. Workgroups have up to 256 lanes. Both give the same bits.

const EXCHANGE_LANES: u32 = 256u;
@if(!shuffle)
var<workgroup> exchanged: array<vec4<f32>, EXCHANGE_LANES>;

// What the lane whose number differs in the bits of `distance` (1, 2 or 4) gives.
@if(shuffle)
fn other4(lane: u32, value: vec4<f32>, distance: u32) -> vec4<f32> {
    return subgroupShuffleXor(value, distance);
}

@if(shuffle)
fn other2(lane: u32, value: vec2<f32>, distance: u32) -> vec2<f32> {
    return subgroupShuffleXor(value, distance);
}

@if(shuffle)
fn other1(lane: u32, value: f32, distance: u32) -> f32 {
    return subgroupShuffleXor(value, distance);
}

@if(!shuffle)
fn other4(lane: u32, value: vec4<f32>, distance: u32) -> vec4<f32> {
    workgroupBarrier();
    exchanged[lane] = value;
    workgroupBarrier();
    return exchanged[lane ^ distance];
}

@if(!shuffle)
fn other2(lane: u32, value: vec2<f32>, distance: u32) -> vec2<f32> {
    return other4(lane, vec4(value, 0.0, 0.0), distance).xy;
}

@if(!shuffle)
fn other1(lane: u32, value: f32, distance: u32) -> f32 {
    return other4(lane, vec4(value, 0.0, 0.0, 0.0), distance).x;
}
