//! `porism logits`: every logit of a token sequence, in a safetensors file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use porism_loader::{ModelConfig, Options};
use porism_runtime::EngineOptions;
use porism_runtime::engine::{Logits, Schedule};
use safetensors::{Dtype, View};

use crate::args::{self, Logits as Args};
use crate::failure::Failure;
use crate::interrupt;
use crate::model::Model;
use crate::opening::open_engine;
use crate::settings::{ScheduleArg, read_ids};
use crate::ui::{self, Ui};

pub fn run(args: &Args, ui: &Ui) -> Result<u8> {
    let folder = folder_of(&args.output)?;
    let model = Model::find_or_embedded(args.model.as_deref())?;
    let checkpoint = model.checkpoint(Options { allow_nan: args.device.allow_nan })?;
    let config = checkpoint.config();
    let ids = read_ids(&args.ids, config.vocab_size)?;
    let limit = config.max_position_embeddings as usize;
    if ids.len() > limit {
        return Err(porism_runtime::Error::ContextTooLong { tokens: ids.len(), context: limit }.into());
    }
    let schedule = match args.schedule {
        ScheduleArg::Prefill => Schedule::Prefill,
        ScheduleArg::Chunks(tokens) => Schedule::Chunks(tokens as usize),
        ScheduleArg::Steps => Schedule::Steps,
    };
    interrupt::install();
    let options = EngineOptions::new(ids.len());
    let mut engine = open_engine(ui, &model, &checkpoint, &args.device, None, options)?;
    let result = engine.logits(&ids, schedule, args.trace)?;
    let bytes = write(args, &folder, tensors(config, ids.len(), &result))?;
    let tokens = ui::plural(ids.len() as u64, "token");
    ui.note(&format!("wrote {}: {tokens}, {}", args.output.display(), ui::bytes(bytes)));
    Ok(0)
}

/// The folder of the output, which must be there before the work begins.
fn folder_of(output: &Path) -> Result<PathBuf> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failure::usage(format!(
            "cannot write {}: there is no folder {}",
            output.display(),
            folder.display()
        ))
        .hint("make the folder first, or name another place")
        .into());
    }
    if output.is_dir() {
        return Err(Failure::usage(format!("cannot write {}: it is a folder", output.display()))
            .hint(format!("name a file, as in `{}`", output.join("logits.safetensors").display()))
            .into());
    }
    Ok(folder.to_owned())
}

/// Written beside the output and renamed, so that the output is whole or not there. Links are followed; a device or a
/// pipe is written to as it is.
fn write(args: &args::Logits, folder: &Path, tensors: Vec<(&'static str, Words<'_>)>) -> Result<u64> {
    let failed = || format!("cannot write {}", args.output.display());
    let bytes = safetensors::serialize(tensors, None).with_context(failed)?;
    let target = std::fs::canonicalize(&args.output).unwrap_or_else(|_| args.output.clone());
    if target.exists() && !target.is_file() {
        std::fs::write(&target, &bytes).with_context(failed)?;
        return Ok(bytes.len() as u64);
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".porism-").suffix(".safetensors");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As for any new file: the umask decides.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).with_context(failed)?;
    std::io::Write::write_all(&mut file, &bytes).with_context(failed)?;
    file.persist(&target).with_context(failed)?;
    Ok(bytes.len() as u64)
}

/// Numbers of 4 bytes with their shape.
#[derive(Clone)]
struct Words<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Words<'a> {
    fn new<T: bytemuck::Pod>(dtype: Dtype, shape: [usize; 3], skip: usize, values: &'a [T]) -> Self {
        let shape = shape[skip..].to_vec();
        let expected: usize = shape.iter().product();
        assert!(values.len() == expected, "{} values for the shape {shape:?}", values.len());
        Self { dtype, shape, bytes: bytemuck::cast_slice(values) }
    }
}

impl View for Words<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn tensors<'a>(config: &ModelConfig, tokens: usize, result: &'a Logits) -> Vec<(&'static str, Words<'a>)> {
    // The file is little-endian, and so is every machine this runs on.
    const { assert!(cfg!(target_endian = "little")) };
    let vocab_size = config.vocab_size as usize;
    let mut all = vec![("logits", Words::new(Dtype::F32, [1, tokens, vocab_size], 1, &result.logits))];
    let Some(trace) = &result.trace else { return all };
    let layers = config.num_hidden_layers as usize;
    let hidden = [layers + 1, tokens, config.hidden_size as usize];
    all.push(("hidden_states", Words::new(Dtype::F32, hidden, 0, &trace.hidden_states)));
    let moe_layers = (0..config.num_hidden_layers).filter(|layer| config.is_moe(*layer)).count();
    if moe_layers > 0 {
        let shape = [moe_layers, tokens, config.num_experts_per_tok as usize];
        all.push(("expert_ids", Words::new(Dtype::I32, shape, 0, &trace.expert_ids)));
    }
    if let Some(indexer) = &config.indexer {
        let shape = [layers, tokens, indexer.index_topk as usize];
        all.push(("dsa_indices", Words::new(Dtype::I32, shape, 0, &trace.dsa_indices)));
    }
    all
}
