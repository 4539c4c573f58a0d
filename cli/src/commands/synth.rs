//! `porism synth`: a checkpoint with the true shapes and shard layout of a known model.

use std::sync::Mutex;

use anyhow::Result;
use porism_loader::synth::{self, Content};
use porism_loader::{Error, TensorTable as _, catalog};

use crate::args::Synth;
use crate::commands::plan::unknown_hint;
use crate::failure::Failure;
use crate::interrupt;
use crate::ui::{self, Ui};

pub fn run(args: &Synth, ui: &Ui) -> Result<u8> {
    let Some(model) = catalog::find(&args.name) else {
        let message = format!("`{}` is not in the catalogue", args.name);
        return Err(Failure::model(message).hint(unknown_hint(&args.name)).into());
    };
    let layers = model.config().num_hidden_layers;
    let model = match args.layers {
        Some(asked) if asked > layers => {
            let message = format!("{asked} layers, {} has {layers}", args.name);
            return Err(Failure::usage(message)
                .hint(format!("give at most {layers}, or leave --layers away"))
                .into());
        }
        Some(asked) => model.with_layers(asked)?,
        None => model,
    };
    let content = match args.random {
        Some(seed) => Content::Random(seed),
        None => Content::Sparse,
    };
    // Among other files nobody would find these again.
    let holds_something = args.directory.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if holds_something {
        let message = format!("{}: holds other files", args.directory.display());
        return Err(Failure::usage(message).hint("name a new or an empty folder").into());
    }
    interrupt::install();
    let total = model.stored_bytes();
    let what = format!("writing {}", args.name);
    let state = Mutex::new((0, ui.phase(&what, total)));
    let written = synth::write(&model, &args.directory, content, &|bytes| {
        let mut state = state.lock().expect("never poisoned");
        state.0 += bytes;
        let (done, phase) = (state.0, &mut state.1);
        phase.update(done.min(total), total);
        !interrupt::requested()
    });
    let (_, phase) = state.into_inner().expect("never poisoned");
    let written = match written {
        Err(Error::Stopped { .. }) => return Err(porism_runtime::Error::Interrupted.into()),
        other => other?,
    };
    phase.finish();
    ui.line(&format!(
        "{}: {}, {}, {}{}",
        args.directory.display(),
        ui::plural(written.shards as u64, "shard"),
        ui::plural(written.tensors as u64, "tensor"),
        ui::bytes(written.bytes),
        if content == Content::Sparse { ", almost nothing of it on disk" } else { "" }
    ))?;
    Ok(0)
}
