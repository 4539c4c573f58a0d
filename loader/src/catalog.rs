//! The known models: their configs, their tensors and how their shards are filled, for planning and for synthetic
//! checkpoints without a byte of weights.
//!
//! Configs hold what decides shapes and computation, as `config.json` of the repository named beside each says.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::index::Checkpoint;
use crate::names::{Kind, LayerRole, Role};
use crate::shape::{Dtype, ScaleDtype, Shape};
use serde_json::{Value, json};
use std::path::Path;

/// What a tensor is like, whether its bytes are at hand or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// How an element is stored.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Shape,
    /// How its block scales are stored; there exactly if the dtype is FP8.
    pub scale: Option<ScaleDtype>,
}

impl TensorSpec {
    /// Bytes of the elements.
    pub fn weight_bytes(&self) -> u64 {
        self.shape.elements() * self.dtype.bytes()
    }

    /// How many block scales belong to it.
    pub fn scales(&self) -> u64 {
        let [rows, columns] = self.shape.scale_shape();
        if self.scale.is_some() { u64::from(rows) * u64::from(columns) } else { 0 }
    }

    /// Bytes of the weight and its scales in a checkpoint.
    pub fn stored_bytes(&self) -> u64 {
        self.weight_bytes() + self.scale.map_or(0, |scale| self.scales() * scale.bytes())
    }
}

/// What a plan must know of a model.
pub trait TensorTable {
    /// The architecture.
    fn config(&self) -> &ModelConfig;

    /// What the tensor of a role is like, or `None` if the model has none. The head of a model with tied embeddings is
    /// its embedding.
    fn spec(&self, role: Role) -> Option<TensorSpec>;
}

impl TensorTable for Checkpoint {
    fn config(&self) -> &ModelConfig {
        Checkpoint::config(self)
    }

    fn spec(&self, role: Role) -> Option<TensorSpec> {
        self.tensor(role).map(|tensor| TensorSpec {
            dtype: tensor.dtype,
            shape: tensor.shape,
            scale: tensor.scale.map(|scale| scale.dtype),
        })
    }
}

/// How shards are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardNames {
    /// `model-00001-of-000163.safetensors`
    Padded,
    /// `model-1-of-61.safetensors`
    Plain,
}

/// An entry of the catalogue.
struct Known {
    name: &'static str,
    /// Where its config.json was published, on huggingface.co.
    repository: &'static str,
    shards: u32,
    names: ShardNames,
    config: fn() -> Value,
}

/// Sources: config.json of each repository on huggingface.co. Its numbers were compared with public copies: DeepSeek-V3's
/// inference/configs/config_671B.json; the configs in NVIDIA's Megatron-Bridge tests (V2); published dumps of V2-Lite's,
/// Moonlight's and Kimi-K2's config.json. Shard counts are those of the repositories' file lists.
const KNOWN: [Known; 11] = [
    Known {
        name: "deepseek-math-v2",
        repository: "deepseek-ai/DeepSeek-Math-V2",
        shards: 163,
        names: ShardNames::Padded,
        config: v32,
    },
    Known {
        name: "deepseek-v3.2",
        repository: "deepseek-ai/DeepSeek-V3.2",
        shards: 163,
        names: ShardNames::Padded,
        config: v32,
    },
    Known {
        name: "deepseek-v3.2-exp",
        repository: "deepseek-ai/DeepSeek-V3.2-Exp",
        shards: 163,
        names: ShardNames::Padded,
        config: v32,
    },
    Known {
        name: "deepseek-v3.1",
        repository: "deepseek-ai/DeepSeek-V3.1",
        shards: 163,
        names: ShardNames::Padded,
        config: v3,
    },
    Known {
        name: "deepseek-v3",
        repository: "deepseek-ai/DeepSeek-V3",
        shards: 163,
        names: ShardNames::Padded,
        config: v3,
    },
    Known {
        name: "deepseek-r1",
        repository: "deepseek-ai/DeepSeek-R1",
        shards: 163,
        names: ShardNames::Padded,
        config: v3,
    },
    Known {
        name: "deepseek-prover-v2-671b",
        repository: "deepseek-ai/DeepSeek-Prover-V2-671B",
        shards: 163,
        names: ShardNames::Padded,
        config: v3,
    },
    Known {
        name: "deepseek-v2",
        repository: "deepseek-ai/DeepSeek-V2",
        shards: 55,
        names: ShardNames::Padded,
        config: v2,
    },
    Known {
        name: "deepseek-v2-lite",
        repository: "deepseek-ai/DeepSeek-V2-Lite",
        shards: 4,
        names: ShardNames::Padded,
        config: v2_lite,
    },
    Known {
        name: "moonlight-16b-a3b",
        repository: "moonshotai/Moonlight-16B-A3B",
        shards: 27,
        names: ShardNames::Plain,
        config: moonlight,
    },
    Known {
        name: "kimi-k2",
        repository: "moonshotai/Kimi-K2-Instruct",
        shards: 61,
        names: ShardNames::Plain,
        config: kimi_k2,
    },
];

fn fp8() -> Value {
    json!({ "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128] })
}

fn yarn(factor: u32, betas: [u32; 2], mscale: f64) -> Value {
    json!({
        "type": "yarn", "factor": factor, "beta_fast": betas[0], "beta_slow": betas[1], "mscale": mscale,
        "mscale_all_dim": mscale, "original_max_position_embeddings": 4096,
    })
}

fn with(mut base: Value, changes: Value) -> Value {
    if let (Value::Object(base), Value::Object(changes)) = (&mut base, changes) {
        base.extend(changes);
    }
    base
}

fn v3() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "attention_bias": false, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
        "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_nextn_predict_layers": 1,
        "first_k_dense_replace": 3, "moe_layer_freq": 1, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "rope_scaling": yarn(40, [32, 1], 1.0), "max_position_embeddings": 163840,
        "tie_word_embeddings": false, "quantization_config": fp8(),
    })
}

fn v32() -> Value {
    let changes = json!({
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "index_n_heads": 64,
        "index_head_dim": 128, "index_topk": 2048,
    });
    with(v3(), changes)
}

fn kimi_k2() -> Value {
    let changes = json!({
        "model_type": "kimi_k2", "bos_token_id": 163584, "eos_token_id": 163585, "vocab_size": 163840,
        "num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "num_attention_heads": 64,
        "num_key_value_heads": 64, "n_routed_experts": 384, "n_group": 1, "topk_group": 1,
        "routed_scaling_factor": 2.827, "rope_theta": 50000, "rope_scaling": yarn(32, [1, 1], 1.0),
        "max_position_embeddings": 131072,
    });
    with(v3(), changes)
}

fn v2() -> Value {
    json!({
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "hidden_act": "silu",
        "attention_bias": false, "bos_token_id": 100000, "eos_token_id": 100001, "torch_dtype": "bfloat16",
        "vocab_size": 102400, "hidden_size": 5120, "num_hidden_layers": 60, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 160, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "scoring_func": "softmax",
        "topk_method": "group_limited_greedy", "norm_topk_prob": false, "routed_scaling_factor": 16.0,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": yarn(40, [32, 1], 0.707),
        "max_position_embeddings": 163840, "tie_word_embeddings": false,
    })
}

fn v2_lite() -> Value {
    let changes = json!({
        "hidden_size": 2048, "num_hidden_layers": 27, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null, "n_routed_experts": 64,
        "n_group": 1, "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0,
    });
    with(v2(), changes)
}

fn moonlight() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "attention_bias": false, "bos_token_id": 163584, "eos_token_id": 163585, "torch_dtype": "bfloat16",
        "vocab_size": 163840, "hidden_size": 2048, "num_hidden_layers": 27, "num_nextn_predict_layers": 0,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "intermediate_size": 11264, "moe_intermediate_size": 1408,
        "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.446, "rms_norm_eps": 1e-5,
        "rope_theta": 50000, "rope_scaling": null, "max_position_embeddings": 8192, "tie_word_embeddings": false,
    })
}

/// A model of which only the config is at hand.
#[derive(Clone, Debug)]
pub struct Catalogued {
    name: String,
    source: String,
    text: Value,
    config: ModelConfig,
    /// Shards of the published checkpoint.
    shards: u32,
    names: ShardNames,
}

/// Names of all known models.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// Repositories of all known models, in the same order.
pub fn repositories() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.repository)
}

/// The repository of a known model, by any name that [`find`] knows.
pub fn repository(name: &str) -> Option<&'static str> {
    known(name).map(|known| known.repository)
}

/// By its name, its repository or the last part of that, in letters of any case.
fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| {
        let bare = known.repository.rsplit('/').next().unwrap_or_default();
        [known.name, known.repository, bare].iter().any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// A known model: by its name (`deepseek-math-v2`) or its repository (`deepseek-ai/DeepSeek-Math-V2`, with or without the
/// organisation), in letters of any case.
pub fn find(name: &str) -> Option<Catalogued> {
    let known = known(name)?;
    let source = format!("https://huggingface.co/{}/blob/main/config.json", known.repository);
    let model = Catalogued::from_config(known.name, &source, (known.config)(), known.shards, known.names);
    Some(model.expect("tested: every config of the catalogue is valid"))
}

impl Catalogued {
    /// A model of any config, its checkpoint in `shards` shards.
    ///
    /// # Errors
    /// A config that is refused.
    pub fn from_config(
        name: &str,
        source: &str,
        text: Value,
        shards: u32,
        names: ShardNames,
    ) -> Result<Self> {
        let config = ModelConfig::parse((Path::new(name), text.to_string().as_bytes()), None)?;
        Ok(Self { name: name.into(), source: source.into(), text, config, shards: shards.max(1), names })
    }

    /// Its name in the catalogue.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Owner and name of its repository on huggingface.co; its own name where its config is from elsewhere.
    pub fn repository(&self) -> &str {
        self.source
            .strip_prefix("https://huggingface.co/")
            .and_then(|rest| rest.split_once("/blob/"))
            .map_or(&self.name, |(name, _)| name)
    }

    /// Where its config was published.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// config.json
    pub fn config_text(&self) -> &Value {
        &self.text
    }

    /// Shards of the checkpoint.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// How they are named.
    pub fn shard_names(&self) -> ShardNames {
        self.names
    }

    /// The same model with its first layers only and without a multi-token-prediction head. At least one layer is a
    /// mixture of experts where the model has any; shards keep their published size.
    ///
    /// # Errors
    /// `layers` that config.json could not say.
    pub fn with_layers(&self, layers: u32) -> Result<Self> {
        let dense = self.config.first_k_dense_replace.min(layers.saturating_sub(1));
        let changes = json!({
            "num_hidden_layers": layers, "first_k_dense_replace": dense, "num_nextn_predict_layers": 0,
        });
        let text = with(self.text.clone(), changes);
        let mut model = Self::from_config(&self.name, &self.source, text, self.shards, self.names)?;
        let bytes = |model: &Self| model.stored_bytes().max(1);
        let shard = bytes(self).div_ceil(self.shards.into());
        model.shards = u32::try_from(bytes(&model).div_ceil(shard)).unwrap_or(u32::MAX);
        Ok(model)
    }

    /// Bytes of all tensors of the checkpoint, those of the multi-token-prediction head included.
    pub fn stored_bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.spec.stored_bytes()).sum()
    }

    /// Bytes of all weights and scales that are used: without the multi-token-prediction head.
    pub fn weight_bytes(&self) -> u64 {
        self.config.required_roles().filter_map(|role| self.spec(role)).map(|spec| spec.stored_bytes()).sum()
    }

    /// Every tensor of the checkpoint, layer by layer; scales belong to their weights.
    pub fn tensors(&self) -> impl Iterator<Item = NamedTensor> + '_ {
        // The multi-token-prediction head is one more layer, and what surrounds it.
        let mut extended = self.config.clone();
        extended.num_hidden_layers += self.config.num_nextn_predict_layers;
        let fp8 = self.is_fp8();
        let ordinary = self.config.required_roles().filter_map(move |role| {
            Some(NamedTensor { name: role.to_string(), role: Some(role), spec: self.spec(role)? })
        });
        let first = self.config.num_hidden_layers;
        let head = (first..extended.num_hidden_layers).flat_map(move |layer| {
            let hidden = extended.hidden_size;
            let table = Shape::matrix(extended.vocab_size, hidden);
            let around = [
                ("embed_tokens.weight", table),
                ("enorm.weight", Shape::vector(hidden)),
                ("hnorm.weight", Shape::vector(hidden)),
                ("eh_proj.weight", Shape::matrix(hidden, 2 * hidden)),
                ("shared_head.norm.weight", Shape::vector(hidden)),
                ("shared_head.head.weight", table),
            ];
            let around = around.map(|(name, shape)| NamedTensor {
                name: format!("model.layers.{layer}.{name}"),
                role: None,
                spec: TensorSpec { dtype: Dtype::Bf16, shape, scale: None },
            });
            let inner: Vec<NamedTensor> = extended
                .required_roles()
                .filter(|role| matches!(role, Role::Layer { layer: l, .. } if *l == layer))
                .filter_map(|role| {
                    let spec = spec_of(role, extended.shape_of(role)?, fp8);
                    Some(NamedTensor { name: role.to_string(), role: Some(role), spec })
                })
                .collect();
            around.into_iter().chain(inner)
        });
        ordinary.chain(head)
    }

    fn is_fp8(&self) -> bool {
        self.config.quantization == crate::config::Quantization::Fp8
    }
}

impl TensorTable for Catalogued {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn spec(&self, role: Role) -> Option<TensorSpec> {
        let tied = role == Role::LmHead && self.config.tie_word_embeddings;
        let role = if tied { Role::Embedding } else { role };
        Some(spec_of(role, self.config.shape_of(role)?, self.is_fp8()))
    }
}

/// A tensor of a checkpoint that is only described.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// What it is for; `None` around the multi-token-prediction head.
    pub role: Option<Role>,
    /// What it is like.
    pub spec: TensorSpec,
}

/// The dtypes of the published checkpoints: in FP8 ones the linear weights are FP8 but for the router, the head and the
/// indexer's weights_proj; the rest is BF16, the indexer's norm and the router's bias F32.
fn spec_of(role: Role, shape: Shape, fp8: bool) -> TensorSpec {
    use LayerRole::*;
    let dtype = match (role.kind(), role) {
        (_, Role::Layer { part: ScoreCorrectionBias | IndexerKNorm | IndexerKNormBias, .. }) => Dtype::F32,
        (_, Role::Layer { part: IndexerWeightsProj, .. }) => Dtype::Bf16,
        (Kind::Attention | Kind::Indexer | Kind::DenseMlp | Kind::SharedExpert | Kind::RoutedExpert, _)
            if fp8 =>
        {
            Dtype::F8E4m3
        }
        _ => Dtype::Bf16,
    };
    TensorSpec { dtype, shape, scale: (dtype == Dtype::F8E4m3).then_some(ScaleDtype::F32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_config_is_valid_and_has_the_published_size() {
        // Parameters in billions as the model cards say them, the multi-token-prediction head included.
        let billions = [
            ("deepseek-math-v2", 685.0),
            ("deepseek-v3", 685.0),
            ("deepseek-v2", 236.0),
            ("deepseek-v2-lite", 15.7),
            ("moonlight-16b-a3b", 16.0),
            ("kimi-k2", 1026.0),
        ];
        for name in names() {
            let model = find(name).unwrap();
            assert_eq!(name, name.to_lowercase());
            assert!(model.tensors().count() > 1000, "{name}");
        }
        for (name, expected) in billions {
            let model = find(name).unwrap();
            let found = model.tensors().map(|t| t.spec.shape.elements()).sum::<u64>() as f64 / 1e9;
            assert!(
                (found / expected - 1.0).abs() < 0.01,
                "{name}: {found} billion, {expected} are published"
            );
        }
        assert!(find("gpt").is_none() && find("").is_none() && find("deepseek-ai/").is_none());
    }

    #[test]
    fn models_are_found_by_every_name_they_have() {
        for name in [
            "deepseek-math-v2",
            "DEEPSEEK-MATH-V2",
            "deepseek-ai/DeepSeek-Math-V2",
            "deepseek-ai/deepseek-math-v2",
        ] {
            assert_eq!(find(name).unwrap().name(), "deepseek-math-v2", "{name}");
            assert_eq!(repository(name), Some("deepseek-ai/DeepSeek-Math-V2"), "{name}");
        }
        assert_eq!(find("Kimi-K2-Instruct").unwrap().name(), "kimi-k2");
        for (name, repository) in names().zip(repositories()) {
            assert_eq!((find(name).unwrap().name(), find(repository).unwrap().name()), (name, name));
        }
    }

    #[test]
    fn math_v2_is_689_gb() {
        let model = find("deepseek-math-v2").unwrap();
        let bytes = model.stored_bytes() as f64 / 1e9;
        assert!((688.0..690.5).contains(&bytes), "{bytes} GB");
        assert!(model.weight_bytes() < model.stored_bytes());
    }

    #[test]
    fn two_layers_are_one_dense_and_one_of_experts() {
        let model = find("deepseek-math-v2").unwrap().with_layers(2).unwrap();
        let config = TensorTable::config(&model);
        assert_eq!((config.num_hidden_layers, config.first_k_dense_replace), (2, 1));
        assert!(!config.is_moe(0) && config.is_moe(1));
        let gb = model.stored_bytes() as f64 / 1e9;
        assert!((15.0..17.0).contains(&gb), "{gb} GB");
        assert_eq!(model.shards(), 4);
    }
}
