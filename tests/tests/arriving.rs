//! Tokens before the last expert is there: they are the same, and whatever goes wrong with what is on its way fails a step.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use porism_loader::{Checkpoint, Options};
use porism_runtime::device::OpenDevice;
use porism_runtime::engine::Engine;
use porism_runtime::generate::{Request, generate};
use porism_runtime::options::{Policy, Spread};
use porism_runtime::sample::SamplingParams;
use porism_runtime::{DeviceId, DeviceSpec, EngineOptions, Error, Schedule};
use porism_tests::golden::folder;
use porism_tests::watched::{Watch, watched};
use porism_tests::{every_adapter, slots};

const MODEL: &str = "v32-tiny-fp8";

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&folder().join(MODEL), Options::default()).expect("a golden checkpoint opens")
}

/// Devices, all watched by one watch, and how experts are spread over them.
struct Rig {
    name: &'static str,
    specs: Vec<DeviceSpec>,
    spread: Spread,
    policy: Policy,
}

fn rigs(checkpoint: &Checkpoint) -> Vec<Rig> {
    let adapters = every_adapter();
    let (first, last) = (adapters[0].index, adapters[adapters.len() - 1].index);
    let all: fn(DeviceId) -> DeviceSpec = Into::into;
    let few = slots::least_budget(checkpoint, &options(Spread::Best, Policy::default(), None));
    // Some experts of the plan have a slot at first, and they leave while they are on their way.
    let some = DeviceSpec { index: first, budget: Some(few + (700 << 10)) };
    let rig = |name, specs, spread, policy| Rig { name, specs, spread, policy };
    vec![
        rig("all on one", vec![all(first)], Spread::Best, Policy::Lfru),
        rig("divided", vec![all(first), all(last)], Spread::All, Policy::Lfru),
        rig("two homes", vec![all(last), all(first)], Spread::Home, Policy::Lfru),
        rig("with the host", vec![all(first), all(DeviceId::Host)], Spread::All, Policy::Lfru),
        rig("slots", vec![some], Spread::Best, Policy::Lru),
        rig("pinned", vec![some], Spread::Best, Policy::Pinned),
    ]
}

fn options(spread: Spread, policy: Policy, experts_later: Option<u64>) -> EngineOptions {
    EngineOptions { spread, policy, experts_later, ..EngineOptions::new(64) }
}

fn open<'c>(checkpoint: &'c Checkpoint, rig: &Rig, later: Option<u64>, watch: &Watch) -> Engine<'c> {
    let open = |spec: &DeviceSpec| watched(OpenDevice::open(*spec).expect("opens"), watch);
    let devices = rig.specs.iter().map(open).collect();
    let options = options(rig.spread, rig.policy, later);
    Engine::on(devices, checkpoint, &options, &mut |_| Ok(())).expect("opens")
}

/// Greedy tokens, and how it ended.
fn tokens(
    engine: &mut Engine<'_>,
    prompt: &[u32],
    count: usize,
    mut on_token: impl FnMut(u32),
) -> (Vec<u32>, Result<(), Error>) {
    let request =
        Request { max_tokens: count, sampling: SamplingParams::greedy(), seed: 1, stop_ids: vec![] };
    let mut kept = vec![];
    let result = generate(engine, prompt, &request, &mut |token| {
        kept.push(token);
        on_token(token);
        ControlFlow::Continue(())
    });
    (kept, result.map(|_| ()))
}

#[test]
fn the_first_token_comes_before_the_last_expert_and_every_bit_is_the_same() {
    let checkpoint = checkpoint();
    for rig in rigs(&checkpoint) {
        let watch = Watch::default();
        let mut whole = open(&checkpoint, &rig, None, &watch);
        assert_eq!(whole.bytes_to_come(), 0);
        let (expected, result) = tokens(&mut whole, &[5], 12, |_| {});
        result.expect("runs");
        let prompt: Vec<u32> = (40..64).collect();
        let logits = whole.logits(&prompt, Schedule::Chunks(9), false).expect("runs").logits;

        // Nothing is written but what a step waits for.
        let watch = Watch::default();
        let mut engine = open(&checkpoint, &rig, Some(0), &watch);
        let all = engine.bytes_to_come();
        assert!(all > 0, "{}: nothing is on its way", rig.name);
        let mut writes_at_first = None;
        let (found, result) = tokens(&mut engine, &[5], 1, |_| {
            writes_at_first.get_or_insert(watch.writes.load(Ordering::Relaxed));
        });
        result.expect("runs");
        assert_eq!(found, expected[..1], "{}", rig.name);
        let left = engine.bytes_to_come();
        assert!(left < all, "{}: {left} of {all} bytes to come after a token", rig.name);
        // The rest comes when it is asked for.
        while engine.receive_experts().expect("arrives") > 0 {}
        // Experts in slots may have had to leave, the others all come.
        if engine.plan().devices.iter().all(|device| device.slots == 0) {
            assert!(left > 0, "{}: all is there after a token", rig.name);
            assert!(writes_at_first < Some(watch.writes.load(Ordering::Relaxed)), "{}", rig.name);
        }
        assert_eq!(tokens(&mut engine, &[5], 12, |_| {}).0, expected, "{}", rig.name);

        // Whether experts come when they are picked, or in between too; of a prompt, or of a sequence that goes on.
        let mut engine = open(&checkpoint, &rig, Some(0), &Watch::default());
        let found = engine.logits(&prompt, Schedule::Chunks(9), false).expect("runs").logits;
        assert!(found == logits, "{}: other logits", rig.name);
        let mut engine = open(&checkpoint, &rig, Some(100_000), &Watch::default());
        assert_eq!(tokens(&mut engine, &[5], 12, |_| {}).0, expected, "{}", rig.name);
    }
}

#[test]
fn memory_that_runs_out_while_an_expert_arrives_fails_that_step_only() {
    let checkpoint = checkpoint();
    for rig in rigs(&checkpoint) {
        let (expected, result) =
            tokens(&mut open(&checkpoint, &rig, None, &Watch::default()), &[5], 4, |_| {});
        result.expect("runs");
        for at in [0, 1, 4, 9] {
            let watch = Watch::default();
            let mut engine = open(&checkpoint, &rig, Some(0), &watch);
            *watch.writes_left.lock().expect("nobody panicked") = Some(at);
            let (kept, result) = tokens(&mut engine, &[5], 4, |_| {});
            let error = result.expect_err("no memory");
            assert!(matches!(error, Error::OutOfMemory { .. }), "{} after {at}: {error}", rig.name);
            assert_eq!(kept, expected[..kept.len()], "{} after {at}", rig.name);
            assert_eq!(tokens(&mut engine, &[5], 4, |_| {}).0, expected, "{} after {at}", rig.name);
        }
    }
}

#[test]
fn a_shard_that_changes_before_its_experts_are_there_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(folder().join(MODEL)).expect("golden") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("copied");
    }
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).expect("opens");
    let rig = &rigs(&checkpoint)[0];
    let (expected, result) = tokens(&mut open(&checkpoint, rig, None, &Watch::default()), &[5], 4, |_| {});
    result.expect("runs");
    let mut engine = open(&checkpoint, rig, Some(0), &Watch::default());
    let shard = checkpoint.shards()[checkpoint.shards().len() - 1].path().to_owned();
    let modified = shard.metadata().and_then(|found| found.modified()).expect("is there");
    let touch = |by: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(&shard).expect("opens");
        file.set_modified(modified + std::time::Duration::from_secs(by)).expect("is changed");
    };
    let mut first = true;
    let (kept, result) = tokens(&mut engine, &[5], 4, |_| {
        if std::mem::take(&mut first) {
            touch(2);
        }
    });
    let error = result.expect_err("the shard is another");
    assert!(matches!(error, Error::Loader(porism_loader::Error::Changed { .. })), "{error}");
    assert!(error.to_string().contains(&*shard.to_string_lossy()), "{error}");
    assert_eq!(kept, expected[..1]);
    assert!(engine.receive_experts().is_err());
    touch(0);
    assert_eq!(tokens(&mut engine, &[5], 4, |_| {}).0, expected);
}
