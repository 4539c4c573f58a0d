//! From what was typed about devices to a loaded engine, and what is said of it afterwards.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use porism_loader::{Checkpoint, ModelConfig};
use porism_runtime::weights::PoolFacts;
use porism_runtime::{DeviceId, DeviceSpec, Engine, EngineOptions};

use crate::args::{DeviceArgs, ExpertArgs};
use crate::devices;
use crate::interrupt;
use crate::model::Model;
use crate::settings;
use crate::ui::{self, Phase, Ui};

/// Bytes of experts that `--experts-later` writes to a device between two steps: a hundredth of a second or two of a link.
const LATER_PER_STEP: u64 = 256 << 20;

/// Opens the devices and loads a model onto them, showing how far it is; Ctrl-C ends it.
pub fn open_engine<'c>(
    ui: &Ui,
    model: &Model,
    checkpoint: &'c Checkpoint,
    device: &DeviceArgs,
    experts: Option<&ExpertArgs>,
    options: EngineOptions,
) -> Result<Engine<'c>> {
    let options = placed(options, device, checkpoint.config())?;
    let chosen = devices::choose(device.device.as_ref(), checkpoint, &options)?;
    if !chosen.left_out.is_empty() {
        let names: Vec<String> = chosen.left_out.iter().map(|index| name_of(*index)).collect();
        ui.aside(&format!(
            "left out, since the others are faster alone: {}; `--device` names what is used, `porism plan` says more",
            names.join(", ")
        ));
    }
    let options = EngineOptions { page_cache: chosen.page_cache, ..options };
    open_engine_on(&chosen.specs, ui, model, checkpoint, experts, options)
}

/// The options with what was typed about the places of experts.
pub fn placed(options: EngineOptions, device: &DeviceArgs, config: &ModelConfig) -> Result<EngineOptions> {
    let heat = device.heat.as_ref().map(|path| settings::read_heat(path, config)).transpose()?;
    Ok(EngineOptions { spread: device.spread, heat, ..options })
}

/// The same on devices that were chosen, and with experts that were [`placed`], before.
pub fn open_engine_on<'c>(
    specs: &[DeviceSpec],
    ui: &Ui,
    model: &Model,
    checkpoint: &'c Checkpoint,
    experts: Option<&ExpertArgs>,
    mut options: EngineOptions,
) -> Result<Engine<'c>> {
    if let Some(experts) = experts {
        if let Some(path) = &experts.heat_out {
            ensure_writable(path, "--heat-out")?;
        }
        options.policy = experts.expert_cache;
        options.count_experts = experts.heat_out.is_some();
        options.experts_later = experts.experts_later.then_some(LATER_PER_STEP);
    }
    let bars = ui.bars();
    let mut phases: Vec<Phase<'_>> = Vec::new();
    let engine = Engine::open(checkpoint, specs, &options, &mut |progress| {
        while phases.len() <= progress.device {
            let place = if specs.len() > 1 {
                format!(" onto {}", name_of(specs[phases.len()].index))
            } else {
                String::new()
            };
            let what = format!("loading {}{place}", model.label());
            phases.push(ui.phase_among(&bars, &what, progress.total));
        }
        phases[progress.device].update(progress.done, progress.total);
        if interrupt::requested() { Err(porism_runtime::Error::Interrupted) } else { Ok(()) }
    })?;
    for phase in phases {
        phase.finish();
    }
    for ((spec, part), bytes) in specs.iter().zip(&engine.plan().devices).zip(engine.weight_bytes_by_device())
    {
        tracing::info!(
            "{}: layers {:?}, {} experts, {} more in {} slots; {bytes} bytes of weights, {} of cache, {} of activations, \
             {} of staging",
            name_of(spec.index),
            part.layers,
            part.experts,
            part.streamed,
            part.slots,
            part.cache,
            part.activations,
            part.staging.bytes()
        );
    }
    Ok(engine)
}

fn name_of(device: DeviceId) -> String {
    match device {
        DeviceId::Host => "host".to_owned(),
        DeviceId::Adapter(index) => format!("device {index}"),
    }
}

/// What happened to experts that come and go, a line for each device with slots.
pub fn pool_lines(engine: &Engine<'_>) -> Vec<String> {
    let line = |(device, facts): (&str, PoolFacts)| {
        let picked = (facts.hits + facts.misses).max(1);
        format!(
            "{device}: {} slots · {} of {} picked experts were there ({:.1} %) · {} brought, {} of them in advance · {} moved · {:.2} s waited",
            facts.slots,
            ui::count(facts.hits),
            ui::count(facts.hits + facts.misses),
            100.0 * facts.hits as f64 / picked as f64,
            ui::count(facts.misses + facts.prefetched),
            ui::count(facts.prefetched),
            ui::bytes(facts.bytes_moved),
            facts.seconds_waited
        )
    };
    engine.pools().map(line).collect()
}

/// Writes what `--heat-out` asked for. Whether it can be written was seen before the work; a disk that is full by now takes
/// nothing away from what was generated.
pub fn write_heat(engine: &Engine<'_>, experts: &ExpertArgs, ui: &Ui) {
    if let (Some(path), Some(heat)) = (&experts.heat_out, engine.heat()) {
        let text = serde_json::to_string(heat).expect("numbers in lists");
        if let Err(error) = std::fs::write(path, text + "\n") {
            ui.warn(&format!("--heat-out: cannot write {}: {error}", path.display()));
        }
    }
}

/// Refuses a file that cannot be written, before the work whose result it is for. What is in it stays.
fn ensure_writable(path: &Path, option: &str) -> Result<()> {
    let is_new = !path.exists();
    let opened = File::options().append(true).create(true).open(path);
    opened.with_context(|| format!("{option}: cannot write {}", path.display()))?;
    if is_new {
        // Nothing may come of the work.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
