//! Host twin and cases of `attention_output_lanes.wgsl`. Its `Params` are those of `attention_output.wgsl`.

use super::attention_output::{Sizes, compute};
use crate::attention_output_lanes::{Overrides, Params, ROWS};
use crate::weights::{BLOCK, WeightType};
use crate::{Call, Case, Interface as _, attention_output, lib};

const _: () = assert!(size_of::<attention_output::Params>() == size_of::<Params>());
// It reads what `sparse_attention_lanes` wrote.
const _: () = assert!(crate::attention_output_lanes::TILE == lib::tiles::TILE);

/// The overrides for weights of `kv_lora_rank` columns.
pub fn overrides(weight_type: u32, kv_lora_rank: u32) -> Overrides {
    let blocks = kv_lora_rank.div_ceil(BLOCK as u32);
    Overrides { weight_type, vectors: kv_lora_rank.div_ceil(4), sums: blocks * ROWS / 4 }
}

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let weight_type = WeightType::from_code(call.overrides::<Params>().weight_type);
    compute(call, weight_type);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    use WeightType::{BF16, F8E4M3, F16, F32};
    let real = Sizes { heads: 2, nope: 128, v: 128, rank: 512 };
    let tiny = Sizes { heads: 4, nope: 32, v: 32, rank: 64 };
    let uneven = Sizes { heads: 2, nope: 8, v: 200, rank: 144 };
    let wide = Sizes { heads: 1, nope: 5, v: 3, rank: 1040 };
    let case = |sizes: &Sizes, what: &str, weight_type, positions: &[u32], k, tiles| {
        let case = sizes.case(what, weight_type, positions, k, tiles, 0);
        let row_groups = (sizes.v as u32).div_ceil(ROWS);
        Case {
            constants: Params::constants(overrides(weight_type as u32, sizes.rank as u32)),
            groups: [sizes.heads as u32 * row_groups, positions.len() as u32, 1],
            ..case
        }
    };
    vec![
        case(&real, "real sizes", F8E4M3, &[2100], Some(2048), 1),
        case(&real, "real sizes", BF16, &[600, 70], None, 1),
        case(&tiny, "all positions", F8E4M3, &[0, 127, 128, 129, 255, 256, 700], None, 1),
        case(&tiny, "two tiles per split", BF16, &[0, 255, 256, 300], Some(290), 2),
        case(&tiny, "one split", F16, &[0, 255, 300], Some(290), 4),
        case(&tiny, "one split", F32, &[5], None, 1),
        case(&uneven, "more rows than a workgroup has", F8E4M3, &[3, 130], None, 1),
        case(&uneven, "more rows than a workgroup has", BF16, &[130], None, 1),
        case(&wide, "more columns than 32 lanes have", F8E4M3, &[3, 700], None, 1),
        case(&wide, "more columns than 32 lanes have", F16, &[260], None, 1),
    ]
}
