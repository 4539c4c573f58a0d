//! Host twin and cases of `experts_down_lanes.wgsl`. Its `Params` are those of `experts_down.wgsl`.

use super::experts_down::{cases_of, compute};
use super::matvec_lanes::{ROWS, blocks_of};
use crate::{Call, Case, Overrides, experts_down, experts_down_lanes};

/// Most experts per token that it sums.
pub const MOST_PICKS: u32 = 16;

const _: () = assert!(size_of::<experts_down::Params>() == size_of::<experts_down_lanes::Params>());

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    compute(call, false);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let overrides = Overrides::none().with("BLOCKS", blocks_of(5));
    let mut cases = cases_of(ROWS, 4, overrides);
    let unaligned = cases_of(ROWS, 3, overrides).into_iter().map(|mut case| {
        case.name += ", x unaligned";
        case
    });
    cases.extend(unaligned.collect::<Vec<_>>());
    cases
}
