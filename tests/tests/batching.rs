//! Continuous batching gives every sequence the tokens it would have had alone, computes shared beginnings once, and puts
//! sequences back when pages run out without losing a token.

use std::collections::HashMap;
use std::ops::ControlFlow;

use porism_loader::{Checkpoint, Options};
use porism_runtime::batch::{Batch, BatchFacts, Event, JobId};
use porism_runtime::engine::Engine;
use porism_runtime::generate::{Request, generate};
use porism_runtime::sample::SamplingParams;
use porism_runtime::{DeviceId, EngineOptions};
use porism_tests::every_adapter;
use porism_tests::golden::{Golden, folder};

fn request(seed: u64, max_tokens: usize) -> Request {
    let sampling = SamplingParams { top_p: 0.95, ..SamplingParams::default() };
    Request { max_tokens, sampling, seed, stop_ids: vec![] }
}

fn devices() -> Vec<DeviceId> {
    let mut devices = vec![DeviceId::Host];
    devices.extend(every_adapter().iter().filter(|a| a.name.contains("llvmpipe")).map(|a| a.index));
    devices
}

fn alone(engine: &mut Engine<'_>, prompt: &[u32], request: &Request) -> Vec<u32> {
    generate(engine, prompt, request, &mut |_| ControlFlow::Continue(())).expect("generates").token_ids
}

fn together(engine: &mut Engine<'_>, jobs: &[(Vec<u32>, Request)]) -> (Vec<Vec<u32>>, BatchFacts) {
    let mut batch = Batch::new(engine);
    let ids: Vec<JobId> = jobs
        .iter()
        .map(|(prompt, request)| batch.submit(prompt.clone(), request.clone()).expect("fits"))
        .collect();
    let mut done = HashMap::new();
    batch
        .run(&mut |event| {
            if let Event::Finished { job, token_ids, .. } = event {
                assert!(done.insert(job, token_ids).is_none(), "{job:?} ended twice");
            }
        })
        .expect("runs");
    (ids.iter().map(|id| done.remove(id).expect("every job ends")).collect(), batch.facts())
}

#[test]
fn tokens_do_not_depend_on_the_company() {
    let checkpoint = Checkpoint::open(&folder().join("v32-tiny-fp8"), Options::default()).expect("opens");
    let prompt = Golden::open("v32-tiny-fp8").ids("input_ids");
    // Eight prompts of different lengths, some of which begin alike, and mixed sampling.
    let jobs: Vec<(Vec<u32>, Request)> = (0..8)
        .map(|i| {
            let mut tokens = prompt[..20 + i * 9].to_vec();
            if i % 3 == 0 {
                tokens[5] = 77 + i as u32;
            }
            let mut request = request(i as u64, 6 + i);
            if i == 2 {
                request.sampling = SamplingParams::greedy();
            }
            if i == 5 {
                request.sampling.repetition_penalty = 1.2;
            }
            (tokens, request)
        })
        .collect();
    for device in devices() {
        let options = EngineOptions { sequences: 8, chunk: 24, ..EngineOptions::new(160) };
        let mut engine =
            Engine::open(&checkpoint, &[device.into()], &options, &mut |_| Ok(())).expect("opens");
        let expected: Vec<Vec<u32>> =
            jobs.iter().map(|(prompt, request)| alone(&mut engine, prompt, request)).collect();
        let (found, facts) = together(&mut engine, &jobs);
        assert_eq!(found, expected, "{device:?}");
        assert!(facts.shared > 0 && facts.put_back == 0, "{facts:?}");
    }
}

#[test]
fn samples_of_one_prompt_compute_it_once() {
    let checkpoint = Checkpoint::open(&folder().join("v32-tiny-fp8"), Options::default()).expect("opens");
    let prompt = Golden::open("v32-tiny-fp8").ids("input_ids");
    let jobs: Vec<_> = (0..6).map(|seed| (prompt.clone(), request(seed, 5))).collect();
    let options = EngineOptions { sequences: 8, ..EngineOptions::new(160) };
    let mut engine =
        Engine::open(&checkpoint, &[DeviceId::Host.into()], &options, &mut |_| Ok(())).expect("opens");
    let (_, facts) = together(&mut engine, &jobs);
    // All but the last token of the prompt is shared: its logits are needed by each.
    assert_eq!(facts.prefilled, (prompt.len() + 5) as u64, "{facts:?}");
    assert_eq!(facts.shared, 5 * (prompt.len() as u64 - 1), "{facts:?}");
}

#[test]
fn sequences_put_back_for_want_of_pages_lose_nothing() {
    let checkpoint = Checkpoint::open(&folder().join("v32-tiny-fp8"), Options::default()).expect("opens");
    let prompt = Golden::open("v32-tiny-fp8").ids("input_ids");
    let jobs: Vec<_> = (0..5u64)
        .map(|i| {
            let mut tokens = prompt[..50].to_vec();
            tokens[0] = i as u32;
            (tokens, request(i, 90))
        })
        .collect();
    for device in devices() {
        let options = EngineOptions { sequences: 5, cache_tokens: Some(6 * 64), ..EngineOptions::new(160) };
        let mut engine =
            Engine::open(&checkpoint, &[device.into()], &options, &mut |_| Ok(())).expect("opens");
        let expected: Vec<Vec<u32>> =
            jobs.iter().map(|(prompt, request)| alone(&mut engine, prompt, request)).collect();
        let (found, facts) = together(&mut engine, &jobs);
        assert!(facts.put_back > 0, "{facts:?}");
        assert_eq!(found, expected, "{device:?}: {facts:?}");
    }
}

#[test]
fn a_cancelled_generation_gives_back_what_it_has() {
    let checkpoint = Checkpoint::open(&folder().join("v32-tiny-fp8"), Options::default()).expect("opens");
    let options = EngineOptions { sequences: 2, ..EngineOptions::new(160) };
    let mut engine =
        Engine::open(&checkpoint, &[DeviceId::Host.into()], &options, &mut |_| Ok(())).expect("opens");
    let free = engine.free_pages();
    let mut batch = Batch::new(&mut engine);
    let first = batch.submit(vec![1, 2, 3], request(1, 50)).expect("fits");
    let second = batch.submit(vec![4, 5], request(2, 3)).expect("fits");
    let mut tokens = vec![];
    for event in batch.step().expect("runs") {
        if let Event::Token { job, token } = event
            && job == first
        {
            tokens.push(token);
        }
    }
    assert_eq!(batch.cancel(first), Some(tokens));
    assert_eq!(batch.cancel(first), None);
    batch
        .run(&mut |event| assert!(!matches!(event, Event::Token { job, .. } if job != second)))
        .expect("runs");
    drop(batch);
    assert_eq!(engine.free_pages(), free, "every page came back");
}
