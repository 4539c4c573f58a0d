//! `--device` → devices with budgets: one answer for every command, so that what `plan` shows is what `run` does.

use anyhow::Result;
use porism_loader::{Checkpoint, TensorTable};
use porism_runtime::device::{Class, Device, DeviceProfile, Rates};
use porism_runtime::plan::{self, Speed};
use porism_runtime::{DeviceId, DeviceSpec, EngineOptions};
use porism_runtime::{gpu, measure};
use serde::Serialize;

use crate::failure::Failure;
use crate::host::HostProfile;
use crate::settings::DeviceList;

/// A device of which others have everything gets nothing to do, rather than memory that is not there.
const LEAST: u64 = 1;

/// Where a figure is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A rig file, or `--device`.
    Stated,
    /// The system or a driver says so.
    Reported,
    /// Found out in this run.
    Measured,
    /// Nobody said: what is usual for such a device.
    Assumed,
    /// Not known, and nothing was assumed.
    Unknown,
}

/// Where the figures of a device are from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sources {
    pub memory: Source,
    pub bandwidth: Source,
    /// The share of a stated bandwidth that is counted on.
    pub efficiency: f64,
    pub link: Source,
    pub disk: Source,
    pub compute: Source,
    pub dispatch: Source,
}

/// An adapter that may be used.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What `--device` calls it.
    pub index: DeviceId,
    /// As a plan sees it, without a budget.
    pub device: Device,
    /// Bytes that may be used of its memory, where somebody knows.
    pub memory: Option<u64>,
    /// Whether its memory is the host's.
    pub unified: bool,
    /// Whether it is used where nobody says which are.
    pub by_default: bool,
    pub sources: Sources,
}

/// What there is to choose from: this machine, or a rig of a file.
#[derive(Clone, Debug)]
pub struct Hardware {
    pub adapters: Vec<Adapter>,
    /// The CPU side without a budget; a rig may have none.
    pub host: Option<(Device, Sources)>,
    /// Bytes of host memory that may be used, where somebody knows.
    pub host_memory: Option<u64>,
    /// Whether it is this machine, which can be measured.
    pub is_here: bool,
}

/// Devices with budgets.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub specs: Vec<DeviceSpec>,
    /// What host memory keeps of the files where the host is not among the devices.
    pub page_cache: Option<u64>,
    /// Adapters without which it is faster, and that were not named.
    pub left_out: Vec<DeviceId>,
}

/// The devices to use on this machine, with budgets as far as anybody knows one: what was asked, else every real GPU that
/// does not slow the others down, and the host. Software adapters are many times slower than the host and are taken only
/// when asked for.
pub fn choose(
    asked: Option<&DeviceList>,
    table: &dyn TensorTable,
    options: &EngineOptions,
) -> Result<Chosen> {
    Hardware::here(asked).choose(asked, table, options)
}

impl Hardware {
    /// This machine. What is free at the moment does not count: the same command has the same plan tomorrow.
    pub fn here(asked: Option<&DeviceList>) -> Self {
        // Looking for adapters takes a moment.
        let is_host_alone = asked.is_some_and(|list| is_host_alone(&list.0));
        let adapters = if is_host_alone { vec![] } else { gpu::adapters() };
        Self::with(&adapters, HostProfile::read().memory_bytes)
    }

    /// A machine with these adapters and so many bytes of memory; 0 where nobody knows.
    fn with(profiles: &[DeviceProfile], memory: u64) -> Self {
        let kept: Vec<DeviceId> = one_of_each_card(profiles).iter().map(|adapter| adapter.index).collect();
        let assumed = |memory: Source| Sources {
            memory,
            bandwidth: Source::Assumed,
            efficiency: 1.0,
            link: Source::Assumed,
            disk: Source::Assumed,
            compute: Source::Assumed,
            dispatch: Source::Assumed,
        };
        let adapters = profiles
            .iter()
            .map(|profile| {
                // What a software adapter calls its memory is the host's.
                let memory = profile.memory_bytes.filter(|_| !profile.is_software()).map(usable);
                Adapter {
                    index: profile.index,
                    device: profile.planned(None),
                    memory,
                    unified: matches!(profile.class(), Class::Integrated | Class::Software),
                    by_default: kept.contains(&profile.index) && !profile.is_software(),
                    sources: assumed(if memory.is_some() { Source::Reported } else { Source::Unknown }),
                }
            })
            .collect();
        let host_memory = (memory > 0).then(|| usable(memory));
        let source = if host_memory.is_some() { Source::Reported } else { Source::Unknown };
        let host = Device::new("host", Class::Host, None, u64::MAX);
        Hardware { adapters, host: Some((host, assumed(source))), host_memory, is_here: true }
    }

    /// Every device that is used where nobody says which.
    pub fn all(&self) -> Vec<DeviceSpec> {
        let adapters = self.adapters.iter().filter(|adapter| adapter.by_default).map(|adapter| adapter.index);
        adapters.chain(self.host.as_ref().map(|_| DeviceId::Host)).map(DeviceSpec::from).collect()
    }

    /// The devices to use, with budgets.
    ///
    /// # Errors
    /// A device that is not there or named twice, or a model that kernels cannot run.
    pub fn choose(
        &self,
        asked: Option<&DeviceList>,
        table: &dyn TensorTable,
        options: &EngineOptions,
    ) -> Result<Chosen> {
        if let Some(list) = asked {
            return self.budgets(&list.0);
        }
        let all = self.all();
        let nominal = |spec: &DeviceSpec| self.device(spec);
        match self.fastest_of(&all, table, options, &nominal)? {
            Some((chosen, _)) => Ok(chosen),
            // The refusal is about all of them.
            None => self.budgets(&all),
        }
    }

    /// The fastest of the sets that are `list` without some of its adapters, and how fast it is; `device` says what each is
    /// to the plan. `None`: the model fits none.
    pub fn fastest_of(
        &self,
        list: &[DeviceSpec],
        table: &dyn TensorTable,
        options: &EngineOptions,
        device: &dyn Fn(&DeviceSpec) -> Result<Device>,
    ) -> Result<Option<(Chosen, Speed)>> {
        let adapters: Vec<&DeviceSpec> = list.iter().filter(|spec| spec.index != DeviceId::Host).collect();
        let with = |used: &[bool]| -> Result<Chosen> {
            let mut used = used.iter();
            let mut is_used = |spec: &DeviceSpec| {
                spec.index == DeviceId::Host || *used.next().expect("one for each adapter")
            };
            let specs: Vec<DeviceSpec> = list.iter().filter(|spec| is_used(spec)).copied().collect();
            let left_out = adapters.iter().map(|spec| spec.index);
            let left_out = left_out.filter(|index| !specs.iter().any(|spec| spec.index == *index)).collect();
            Ok(Chosen { left_out, ..self.budgets(&specs)? })
        };
        let mut trouble = None;
        let found = plan::fastest(&self.alike(&adapters), &mut |used| {
            let speed = with(used).and_then(|chosen| self.speed(&chosen, table, options, device));
            Ok(speed.unwrap_or_else(|error| {
                trouble.get_or_insert(error);
                None
            }))
        })?;
        match (trouble, found) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(None),
            (None, Some(used)) => {
                let chosen = with(&used)?;
                let speed = self.speed(&chosen, table, options, device)?;
                Ok(speed.map(|speed| (chosen, speed)))
            }
        }
    }

    /// How fast a plan for these devices is; `None` where the model does not fit.
    pub fn speed(
        &self,
        chosen: &Chosen,
        table: &dyn TensorTable,
        options: &EngineOptions,
        device: &dyn Fn(&DeviceSpec) -> Result<Device>,
    ) -> Result<Option<Speed>> {
        use porism_runtime::Error as E;
        if chosen.specs.is_empty() {
            return Ok(None);
        }
        let devices = chosen.specs.iter().map(device).collect::<Result<Vec<_>>>()?;
        let options = EngineOptions { page_cache: chosen.page_cache, ..options.clone() };
        match plan::plan(table, &devices, &options) {
            Ok(plan) => Ok(Some((&plan.predicted).into())),
            Err(E::DoesNotFit { .. } | E::OutOfMemory { .. } | E::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same number for adapters that are the same to a plan.
    fn alike(&self, specs: &[&DeviceSpec]) -> Vec<usize> {
        let what = |spec: &DeviceSpec| {
            let adapter = self.adapters.iter().find(|adapter| adapter.index == spec.index);
            let known =
                adapter.map(|of| (of.device.nominal, of.device.max_binding_bytes, of.memory, of.unified));
            (known, spec.budget)
        };
        let kinds: Vec<_> = specs.iter().map(|spec| what(spec)).collect();
        kinds.iter().map(|kind| kinds.iter().position(|other| other == kind).expect("itself")).collect()
    }

    /// A device as a plan sees it, by what it is expected to do.
    ///
    /// # Errors
    /// An index that no adapter has.
    pub fn device(&self, spec: &DeviceSpec) -> Result<Device> {
        let (device, _) = self.known(spec.index)?;
        Ok(Device { memory: spec.budget, ..device })
    }

    /// Where the figures of a device are from.
    ///
    /// # Errors
    /// An index that no adapter has.
    pub fn sources(&self, spec: &DeviceSpec, asked: Option<&DeviceList>) -> Result<Sources> {
        let (_, sources) = self.known(spec.index)?;
        let stated = asked.is_some_and(|list| list.0.contains(spec));
        let memory = match (stated && spec.budget.is_some(), spec.budget.is_some(), sources.memory) {
            (true, ..) => Source::Stated,
            // A part of the host's.
            (false, true, Source::Unknown) => Source::Assumed,
            (.., source) => source,
        };
        Ok(Sources { memory, ..sources })
    }

    fn known(&self, index: DeviceId) -> Result<(Device, Sources)> {
        match index {
            DeviceId::Host => self.host.clone().ok_or_else(|| {
                Failure::usage("`host` is asked for, and the rig has none")
                    .hint("add a [[device]] named `host` to the file, with memory and bandwidth")
                    .into()
            }),
            DeviceId::Adapter(number) => match self.adapters.iter().find(|adapter| adapter.index == index) {
                Some(adapter) => Ok((adapter.device.clone(), adapter.sources)),
                None if self.is_here => Err(gpu::no_such_device(number, self.adapters.len()).into()),
                None => {
                    let count = self.adapters.len();
                    let message = format!("device {number} does not exist, the rig has {}", adapters(count));
                    Err(Failure::usage(message)
                        .hint("devices are numbered from 0 in the order of the file, without `host`")
                        .into())
                }
            },
        }
    }

    /// Budgets for those devices that have none: what is left of an adapter's memory, and what adapters leave of the host's.
    /// Those that share it with the host get no more than three quarters of it, as Metal has it for its GPUs.
    fn budgets(&self, list: &[DeviceSpec]) -> Result<Chosen> {
        let mut list = list.to_vec();
        if list.iter().filter(|spec| spec.index == DeviceId::Host).count() > 1 {
            return Err(Failure::usage("`host` is given twice, there is one CPU side")
                .hint("name it once, as in `0,host:64GiB`")
                .into());
        }
        let given = |list: &[DeviceSpec], here: &dyn Fn(DeviceId) -> bool| {
            let here = list.iter().filter(|spec| here(spec.index));
            here.filter_map(|spec| spec.budget).fold(0, u64::saturating_add)
        };
        let is_unified =
            |index: DeviceId| self.adapters.iter().any(|adapter| adapter.unified && adapter.index == index);
        let mut unified = list.iter().filter(|spec| spec.budget.is_none() && is_unified(spec.index)).count();
        for adapter in &self.adapters {
            let here = |index: DeviceId| index == adapter.index;
            let open = list.iter().filter(|spec| here(spec.index) && spec.budget.is_none()).count();
            if open == 0 {
                continue;
            }
            // What each of its devices gets.
            let own = adapter.memory.map(|memory| memory.saturating_sub(given(&list, &here)) / open as u64);
            let pool = self
                .host_memory
                .filter(|_| adapter.unified)
                .map(|memory| (memory / 4 * 3).saturating_sub(given(&list, &is_unified)) / unified as u64);
            let each = own.into_iter().chain(pool).min().map(|bytes| bytes.max(LEAST));
            for spec in list.iter_mut().filter(|spec| here(spec.index)) {
                spec.budget = spec.budget.or(each);
            }
            unified -= if adapter.unified { open } else { 0 };
        }
        let left = self.host_memory.map(|memory| memory.saturating_sub(given(&list, &is_unified)));
        let host = list.iter_mut().find(|spec| spec.index == DeviceId::Host);
        let page_cache = if host.is_some() { None } else { left };
        if let Some(host) = host {
            host.budget = host.budget.or(left.map(|bytes| bytes.max(LEAST)));
        }
        Ok(Chosen { specs: list, page_cache, left_out: vec![] })
    }
}

/// `2 adapters`
fn adapters(count: usize) -> String {
    format!("{count} adapter{}", if count == 1 { "" } else { "s" })
}

/// The adapters without those that are another backend's or driver's view of the same card; Vulkan and Metal come first. What
/// is plugged in at one place is one card, whatever drivers call it. Where it is not told, two equal cards are two adapters of
/// one backend.
fn one_of_each_card(adapters: &[DeviceProfile]) -> Vec<&DeviceProfile> {
    let same = |a: &DeviceProfile, b: &DeviceProfile| {
        let by_bus = !a.card.bus.is_empty() && !b.card.bus.is_empty();
        match by_bus {
            true => a.card.bus == b.card.bus,
            false => a.name == b.name && a.backend != b.backend && a.card.ids == b.card.ids,
        }
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

fn is_host_alone(specs: &[DeviceSpec]) -> bool {
    specs.iter().all(|spec| spec.index == DeviceId::Host)
}

/// Of a device's memory so much is used where nobody says: displays, drivers and other programs need some.
fn usable(memory: u64) -> u64 {
    memory / 10 * 9
}

/// What devices of this machine were measured to do, each once: that changes what is predicted and not what is planned.
#[derive(Debug, Default)]
pub struct Measured {
    devices: Vec<(DeviceId, Rates)>,
    /// Bytes per second that files are read with.
    disk: Option<f64>,
}

impl Measured {
    /// Measures the devices of a list.
    ///
    /// # Errors
    /// A device that does not exist or fails.
    pub fn new(specs: &[DeviceSpec]) -> Result<Self> {
        let mut devices: Vec<(DeviceId, Rates)> = Vec::new();
        for spec in specs {
            if !devices.iter().any(|(index, _)| *index == spec.index) {
                devices.push((spec.index, measure::rates(spec.index)?));
            }
        }
        Ok(Measured { devices, disk: None })
    }

    /// Measures the disk that a checkpoint is on as well, where that can be done.
    #[must_use]
    pub fn with_disk_of(self, checkpoint: &Checkpoint) -> Self {
        Measured { disk: porism_loader::disk::read_rate(checkpoint), ..self }
    }

    /// Where the figures of a device are from, if it was measured.
    pub fn sources(&self, index: DeviceId, sources: Sources) -> Sources {
        let disk = if self.disk.is_some() { Source::Measured } else { sources.disk };
        let sources = Sources { disk, ..sources };
        if !self.devices.iter().any(|(known, _)| *known == index) {
            return sources;
        }
        let found = Source::Measured;
        let link = if index == DeviceId::Host { found } else { sources.link };
        Sources { bandwidth: found, compute: found, dispatch: found, link, ..sources }
    }

    /// The device as it was measured, if it was.
    pub fn apply(&self, index: DeviceId, device: Device) -> Device {
        let mut rates = match self.devices.iter().find(|(known, _)| *known == index) {
            Some((_, rates)) => *rates,
            None => device.rates,
        };
        rates.disk = self.disk.unwrap_or(rates.disk);
        Device { rates, ..device }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use porism_loader::Options;
    use porism_runtime::Engine;
    use porism_runtime::device::{Card, Limits};
    use porism_runtime::plan::Plan;

    const GIB: u64 = 1 << 30;
    const MEMORY: u64 = 80 * GIB;

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

    /// Devices and budgets on a machine with these adapters and so many bytes of memory.
    fn budgets(asked: Option<&str>, adapters: &[DeviceProfile], memory: u64) -> Result<Chosen> {
        let hardware = Hardware::with(adapters, memory);
        match asked {
            Some(text) => hardware.budgets(&text.parse::<DeviceList>().unwrap().0),
            None => hardware.budgets(&hardware.all()),
        }
    }

    fn chosen(asked: Option<&str>, adapters: &[DeviceProfile]) -> Vec<(DeviceId, Option<u64>)> {
        let specs = budgets(asked, adapters, MEMORY).unwrap().specs;
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
        // A host has no more memory for being alone: what does not fit is read from disk.
        let alone = [(host, Some(72 * GIB))];
        assert_eq!(chosen(None, &adapters[2..]), alone);
        assert_eq!(chosen(None, &[]), alone);
        assert_eq!(chosen(Some("host"), &adapters), alone);
        assert_eq!(chosen(Some("host:1GiB"), &adapters), [(host, Some(GIB))]);
        assert_eq!(chosen(Some("0"), &adapters), [(first, Some(18 * GIB))]);
        assert_eq!(chosen(Some("0:19GiB"), &adapters), [(first, Some(19 * GIB))]);
        // What a software adapter has is the host's.
        assert_eq!(chosen(Some("2,host"), &adapters), [(third, Some(54 * GIB)), (host, Some(18 * GIB))]);
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
        // A heap as large as the host's memory, or larger: three quarters of it.
        for heap in [80 * GIB, 400 * GIB] {
            assert_eq!(chosen(None, heap), [Some(54 * GIB), Some(18 * GIB)]);
        }
        // Metal says nothing of it.
        let silent = [adapter(0, "integrated-gpu", None)];
        let found = budgets(None, &silent, MEMORY).unwrap().specs;
        assert_eq!(
            found.iter().map(|spec| spec.budget).collect::<Vec<_>>(),
            [Some(54 * GIB), Some(18 * GIB)]
        );
        // Without the host, the rest of its memory keeps pages of files.
        let alone = budgets(Some("0"), &silent, MEMORY).unwrap();
        assert_eq!((alone.specs[0].budget, alone.page_cache), (Some(54 * GIB), Some(18 * GIB)));
        let card = budgets(Some("0"), &[adapter(0, "discrete-gpu", Some(20 * GIB))], MEMORY).unwrap();
        assert_eq!(card.page_cache, Some(72 * GIB));
        assert_eq!(chosen(Some("0:70GiB,host"), 80 * GIB), [Some(70 * GIB), Some(2 * GIB)]);
        assert_eq!(chosen(Some("0:80GiB,host"), 80 * GIB), [Some(80 * GIB), Some(1)]);
    }

    #[test]
    fn absurd_budgets_are_taken_at_their_word() {
        let adapters = [adapter(0, "integrated-gpu", Some(40 * GIB))];
        let found: Vec<_> = chosen(Some("0:18000000TB,0:18000000TB,0,host"), &adapters);
        let absurd = Some(18_000_000_000_000_000_000);
        assert_eq!(
            found.into_iter().map(|(_, budget)| budget).collect::<Vec<_>>(),
            [absurd, absurd, Some(1), Some(1)]
        );
        let unknown = budgets(None, &adapters, 0).unwrap().specs;
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
        assert_eq!(kept(&[listed(0, "vulkan", "A", "01"), listed(1, "vulkan", "A (RADV)", "01")]), [0]);
        assert_eq!(kept(&[listed(0, "vulkan", "A", "01"), listed(1, "vulkan", "A", "02")]), [0, 1]);
    }

    #[test]
    fn there_is_one_host() {
        let twice = budgets(Some("host,0,host:1GiB"), &[], 0);
        assert!(twice.unwrap_err().to_string().contains("given twice"));
        assert_eq!(budgets(Some("0,0,host"), &[], 0).unwrap().specs.len(), 3);
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
        let every: Vec<DeviceSpec> = gpu::adapters().iter().map(|adapter| adapter.index.into()).collect();
        let measured = Measured::new(&[&every[..], &[DeviceId::Host.into()]].concat()).unwrap();
        for text in lists {
            let list = text.parse::<DeviceList>().unwrap();
            let hardware = Hardware::here(Some(&list));
            let chosen = hardware.choose(Some(&list), &checkpoint, &options).unwrap();
            let options = EngineOptions { page_cache: chosen.page_cache, ..options.clone() };
            let device = |spec: &DeviceSpec| measured.apply(spec.index, hardware.device(spec).unwrap());
            let planned: Vec<Device> = chosen.specs.iter().map(device).collect();
            let printed = plan::plan(&checkpoint, &planned, &options).unwrap();
            let engine = Engine::open(&checkpoint, &chosen.specs, &options, &mut |_| Ok(())).unwrap();
            assert_eq!(what_is_planned(&printed), what_is_planned(engine.plan()), "--device {text}");
        }
    }
}
