//! `porism bench`: how fast a model is on a device, and what limits it.

use anyhow::Result;
use porism_loader::Options;
use porism_runtime::device::Device;
use porism_runtime::gpu;
use porism_runtime::measure::{self, BenchRun};
use porism_runtime::plan::{self, DevicePlan, Load, Predicted};
use porism_runtime::{DeviceId, EngineOptions};
use serde_json::{Value, json};

use crate::args::Bench;
use crate::devices::{Chosen, Hardware, Measured};
use crate::host::HostProfile;
use crate::interrupt;
use crate::model::Model;
use crate::opening::{open_engine_on, placed, pool_lines, write_heat};
use crate::ui::{self, Ui};

pub fn run(args: &Bench, ui: &Ui) -> Result<u8> {
    let model = Model::find_or_embedded(args.model.as_deref())?;
    let checkpoint = model.checkpoint(Options { allow_nan: args.device.allow_nan })?;
    let size = |list: &[u32]| list.iter().copied().max().unwrap_or(0) as usize;
    // Decoding takes a step more than it counts, to warm up; some sampled steps follow.
    let context = size(&args.depth) + size(&args.prefill) + args.decode as usize + 1 + measure::SAMPLED_STEPS;
    let limit = checkpoint.config().max_position_embeddings as usize;
    if context > limit {
        return Err(porism_runtime::Error::ContextBeyondModel { asked: context, limit }.into());
    }
    interrupt::install();
    let options = EngineOptions { sequences: size(&args.batch), ..EngineOptions::new(context) };
    let options = placed(options, &args.device, checkpoint.config())?;
    let asked = args.device.device.as_ref();
    let hardware = Hardware::here(asked);
    let Chosen { specs, page_cache, .. } = hardware.choose(asked, &checkpoint, &options)?;
    let options = EngineOptions { page_cache, ..options };
    // While nothing else is on them.
    let measured = Measured::new(&specs)?;
    let devices = specs.iter().map(|spec| hardware.device(spec)).collect::<Result<Vec<_>>>()?;
    // Measuring the disk takes pieces of the model out of memory.
    let is_read_from_disk = plan::plan(&checkpoint, &devices, &options)?.disk() > 0;
    let measured = if is_read_from_disk { measured.with_disk_of(&checkpoint) } else { measured };
    let planned: Vec<Device> =
        specs.iter().zip(devices).map(|(spec, device)| measured.apply(spec.index, device)).collect();
    // Of several devices the home of the first layers counts.
    let device = specs[0];
    let device_read = planned[0].rates.bandwidth / 1e9;
    let experts = Some(&args.experts);
    let mut engine = open_engine_on(&specs, ui, &model, &checkpoint, experts, options.clone())?;
    // What the engine's plan promises on devices as they were measured.
    let predict = |load: Load| plan::predict(&checkpoint, &planned, &options, engine.plan(), &load);
    let (names, drivers): (Vec<_>, Vec<_>) = specs.iter().map(|spec| describe(spec.index)).unzip();
    let (name, driver) = (names.join(" + "), drivers.join(" + "));
    if !args.json {
        ui.heading(&format!("{} on {name}", model.label()))?;
        ui.line(&format!(
            "{driver}; {} of weights on the device; it reads its memory at {device_read:.1} GB/s",
            ui::bytes(engine.weight_bytes())
        ))?;
    }

    let mut loads = Vec::new();
    for depth in &args.depth {
        for batch in &args.batch {
            for prefill in &args.prefill {
                let [prompt, depth, sequences] = [*prefill, *depth, *batch].map(|number| number as usize);
                loads.push(Load { sequences, depth, prompt, decode: args.decode as usize });
            }
        }
    }
    let predictions = loads.iter().map(|load| predict(*load)).collect::<Result<Vec<_>, _>>()?;
    let mut runs = Vec::new();
    for (load, predicted) in loads.iter().zip(predictions) {
        if interrupt::requested() {
            return Err(porism_runtime::Error::Interrupted.into());
        }
        let Load { sequences, depth, prompt, decode } = *load;
        let run = measure::run(&mut engine, prompt, decode, depth, sequences, device_read)?;
        if !args.json {
            ui.note(&format!("measured prefill {prompt}, decode {decode}, depth {depth}, batch {sequences}"));
        }
        runs.push((run, predicted));
    }
    if args.json {
        let devices = &engine.plan().devices;
        let sum = |of: fn(&DevicePlan) -> u64| devices.iter().map(of).sum::<u64>();
        let pools: Vec<_> =
            engine.pools().map(|(device, facts)| json!({ "device": device, "facts": facts })).collect();
        ui.json(&json!({
            "schema": 1,
            "model": model.label(),
            "device": name,
            "device_index": device.index,
            "driver": driver,
            "checkpoint_weight_bytes": checkpoint.weight_bytes(),
            "weight_bytes": engine.weight_bytes(),
            "cache_bytes": sum(|device| device.cache),
            "activations_bytes": sum(|device| device.activations),
            "staging_bytes": sum(|device| device.staging.bytes()),
            "pools": pools,
            "chunk": engine.chunk(),
            "device_read_gb_per_second": device_read,
            "runs": runs.iter().map(|(run, predicted)| to_json(run, predicted)).collect::<Result<Vec<_>>>()?,
        }))?;
    } else {
        print(ui, &runs)?;
        for line in pool_lines(&engine) {
            ui.line(&line)?;
        }
    }
    write_heat(&engine, &args.experts, ui);
    Ok(0)
}

/// What was measured, and beside it what the plan predicted.
fn to_json(run: &BenchRun, predicted: &Predicted) -> Result<Value> {
    let mut value = serde_json::to_value(run)?;
    value["predicted_decode_tokens_per_second"] = predicted.decode_tokens_per_second.into();
    value["predicted_prefill_tokens_per_second"] = predicted.prefill_tokens_per_second.into();
    value["limited_by"] = predicted.limited_by.as_str().into();
    value["prefill_limited_by"] = predicted.prefill_limited_by.as_str().into();
    Ok(value)
}

/// The device's name, and its driver in words.
fn describe(index: DeviceId) -> (String, String) {
    match gpu::adapters().into_iter().find(|adapter| adapter.index == index) {
        Some(adapter) => {
            (adapter.name, format!("{} {}", adapter.driver, adapter.driver_info).trim().to_owned())
        }
        None => {
            let host = HostProfile::read();
            (host.name, format!("host, {}", ui::plural(host.cores as u64, "core")))
        }
    }
}

fn print(ui: &Ui, runs: &[(BenchRun, Predicted)]) -> Result<()> {
    ui.line("")?;
    let headings = [
        "prefill",
        "decode",
        "depth",
        "batch",
        "prefill tok/s",
        "predicted",
        "decode tok/s",
        "predicted",
        "weights GB/s",
        "of device",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (run, predicted) in runs {
        rows.push(vec![
            run.prefill.to_string(),
            run.decode.to_string(),
            run.depth.to_string(),
            run.batch.to_string(),
            format!("{:.1}", run.prefill_tokens_per_second),
            format!("{:.1}", predicted.prefill_tokens_per_second),
            format!("{:.1}", run.decode_tokens_per_second),
            format!("{:.1}", predicted.decode_tokens_per_second),
            format!("{:.2}", run.weight_gb_per_second),
            format!("{:.0} %", 100.0 * run.weight_gb_per_second / run.device_read_gb_per_second),
        ]);
    }
    for (index, line) in ui::table(&rows, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).iter().enumerate() {
        if index == 0 { ui.heading(line)? } else { ui.line(line)? }
    }
    let Some((run, predicted)) = runs.first() else { return Ok(()) };
    ui.line("")?;
    ui.line(&format!(
        "a decode step: {} dispatches ({} in the last layer), {:.1} µs of CPU each, {} submit, {} bytes read back (sampled: {}), {:.2} ms",
        run.dispatches_per_step,
        run.dispatches_per_layer,
        run.cpu_microseconds_per_dispatch,
        run.submits_per_step,
        ui::count(run.readback_bytes_per_step),
        ui::count(run.sampled_readback_bytes_per_step),
        run.decode_step_milliseconds
    ))?;
    let outside = run
        .outside_passes
        .map(|share| format!("; {:.0} % of the step outside the device's passes", 100.0 * share));
    ui.line(&format!(
        "{} of weights read per token{}",
        ui::bytes(run.weight_bytes_per_token),
        outside.unwrap_or_default()
    ))?;
    ui.line(&format!(
        "the plan sees decoding limited by {}, prompts by {}",
        predicted.limited_by, predicted.prefill_limited_by
    ))?;
    Ok(())
}
