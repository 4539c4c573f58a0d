//! Checkpoints that are right: what is in them and how it is read.

mod common;

use common::{Piece, Synthetic, golden, role, tiny_config};
use porism_loader::{Checkpoint, Dtype, Kind, LayerRole, Options, Projection, Role, ScaleDtype, find_nan};
use safetensors::SafeTensors;
use serde_json::json;
use std::collections::BTreeMap;

const GATE: &str = "model.layers.0.mlp.gate_proj.weight";
const GATE_SCALE: &str = "model.layers.0.mlp.gate_proj.weight_scale_inv";

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(name), Options::default()).unwrap()
}

/// Name → (dtype, shape, bytes) of all tensors of a golden checkpoint, as the safetensors crate reads them.
fn read_with_safetensors(name: &str) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in golden(name).read_dir().unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("model-") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let dtype = format!("{:?}", view.dtype());
            all.insert(name.to_owned(), (dtype, view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

#[test]
fn golden_checkpoints_hold_exactly_what_another_reader_finds() {
    for (name, mtp_layer) in [
        ("v2-lite-tiny-bf16", None),
        ("v3-tiny-bf16", Some(3)),
        ("v32-tiny-fp8", Some(4)),
        ("../../models/porism-tiny", Some(5)),
    ] {
        let checkpoint = open(name);
        assert_eq!(checkpoint.notes(), [] as [&str; 0], "{name}");
        let mut all = read_with_safetensors(name);
        let total: usize = all.values().map(|(_, _, bytes)| bytes.len()).sum();
        let mut used = 0;
        for role in checkpoint.roles() {
            let tensor = checkpoint.tensor(role).unwrap();
            let (dtype, shape, bytes) = all.remove(&tensor.name()).unwrap();
            assert_eq!(tensor.dtype.name().replace('_', ""), dtype.replace('_', ""), "{role}");
            assert!(tensor.shape.sizes().iter().map(|size| *size as usize).eq(shape), "{role}");
            assert_eq!(tensor.bytes, bytes, "{role}");
            used += tensor.stored_bytes();
            if let Some(scale) = tensor.scale {
                let (dtype, shape, bytes) = all.remove(&role.scale_name()).unwrap();
                assert_eq!((scale.dtype, dtype.as_str()), (ScaleDtype::F32, "F32"));
                assert!(scale.shape.iter().map(|size| *size as usize).eq(shape), "{role}");
                assert_eq!(scale.bytes, bytes, "{role}");
            }
            let file = std::fs::read(tensor.file).unwrap();
            assert_eq!(&file[tensor.file_offset as usize..][..tensor.bytes.len()], tensor.bytes, "{role}");
        }
        // What is left over is the MTP layer, completely.
        let prefix = mtp_layer.map(|layer| format!("model.layers.{layer}."));
        assert!(
            all.keys().all(|name| prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix))),
            "{all:?}"
        );
        let mtp: usize = all.values().map(|(_, _, bytes)| bytes.len()).sum();
        let by_kind: u64 = checkpoint.bytes_by_kind().iter().map(|row| row.bytes).sum();
        assert_eq!((checkpoint.weight_bytes(), by_kind), (used, total as u64), "{name}");
        assert_eq!(used + mtp as u64, total as u64, "{name}");
        assert!(checkpoint.config().required_roles().all(|role| checkpoint.tensor(role).is_some()));
        checkpoint.check_all_numbers(|_| {}).unwrap();
    }
}

#[test]
fn bytes_by_kind_of_the_golden_v32() {
    let checkpoint = open("v32-tiny-fp8");
    let of = |kind, dtype| {
        let row = checkpoint.bytes_by_kind().iter().find(|row| row.kind == kind && row.dtype == dtype);
        row.map(|row| (row.tensors, row.bytes))
    };
    assert_eq!(of(Kind::Embedding, "BF16"), Some((1, 512 * 256 * 2)));
    assert_eq!(of(Kind::Head, "BF16"), Some((1, 512 * 256 * 2)));
    assert_eq!(of(Kind::DenseMlp, "F8_E4M3"), Some((3, 3 * 448 * 256)));
    assert_eq!(of(Kind::DenseMlp, "F32"), Some((3, 3 * 8 * 4)));
    assert_eq!(of(Kind::RoutedExpert, "F8_E4M3"), Some((3 * 16 * 3, 3 * 16 * 3 * 56 * 256)));
    assert_eq!(of(Kind::RoutedExpert, "F32"), Some((3 * 16 * 3, 3 * 16 * 3 * 2 * 4)));
    assert_eq!(of(Kind::Unused, "BF16"), None);
    assert!(of(Kind::Mtp, "F8_E4M3").is_some());
}

#[test]
fn the_demo_model_opens_from_memory_and_from_disk_alike() {
    let directory = golden("../../models/porism-tiny");
    let disk = Checkpoint::open(&directory, Options::default()).unwrap();
    let files =
        directory.read_dir().unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file());
    let files: Vec<_> = files
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    let memory = Checkpoint::from_memory(files, Options::default()).unwrap();
    assert_eq!(disk.roles(), memory.roles());
    assert_eq!(disk.config(), memory.config());
    assert_eq!(disk.weight_bytes(), memory.weight_bytes());
    // The multi-token-prediction layer is a whole one with copies of embedding and head, and none of it is used.
    let mtp = disk.bytes_by_kind().iter().filter(|row| row.kind == Kind::Mtp);
    let (tensors, bytes) =
        mtp.fold((0, 0), |(tensors, bytes), row| (tensors + row.tensors, bytes + row.bytes));
    assert_eq!(disk.config().num_nextn_predict_layers, 1);
    assert!(tensors > 90 && bytes > 2 * 512 * 128 * 2, "{tensors} tensors of {bytes} bytes");
    for role in disk.roles() {
        let (disk, memory) = (disk.tensor(role).unwrap(), memory.tensor(role).unwrap());
        assert_eq!((disk.bytes, disk.shape), (memory.bytes, memory.shape));
    }
    assert_eq!(disk.directory(), Some(directory.as_path()));
    let tokenizer = memory.read_file("tokenizer.json", 64 << 20).unwrap().unwrap();
    assert_eq!(disk.read_file("tokenizer.json", 64 << 20).unwrap().unwrap(), tokenizer);
    assert_eq!(memory.read_file("no such file", 10).unwrap(), None);
    let error = disk.read_file("tokenizer.json", 10).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: expected at most 10 bytes"), "{error}");
}

#[test]
fn fp8_weights_are_dequantised_by_blocks_of_128_the_last_one_short() {
    let mut tiny = Synthetic::tiny();
    let scales: Vec<f32> = vec![1.0, 0.5, 2.0, 0.25];
    tiny.piece(GATE_SCALE).bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    tiny.piece(GATE).bytes = vec![0x38; 130 * 136]; // 1.0
    for (shard, name) in [GATE, GATE_SCALE].into_iter().enumerate() {
        let piece = tiny.remove(name);
        tiny.shards[shard].push(piece);
    }
    let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
    let tensor = checkpoint.tensor(role(GATE, 2)).unwrap();
    assert_ne!(tensor.file, tensor.scale.unwrap().file);
    let values = tensor.to_f32();
    for (index, value) in values.iter().enumerate() {
        let (row, column) = (index / 136, index % 136);
        assert_eq!(*value, scales[row / 128 * 2 + column / 128], "[{row}, {column}]");
    }
    assert_eq!(tensor.rows_to_f32(127..129), values[127 * 136..129 * 136]);
    assert_eq!(tensor.row_bytes(127..129).len(), 2 * 136);
    assert_eq!(tensor.scale.unwrap().to_f32(), scales);
}

#[test]
fn every_dtype_of_weights_and_scales_is_read() {
    let values = [1.5f32, -0.25, 100.0, 0.0];
    let scales: [(&str, Vec<u8>); 3] = [
        ("F32", values.map(|_| 0.5f32.to_le_bytes()).concat()),
        ("BF16", values.map(|_| half::bf16::from_f32(0.5).to_le_bytes()).concat()),
        ("F8_E8M0", vec![126; 4]),
    ];
    for (dtype, bytes) in scales {
        let mut tiny = Synthetic::tiny();
        let element = bytes.len() as u64 / 4;
        *tiny.piece(GATE_SCALE) = Piece { bytes, ..Piece::new(GATE_SCALE, dtype, element, &[2, 2]) };
        tiny.piece(GATE).bytes = vec![0x40; 130 * 136]; // 2.0
        let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
        let tensor = checkpoint.tensor(role(GATE, 2)).unwrap();
        assert_eq!(tensor.scale.unwrap().dtype.name(), dtype);
        assert!(tensor.to_f32().iter().all(|value| *value == 1.0), "{dtype}");
    }
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let mut tiny = Synthetic::of(tiny_config(), dtype);
        let norm = "model.layers.1.input_layernorm.weight";
        let encode = |value: f32| match dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
            _ => half::f16::from_f32(value).to_le_bytes().to_vec(),
        };
        let bytes = values.iter().cycle().take(136).flat_map(|value| encode(*value)).collect();
        *tiny.piece(norm) = Piece { bytes, ..Piece::new(norm, dtype.name(), dtype.bytes(), &[136]) };
        let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
        let tensor = checkpoint.tensor(role(norm, 2)).unwrap();
        assert_eq!(tensor.to_f32()[..4], values, "{dtype:?}");
        assert_eq!(checkpoint.tensor(role(GATE, 2)).unwrap().dtype, dtype);
    }
}

#[test]
fn every_family_has_a_checkpoint() {
    let mut v2 = tiny_config();
    for (key, value) in [
        ("model_type", json!("deepseek_v2")),
        ("q_lora_rank", json!(null)),
        ("index_topk", json!(null)),
        ("topk_method", json!("group_limited_greedy")),
        ("scoring_func", json!("softmax")),
        ("quantization_config", json!(null)),
        ("n_shared_experts", json!(2)),
    ] {
        v2[key] = value;
    }
    let checkpoint = Synthetic::of(v2, Dtype::Bf16).files().in_memory(Options::default()).unwrap();
    assert!(checkpoint.tensor(Role::layer(0, LayerRole::QProj)).is_some());
    for part in [LayerRole::QAProj, LayerRole::IndexerWk, LayerRole::ScoreCorrectionBias] {
        assert!(checkpoint.tensor(Role::layer(1, part)).is_none(), "{part}");
    }
    let shared = checkpoint.tensor(Role::layer(1, LayerRole::Shared(Projection::Up))).unwrap();
    assert_eq!(shared.shape.sizes(), [24, 136]);
    for family in ["deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa"] {
        let mut config = tiny_config();
        config["model_type"] = json!(family);
        let checkpoint = Synthetic::of(config, Dtype::F8E4m3).files().in_memory(Options::default()).unwrap();
        assert!(checkpoint.tensor(Role::layer(1, LayerRole::ScoreCorrectionBias)).is_some(), "{family}");
    }
}

#[test]
fn a_bias_is_used_where_a_greedy_router_has_one() {
    let mut config = tiny_config();
    config["topk_method"] = json!("greedy");
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    let mut tiny = Synthetic::of(config, Dtype::F8E4m3);
    tiny.shards[0].push(Piece::new(bias, "F32", 4, &[4]));
    let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
    assert!(checkpoint.tensor(role(bias, 2)).is_some());
    tiny.remove(bias);
    let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
    assert!(checkpoint.tensor(role(bias, 2)).is_none());
}

#[test]
fn tied_embeddings_are_the_head() {
    let mut config = tiny_config();
    config["tie_word_embeddings"] = json!(true);
    let mut tied = Synthetic::of(config, Dtype::F8E4m3);
    let checkpoint = tied.files().in_memory(Options::default()).unwrap();
    let (head, embedding) =
        (checkpoint.tensor(Role::LmHead).unwrap(), checkpoint.tensor(Role::Embedding).unwrap());
    assert_eq!((head.role, head.bytes.as_ptr()), (Role::Embedding, embedding.bytes.as_ptr()));
    // A head that is stored all the same does not count.
    let bytes = checkpoint.weight_bytes();
    tied.shards[0].push(Piece::new("lm_head.weight", "BF16", 2, &[40, 136]));
    let checkpoint = tied.files().in_memory(Options::default()).unwrap();
    assert_eq!(
        checkpoint.tensor(Role::LmHead).unwrap().bytes.as_ptr(),
        checkpoint.tensor(Role::Embedding).unwrap().bytes.as_ptr()
    );
    assert_eq!(checkpoint.weight_bytes(), bytes);

    let mut untied = Synthetic::tiny();
    untied.remove("lm_head.weight");
    untied.files().refused_with(&["lm_head.weight", "missing tensor", "tie_word_embeddings"]);
}

#[test]
fn one_file_and_shards_without_an_index_open_too() {
    let mut tiny = Synthetic::tiny();
    let mut files = tiny.files();
    files.remove("model.safetensors.index.json");
    let sharded = files.in_memory(Options::default()).unwrap();
    let second = tiny.shards.remove(1);
    tiny.shards[0].extend(second);
    let mut files = tiny.files();
    files.remove("model.safetensors.index.json");
    files.0.iter_mut().find(|(name, _)| name.starts_with("model-")).unwrap().0 = "model.safetensors".into();
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let single = Checkpoint::open(directory.path(), Options::default()).unwrap();
    assert_eq!(single.roles(), sharded.roles());
    assert_eq!((single.shards().len(), sharded.shards().len()), (1, 2));
}

#[test]
fn nan_codes_are_found_wherever_they_are() {
    for length in [0, 1, 7, 8, 63, 64, 65, 200] {
        // All other codes, in order, must not be taken for NaN.
        let codes: Vec<u8> = (0..=255u8).filter(|code| code & 0x7f != 0x7f).cycle().take(length).collect();
        assert_eq!(find_nan(&codes), None);
        for at in 0..length {
            for nan in [0x7f, 0xff] {
                let mut codes = codes.clone();
                codes[at] = nan;
                *codes.last_mut().unwrap() = nan;
                assert_eq!(find_nan(&codes), Some(at));
            }
        }
    }
    let all: Vec<u8> = (0..=255u8).filter(|code| code & 0x7f != 0x7f).collect();
    assert_eq!(find_nan(&all), None);
}

/// The layout of the real thing, with files that are almost nothing but holes: 163 shards of 689 GB, 90,000 tensors.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_of_the_real_size_opens() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = common::write_sparse_giant(directory.path());
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).unwrap();
    assert_eq!(checkpoint.shards().len(), 163);
    assert!(bytes > 600_000_000_000, "{bytes}");
    let shards: u64 = checkpoint.shards().iter().map(|shard| shard.bytes().len() as u64).sum();
    assert!(shards > bytes);
    assert_eq!(checkpoint.weight_bytes(), bytes);
    assert_eq!(checkpoint.roles().len(), checkpoint.config().required_roles().count());
    let expert = LayerRole::Expert { expert: 255, projection: Projection::Down };
    assert_eq!(checkpoint.tensor(Role::layer(60, expert)).unwrap().stored_bytes(), 7168 * 2048 + 56 * 16 * 4);
}
