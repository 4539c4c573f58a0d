//! Host twin and cases of `sparse_attention_lanes.wgsl`. Its `Params` are those of `sparse_attention.wgsl`.

use super::dot::eight_lanes;
use super::sparse_attention::{Sizes, compute};
use crate::sparse_attention_lanes::{Overrides, Params};
use crate::{Call, Case, Interface as _, sparse_attention};

const _: () = assert!(size_of::<sparse_attention::Params>() == size_of::<Params>());

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    compute(call, eight_lanes);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let tiny = Sizes { heads: 4, rank: 64, rope_dim: 16 };
    let cases = vec![
        Sizes { heads: 3, rank: 512, rope_dim: 64 }.case("real sizes", &[200], Some(150), 1, 0),
        tiny.case("all positions", &[0, 1, 63, 64, 127, 128, 129, 300], None, 1, 0),
        tiny.case("selected, two splits", &[0, 50, 127, 128, 140, 400], Some(140), 1, 0),
        tiny.case("tiles folded into one split", &[0, 128, 300, 420], None, 4, 0),
        tiny.case("two tiles per split", &[127, 128, 256, 300, 420], Some(400), 2, 0),
        Sizes { heads: 8, rank: 260, rope_dim: 4 }.case("whole group", &[130], Some(100), 1, 0),
        Sizes { heads: 9, rank: 28, rope_dim: 4 }.case("one head more", &[130, 4], None, 1, 0),
        Sizes { heads: 17, rank: 36, rope_dim: 8 }.case("narrow", &[131, 64], Some(70), 2, 0),
        Sizes { heads: 5, rank: 640, rope_dim: 12 }.case("wide", &[9, 99], None, 1, 0),
    ];
    cases.into_iter().map(|case| Case { constants: Params::constants(Overrides {}), ..case }).collect()
}
