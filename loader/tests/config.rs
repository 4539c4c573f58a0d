//! What a config.json means, and which ones are refused.

mod common;

use common::{golden, parse, tiny_config};
use porism_loader::{Family, LayerRole, ModelConfig, Projection, Quantization, Role, Scoring, TopkMethod};
use serde_json::{Value, json};
use std::path::Path;

fn with(changes: Value) -> Value {
    let mut config = tiny_config();
    for (key, value) in changes.as_object().unwrap() {
        match key.split_once('.') {
            Some((outer, inner)) => config[outer][inner] = value.clone(),
            None => config[key] = value.clone(),
        }
    }
    config
}

fn without(key: &str) -> Value {
    let mut config = tiny_config();
    config.as_object_mut().unwrap().remove(key).unwrap();
    config
}

/// Asserts that the change is refused, naming key, value and what is supported.
#[track_caller]
fn refused(changes: Value, parts: &[&str]) {
    let error = parse(&with(changes)).expect_err("to be refused");
    assert!(error.starts_with("config.json: `"), "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn read_golden(name: &str) -> ModelConfig {
    let path = golden(name).join("config.json");
    ModelConfig::parse((&path, &std::fs::read(&path).unwrap()), None).unwrap()
}

fn close(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() <= 1e-13 * wanted.abs()
}

#[test]
fn the_golden_configs_are_read() {
    let v2 = read_golden("v2-lite-tiny-bf16");
    assert_eq!((v2.model_type, v2.q_lora_rank, v2.n_group), (Family::DeepseekV2, None, 1));
    assert_eq!(
        (v2.scoring, v2.topk_method, v2.norm_topk_prob),
        (Scoring::Softmax, TopkMethod::Greedy, false)
    );
    assert_eq!((v2.bos_token_id, v2.eos_token_ids.as_slice()), (Some(100), [101].as_slice()));
    assert!(v2.indexer.is_none() && v2.quantization == Quantization::None);

    let v3 = read_golden("v3-tiny-bf16");
    assert_eq!((v3.model_type, v3.q_lora_rank, v3.topk_group), (Family::DeepseekV3, Some(96), 2));
    assert_eq!(
        (v3.scoring, v3.topk_method, v3.norm_topk_prob),
        (Scoring::Sigmoid, TopkMethod::NoauxTc, true)
    );
    assert!(v3.is_grouped() && !v3.is_moe(0) && v3.is_moe(1) && v3.is_moe(2));

    let v32 = read_golden("v32-tiny-fp8");
    let indexer = v32.indexer.as_ref().unwrap();
    assert_eq!((indexer.index_n_heads, indexer.index_head_dim, indexer.index_topk), (8, 128, 16));
    assert!(!indexer.rope_interleave && indexer.shared_layers.is_empty() && v32.has_indexer(3));
    assert_eq!(v32.quantization, Quantization::Fp8);
}

#[test]
fn defaults_depend_on_the_family() {
    let bare = |family: &str| {
        let mut config = with(json!({"model_type": family}));
        for key in ["scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor", "rope_scaling"]
        {
            config.as_object_mut().unwrap().remove(key);
        }
        parse(&config).unwrap()
    };
    let v2 = bare("deepseek_v2");
    assert_eq!(
        (v2.scoring, v2.topk_method, v2.norm_topk_prob),
        (Scoring::Softmax, TopkMethod::Greedy, false)
    );
    for family in ["deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa"] {
        let model = bare(family);
        assert_eq!(model.model_type.model_type(), family);
        let found = (model.scoring, model.topk_method, model.norm_topk_prob);
        assert_eq!(found, (Scoring::Sigmoid, TopkMethod::NoauxTc, true));
        assert_eq!((model.routed_scaling_factor, model.rope_theta), (1.0, 10_000.0));
        assert_eq!(model.rms_norm_eps, 1e-6);
        assert_eq!(model.indexer.unwrap().rope_interleave, family == "glm_moe_dsa");
    }
}

#[test]
fn an_indexer_follows_from_the_family_or_from_index_topk() {
    for (family, has) in [("deepseek_v3", false), ("kimi_k2", false), ("deepseek_v2", false)] {
        let mut config = with(json!({"model_type": family}));
        assert!(parse(&config).unwrap().indexer.is_some(), "{family} with index_topk");
        config.as_object_mut().unwrap().remove("index_topk");
        assert_eq!(parse(&config).unwrap().indexer.is_some(), has, "{family}");
    }
    let error = parse(&without("index_topk")).unwrap_err();
    assert!(error.contains("`index_topk` is nothing"), "{error}");
    let interleaved = parse(&with(json!({"indexer_rope_interleave": true}))).unwrap();
    assert!(interleaved.indexer.unwrap().rope_interleave);
}

#[test]
fn frequencies_scale_and_amplitude_are_the_references() {
    let v2 = read_golden("v2-lite-tiny-bf16");
    let wanted = [
        1.0,
        0.3795803945034857,
        0.11067971810589329,
        0.004445698525097307,
        0.0025,
        0.0014058533129758727,
        0.0007905694150420947,
        0.00044456985250973074,
        0.00025,
        0.00014058533129758727,
        7.905694150420948e-05,
        4.445698525097307e-05,
        2.5e-05,
        1.4058533129758727e-05,
        7.905694150420949e-06,
        4.445698525097306e-06,
    ];
    let found = v2.rope_inverse_frequencies();
    assert_eq!(found.len(), 16);
    assert!(found.iter().zip(wanted).all(|(found, wanted)| close(*found, wanted)), "{found:?}");
    assert!(close(v2.softmax_scale(), 0.16224054109680577) && v2.rope_amplitude() == 1.0);
    assert!(close(read_golden("v32-tiny-fp8").softmax_scale(), 0.19124944415602058));

    let real = json!({
        "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "index_head_dim": 128,
        "rope_scaling.original_max_position_embeddings": 4096
    });
    let mut real = with(real);
    let model = parse(&real).unwrap();
    let found = model.rope_inverse_frequencies();
    for (pair, wanted) in [
        (0, 1.0),
        (9, 0.07498942093324558),
        (10, 0.05623413251903491),
        (15, 0.008334508951020777),
        (20, 0.0007905694150420946),
        (22, 0.0001778279410038922),
        (23, 3.33380358040831e-05),
        (24, 2.5e-05),
        (31, 3.3338035804083097e-06),
    ] {
        assert!(close(found[pair], wanted), "pair {pair}: {} is not {wanted}", found[pair]);
    }
    assert!(close(model.softmax_scale(), 0.1352337788608801));

    real["rope_scaling"]["mscale"] = json!(0.707);
    let model = parse(&real).unwrap();
    assert!(close(model.rope_amplitude(), 0.9210423553163399));
    assert!(close(model.softmax_scale(), 0.1352337788608801));

    // Zero and absent are the same, as in the published code.
    for absent in [json!(0), json!(null)] {
        real["rope_scaling"]["mscale_all_dim"] = absent;
        let model = parse(&real).unwrap();
        assert!(close(model.rope_amplitude(), 1.3688879454113936));
        assert!(close(model.softmax_scale(), 0.07216878364870322));
    }

    real["rope_scaling"] = json!(null);
    let plain = parse(&real).unwrap();
    let found = plain.rope_inverse_frequencies();
    assert!(close(found[1], 0.7498942093324559) && close(found[31], 0.0001333521432163324));
    assert!(close(plain.softmax_scale(), 0.07216878364870322) && plain.rope_amplitude() == 1.0);
}

#[test]
fn rope_parameters_serve_as_rope_scaling_and_theta() {
    let mut config = without("rope_theta");
    let rope = config.as_object_mut().unwrap().remove("rope_scaling").unwrap();
    config["rope_parameters"] = rope;
    config["rope_parameters"]["rope_theta"] = json!(50000);
    let object = config["rope_parameters"].as_object_mut().unwrap();
    let kind = object.remove("type").unwrap();
    object.insert("rope_type".into(), kind);
    let model = parse(&config).unwrap();
    assert_eq!((model.rope_theta, model.yarn.unwrap().factor), (50_000.0, 40.0));
    config["rope_parameters"]["rope_type"] = json!("default");
    let model = parse(&config).unwrap();
    assert_eq!((model.rope_theta, model.yarn), (50_000.0, None));
}

#[test]
fn glm_layers_that_share_indices_are_data() {
    let glm = |changes: Value| {
        let mut config = with(json!({"model_type": "glm_moe_dsa", "num_hidden_layers": 8}));
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parse(&config)
    };
    let shared = |changes: Value| glm(changes).unwrap().indexer.unwrap().shared_layers;
    assert!(shared(json!({})).is_empty());
    assert!(shared(json!({"index_topk_freq": 1})).is_empty());
    assert_eq!(shared(json!({"index_topk_freq": 4, "index_skip_topk_offset": 3})), [3, 4, 5, 7]);
    assert_eq!(shared(json!({"index_topk_freq": 2})), [2, 4, 6]);
    assert_eq!(shared(json!({"index_topk_pattern": "FFSSFSSS", "index_topk_freq": 9})), [2, 3, 5, 6, 7]);
    let types = json!(["full", "shared", "full", "full", "shared", "full", "full", "full"]);
    assert_eq!(shared(json!({"indexer_types": types})), [1, 4]);

    let model = glm(json!({"index_topk_pattern": "FSFFFFFF"})).unwrap();
    let role = Role::layer(1, LayerRole::IndexerWk);
    assert!(!model.has_indexer(1) && model.has_indexer(2));
    assert!(model.shape_of(role).is_none() && !model.required_roles().any(|required| required == role));

    for (changes, part) in [
        (json!({"index_topk_pattern": "SFFFFFFF"}), "an indexer in layer 0"),
        (json!({"index_topk_pattern": "FFF"}), "one entry for each of 8 layers"),
        (json!({"index_topk_pattern": "FFXFFFFF"}), "X for layer 2"),
        (json!({"indexer_types": [1, 2, 3, 4, 5, 6, 7, 8]}), "no text for layer 0"),
        (json!({"indexer_types": 3}), "`indexer_types` is 3"),
        (json!({"index_topk_freq": 0}), "`index_topk_freq` is 0"),
    ] {
        let error = glm(changes).unwrap_err();
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn token_ids_may_be_lists_and_generation_config_wins() {
    let config = with(json!({"eos_token_id": [1, 7], "bos_token_id": null})).to_string();
    let file = Path::new("config.json");
    let model = ModelConfig::parse((file, config.as_bytes()), None).unwrap();
    assert_eq!((model.bos_token_id, model.eos_token_ids.as_slice()), (None, [1, 7].as_slice()));

    let generation = br#"{"eos_token_id": [3, 4, 5], "bos_token_id": 2, "temperature": 0.6, "top_p": 0.95, "do_sample": true}"#;
    let generation = (Path::new("generation_config.json"), generation.as_slice());
    let model = ModelConfig::parse((file, config.as_bytes()), Some(generation)).unwrap();
    assert_eq!((model.bos_token_id, model.eos_token_ids.as_slice()), (Some(2), [3, 4, 5].as_slice()));
    assert_eq!((model.generation.temperature, model.generation.top_p), (Some(0.6), Some(0.95)));

    let generation = (Path::new("generation_config.json"), br#"{"eos_token_id": "end"}"#.as_slice());
    let error = ModelConfig::parse((file, config.as_bytes()), Some(generation)).unwrap_err().to_string();
    assert!(error.starts_with("generation_config.json: `eos_token_id` is \"end\""), "{error}");
}

#[test]
fn sampling_defaults_mean_what_they_mean_elsewhere() {
    let config = tiny_config().to_string();
    let read = |generation: Value| {
        let text = generation.to_string();
        let generation = (Path::new("generation_config.json"), text.as_bytes());
        ModelConfig::parse((Path::new("config.json"), config.as_bytes()), Some(generation))
            .map(|model| model.generation)
            .map_err(|error| error.to_string())
    };
    let all = read(json!({"do_sample": true, "temperature": 1e-6, "top_p": 0.0, "top_k": -1, "min_p": 0.05,
        "repetition_penalty": 1.05, "typical_p": 1.0, "num_beams": 1, "suppress_tokens": [], "max_length": 20}))
    .unwrap();
    assert_eq!((all.temperature, all.top_p, all.top_k), (Some(1e-6), Some(0.0), Some(0)));
    assert_eq!((all.min_p, all.repetition_penalty, all.do_sample), (Some(0.05), Some(1.05), Some(true)));
    assert!(all.ignored.is_empty(), "{:?}", all.ignored);
    for (top_k, meant) in
        [(json!(0), 0), (json!(50), 50), (json!(50.0), 50), (json!(1_u64 << 40), 0), (json!(-1.0), 0)]
    {
        assert_eq!(read(json!({"top_k": top_k})).unwrap().top_k, Some(meant), "{top_k}");
    }
    let none = read(json!({"top_k": null, "top_p": null, "temperature": null, "min_p": null})).unwrap();
    assert_eq!(none, porism_loader::config::Generation::default());
    let ignored = read(json!({"typical_p": 0.9, "num_beams": 4})).unwrap().ignored;
    assert_eq!(ignored, ["typical_p = 0.9", "num_beams = 4"]);
    // What means nothing to anybody is refused, naming the file.
    for (key, value) in [
        ("top_k", json!(-2)),
        ("top_k", json!("all")),
        ("top_k", json!(2.5)),
        ("top_p", json!(1.5)),
        ("top_p", json!(-0.1)),
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("min_p", json!(2)),
        ("temperature", json!(1e38)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(1e38)),
        ("do_sample", json!("yes")),
    ] {
        let error = read(json!({key: value})).unwrap_err();
        assert!(error.starts_with(&format!("generation_config.json: `{key}` is {value}")), "{error}");
    }
}

#[test]
fn layers_may_all_be_dense_or_all_moe() {
    let dense = parse(&with(json!({"n_routed_experts": null, "moe_intermediate_size": null}))).unwrap();
    assert!(!dense.is_moe(0) && !dense.is_moe(1));
    let role = Role::layer(1, LayerRole::Mlp(Projection::Up));
    assert_eq!(dense.shape_of(role).unwrap().sizes(), [130, 136]);
    let moe = parse(&with(json!({"first_k_dense_replace": 0, "intermediate_size": null}))).unwrap();
    assert!(moe.is_moe(0) && moe.is_moe(1));
    let mixed = parse(&with(json!({"first_k_dense_replace": 0, "moe_layer_freq": 2}))).unwrap();
    assert!(mixed.is_moe(0) && !mixed.is_moe(1));
}

#[test]
fn unsupported_features_are_named() {
    refused(
        json!({"model_type": "llama"}),
        &["`model_type` is \"llama\"", "\"deepseek_v32\" or \"kimi_k2\""],
    );
    refused(json!({"model_type": null}), &["`model_type` is null", "deepseek_v2"]);
    refused(json!({"attention_bias": true}), &["`attention_bias` is true", "supported: false"]);
    refused(json!({"mlp_bias": true}), &["`mlp_bias` is true", "supported: false"]);
    refused(json!({"hidden_act": "gelu"}), &["`hidden_act` is \"gelu\"", "supported: \"silu\""]);
    refused(json!({"scoring_func": "tanh"}), &["`scoring_func` is \"tanh\"", "\"sigmoid\" or \"softmax\""]);
    refused(json!({"topk_method": "best"}), &["`topk_method` is \"best\"", "\"noaux_tc\""]);
    refused(json!({"rope_interleave": false}), &["`rope_interleave` is false", "true"]);
    refused(
        json!({"rope_scaling.type": "linear"}),
        &["`rope_scaling.type` is \"linear\"", "\"yarn\" or \"default\""],
    );
    refused(json!({"rope_scaling.factor": null}), &["`rope_scaling.factor`"]);
    refused(json!({"rope_scaling.attention_factor": 1.5}), &["`rope_scaling.attention_factor` is 1.5"]);
    refused(
        json!({"rope_scaling.original_max_position_embeddings": 0}),
        &["original_max_position_embeddings` is 0"],
    );
    refused(
        json!({"quantization_config.weight_block_size": [64, 64]}),
        &["weight_block_size` is [64,64]", "[128, 128]"],
    );
    refused(
        json!({"quantization_config.weight_block_size": null}),
        &["weight_block_size` is null", "[128, 128]"],
    );
    refused(json!({"quantization_config.quant_method": "awq"}), &["quant_method` is \"awq\"", "\"fp8\""]);
    refused(
        json!({"quantization_config.quant_method": null}),
        &["quantization_config.quant_method", "\"fp8\""],
    );
    refused(json!({"quantization_config.fmt": "e5m2"}), &["fmt` is \"e5m2\"", "\"e4m3\""]);
}

#[test]
fn sizes_that_cannot_be_are_named() {
    for key in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "moe_intermediate_size",
        "num_attention_heads",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "max_position_embeddings",
        "index_n_heads",
        "index_head_dim",
        "index_topk",
    ] {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("8"),
            json!(1 << 25),
            json!(u64::MAX),
            json!(1e300),
            json!([]),
        ] {
            refused(
                json!({ key: value }),
                &[&format!("`{key}` is "), &value.to_string(), "a whole number from 1 to"],
            );
        }
        refused(json!({ key: null }), &[&format!("`{key}` is null"), "a whole number from 1 to"]);
    }
    for key in ["n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group", "topk_group"] {
        for value in [json!(-1), json!(1 << 25), json!("x")] {
            refused(json!({ key: value }), &[&format!("`{key}` is "), &value.to_string()]);
        }
    }
    refused(json!({"num_attention_heads": 1 << 23}), &["`num_attention_heads`", "8388608, each 12 wide"]);
    refused(json!({"rope_theta": 0.5}), &["`rope_theta` is 0.5"]);
    refused(json!({"rms_norm_eps": -1e-6}), &["`rms_norm_eps`"]);
    refused(json!({"routed_scaling_factor": "big"}), &["`routed_scaling_factor` is \"big\""]);
    refused(json!({"eos_token_id": -1}), &["`eos_token_id` is -1"]);
    refused(json!({"eos_token_id": vec![0; 5000]}), &["`eos_token_id` is a list of 5000"]);
}

#[test]
fn sizes_that_do_not_go_together_are_named() {
    refused(json!({"qk_rope_head_dim": 3}), &["`qk_rope_head_dim` is 3", "an even number"]);
    refused(json!({"n_group": 3}), &["`n_group` is 3", "a divisor of n_routed_experts, which is 4"]);
    refused(json!({"n_group": 4}), &["`n_group` is 4", "groups of at least 2"]);
    refused(json!({"topk_group": 3}), &["`topk_group` is 3", "at most n_group, which is 2"]);
    refused(json!({"num_experts_per_tok": 3}), &["`num_experts_per_tok` is 3", "from 1 to 2"]);
    refused(json!({"num_experts_per_tok": 0}), &["`num_experts_per_tok` is 0", "from 1 to 2"]);
    refused(json!({"num_experts_per_tok": null}), &["`num_experts_per_tok` is null", "from 1 to 2"]);
    refused(
        json!({"n_group": 1, "topk_group": 1, "num_experts_per_tok": 5}),
        &["`num_experts_per_tok` is 5", "from 1 to 4"],
    );
    refused(
        json!({"index_head_dim": 2}),
        &["`index_head_dim` is 2", "at least qk_rope_head_dim, which is 4"],
    );
    refused(json!({"q_lora_rank": null}), &["`q_lora_rank` is null", "the indexer reads"]);
    refused(json!({"q_lora_rank": 0}), &["`q_lora_rank` is 0", "the indexer reads"]);
    refused(
        json!({"mlp_layer_types": ["dense", "dense"]}),
        &["`mlp_layer_types`", "\"dense\" for layer 1", "\"sparse\""],
    );
    assert!(parse(&with(json!({"mlp_layer_types": ["dense", "sparse"]}))).is_ok());
    assert!(parse(&with(json!({"topk_method": "greedy", "num_experts_per_tok": 4}))).is_ok());
}

#[test]
fn text_that_is_no_config_is_refused() {
    let parse =
        |text: &[u8]| ModelConfig::parse((Path::new("config.json"), text), None).unwrap_err().to_string();
    for text in ["", "{", "[]", "3", "null", "\u{0}", "{\"model_type\": \"deepseek_v3\"} x"] {
        let error = parse(text.as_bytes());
        assert!(error.starts_with("config.json: expected a JSON object, found "), "{error}");
    }
    assert!(parse("{\"a\":".repeat(1000).as_bytes()).contains("recursion limit"));
    assert!(parse(&vec![b' '; 5 << 20]).contains("expected at most 4194304 bytes, found 5242880 bytes"));
    assert!(parse(b"\xff\xfe").contains("a JSON object"));
}

#[test]
fn sizes_of_the_real_model_follow_from_its_config() {
    let real = json!({
        "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "index_n_heads": 64,
        "index_head_dim": 128, "index_topk": 2048, "max_position_embeddings": 163840,
        "rope_scaling.original_max_position_embeddings": 4096
    });
    let model = parse(&with(real)).unwrap();
    let shape = |part| model.shape_of(Role::layer(5, part)).unwrap();
    assert_eq!(shape(LayerRole::KvAProjWithMqa).sizes(), [576, 7168]);
    assert_eq!(shape(LayerRole::KvAProjWithMqa).scale_shape(), [5, 56]);
    assert_eq!(shape(LayerRole::QBProj).sizes(), [24576, 1536]);
    assert_eq!(shape(LayerRole::KvBProj).sizes(), [32768, 512]);
    assert_eq!(shape(LayerRole::OProj).sizes(), [7168, 16384]);
    assert_eq!(shape(LayerRole::IndexerWqB).sizes(), [8192, 1536]);
    let parameters: u64 = model.required_roles().map(|role| model.shape_of(role).unwrap().elements()).sum();
    assert_eq!(parameters / 1_000_000_000, 671); // 671 B plus the MTP layer is the published 685 B
    assert_eq!(model.required_roles().count(), 3 + 61 * 14 + 3 * 3 + 58 * (2 + 3 * 257));
}
