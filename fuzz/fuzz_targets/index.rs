//! A whole checkpoint whose index and shard headers are any bytes: refused, or every tensor can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use porism_loader::{Checkpoint, Options};

/// The smallest model there is: one dense layer.
const CONFIG: &str = r#"{
    "model_type": "deepseek_v3", "vocab_size": 2, "hidden_size": 2, "num_hidden_layers": 1, "intermediate_size": 1,
    "num_attention_heads": 1, "kv_lora_rank": 1, "qk_nope_head_dim": 1, "qk_rope_head_dim": 2, "v_head_dim": 1,
    "max_position_embeddings": 8, "tie_word_embeddings": true
}"#;

fuzz_target!(|bytes: &[u8]| {
    // Two bytes say how many data the two shards have. Then zero bytes, which JSON never has, part the index (a
    // single file when it is empty) from the header of the first shard and that of the second.
    let [first_data, second_data, texts @ ..] = bytes else { return };
    let mut texts = texts.splitn(3, |byte| *byte == 0);
    let index = texts.next().unwrap_or_default();
    let shard =
        |text: &[u8], data: u8| [&(text.len() as u64).to_le_bytes(), text, &vec![0x38; data.into()]].concat();
    let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    let mut files = vec![("config.json", CONFIG.as_bytes().to_vec())];
    if index.is_empty() {
        files.push(("model.safetensors", shard(first, *first_data)));
    } else {
        files.push(("model.safetensors.index.json", index.to_vec()));
        files.push(("a", shard(first, *first_data)));
        files.push(("b", shard(second, *second_data)));
    }
    let Ok(checkpoint) = Checkpoint::from_memory(files, Options::default()) else { return };
    for role in checkpoint.roles() {
        let tensor = checkpoint.tensor(role).expect("it is listed");
        assert_eq!(tensor.to_f32().len() as u64, tensor.shape.elements());
    }
    let _ = checkpoint.check_all_numbers(|_| {});
});
