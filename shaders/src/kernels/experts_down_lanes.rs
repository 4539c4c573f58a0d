//! Host twin and cases of `experts_down_lanes.wgsl`. Its `Params` are those of `experts_down.wgsl`.

use super::experts_down::{cases_of, compute};
use super::matvec_lanes::{ROWS, blocks_of};
use crate::experts_down_lanes::{Overrides, Params};
use crate::{Call, Case, Interface as _, experts_down};

/// Most experts per token that it sums.
pub const MOST_PICKS: u32 = 16;

const _: () = assert!(size_of::<experts_down::Params>() == size_of::<Params>());

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    compute(call, false);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    let with = |mut case: Case, what: &str| {
        case.constants = Params::constants(Overrides { blocks: blocks_of(5) });
        case.name += what;
        case
    };
    let mut cases: Vec<Case> = cases_of(ROWS, 4).into_iter().map(|case| with(case, "")).collect();
    cases.extend(cases_of(ROWS, 3).into_iter().map(|case| with(case, ", x unaligned")));
    cases
}
