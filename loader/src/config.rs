//! `config.json` → [`ModelConfig`]: typed, and checked once for everything the engine takes for granted.
//!
//! Names and defaults are the checkpoint's own. A value that is out of bounds or a feature that is not computed
//! is refused here, naming the key, what it says and what is supported, so that nobody downstream has to ask.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Rows and columns of a block of FP8 weights that share one scale.
pub const BLOCK: u32 = 128;

/// `q_a_layernorm` and `kv_a_layernorm` use this epsilon whatever `rms_norm_eps` says.
pub const LATENT_NORM_EPS: f64 = 1e-6;

/// Epsilon of the layer norm on the indexer's keys.
pub const INDEXER_NORM_EPS: f64 = 1e-6;

/// No dimension of a model may exceed this; the largest published one is 163,840.
const LARGEST_SIZE: u64 = 1 << 24;

/// The same for the number of layers, and of experts in a layer.
const MOST_LAYERS: u64 = 4096;
const MOST_EXPERTS: u64 = 65_535;

/// Published config files have a few KB; quantisation lists make some of them a few hundred.
pub(crate) const CONFIG_LIMIT: u64 = 4 << 20;

/// `model_type`: which defaults and which features a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `deepseek_v2`: softmax router without bias, `q_lora_rank` may be null.
    DeepseekV2,
    /// `deepseek_v3`: sigmoid router with groups and bias.
    DeepseekV3,
    /// `deepseek_v32`: V3 with the lightning indexer (V3.2-Exp, V3.2, Math-V2).
    DeepseekV32,
    /// `kimi_k2`: V3 with other sizes.
    KimiK2,
    /// `glm_moe_dsa`: V3.2 with an interleaved indexer rope and, in some, top-k shared between layers.
    GlmMoeDsa,
}

impl Family {
    const ALL: [Family; 5] =
        [Self::DeepseekV2, Self::DeepseekV3, Self::DeepseekV32, Self::KimiK2, Self::GlmMoeDsa];

    /// The value of `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
            Self::DeepseekV32 => "deepseek_v32",
            Self::KimiK2 => "kimi_k2",
            Self::GlmMoeDsa => "glm_moe_dsa",
        }
    }
}

/// `scoring_func`: how router logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scoring {
    /// Each expert on its own.
    Sigmoid,
    /// Over all experts.
    Softmax,
}

impl Scoring {
    /// The value of `scoring_func`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
        }
    }
}

/// `topk_method`: how experts are chosen from their scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopkMethod {
    /// The best experts, groups or not.
    Greedy,
    /// The best groups by their best score, then the best experts in them.
    GroupLimitedGreedy,
    /// Scores plus `e_score_correction_bias`; the best groups by the sum of their two best, then the best experts.
    NoauxTc,
}

impl TopkMethod {
    /// The value of `topk_method`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::GroupLimitedGreedy => "group_limited_greedy",
            Self::NoauxTc => "noaux_tc",
        }
    }
}

/// `quantization_config`: what the checkpoint says about its linear weights. The dtype of each tensor decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// None: plain BF16, F16 or F32.
    None,
    /// `fp8`: E4M3 with one scale per block of 128 × 128.
    Fp8,
}

/// YaRN's stretching of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer the context is than the trained one.
    pub factor: f64,
    /// Rotations over the original context above which a frequency is kept (default 32).
    pub beta_fast: f64,
    /// Rotations below which it is divided by `factor` (default 1).
    pub beta_slow: f64,
    /// Amplitude of cos and sin, numerator; 0 when the config has none.
    pub mscale: f64,
    /// Amplitude of cos and sin, denominator, and softmax temperature; 0 when the config has none.
    pub mscale_all_dim: f64,
    /// Context length of the first training, in tokens.
    pub original_max_position_embeddings: u32,
}

impl Yarn {
    /// 0.1 · a · ln(factor) + 1, the attention temperature's square root for a scale `a`.
    fn magnitude(&self, a: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * a * self.factor.ln() + 1.0 }
    }
}

/// The lightning indexer of sparse attention (DSA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexer {
    /// Query heads of the indexer.
    pub index_n_heads: u32,
    /// Width of a head; the first `qk_rope_head_dim` of it are rotated.
    pub index_head_dim: u32,
    /// How many positions attention may see.
    pub index_topk: u32,
    /// Rotate pairs (2i, 2i+1) instead of (i, i + R/2).
    pub rope_interleave: bool,
    /// Layers without an indexer of their own, ascending: they attend to the positions that the last layer
    /// before them chose. Empty in DeepSeek's models.
    pub shared_layers: Vec<u32>,
}

/// Sampling defaults of `generation_config.json`, as other programs understand them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// False asks for greedy decoding.
    pub do_sample: Option<bool>,
    /// Softmax temperature, from 0 to 100; 0, and what is too small to divide by, asks for greedy decoding.
    pub temperature: Option<f64>,
    /// Nucleus mass, from 0 to 1; 0 leaves the most likely token only.
    pub top_p: Option<f64>,
    /// Number of candidates; 0 means all, and so does -1 in the file.
    pub top_k: Option<u32>,
    /// The least probability of a candidate, as a share of the largest one; from 0 to 1, 0 keeps all.
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens that occurred; from 0.01 to 100, 1 changes nothing.
    pub repetition_penalty: Option<f64>,
    /// Defaults that would change the text and that there is nothing for here, as `key = value`.
    pub ignored: Vec<String>,
}

/// A model's architecture. Every size is at least 1 and at most 2^24 unless its comment says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`.
    pub model_type: Family,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Layers, without those of the multi-token-prediction (MTP) head.
    pub num_hidden_layers: u32,
    /// So many first layers are dense; may be 0 or more than there are layers.
    pub first_k_dense_replace: u32,
    /// Of the others, those whose index it divides are MoE (1 in all published models).
    pub moe_layer_freq: u32,
    /// Width of a dense layer's MLP; 0 if no layer is dense and the config leaves it out.
    pub intermediate_size: u32,
    /// Width of an expert; 0 if no layer is MoE and the config leaves it out.
    pub moe_intermediate_size: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Rank of the query's low-rank projection; `None` means one full `q_proj`.
    pub q_lora_rank: Option<u32>,
    /// Width of the cached latent.
    pub kv_lora_rank: u32,
    /// Part of a head that is not rotated.
    pub qk_nope_head_dim: u32,
    /// Part of a head that is rotated (the last dims); even.
    pub qk_rope_head_dim: u32,
    /// Width of a head's value.
    pub v_head_dim: u32,
    /// Routed experts per MoE layer; 0 = the model is dense throughout.
    pub n_routed_experts: u32,
    /// Experts every token takes, stored as one MLP `n_shared_experts` times as wide; may be 0.
    pub n_shared_experts: u32,
    /// Routed experts per token; 0 only if there are none.
    pub num_experts_per_tok: u32,
    /// Groups of experts; divides `n_routed_experts`.
    pub n_group: u32,
    /// Groups a token may choose from; at most `n_group`.
    pub topk_group: u32,
    /// `scoring_func`.
    pub scoring: Scoring,
    /// `topk_method`.
    pub topk_method: TopkMethod,
    /// Whether the chosen experts' weights are normalised to sum 1.
    pub norm_topk_prob: bool,
    /// Factor on the routed experts' weights (V2 applies it only where weights are not normalised).
    pub routed_scaling_factor: f64,
    /// Epsilon of the block norms and the final one; not of the latent norms, see [`LATENT_NORM_EPS`].
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretched frequencies, if the config says so.
    pub yarn: Option<Yarn>,
    /// Sparse attention, if the model has it.
    pub indexer: Option<Indexer>,
    /// The embedding is the head as well.
    pub tie_word_embeddings: bool,
    /// Longest context, in tokens.
    pub max_position_embeddings: u32,
    /// Layers of the MTP head, which are recognised and left out; may be 0.
    pub num_nextn_predict_layers: u32,
    /// First token of a prompt.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; may be empty. Ids beyond the vocabulary never match.
    pub eos_token_ids: Vec<u32>,
    /// `quantization_config`.
    pub quantization: Quantization,
    /// Sampling defaults.
    pub generation: Generation,
}

impl ModelConfig {
    /// Reads `config.json` and, where there is one, `generation_config.json`, whose token ids win.
    /// The files' names are for messages only.
    pub fn parse(config: (&Path, &[u8]), generation: Option<(&Path, &[u8])>) -> Result<Self> {
        let keys = Keys::parse(config.0, config.1)?;
        let mut model = read(&keys)?;
        if let Some((file, text)) = generation {
            read_generation(&Keys::parse(file, text)?, &mut model)?;
        }
        Ok(model)
    }

    /// Whether the layer's MLP is a mixture of experts.
    pub fn is_moe(&self, layer: u32) -> bool {
        self.n_routed_experts > 0
            && layer >= self.first_k_dense_replace
            && layer.is_multiple_of(self.moe_layer_freq)
    }

    /// Whether the layer chooses its positions with an indexer of its own. A model with an indexer may have layers
    /// that reuse the positions of the last layer before them that has one ([`Indexer::shared_layers`]).
    pub fn has_indexer(&self, layer: u32) -> bool {
        self.indexer.as_ref().is_some_and(|indexer| indexer.shared_layers.binary_search(&layer).is_err())
    }

    /// Width of a query head: nope, then rope.
    pub fn qk_head_dim(&self) -> u32 {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Width of the shared experts' one MLP; 0 when there are none.
    pub fn shared_intermediate_size(&self) -> u32 {
        self.n_shared_experts * self.moe_intermediate_size
    }

    /// Whether experts are chosen from a part of the groups only.
    pub fn is_grouped(&self) -> bool {
        self.topk_method != TopkMethod::Greedy && self.n_group > 1
    }

    /// Factor on attention scores: (nope + rope)^-1/2, times the square of YaRN's temperature.
    pub fn softmax_scale(&self) -> f64 {
        let scale = f64::from(self.qk_head_dim()).powf(-0.5);
        match &self.yarn {
            Some(yarn) if yarn.mscale_all_dim != 0.0 => scale * yarn.magnitude(yarn.mscale_all_dim).powi(2),
            _ => scale,
        }
    }

    /// Radians per position of each of the `qk_rope_head_dim / 2` rotated pairs.
    pub fn rope_inverse_frequencies(&self) -> Vec<f64> {
        let dims = f64::from(self.qk_rope_head_dim);
        let plain = |pair: u32| self.rope_theta.powf(-f64::from(2 * pair) / dims);
        let pairs = 0..self.qk_rope_head_dim / 2;
        let Some(yarn) = &self.yarn else { return pairs.map(plain).collect() };

        // The (fractional) pair that turns `rotations` times over the original context.
        let original = f64::from(yarn.original_max_position_embeddings);
        let pair_of = |rotations: f64| {
            dims * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.rope_theta.ln())
        };
        let low = pair_of(yarn.beta_fast).floor().max(0.0);
        let mut high = pair_of(yarn.beta_slow).ceil().min(dims - 1.0);
        if low == high {
            high += 0.001; // as the published code does, against 0/0
        }
        pairs
            .map(|pair| {
                let ramp = ((f64::from(pair) - low) / (high - low)).clamp(0.0, 1.0); // 0: keep, 1: divide
                plain(pair) / yarn.factor * ramp + plain(pair) * (1.0 - ramp)
            })
            .collect()
    }

    /// Factor on cos and sin: 1 without YaRN and in the released files.
    pub fn rope_amplitude(&self) -> f64 {
        match &self.yarn {
            None => 1.0,
            Some(yarn) if yarn.mscale != 0.0 && yarn.mscale_all_dim != 0.0 => {
                yarn.magnitude(yarn.mscale) / yarn.magnitude(yarn.mscale_all_dim)
            }
            Some(yarn) => yarn.magnitude(1.0),
        }
    }
}

/// The keys of one JSON object in one file, with errors that name both.
struct Keys<'a> {
    file: &'a Path,
    /// Keys of the objects around this one, for messages: `rope_scaling.`
    prefix: &'static str,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn parse(file: &'a Path, text: &[u8]) -> Result<Self> {
        if text.len() as u64 > CONFIG_LIMIT {
            return Err(Error::TooLarge {
                file: file.into(),
                expected: format!("at most {CONFIG_LIMIT} bytes"),
                found: format!("{} bytes", text.len()),
            });
        }
        // serde_json refuses to nest deeper than 128 levels.
        match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => Ok(Self { file, prefix: "", map }),
            Ok(other) => {
                Err(Error::Json { file: file.into(), expected: "a JSON object".into(), found: brief(&other) })
            }
            Err(error) => Err(Error::Json {
                file: file.into(),
                expected: "a JSON object".into(),
                found: error.to_string(),
            }),
        }
    }

    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn refuse<T>(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> Result<T> {
        Err(Error::Config {
            file: self.file.into(),
            key: format!("{}{key}", self.prefix),
            expected: expected.into(),
            found: found.into(),
        })
    }

    fn found(&self, key: &str) -> String {
        self.map.get(key).map_or("nothing".into(), brief)
    }

    /// An integer within bounds, or `None` if the key is absent or null.
    fn integer(&self, key: &str, low: u64, high: u64) -> Result<Option<u32>> {
        debug_assert!(high <= u64::from(u32::MAX));
        let Some(value) = self.get(key) else { return Ok(None) };
        // 4096.0 is a whole number too: some tools write integers so.
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|float| float.fract() == 0.0 && (0.0..=1e9).contains(float))
                .map(|f| f as u64)
        });
        match whole {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number as u32)),
            _ => self.refuse(key, brief(value), format!("a whole number from {low} to {high}")),
        }
    }

    /// How many at most: a whole number of which 0, -1 and all that is too large to matter mean no limit.
    fn limit(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(-1.0) => Ok(Some(0)),
            Some(number) if number.fract() == 0.0 && number >= 0.0 => {
                Ok(Some(if number > LARGEST_SIZE as f64 { 0 } else { number as u32 }))
            }
            _ => self.refuse(key, brief(value), "a whole number from 0, or -1 for no limit"),
        }
    }

    /// A dimension that must be there.
    fn size(&self, key: &str) -> Result<u32> {
        match self.integer(key, 1, LARGEST_SIZE)? {
            Some(size) => Ok(size),
            None => self.refuse(key, self.found(key), format!("a whole number from 1 to {LARGEST_SIZE}")),
        }
    }

    fn float(&self, key: &str, low: f64, high: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => self.refuse(key, brief(value), format!("a number from {low} to {high}")),
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(boolean)) => Ok(Some(*boolean)),
            Some(other) => self.refuse(key, brief(other), "true or false"),
        }
    }

    /// One of some named values.
    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match choices.iter().find(|(name, _)| Some(*name) == value.as_str()) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
                self.refuse(key, brief(value), names.join(" or "))
            }
        }
    }

    /// A nested object; absent, null and {} are the same.
    fn object(&self, key: &str, prefix: &'static str) -> Result<Option<Keys<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { file: self.file, prefix, map: map.clone() })),
            Some(other) => self.refuse(key, brief(other), "an object"),
        }
    }

    /// A token id or a list of them.
    fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        const WANTED: &str = "a token id or a list of at most 1024";
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = std::slice::from_ref(value);
        let values = value.as_array().map_or(one, Vec::as_slice);
        let ids: Option<Vec<u32>> =
            values.iter().map(|value| value.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
        match ids {
            Some(ids) if ids.len() <= 1024 => Ok(Some(ids)),
            _ => self.refuse(key, brief(value), WANTED),
        }
    }
}

/// A JSON value for a message: whole if it is short.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::Array(items) if items.len() > 8 => return format!("a list of {}", items.len()),
        Value::Object(map) if map.len() > 8 => return format!("an object of {} keys", map.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn read(keys: &Keys<'_>) -> Result<ModelConfig> {
    let families = Family::ALL.map(|family| (family.model_type(), family));
    let Some(model_type) = keys.choice("model_type", &families)? else {
        let names = families.map(|(name, _)| format!("{name:?}"));
        return keys.refuse("model_type", keys.found("model_type"), names.join(" or "));
    };
    let is_v2 = model_type == Family::DeepseekV2;
    refuse_unsupported(keys)?;

    let num_hidden_layers = match keys.integer("num_hidden_layers", 1, MOST_LAYERS)? {
        Some(layers) => layers,
        None => keys.size("num_hidden_layers")?,
    };
    let n_routed_experts = keys.integer("n_routed_experts", 0, MOST_EXPERTS)?.unwrap_or(0);
    let first_k_dense_replace = keys.integer("first_k_dense_replace", 0, LARGEST_SIZE)?.unwrap_or(0);
    let scoring_default = if is_v2 { Scoring::Softmax } else { Scoring::Sigmoid };
    let method_default = if is_v2 { TopkMethod::Greedy } else { TopkMethod::NoauxTc };
    let (rope_theta, yarn) = read_rope(keys)?;

    let model = ModelConfig {
        model_type,
        vocab_size: keys.size("vocab_size")?,
        hidden_size: keys.size("hidden_size")?,
        num_hidden_layers,
        first_k_dense_replace,
        moe_layer_freq: keys.integer("moe_layer_freq", 1, MOST_LAYERS)?.unwrap_or(1),
        intermediate_size: keys.integer("intermediate_size", 1, LARGEST_SIZE)?.unwrap_or(0),
        moe_intermediate_size: keys.integer("moe_intermediate_size", 1, LARGEST_SIZE)?.unwrap_or(0),
        num_attention_heads: keys.size("num_attention_heads")?,
        q_lora_rank: keys.integer("q_lora_rank", 0, LARGEST_SIZE)?.filter(|rank| *rank > 0),
        kv_lora_rank: keys.size("kv_lora_rank")?,
        qk_nope_head_dim: keys.size("qk_nope_head_dim")?,
        qk_rope_head_dim: keys.size("qk_rope_head_dim")?,
        v_head_dim: keys.size("v_head_dim")?,
        n_routed_experts,
        n_shared_experts: keys.integer("n_shared_experts", 0, MOST_EXPERTS)?.unwrap_or(0),
        num_experts_per_tok: keys.integer("num_experts_per_tok", 0, MOST_EXPERTS)?.unwrap_or(0),
        n_group: keys.integer("n_group", 0, MOST_EXPERTS)?.filter(|n| *n > 0).unwrap_or(1),
        topk_group: keys.integer("topk_group", 0, MOST_EXPERTS)?.filter(|n| *n > 0).unwrap_or(1),
        scoring: keys
            .choice("scoring_func", &[("sigmoid", Scoring::Sigmoid), ("softmax", Scoring::Softmax)])?
            .unwrap_or(scoring_default),
        topk_method: keys
            .choice(
                "topk_method",
                &[
                    ("greedy", TopkMethod::Greedy),
                    ("group_limited_greedy", TopkMethod::GroupLimitedGreedy),
                    ("noaux_tc", TopkMethod::NoauxTc),
                ],
            )?
            .unwrap_or(method_default),
        norm_topk_prob: keys.boolean("norm_topk_prob")?.unwrap_or(!is_v2),
        routed_scaling_factor: keys.float("routed_scaling_factor", 0.0, 1e6)?.unwrap_or(1.0),
        rms_norm_eps: keys.float("rms_norm_eps", 0.0, 1.0)?.unwrap_or(1e-6),
        rope_theta,
        yarn,
        indexer: read_indexer(keys, model_type, num_hidden_layers)?,
        tie_word_embeddings: keys.boolean("tie_word_embeddings")?.unwrap_or(false),
        max_position_embeddings: keys.size("max_position_embeddings")?,
        num_nextn_predict_layers: keys.integer("num_nextn_predict_layers", 0, MOST_LAYERS)?.unwrap_or(0),
        bos_token_id: keys.token_ids("bos_token_id")?.and_then(|ids| ids.first().copied()),
        eos_token_ids: keys.token_ids("eos_token_id")?.unwrap_or_default(),
        quantization: read_quantization(keys)?,
        generation: Generation::default(),
    };
    check(keys, &model)?;
    Ok(model)
}

/// Switches that would change the computation and that no published checkpoint of the family turns on.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<()> {
    keys.choice("hidden_act", &[("silu", ())])?;
    for key in ["attention_bias", "mlp_bias", "mla_use_nope", "swiglu_limit"] {
        match keys.get(key) {
            None | Some(Value::Bool(false)) => {}
            Some(other) => return keys.refuse(key, brief(other), "false or absent"),
        }
    }
    if keys.boolean("rope_interleave")? == Some(false) {
        return keys.refuse(
            "rope_interleave",
            "false",
            "true or absent (the attention's rope is interleaved)",
        );
    }
    Ok(())
}

/// `rope_theta` and YaRN, from `rope_scaling` or, in newer files, `rope_parameters`.
fn read_rope(keys: &Keys<'_>) -> Result<(f64, Option<Yarn>)> {
    let rope = match keys.object("rope_scaling", "rope_scaling.")? {
        Some(rope) => Some(rope),
        None => keys.object("rope_parameters", "rope_parameters.")?,
    };
    const THETA: (f64, f64) = (1.001, 1e12);
    let mut theta = keys.float("rope_theta", THETA.0, THETA.1)?;
    if let (None, Some(rope)) = (theta, &rope) {
        theta = rope.float("rope_theta", THETA.0, THETA.1)?;
    }
    let theta = theta.unwrap_or(10_000.0);
    let Some(rope) = rope else { return Ok((theta, None)) };

    let kinds = [("yarn", true), ("default", false)];
    let kind = match rope.choice("type", &kinds)? {
        Some(kind) => Some(kind),
        None => rope.choice("rope_type", &kinds)?,
    };
    if kind != Some(true) {
        return Ok((theta, None));
    }
    if rope.get("attention_factor").is_some() {
        return rope.refuse(
            "attention_factor",
            rope.found("attention_factor"),
            "absent (mscale is computed)",
        );
    }
    if rope.boolean("truncate")? == Some(false) {
        return rope.refuse("truncate", "false", "true or absent");
    }
    let Some(factor) = rope.float("factor", 1e-3, 1e6)? else {
        return rope.refuse("factor", rope.found("factor"), "a number, since the type is yarn");
    };
    let yarn = Yarn {
        factor,
        beta_fast: rope.float("beta_fast", 1e-6, 1e9)?.unwrap_or(32.0),
        beta_slow: rope.float("beta_slow", 1e-6, 1e9)?.unwrap_or(1.0),
        mscale: rope.float("mscale", 0.0, 1e3)?.unwrap_or(0.0),
        mscale_all_dim: rope.float("mscale_all_dim", 0.0, 1e3)?.unwrap_or(0.0),
        original_max_position_embeddings: rope.size("original_max_position_embeddings")?,
    };
    Ok((theta, Some(yarn)))
}

fn read_indexer(keys: &Keys<'_>, family: Family, layers: u32) -> Result<Option<Indexer>> {
    let always = matches!(family, Family::DeepseekV32 | Family::GlmMoeDsa);
    if !always && keys.get("index_topk").is_none() {
        return Ok(None);
    }
    Ok(Some(Indexer {
        index_n_heads: keys.size("index_n_heads")?,
        index_head_dim: keys.size("index_head_dim")?,
        index_topk: keys.size("index_topk")?,
        // The key decides where there is one; GLM's models interleave even where it is missing.
        rope_interleave: keys.boolean("indexer_rope_interleave")?.unwrap_or(family == Family::GlmMoeDsa),
        shared_layers: read_shared_layers(keys, layers)?,
    }))
}

/// Which layers reuse another one's positions: a list per layer, a pattern of letters, or a period.
fn read_shared_layers(keys: &Keys<'_>, layers: u32) -> Result<Vec<u32>> {
    let list = |key: &str, words: Vec<Option<&str>>| -> Result<Vec<u32>> {
        if words.len() < layers as usize {
            let found = format!("a list of {}", words.len());
            return keys.refuse(key, found, format!("one entry for each of {layers} layers"));
        }
        let mut shared = Vec::new();
        for (layer, word) in (0..layers).zip(words) {
            match word {
                Some("full" | "F") => {}
                Some("shared" | "S") => shared.push(layer),
                other => {
                    let found = format!("{} for layer {layer}", other.unwrap_or("no text"));
                    return keys.refuse(key, found, "\"full\" or \"shared\" (\"F\" or \"S\" in a pattern)");
                }
            }
        }
        Ok(shared)
    };
    let words = |value: &'_ Value| -> Option<Vec<Option<String>>> {
        match value {
            Value::String(letters) => Some(letters.chars().map(|letter| Some(letter.to_string())).collect()),
            Value::Array(items) => Some(items.iter().map(|item| item.as_str().map(String::from)).collect()),
            _ => None,
        }
    };
    let mut source = "index_topk_freq";
    let mut shared = None;
    for key in ["indexer_types", "index_topk_pattern"] {
        if let Some(value) = keys.get(key) {
            let Some(words) = words(value) else {
                return keys.refuse(key, brief(value), "a list or a text with one entry per layer");
            };
            shared = Some(list(key, words.iter().map(Option::as_deref).collect())?);
            source = key;
            break;
        }
    }
    let shared = match shared {
        Some(shared) => shared,
        None => {
            let period = keys.integer("index_topk_freq", 1, MOST_LAYERS)?.unwrap_or(1);
            let offset = keys.integer("index_skip_topk_offset", 0, MOST_LAYERS)?.unwrap_or(2);
            (0..layers).filter(|layer| !(layer + 1).saturating_sub(offset).is_multiple_of(period)).collect()
        }
    };
    if shared.first() == Some(&0) {
        return keys.refuse(source, keys.found(source), "an indexer in layer 0, for the others to share");
    }
    Ok(shared)
}

fn read_quantization(keys: &Keys<'_>) -> Result<Quantization> {
    let Some(quantization) = keys.object("quantization_config", "quantization_config.")? else {
        return Ok(Quantization::None);
    };
    if quantization.choice("quant_method", &[("fp8", ())])?.is_none() {
        return quantization.refuse("quant_method", quantization.found("quant_method"), "\"fp8\"");
    }
    quantization.choice("fmt", &[("e4m3", ()), ("float8_e4m3fn", ())])?;
    let block = quantization.get("weight_block_size").and_then(Value::as_array);
    let is_block = |side: &Value| side.as_u64() == Some(u64::from(BLOCK));
    if !block.is_some_and(|sides| sides.len() == 2 && sides.iter().all(is_block)) {
        let found = quantization.found("weight_block_size");
        return quantization.refuse("weight_block_size", found, format!("[{BLOCK}, {BLOCK}]"));
    }
    Ok(Quantization::Fp8)
}

/// What must hold between the values.
fn check(keys: &Keys<'_>, model: &ModelConfig) -> Result<()> {
    if !model.qk_rope_head_dim.is_multiple_of(2) {
        return keys.refuse("qk_rope_head_dim", model.qk_rope_head_dim.to_string(), "an even number");
    }
    // Widths of the stacked heads and of the shared experts are dimensions like all others.
    let heads = u64::from(model.num_attention_heads);
    let widths = [
        ("num_attention_heads", heads, model.qk_head_dim()),
        ("num_attention_heads", heads, model.qk_nope_head_dim.saturating_add(model.v_head_dim)),
        ("n_shared_experts", model.n_shared_experts.into(), model.moe_intermediate_size),
    ];
    for (key, count, width) in widths {
        if count * u64::from(width) > LARGEST_SIZE {
            let found = format!("{count}, each {width} wide");
            return keys.refuse(key, found, format!("at most {LARGEST_SIZE} in all"));
        }
    }

    let moe_layers = (0..model.num_hidden_layers).filter(|layer| model.is_moe(*layer)).count() as u32;
    if moe_layers < model.num_hidden_layers {
        keys.size("intermediate_size")?;
    }
    if moe_layers > 0 {
        keys.size("moe_intermediate_size")?;
        check_router(keys, model)?;
    }
    check_layer_types(keys, model)?;
    check_indexer(keys, model)
}

fn check_router(keys: &Keys<'_>, model: &ModelConfig) -> Result<()> {
    let experts = model.n_routed_experts;
    if !experts.is_multiple_of(model.n_group) {
        let wanted = format!("a divisor of n_routed_experts, which is {experts}");
        return keys.refuse("n_group", model.n_group.to_string(), wanted);
    }
    if model.topk_group > model.n_group {
        let wanted = format!("at most n_group, which is {}", model.n_group);
        return keys.refuse("topk_group", model.topk_group.to_string(), wanted);
    }
    let group = experts / model.n_group;
    if model.is_grouped() && model.topk_method == TopkMethod::NoauxTc && group < 2 {
        let wanted =
            format!("groups of at least 2 of the {experts} experts, since noaux_tc adds up two scores");
        return keys.refuse("n_group", model.n_group.to_string(), wanted);
    }
    let allowed = if model.is_grouped() { model.topk_group * group } else { experts };
    if model.num_experts_per_tok < 1 || model.num_experts_per_tok > allowed {
        let wanted =
            format!("from 1 to {allowed}, the experts that n_group and topk_group leave to choose from");
        return keys.refuse("num_experts_per_tok", keys.found("num_experts_per_tok"), wanted);
    }
    Ok(())
}

/// Newer files list each layer's kind as well; the list must say what the other keys say.
fn check_layer_types(keys: &Keys<'_>, model: &ModelConfig) -> Result<()> {
    let Some(value) = keys.get("mlp_layer_types") else { return Ok(()) };
    let Some(kinds) = value.as_array() else {
        return keys.refuse("mlp_layer_types", brief(value), "a list with one entry per layer");
    };
    for layer in 0..model.num_hidden_layers {
        let wanted = if model.is_moe(layer) { "sparse" } else { "dense" };
        let found = kinds.get(layer as usize).map_or("nothing".into(), brief);
        if found != format!("{wanted:?}") {
            let found = format!("{found} for layer {layer}");
            let wanted = format!("{wanted:?}, as first_k_dense_replace and moe_layer_freq say");
            return keys.refuse("mlp_layer_types", found, wanted);
        }
    }
    Ok(())
}

fn check_indexer(keys: &Keys<'_>, model: &ModelConfig) -> Result<()> {
    let Some(indexer) = &model.indexer else { return Ok(()) };
    if model.q_lora_rank.is_none() {
        let wanted = "a whole number from 1, since the indexer reads the query's latent";
        return keys.refuse("q_lora_rank", keys.found("q_lora_rank"), wanted);
    }
    if indexer.index_head_dim < model.qk_rope_head_dim {
        let wanted = format!("at least qk_rope_head_dim, which is {}", model.qk_rope_head_dim);
        return keys.refuse("index_head_dim", indexer.index_head_dim.to_string(), wanted);
    }
    if u64::from(indexer.index_n_heads) * u64::from(indexer.index_head_dim) > LARGEST_SIZE {
        let found = format!("{}, each {} wide", indexer.index_n_heads, indexer.index_head_dim);
        return keys.refuse("index_n_heads", found, format!("at most {LARGEST_SIZE} in all"));
    }
    Ok(())
}

fn read_generation(keys: &Keys<'_>, model: &mut ModelConfig) -> Result<()> {
    if let Some(ids) = keys.token_ids("bos_token_id")? {
        model.bos_token_id = ids.first().copied();
    }
    if let Some(ids) = keys.token_ids("eos_token_id")? {
        model.eos_token_ids = ids;
    }
    model.generation = Generation {
        do_sample: keys.boolean("do_sample")?,
        temperature: keys.float("temperature", 0.0, 100.0)?,
        top_p: keys.float("top_p", 0.0, 1.0)?,
        top_k: keys.limit("top_k")?,
        min_p: keys.float("min_p", 0.0, 1.0)?,
        repetition_penalty: keys.float("repetition_penalty", 0.01, 100.0)?,
        ignored: IGNORED
            .iter()
            .filter_map(|(key, neutral)| {
                let value = keys.get(key)?;
                let is_neutral = match value {
                    Value::Array(items) => items.is_empty(),
                    Value::Bool(on) => !on,
                    other => other.as_f64().is_some_and(|number| neutral.contains(&number)),
                };
                (!is_neutral).then(|| format!("{key} = {}", brief(value)))
            })
            .collect(),
    };
    Ok(())
}

/// Sampling defaults that are not there for us, each with the values that change nothing.
const IGNORED: [(&str, &[f64]); 10] = [
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("presence_penalty", &[0.0]),
    ("frequency_penalty", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_beams", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("bad_words_ids", &[]),
    ("suppress_tokens", &[]),
];
