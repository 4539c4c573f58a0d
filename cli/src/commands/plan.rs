//! `porism plan`: which device would hold what, and how fast that would be. Nothing is loaded.

mod page;

use anyhow::Result;
use porism_loader::{Catalogued, Checkpoint, Error, Options, TensorTable, catalog};
use porism_runtime::device::Device;
use porism_runtime::plan::{self, Note, Plan, Speed};
use porism_runtime::{DeviceId, DeviceSpec, EngineOptions};
use serde_json::{Value, json};

use crate::args;
use crate::devices::{Chosen, Hardware, Measured, Sources};
use crate::failure::Failure;
use crate::host::HostProfile;
use crate::model::{EMBEDDED_NAME, Model};
use crate::names;
use crate::opening::placed;
use crate::rig;
use crate::settings::{DeviceList, exact_size};
use crate::ui::{self, Ui};

/// The context where none is asked for, in tokens.
const DEFAULT_CONTEXT: u32 = 4096;
/// Another set of devices is worth a word if it is so much faster.
const WORTH_A_WORD: f64 = 1.01;

/// A plan and all that is said of it.
struct Report {
    /// The model.
    name: String,
    /// Tokens.
    context: u32,
    specs: Vec<DeviceSpec>,
    devices: Vec<Device>,
    sources: Vec<Sources>,
    plan: Plan,
    /// Bytes of host memory for pages of files where the host is not among the devices.
    page_cache: Option<u64>,
    /// Devices that were not named and that slow the others down, and how fast it would be with them.
    left_out: Option<(Vec<DeviceId>, Offer)>,
    /// What is faster than what was asked.
    faster: Option<Offer>,
    /// What to type next.
    commands: Vec<String>,
    notes: Vec<String>,
    is_here: bool,
    is_embedded: bool,
}

/// Another choice of devices.
struct Offer {
    /// As `--device` takes it.
    device: String,
    speed: Speed,
}

pub fn run(args: &args::Plan, ui: &Ui) -> Result<u8> {
    let subject = Subject::find(args.model.as_deref())?;
    let mut asked = args.device.device.as_ref();
    let hardware = match &args.rig {
        Some(path) => {
            // PORISM_DEVICE is about this machine.
            asked = asked.filter(|_| is_typed("--device") || is_typed("--dev"));
            rig::read(path)?
        }
        None => Hardware::here(asked),
    };
    let report = report(args, &subject, &hardware, asked)?;
    if args.json {
        ui.json(&to_json(&report))?
    } else {
        page::print(ui, &report)?
    }
    Ok(0)
}

fn report(
    args: &args::Plan,
    subject: &Subject,
    hardware: &Hardware,
    asked: Option<&DeviceList>,
) -> Result<Report> {
    let table = subject.table();
    let config = table.config();
    let context = args.context.unwrap_or(DEFAULT_CONTEXT.min(config.max_position_embeddings));
    let options = placed(EngineOptions::new(context as usize), &args.device, config)?;
    let Chosen { specs, page_cache, left_out } = hardware.choose(asked, table, &options)?;
    let listed = asked.map_or_else(|| hardware.all(), |list| list.0.clone());
    let measured = match (hardware.is_here, subject) {
        (false, _) => Measured::default(),
        (true, Subject::Files(_, checkpoint)) => Measured::new(&listed)?.with_disk_of(checkpoint),
        (true, Subject::Known(_)) => Measured::new(&listed)?,
    };
    let device = |spec: &DeviceSpec| Ok(measured.apply(spec.index, hardware.device(spec)?));
    let devices = specs.iter().map(device).collect::<Result<Vec<_>>>()?;
    let sources = specs
        .iter()
        .map(|spec| Ok(measured.sources(spec.index, hardware.sources(spec, asked)?)))
        .collect::<Result<Vec<_>>>()?;
    let placed = EngineOptions { page_cache, ..options.clone() };
    let plan = plan::plan(table, &devices, &placed)?;

    let now = Speed::from(&plan.predicted);
    let left_out = match left_out.is_empty() {
        true => None,
        false => {
            let all = hardware.choose(Some(&DeviceList(listed.clone())), table, &options)?;
            let speed = hardware.speed(&all, table, &options, &device)?;
            speed.map(|speed| (left_out, Offer { device: device_list(&listed), speed }))
        }
    };
    let faster = hardware.fastest_of(&listed, table, &options, &device)?;
    let faster =
        faster.filter(|(chosen, speed)| chosen.specs != specs && speed.decode > now.decode * WORTH_A_WORD);
    let faster = faster.map(|(chosen, speed)| {
        let used = |spec: &&DeviceSpec| chosen.specs.iter().any(|other| other.index == spec.index);
        // With the budgets that were typed.
        let list: Vec<DeviceSpec> = listed.iter().filter(used).copied().collect();
        Offer { device: device_list(&list), speed }
    });
    let mut notes: Vec<String> = plan.notes.iter().map(|note| words(note, &devices)).collect();
    if hardware.is_here {
        notes.extend(memory_notes(&plan, &devices, page_cache));
        if let Subject::Known(known) = subject {
            notes.extend(names::no_room(known.stored_bytes()));
        }
    }
    Ok(Report {
        name: subject.name(),
        context,
        commands: subject.commands(args, asked),
        specs,
        devices,
        sources,
        plan,
        page_cache,
        left_out,
        faster,
        notes,
        is_here: hardware.is_here,
        is_embedded: matches!(subject, Subject::Files(Model::Embedded, _)),
    })
}

/// Whether an option was typed, rather than in the environment.
fn is_typed(option: &str) -> bool {
    std::env::args_os().any(|arg| {
        let arg = arg.to_string_lossy();
        arg.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Devices as `--device` takes them: budgets where they were typed.
fn device_list(specs: &[DeviceSpec]) -> String {
    let part = |spec: &DeviceSpec| {
        let name = index_name(spec.index);
        spec.budget.map_or(name.clone(), |budget| format!("{name}:{}", exact_size(budget)))
    };
    specs.iter().map(part).collect::<Vec<_>>().join(",")
}

fn index_name(index: DeviceId) -> String {
    match index {
        DeviceId::Host => "host".to_owned(),
        DeviceId::Adapter(index) => index.to_string(),
    }
}

/// What is worth knowing about a plan, in words.
fn words(note: &Note, devices: &[Device]) -> String {
    let name = |device: &usize| devices[*device].name.as_str();
    let (size, number) = (|bytes: &u64| ui::bytes(*bytes), |count: &u32| ui::count((*count).into()));
    match note {
        Note::Bindings { device, at_once, experts, bindings } => format!(
            "{} binds {} at once, {experts} experts: a layer's experts there lie in {bindings} bindings",
            name(device),
            size(at_once)
        ),
        Note::Disk { experts, always: 0, .. } => format!(
            "{} of routed experts do not fit into memory: those of them that are picked are read from disk again for \
             each step",
            size(experts)
        ),
        Note::Disk { experts, always, .. } => format!(
            "{} of routed experts and {} of the weights that every token needs do not fit into memory: they are read \
             from disk again for each step",
            size(experts),
            size(always)
        ),
        Note::Streamed { device, experts, slots, files } => {
            let from = match (&files.page_cache, &files.disk) {
                (0, disk) => format!("read from disk each time ({})", size(disk)),
                (kept, 0) => format!("copied from host memory, which keeps their files ({})", size(kept)),
                (kept, disk) => format!(
                    "copied from host memory, which keeps {} of their files, or read from disk each time ({})",
                    size(kept),
                    size(disk)
                ),
            };
            format!(
                "{} experts come to {} slots of {} when they are picked: {from}",
                number(experts),
                number(slots),
                name(device)
            )
        }
        Note::Idle { device } => format!("{} has nothing to do", name(device)),
        Note::NoMultiTokenPrediction => "the multi-token-prediction head is left out".to_owned(),
    }
}

/// Where a plan counts on more memory than this machine has, or has free.
fn memory_notes(plan: &Plan, devices: &[Device], page_cache: Option<u64>) -> Vec<String> {
    let host = HostProfile::read();
    let mut notes = Vec::new();
    let (mut counted, mut budget) =
        (plan.devices.iter().map(|part| part.files.page_cache).sum::<u64>(), page_cache);
    if let Some(at) = devices.iter().position(|device| device.host) {
        (counted, budget) = (counted + plan.devices[at].total(), devices[at].memory);
    }
    if let Some(budget) = budget.filter(|budget| host.memory_bytes > 0 && *budget > host.memory_bytes) {
        notes.push(format!(
            "host memory: {} are asked for, this machine has {}",
            ui::bytes(budget),
            ui::bytes(host.memory_bytes)
        ));
    } else if host.available_bytes > 0 && counted > host.available_bytes {
        notes.push(format!(
            "only {} of host memory are available now, the plan counts on {}: until other programs give it back, the \
             rest is read from disk as well",
            ui::bytes(host.available_bytes),
            ui::bytes(counted)
        ));
    }
    notes
}

/// For a name that is not in the catalogue: what may have been meant, or what is in it.
pub fn unknown_hint(name: &str) -> String {
    let alike = names::similar_known(name);
    if alike.is_empty() {
        let names: Vec<_> = catalog::names().collect();
        format!("the catalogue has {}", names.join(", "))
    } else {
        names::did_you_mean(&alike)
    }
}

/// What is planned.
enum Subject {
    Files(Model, Box<Checkpoint>),
    Known(Box<Catalogued>),
}

impl Subject {
    /// A model's files, or without those an entry of the catalogue.
    fn find(name: Option<&str>) -> Result<Self> {
        match Model::find_or_embedded(name) {
            Ok(model) => {
                let checkpoint = model.checkpoint(Options { allow_nan: true })?;
                Ok(Self::Files(model, Box::new(checkpoint)))
            }
            Err(Error::NoModel { name, as_directory, as_name }) => match catalog::find(&name) {
                Some(known) => Ok(Self::Known(Box::new(known))),
                None => {
                    let message = format!(
                        "no model `{name}`: as a directory, {as_directory}; as a name in the Hugging Face cache, \
                         {as_name}; in the catalogue, it is unknown"
                    );
                    Err(Failure::model(message).hint(unknown_hint(&name)).into())
                }
            },
            Err(other) => Err(other.into()),
        }
    }

    fn table(&self) -> &dyn TensorTable {
        match self {
            Self::Files(_, checkpoint) => checkpoint.as_ref(),
            Self::Known(known) => known.as_ref(),
        }
    }

    /// What makes the plan true: the download where the model is not here, and the run with what the plan was made for.
    fn commands(&self, args: &args::Plan, asked: Option<&DeviceList>) -> Vec<String> {
        let mut options = String::new();
        if let Some(list) = asked {
            options.push_str(&format!(" --device {}", device_list(&list.0)));
        }
        if let Some(context) = args.context {
            options.push_str(&format!(" --ctx-size {context}"));
        }
        if let Some(heat) = &args.device.heat {
            options.push_str(&format!(" --heat {}", quoted(&heat.display().to_string())));
        }
        match self {
            Self::Files(Model::Embedded, _) => {
                vec![format!("porism run \"Prove that gcd(84, 30) = 6.\"{options}")]
            }
            Self::Files(model, _) => {
                let name = args.model.clone().unwrap_or_else(|| model.label());
                vec![format!("porism run {}{options}", quoted(&name))]
            }
            Self::Known(known) => {
                let name = known.repository();
                vec![format!("hf download {name}"), format!("porism run {name}{options}")]
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Files(Model::Embedded, _) => EMBEDDED_NAME.to_owned(),
            Self::Files(model, _) => model.label(),
            Self::Known(known) => known.name().to_owned(),
        }
    }
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn to_json(report: &Report) -> Value {
    let Report { devices, plan, .. } = report;
    let list: Vec<Value> = devices
        .iter()
        .zip(&plan.devices)
        .zip(report.specs.iter().zip(&report.sources))
        .map(|((device, part), (spec, sources))| {
            let kinds = part.weights.rows().map(|(kind, bytes)| (kind.name().to_owned(), bytes.into()));
            json!({
                "name": device.name,
                "index": spec.index,
                "memory_bytes": device.memory,
                "weights_bytes": part.weights.total(),
                "cache_bytes": part.cache,
                "activations_bytes": part.activations,
                "staging_bytes": part.staging.bytes(),
                "layers": part.layers.len(),
                "first_layer": (!part.layers.is_empty()).then_some(part.layers.start),
                "experts": part.experts + part.streamed,
                "streamed_experts": part.streamed,
                "slots": part.slots,
                "disk_bytes": part.from_disk(),
                "page_cache_bytes": part.files.page_cache,
                "embedding": part.embedding,
                "head": part.head,
                "weights_by_kind": kinds.collect::<serde_json::Map<_, Value>>(),
                "bandwidth_bytes_per_second": device.rates.bandwidth,
                "link_bytes_per_second": device.rates.link,
                "disk_bytes_per_second": device.rates.disk,
                "operations_per_second": device.rates.compute,
                "weights_decoded_per_second": device.rates.decode.is_finite().then_some(device.rates.decode),
                "values_per_second": device.rates.values,
                "seconds_per_dispatch": device.rates.dispatch,
                "seconds_per_hand_over": device.rates.handover,
                "sources": sources,
            })
        })
        .collect();
    // Layers without experts have empty lists, so that placement[layer][expert] is a device's index.
    let placement: Vec<Vec<usize>> =
        plan.placement.iter().map(|layer| layer.iter().map(|place| place.device).collect()).collect();
    let offer = |offer: &Offer| {
        json!({
            "device": offer.device,
            "decode_tokens_per_second": offer.speed.decode,
            "prefill_tokens_per_second": offer.speed.prefill,
        })
    };
    let left_out = report.left_out.as_ref().map(|(indices, _)| indices.as_slice()).unwrap_or_default();
    json!({
        "schema": 1,
        "model": report.name,
        "context": report.context,
        "chunk": plan.chunk,
        "devices": list,
        "weights_bytes": plan.weights(),
        "disk_bytes": plan.disk(),
        "page_cache_bytes": plan.devices.iter().map(|part| part.files.page_cache).sum::<u64>(),
        "placement": placement,
        "predicted": {
            "decode_tokens_per_second": plan.predicted.decode_tokens_per_second,
            "prefill_tokens_per_second": plan.predicted.prefill_tokens_per_second,
            "limited_by": plan.predicted.limited_by,
            "prefill_limited_by": plan.predicted.prefill_limited_by,
            "load_seconds": load_seconds(report),
        },
        "left_out": left_out,
        "with_all": report.left_out.as_ref().map(|(_, with)| offer(with)),
        "faster": report.faster.as_ref().map(offer),
        "commands": report.commands,
        "notes": report.notes,
    })
}

/// Seconds until every weight is where the plan has it, if nothing of it is in memory yet.
fn load_seconds(report: &Report) -> f64 {
    let disk = report.devices.iter().map(|device| device.rates.disk).fold(f64::INFINITY, f64::min);
    report.plan.loaded() as f64 / disk
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clap::Parser as _;

    use super::*;
    use crate::devices::Source;

    const MODEL: &str = "deepseek-math-v2";

    fn rig_file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rigs").join(name)
    }

    /// The hardware of a rig of the documentation with so many of its adapters.
    fn some_of(name: &str, count: usize) -> Hardware {
        let mut hardware = rig::read(&rig_file(name)).unwrap();
        hardware.adapters.truncate(count);
        hardware
    }

    fn typed(rig: &str, more: &[&str]) -> args::Plan {
        let rig = rig_file(rig).display().to_string();
        let line = ["porism", "plan", MODEL, "--rig", &rig].into_iter().chain(more.iter().copied());
        match args::Cli::parse_from(line).command {
            args::Command::Plan(plan) => plan,
            other => panic!("{other:?}"),
        }
    }

    fn made(hardware: &Hardware, typed: &args::Plan) -> Report {
        let subject = Subject::find(Some(MODEL)).unwrap();
        report(typed, &subject, hardware, typed.device.device.as_ref()).unwrap()
    }

    /// Every byte is on something that is there.
    fn check(hardware: &Hardware, report: &Report) {
        let known = catalog::find(MODEL).unwrap();
        let plan = &report.plan;
        assert!(plan.weights() >= known.weight_bytes(), "{} of {}", plan.weights(), known.weight_bytes());
        let mut host = 0;
        for ((spec, device), part) in report.specs.iter().zip(&report.devices).zip(&plan.devices) {
            let adapter = hardware.adapters.iter().find(|adapter| adapter.index == spec.index);
            assert!(part.total() <= device.memory.unwrap(), "{}", device.name);
            host += part.files.page_cache;
            match adapter {
                Some(adapter) if !adapter.unified => assert!(part.total() <= adapter.memory.unwrap()),
                _ => host += part.total(),
            }
            // What is read from disk is told.
            let told = plan.notes.iter().any(|note| match note {
                Note::Disk { experts, always, .. } => experts + always > 0,
                Note::Streamed { files, .. } => files.disk > 0,
                _ => false,
            });
            assert!(part.from_disk() == 0 || told, "{:?}", plan.notes);
        }
        let memory = hardware.host_memory.unwrap_or(0);
        assert!(host <= memory, "{host} of {memory} bytes of host memory");
        assert!(report.sources.iter().all(|sources| sources.memory != Source::Unknown));
        let speed = Speed::from(&plan.predicted);
        assert!(speed.decode > 0.0 && speed.decode.is_finite() && load_seconds(report).is_finite());
        assert!(!report.commands.is_empty());
        // Nothing faster is kept back.
        assert!(report.faster.as_ref().is_none_or(|offer| offer.speed.decode > speed.decode));
        if let Some((_, with)) = &report.left_out {
            assert!(with.speed.decode < speed.decode, "they were left out for being slower");
        }
    }

    #[test]
    fn every_byte_of_every_rig_of_the_documentation_is_on_something() {
        let mut seen = 0;
        for entry in rig_file("").read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let hardware = rig::read(&rig_file(&name)).unwrap();
            let found = made(&hardware, &typed(&name, &[]));
            check(&hardware, &found);
            // Every other device; without the host, and alone.
            for list in ["0", "host", "0,host:64GB", "0,host:100MB"] {
                if list.contains("host") && hardware.host.is_none() {
                    continue;
                }
                let typed = typed(&name, &["--device", list]);
                let found = made(&hardware, &typed);
                check(&hardware, &found);
                assert_eq!(found.specs.len(), list.split(',').count(), "{name}: what was named is used");
            }
            seen += 1;
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn another_card_never_makes_a_plan_slower_by_default() {
        for name in ["1tb-and-8x24.toml", "256-and-mixed.toml", "768-and-mixed.toml"] {
            let cards = rig::read(&rig_file(name)).unwrap().adapters.len();
            let mut before = 0.0;
            for count in 0..=cards {
                let hardware = some_of(name, count);
                let found = made(&hardware, &typed(name, &[]));
                check(&hardware, &found);
                let speed = found.plan.predicted.decode_tokens_per_second;
                assert!(speed >= before * (1.0 - 1e-9), "{name}, {count}: {speed} after {before}");
                before = speed;
            }
        }
    }

    #[test]
    fn a_card_that_slows_the_others_down_is_used_only_by_name_and_with_a_word() {
        let name = "1tb-and-8x24.toml";
        let mut hardware = some_of(name, 1);
        // Each layer is handed over to it and back.
        hardware.adapters[0].device.rates.handover = 5e-3;
        let found = made(&hardware, &typed(name, &[]));
        assert_eq!(found.specs.iter().map(|spec| spec.index).collect::<Vec<_>>(), [DeviceId::Host]);
        let (left_out, with) = found.left_out.as_ref().unwrap();
        assert_eq!((left_out.as_slice(), with.device.as_str()), (&[DeviceId::Adapter(0)][..], "0,host"));
        let named = made(&hardware, &typed(name, &["--device", "0,host"]));
        let faster = named.faster.unwrap();
        assert_eq!((named.specs.len(), faster.device.as_str()), (2, "host"));
        assert_eq!(faster.speed, Speed::from(&found.plan.predicted));
    }

    #[test]
    fn a_machine_that_holds_less_than_the_model_reads_the_rest_from_disk() {
        let name = "256-and-mixed.toml";
        let mut hardware = some_of(name, 0);
        let mut before = f64::INFINITY;
        for memory in [1_000_000_000_000, 256_000_000_000, 22_500_000_000, 8_000_000_000, 1_000_000_000] {
            hardware.host_memory = Some(memory);
            let found = made(&hardware, &typed(name, &[]));
            check(&hardware, &found);
            let plan = &found.plan;
            assert_eq!(plan.disk() == 0, memory == 1_000_000_000_000);
            let speed = plan.predicted.decode_tokens_per_second;
            // No faster than the disk gives what the memory has not.
            let known = catalog::find(MODEL).unwrap();
            let share = plan.disk() as f64 / known.weight_bytes() as f64;
            assert!(speed <= before && speed * 20e9 * (share - 0.1) < 6e9, "{memory}: {speed}");
            before = speed;
        }
    }

    #[test]
    fn a_rig_without_a_host_counts_on_no_memory_of_one() {
        let name = "8x80-no-host.toml";
        let hardware = some_of(name, 8);
        let found = made(&hardware, &typed(name, &[]));
        assert!(found.plan.disk() > 0 && found.plan.devices.iter().all(|part| part.files.page_cache == 0));
        assert!(found.plan.predicted.limited_by.contains("disk"), "{:?}", found.plan.predicted);
        // Host memory that is named but does not compute keeps the files.
        let name = "8x80.toml";
        let hardware = some_of(name, 8);
        let found = made(&hardware, &typed(name, &["--device", "0,1,2,3,4,5,6,7"]));
        check(&hardware, &found);
        assert!(found.plan.disk() == 0 && found.plan.devices.iter().any(|part| part.files.page_cache > 0));
    }

    #[test]
    fn unified_memory_is_one_pool() {
        let name = "mac-512.toml";
        let hardware = some_of(name, 1);
        let memory = hardware.host_memory.unwrap();
        for list in [None, Some("0:480GB,host"), Some("0,host"), Some("0")] {
            let more: Vec<&str> = list.iter().flat_map(|list| ["--device", *list]).collect();
            let found = made(&hardware, &typed(name, &more));
            check(&hardware, &found);
            let budgets: u64 = found.specs.iter().map(|spec| spec.budget.unwrap()).sum();
            assert!(budgets + found.page_cache.unwrap_or(0) <= memory, "{:?}", found.specs);
        }
    }
}
