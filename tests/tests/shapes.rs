//! Other shapes than the golden checkpoints': every size, type and switch of the family in some model, compared with the
//! equations in f64 on the host and every adapter, whatever the steps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Dtype, Options, ScaleDtype};
use porism_runtime::device::OpenDevice;
use porism_runtime::engine::{Engine, Schedule};
use porism_runtime::plan::DevicePlan;
use porism_runtime::{DeviceId, EngineOptions};
use porism_tests::reference::{Forward, Reference};
use porism_tests::synthetic::{Dtypes, ScalePlace, Synthetic};
use porism_tests::watched::{Watch, watched};
use porism_tests::{distance, every_adapter, short_name};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Relative L2 distance of logits.
const RELATIVE_L2: f64 = 2e-5;
/// Largest absolute difference of a logit.
const MAX_ABS: f64 = 1e-3;
/// Prompts are drawn until experts are chosen by at least so much: scores are at most 1, f32 keeps them to about 1e-6.
const EXPERT_MARGIN: f64 = 2e-5;
/// The same for positions, in standard deviations of a row of scores.
const INDEX_MARGIN: f64 = 1e-4;

struct Variant {
    name: &'static str,
    model: Synthetic,
    tokens: usize,
}

/// What a config leaves out, or has otherwise, is as in [`Synthetic::new`]: V3.2, 4 heads, 16 experts in 4 groups.
fn variants() -> Vec<Variant> {
    let variant =
        |name, changes: Value, dtypes| Variant { name, model: Synthetic::new(changes, dtypes), tokens: 32 };
    let v3 = |mut changes: Value| {
        for key in ["index_topk", "index_n_heads", "index_head_dim"] {
            changes[key] = Value::Null;
        }
        changes
    };
    let yarn = |factor: f64, mscale: f64, mscale_all_dim: f64| {
        json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": 32, "beta_slow": 1, "mscale": mscale,
            "mscale_all_dim": mscale_all_dim, "original_max_position_embeddings": 16
        })
    };
    let fp8 = Dtypes::fp8();
    let bf16 = Dtypes::bf16();
    let all = vec![
        variant(
            "three_heads_rank_72_vocabulary_97_without_yarn",
            json!({ "num_attention_heads": 3, "kv_lora_rank": 72, "vocab_size": 97, "rope_scaling": null }),
            bf16,
        ),
        variant(
            "five_heads_rank_512_vocabulary_1021_top_33_fp8",
            json!({
                "num_attention_heads": 5, "kv_lora_rank": 512, "vocab_size": 1021, "hidden_size": 200, "index_topk": 33
            }),
            Dtypes { scale_place: ScalePlace::NextShard, ..fp8 },
        ),
        variant(
            "sixteen_heads_q_rank_40_top_5",
            json!({ "num_attention_heads": 16, "q_lora_rank": 40, "index_topk": 5, "index_n_heads": 16 }),
            Dtypes { norm: Dtype::F32, indexer: Dtype::Bf16, bias: Dtype::Bf16, ..bf16 },
        ),
        variant(
            "hidden_131_and_odd_widths_bf16",
            json!({
                "hidden_size": 131, "intermediate_size": 101, "moe_intermediate_size": 33, "q_lora_rank": 45,
                "kv_lora_rank": 51, "qk_nope_head_dim": 13, "qk_rope_head_dim": 10, "v_head_dim": 21,
                "index_head_dim": 19, "num_attention_heads": 3, "vocab_size": 101
            }),
            bf16,
        ),
        variant(
            "hidden_200_partial_blocks_everywhere_fp8_bf16_scales",
            json!({
                "hidden_size": 200, "intermediate_size": 300, "moe_intermediate_size": 136, "q_lora_rank": 264,
                "kv_lora_rank": 136, "num_experts_per_tok": 2
            }),
            Dtypes { scale: ScaleDtype::Bf16, router: Dtype::F32, norm: Dtype::F32, ..fp8 },
        ),
        variant(
            "seven_experts_ungrouped_top_1_no_shared",
            json!({
                "n_routed_experts": 7, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "n_shared_experts": 0,
                "rms_norm_eps": 0.01
            }),
            bf16,
        ),
        variant(
            "sixty_four_experts_in_eight_groups_top_8_fp8",
            json!({
                "n_routed_experts": 64, "n_group": 8, "topk_group": 3, "num_experts_per_tok": 8,
                "moe_intermediate_size": 24
            }),
            fp8,
        ),
        variant(
            "two_groups_top_6_three_shared",
            json!({
                "n_group": 2, "topk_group": 1, "num_experts_per_tok": 6, "n_shared_experts": 3, "norm_topk_prob": false,
                "routed_scaling_factor": 0.7
            }),
            Dtypes::all(Dtype::F16),
        ),
        variant(
            "v2_without_q_rank_softmax_greedy",
            v3(json!({
                "model_type": "deepseek_v2", "q_lora_rank": null, "scoring_func": "softmax", "topk_method": "greedy",
                "norm_topk_prob": false, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 6, "n_shared_experts": 2,
                "routed_scaling_factor": 1.7, "rope_scaling": yarn(40.0, 0.707, 0.5)
            })),
            bf16,
        ),
        variant(
            "v2_grouped_every_second_layer_moe",
            v3(json!({
                "model_type": "deepseek_v2", "q_lora_rank": 40, "scoring_func": "softmax",
                "topk_method": "group_limited_greedy", "norm_topk_prob": true, "num_hidden_layers": 4,
                "moe_layer_freq": 2, "num_experts_per_tok": 3, "routed_scaling_factor": 16.0
            })),
            Dtypes::all(Dtype::F32),
        ),
        Variant {
            model: Synthetic::new(
                v3(json!({ "model_type": "deepseek_v3", "tie_word_embeddings": true, "rope_scaling": null })),
                bf16,
            )
            .shards(1),
            ..variant("v3_tied_in_one_file_without_yarn", json!({}), bf16)
        },
        variant(
            "kimi_k2_all_layers_moe_with_mtp",
            v3(json!({
                "model_type": "kimi_k2", "num_attention_heads": 8, "n_routed_experts": 24, "n_group": 1, "topk_group": 1,
                "num_experts_per_tok": 8, "first_k_dense_replace": 0, "num_hidden_layers": 2, "rope_theta": 50000.0,
                "routed_scaling_factor": 2.827, "rope_scaling": yarn(32.0, 1.0, 1.0), "num_nextn_predict_layers": 1,
                "rms_norm_eps": 1e-5
            })),
            fp8,
        ),
        variant(
            "glm_layers_that_share_a_selection_fp8_e8m0_scales",
            json!({
                "model_type": "glm_moe_dsa", "num_hidden_layers": 4, "index_topk_pattern": "FSFS", "n_group": 1,
                "topk_group": 1, "num_nextn_predict_layers": 1, "index_topk": 7, "rope_scaling": null,
                "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 }, "rope_theta": null
            }),
            Dtypes { scale: ScaleDtype::F8E8m0, scale_place: ScalePlace::NextShard, ..fp8 },
        ),
        variant(
            "indexer_rope_interleaved_f32",
            json!({ "indexer_rope_interleave": true, "index_n_heads": 3 }),
            Dtypes::all(Dtype::F32),
        ),
        variant(
            "all_layers_dense_f16",
            json!({ "first_k_dense_replace": 3, "moe_intermediate_size": null, "index_topk": 5 }),
            Dtypes::all(Dtype::F16),
        ),
        variant(
            "no_layer_dense_fp8_head_e8m0_scales",
            json!({
                "first_k_dense_replace": 0, "intermediate_size": null, "num_hidden_layers": 2, "q_lora_rank": 200,
                "num_attention_heads": 5, "vocab_size": 333
            }),
            Dtypes { scale: ScaleDtype::F8E8m0, head: Dtype::F8E4m3, ..fp8 },
        ),
    ];
    all.into_iter().map(|v| if v.name.contains("top_33") { Variant { tokens: 40, ..v } } else { v }).collect()
}

/// Bytes that a [`Narrow`] device binds at once.
const BINDING: u64 = 200_000;

/// On a device that binds [`BINDING`] bytes: 2 experts at once, 128 rows of the head, one dense matrix. Real
/// models are split so on every device.
fn split() -> Variant {
    let changes = json!({
        "hidden_size": 256, "intermediate_size": 700, "moe_intermediate_size": 120, "vocab_size": 521,
        "n_shared_experts": 2
    });
    Variant {
        name: "split",
        model: Synthetic::new(changes, Dtypes { head: Dtype::F32, ..Dtypes::fp8() }),
        tokens: 24,
    }
}

/// A variant's checkpoint, a prompt that leaves no choice to rounding, and what the equations make of it.
struct Prepared {
    _directory: tempfile::TempDir,
    checkpoint: Checkpoint,
    ids: Vec<u32>,
    expected: Forward,
    logits: Vec<f32>,
}

fn prepare(variant: &Variant) -> Result<Prepared, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    variant.model.write(directory.path());
    let checkpoint =
        Checkpoint::open(directory.path(), Options::default()).map_err(|error| error.to_string())?;
    let config = checkpoint.config();
    let reference = Reference::new(&checkpoint);
    for seed in 0..64 {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let ids: Vec<u32> = (0..variant.tokens).map(|_| generator.next_u32() % config.vocab_size).collect();
        let expected = reference.forward(&ids);
        let index_topk = config.indexer.as_ref().map_or(u32::MAX, |indexer| indexer.index_topk);
        if expected.smallest_expert_margin() < EXPERT_MARGIN
            || expected.smallest_index_margin(index_topk) < INDEX_MARGIN
        {
            continue;
        }
        let logits: Vec<f32> = expected.logits.iter().map(|v| *v as f32).collect();
        let spread = porism_tests::reference::deviation(&expected.logits);
        if !(1.0..30.0).contains(&spread) {
            return Err(format!("logits spread by {spread}"));
        }
        return Ok(Prepared { _directory: directory, checkpoint, ids, expected, logits });
    }
    Err("64 prompts, each with a choice that f32 cannot make".into())
}

type Once = Arc<OnceLock<Result<Prepared, String>>>;

/// Worst relative L2 and largest absolute difference by device, with the variant.
static WORST: Mutex<BTreeMap<String, [(f64, String); 2]>> = Mutex::new(BTreeMap::new());

#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn main() {
    let arguments = Arguments::from_args();
    let adapters = every_adapter();
    let mut devices = vec![("host".to_owned(), vec![DeviceId::Host])];
    devices.extend(adapters.iter().map(|adapter| (short_name(adapter), vec![adapter.index])));
    // Three homes, so that h, and a selection that layers share, travels.
    let mut rig: Vec<DeviceId> = adapters.iter().map(|adapter| adapter.index).cycle().take(3).collect();
    rig[1] = adapters[adapters.len() - 1].index;
    devices.push(("rig".to_owned(), rig));
    let mut trials = vec![Trial::test("attention_bias_true_is_refused", attention_bias_is_refused)];
    for variant in variants() {
        let (name, variant) = (variant.name, Arc::new(variant));
        let prepared: Once = Arc::default();
        for (device_name, device) in &devices {
            let (variant, prepared, device, device_name) =
                (variant.clone(), prepared.clone(), device.clone(), device_name.clone());
            trials.push(Trial::test(format!("{name}::{device_name}"), move || {
                let prepared = prepared.get_or_init(|| prepare(&variant)).as_ref()?;
                parity(name, prepared, &device, &device_name, None)
            }));
        }
    }
    let prepared: Once = Arc::default();
    for (device_name, device) in devices {
        let prepared = prepared.clone();
        let name = "matrices_and_experts_split_over_bindings";
        trials.push(Trial::test(format!("{name}::{device_name}"), move || {
            let prepared = prepared.get_or_init(|| prepare(&split())).as_ref()?;
            parity(name, prepared, &device, &device_name, Some(BINDING))
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (device, [(relative, by), (largest, by_largest)]) in
        WORST.lock().expect("no test panics holding it").iter()
    {
        eprintln!("{device}: worst relative L2 {relative:.2e} ({by}), max abs {largest:.2e} ({by_largest})");
    }
    conclusion.exit();
}

fn parity(
    name: &str,
    prepared: &Prepared,
    devices: &[DeviceId],
    device_name: &str,
    binding: Option<u64>,
) -> Result<(), Failed> {
    let Prepared { checkpoint, ids, expected, logits, .. } = prepared;
    let options = EngineOptions::new(ids.len());
    let mut open = Vec::new();
    for device in devices {
        let watch = Watch { binding, ..Watch::default() };
        open.push(watched(OpenDevice::open((*device).into())?, &watch));
    }
    let mut engine = Engine::on(open, checkpoint, &options, &mut |_| Ok(()))?;
    if devices.len() > 1 {
        let is_home = |device: &&DevicePlan| device.embedding || device.head || !device.layers.is_empty();
        let homes = engine.plan().devices.iter().filter(is_home).count();
        if homes < 2 {
            return Err("all is on one device: the rig shows nothing".into());
        }
    }
    let hidden_states: Vec<f32> = expected.hidden_states.iter().map(|v| *v as f32).collect();
    for schedule in [Schedule::Prefill, Schedule::Chunks(7), Schedule::Steps] {
        let found = engine.logits(ids, schedule, true)?;
        let (relative, largest) = distance(&found.logits, logits);
        let trace = found.trace.ok_or("no trace")?;
        let (hidden, _) = distance(&trace.hidden_states, &hidden_states);
        let figures = format!(
            "{schedule:?}: relative L2 {relative:.2e}, max abs {largest:.2e}, hidden states {hidden:.2e}"
        );
        if trace.expert_ids != expected.expert_ids {
            return Err(format!("{figures}: other experts").into());
        }
        if trace.dsa_indices != expected.dsa_indices {
            return Err(format!("{figures}: other positions selected").into());
        }
        if relative > RELATIVE_L2 || largest > MAX_ABS {
            return Err(figures.into());
        }
        let mut worst = WORST.lock().expect("no test panics holding it");
        let of_device = worst.entry(device_name.to_owned()).or_default();
        for (worst, value) in of_device.iter_mut().zip([relative, largest]) {
            if value > worst.0 {
                *worst = (value, name.to_owned());
            }
        }
    }
    Ok(())
}

fn attention_bias_is_refused() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let mut model = Synthetic::new(json!({}), Dtypes::bf16());
    model.write(directory.path());
    Checkpoint::open(directory.path(), Options::default()).map_err(|error| error.to_string())?;
    model.config["attention_bias"] = true.into();
    std::fs::write(directory.path().join("config.json"), model.config.to_string())?;
    match Checkpoint::open(directory.path(), Options::default()) {
        Err(error) if error.to_string().contains("attention_bias") => Ok(()),
        Err(error) => Err(format!("refused for another reason: {error}").into()),
        Ok(_) => Err("accepted".into()),
    }
}
