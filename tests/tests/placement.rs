//! Any placement is one device: the golden values on several devices, experts spread so that each layer is split, and in
//! slots so few that experts leave at every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Options};
use porism_runtime::device::{Device, OpenDevice};
use porism_runtime::engine::{Engine, Output, Reduced, Schedule, Work};
use porism_runtime::options::{self, Policy};
use porism_runtime::plan;
use porism_runtime::{DeviceId, DeviceSpec, EngineOptions};
use porism_tests::distance;
use porism_tests::every_adapter;
use porism_tests::golden::Golden;
use porism_tests::watched::{Watch, watched};

const CHECKPOINTS: [&str; 3] = ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"];
/// Relative L2 distance of logits.
const RELATIVE_L2: f64 = 2e-5;
/// Largest absolute difference of a logit.
const MAX_ABS: f64 = 1e-3;
const CONTEXT: usize = 160;
const STEP: usize = 24;

/// How the experts are to lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    /// Divided among all devices.
    Free,
    /// On the home of their layer.
    Home,
    /// The adapters have room for about half of the experts, the host takes the rest.
    HalfOnHost,
    /// The adapters have room for one part in so many of the experts and there is no host.
    Slots(u64, Policy),
}

fn main() {
    let arguments = Arguments::from_args();
    let adapters: Vec<DeviceId> = every_adapter().iter().map(|adapter| adapter.index).collect();
    let (first, last, host) = (adapters[0], adapters[adapters.len() - 1], DeviceId::Host);
    let rigs = [
        ("two_adapters", vec![first, last], Spread::Free),
        ("two_homes", vec![first, last], Spread::Home),
        ("one_adapter_twice", vec![first, first], Spread::Free),
        ("adapter_and_host", vec![first, host], Spread::HalfOnHost),
        ("host_and_adapter", vec![host, last], Spread::HalfOnHost),
        ("all", vec![first, last, host], Spread::HalfOnHost),
        ("slots_lfru", vec![first], Spread::Slots(4, Policy::Lfru)),
        ("slots_lru", vec![last], Spread::Slots(2, Policy::Lru)),
        ("slots_pinned", vec![first], Spread::Slots(2, Policy::Pinned)),
        ("slots_on_two_adapters", vec![first, last], Spread::Slots(3, Policy::Lfru)),
    ];
    let mut trials = Vec::new();
    for name in CHECKPOINTS {
        for (rig, devices, spread) in &rigs {
            let (devices, spread) = (devices.clone(), *spread);
            trials
                .push(Trial::test(format!("parity::{name}::{rig}"), move || parity(name, &devices, spread)));
        }
    }
    trials.push(Trial::test("the_same_rig_gives_the_same_bits", move || same_bits(&[first, last, host])));
    trials.push(Trial::test("a_device_without_work_takes_nothing", move || idle(&[first, last, host])));
    libtest_mimic::run(&arguments, trials).exit();
}

/// Budgets that bring a spread about.
fn specs(checkpoint: &Checkpoint, devices: &[DeviceId], spread: Spread) -> Result<Vec<DeviceSpec>, Failed> {
    let options = options(spread);
    let mut specs: Vec<DeviceSpec> = devices.iter().map(|index| (*index).into()).collect();
    let parts = match spread {
        Spread::Free | Spread::Home => return Ok(specs),
        Spread::HalfOnHost => 2,
        Spread::Slots(parts, _) => parts,
    };
    // What a whole model takes on one device, but for the experts that are to go.
    let alone = Device::adapter("alone", Some(1 << 40), 1e9, 1e9);
    let whole = plan::plan(checkpoint, std::slice::from_ref(&alone), &options)?;
    let whole = &whole.devices[0];
    let experts = whole.weights.of(porism_loader::Kind::RoutedExpert);
    let adapters = devices.iter().filter(|index| **index != DeviceId::Host).count() as u64;
    for spec in specs.iter_mut().filter(|spec| spec.index != DeviceId::Host) {
        // Each adapter is home to a part of the layers and needs activations of its own.
        spec.budget = Some(
            whole.activations
                + (1 << 20)
                + (whole.weights.total() - experts + whole.cache) * (4 + adapters) / (5 * adapters)
                + experts / (parts * adapters),
        );
    }
    Ok(specs)
}

fn open<'c>(
    checkpoint: &'c Checkpoint,
    specs: &[DeviceSpec],
    spread: Spread,
) -> Result<(Engine<'c>, Vec<Arc<AtomicU64>>), Failed> {
    let mut counters = Vec::new();
    let mut devices = Vec::new();
    for spec in specs {
        let watch = Watch::default();
        devices.push(watched(OpenDevice::open(*spec)?, &watch));
        counters.push(watch.allocated);
    }
    Ok((Engine::on(devices, checkpoint, &options(spread), &mut |_| Ok(()))?, counters))
}

/// Steps of 24 tokens that cannot shrink, so that budgets are about experts, and mat-vecs and mat-muls both run.
fn options(spread: Spread) -> EngineOptions {
    let policy = if let Spread::Slots(_, policy) = spread { policy } else { Policy::default() };
    EngineOptions {
        policy,
        count_experts: true,
        spread: if spread == Spread::Home { options::Spread::Home } else { options::Spread::All },
        chunk: STEP,
        sequences: STEP,
        cache_tokens: Some(CONTEXT),
        ..EngineOptions::new(CONTEXT)
    }
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn parity(name: &str, devices: &[DeviceId], spread: Spread) -> Result<(), Failed> {
    let golden = Golden::open(name);
    let checkpoint = Checkpoint::open(&golden.directory, Options::default()).map_err(|e| e.to_string())?;
    let specs = specs(&checkpoint, devices, spread)?;
    let (mut engine, counters) = open(&checkpoint, &specs, spread)?;
    spread_is_as_wanted(&engine, spread)?;
    for (index, (planned, counter)) in engine.plan().devices.iter().zip(&counters).enumerate() {
        let (weights, found) = (engine.weight_bytes_by_device()[index], counter.load(Ordering::Relaxed));
        if weights != planned.weights.total() + planned.disk.total() {
            return Err(format!("device {index}: {weights} bytes of weights, planned {planned:?}").into());
        }
        let expected = planned.total() - planned.staging.bytes() + planned.disk.total();
        if found != expected {
            return Err(format!("device {index}: {found} bytes allocated, {expected} planned").into());
        }
    }
    staging_is_as_planned(&engine)?;
    let ids = golden.ids("input_ids");
    for schedule in [Schedule::Prefill, Schedule::Chunks(7), Schedule::Steps] {
        let found = engine.logits(&ids, schedule, true)?;
        let (relative, largest) = distance(&found.logits, &golden.f32("logits"));
        let trace = found.trace.ok_or("no trace")?;
        let (hidden, _) = distance(&trace.hidden_states, &golden.f32("hidden_states"));
        let figures = format!(
            "{schedule:?}: relative L2 {relative:.2e}, max abs {largest:.2e}, hidden states {hidden:.2e}"
        );
        eprintln!("{name} on {devices:?}, {spread:?}: {figures}");
        if trace.expert_ids != golden.i32("expert_ids") {
            return Err(format!("{figures}: other experts").into());
        }
        if golden.has("dsa_indices") && trace.dsa_indices != golden.i32("dsa_indices") {
            return Err(format!("{figures}: other positions selected").into());
        }
        if relative > RELATIVE_L2 || largest > MAX_ABS {
            return Err(figures.into());
        }
    }
    // Whoever was picked is counted, on whatever device.
    let heat: u64 = engine.heat().ok_or("not counted")?.uses.iter().flatten().sum();
    let picks = golden.i32("expert_ids").len() as u64;
    if heat != 3 * picks {
        return Err(format!("{heat} uses of experts counted, {} expected", 3 * picks).into());
    }
    let before: u64 = engine.pools().map(|(_, facts)| facts.misses).sum();
    let greedy = greedy(&mut engine, &ids, 32)?;
    if greedy != golden.ids("greedy_ids") {
        return Err(format!("greedy tokens {greedy:?}, expected {:?}", golden.ids("greedy_ids")).into());
    }
    // Steps that generate need no more than was there from the start.
    staging_is_as_planned(&engine)?;
    if matches!(spread, Spread::Slots(..)) {
        let misses = engine.pools().map(|(_, facts)| facts.misses).sum::<u64>() - before;
        eprintln!("{name}: {:?}", engine.pools().collect::<Vec<_>>());
        if misses < 32 {
            return Err(format!("{misses} experts brought in 32 steps: the slots are too many").into());
        }
    }
    Ok(())
}

/// What executors have besides buffers, to the byte.
fn staging_is_as_planned(engine: &Engine<'_>) -> Result<(), Failed> {
    let planned = engine.plan().devices.iter().map(|device| device.staging);
    for (index, (planned, found)) in planned.zip(engine.staging_bytes_by_device()).enumerate() {
        if found != planned.bytes() {
            return Err(format!("device {index}: {found} bytes of staging, planned {planned:?}").into());
        }
    }
    Ok(())
}

/// Devices too small for anything have nothing, and what the first then does is right.
fn idle(devices: &[DeviceId]) -> Result<(), Failed> {
    let golden = Golden::open("v32-tiny-fp8");
    let checkpoint = Checkpoint::open(&golden.directory, Options::default()).map_err(|e| e.to_string())?;
    let mut specs: Vec<DeviceSpec> = devices.iter().map(|index| (*index).into()).collect();
    specs[1..].iter_mut().for_each(|spec| spec.budget = Some(1));
    let (mut engine, _) = open(&checkpoint, &specs, Spread::Free)?;
    if engine.plan().devices[1..].iter().any(|device| device.total() > 0) {
        return Err(format!("{:?}", engine.plan().devices).into());
    }
    staging_is_as_planned(&engine)?;
    let found = engine.logits(&golden.ids("input_ids"), Schedule::Prefill, false)?;
    let (relative, largest) = distance(&found.logits, &golden.f32("logits"));
    if relative > RELATIVE_L2 || largest > MAX_ABS {
        return Err(format!("relative L2 {relative:.2e}, max abs {largest:.2e}").into());
    }
    Ok(())
}

/// Each device holds experts, and each layer is split.
fn spread_is_as_wanted(engine: &Engine<'_>, spread: Spread) -> Result<(), Failed> {
    let plan = engine.plan();
    for (index, device) in plan.devices.iter().enumerate() {
        if device.experts + device.streamed == 0 {
            return Err(format!("device {index} has no experts").into());
        }
    }
    if matches!(spread, Spread::Slots(..)) != plan.devices.iter().any(|device| device.slots > 0) {
        let slots: Vec<u32> = plan.devices.iter().map(|device| device.slots).collect();
        return Err(format!("slots: {slots:?}").into());
    }
    for (layer, places) in plan.placement.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
        let home = plan.devices.iter().position(|device| device.layers.contains(&(layer as u32)));
        if spread == Spread::Home {
            if places.iter().any(|place| Some(place.device) != home || !place.resident) {
                return Err(format!("experts of layer {layer} are not at home").into());
            }
            continue;
        }
        let split = places.iter().any(|place| place.device != places[0].device || !place.resident);
        if !split {
            return Err(format!("layer {layer} is not split, all is on {}", places[0].device).into());
        }
    }
    Ok(())
}

fn greedy(engine: &mut Engine<'_>, ids: &[u32], count: usize) -> Result<Vec<u32>, Failed> {
    let sequence = engine.open_sequence().ok_or("no sequence")?;
    let (before, last) = ids.split_at(ids.len() - 1);
    for tokens in before.chunks(engine.chunk()) {
        engine.step(&[Work { sequence, tokens }], Output::Nothing)?;
    }
    let mut next = last.to_vec();
    let mut out = Vec::new();
    while out.len() < count {
        let Reduced::Tokens(tokens) = engine.step(&[Work { sequence, tokens: &next }], Output::Argmax)?
        else {
            return Err("no token".into());
        };
        out.push(tokens[0]);
        next = tokens;
    }
    engine.close_sequence(sequence);
    Ok(out)
}

/// Opened twice, a rig gives the same bits, in whatever steps.
fn same_bits(devices: &[DeviceId]) -> Result<(), Failed> {
    let golden = Golden::open("v32-tiny-fp8");
    let checkpoint = Checkpoint::open(&golden.directory, Options::default()).map_err(|e| e.to_string())?;
    let specs = specs(&checkpoint, devices, Spread::HalfOnHost)?;
    let ids = golden.ids("input_ids");
    let mut seen: Option<Vec<f32>> = None;
    for schedule in [Schedule::Prefill, Schedule::Chunks(9), Schedule::Prefill] {
        let (mut engine, _) = open(&checkpoint, &specs, Spread::HalfOnHost)?;
        let logits = engine.logits(&ids, schedule, false)?.logits;
        if seen.as_ref().is_some_and(|seen| *seen != logits) {
            return Err(format!("{schedule:?} gives other bits").into());
        }
        seen = Some(logits);
    }
    Ok(())
}
