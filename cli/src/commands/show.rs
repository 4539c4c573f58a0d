//! `porism show`: what a model is made of.

use anyhow::Result;
use porism_loader::{Checkpoint, Family, ModelConfig, Options, Quantization, Role};
use serde_json::{Value, json};

use crate::args::Show;
use crate::model::Model;
use crate::ui::{self, Ui};

pub fn run(args: &Show, ui: &Ui) -> Result<u8> {
    let model = Model::find_or_embedded(args.model.as_deref())?;
    let checkpoint = model.checkpoint(Options::default())?;
    let facts = Facts::new(&model, &checkpoint);
    if args.json {
        ui.json(&facts.json())?
    } else {
        facts.print(ui)?
    }
    Ok(0)
}

/// Columns before the values of the first table.
const LABELS: usize = 20;

/// Everything `show` tells.
struct Facts<'a> {
    label: String,
    checkpoint: &'a Checkpoint,
    parameters: u64,
    active_parameters: u64,
    file_bytes: u64,
    vocabulary: Option<u32>,
    chat: Option<String>,
    knows: Option<String>,
    unusual: Vec<String>,
}

impl<'a> Facts<'a> {
    fn new(model: &Model, checkpoint: &'a Checkpoint) -> Self {
        let config = checkpoint.config();
        let mut unusual = unusual(config);
        unusual.extend(checkpoint.notes().iter().cloned());

        let (mut parameters, mut routed) = (0u64, 0u64);
        for role in checkpoint.roles() {
            let elements = checkpoint.tensor(role).map_or(0, |tensor| tensor.shape.elements());
            parameters += elements;
            let is_routed = matches!(role, Role::Layer { part: porism_loader::LayerRole::Expert { .. }, .. });
            routed += if is_routed { elements } else { 0 };
        }
        let experts = u64::from(config.n_routed_experts.max(1));
        let active_parameters =
            parameters - routed + routed / experts * u64::from(config.num_experts_per_tok);

        let vocabulary = match model.tokenizer() {
            Ok(tokenizer) => Some(tokenizer.vocab_size()),
            Err(error) => {
                unusual.push(error.to_string());
                None
            }
        };
        let chat = match model.chat_template() {
            Ok(template) => Some(template.file().unwrap_or("built in").to_owned()),
            Err(error) => {
                unusual.push(error.to_string());
                None
            }
        };
        let knows = match model.prompts() {
            Ok(prompts) => prompts.as_ref().and_then(|prompts| Some(prompts.domain()?.knows().to_owned())),
            Err(error) => {
                unusual.push(error.to_string());
                None
            }
        };
        Self {
            label: model.label(),
            checkpoint,
            parameters,
            active_parameters,
            file_bytes: checkpoint.shards().iter().map(|shard| shard.bytes().len() as u64).sum(),
            vocabulary,
            chat,
            knows,
            unusual,
        }
    }

    fn json(&self) -> Value {
        let config = self.checkpoint.config();
        let kinds = self.checkpoint.bytes_by_kind().iter().map(|row| {
            json!({ "kind": row.kind.name(), "dtype": row.dtype, "tensors": row.tensors, "bytes": row.bytes })
        });
        let shards = self.checkpoint.shards().iter().map(|shard| {
            json!({
                "file": shard.path().display().to_string(),
                "bytes": shard.bytes().len(),
                "tensors": shard.tensors(),
            })
        });
        json!({
            "schema": 1,
            "model": self.label,
            "directory": self.checkpoint.directory().map(|folder| folder.display().to_string()),
            "architecture": architecture(config),
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "weight_bytes": self.checkpoint.weight_bytes(),
            "file_bytes": self.file_bytes,
            "bytes_by_kind": kinds.collect::<Vec<_>>(),
            "shards": shards.collect::<Vec<_>>(),
            "tokenizer": { "vocab_size": self.vocabulary },
            "chat_template": self.chat,
            "knows": self.knows,
            "unusual": self.unusual,
        })
    }

    fn print(&self, ui: &Ui) -> Result<()> {
        let config = self.checkpoint.config();
        ui.heading(&self.label)?;
        for line in ui::table(&self.rows(config, ui.columns()), &[]) {
            ui.line(&line)?;
        }

        ui.line("")?;
        let mut rows: Vec<Vec<String>> =
            vec![["weights", "dtype", "tensors", "bytes"].map(str::to_owned).to_vec()];
        for row in self.checkpoint.bytes_by_kind() {
            let (tensors, bytes) = (ui::count(row.tensors), ui::bytes(row.bytes));
            rows.push(vec![row.kind.name().to_owned(), row.dtype.to_owned(), tensors, bytes]);
        }
        let tensors = self.checkpoint.bytes_by_kind().iter().map(|row| row.tensors).sum();
        let bytes = self.checkpoint.bytes_by_kind().iter().map(|row| row.bytes).sum();
        rows.push(vec!["in all".to_owned(), String::new(), ui::count(tensors), ui::bytes(bytes)]);
        let lines = ui::table(&rows, &[2, 3]);
        for (index, line) in lines.iter().enumerate() {
            if index == 0 { ui.heading(line)? } else { ui.line(line)? }
        }

        if !self.unusual.is_empty() {
            ui.line("")?;
            ui.heading("unusual")?;
            for note in &self.unusual {
                ui.line(&format!("- {note}"))?;
            }
        }
        Ok(())
    }

    fn rows(&self, config: &ModelConfig, columns: usize) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![format!("  {name}"), value]);
        row("architecture", config.model_type.model_type().to_owned());
        row("parameters", {
            let (all, active) = (ui::count(self.parameters), ui::count(self.active_parameters));
            format!("{all}, of which a token uses {active}")
        });
        let dense = (0..config.num_hidden_layers).filter(|layer| !config.is_moe(*layer)).count();
        let sparse = config.num_hidden_layers as usize - dense;
        row("layers", {
            let left_out = match config.num_nextn_predict_layers {
                0 => String::new(),
                more => format!(", {more} more for multi-token prediction (left out)"),
            };
            format!("{} ({dense} dense, {sparse} with experts){left_out}", config.num_hidden_layers)
        });
        row("hidden size", config.hidden_size.to_string());
        row("heads", {
            let query =
                config.q_lora_rank.map_or("full queries".to_owned(), |rank| format!("query rank {rank}"));
            format!(
                "{} of {} + {} (rope), values {}; {query}, latent rank {}",
                config.num_attention_heads,
                config.qk_nope_head_dim,
                config.qk_rope_head_dim,
                config.v_head_dim,
                config.kv_lora_rank
            )
        });
        if let Some(indexer) = &config.indexer {
            row("sparse attention", {
                let (topk, heads, width) =
                    (indexer.index_topk, indexer.index_n_heads, indexer.index_head_dim);
                format!("top {topk} positions, {heads} indexer heads of {width}")
            });
        }
        if sparse > 0 {
            row("experts", {
                let groups = match config.is_grouped() {
                    true => format!(", {} of {} groups", config.topk_group, config.n_group),
                    false => String::new(),
                };
                format!(
                    "{} of {}{groups}, {} shared; width {}",
                    config.num_experts_per_tok,
                    config.n_routed_experts,
                    config.n_shared_experts,
                    config.moe_intermediate_size
                )
            });
        }
        row("context", format!("{} tokens", ui::count(config.max_position_embeddings.into())));
        row("vocabulary", {
            let model = ui::count(config.vocab_size.into());
            match self.vocabulary {
                Some(known) if known != config.vocab_size => {
                    format!("{model}, {} in the tokenizer", ui::count(known.into()))
                }
                Some(_) => model,
                None => format!("{model}, no tokenizer"),
            }
        });
        if let Some(chat) = &self.chat {
            row("chat template", chat.clone());
        }
        if let Some(knows) = &self.knows {
            for (index, line) in
                ui::wrap(knows, columns.saturating_sub(LABELS).max(30)).into_iter().enumerate()
            {
                row(if index == 0 { "knows" } else { "" }, line);
            }
        }
        row(
            "quantization",
            match config.quantization {
                Quantization::None => "none".to_owned(),
                Quantization::Fp8 => "fp8 (E4M3), a scale per 128 × 128 block".to_owned(),
            },
        );
        let shards = self.checkpoint.shards().len() as u64;
        row("files", format!("{}, {}", ui::plural(shards, "shard"), ui::bytes(self.file_bytes)));
        rows
    }
}

/// What makes this model unlike DeepSeek's own of its kind.
fn unusual(config: &ModelConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if config.tie_word_embeddings {
        notes.push("the embedding is the output head as well".to_owned());
    }
    if let Some(indexer) = &config.indexer {
        if !indexer.shared_layers.is_empty() {
            let layers = ui::plural(indexer.shared_layers.len() as u64, "layer");
            notes.push(format!(
                "{layers} without an indexer of their own, reusing an earlier layer's positions"
            ));
        }
        if indexer.rope_interleave && config.model_type != Family::GlmMoeDsa {
            notes.push("the indexer's rope is interleaved".to_owned());
        }
    }
    if config.eos_token_ids.is_empty() {
        notes.push("no eos_token_id: generation ends only after -n tokens".to_owned());
    }
    notes
}

/// The config under the checkpoint's own names.
fn architecture(config: &ModelConfig) -> Value {
    json!({
        "model_type": config.model_type.model_type(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "first_k_dense_replace": config.first_k_dense_replace,
        "moe_layer_freq": config.moe_layer_freq,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "n_routed_experts": config.n_routed_experts,
        "n_shared_experts": config.n_shared_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "scoring_func": config.scoring.name(),
        "topk_method": config.topk_method.name(),
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.yarn.map(|yarn| json!({
            "type": "yarn",
            "factor": yarn.factor,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "mscale": yarn.mscale,
            "mscale_all_dim": yarn.mscale_all_dim,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
        })),
        "indexer": config.indexer.as_ref().map(|indexer| json!({
            "index_n_heads": indexer.index_n_heads,
            "index_head_dim": indexer.index_head_dim,
            "index_topk": indexer.index_topk,
            "rope_interleave": indexer.rope_interleave,
            "shared_layers": indexer.shared_layers,
        })),
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "num_nextn_predict_layers": config.num_nextn_predict_layers,
        "bos_token_id": config.bos_token_id,
        "eos_token_ids": config.eos_token_ids,
        "quantization": match config.quantization {
            Quantization::None => Value::Null,
            Quantization::Fp8 => "fp8".into(),
        },
    })
}
