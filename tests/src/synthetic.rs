//! Checkpoints made on the spot: any config of the family, random weights, written in the published layout.
//!
//! Weights are scaled so that activations stay near 1, attention and the router choose clearly and logits spread by a few
//! units: a wrong kernel then shows in the logits. The factor of every FP8 block differs, so that a wrong scale shows too.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use porism_loader::{Dtype, LayerRole, ModelConfig, Role, ScaleDtype, Shape};
use porism_shaders::float8::f32_to_e4m3;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

/// Where the scales of FP8 weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalePlace {
    /// In the weight's shard.
    Beside,
    /// In the shard after it.
    NextShard,
}

/// How tensors are stored.
#[derive(Clone, Copy, Debug)]
pub struct Dtypes {
    /// Linear weights of attention, indexer and MLPs.
    pub linear: Dtype,
    /// Block scales of those that are FP8.
    pub scale: ScaleDtype,
    /// Their place.
    pub scale_place: ScalePlace,
    /// `embed_tokens`, and `lm_head` where that is not FP8.
    pub embedding: Dtype,
    /// `lm_head`
    pub head: Dtype,
    /// RMS norms.
    pub norm: Dtype,
    /// The indexer's key norm, its bias and its weights_proj.
    pub indexer: Dtype,
    /// The router's matrix.
    pub router: Dtype,
    /// `e_score_correction_bias`
    pub bias: Dtype,
}

impl Dtypes {
    /// As in checkpoints of 2 bytes a weight.
    pub fn bf16() -> Self {
        Dtypes {
            linear: Dtype::Bf16,
            scale: ScaleDtype::F32,
            scale_place: ScalePlace::Beside,
            embedding: Dtype::Bf16,
            head: Dtype::Bf16,
            norm: Dtype::Bf16,
            indexer: Dtype::F32,
            router: Dtype::Bf16,
            bias: Dtype::F32,
        }
    }

    /// As in the released FP8 checkpoints.
    pub fn fp8() -> Self {
        Dtypes { linear: Dtype::F8E4m3, ..Self::bf16() }
    }

    /// One type for everything.
    pub fn all(dtype: Dtype) -> Self {
        Dtypes {
            linear: dtype,
            embedding: dtype,
            head: dtype,
            norm: dtype,
            indexer: dtype,
            router: dtype,
            bias: dtype,
            ..Self::bf16()
        }
    }

    fn of(&self, role: Role) -> Dtype {
        use LayerRole::*;
        match role {
            Role::Embedding => self.embedding,
            Role::LmHead => self.head,
            Role::FinalNorm => self.norm,
            Role::Layer { part, .. } => match part {
                InputLayernorm | QALayernorm | KvALayernorm | PostAttentionLayernorm => self.norm,
                IndexerKNorm | IndexerKNormBias | IndexerWeightsProj => self.indexer,
                RouterGate => self.router,
                ScoreCorrectionBias => self.bias,
                _ => self.linear,
            },
        }
    }
}

/// A checkpoint to be written.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// `config.json`
    pub config: Value,
    /// How its tensors are stored.
    pub dtypes: Dtypes,
    /// Files; 1 is `model.safetensors` without an index.
    pub shards: usize,
    /// Of the weights.
    pub seed: u64,
}

struct Stored {
    name: String,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    shard: usize,
}

impl Synthetic {
    /// A small V3.2 model of three layers, with `changes` to its config; a change to null takes a key away.
    pub fn new(changes: Value, dtypes: Dtypes) -> Self {
        let mut config = base_config();
        let Value::Object(changes) = changes else { panic!("changes are an object") };
        for (key, value) in changes {
            match value {
                Value::Null => drop(config.remove(&key)),
                value => drop(config.insert(key, value)),
            }
        }
        if dtypes.linear == Dtype::F8E4m3 {
            let quantization = json!({
                "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]
            });
            config.insert("quantization_config".into(), quantization);
        }
        Synthetic { config: Value::Object(config), dtypes, shards: 3, seed: 1 }
    }

    /// With so many files.
    pub fn shards(self, shards: usize) -> Self {
        Synthetic { shards, ..self }
    }

    /// With other weights.
    pub fn seed(self, seed: u64) -> Self {
        Synthetic { seed, ..self }
    }

    /// The typed config.
    ///
    /// # Errors
    /// What the loader refuses.
    pub fn model(&self) -> Result<ModelConfig, String> {
        let text = self.config.to_string();
        ModelConfig::parse((Path::new("config.json"), text.as_bytes()), None)
            .map_err(|error| error.to_string())
    }

    /// Writes `config.json`, the shards and, with several of them, the index.
    ///
    /// # Panics
    /// If the config is refused or a file cannot be written.
    pub fn write(&self, directory: &Path) {
        let model = self.model().unwrap_or_else(|error| panic!("{error}"));
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        let mut tensors = Vec::new();
        for (index, role) in model.required_roles().enumerate() {
            let shape = model.shape_of(role).expect("required");
            let values = values(&mut generator, &model, role, shape);
            self.store(
                &mut tensors,
                role.to_string(),
                shape,
                self.dtypes.of(role),
                values,
                index % self.shards,
            );
        }
        for layer in 0..model.num_nextn_predict_layers {
            self.store_mtp(&mut tensors, &model, model.num_hidden_layers + layer);
        }
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        write("config.json", self.config.to_string().as_bytes());
        let mut weight_map = Map::new();
        for shard in 0..self.shards {
            let file = match self.shards {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:06}.safetensors", shard + 1),
            };
            let of_shard = tensors.iter().filter(|tensor| tensor.shard == shard);
            let views = of_shard.map(|tensor| {
                let view =
                    TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("sizes agree");
                (tensor.name.as_str(), view)
            });
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            write(&file, &safetensors::serialize(views, Some(metadata)).expect("tensors are well formed"));
            for tensor in tensors.iter().filter(|tensor| tensor.shard == shard) {
                weight_map.insert(tensor.name.clone(), file.clone().into());
            }
        }
        if self.shards > 1 {
            let total: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            write("model.safetensors.index.json", index.to_string().as_bytes());
        }
    }

    fn store(
        &self,
        to: &mut Vec<Stored>,
        name: String,
        shape: Shape,
        dtype: Dtype,
        values: Vec<f32>,
        shard: usize,
    ) {
        let sizes: Vec<usize> = shape.sizes().iter().map(|size| *size as usize).collect();
        let (dtype, bytes) = match dtype {
            Dtype::F32 => (safetensors::Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Dtype::Bf16 => {
                let bytes = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
                (safetensors::Dtype::BF16, bytes)
            }
            Dtype::F16 => {
                let bytes = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
                (safetensors::Dtype::F16, bytes)
            }
            Dtype::F8E4m3 => {
                let [rows, columns] = shape.scale_shape();
                let (codes, scales) =
                    quantise(values, shape.columns() as usize, columns as usize, self.dtypes.scale);
                let (scale_dtype, bytes) = match self.dtypes.scale {
                    ScaleDtype::F32 => {
                        (safetensors::Dtype::F32, scales.iter().flat_map(|s| s.to_le_bytes()).collect())
                    }
                    ScaleDtype::Bf16 => {
                        let bytes = scales.iter().flat_map(|s| bf16::from_f32(*s).to_le_bytes()).collect();
                        (safetensors::Dtype::BF16, bytes)
                    }
                    ScaleDtype::F8E8m0 => {
                        let bytes = scales.iter().map(|s| (s.to_bits() >> 23) as u8).collect();
                        (safetensors::Dtype::F8_E8M0, bytes)
                    }
                };
                let stem = name.strip_suffix("weight").expect("FP8 tensors are weights");
                to.push(Stored {
                    name: format!("{stem}weight_scale_inv"),
                    dtype: scale_dtype,
                    shape: vec![rows as usize, columns as usize],
                    bytes,
                    shard: match self.dtypes.scale_place {
                        ScalePlace::Beside => shard,
                        ScalePlace::NextShard => (shard + 1) % self.shards,
                    },
                });
                (safetensors::Dtype::F8_E4M3, codes)
            }
        };
        to.push(Stored { name, dtype, shape: sizes, bytes, shard });
    }

    /// Tensors of the multi-token-prediction head: large numbers, which would show if anything read them.
    fn store_mtp(&self, to: &mut Vec<Stored>, model: &ModelConfig, layer: u32) {
        let hidden = model.hidden_size;
        let own = [
            ("embed_tokens.weight", Shape::matrix(model.vocab_size, hidden)),
            ("enorm.weight", Shape::vector(hidden)),
            ("hnorm.weight", Shape::vector(hidden)),
            ("eh_proj.weight", Shape::matrix(hidden, 2 * hidden)),
            ("shared_head.norm.weight", Shape::vector(hidden)),
            ("shared_head.head.weight", Shape::matrix(model.vocab_size, hidden)),
        ];
        for (name, shape) in own {
            let values = vec![1e4; shape.elements() as usize];
            self.store(to, format!("model.layers.{layer}.{name}"), shape, Dtype::Bf16, values, 0);
        }
        let last = model.num_hidden_layers - 1;
        let block: Vec<Role> = model
            .required_roles()
            .filter(|r| matches!(r, Role::Layer { layer, .. } if *layer == last))
            .collect();
        for role in block {
            let Role::Layer { part, .. } = role else { continue };
            let shape = model.shape_of(role).expect("required");
            let values = vec![1e4; shape.elements() as usize];
            self.store(to, format!("model.layers.{layer}.{part}"), shape, self.dtypes.of(role), values, 0);
        }
    }
}

/// Sizes that are odd or leave partial blocks wherever kernels allow it.
fn base_config() -> Map<String, Value> {
    let config = json!({
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "attention_bias": false,
        "hidden_act": "silu",
        "vocab_size": 160,
        "hidden_size": 144,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "intermediate_size": 176,
        "moe_intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 64,
        "kv_lora_rank": 48,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": true,
        "routed_scaling_factor": 2.5,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "rope_scaling": {
            "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32
        },
        "max_position_embeddings": 4096,
        "num_nextn_predict_layers": 0,
        "index_n_heads": 6,
        "index_head_dim": 32,
        "index_topk": 12,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": false,
    });
    let Value::Object(config) = config else { unreachable!("written as an object") };
    config
}

/// A normal deviate, by the sum of twelve uniform ones.
fn normal(generator: &mut ChaCha8Rng) -> f32 {
    let mut sum = -6.0;
    for _ in 0..12 {
        sum += (generator.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    }
    sum
}

fn values(generator: &mut ChaCha8Rng, model: &ModelConfig, role: Role, shape: Shape) -> Vec<f32> {
    use LayerRole::*;
    let inputs = shape.columns() as f32;
    // Mean and deviation of a tensor's values.
    let (mean, spread) = match role {
        Role::Embedding if model.tie_word_embeddings => (0.0, 0.4),
        Role::Embedding => (0.0, 1.0),
        Role::FinalNorm => (1.0, 0.2),
        Role::LmHead => (0.0, 3.0 / inputs.sqrt()),
        Role::Layer { part, .. } => match part {
            InputLayernorm | QALayernorm | KvALayernorm | PostAttentionLayernorm | IndexerKNorm => (1.0, 0.2),
            IndexerKNormBias => (0.0, 0.3),
            ScoreCorrectionBias => (0.0, 0.15),
            RouterGate | QBProj | QProj => (0.0, 1.5 / inputs.sqrt()),
            _ => (0.0, 1.0 / inputs.sqrt()),
        },
    };
    (0..shape.elements()).map(|_| mean + spread * normal(generator)).collect()
}

/// E4M3 codes and the scale of each block of 128 × 128. Blocks differ in size by up to a factor of 2, so do their scales.
fn quantise(
    mut values: Vec<f32>,
    cols: usize,
    block_columns: usize,
    dtype: ScaleDtype,
) -> (Vec<u8>, Vec<f32>) {
    let rows = values.len() / cols;
    let block = |index: usize| (index / cols / 128) * block_columns + index % cols / 128;
    let count = rows.div_ceil(128) * block_columns;
    let mut largest = vec![f32::MIN_POSITIVE; count];
    for (index, value) in values.iter_mut().enumerate() {
        let block = block(index);
        // Without a loss of size on average: 0.75, 1.0, 1.25 in turn.
        *value *= 0.75 + 0.25 * (block % 3) as f32;
        largest[block] = largest[block].max(value.abs());
    }
    let scales: Vec<f32> = largest
        .iter()
        .map(|largest| match dtype {
            ScaleDtype::F32 => largest / 448.0,
            // Rounded up by at most 2^-7, so that nothing saturates.
            ScaleDtype::Bf16 => bf16::from_f32(largest / 448.0 * 1.01).to_f32(),
            ScaleDtype::F8E8m0 => (largest / 448.0).log2().ceil().exp2(),
        })
        .collect();
    let codes =
        values.iter().enumerate().map(|(index, value)| f32_to_e4m3(value / scales[block(index)])).collect();
    (codes, scales)
}
