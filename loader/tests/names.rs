//! Names and roles.

mod common;

use common::{parse, tiny_config};
use porism_loader::{LayerRole, Name, Projection, Role};
use serde_json::json;
use std::collections::HashSet;

#[test]
fn every_role_is_found_again_by_its_name() {
    for q_lora in [true, false] {
        let mut config = tiny_config();
        if !q_lora {
            config["model_type"] = json!("deepseek_v3");
            config["q_lora_rank"] = json!(null);
            config["index_topk"] = json!(null);
        }
        let model = parse(&config).unwrap();
        let mut seen = HashSet::new();
        for role in model.required_roles() {
            assert_eq!(Name::parse(&role.to_string(), 2), Name::Weight(role), "{role}");
            assert!(seen.insert(role), "{role} twice");
            if role.to_string().ends_with(".weight") {
                assert_eq!(Name::parse(&role.scale_name(), 2), Name::Scale(role), "{}", role.scale_name());
            }
        }
    }
}

#[test]
fn names_mean_what_they_say() {
    let weight = |layer, part| Name::Weight(Role::Layer { layer, part });
    let expert = LayerRole::Expert { expert: 255, projection: Projection::Down };
    for (name, wanted) in [
        ("model.embed_tokens.weight", Name::Weight(Role::Embedding)),
        ("model.norm.weight", Name::Weight(Role::FinalNorm)),
        ("lm_head.weight", Name::Weight(Role::LmHead)),
        ("model.layers.3.mlp.gate.weight", weight(3, LayerRole::RouterGate)),
        ("model.layers.3.mlp.gate.e_score_correction_bias", weight(3, LayerRole::ScoreCorrectionBias)),
        ("model.layers.60.mlp.experts.255.down_proj.weight", weight(60, expert)),
        ("model.layers.0.mlp.up_proj.weight", weight(0, LayerRole::Mlp(Projection::Up))),
        ("model.layers.9.self_attn.indexer.k_norm.bias", weight(9, LayerRole::IndexerKNormBias)),
        ("model.layers.9.self_attn.kv_a_proj_with_mqa.weight", weight(9, LayerRole::KvAProjWithMqa)),
        ("model.layers.61.eh_proj.weight", Name::Mtp),
        ("model.layers.61.self_attn.o_proj.weight", Name::Mtp),
        ("model.layers.61.self_attn.o_proj.weight_scale_inv", Name::Mtp),
        ("model.layers.5.self_attn.rotary_emb.inv_freq", Name::Buffer),
        ("model.layers.5.self_attn.surprise.weight", Name::Unknown),
        ("model.layers.05.input_layernorm.weight", Name::Unknown),
        ("model.layers.+5.input_layernorm.weight", Name::Unknown),
        ("model.layers.-1.input_layernorm.weight", Name::Unknown),
        ("model.layers..input_layernorm.weight", Name::Unknown),
        ("model.layers.99999999999.input_layernorm.weight", Name::Unknown),
        ("model.layers.5.mlp.experts.01.up_proj.weight", Name::Unknown),
        ("model.layers.5.mlp.experts.1.up_proj.bias", Name::Unknown),
        ("weight_scale_inv", Name::Unknown),
        ("", Name::Unknown),
    ] {
        assert_eq!(Name::parse(name, 61), wanted, "{name}");
    }
}
