//! What goes wrong while a model is opened or running ends in an error that names it; nothing panics, nothing hangs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use porism_loader::{Checkpoint, LayerRole, Options, Projection, Role};
use porism_runtime::device::{Class, OpenDevice};
use porism_runtime::engine::Engine;
use porism_runtime::generate::{Request, generate};
use porism_runtime::gpu::{GpuExecutor, open};
use porism_runtime::options::Spread;
use porism_runtime::sample::SamplingParams;
use porism_runtime::weights::LoadProgress;
use porism_runtime::{DeviceId, DeviceSpec, EngineOptions, Error, Schedule};
use porism_tests::every_adapter;
use porism_tests::golden::folder;
use porism_tests::slots;
use porism_tests::watched::{Watch, watched};

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&folder().join("v32-tiny-fp8"), Options::default()).expect("a golden checkpoint opens")
}

fn engine<'c>(
    checkpoint: &'c Checkpoint,
    device: DeviceId,
    options: &EngineOptions,
) -> Result<Engine<'c>, Error> {
    Engine::open(checkpoint, &[device.into()], options, &mut |_| Ok(()))
}

fn greedy(max_tokens: usize) -> Request {
    Request { max_tokens, sampling: SamplingParams::greedy(), seed: 1, stop_ids: vec![] }
}

#[test]
fn a_device_lost_in_mid_generation_is_an_error_and_the_tokens_so_far_are_kept() {
    let checkpoint = checkpoint();
    for adapter in every_adapter() {
        let DeviceId::Adapter(index) = adapter.index else { unreachable!("adapters have numbers") };
        let executor = GpuExecutor::new(open(index).expect("opens"));
        let lose = executor.loss_switch();
        let device = OpenDevice {
            spec: adapter.index.into(),
            name: adapter.name.clone(),
            executor: Box::new(executor),
            class: Class::Software,
        };
        let options = EngineOptions::new(64);
        let mut engine = Engine::on(vec![device], &checkpoint, &options, &mut |_| Ok(())).expect("opens");
        let mut kept = vec![];
        let result = generate(&mut engine, &[5, 6, 7], &greedy(20), &mut |token| {
            kept.push(token);
            if kept.len() == 3 {
                lose();
            }
            ControlFlow::Continue(())
        });
        let error = result.expect_err("the device is gone");
        assert!(matches!(error, Error::DeviceLost { .. }), "{}: {error}", adapter.name);
        assert!(error.to_string().contains(&adapter.name), "{error}");
        assert_eq!(kept.len(), 3, "{}", adapter.name);
    }
}

#[test]
fn memory_that_runs_out_in_a_step_fails_that_step_only() {
    let checkpoint = checkpoint();
    let adapters = every_adapter();
    let (first, last) = (adapters[0].index, adapters[adapters.len() - 1].index);
    let watch = Watch::default();
    let left = &watch.submits_left;
    let mut devices = Vec::new();
    for (index, budget) in [(first, None), (last, None), (first, Some(9 << 20))] {
        let device = OpenDevice::open(DeviceSpec { index, budget }).expect("opens");
        devices.push(watched(device, &watch));
    }
    // Divided experts: many submits in a step.
    let options = EngineOptions { spread: Spread::All, ..EngineOptions::new(64) };
    let mut engine = Engine::on(devices, &checkpoint, &options, &mut |_| Ok(())).expect("opens");
    let tokens = |engine: &mut Engine<'_>| {
        let mut kept = vec![];
        let result = generate(engine, &[5, 6, 7], &greedy(4), &mut |token| {
            kept.push(token);
            ControlFlow::Continue(())
        });
        (kept, result)
    };
    let (expected, _) = tokens(&mut engine);
    assert_eq!(expected.len(), 4);
    // Some submits of the prompt, of the first layers, and of the last step.
    for submits in [0, 1, 2, 5, 11, 17, 23] {
        *left.lock().expect("nobody panicked") = Some(submits);
        let (kept, result) = tokens(&mut engine);
        assert_eq!(*left.lock().expect("nobody panicked"), None, "after {submits}: nothing failed");
        let error = result.expect_err("no memory");
        assert!(matches!(error, Error::OutOfMemory { .. }), "after {submits}: {error}");
        assert_eq!(kept, expected[..kept.len()], "after {submits}");
        assert_eq!(tokens(&mut engine).0, expected, "afterwards");
    }
}

#[test]
fn a_device_of_several_that_is_lost_is_named_and_nothing_hangs() {
    let checkpoint = checkpoint();
    let adapters = every_adapter();
    for which in 0..3 {
        let mut devices = Vec::new();
        let mut lose: Option<Box<dyn Fn()>> = None;
        for (number, adapter) in adapters.iter().cycle().take(3).enumerate() {
            let DeviceId::Adapter(index) = adapter.index else { unreachable!("adapters have numbers") };
            let executor = GpuExecutor::new(open(index).expect("opens"));
            if number == which {
                lose = Some(Box::new(executor.loss_switch()));
            }
            devices.push(OpenDevice {
                spec: adapter.index.into(),
                name: format!("device number {number}"),
                executor: Box::new(executor),
                class: Class::Software,
            });
        }
        let lose = lose.expect("one of the three");
        let mut engine =
            Engine::on(devices, &checkpoint, &EngineOptions::new(64), &mut |_| Ok(())).expect("opens");
        let mut kept = 0;
        for _ in 0..2 {
            let result = generate(&mut engine, &[5, 6, 7], &greedy(20), &mut |_| {
                kept += 1;
                if kept == 3 {
                    lose();
                }
                ControlFlow::Continue(())
            });
            let error = result.expect_err("the device is gone");
            assert!(matches!(error, Error::DeviceLost { .. }), "{which}: {error}");
            assert_eq!(kept, 3, "{which}");
        }
    }
}

/// A copy of a golden checkpoint that may be damaged, and one of its shards.
fn copy_of(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut shard = None;
    for entry in std::fs::read_dir(folder().join(name)).expect("golden") {
        let entry = entry.expect("entry");
        let to = directory.path().join(entry.file_name());
        std::fs::copy(entry.path(), &to).expect("copied");
        if to.to_string_lossy().contains("model-00001") {
            shard = Some(to);
        }
    }
    (directory, shard.expect("the checkpoint has shards"))
}

#[test]
fn a_shard_that_changes_after_it_was_opened_is_an_error_that_names_it() {
    for host in [true, false] {
        let (directory, shard) = copy_of("v32-tiny-fp8");
        let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
        let device = if host { DeviceId::Host } else { DeviceId::Adapter(0) };
        let mut running = engine(&checkpoint, device, &EngineOptions::new(64)).expect("opens");
        let run = |engine: &mut Engine<'_>| {
            generate(engine, &[5, 6, 7], &greedy(4), &mut |_| ControlFlow::Continue(()))
                .map(|all| all.token_ids)
        };
        let before = run(&mut running).expect("runs");
        let file = std::fs::OpenOptions::new().write(true).open(&shard).expect("opens");
        let length = file.metadata().expect("is there").len();
        file.set_len(length - 4096).expect("shrinks");
        let found = run(&mut running);
        let changed = |error: Error| {
            let text = error.to_string();
            assert!(matches!(error, Error::Loader(porism_loader::Error::Changed { .. })), "{text}");
            assert!(text.contains(&*shard.to_string_lossy()) && text.contains(&length.to_string()), "{text}");
        };
        if host {
            // The host computes from the file.
            changed(found.expect_err("the shard is another"));
        } else {
            // An adapter has its copy, but a new one cannot be made.
            assert_eq!(found.expect("has all it needs"), before);
            changed(engine(&checkpoint, device, &EngineOptions::new(64)).err().expect("refused"));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_shard_that_becomes_shorter_while_it_is_computed_with_fails_that_step_and_names_it() {
    let (directory, shard) = copy_of("v32-tiny-fp8");
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
    let submits = Arc::new(AtomicU32::new(0));
    let cut = {
        let (shard, submits) = (shard.clone(), submits.clone());
        move || {
            if submits.fetch_add(1, Ordering::Relaxed) == 3 {
                let file = std::fs::OpenOptions::new().write(true).open(&shard).expect("opens");
                file.set_len(4096).expect("shrinks");
            }
        }
    };
    let watch = Watch { before_submit: Some(Arc::new(cut)), ..Watch::default() };
    let device = watched(OpenDevice::open(DeviceId::Host.into()).expect("opens"), &watch);
    let options = EngineOptions::new(64);
    let mut engine = Engine::on(vec![device], &checkpoint, &options, &mut |_| Ok(())).expect("opens");
    let (ids, end) = tokens(&mut engine, 9);
    let error = end.expect_err("bytes of the model are gone");
    assert!(matches!(error, Error::Loader(porism_loader::Error::Changed { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains(&*shard.to_string_lossy()) && text.contains("found 4096 bytes"), "{text}");
    // The tokens before are kept, and no step is taken any more.
    assert_eq!(ids.len(), 3, "of {} submits", submits.load(Ordering::Relaxed));
    assert!(tokens(&mut engine, 1).1.is_err());
}

#[test]
fn a_shard_that_vanishes_before_it_is_streamed_is_named() {
    let (directory, shard) = copy_of("v3-tiny-bf16");
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
    std::fs::remove_file(&shard).expect("removed");
    let error = engine(&checkpoint, DeviceId::Adapter(0), &EngineOptions::new(64)).err().expect("refused");
    assert!(matches!(error, Error::Loader(porism_loader::Error::Vanished { .. })), "{error}");
    assert!(error.to_string().contains(&*shard.to_string_lossy()), "{error}");
}

/// Greedy tokens, and how it ended.
fn tokens(engine: &mut Engine<'_>, count: usize) -> (Vec<u32>, Result<(), Error>) {
    let mut kept = vec![];
    let result = generate(engine, &[5, 6, 7], &greedy(count), &mut |token| {
        kept.push(token);
        ControlFlow::Continue(())
    });
    (kept, result.map(|_| ()))
}

/// An adapter with so few slots that experts leave at every step.
fn with_few_slots<'c>(checkpoint: &'c Checkpoint, device: DeviceId, watch: &Watch) -> Engine<'c> {
    let options = EngineOptions::new(64);
    let spec = DeviceSpec { index: device, budget: Some(slots::least_budget(checkpoint, &options)) };
    let device = watched(OpenDevice::open(spec).expect("opens"), watch);
    let engine = Engine::on(vec![device], checkpoint, &options, &mut |_| Ok(())).expect("opens");
    assert!(engine.plan().devices[0].slots > 0, "{:?}", engine.plan().devices);
    engine
}

/// Experts brought so far.
fn brought(engine: &Engine<'_>) -> u64 {
    engine.pools().map(|(_, facts)| facts.misses).sum()
}

#[test]
fn with_few_slots_a_shard_that_changes_fails_the_next_step_and_one_that_is_deleted_does_not() {
    for adapter in every_adapter() {
        let (directory, shard) = copy_of("v32-tiny-fp8");
        let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
        let mut engine = with_few_slots(&checkpoint, adapter.index, &Watch::default());
        let (expected, result) = tokens(&mut engine, 6);
        result.expect("runs");
        assert!(brought(&engine) >= 6, "{}: experts leave at every step", adapter.name);

        // In the middle of generating: what was generated is kept.
        let modified = shard.metadata().and_then(|found| found.modified()).expect("is there");
        let touch = |by: u64| {
            let file = std::fs::OpenOptions::new().write(true).open(&shard).expect("opens");
            file.set_modified(modified + std::time::Duration::from_secs(by)).expect("is changed");
        };
        let mut kept = vec![];
        let result = generate(&mut engine, &[5, 6, 7], &greedy(6), &mut |token| {
            kept.push(token);
            if kept.len() == 2 {
                touch(3);
            }
            ControlFlow::Continue(())
        });
        let error = result.expect_err("the shard is another");
        assert!(matches!(error, Error::Loader(porism_loader::Error::Changed { .. })), "{error}");
        assert!(error.to_string().contains(&*shard.to_string_lossy()), "{error}");
        assert_eq!(kept, expected[..2], "{}", adapter.name);
        // For as long as it is another.
        assert!(tokens(&mut engine, 1).1.is_err());
        touch(0);
        assert_eq!(tokens(&mut engine, 6).0, expected, "{}", adapter.name);

        // What is deleted is still mapped. (Not on every system can a mapped file be deleted.)
        if cfg!(unix) {
            std::fs::remove_file(&shard).expect("removed");
            let before = brought(&engine);
            assert_eq!(tokens(&mut engine, 6).0, expected, "{}", adapter.name);
            assert!(brought(&engine) > before);
        }
    }
}

#[test]
fn with_few_slots_memory_that_runs_out_fails_that_step_only() {
    let checkpoint = checkpoint();
    for adapter in every_adapter() {
        let watch = Watch::default();
        let mut engine = with_few_slots(&checkpoint, adapter.index, &watch);
        let before = watch.writes.load(Ordering::Relaxed);
        let (expected, result) = tokens(&mut engine, 4);
        result.expect("runs");
        let writes = (watch.writes.load(Ordering::Relaxed) - before) as u32;
        assert!(writes >= 16, "{writes} writes for experts that are brought");
        // While an expert is brought, its first matrix or another, in the prompt's step or a later one; or while what is
        // recorded is handed over.
        let at_writes = [0, 1, 2, 3, 5, writes / 2, writes / 2 + 1, writes * 3 / 4];
        let at_submits = [0, 1, 2, 3, 4, 7, 11];
        let all = at_writes.map(|at| (&watch.writes_left, at)).into_iter();
        for (left, at) in all.chain(at_submits.map(|at| (&watch.submits_left, at))) {
            *left.lock().expect("nobody panicked") = Some(at);
            let (kept, result) = tokens(&mut engine, 4);
            assert_eq!(*left.lock().expect("nobody panicked"), None, "after {at}: nothing failed");
            let error = result.expect_err("no memory");
            assert!(matches!(error, Error::OutOfMemory { .. }), "after {at}: {error}");
            assert_eq!(kept, expected[..kept.len()], "{} after {at}", adapter.name);
            assert_eq!(tokens(&mut engine, 4).0, expected, "{} after {at}, afterwards", adapter.name);
        }
    }
}

#[test]
fn with_few_slots_a_device_that_is_lost_is_named_and_nothing_hangs() {
    let checkpoint = checkpoint();
    for adapter in every_adapter() {
        let DeviceId::Adapter(index) = adapter.index else { unreachable!("adapters have numbers") };
        let options = EngineOptions::new(64);
        let executor = GpuExecutor::new(open(index).expect("opens"));
        let lose = executor.loss_switch();
        let budget = Some(slots::least_budget(&checkpoint, &options));
        let device = OpenDevice {
            spec: DeviceSpec { index: adapter.index, budget },
            name: adapter.name.clone(),
            executor: Box::new(executor),
            class: Class::Software,
        };
        let mut engine = Engine::on(vec![device], &checkpoint, &options, &mut |_| Ok(())).expect("opens");
        assert!(engine.plan().devices[0].slots > 0);
        let mut kept = 0;
        for _ in 0..2 {
            let result = generate(&mut engine, &[5, 6, 7], &greedy(20), &mut |_| {
                kept += 1;
                if kept == 3 {
                    lose();
                }
                ControlFlow::Continue(())
            });
            let error = result.expect_err("the device is gone");
            assert!(matches!(error, Error::DeviceLost { .. }), "{}: {error}", adapter.name);
            assert!(error.to_string().contains(&adapter.name), "{error}");
            assert_eq!(kept, 3, "{}", adapter.name);
        }
    }
}

#[test]
fn codes_that_are_not_numbers_are_refused_on_their_way_to_a_device() {
    let (directory, _) = copy_of("v32-tiny-fp8");
    let role = Role::layer(1, LayerRole::Expert { expert: 3, projection: Projection::Up });
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
    let place = checkpoint.location(role).expect("there");
    let shard = checkpoint.shards()[place.shard()].path().to_owned();
    drop(checkpoint);
    let mut bytes = std::fs::read(&shard).expect("read");
    bytes[place.range().start as usize + 1000] = 0xff;
    std::fs::write(&shard, bytes).expect("written");
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
    for device in [DeviceId::Host, DeviceId::Adapter(0)] {
        let error = engine(&checkpoint, device, &EngineOptions::new(64)).err().expect("refused");
        let text = error.to_string();
        assert!(matches!(error, Error::Loader(porism_loader::Error::NotANumber { .. })), "{text}");
        assert!(text.contains("experts.3.up_proj") && text.contains("0xff"), "{text}");
    }
    let checkpoint = Checkpoint::open(directory.path(), Options { allow_nan: true }).expect("opens");
    engine(&checkpoint, DeviceId::Adapter(0), &EngineOptions::new(64)).expect("let through");
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let checkpoint = checkpoint();
    let error = engine(&checkpoint, DeviceId::Adapter(99), &EngineOptions::new(64)).err().expect("refused");
    assert!(matches!(error, Error::NoSuchDevice { index: 99, .. }), "{error}");
}

#[test]
fn a_budget_that_is_too_small_is_refused_before_anything_is_loaded() {
    let checkpoint = checkpoint();
    for device in [DeviceId::Host, DeviceId::Adapter(0)] {
        let device = DeviceSpec { index: device, budget: Some(1 << 20) };
        let mut loaded = 0;
        let error =
            Engine::open(&checkpoint, &[device], &EngineOptions::new(64), &mut |progress: LoadProgress| {
                loaded = progress.done;
                Ok(())
            })
            .err()
            .expect("refused");
        assert!(matches!(error, Error::DoesNotFit { shortfall: 1.., .. }), "{error}");
        assert_eq!(loaded, 0);
    }
}

#[test]
fn a_budget_just_large_enough_suffices_and_shrinks_the_steps() {
    let checkpoint = checkpoint();
    let roomy = engine(&checkpoint, DeviceId::Host, &EngineOptions::new(512)).expect("opens");
    let planned = &roomy.plan().devices[0];
    let budget = planned.total() - planned.activations / 2;
    let device = DeviceSpec { index: DeviceId::Host, budget: Some(budget) };
    let options = EngineOptions::new(512);
    let tight = Engine::open(&checkpoint, &[device], &options, &mut |_| Ok(())).expect("opens");
    assert!(tight.plan().devices[0].total() <= budget && tight.chunk() < roomy.chunk(), "{:?}", tight.plan());
}

#[test]
fn a_context_beyond_the_model_is_refused() {
    let checkpoint = checkpoint();
    let error = engine(&checkpoint, DeviceId::Host, &EngineOptions::new(5000)).err().expect("refused");
    assert!(matches!(error, Error::ContextBeyondModel { asked: 5000, limit: 4096 }), "{error}");
}

#[test]
fn ids_out_of_range_empty_prompts_and_long_prompts_are_refused_and_the_engine_goes_on() {
    let checkpoint = checkpoint();
    let mut engine = engine(&checkpoint, DeviceId::Host, &EngineOptions::new(16)).expect("opens");
    let none = &mut |_| ControlFlow::Continue(());
    let error = generate(&mut engine, &[1, 512], &greedy(2), none).expect_err("out of range");
    assert!(matches!(error, Error::TokenOutOfRange { id: 512, position: 1, vocab_size: 512 }), "{error}");
    let error = generate(&mut engine, &[], &greedy(2), none).expect_err("empty");
    assert!(matches!(error, Error::EmptyPrompt), "{error}");
    let error = generate(&mut engine, &[1; 17], &greedy(2), none).expect_err("too long");
    assert!(matches!(error, Error::ContextTooLong { tokens: 17, context: 16 }), "{error}");
    let error = engine.logits(&[1; 17], Schedule::Prefill, false).expect_err("too long");
    assert!(matches!(error, Error::ContextTooLong { .. }), "{error}");
    let full = generate(&mut engine, &[1; 10], &greedy(100), none).expect("runs into the end of the context");
    assert_eq!(full.finish_reason.name(), "context_full");
    assert_eq!(full.token_ids.len(), 7);
}

#[test]
fn loading_stops_when_it_is_told_to() {
    let checkpoint = checkpoint();
    for device in [DeviceId::Host, DeviceId::Adapter(0)] {
        // The host has its weights at once, an adapter is told of in parts.
        let (mut done, mut total) = (0, 0);
        let result = Engine::open(&checkpoint, &[device.into()], &EngineOptions::new(64), &mut |progress| {
            (done, total) = (progress.done, progress.total);
            if done > 0 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(matches!(result.err(), Some(Error::Interrupted)));
        assert!(done > 0 && (done < total || device == DeviceId::Host), "{done} of {total}");
    }
}

#[test]
fn loading_stops_when_it_is_told_to_while_nothing_arrives() {
    let checkpoint = checkpoint();
    // A device that takes nothing until somebody has said that it is enough.
    let stalled = Arc::new((Mutex::new(false), Condvar::new()));
    let armed = Arc::new(AtomicBool::new(false));
    let (stall, is_armed) = (stalled.clone(), armed.clone());
    let before_write = move || {
        if !is_armed.load(Ordering::SeqCst) {
            return;
        }
        let mut enough = stall.0.lock().expect("nobody panicked");
        while !*enough {
            enough = stall.1.wait(enough).expect("nobody panicked");
        }
    };
    let watch = Watch { before_write: Some(Arc::new(before_write)), ..Watch::default() };
    let device = OpenDevice::open(DeviceId::Adapter(0).into()).expect("opens");
    let mut calls = 0;
    let options = EngineOptions::new(64);
    let result = Engine::on(vec![watched(device, &watch)], &checkpoint, &options, &mut |progress| {
        // The first call comes when the buffers are there.
        armed.store(true, Ordering::SeqCst);
        assert_eq!(progress.done, 0, "nothing can arrive");
        calls += 1;
        if calls < 4 {
            return Ok(());
        }
        *stalled.0.lock().expect("nobody panicked") = true;
        stalled.1.notify_all();
        Err(Error::Interrupted)
    });
    assert!(matches!(result.err(), Some(Error::Interrupted)));
    assert_eq!(calls, 4);
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    // NaN codes are let through on request; the host and the adapters must then say so, not choose a token.
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(folder().join("v3-tiny-bf16")).expect("golden") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("copied");
    }
    // The last bytes of each shard belong to some tensor of BF16: 0x7fc0 is NaN.
    for entry in std::fs::read_dir(directory.path()).expect("copies") {
        let path = entry.expect("entry").path();
        if path.to_string_lossy().contains("model-0") {
            let mut bytes = std::fs::read(&path).expect("read");
            let end = bytes.len();
            for pair in bytes[end - 4096..].chunks_exact_mut(2) {
                pair.copy_from_slice(&[0xc0, 0x7f]);
            }
            std::fs::write(&path, bytes).expect("written");
        }
    }
    let checkpoint = Checkpoint::open(directory.path(), Options { allow_nan: true }).expect("opens");
    let mut devices = vec![DeviceId::Host];
    devices.extend(every_adapter().iter().map(|adapter| adapter.index));
    for device in devices {
        let mut engine = engine(&checkpoint, device, &EngineOptions::new(64)).expect("opens");
        for sampling in [SamplingParams::greedy(), SamplingParams::default()] {
            let request = Request { sampling, ..greedy(3) };
            let ids: Vec<u32> = (0..40).collect();
            let error =
                generate(&mut engine, &ids, &request, &mut |_| ControlFlow::Continue(())).expect_err("NaN");
            assert!(matches!(error, Error::NotFinite { .. }), "{device:?}: {error}");
        }
    }
}

#[test]
fn weights_take_no_more_than_the_checkpoint_and_two_percent() {
    for name in ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"] {
        let checkpoint = Checkpoint::open(&folder().join(name), Options::default()).expect("opens");
        let engine = engine(&checkpoint, DeviceId::Adapter(0), &EngineOptions::new(64)).expect("opens");
        let ratio = engine.weight_bytes() as f64 / checkpoint.weight_bytes() as f64;
        assert!((0.98..=1.02).contains(&ratio), "{name}: {ratio:.4} × the checkpoint");
    }
}
