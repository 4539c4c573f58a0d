//! Host twin and cases of `copy_rows.wgsl`.

use crate::case::random;
use crate::copy_rows::{Bindings, Overrides, Params, THREADS};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let count = p.count.min(call.groups[0] * THREADS) as usize;
    let cache = call.bindings::<Params>().cache.f32_mut();
    cache.copy_within(p.source as usize..p.source as usize + count, p.destination as usize);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    [(0, 700, 600), (513, 3, 257), (5, 1000, 1)]
        .into_iter()
        .map(|(source, destination, count)| {
            let params = Params { source, destination, count };
            let buffers = Bindings { cache: CaseBuffer::OutF32(random::f32s(1, 1400)) };
            let name = format!("{count} values from {source} to {destination}");
            let groups = [count.div_ceil(THREADS), 1, 1];
            Case::new(name, params, Overrides::default(), groups, buffers, Tolerance::EXACT)
        })
        .collect()
}
