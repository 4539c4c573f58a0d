//! Host twin and cases of `absorb_lanes.wgsl`. Its `Params` are those of `absorb.wgsl`.

use super::absorb::{Sizes, compute};
use crate::absorb_lanes::{Overrides, Params};
use crate::weights::WeightType;
use crate::{Call, Case, Interface as _, absorb};

const _: () = assert!(size_of::<absorb::Params>() == size_of::<Params>());

/// Workgroups of a token.
pub fn groups(p: &absorb::Params, weight_type: WeightType) -> u32 {
    let columns = 8 * 16 / weight_type.bytes() as u32;
    p.heads * p.kv_lora_rank.div_ceil(columns) + p.index_heads
}

/// Whether weights and queries are where it wants them.
pub fn takes(p: &absorb::Params, weight_type: WeightType) -> bool {
    let row_bytes = p.kv_lora_rank * weight_type.bytes() as u32;
    let fours = [p.stride, p.query_offset, p.nope + p.rope_dim];
    row_bytes.is_multiple_of(16)
        && fours.iter().all(|values| values.is_multiple_of(4))
        && p.nope.is_multiple_of(8)
        && p.v.is_multiple_of(8)
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let weight_type = WeightType::from_code(call.overrides::<Params>().weight_type);
    compute(call, weight_type);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let real = Sizes {
        tokens: 1,
        heads: 3,
        nope: 128,
        rope_dim: 64,
        v: 128,
        rank: 512,
        index_heads: 2,
        index_head_dim: 128,
    };
    let tiny = Sizes {
        tokens: 3,
        heads: 4,
        nope: 32,
        rope_dim: 16,
        v: 32,
        rank: 64,
        index_heads: 4,
        index_head_dim: 32,
    };
    let across = Sizes {
        tokens: 2,
        heads: 2,
        nope: 200,
        rope_dim: 8,
        v: 104,
        rank: 144,
        index_heads: 0,
        index_head_dim: 0,
    };
    [
        ("real sizes", real, F8E4M3, false),
        ("real sizes", real, BF16, false),
        ("half-split", tiny, F8E4M3, false),
        ("interleaved", tiny, BF16, true),
        ("half-split", tiny, F16, false),
        ("interleaved", tiny, F32, true),
        ("no indexer, head across three row blocks", across, F8E4M3, false),
        ("no indexer, head across three row blocks", across, BF16, false),
    ]
    .into_iter()
    .flat_map(|(what, sizes, weight_type, interleaved)| {
        sizes
            .cases_at(
                what,
                weight_type,
                4,
                absorb::Overrides { tokens: 1, ..Default::default() },
                interleaved,
            )
            .into_iter()
            .map(move |case| {
                let params: absorb::Params = bytemuck::pod_read_unaligned(&case.params);
                assert!(takes(&params, weight_type), "{}", case.name);
                Case {
                    constants: Params::constants(Overrides { weight_type: weight_type as u32 }),
                    groups: [groups(&params, weight_type), case.groups[1], 1],
                    ..case
                }
            })
    })
    .collect()
}
