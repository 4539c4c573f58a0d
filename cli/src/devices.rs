//! `--device` → devices with budgets: one answer for every command, so that what `plan` shows is what `run` does.

use anyhow::Result;
use porism_runtime::device::{Class, Device, DeviceProfile, Rates};
use porism_runtime::gpu;
use porism_runtime::measure;
use porism_runtime::{DeviceId, DeviceSpec};

use crate::failure::Failure;
use crate::host::HostProfile;
use crate::settings::DeviceList;

/// The devices to use for a model of `weights` bytes, with budgets as far as anybody knows one: what was asked, else every
/// real GPU and the host. Software adapters are many times slower than the host and are taken only when asked for.
pub fn choose(asked: Option<&DeviceList>, weights: u64) -> Result<Vec<DeviceSpec>> {
    let settled =
        |list: &DeviceList| list.0.iter().all(|spec| spec.budget.is_some()) || is_host_alone(&list.0);
    // Looking for adapters takes a moment.
    let adapters = if asked.is_some_and(settled) { vec![] } else { gpu::adapters() };
    resolve(asked, &adapters, HostProfile::read().memory_bytes, weights)
}

/// The same on a machine with these adapters and so many bytes of memory; 0 where nobody knows. What is free at the moment
/// does not count: the same command has the same plan tomorrow.
fn resolve(
    asked: Option<&DeviceList>,
    adapters: &[DeviceProfile],
    memory: u64,
    weights: u64,
) -> Result<Vec<DeviceSpec>> {
    let host_memory = (memory > 0).then(|| usable(memory));
    let mut list: Vec<DeviceSpec> = match asked {
        Some(list) => list.0.clone(),
        None => {
            let real = one_of_each_card(adapters).into_iter().filter(|adapter| !adapter.is_software());
            real.map(|adapter| adapter.index).chain([DeviceId::Host]).map(DeviceSpec::from).collect()
        }
    };
    if list.iter().filter(|spec| spec.index == DeviceId::Host).count() > 1 {
        return Err(Failure::usage("`host` is given twice, there is one CPU side").into());
    }
    // What GPUs take of the host's memory.
    let mut shared = 0;
    for adapter in adapters {
        let mut memory = adapter.memory_bytes.filter(|_| !adapter.is_software()).map(usable);
        if adapter.class() == Class::Integrated {
            // Its memory is the host's, of which drivers may name more than there is.
            memory = memory.map(|memory| host_memory.map_or(memory, |host| memory.min(host / 2)));
        }
        let here = |spec: &&mut DeviceSpec| spec.index == adapter.index;
        let given = |list: &mut Vec<DeviceSpec>| {
            list.iter_mut().filter(here).filter_map(|spec| spec.budget).fold(0, u64::saturating_add)
        };
        let open = list.iter_mut().filter(here).filter(|spec| spec.budget.is_none()).count() as u64;
        if let (Some(memory), true) = (memory, open > 0) {
            let each = (memory.saturating_sub(given(&mut list)) / open).max(LEAST);
            list.iter_mut().filter(here).for_each(|spec| spec.budget = spec.budget.or(Some(each)));
        }
        if adapter.class() == Class::Integrated {
            shared = given(&mut list).saturating_add(shared);
        }
    }
    let alone = is_host_alone(&list);
    for spec in list.iter_mut().filter(|spec| spec.index == DeviceId::Host) {
        // Alone it computes from the map, whose pages come and go: a model may be larger than memory. Beside others it keeps
        // what there is room for.
        let room = host_memory.map(|memory| match alone {
            true => memory.saturating_add(weights),
            false => memory.saturating_sub(shared).max(LEAST),
        });
        spec.budget = spec.budget.or(room);
    }
    Ok(list)
}

/// The adapters without those that are another backend's or driver's view of the same card; Vulkan and Metal come first. Two
/// equal cards are two adapters of one backend.
fn one_of_each_card(adapters: &[DeviceProfile]) -> Vec<&DeviceProfile> {
    let same = |a: &DeviceProfile, b: &DeviceProfile| {
        let by_bus = !a.card.bus.is_empty() && !b.card.bus.is_empty();
        let alike = match by_bus {
            true => a.card.bus == b.card.bus,
            false => a.backend != b.backend && a.card.ids == b.card.ids,
        };
        a.name == b.name && alike
    };
    let mut order: Vec<usize> = (0..adapters.len()).collect();
    order.sort_by_key(|at| !["vulkan", "metal"].contains(&adapters[*at].backend.as_str()));
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        if !kept.iter().any(|other| same(&adapters[*other], &adapters[at])) {
            kept.push(at);
        }
    }
    kept.sort_unstable();
    kept.into_iter().map(|at| &adapters[at]).collect()
}

/// A device of which others have everything gets nothing to do, rather than memory that is not there.
const LEAST: u64 = 1;

fn is_host_alone(specs: &[DeviceSpec]) -> bool {
    specs.iter().all(|spec| spec.index == DeviceId::Host)
}

/// Of a device's memory so much is used where nobody says: displays, drivers and other programs need some.
fn usable(memory: u64) -> u64 {
    memory / 10 * 9
}

/// The devices as a plan sees them. They are measured, which changes what is predicted and not what is planned.
pub fn planned(specs: &[DeviceSpec]) -> Result<Vec<Device>> {
    let adapters = if is_host_alone(specs) { vec![] } else { gpu::adapters() };
    let mut measured: Vec<(DeviceId, Rates)> = Vec::new();
    let mut devices = Vec::new();
    for spec in specs {
        let device = match spec.index {
            DeviceId::Host => Device::new("host", Class::Host, spec.budget, u64::MAX),
            DeviceId::Adapter(index) => match adapters.iter().find(|adapter| adapter.index == spec.index) {
                Some(adapter) => adapter.planned(spec.budget),
                None => return Err(gpu::no_such_device(index, adapters.len()).into()),
            },
        };
        // The same adapter twice is measured once.
        let known = measured.iter().find(|(index, _)| *index == spec.index).map(|(_, rates)| *rates);
        let rates = match known {
            Some(rates) => rates,
            None => measure::rates(spec.index)?,
        };
        measured.push((spec.index, rates));
        devices.push(Device { rates, ..device });
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use porism_loader::{Checkpoint, Options};
    use porism_runtime::device::{Card, Limits};
    use porism_runtime::plan::{self, Plan};
    use porism_runtime::{Engine, EngineOptions};

    const GIB: u64 = 1 << 30;
    const MEMORY: u64 = 80 * GIB;
    const WEIGHTS: u64 = 500 * GIB;

    fn adapter(index: usize, device_type: &str, memory_bytes: Option<u64>) -> DeviceProfile {
        DeviceProfile {
            index: DeviceId::Adapter(index),
            name: format!("adapter {index}"),
            backend: "vulkan".into(),
            device_type: device_type.into(),
            driver: "driver".into(),
            driver_info: "1".into(),
            memory_bytes,
            limits: Limits {
                max_buffer_size: GIB,
                max_storage_buffer_binding_size: GIB,
                max_storage_buffers_per_shader_stage: 16,
                max_compute_workgroup_storage_size: 32 << 10,
                max_compute_invocations_per_workgroup: 256,
                max_compute_workgroups_per_dimension: 65535,
                min_storage_buffer_offset_alignment: 256,
                max_immediate_size: 128,
                min_subgroup_size: 32,
                max_subgroup_size: 32,
            },
            features: vec![],
            selftest: vec![],
            card: Card { ids: [0x10de, index as u32], bus: String::new() },
        }
    }

    fn chosen(asked: Option<&str>, adapters: &[DeviceProfile]) -> Vec<(DeviceId, Option<u64>)> {
        let list = asked.map(|text| text.parse::<DeviceList>().unwrap());
        let specs = resolve(list.as_ref(), adapters, MEMORY, WEIGHTS).unwrap();
        specs.into_iter().map(|spec| (spec.index, spec.budget)).collect()
    }

    #[test]
    fn gpus_are_used_to_nine_tenths_and_software_adapters_only_when_asked_for() {
        let [first, second, third] = [0, 1, 2].map(DeviceId::Adapter);
        let host = DeviceId::Host;
        let adapters = [
            adapter(0, "discrete-gpu", Some(20 * GIB)),
            adapter(1, "discrete-gpu", None),
            adapter(2, "cpu", Some(60 * GIB)),
        ];
        let all = [(first, Some(18 * GIB)), (second, None), (host, Some(72 * GIB))];
        assert_eq!(chosen(None, &adapters), all);
        // The mapped weights of a host alone do not count against its memory.
        let alone = [(host, Some(72 * GIB + WEIGHTS))];
        assert_eq!(chosen(None, &adapters[2..]), alone);
        assert_eq!(chosen(None, &[]), alone);
        assert_eq!(chosen(Some("host"), &adapters), alone);
        assert_eq!(chosen(Some("host:1GiB"), &adapters), [(host, Some(GIB))]);
        assert_eq!(chosen(Some("0"), &adapters), [(first, Some(18 * GIB))]);
        assert_eq!(chosen(Some("0:19GiB"), &adapters), [(first, Some(19 * GIB))]);
        assert_eq!(chosen(Some("2,host:1GiB"), &adapters), [(third, None), (host, Some(GIB))]);
        // One adapter as several devices has its memory once.
        let parts = [(first, Some(6 * GIB)), (first, Some(6 * GIB)), (first, Some(6 * GIB))];
        assert_eq!(chosen(Some("0,0:6GiB,0"), &adapters), parts);
    }

    #[test]
    fn memory_that_a_gpu_shares_with_the_host_is_used_once() {
        let chosen = |asked: Option<&str>, heap: u64| -> Vec<Option<u64>> {
            let adapters = [adapter(0, "integrated-gpu", Some(heap))];
            chosen(asked, &adapters).into_iter().map(|(_, budget)| budget).collect()
        };
        assert_eq!(chosen(None, 20 * GIB), [Some(18 * GIB), Some(54 * GIB)]);
        // A heap as large as the host's memory, or larger: half of it.
        for heap in [80 * GIB, 400 * GIB] {
            assert_eq!(chosen(None, heap), [Some(36 * GIB), Some(36 * GIB)]);
        }
        assert_eq!(chosen(Some("0:70GiB,host"), 80 * GIB), [Some(70 * GIB), Some(2 * GIB)]);
        assert_eq!(chosen(Some("0:80GiB,host"), 80 * GIB), [Some(80 * GIB), Some(1)]);
    }

    #[test]
    fn absurd_budgets_are_taken_at_their_word() {
        let adapters = [adapter(0, "integrated-gpu", Some(40 * GIB))];
        let budgets: Vec<_> = chosen(Some("0:18000000TB,0:18000000TB,0,host"), &adapters);
        let absurd = Some(18_000_000_000_000_000_000);
        assert_eq!(
            budgets.into_iter().map(|(_, budget)| budget).collect::<Vec<_>>(),
            [absurd, absurd, Some(1), Some(1)]
        );
        let unknown = resolve(None, &adapters, 0, WEIGHTS).unwrap();
        assert_eq!(unknown.iter().map(|spec| spec.budget).collect::<Vec<_>>(), [Some(36 * GIB), None]);
    }

    #[test]
    fn a_card_is_used_once_whatever_lists_it() {
        let listed = |index: usize, backend: &str, name: &str, bus: &str| DeviceProfile {
            name: name.into(),
            backend: backend.into(),
            card: Card { ids: [1, 2], bus: bus.into() },
            ..adapter(index, "discrete-gpu", None)
        };
        let kept = |adapters: &[DeviceProfile]| -> Vec<usize> {
            let number = |adapter: &DeviceProfile| adapters.iter().position(|of| of.index == adapter.index);
            one_of_each_card(adapters).into_iter().filter_map(number).collect()
        };
        // Two cards, each listed by two backends.
        let buses = [
            listed(0, "dx12", "A", "01"),
            listed(1, "dx12", "A", "02"),
            listed(2, "vulkan", "A", "01"),
            listed(3, "vulkan", "A", "02"),
        ];
        assert_eq!(kept(&buses), [2, 3]);
        // One backend does not tell where they are.
        let ids = [
            listed(0, "dx12", "A", ""),
            listed(1, "dx12", "A", ""),
            listed(2, "vulkan", "A", "01"),
            listed(3, "vulkan", "A", "02"),
        ];
        assert_eq!(kept(&ids), [2, 3]);
        // Equal cards of one backend are as many, and others are others.
        assert_eq!(kept(&ids[..2]), [0, 1]);
        assert_eq!(kept(&[listed(0, "dx12", "A", ""), listed(1, "vulkan", "B", "")]), [0, 1]);
        // Two drivers of one backend for one card.
        assert_eq!(kept(&[listed(0, "vulkan", "A", "01"), listed(1, "vulkan", "A", "01")]), [0]);
    }

    #[test]
    fn there_is_one_host() {
        let list = "host,0,host:1GiB".parse::<DeviceList>().unwrap();
        assert!(resolve(Some(&list), &[], 0, 0).unwrap_err().to_string().contains("given twice"));
        let list = "0,0,host".parse::<DeviceList>().unwrap();
        assert_eq!(resolve(Some(&list), &[], 0, 0).unwrap().len(), 3);
    }

    /// All but the predictions, which are measured for one of them.
    fn what_is_planned(plan: &Plan) -> String {
        format!("{:?}", (&plan.devices, &plan.placement, plan.chunk, &plan.notes))
    }

    #[test]
    fn what_is_planned_is_what_runs() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v32-tiny-fp8");
        let checkpoint = Checkpoint::open(std::path::Path::new(folder), Options::default()).unwrap();
        let options = EngineOptions::new(160);
        let mut lists = vec!["host".to_owned(), "host:64MiB".to_owned()];
        for adapter in gpu::adapters() {
            let DeviceId::Adapter(index) = adapter.index else { unreachable!("adapters have numbers") };
            lists.extend([
                format!("{index}"),
                format!("{index}:8MiB,host"),
                format!("{index}:8MiB,host:1GiB"),
            ]);
        }
        for text in lists {
            let list = text.parse::<DeviceList>().unwrap();
            let specs = choose(Some(&list), checkpoint.weight_bytes()).unwrap();
            let printed = plan::plan(&checkpoint, &planned(&specs).unwrap(), &options).unwrap();
            let engine = Engine::open(&checkpoint, &specs, &options, &mut |_| Ok(())).unwrap();
            assert_eq!(what_is_planned(&printed), what_is_planned(engine.plan()), "--device {text}");
        }
    }
}
