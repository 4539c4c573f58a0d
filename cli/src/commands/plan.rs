//! `porism plan`: which device would hold what, and how fast that would be. Nothing is loaded.

use anyhow::Result;
use porism_loader::{Catalogued, Checkpoint, Error, Options, TensorTable, catalog};
use porism_runtime::EngineOptions;
use porism_runtime::device::Device;
use porism_runtime::plan::{self, Plan};
use serde_json::{Value, json};

use crate::args;
use crate::devices;
use crate::failure::Failure;
use crate::model::{EMBEDDED_NAME, Model};
use crate::opening::placed;
use crate::rig;
use crate::ui::{self, Ui};

/// The context where none is asked for, in tokens.
const DEFAULT_CONTEXT: u32 = 4096;
/// Experts in a line of the picture.
const CELLS_PER_LINE: usize = 128;

pub fn run(args: &args::Plan, ui: &Ui) -> Result<u8> {
    let subject = Subject::find(args.model.as_deref())?;
    let table = subject.table();
    let config = table.config();
    let context = args.context.unwrap_or(DEFAULT_CONTEXT.min(config.max_position_embeddings));
    let devices = match &args.rig {
        Some(path) => rig::read(path)?,
        None => devices::planned(&devices::choose(args.device.device.as_ref(), subject.weight_bytes())?)?,
    };
    let options = placed(EngineOptions::new(context as usize), &args.device, config)?;
    let plan = plan::plan(table, &devices, &options)?;
    if args.json {
        ui.json(&to_json(&subject.name(), context, &devices, &plan))?;
    } else {
        print(ui, &subject.name(), context, &devices, &plan)?;
    }
    Ok(0)
}

/// For hints: what can be planned without weights.
pub fn catalogue_names() -> String {
    let names: Vec<_> = catalog::names().collect();
    format!("the catalogue has {}", names.join(", "))
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
                    Err(Failure::model(message).hint(catalogue_names()).into())
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

    fn weight_bytes(&self) -> u64 {
        match self {
            Self::Files(_, checkpoint) => checkpoint.weight_bytes(),
            Self::Known(known) => known.weight_bytes(),
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

fn to_json(name: &str, context: u32, devices: &[Device], plan: &Plan) -> Value {
    let list: Vec<Value> = devices
        .iter()
        .zip(&plan.devices)
        .map(|(device, part)| {
            let kinds = part.weights.rows().map(|(kind, bytes)| (kind.name().to_owned(), bytes.into()));
            json!({
                "name": device.name,
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
                "disk_bytes": part.disk,
                "embedding": part.embedding,
                "head": part.head,
                "weights_by_kind": kinds.collect::<serde_json::Map<_, Value>>(),
                "bandwidth_bytes_per_second": device.rates.bandwidth,
                "link_bytes_per_second": device.rates.link,
                "operations_per_second": device.rates.compute,
                "weights_decoded_per_second": device.rates.decode.is_finite().then_some(device.rates.decode),
                "values_per_second": device.rates.values,
                "seconds_per_dispatch": device.rates.dispatch,
                "seconds_per_hand_over": device.rates.handover,
            })
        })
        .collect();
    // Layers without experts have empty lists, so that placement[layer][expert] is a device's index.
    let placement: Vec<Vec<usize>> =
        plan.placement.iter().map(|layer| layer.iter().map(|place| place.device).collect()).collect();
    json!({
        "schema": 1,
        "model": name,
        "context": context,
        "chunk": plan.chunk,
        "devices": list,
        "weights_bytes": plan.weights(),
        "placement": placement,
        "predicted": {
            "decode_tokens_per_second": plan.predicted.decode_tokens_per_second,
            "prefill_tokens_per_second": plan.predicted.prefill_tokens_per_second,
            "limited_by": plan.predicted.limited_by,
            "prefill_limited_by": plan.predicted.prefill_limited_by,
        },
        "notes": plan.notes,
    })
}

fn print(ui: &Ui, name: &str, context: u32, devices: &[Device], plan: &Plan) -> Result<()> {
    ui.heading(&format!(
        "{name} with a context of {} tokens: {} of weights",
        ui::count(context.into()),
        ui::bytes(plan.weights())
    ))?;
    ui.line("")?;
    let headings =
        ["", "device", "memory", "weights", "cache", "activations", "staging", "free", "layers", "experts"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (index, (device, part)) in devices.iter().zip(&plan.devices).enumerate() {
        let size = |bytes: u64| if bytes == 0 { "-".to_owned() } else { ui::bytes(bytes) };
        let layers = match part.layers.len() {
            0 => "-".to_owned(),
            1 => part.layers.start.to_string(),
            _ => format!("{}-{}", part.layers.start, part.layers.end - 1),
        };
        rows.push(vec![
            letter(index).to_string(),
            device.name.clone(),
            device.memory.map_or("?".to_owned(), ui::bytes),
            size(part.weights.total()),
            size(part.cache),
            size(part.activations),
            size(part.staging.bytes()),
            device.memory.map_or("?".to_owned(), |memory| ui::bytes(memory - part.total())),
            layers,
            ui::count((part.experts + part.streamed).into()),
        ]);
    }
    for (index, line) in ui::table(&rows, &[2, 3, 4, 5, 6, 7, 8, 9]).iter().enumerate() {
        if index == 0 { ui.heading(line)? } else { ui.line(line)? }
    }
    ui.line("")?;
    for (device, part) in devices.iter().zip(&plan.devices) {
        let kinds: Vec<String> = part
            .weights
            .rows()
            .map(|(kind, bytes)| format!("{} {}", kind.name(), ui::bytes(bytes)))
            .collect();
        if !kinds.is_empty() {
            ui.line(&format!("{}: {}", device.name, kinds.join(", ")))?;
        }
    }
    let predicted = &plan.predicted;
    ui.line("")?;
    ui.line(&format!(
        "predicted: {:.1} tokens/s generated, limited by {}",
        predicted.decode_tokens_per_second, predicted.limited_by
    ))?;
    ui.line(&format!(
        "           {:.0} tokens/s of a prompt in steps of {}, limited by {}",
        predicted.prefill_tokens_per_second, plan.chunk, predicted.prefill_limited_by
    ))?;
    for note in &plan.notes {
        ui.line(&format!("note: {note}"))?;
    }
    if plan.placement.iter().any(|layer| !layer.is_empty()) {
        ui.line("")?;
        ui.heading("experts by layer")?;
        for (index, device) in devices.iter().enumerate() {
            let cell = (index, letter(index));
            ui.line(&format!("    {} {}", ui.cells(&[cell, cell]), device.name))?;
        }
        for (layer, places) in plan.placement.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            let cells: Vec<(usize, char)> = places
                .iter()
                .map(|place| {
                    let letter = letter(place.device);
                    (place.device, if place.resident { letter } else { letter.to_ascii_lowercase() })
                })
                .collect();
            for (part, cells) in cells.chunks(CELLS_PER_LINE).enumerate() {
                let label = if part == 0 { layer.to_string() } else { String::new() };
                ui.line(&format!("{label:>3} {}", ui.cells(cells)))?;
            }
        }
    }
    Ok(())
}

/// `A`, `B`, …, and again from the start.
fn letter(device: usize) -> char {
    char::from(b'A' + (device % 26) as u8)
}
