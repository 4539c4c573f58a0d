//! Which device holds what, to the byte, before anything is loaded: `plan` is pure, and so are its figures.
//!
//! Layers are dealt to home devices in contiguous runs, in the order of the devices: as many as their bandwidth asks for
//! and their memory allows. Each routed expert has one device that computes it: adapters first, a layer's on its
//! home or divided among all ([`Spread`](crate::options::Spread)), then the host, where there is one; without a host the rest
//! is streamed into slots on the layer's home, and so are those that it keeps there.
//!
//! What is computed on the host and what is streamed lies in the mapped files. Of those, pages stay in host memory as far as
//! it goes; the others are read from disk again for each step, and a plan says how many bytes that are.

mod choose;
mod cost;
mod place;
mod refusal;
mod result;
mod staging;

use porism_loader::TensorTable;

use crate::device::Device;
use crate::error::Error;
use crate::options::EngineOptions;
pub use choose::{Speed, fastest};
pub use cost::Load;
use place::{Costs, Problem};
pub use result::{DevicePlan, Files, Note, Place, Plan, Predicted};

/// Divides a model among devices.
///
/// # Errors
/// A context beyond the model's, a model that kernels cannot run, or [`Error::DoesNotFit`].
pub fn plan(table: &dyn TensorTable, devices: &[Device], request: &EngineOptions) -> Result<Plan, Error> {
    assert!(!devices.is_empty(), "a plan needs a device");
    let costs = costs(table, devices)?;
    let problem = Problem { table, devices, costs: &costs, request };
    if let Some(plan) = problem.solve(&problem.memories())? {
        return Ok(plan);
    }
    Err(problem.refusal()?)
}

/// What a plan promises for a certain load. The plan is of the same model, devices and request.
///
/// # Errors
/// A model that kernels cannot run.
pub fn predict(
    table: &dyn TensorTable,
    devices: &[Device],
    request: &EngineOptions,
    plan: &Plan,
    load: &Load,
) -> Result<Predicted, Error> {
    let costs = costs(table, devices)?;
    let problem = Problem { table, devices, costs: &costs, request };
    problem.predict(&plan.devices, &plan.placement, plan.chunk, load)
}

fn costs<'t>(table: &'t dyn TensorTable, devices: &[Device]) -> Result<Vec<Costs<'t>>, Error> {
    devices.iter().map(|device| Costs::new(table, device)).collect()
}

#[cfg(test)]
mod tests {
    use super::place::{fill, split};
    use super::*;
    use crate::model::buffers;
    use crate::options::Heat;
    use crate::weights::layout::Layout;
    use porism_loader::catalog::{self, Catalogued};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn math_v2() -> Catalogued {
        catalog::find("deepseek-math-v2").unwrap()
    }

    fn lite() -> Catalogued {
        catalog::find("deepseek-v2-lite").unwrap()
    }

    fn check(table: &dyn TensorTable, devices: &[Device], plan: &Plan) {
        let config = table.config();
        let mut experts = vec![0; devices.len()];
        for layer in 0..config.num_hidden_layers {
            let places = &plan.placement[layer as usize];
            let expected = if config.is_moe(layer) { config.n_routed_experts } else { 0 };
            assert_eq!(places.len(), expected as usize, "every expert of layer {layer} once");
            for place in places {
                experts[place.device] += 1;
            }
            let homes = plan.devices.iter().filter(|device| device.layers.contains(&layer)).count();
            assert_eq!(homes, 1, "layer {layer} has one home");
        }
        for ((device, profile), experts) in plan.devices.iter().zip(devices).zip(experts) {
            assert_eq!(device.experts + device.streamed, experts);
            assert!(device.total() <= profile.memory(), "{}: {device:?}", profile.name);
            assert!(device.streamed == 0 || device.slots >= config.num_experts_per_tok);
        }
        assert_eq!(plan.devices.iter().filter(|device| device.embedding).count(), 1);
        assert_eq!(plan.devices.iter().filter(|device| device.head).count(), 1);
        let predicted = &plan.predicted;
        for rate in [predicted.decode_tokens_per_second, predicted.prefill_tokens_per_second] {
            assert!(rate > 0.0 && rate.is_finite(), "{predicted:?}");
        }
        for words in [&predicted.limited_by, &predicted.prefill_limited_by] {
            assert!(devices.iter().any(|device| words.starts_with(&device.name)), "{predicted:?}");
        }
    }

    #[test]
    fn one_device_holds_the_whole_model_to_the_byte() {
        for (name, memory) in [("deepseek-math-v2", None), ("deepseek-v2-lite", Some(40 * GIB))] {
            let model = catalog::find(name).unwrap();
            for host in [false, true] {
                let device = if host {
                    Device::host(memory, 50e9)
                } else {
                    Device::adapter("card", memory, 900e9, 25e9)
                };
                let options = EngineOptions::new(4096);
                let plan = plan(&model, std::slice::from_ref(&device), &options).unwrap();
                let found = &plan.devices[0];
                let found = (found.weights.total(), found.cache, found.activations);
                let weights = Layout::new(&model, device.max_binding_bytes).model().unwrap().total();
                let bytes = buffers::bytes(TensorTable::config(&model), options.sizes(plan.chunk));
                let expected = (weights, bytes.cache, bytes.activations);
                assert_eq!(found, expected, "{name}, host {host}");
            }
        }
    }

    #[test]
    fn the_real_model_is_spread_over_a_mixed_rig() {
        let model = math_v2();
        let mut devices: Vec<Device> = [("A", 960e9), ("B", 960e9), ("C", 1008e9), ("D", 936e9)]
            .into_iter()
            .map(|(name, rate)| Device::adapter(name, Some(24 * GIB), rate, 25e9))
            .collect();
        devices.push(Device::host(Some(512 * GIB), 300e9));
        let plan = plan(&model, &devices, &EngineOptions::new(8192)).unwrap();
        check(&model, &devices, &plan);
        assert!(plan.devices[..4].iter().all(|device| !device.layers.is_empty() && device.experts > 100));
        assert!(plan.devices[4].layers.is_empty() && plan.devices[4].disk.total() > 0);
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_shortfall_and_two_ways_out() {
        let model = math_v2();
        let devices = [Device::adapter("card", Some(8 * GIB), 900e9, 25e9)];
        let Err(Error::DoesNotFit { shortfall, ways_out, device, .. }) =
            plan(&model, &devices, &EngineOptions::new(4096))
        else {
            panic!("8 GiB cannot hold it")
        };
        assert!(ways_out.len() >= 2, "{ways_out:?}");
        assert_eq!(device, "card");
        let enough = [Device::adapter("card", Some(8 * GIB + shortfall), 900e9, 25e9)];
        check(&model, &enough, &plan(&model, &enough, &EngineOptions::new(4096)).unwrap());
        let short = [Device::adapter("card", Some(8 * GIB + shortfall - 1), 900e9, 25e9)];
        assert!(plan(&model, &short, &EngineOptions::new(4096)).is_err());
    }

    #[test]
    fn a_host_without_room_to_compute_in_is_as_good_as_none() {
        let model = lite();
        let card = Device::adapter("card", Some(8 * GIB), 900e9, 25e9);
        for memory in [1, 1 << 20] {
            let devices = [card.clone(), Device::host(Some(memory), 50e9)];
            let plan = plan(&model, &devices, &EngineOptions::new(4096)).unwrap();
            check(&model, &devices, &plan);
            assert!(plan.devices[0].streamed > 0, "{:?}", plan.devices[0]);
            assert_eq!(plan.devices[1].total() + plan.devices[1].disk.total(), 0);
        }
    }

    #[test]
    fn absurd_budgets_are_as_good_as_none() {
        let model = lite();
        let rig = |memory| {
            [
                Device::adapter("card", memory, 900e9, 25e9),
                Device::adapter("card", memory, 900e9, 25e9),
                Device::host(memory, 50e9),
            ]
        };
        let experts = |devices: &[Device]| -> Vec<u32> {
            let plan = plan(&model, devices, &EngineOptions::new(4096)).unwrap();
            check(&model, devices, &plan);
            plan.devices.iter().map(|device| device.experts).collect()
        };
        assert_eq!(experts(&rig(Some(u64::MAX))), experts(&rig(None)));
    }

    #[test]
    fn hot_experts_go_to_adapters() {
        let model = lite();
        let config = TensorTable::config(&model).clone();
        let uses = (0..config.num_hidden_layers)
            .map(|layer| {
                let count = if config.is_moe(layer) { config.n_routed_experts } else { 0 };
                (0..count).map(|expert| if expert % 4 == 1 { 1000 } else { 1 }).collect()
            })
            .collect();
        let heat = Heat { uses };
        heat.check(&config).unwrap();
        let devices =
            [Device::adapter("card", Some(14 * GIB), 900e9, 25e9), Device::host(Some(64 * GIB), 50e9)];
        let with_heat =
            plan(&model, &devices, &EngineOptions { heat: Some(heat), ..EngineOptions::new(2048) }).unwrap();
        check(&model, &devices, &with_heat);
        let places = &with_heat.placement[5];
        assert!((0..64).filter(|expert| expert % 4 == 1).all(|expert| places[expert].device == 0));
        let without = plan(&model, &devices, &EngineOptions::new(2048)).unwrap();
        assert!(
            with_heat.predicted.decode_tokens_per_second > without.predicted.decode_tokens_per_second,
            "{:?} {:?}",
            with_heat.predicted,
            without.predicted
        );
    }

    #[test]
    fn parts_keep_their_proportions() {
        assert_eq!(fill(10, &[100, 100], &[3.0, 1.0]), [8, 2]);
        assert_eq!(fill(10, &[2, 100], &[3.0, 1.0]), [2, 8]);
        assert_eq!(fill(10, &[2, 3], &[3.0, 1.0]), [2, 3]);
        assert_eq!(split(5, &[3, 3, 3]), [2, 2, 1]);
        assert_eq!(split(9, &[3, 3, 3]), [3, 3, 3]);
    }

    fn rigs() -> impl Strategy<Value = Vec<Device>> {
        let adapter = (1u64..48 * 1024, 50.0..1500.0f64, 5.0..60.0f64, 27u32..33).prop_map(
            |(mib, rate, link, binding)| Device {
                max_binding_bytes: (1 << binding) - 4,
                ..Device::adapter("adapter", Some(mib << 20), rate * 1e9, link * 1e9)
            },
        );
        let host =
            (1u64..128, 10.0..400.0f64).prop_map(|(gib, rate)| Device::host(Some(gib * GIB), rate * 1e9));
        (proptest::collection::vec(adapter, 0..5), proptest::option::of(host)).prop_filter_map(
            "a rig has a device",
            |(mut devices, host)| {
                devices.extend(host);
                (!devices.is_empty()).then_some(devices)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn plans_keep_their_promises(devices in rigs(), context in 1usize..20_000) {
            let model = lite();
            match plan(&model, &devices, &EngineOptions::new(context)) {
                Ok(plan) => check(&model, &devices, &plan),
                Err(Error::DoesNotFit { shortfall, ways_out, .. }) => {
                    prop_assert!(shortfall > 0);
                    prop_assert!(ways_out.len() >= 2);
                }
                Err(Error::OutOfMemory { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn a_faster_device_is_never_predicted_slower(
            devices in rigs(), which in 0usize..5, what in 0usize..8, factor in 1.0..8.0f64, context in 2usize..20_000,
        ) {
            let model = lite();
            let request = EngineOptions::new(context);
            let Ok(plan) = plan(&model, &devices, &request) else { return Ok(()) };
            let mut faster = devices.clone();
            let which = which % faster.len();
            let rates = &mut faster[which].rates;
            match what {
                0 => rates.bandwidth *= factor,
                1 => rates.link *= factor,
                2 => rates.disk *= factor,
                3 => rates.compute *= factor,
                4 => rates.decode *= factor,
                5 => rates.values *= factor,
                6 => rates.dispatch /= factor,
                _ => rates.handover /= factor,
            }
            for load in [Load::of(&request), Load { sequences: 1, depth: 0, prompt: 100, decode: 1 }] {
                let predict = |devices: &[Device]| predict(&model, devices, &request, &plan, &load).unwrap();
                let (before, after) = (predict(&devices), predict(&faster));
                let slower = |before: f64, after: f64| after < before * (1.0 - 1e-9);
                prop_assert!(!slower(before.decode_tokens_per_second, after.decode_tokens_per_second));
                prop_assert!(!slower(before.prefill_tokens_per_second, after.prefill_tokens_per_second));
            }
            // And what is measured changes nothing else.
            let again = super::plan(&model, &faster, &request).unwrap();
            prop_assert_eq!(again.placement, plan.placement);
            prop_assert_eq!(again.devices, plan.devices);
        }

        #[test]
        fn a_step_of_more_sequences_never_takes_less_time(devices in rigs(), depth in 1usize..4000) {
            let model = lite();
            let request = EngineOptions::new(4096);
            let Ok(plan) = plan(&model, &devices, &request) else { return Ok(()) };
            let mut before = 0.0;
            for sequences in (1..16).chain([20, 31, 32, 33, 64, 100, 256]) {
                let load = Load { sequences, depth, prompt: 1, decode: 1 };
                let predicted = predict(&model, &devices, &request, &plan, &load).unwrap();
                let seconds = sequences as f64 / predicted.decode_tokens_per_second;
                prop_assert!(seconds >= before * (1.0 - 1e-9), "{sequences}: {seconds} after {before}");
                before = seconds;
            }
        }

        #[test]
        fn no_prediction_beats_the_memory(devices in rigs(), context in 2usize..20_000) {
            let model = lite();
            let Ok(plan) = plan(&model, &devices, &EngineOptions::new(context)) else { return Ok(()) };
            let layout = Layout::new(&model, u64::MAX);
            let config = TensorTable::config(&model);
            let mut read = layout.logits().unwrap().bytes;
            for layer in 0..config.num_hidden_layers {
                read += layout.always(layer).unwrap().bytes;
                if config.is_moe(layer) {
                    let picked = layout.expert(layer).unwrap().bytes * u64::from(config.num_experts_per_tok);
                    read += layout.shared(layer).unwrap().bytes + picked;
                }
            }
            let bandwidth: f64 = devices.iter().map(|device| device.rates.bandwidth).sum();
            prop_assert!(plan.predicted.decode_tokens_per_second * read as f64 <= bandwidth);
        }

        #[test]
        fn more_memory_never_hurts(devices in rigs(), which in 0usize..5, more in 1u64..20_000) {
            let model = lite();
            let Ok(before) = plan(&model, &devices, &EngineOptions::new(4096)) else { return Ok(()) };
            let mut larger = devices.clone();
            let which = which % larger.len();
            larger[which].memory = larger[which].memory.map(|memory| memory + (more << 20));
            let after = plan(&model, &larger, &EngineOptions::new(4096));
            prop_assert!(after.is_ok(), "{:?}", after.err());
            let after = after.unwrap();
            let homes = |plan: &Plan| plan.devices.iter().map(|device| device.layers.clone()).collect::<Vec<_>>();
            if after.chunk == before.chunk && homes(&after) == homes(&before) {
                let kept = |plan: &Plan| {
                    let all = plan.devices.iter().zip(&devices).filter(|(_, device)| !device.host);
                    all.map(|(device, _)| device.experts).sum::<u32>()
                };
                prop_assert!(kept(&after) >= kept(&before), "{} {}", kept(&after), kept(&before));
            }
        }
    }
}
