//! Synthetic checkpoints: the true shapes and shard layout of a model, as sparse files or with random values.

use crate::catalog::{Catalogued, NamedTensor, ShardNames, TensorTable as _};
use crate::error::{Error, Result};
use crate::names::{Kind, LayerRole, Role};
use crate::shape::{Dtype, Shape};
use half::bf16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the tensors hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros that take no room on disk.
    Sparse,
    /// Values that keep activations of order 1 through all layers; the same seed gives the same bytes.
    Random(u64),
}

/// A checkpoint that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Files of weights.
    pub shards: usize,
    /// Tensors in them, scales counted as well.
    pub tensors: usize,
    /// Length of all files of weights.
    pub bytes: u64,
}

/// A tensor as it stands in a header: a weight or its scales.
struct Item {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: u64,
    fill: Fill,
}

/// What a random tensor is like.
#[derive(Clone, Copy)]
enum Fill {
    /// E4M3 codes of both signs with magnitudes from 0.5 to 1.875.
    Codes,
    /// f32 around the standard deviation that `columns` inputs call for, over that of the codes.
    Scales { columns: u32 },
    /// Uniform around 0 with this standard deviation.
    Around0 { deviation: f32 },
    /// 1 ± 0.1
    Around1,
}

/// Root mean square of the magnitudes of [`Fill::Codes`]: 0.5 to 0.9375 and 1 to 1.875, in eighths of each.
const CODE_RMS: f64 = 1.158_9;

/// Writes config.json, the index and all shards of a model into `directory`, which is made if it is not there.
/// `progress` gets the bytes done since it was last called, from several threads, and may stop it.
///
/// # Errors
/// A directory that already holds a checkpoint, or what the system says.
pub fn write(
    model: &Catalogued,
    directory: &Path,
    content: Content,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Written> {
    let failed = |file: &Path| {
        let file = file.to_path_buf();
        move |source| Error::Write { file, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let config_path = directory.join("config.json");
    if config_path.exists() {
        return Err(Error::Exists { file: config_path });
    }

    let shards = fill_shards(model);
    let count = shards.len();
    let names: Vec<String> =
        (1..=count).map(|number| shard_name(model.shard_names(), number, count)).collect();
    let mut weight_map = Map::new();
    let mut total_size = 0;
    for (shard, name) in shards.iter().zip(&names) {
        for item in shard {
            weight_map.insert(item.name.clone(), Value::String(name.clone()));
            total_size += item.bytes;
        }
    }
    let tensors = weight_map.len();
    let mut index = json!({ "metadata": { "total_size": total_size } });
    index["weight_map"] = Value::Object(weight_map);
    let index_path = directory.join("model.safetensors.index.json");
    fs::write(&index_path, format!("{index:#}\n")).map_err(failed(&index_path))?;
    drop(index);

    let bytes = AtomicU64::new(0);
    shards.par_iter().zip(&names).try_for_each(|(shard, name)| {
        let path = directory.join(name);
        let length = write_shard(&path, shard, content, progress)?;
        bytes.fetch_add(length, Ordering::Relaxed);
        Ok::<(), Error>(())
    })?;
    // Last, so that what was cut short is no checkpoint.
    let text = format!("{:#}\n", model.config_text());
    fs::write(&config_path, text).map_err(failed(&config_path))?;
    Ok(Written { shards: count, tensors, bytes: bytes.into_inner() })
}

fn shard_name(style: ShardNames, number: usize, count: usize) -> String {
    match style {
        ShardNames::Padded => format!("model-{number:05}-of-{count:06}.safetensors"),
        ShardNames::Plain => format!("model-{number}-of-{count}.safetensors"),
    }
}

/// Tensors in the order of the layers, as many bytes in each shard as in the others.
fn fill_shards(model: &Catalogued) -> Vec<Vec<Item>> {
    let count = u64::from(model.shards());
    let total = model.stored_bytes();
    let mut shards: Vec<Vec<Item>> = vec![];
    let mut done = 0u64;
    for tensor in model.tensors() {
        // The shard in which the tensor's middle lies, were the bytes cut evenly.
        let middle = u128::from(done) + u128::from(tensor.spec.stored_bytes()) / 2;
        let shard = (middle * u128::from(count) / u128::from(total.max(1))) as usize;
        done += tensor.spec.stored_bytes();
        if shard >= shards.len() {
            shards.push(vec![]);
        }
        let last = shards.last_mut().expect("one was just made");
        last.extend(items(model, &tensor));
    }
    for shard in &mut shards {
        // As in the published files: by alignment, then by name.
        shard.sort_by(|a, b| order(a.dtype).cmp(&order(b.dtype)).then_with(|| a.name.cmp(&b.name)));
    }
    shards
}

fn order(dtype: &str) -> u8 {
    match dtype {
        "F32" => 0,
        "BF16" | "F16" => 1,
        _ => 2,
    }
}

/// A weight, and its scales where it has any.
fn items(model: &Catalogued, tensor: &NamedTensor) -> Vec<Item> {
    let NamedTensor { name, role, spec } = tensor;
    let sizes = |shape: Shape| shape.sizes().iter().map(|size| u64::from(*size)).collect();
    let columns = spec.shape.columns();
    let deviation = (1.0 / f64::from(columns)).sqrt() as f32;
    let fill = match (spec.dtype, role) {
        (Dtype::F8E4m3, _) => Fill::Codes,
        // What is added to the residual in each layer, and what the residual starts with.
        (_, Some(Role::Embedding)) => Fill::Around0 { deviation: 1.0 },
        (_, Some(Role::Layer { part: LayerRole::ScoreCorrectionBias | LayerRole::IndexerKNormBias, .. })) => {
            Fill::Around0 { deviation: 0.02 }
        }
        (_, Some(Role::Layer { part: LayerRole::IndexerKNorm, .. })) => Fill::Around1,
        (_, Some(role)) if role.kind() == Kind::Norm => Fill::Around1,
        _ if spec.shape.sizes().len() == 1 => Fill::Around1,
        _ => Fill::Around0 { deviation },
    };
    let mut all = vec![Item {
        name: name.clone(),
        dtype: spec.dtype.name(),
        shape: sizes(spec.shape),
        bytes: spec.weight_bytes(),
        fill,
    }];
    if let Some(scale) = spec.scale {
        debug_assert!(model.config().num_hidden_layers > 0);
        let stem = name.strip_suffix("weight").unwrap_or(name);
        all.push(Item {
            name: format!("{stem}weight_scale_inv"),
            dtype: scale.name(),
            shape: spec.shape.scale_shape().iter().map(|size| u64::from(*size)).collect(),
            bytes: spec.scales() * scale.bytes(),
            fill: Fill::Scales { columns },
        });
    }
    all
}

/// Writes one shard and returns its length.
fn write_shard(
    path: &Path,
    items: &[Item],
    content: Content,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<u64> {
    let failed = |source| Error::Write { file: PathBuf::from(path), source };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for item in items {
        let offsets = [at, at + item.bytes];
        at += item.bytes;
        let entry = json!({ "dtype": item.dtype, "shape": item.shape, "data_offsets": offsets });
        header.insert(item.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let length = 8 + header.len() as u64 + at;

    let file = File::create(path).map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(header.as_bytes()).map_err(failed)?;
    let stopped = || Error::Stopped { file: path.into() };
    match content {
        Content::Sparse => {
            out.flush().map_err(failed)?;
            out.get_ref().set_len(length).map_err(failed)?;
            if !progress(length) {
                return Err(stopped());
            }
        }
        Content::Random(seed) => {
            let mut piece = Vec::with_capacity(PIECE);
            for item in items {
                let mut random = Random::new(seed, &item.name);
                let mut left = item.bytes;
                while left > 0 {
                    let bytes = left.min(PIECE as u64) as usize;
                    piece.clear();
                    item.fill(&mut random, bytes, &mut piece);
                    out.write_all(&piece).map_err(failed)?;
                    left -= bytes as u64;
                    if !progress(bytes as u64) {
                        return Err(stopped());
                    }
                }
            }
            out.flush().map_err(failed)?;
        }
    }
    Ok(length)
}

/// Bytes made at once; a multiple of every element's size.
const PIECE: usize = 1 << 20;

impl Item {
    /// Appends `bytes` bytes of values.
    fn fill(&self, random: &mut Random, bytes: usize, out: &mut Vec<u8>) {
        let value = |random: &mut Random| match self.fill {
            Fill::Codes => unreachable!("codes are no numbers yet"),
            Fill::Scales { columns } => {
                let deviation = (1.0 / f64::from(columns)).sqrt() / CODE_RMS;
                (deviation * (1.0 + 0.25 * f64::from(random.uniform()))) as f32
            }
            // A uniform number in ±1 has a standard deviation of 1/√3.
            Fill::Around0 { deviation } => random.uniform() * deviation * 3f32.sqrt(),
            Fill::Around1 => 1.0 + 0.1 * random.uniform(),
        };
        match (self.fill, self.dtype) {
            (Fill::Codes, _) => {
                for _ in 0..bytes / 8 {
                    out.extend_from_slice(&codes(random.next()).to_le_bytes());
                }
                out.extend_from_slice(&codes(random.next()).to_le_bytes()[..bytes % 8]);
            }
            (_, "F32") => {
                for _ in 0..bytes / 4 {
                    out.extend_from_slice(&value(random).to_le_bytes());
                }
            }
            _ => {
                for _ in 0..bytes / 2 {
                    out.extend_from_slice(&bf16::from_f32(value(random)).to_le_bytes());
                }
            }
        }
    }
}

/// Eight E4M3 codes: the sign and the low four bits are random, the exponent's upper bits are those of 0.5.
fn codes(word: u64) -> u64 {
    const RANDOM: u64 = 0x8f8f_8f8f_8f8f_8f8f;
    const HALF: u64 = 0x3030_3030_3030_3030;
    word & RANDOM | HALF
}

/// SplitMix64, started from the seed and the tensor's name, so that shards can be written in any order.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut random = Self(seed ^ hash);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From −1 to 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::index::{Checkpoint, Options};

    /// V3.2 at a size that tests can write.
    fn small() -> Catalogued {
        let mut text = catalog::find("deepseek-v3.2").unwrap().config_text().clone();
        let sizes = [
            ("vocab_size", 300),
            ("hidden_size", 256),
            ("num_hidden_layers", 5),
            ("intermediate_size", 200),
            ("moe_intermediate_size", 72),
            ("num_attention_heads", 2),
            ("q_lora_rank", 136),
            ("n_routed_experts", 16),
            ("index_n_heads", 2),
        ];
        for (key, size) in sizes {
            text[key] = size.into();
        }
        Catalogued::from_config("small", "a test", text, 7, ShardNames::Padded).unwrap()
    }

    fn written(content: Content) -> (tempfile::TempDir, Written) {
        let folder = tempfile::tempdir().unwrap();
        let written = write(&small(), folder.path(), content, &|_| true).unwrap();
        (folder, written)
    }

    #[test]
    fn a_sparse_checkpoint_opens_with_every_tensor_in_its_shard() {
        let (folder, written) = written(Content::Sparse);
        let checkpoint = Checkpoint::open(folder.path(), Options::default()).unwrap();
        assert_eq!((written.shards, checkpoint.shards().len()), (7, 7));
        assert_eq!(checkpoint.weight_bytes(), small().weight_bytes());
        assert!(checkpoint.notes().is_empty(), "{:?}", checkpoint.notes());
        assert!(checkpoint.unknown_tensors().is_empty());
        let mtp = checkpoint.bytes_by_kind().iter().filter(|row| row.kind == Kind::Mtp);
        let all = checkpoint.weight_bytes() + mtp.map(|row| row.bytes).sum::<u64>();
        assert_eq!(all, small().stored_bytes());
    }

    #[test]
    fn random_values_are_numbers_and_follow_the_seed() {
        let (folder, _) = written(Content::Random(7));
        let checkpoint = Checkpoint::open(folder.path(), Options::default()).unwrap();
        checkpoint.check_all_numbers(|_| ()).unwrap();
        let role = Role::layer(3, LayerRole::OProj);
        let values = checkpoint.tensor(role).unwrap().to_f32();
        let columns = f64::from(checkpoint.tensor(role).unwrap().shape.columns());
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((square * columns - 1.0).abs() < 0.15, "variance {square} of {columns} columns");

        let bytes = |folder: &Path| fs::read(folder.join("model-00003-of-000007.safetensors")).unwrap();
        let (again, _) = written(Content::Random(7));
        let (other, _) = written(Content::Random(8));
        assert!(bytes(folder.path()) == bytes(again.path()));
        assert!(bytes(folder.path()) != bytes(other.path()));
    }

    #[test]
    fn a_checkpoint_is_not_written_over() {
        let (folder, _) = written(Content::Sparse);
        let error = write(&small(), folder.path(), Content::Sparse, &|_| true).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn published_shard_counts_are_met() {
        for name in catalog::names() {
            let model = catalog::find(name).unwrap();
            let shards = fill_shards(&model);
            assert_eq!(shards.len(), model.shards() as usize, "{name}");
            let bytes: Vec<u64> = shards.iter().map(|s| s.iter().map(|item| item.bytes).sum()).collect();
            let (low, high) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
            assert!(high < &(2 * low), "{name}: shards of {low} to {high} bytes");
        }
    }
}
