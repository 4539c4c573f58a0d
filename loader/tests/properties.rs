//! Whatever the bytes are, reading them ends with a result, never with a panic.

mod common;

use common::{Files, Synthetic, header_of, tiny_config};
use porism_loader::{ModelConfig, Name, Options, parse_header};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// JSON of any form, with numbers that like to be near the edges.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop_oneof![Just("yarn"), Just("softmax"), Just("greedy"), Just("full"), Just("fp8"), Just("")]
            .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,16}", inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

fn shard(length: u64, text: &[u8], data: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), text, data].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn headers_of_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_header(Path::new("x"), &bytes);
    }

    #[test]
    fn headers_of_random_text(text in ".{0,200}", excess in 0u64..3, data in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = parse_header(Path::new("x"), &shard(text.len() as u64 + excess, text.as_bytes(), &data));
    }

    #[test]
    fn headers_of_random_entries(
        entries in prop::collection::vec(
            ("[a-c]", prop_oneof![Just("F32"), Just("U8"), Just("F4"), Just("BF16")], any_json(), any::<(u64, u64)>()),
            0..6,
        ),
        small in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let header: Vec<(String, Value)> = entries
            .into_iter()
            .map(|(name, dtype, shape, (start, end))| {
                let (start, end) = if small { (start % 64, end % 64) } else { (start, end) };
                let shape = if shape.is_array() { shape } else { json!([end.wrapping_sub(start)]) };
                (name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}))
            })
            .collect();
        let file = common::shard_bytes(&header, &data);
        if let Ok(entries) = parse_header(Path::new("x"), &file) {
            // What is accepted lies in the file, without holes.
            let mut position = file.len() - data.len();
            for entry in entries {
                prop_assert_eq!(entry.start, position as u64);
                prop_assert!(entry.end >= entry.start);
                position = entry.end as usize;
            }
            prop_assert_eq!(position, file.len());
        }
    }

    #[test]
    fn configs_of_random_json(value in any_json()) {
        let _ = common::parse(&value);
    }

    #[test]
    fn configs_with_some_random_values(changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4)) {
        let mut config = tiny_config();
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (index, value) in changes {
            config[index.get(&keys)] = value;
        }
        if let Ok(model) = common::parse(&config) {
            use_everything(&model);
        }
    }

    #[test]
    fn configs_with_some_random_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut text = tiny_config().to_string().into_bytes();
        for (index, byte) in changes {
            let at = index.index(text.len());
            text[at] = byte;
        }
        if let Ok(model) = ModelConfig::parse((Path::new("config.json"), &text), None) {
            use_everything(&model);
        }
    }

    #[test]
    fn names_of_random_text(name in "(model\\.layers\\.[0-9.]{0,12})?.{0,30}", layers in any::<u32>()) {
        let _ = Name::parse(&name, layers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whole_checkpoints_with_some_random_bytes(
        changes in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let tiny = Synthetic::tiny();
        let headers: usize = tiny.shards.iter().map(|shard| json!(header_of(shard)).to_string().len()).sum();
        let Files(mut files) = tiny.files();
        for (file, index, byte) in changes {
            let bytes = &mut files[file].1;
            let limit = bytes.len().min(headers); // the data do not matter
            bytes[index.index(limit)] = byte;
        }
        if let Ok(checkpoint) = Files(files).in_memory(Options::default()) {
            for role in checkpoint.roles() {
                let tensor = checkpoint.tensor(role).unwrap();
                prop_assert_eq!(tensor.bytes.len() as u64, tensor.shape.elements() * tensor.dtype.bytes());
                prop_assert_eq!(tensor.to_f32().len() as u64, tensor.shape.elements());
            }
        }
    }
}

/// Calls what is computed from an accepted config.
fn use_everything(model: &ModelConfig) {
    assert!(model.softmax_scale().is_finite() && model.softmax_scale() > 0.0);
    assert!(model.rope_amplitude().is_finite());
    if model.qk_rope_head_dim < 10_000 {
        let frequencies = model.rope_inverse_frequencies();
        assert!(frequencies.iter().all(|frequency| frequency.is_finite() && *frequency >= 0.0), "{model:?}");
    }
    for role in model.required_roles().take(2_000) {
        let shape = model.shape_of(role).expect("required roles have a shape");
        assert!(shape.elements() > 0, "{role} of {model:?}");
    }
}
