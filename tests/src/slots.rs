//! Budgets with which experts come and go.

use porism_loader::Checkpoint;
use porism_runtime::EngineOptions;
use porism_runtime::device::Device;
use porism_runtime::plan::{Plan, plan};

/// The smallest budget, to 16 KiB, for which there is a plan of a model on one adapter: with as few slots as there may be.
///
/// # Panics
/// If the model does not fit an adapter of any size.
pub fn least_budget(checkpoint: &Checkpoint, options: &EngineOptions) -> u64 {
    const STEP: u64 = 16 << 10;
    let planned = |budget: u64| -> Option<Plan> {
        plan(checkpoint, &[Device::adapter("alone", Some(budget), 1e9, 1e9)], options).ok()
    };
    // Whatever fits also fits with more.
    let (mut too_little, mut enough) = (0, 1 << 30);
    assert!(planned(enough).is_some(), "the model is too large for this");
    while enough - too_little > STEP {
        let between = (too_little + enough) / 2;
        if planned(between).is_some() { enough = between } else { too_little = between }
    }
    enough
}
