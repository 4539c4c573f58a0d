//! Contexts beyond index_topk = 2048: what the indexer leaves out decides the logits, on the host and every adapter.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Options};
use porism_runtime::engine::{Engine, Logits, Output, Schedule, Work};
use porism_runtime::{DeviceId, EngineOptions};
use porism_tests::reference::{Forward, Imposed, Reference, selection_shortfall};
use porism_tests::synthetic::{Dtypes, Synthetic};
use porism_tests::{distance, every_adapter, short_name};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const TOKENS: usize = 2600;
const INDEX_TOPK: usize = 2048;
/// Relative L2 distance of logits.
const RELATIVE_L2: f64 = 2e-5;
/// Largest absolute difference of a logit.
const MAX_ABS: f64 = 1e-3;
/// Scores closer than this, in standard deviations of their row, may change places.
const NEAR_TIE: f64 = 1e-4;
/// The same for experts' scores, which are at most 1.
const NEAR_EXPERT_TIE: f64 = 2e-5;
/// Last tokens that are decoded one by one as well.
const DECODED: usize = 6;

/// A model of two layers, a prompt of 2,600 tokens, and what the equations and the host make of it.
struct Prepared {
    _directory: tempfile::TempDir,
    checkpoint: Checkpoint,
    ids: Vec<u32>,
    expected: Forward,
    host: Logits,
}

fn prepare() -> Result<Prepared, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let changes = json!({
        "num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 64, "moe_intermediate_size": 24,
        "num_attention_heads": 2, "q_lora_rank": 40, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "index_n_heads": 8, "index_head_dim": 24, "index_topk": INDEX_TOPK, "vocab_size": 64
    });
    Synthetic::new(changes, Dtypes::fp8()).write(directory.path());
    let checkpoint =
        Checkpoint::open(directory.path(), Options::default()).map_err(|error| error.to_string())?;
    let mut generator = ChaCha8Rng::seed_from_u64(2048);
    let ids: Vec<u32> = (0..TOKENS).map(|_| generator.next_u32() % 64).collect();
    let expected = Reference::new(&checkpoint).forward(&ids);
    let mut engine =
        Engine::open(&checkpoint, &[DeviceId::Host.into()], &EngineOptions::new(TOKENS), &mut |_| Ok(()))
            .map_err(|error| error.to_string())?;
    let host = engine.logits(&ids, Schedule::Prefill, true).map_err(|error| error.to_string())?;
    drop(engine);
    Ok(Prepared { _directory: directory, checkpoint, ids, expected, host })
}

fn main() {
    let arguments = Arguments::from_args();
    let mut devices = vec![("host".to_owned(), DeviceId::Host)];
    devices.extend(every_adapter().iter().map(|adapter| (short_name(adapter), adapter.index)));
    let prepared: Arc<OnceLock<Result<Prepared, String>>> = Arc::default();
    let mut trials = Vec::new();
    for (name, device) in devices {
        let prepared = prepared.clone();
        trials.push(Trial::test(format!("contexts_beyond_index_topk::{name}"), move || {
            contexts_beyond_index_topk(prepared.get_or_init(prepare).as_ref()?, device, &name)
        }));
    }
    let prepared = prepared.clone();
    trials.push(Trial::test("the_selection_decides_the_logits", move || {
        the_selection_decides_the_logits(prepared.get_or_init(prepare).as_ref()?)
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn contexts_beyond_index_topk(prepared: &Prepared, device: DeviceId, name: &str) -> Result<(), Failed> {
    let Prepared { checkpoint, ids, expected, host, .. } = prepared;
    let mut engine =
        Engine::open(checkpoint, &[device.into()], &EngineOptions::new(TOKENS), &mut |_| Ok(()))?;
    let started = Instant::now();
    let found = engine.logits(ids, Schedule::Prefill, true)?;
    let seconds = started.elapsed().as_secs_f64();
    let trace = found.trace.as_ref().ok_or("no trace")?;
    let host_trace = host.trace.as_ref().ok_or("no trace")?;

    // Rows that selected other positions than the equations do, and what the equations say of that.
    let differing =
        |a: &[i32], b: &[i32]| a.chunks(INDEX_TOPK).zip(b.chunks(INDEX_TOPK)).filter(|(a, b)| a != b).count();
    let other_rows = differing(&trace.dsa_indices, &expected.dsa_indices);
    let imposed;
    let followed = if other_rows == 0 && trace.expert_ids == expected.expert_ids {
        expected
    } else {
        let choices = Imposed { expert_ids: Some(&trace.expert_ids), dsa_indices: Some(&trace.dsa_indices) };
        imposed = Reference::new(checkpoint).forward_with(ids, choices);
        &imposed
    };
    if followed.overruled_expert_margin > NEAR_EXPERT_TIE {
        return Err(format!("other experts, by {:.1e}", followed.overruled_expert_margin).into());
    }
    let mut shortfall = 0.0f64;
    for (row, (scores, selected)) in
        followed.index_scores.iter().zip(trace.dsa_indices.chunks(INDEX_TOPK)).enumerate()
    {
        let short = selection_shortfall(scores, INDEX_TOPK, selected);
        if short > NEAR_TIE {
            let (layer, token) = (row / TOKENS, row % TOKENS);
            let lost = format!("a position {short:.1e} standard deviations better was left out");
            return Err(format!("layer {layer}, token {token}: {lost}").into());
        }
        shortfall = shortfall.max(short);
    }
    let logits: Vec<f32> = followed.logits.iter().map(|v| *v as f32).collect();
    let (relative, largest) = distance(&found.logits, &logits);
    let figures = format!(
        "{name}: relative L2 {relative:.2e}, max abs {largest:.2e}, {other_rows} of {} rows selected otherwise, by at \
         most {shortfall:.1e} standard deviations; {seconds:.1} s",
        2 * TOKENS
    );
    eprintln!("{figures}");
    if relative > RELATIVE_L2 || largest > MAX_ABS {
        return Err(figures.into());
    }
    let same_as_host =
        trace.dsa_indices == host_trace.dsa_indices && trace.expert_ids == host_trace.expert_ids;
    if same_as_host {
        let (relative, largest) = distance(&found.logits, &host.logits);
        if relative > RELATIVE_L2 || largest > MAX_ABS {
            return Err(format!("{figures}; to the host {relative:.2e} and {largest:.2e}").into());
        }
    }
    decode_gives_the_same_bits(&mut engine, ids, &found.logits)
}

/// The last tokens one by one, after a prompt longer than index_topk.
fn decode_gives_the_same_bits(engine: &mut Engine<'_>, ids: &[u32], logits: &[f32]) -> Result<(), Failed> {
    let vocab_size = engine.config().vocab_size as usize;
    let sequence = engine.open_sequence().ok_or("no sequence")?;
    let (prompt, last) = ids.split_at(ids.len() - DECODED);
    let chunk = engine.chunk();
    for tokens in prompt.chunks(chunk) {
        engine.step(&[Work { sequence, tokens }], Output::Nothing)?;
    }
    for (offset, token) in last.iter().enumerate() {
        engine.step(&[Work { sequence, tokens: &[*token] }], Output::Argmax)?;
        let row = engine.read_logits(0)?;
        let position = prompt.len() + offset;
        let expected = &logits[position * vocab_size..][..vocab_size];
        if row.iter().zip(expected).any(|(a, b)| a.to_bits() != b.to_bits()) {
            let (relative, _) = distance(&row, expected);
            return Err(
                format!("token {position} decoded alone differs from prefill by {relative:.1e}").into()
            );
        }
    }
    engine.close_sequence(sequence);
    Ok(())
}

/// What the comparison is worth: with the wrong fifth of the positions left out, the logits are far off.
#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn the_selection_decides_the_logits(prepared: &Prepared) -> Result<(), Failed> {
    let Prepared { checkpoint, ids, expected, .. } = prepared;
    let recent = (0..2 * TOKENS).flat_map(|row| {
        let first = (row % TOKENS + 1).saturating_sub(INDEX_TOPK);
        (first..first + INDEX_TOPK).map(move |s| if s <= row % TOKENS { s as i32 } else { -1 })
    });
    let recent: Vec<i32> = recent.collect();
    let choices = Imposed { expert_ids: Some(&expected.expert_ids), dsa_indices: Some(&recent) };
    let wrong = Reference::new(checkpoint).forward_with(ids, choices);
    let beyond = INDEX_TOPK * 64..;
    let as_f32 = |logits: &[f64]| logits[beyond.clone()].iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let (relative, _) = distance(&as_f32(&wrong.logits), &as_f32(&expected.logits));
    eprintln!("the most recent 2048 positions instead: relative L2 {relative:.1e}");
    if relative < 100.0 * RELATIVE_L2 {
        return Err(
            format!("relative L2 {relative:.1e} with other positions: the test could not tell").into()
        );
    }
    Ok(())
}
