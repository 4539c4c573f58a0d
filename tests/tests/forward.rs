//! Golden parity: the logits, experts, selections and greedy tokens of the f64 reference, on the host and every adapter,
//! whatever the steps.

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Options};
use porism_runtime::engine::{Engine, Output, Reduced, Schedule, Work};
use porism_runtime::{DeviceId, EngineOptions};
use porism_tests::golden::Golden;
use porism_tests::{distance, every_adapter, run_as_gpu, shaped_as, short_name};

const CHECKPOINTS: [&str; 3] = ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"];
/// Relative L2 distance of logits.
const RELATIVE_L2: f64 = 2e-5;
/// Largest absolute difference of a logit.
const MAX_ABS: f64 = 1e-3;
/// Documents in the golden file of the demo model.
const DEMO_DOCUMENTS: usize = 3;

fn main() {
    let arguments = Arguments::from_args();
    let adapters = every_adapter();
    let mut devices = vec![("host".to_owned(), DeviceId::Host)];
    devices.extend(adapters.iter().map(|adapter| (short_name(adapter), adapter.index)));
    let mut trials = Vec::new();
    for name in CHECKPOINTS {
        for (device_name, device) in &devices {
            let device = *device;
            let title = format!("parity::{name}::{device_name}");
            trials.push(Trial::test(title, move || parity(name, device)));
        }
        // What a GPU would get, where a driver on the CPU is not too slow at it: with four lanes to a subgroup it takes minutes.
        let eights = adapters.iter().filter(|adapter| adapter.limits.min_subgroup_size >= 8);
        for adapter in eights.filter(|_| shaped_as().is_none()) {
            let title = format!("parity::{name}::{}", short_name(adapter));
            trials.push(Trial::test(format!("{title}::as-gpu"), move || run_as_gpu(&title)));
        }
    }
    for (device_name, device) in devices {
        trials.push(Trial::test(format!("demo::{device_name}"), move || demo(device)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// The demo model's held-out documents, three to six times longer than its `index_topk`.
#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn demo(device: DeviceId) -> Result<(), Failed> {
    let golden = Golden::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/porism-tiny"));
    let checkpoint = Checkpoint::open(&golden.directory, Options::default()).map_err(|e| e.to_string())?;
    let vocab_size = checkpoint.config().vocab_size as usize;
    let mut engine = Engine::open(&checkpoint, &[device.into()], &EngineOptions::new(512), &mut |_| Ok(()))?;
    for document in 0..DEMO_DOCUMENTS {
        let ids = golden.ids(&format!("input_ids_{document}"));
        let expected = golden.f32(&format!("logits_{document}"));
        let found = engine.logits(&ids, Schedule::Prefill, false)?.logits;
        let (relative, largest) = distance(&found, &expected);
        let figures = format!("document {document}: relative L2 {relative:.2e}, max abs {largest:.2e}");
        eprintln!("porism-tiny on {}: {figures}", engine.device_names());
        if largest > MAX_ABS {
            return Err(figures.into());
        }
        let rows = found.chunks_exact(vocab_size).zip(expected.chunks_exact(vocab_size));
        if let Some(position) =
            rows.into_iter().position(|(found, expected)| argmax(found) != argmax(expected))
        {
            return Err(format!("{figures}: another argmax at position {position}").into());
        }
    }
    Ok(())
}

fn argmax(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn parity(name: &str, device: DeviceId) -> Result<(), Failed> {
    let golden = Golden::open(name);
    let checkpoint = Checkpoint::open(&golden.directory, Options::default()).map_err(|e| e.to_string())?;
    let ids = golden.ids("input_ids");
    let mut engine = Engine::open(&checkpoint, &[device.into()], &EngineOptions::new(160), &mut |_| Ok(()))?;
    let expected = golden.f32("logits");
    for schedule in [Schedule::Prefill, Schedule::Chunks(32), Schedule::Chunks(7), Schedule::Steps] {
        let found = engine.logits(&ids, schedule, true)?;
        let (relative, largest) = distance(&found.logits, &expected);
        let figures = format!("{schedule:?}: relative L2 {relative:.2e}, max abs {largest:.2e}");
        eprintln!("{name} on {}: {figures}", engine.device_names());
        let trace = found.trace.ok_or("no trace")?;
        let (hidden, _) = distance(&trace.hidden_states, &golden.f32("hidden_states"));
        if trace.expert_ids != golden.i32("expert_ids") {
            return Err(format!("{figures}: other experts; hidden states differ by {hidden:.2e}").into());
        }
        if golden.has("dsa_indices") && trace.dsa_indices != golden.i32("dsa_indices") {
            return Err(
                format!("{figures}: other positions selected; hidden states differ by {hidden:.2e}").into()
            );
        }
        if relative > RELATIVE_L2 || largest > MAX_ABS {
            return Err(format!("{figures}; hidden states differ by {hidden:.2e}").into());
        }
    }
    let greedy = greedy(&mut engine, &ids, 32)?;
    if greedy != golden.ids("greedy_ids") {
        return Err(format!("greedy tokens {greedy:?}, expected {:?}", golden.ids("greedy_ids")).into());
    }
    Ok(())
}

fn greedy(engine: &mut Engine<'_>, ids: &[u32], count: usize) -> Result<Vec<u32>, Failed> {
    let sequence = engine.open_sequence().ok_or("no sequence")?;
    let mut next = ids.to_vec();
    let mut out = Vec::new();
    while out.len() < count {
        let Reduced::Tokens(tokens) = engine.step(&[Work { sequence, tokens: &next }], Output::Argmax)?
        else {
            return Err("no token".into());
        };
        out.push(tokens[0]);
        next = tokens;
    }
    engine.close_sequence(sequence);
    Ok(out)
}
