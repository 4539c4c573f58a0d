//! Golden parity: the logits, experts, selections and greedy tokens of the f64 reference, on the host and every adapter,
//! whatever the steps.

use libtest_mimic::{Arguments, Failed, Trial};
use porism_loader::{Checkpoint, Options};
use porism_runtime::engine::{Engine, EngineOptions, Output, Reduced, Schedule, Work};
use porism_runtime::gpu::DeviceIndex;
use porism_tests::golden::Golden;
use porism_tests::{distance, every_adapter, short_name};

const CHECKPOINTS: [&str; 3] = ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"];
/// Relative L2 distance of logits.
const RELATIVE_L2: f64 = 2e-5;
/// Largest absolute difference of a logit.
const MAX_ABS: f64 = 1e-3;

fn main() {
    let arguments = Arguments::from_args();
    let mut devices = vec![("host".to_owned(), DeviceIndex::Host)];
    devices.extend(every_adapter().iter().map(|adapter| (short_name(adapter), adapter.index)));
    let mut trials = Vec::new();
    for name in CHECKPOINTS {
        for (device_name, device) in &devices {
            let device = *device;
            trials.push(Trial::test(format!("parity::{name}::{device_name}"), move || parity(name, device)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs this by hand")]
fn parity(name: &str, device: DeviceIndex) -> Result<(), Failed> {
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
