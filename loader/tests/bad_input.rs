//! Every way in which files can be wrong, each refused with a message that names file, tensor, expected and found.

mod common;

use common::{Piece, Synthetic, data_of, header_of, shard_bytes};
use porism_loader::{Checkpoint, Dtype, Options};
use serde_json::{Value, json};

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const GATE: &str = "model.layers.0.mlp.gate_proj.weight";
const GATE_SCALE: &str = "model.layers.0.mlp.gate_proj.weight_scale_inv";

/// The tiny checkpoint with one shard's header changed.
#[track_caller]
fn header_refused_with(change: impl FnOnce(&mut Vec<(String, Value)>), parts: &[&str]) {
    let tiny = Synthetic::tiny();
    let mut header = header_of(&tiny.shards[0]);
    change(&mut header);
    let mut files = tiny.files();
    *files.get(FIRST) = shard_bytes(&header, &data_of(&tiny.shards[0]));
    files.refused_with(parts);
}

#[test]
fn the_tiny_checkpoint_itself_is_accepted() {
    let checkpoint = Synthetic::tiny().files().in_memory(Options::default()).unwrap();
    assert_eq!(checkpoint.notes(), [] as [&str; 0]);
    assert!(checkpoint.unknown_tensors().is_empty());
    checkpoint.check_all_numbers(|_| {}).unwrap();
}

#[test]
fn truncated_shard() {
    let mut files = Synthetic::tiny().files();
    let whole = files.get(FIRST).len();
    files.get(FIRST).truncate(whole - 5);
    let last = Synthetic::tiny().shards[0].last().unwrap().name.clone();
    files.refused_with(&[FIRST, "truncated", &last, &whole.to_string(), &(whole - 5).to_string()]);
}

#[test]
fn shard_truncated_in_its_middle_names_the_first_tensor_that_is_cut() {
    let tiny = Synthetic::tiny();
    let mut files = tiny.files();
    let data: usize = tiny.shards[0].iter().map(|piece| piece.bytes.len()).sum();
    let header = files.get(FIRST).len() - data;
    files.get(FIRST).truncate(header + tiny.shards[0][0].bytes.len() + 1);
    files.refused_with(&[FIRST, "truncated", &tiny.shards[0][1].name]);
}

#[test]
fn oversize_shard() {
    let mut files = Synthetic::tiny().files();
    let whole = files.get(SECOND).len();
    files.get(SECOND).extend([0; 3]);
    files.refused_with(&[SECOND, "oversize", &whole.to_string(), &(whole + 3).to_string()]);
}

#[test]
fn empty_shard_and_shard_of_a_few_bytes() {
    for length in [0, 1, 7] {
        let mut files = Synthetic::tiny().files();
        files.get(FIRST).truncate(length);
        files.refused_with(&[FIRST, "8 bytes of header length", &format!("a file of {length} bytes")]);
    }
}

#[test]
fn header_longer_than_the_file() {
    let mut files = Synthetic::tiny().files();
    let shard = files.get(FIRST);
    let length = shard.len();
    shard[..8].copy_from_slice(&(length as u64 - 7).to_le_bytes());
    files.refused_with(&[FIRST, "within the file", &(length - 7).to_string(), &length.to_string()]);
}

#[test]
fn header_length_that_overflows() {
    for claim in [u64::MAX, u64::MAX - 7, 1 << 63, 100_000_001] {
        let mut files = Synthetic::tiny().files();
        files.get(FIRST)[..8].copy_from_slice(&claim.to_le_bytes());
        files.refused_with(&[FIRST, "at most 100000000 bytes of header", &claim.to_string()]);
    }
}

#[test]
fn header_that_is_no_json() {
    let mut files = Synthetic::tiny().files();
    files.get(FIRST)[8] = b'[';
    files.refused_with(&[FIRST, "a JSON object of tensors", "line 1"]);
}

#[test]
fn deep_json_in_a_header() {
    let mut text = r#"{"__metadata__":"#.to_owned();
    text += &"[".repeat(1_000_000);
    let mut shard = (text.len() as u64).to_le_bytes().to_vec();
    shard.extend(text.as_bytes());
    let mut files = Synthetic::tiny().files();
    *files.get(FIRST) = shard;
    files.refused_with(&[FIRST, "a JSON object of tensors"]);
}

#[test]
fn text_after_the_header() {
    let tiny = Synthetic::tiny();
    let mut shard = shard_bytes(&header_of(&tiny.shards[0]), &data_of(&tiny.shards[0]));
    let length = u64::from_le_bytes(shard[..8].try_into().unwrap()) as usize;
    shard.splice(8 + length..8 + length, *b"{}      ");
    shard[..8].copy_from_slice(&(length as u64 + 8).to_le_bytes());
    let mut files = tiny.files();
    *files.get(FIRST) = shard;
    files.refused_with(&[FIRST, "trailing characters"]);
}

#[test]
fn overlapping_offsets() {
    // The second tensor starts, and ends, one byte early.
    header_refused_with(
        |header| {
            let offsets = &mut header[1].1["data_offsets"];
            let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
            *offsets = json!([start - 1, end - 1]);
        },
        &[FIRST, &Synthetic::tiny().shards[0][1].name, "bad offsets", "overlap"],
    );
}

#[test]
fn hole_between_tensors() {
    header_refused_with(
        |header| {
            header.remove(1);
        },
        &[FIRST, &Synthetic::tiny().shards[0][2].name, "bad offsets", "hole"],
    );
}

#[test]
fn offsets_that_run_backwards() {
    header_refused_with(
        |header| header[1].1["data_offsets"] = json!([100, 20]),
        &[FIRST, &Synthetic::tiny().shards[0][1].name, "a start before the end", "[100, 20]"],
    );
}

#[test]
fn offsets_beyond_the_file() {
    let last = Synthetic::tiny().shards[0].len() - 1;
    header_refused_with(
        |header| {
            let start = header[last].1["data_offsets"][0].as_u64().unwrap();
            header[last].1["shape"] = json!([1u64 << 40]);
            header[last].1["dtype"] = json!("U8");
            header[last].1["data_offsets"] = json!([start, start + (1u64 << 40)]);
        },
        &[FIRST, "truncated", &Synthetic::tiny().shards[0][last].name],
    );
}

#[test]
fn negative_fractional_and_oversize_numbers_in_a_header() {
    for offsets in
        [json!([-4, 8]), json!([0.5, 8]), json!([0, 1e30]), json!([0]), json!([0, 1, 2]), json!("0, 8")]
    {
        header_refused_with(|header| header[0].1["data_offsets"] = offsets, &[FIRST, "damaged header"]);
    }
    for shape in [json!([-1]), json!([1.5]), json!({}), json!([[1]]), json!([1, 1, 1, 1, 1, 1, 1, 1, 1])] {
        header_refused_with(|header| header[0].1["shape"] = shape, &[FIRST, "damaged header"]);
    }
    for key in ["dtype", "shape", "data_offsets"] {
        header_refused_with(
            |header| {
                header[0].1.as_object_mut().unwrap().remove(key);
            },
            &[FIRST, "damaged header", key],
        );
    }
}

#[test]
fn shape_whose_product_overflows() {
    let name = Synthetic::tiny().shards[0][0].name.clone();
    for shape in [json!([u64::MAX, 2]), json!([1u64 << 32, 1u64 << 32]), json!([1u64 << 63])] {
        header_refused_with(
            |header| header[0].1["shape"] = shape,
            &[FIRST, &name, "more bytes than can be counted"],
        );
    }
}

#[test]
fn byte_count_that_contradicts_dtype_and_shape() {
    let piece = Synthetic::tiny().shards[0][0].clone();
    let bytes = piece.bytes.len();
    header_refused_with(
        |header| header[0].1["dtype"] = json!("F32"),
        &[
            FIRST,
            &piece.name,
            &format!("{} bytes for F32", bytes * 2),
            &format!("{bytes} bytes at [0, {bytes}]"),
        ],
    );
}

#[test]
fn dtype_that_no_one_knows() {
    header_refused_with(
        |header| header[0].1["dtype"] = json!("F7"),
        &[FIRST, &Synthetic::tiny().shards[0][0].name, "wrong dtype", "F7"],
    );
}

#[test]
fn tensor_twice_in_a_header() {
    header_refused_with(
        |header| header.push(header[0].clone()),
        &[FIRST, &Synthetic::tiny().shards[0][0].name, "twice in the header"],
    );
}

#[test]
fn tensor_in_two_shards() {
    let mut tiny = Synthetic::tiny();
    let piece = tiny.shards[0][0].clone();
    tiny.shards[1].push(piece.clone());
    tiny.files().refused_with(&[SECOND, FIRST, &piece.name, "too"]);
}

#[test]
fn wrong_dtype_for_a_role() {
    let mut tiny = Synthetic::tiny();
    *tiny.piece("model.norm.weight") = Piece::new("model.norm.weight", "F8_E4M3", 1, &[136]);
    tiny.files().refused_with(&[
        "model.norm.weight",
        "wrong dtype",
        "F32, BF16 or F16",
        "F8_E4M3",
        "safetensors",
    ]);

    let mut tiny = Synthetic::tiny();
    *tiny.piece(GATE) = Piece::new(GATE, "I32", 4, &[130, 136]);
    tiny.files().refused_with(&[GATE, "wrong dtype", "F32, BF16, F16 or F8_E4M3", "I32"]);
}

#[test]
fn wrong_shape_for_a_role() {
    let mut tiny = Synthetic::tiny();
    *tiny.piece(GATE) = Piece::new(GATE, "F8_E4M3", 1, &[136, 130]);
    tiny.files().refused_with(&[GATE, "wrong shape", "expected [130, 136]", "found [136, 130]"]);

    let mut tiny = Synthetic::tiny();
    *tiny.piece("model.norm.weight") = Piece::new("model.norm.weight", "BF16", 2, &[1, 136]);
    tiny.files().refused_with(&["model.norm.weight", "expected [136]", "found [1, 136]"]);
}

#[test]
fn missing_scale() {
    let mut tiny = Synthetic::tiny();
    tiny.remove(GATE_SCALE);
    let files = tiny.files();
    files.refused_with(&[
        ".safetensors",
        GATE_SCALE,
        "missing scale",
        "F32, BF16 or F8_E8M0 of shape [2, 2]",
        "found none",
    ]);
}

#[test]
fn scale_of_wrong_dtype() {
    let mut tiny = Synthetic::tiny();
    *tiny.piece(GATE_SCALE) = Piece::new(GATE_SCALE, "F16", 2, &[2, 2]);
    tiny.files().refused_with(&[GATE_SCALE, "wrong dtype", "F32, BF16 or F8_E8M0", "F16"]);
}

#[test]
fn scale_of_wrong_shape() {
    // What rows / 128 rounded down, or one scale per row, would give.
    for shape in [[1, 1], [130, 1], [2, 1]] {
        let mut tiny = Synthetic::tiny();
        *tiny.piece(GATE_SCALE) = Piece::scale(GATE_SCALE, &shape);
        tiny.files().refused_with(&[GATE_SCALE, "expected [2, 2]", &format!("found {shape:?}")]);
    }
}

#[test]
fn missing_tensors() {
    for name in [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.1.mlp.experts.3.down_proj.weight",
        "model.layers.1.mlp.shared_experts.gate_proj.weight",
        "model.layers.1.self_attn.indexer.k_norm.bias",
    ] {
        let mut tiny = Synthetic::tiny();
        tiny.remove(name);
        tiny.files().refused_with(&[INDEX, name, "missing tensor", "of shape [", "found none"]);
    }
}

#[test]
fn missing_shard() {
    let mut files = Synthetic::tiny().files();
    files.remove(SECOND);
    let first = Synthetic::tiny().shards[1].iter().map(|piece| piece.name.clone()).min().unwrap();
    files.refused_with(&[SECOND, "missing shard", &first, "no such file"]);
}

#[test]
fn missing_shard_without_an_index() {
    let mut files = Synthetic::tiny().files();
    files.remove(INDEX);
    files.in_memory(Options::default()).unwrap();
    files.remove(FIRST);
    files.refused_with(&[FIRST, "missing shard", "shard 1 of 2"]);
}

#[test]
fn no_weights_and_no_config() {
    let mut files = Synthetic::tiny().files();
    for name in [INDEX, FIRST, SECOND] {
        files.remove(name);
    }
    files.refused_with(&["model.safetensors", INDEX, "no such file"]);
    files.remove("config.json");
    files.refused_with(&["config.json", "no such file"]);
}

#[test]
fn index_naming_an_absent_tensor() {
    let mut files = Synthetic::tiny().files();
    let mut index: Value = serde_json::from_slice(files.get(INDEX)).unwrap();
    index["weight_map"]["model.layers.0.surprise"] = json!(FIRST);
    *files.get(INDEX) = index.to_string().into_bytes();
    files.refused_with(&[INDEX, "model.layers.0.surprise", FIRST, "none of the shards"]);
}

#[test]
fn index_naming_another_shard() {
    let mut files = Synthetic::tiny().files();
    let mut index: Value = serde_json::from_slice(files.get(INDEX)).unwrap();
    let name = &Synthetic::tiny().shards[0][2].name;
    index["weight_map"][name] = json!(SECOND);
    *files.get(INDEX) = index.to_string().into_bytes();
    files.refused_with(&[INDEX, name, &format!("expected it in {SECOND}, found it in {FIRST}")]);
}

#[test]
fn index_leading_out_of_the_directory() {
    for shard in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden", "", "..", "c:x"] {
        let mut files = Synthetic::tiny().files();
        *files.get(INDEX) = json!({"weight_map": {"lm_head.weight": shard}}).to_string().into_bytes();
        files.refused_with(&[INDEX, "not a plain file name"]);
    }
}

#[test]
fn index_that_is_damaged() {
    for (text, part) in [
        ("", "EOF"),
        ("[]", "weight_map"),
        ("{}", "weight_map"),
        (r#"{"weight_map":{}}"#, "empty `weight_map`"),
        (r#"{"weight_map":{"a":1}}"#, "integer `1`"),
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, "twice in the index"),
    ] {
        let mut files = Synthetic::tiny().files();
        *files.get(INDEX) = text.into();
        files.refused_with(&[INDEX, part]);
    }
    let mut files = Synthetic::tiny().files();
    *files.get(INDEX) = format!(r#"{{"metadata":{}"#, "[".repeat(1_000_000)).into_bytes();
    files.refused_with(&[INDEX]);
}

#[test]
fn shard_that_is_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Synthetic::tiny().files();
    files.remove(FIRST);
    files.write(directory.path());
    std::fs::create_dir(directory.path().join(FIRST)).unwrap();
    let error = Checkpoint::open(directory.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains(FIRST) && error.contains("not a regular file"), "{error}");
}

#[test]
fn nan_codes_are_named_by_row_and_column_and_can_be_let_through() {
    for (code, at) in [(0x7f, 0), (0xff, 136 * 129 + 135), (0x7f, 136 * 7 + 3)] {
        let mut tiny = Synthetic::tiny();
        tiny.piece(GATE).bytes[at] = code;
        let files = tiny.files();
        let checkpoint = files.in_memory(Options::default()).unwrap();
        let error = checkpoint.check_all_numbers(|_| {}).unwrap_err().to_string();
        let position = format!("{code:#04x} at [{}, {}]", at / 136, at % 136);
        for part in [GATE, &position, ".safetensors", "--allow-nan"] {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
        let tensor = checkpoint.tensor(common::role(GATE, 2)).unwrap();
        assert_eq!(porism_loader::find_nan(tensor.bytes), Some(at));
        assert_eq!(tensor.not_a_number(at as u64).to_string(), error);

        let checkpoint = files.in_memory(Options { allow_nan: true }).unwrap();
        checkpoint.check_all_numbers(|_| {}).unwrap();
    }
}

#[test]
fn scales_that_are_not_numbers() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut tiny = Synthetic::tiny();
        tiny.piece(GATE_SCALE).bytes[8..12].copy_from_slice(&value.to_le_bytes());
        let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
        let error = checkpoint.check_all_numbers(|_| {}).unwrap_err().to_string();
        assert!(error.contains(GATE_SCALE) && error.contains("at [1, 0]"), "{error}");
    }
}

#[test]
fn names_from_a_file_cannot_write_to_the_terminal() {
    let evil = format!("\u{1b}[2J{}", "x".repeat(100_000));
    header_refused_with(
        |header| header[0] = (evil.clone(), json!({"dtype": "?", "shape": [], "data_offsets": [0, 0]})),
        &[FIRST, "\\u{1b}[2Jxxx", "…"],
    );
    let mut tiny = Synthetic::tiny();
    tiny.shards[0].push(Piece::new(&evil, "U8", 1, &[1]));
    let checkpoint = tiny.files().in_memory(Options::default()).unwrap();
    assert!(checkpoint.unknown_tensors()[0].len() < 300);
}

#[test]
fn unusual_files_are_accepted_with_a_note() {
    let mut tiny = Synthetic::of(common::tiny_config(), Dtype::Bf16);
    tiny.shards[0].push(Piece::new("model.layers.0.something.weight", "BF16", 2, &[4]));
    tiny.shards[1].push(Piece::new("model.layers.1.mlp.experts.4.up_proj.weight", "BF16", 2, &[12, 136]));
    tiny.shards[1].push(Piece::scale(GATE_SCALE, &[2, 2]));
    let mut files = tiny.files();
    let mut index: Value = serde_json::from_slice(files.get(INDEX)).unwrap();
    index["metadata"]["total_size"] = json!(1);
    index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
    *files.get(INDEX) = index.to_string().into_bytes();
    let checkpoint = files.in_memory(Options::default()).unwrap();
    assert_eq!(checkpoint.unknown_tensors(), ["model.layers.0.something.weight"]);
    let notes = checkpoint.notes().join("\n");
    for part in [
        "the index says 1 bytes in all",
        "1 tensors are not in the index, the first is `model.norm.weight`",
        "2 tensors do not belong to this architecture",
        "1 tensors have unknown names, the first is `model.layers.0.something.weight`",
    ] {
        assert!(notes.contains(part), "`{part}` is not in: {notes}");
    }
}

#[test]
fn what_lies_in_the_place_of_a_file_is_said() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2023880\n";
    for name in [FIRST, INDEX, "config.json"] {
        let mut files = Synthetic::tiny().files();
        *files.get(name) = pointer.to_vec();
        files.refused_with(&[name, "a Git LFS pointer", "2023880 bytes", "git lfs pull"]);
    }
    for (bytes, words) in [
        (&b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0"[..], "GGUF"),
        (b"PK\x03\x04\x00\x00\x08\x08", "zip"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"/annex/objects/SHA256E-s12--00", "git annex get"),
        (b"Entry not found", "fetch the file again"),
    ] {
        let mut files = Synthetic::tiny().files();
        *files.get(SECOND) = bytes.to_vec();
        files.refused_with(&[SECOND, words]);
    }
}

#[test]
fn experts_that_lie_in_one_tensor_are_named() {
    let mut tiny = Synthetic::tiny();
    let is_expert = |name: &str| name.starts_with("model.layers.1.mlp.experts.");
    for shard in &mut tiny.shards {
        shard.retain(|piece| !is_expert(&piece.name));
    }
    for (name, shape) in [("gate_up_proj", vec![4, 24, 136]), ("down_proj", vec![4, 136, 12])] {
        tiny.shards[1].push(Piece {
            name: format!("model.layers.1.mlp.experts.{name}"),
            dtype: "BF16".into(),
            bytes: vec![0; 2 * shape.iter().product::<u64>() as usize],
            shape,
        });
    }
    tiny.files().refused_with(&[
        "missing tensor `model.layers.1.mlp.experts.0.",
        "`model.layers.1.mlp.experts.gate_up_proj` (BF16 [4, 24, 136])",
        "`model.layers.1.mlp.experts.down_proj`",
        "one tensor for each expert",
    ]);
}

#[test]
fn tensors_under_other_names_are_mentioned_when_one_is_missing() {
    let mut tiny = Synthetic::tiny();
    for piece in tiny.shards.iter_mut().flatten() {
        piece.name = format!("language_model.{}", piece.name);
    }
    tiny.files().refused_with(&[
        "missing tensor `model.embed_tokens.weight`",
        "names of another kind",
        "`language_model.",
    ]);
}

#[test]
fn a_folder_of_another_format_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |part: &str| {
        let error = Checkpoint::open(folder.path(), Options::default()).unwrap_err().to_string();
        assert!(error.contains(part), "`{part}` is not in: {error}");
    };
    std::fs::write(folder.path().join("model-Q4_K_M.gguf"), b"GGUF").unwrap();
    refused("GGUF files, the format of llama.cpp");
    std::fs::write(folder.path().join("config.json"), common::tiny_config().to_string()).unwrap();
    refused("`model-Q4_K_M.gguf`");
    std::fs::remove_file(folder.path().join("model-Q4_K_M.gguf")).unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), b"PK").unwrap();
    refused("PyTorch's own format");
    std::fs::remove_file(folder.path().join("pytorch_model.bin")).unwrap();
    refused("found no such file");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    Synthetic::tiny().files().write(folder.path());
    let shard = folder.path().join(FIRST);
    std::fs::remove_file(&shard).unwrap();
    std::os::unix::fs::symlink(".git/annex/objects/xx/SHA256E-s9--00", &shard).unwrap();
    let error = Checkpoint::open(folder.path(), Options::default()).unwrap_err().to_string();
    for part in [FIRST, "a link to .git/annex/objects", "git annex get"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}
