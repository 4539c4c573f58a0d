//! Small checkpoints made on the spot, to be opened or to be broken first.
#![allow(dead_code, reason = "each test file uses its part")]

use porism_loader::{Checkpoint, Dtype, Kind, ModelConfig, Options, Role};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A tensor as it will be written.
#[derive(Clone, Debug)]
pub struct Piece {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A checkpoint before it is written.
#[derive(Clone, Debug)]
pub struct Synthetic {
    pub config: Value,
    pub shards: Vec<Vec<Piece>>,
}

/// A V3.2 config with sizes that leave partial blocks everywhere.
pub fn tiny_config() -> Value {
    let text = r#"{
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "attention_bias": false,
        "hidden_act": "silu",
        "vocab_size": 40,
        "hidden_size": 136,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "intermediate_size": 130,
        "moe_intermediate_size": 12,
        "num_attention_heads": 2,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": true,
        "routed_scaling_factor": 2.5,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "max_position_embeddings": 4096,
        "num_nextn_predict_layers": 1,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": false,
        "rope_scaling": {
            "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32
        },
        "quantization_config": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]
        }
    }"#;
    serde_json::from_str(text).expect("it is JSON")
}

/// The config, or why it is refused.
pub fn parse(config: &Value) -> Result<ModelConfig, String> {
    ModelConfig::parse((Path::new("config.json"), config.to_string().as_bytes()), None)
        .map_err(|error| error.to_string())
}

/// Bytes without meaning and without NaN codes.
fn filler(seed: &str, count: u64) -> Vec<u8> {
    let mut state =
        seed.bytes().fold(7u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let byte = (state >> 56) as u8;
            if byte & 0x7f == 0x7f { byte ^ 1 } else { byte }
        })
        .collect()
}

impl Piece {
    pub fn new(name: &str, dtype: &str, element: u64, shape: &[u64]) -> Self {
        let bytes = filler(name, shape.iter().product::<u64>() * element);
        Self { name: name.into(), dtype: dtype.into(), shape: shape.into(), bytes }
    }

    /// A scale that is a number.
    pub fn scale(name: &str, shape: &[u64]) -> Self {
        let values = (0..shape.iter().product::<u64>()).flat_map(|i| (0.5 + i as f32).to_le_bytes());
        Self { name: name.into(), dtype: "F32".into(), shape: shape.into(), bytes: values.collect() }
    }
}

impl Synthetic {
    /// [`tiny_config`] with FP8 linears, an MTP layer and a rotary buffer, over two shards, with some of the
    /// scales in another shard than their weight.
    pub fn tiny() -> Self {
        Self::of(tiny_config(), Dtype::F8E4m3)
    }

    /// A checkpoint for any config; linears have the given dtype.
    pub fn of(config: Value, linear: Dtype) -> Self {
        let model = parse(&config).expect("a config that is supported");
        let mut pieces = Vec::new();
        for role in model.required_roles() {
            let shape = model.shape_of(role).expect("required roles have a shape");
            let sizes: Vec<u64> = shape.sizes().iter().map(|size| u64::from(*size)).collect();
            let is_head = matches!(role.kind(), Kind::Head);
            let dtype = match role.dtypes().contains(&linear) && !is_head && sizes.len() == 2 {
                true => linear,
                false => Dtype::Bf16,
            };
            pieces.push(Piece::new(&role.to_string(), dtype.name(), dtype.bytes(), &sizes));
            if dtype == Dtype::F8E4m3 {
                pieces.push(Piece::scale(&role.scale_name(), &shape.scale_shape().map(u64::from)));
            }
        }
        let layer = model.num_hidden_layers;
        pieces.push(Piece::new(&format!("model.layers.{layer}.eh_proj.weight"), "BF16", 2, &[3, 6]));
        pieces.push(Piece::new("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 4, &[2]));
        let (even, odd): (Vec<_>, Vec<_>) = pieces.into_iter().enumerate().partition(|(i, _)| i % 3 != 1);
        let strip = |list: Vec<(usize, Piece)>| list.into_iter().map(|(_, piece)| piece).collect();
        Self { config, shards: vec![strip(even), strip(odd)] }
    }

    pub fn piece(&mut self, name: &str) -> &mut Piece {
        self.shards
            .iter_mut()
            .flatten()
            .find(|piece| piece.name == name)
            .unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn remove(&mut self, name: &str) -> Piece {
        for shard in &mut self.shards {
            if let Some(at) = shard.iter().position(|piece| piece.name == name) {
                return shard.remove(at);
            }
        }
        panic!("no {name}")
    }

    pub fn shard_name(&self, number: usize) -> String {
        format!("model-{:05}-of-{:05}.safetensors", number + 1, self.shards.len())
    }

    /// Every file's name and bytes: config.json, the index, the shards.
    pub fn files(&self) -> Files {
        let mut files = vec![("config.json".to_owned(), self.config.to_string().into_bytes())];
        let mut map = serde_json::Map::new();
        let mut total = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            for piece in shard {
                map.insert(piece.name.clone(), json!(self.shard_name(number)));
                total += piece.bytes.len();
            }
        }
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        files.push(("model.safetensors.index.json".into(), index.to_string().into_bytes()));
        for (number, shard) in self.shards.iter().enumerate() {
            files.push((self.shard_name(number), shard_bytes(&header_of(shard), &data_of(shard))));
        }
        Files(files)
    }
}

/// The header of these pieces, one after the other, as a list so that it can be given repetitions.
pub fn header_of(pieces: &[Piece]) -> Vec<(String, Value)> {
    let mut start = 0;
    let entry = |piece: &Piece| {
        let end = start + piece.bytes.len();
        let value = json!({"dtype": piece.dtype, "shape": piece.shape, "data_offsets": [start, end]});
        start = end;
        (piece.name.clone(), value)
    };
    pieces.iter().map(entry).collect()
}

pub fn data_of(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.bytes.clone()).collect()
}

/// A safetensors file.
pub fn shard_bytes(header: &[(String, Value)], data: &[u8]) -> Vec<u8> {
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    for (name, value) in header {
        text += &format!(",{}:{value}", json!(name));
    }
    text.push('}');
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.extend(data);
    file
}

/// A checkpoint's files, to be changed byte by byte.
#[derive(Clone, Debug)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    pub fn get(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.0.iter_mut().find(|(file, _)| file == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    pub fn remove(&mut self, name: &str) {
        let before = self.0.len();
        self.0.retain(|(file, _)| file != name);
        assert_eq!(self.0.len(), before - 1, "no {name}");
    }

    pub fn write(&self, directory: &Path) {
        for (name, bytes) in &self.0 {
            std::fs::write(directory.join(name), bytes).expect("a file in a temporary directory");
        }
    }

    pub fn in_memory(&self, options: Options) -> porism_loader::Result<Checkpoint> {
        Checkpoint::from_memory(self.0.clone(), options)
    }

    /// The message with which these files are refused: the same on disk and in memory, but for the directory.
    pub fn refusal(&self) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        self.write(directory.path());
        let on_disk =
            Checkpoint::open(directory.path(), Options::default()).expect_err("to be refused").to_string();
        let in_memory = self.in_memory(Options::default()).expect_err("to be refused").to_string();
        let folder = format!("{}/", directory.path().display());
        assert!(on_disk.starts_with(&folder), "{on_disk} does not name the file's place");
        assert_eq!(on_disk.replace(&folder, ""), in_memory);
        in_memory
    }

    /// Asserts that the files are refused with all of these in the message.
    #[track_caller]
    pub fn refused_with(&self, parts: &[&str]) {
        let message = self.refusal();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

/// The golden checkpoints in the repository.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A layer's role by the part of the name after the layer's number.
pub fn role(name: &str, layers: u32) -> Role {
    match porism_loader::Name::parse(name, layers) {
        porism_loader::Name::Weight(role) => role,
        other => panic!("{name} is {other:?}"),
    }
}

/// Writes DeepSeek-V3.2's true shapes over 163 shards whose data are holes, and returns the bytes of all weights.
pub fn write_sparse_giant(directory: &Path) -> u64 {
    let mut config = tiny_config();
    let sizes = r#"{
        "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "index_n_heads": 64,
        "index_head_dim": 128, "index_topk": 2048, "max_position_embeddings": 163840
    }"#;
    let sizes: serde_json::Map<String, Value> = serde_json::from_str(sizes).expect("it is JSON");
    config.as_object_mut().expect("an object").extend(sizes);
    let model = parse(&config).expect("a config that is supported");
    std::fs::write(directory.join("config.json"), config.to_string()).expect("a temporary directory");

    let mut entries: Vec<(String, &str, Vec<u64>, u64)> = Vec::new();
    for role in model.required_roles() {
        let shape = model.shape_of(role).expect("required roles have a shape");
        let sizes: Vec<u64> = shape.sizes().iter().map(|size| u64::from(*size)).collect();
        if role.dtypes().contains(&Dtype::F8E4m3) && role.kind() != Kind::Head {
            let scale = shape.scale_shape().map(u64::from);
            entries.push((role.to_string(), "F8_E4M3", sizes, shape.elements()));
            entries.push((role.scale_name(), "F32", scale.into(), scale[0] * scale[1] * 4));
        } else {
            entries.push((role.to_string(), "BF16", sizes, shape.elements() * 2));
        }
    }
    let mut map = serde_json::Map::new();
    let mut total = 0;
    for (number, entries) in entries.chunks(entries.len().div_ceil(163)).enumerate() {
        let name = format!("model-{:05}-of-000163.safetensors", number + 1);
        let mut header = Vec::new();
        let mut start = 0;
        for (tensor, dtype, shape, bytes) in entries {
            header.push((
                tensor.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + bytes]}),
            ));
            map.insert(tensor.clone(), json!(name));
            start += bytes;
        }
        total += start;
        let header = shard_bytes(&header, &[]);
        let path = directory.join(name);
        std::fs::write(&path, &header).expect("a temporary directory");
        let file = std::fs::File::options().write(true).open(&path).expect("it was just written");
        file.set_len(header.len() as u64 + start).expect("a file system with holes");
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map}).to_string();
    std::fs::write(directory.join("model.safetensors.index.json"), index).expect("a temporary directory");
    total
}
