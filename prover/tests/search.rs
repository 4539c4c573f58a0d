//! The whole search with an answerer that follows a script: what it says depends on the request alone.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use porism_prover::complete::{Answer, Complete, CompleteError, Completion, Finish, Request};
use porism_prover::pool::{self, End, Proof, State};
use porism_prover::problem::Problem;
use porism_prover::prompts::PromptSet;
use porism_prover::recompute::{Flaw, Recompute};
use porism_prover::report::Report;
use porism_prover::roles::{Key, Role};
use porism_prover::search::{Event, Limits, Plan, SearchError, Task, search};
use porism_prover::settings::Settings;
use porism_prover::store::{Line, Manifest, Model, Prompts, Run, StoreError, read_journal};

/// Answers so many requests at once, in an order of its own, and breaks after so many answers.
struct Scripted {
    width: usize,
    queue: Vec<Request>,
    order: u64,
    left: usize,
    script: fn(&Request) -> Result<String, String>,
    answered: Vec<Key>,
}

impl Scripted {
    fn new(width: usize, order: u64) -> Self {
        Self { width, queue: Vec::new(), order, left: usize::MAX, script: noisy, answered: Vec::new() }
    }
}

impl Complete for Scripted {
    fn width(&self) -> usize {
        self.width
    }

    fn submit(&mut self, request: Request) {
        assert!(self.queue.len() < self.width, "more requests than asked for");
        self.queue.push(request);
    }

    fn cancel(&mut self, ticket: u64) {
        self.queue.retain(|request| request.ticket != ticket);
    }

    fn poll(&mut self, _: Duration) -> Result<Option<Answer>, CompleteError> {
        if self.left == 0 {
            return Err(CompleteError::Interrupted);
        }
        self.left -= 1;
        assert!(!self.queue.is_empty(), "the search waits for nothing");
        self.order = mix(self.order);
        let request = self.queue.swap_remove(self.order as usize % self.queue.len());
        self.answered.push(request.key);
        let result = (self.script)(&request).map(|answer| Completion {
            thinking: "hm".to_owned(),
            tokens: 10 + request.seed % 90,
            answer,
            finish: Finish::Stop,
            prompt_tokens: 7,
            seconds: 0.1,
            served: None,
        });
        Ok(Some(Answer { ticket: request.ticket, result: result.map_err(Into::into), wasted: 0 }))
    }
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    x ^ (x >> 29)
}

/// A proof has a quality; readings find it out most of the time; some answers are lost or cannot be read.
fn noisy(request: &Request) -> Result<String, String> {
    let luck = mix(request.seed) % 100;
    if luck < 4 {
        return Err("the line was cut".to_owned());
    }
    if luck < 8 {
        return Ok("I do not know.".to_owned());
    }
    let good = |prompt: &str| prompt.contains("quality good");
    Ok(match request.key.role {
        Role::Generate | Role::Refine => {
            let better = if request.key.role == Role::Refine { 8 } else { 3 };
            let quality = if mix(request.seed ^ 1) % 100 < better { "good" } else { "bad" };
            format!(
                "## Solution\nProof {} of quality {quality}.\n\n## Self Evaluation\nFine.\n\\boxed{{1}}",
                request.seed % 50
            )
        }
        Role::Verify => {
            let right = mix(request.seed ^ 2) % 100 < 85;
            format!(
                "Reading {}.\n\\boxed{{{}}}",
                request.seed,
                if good(&request.prompt) == right { "1" } else { "0" }
            )
        }
        Role::MetaVerify => format!("\\boxed{{{}}}", if good(&request.prompt) { "0" } else { "1" }),
        Role::Compare => format!("\\boxed{{{}}}", 1 + mix(request.seed ^ 3) % 2),
    })
}

fn problems() -> Vec<Problem> {
    let problem = |name: &str| Problem {
        source: "set".to_owned(),
        problem_idx: name.to_owned(),
        question: format!("Prove {name}."),
    };
    vec![problem("a"), problem("b")]
}

fn settings() -> Settings {
    Settings { rounds: 3, proofs: 5, verifications: 5, minimum_readings: 2, keep: 2, ..Settings::default() }
}

fn manifest(seed: u64, settings: Settings) -> Manifest {
    let model = Model {
        name: "script".to_owned(),
        fingerprint: "0".to_owned(),
        revision: None,
        endpoints: Vec::new(),
    };
    let prompts = PromptSet::built_in();
    Manifest {
        version: Manifest::VERSION,
        seed,
        problems: Manifest::problems(&problems()),
        generator: model.clone(),
        verifier: model,
        prompts: Prompts {
            source: prompts.source().to_owned(),
            fingerprint: prompts.fingerprint().to_owned(),
        },
        settings,
        domain: None,
    }
}

fn go(folder: &Path, manifest: &Manifest, complete: &mut Scripted) -> Result<Vec<Plan>, SearchError> {
    let problems = problems();
    let mut run = Run::open(folder, manifest, &problems, false)?;
    let limits = Limits { interrupted: &|| false, deadline: None };
    let task = Task { manifest, problems: &problems, prompts: &PromptSet::built_in(), recompute: None };
    search(&mut run, &task, complete, &limits, &mut |_| {})
}

/// All result files of a run.
fn files(folder: &Path) -> Vec<(String, String)> {
    let names = ["pool/set/a.jsonl", "pool/set/b.jsonl", "predictions.jsonl", "solution.md"];
    names.map(|name| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap())).to_vec()
}

fn keys(folder: &Path) -> Vec<Key> {
    let lines = read_journal(folder).unwrap();
    lines
        .iter()
        .filter_map(|line| if let Line::Completion(record) = line { Some(record.key) } else { None })
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_run_whatever_is_worked_on_together() {
    let mut ends = HashSet::new();
    for seed in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("one");
        let mut finish = settings();
        finish.finish_round = seed % 3 == 0;
        let manifest = manifest(seed, finish);
        let plans = go(&one, &manifest, &mut Scripted::new(1, 0)).unwrap();
        ends.extend(plans.iter().map(|plan| format!("{:?}", plan.end.unwrap().0)));
        for (width, order) in [(1, 9), (2, 1), (3, 2), (16, 3), (16, 4)] {
            let many = folder.path().join(format!("many-{width}-{order}"));
            go(&many, &manifest, &mut Scripted::new(width, order)).unwrap();
            assert_eq!(files(&one), files(&many), "seed {seed}, width {width}");
        }
    }
    assert!(
        ends.contains("Passed") && ends.contains("Rounds"),
        "the script is too easy or too hard: {ends:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    go(&one, &manifest(1, settings()), &mut Scripted::new(1, 0)).unwrap();
    go(&two, &manifest(2, settings()), &mut Scripted::new(1, 0)).unwrap();
    assert_ne!(files(&one), files(&two), "another seed is another run");
}

#[test]
fn a_run_that_was_killed_at_any_moment_ends_like_one_that_was_not() {
    for width in [1, 8] {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let manifest = manifest(5, settings());
        go(&whole, &manifest, &mut Scripted::new(width, 1)).unwrap();
        let journal = fs::read(whole.join("events.jsonl")).unwrap();
        let mut random = 77 + width as u64;
        for _ in 0..30 {
            random = mix(random);
            // What a kill leaves: the journal up to any byte, and nothing else of use.
            let cut = random as usize % (journal.len() + 1);
            let killed = folder.path().join(format!("killed-{cut}"));
            fs::create_dir(&killed).unwrap();
            fs::copy(whole.join("run.toml"), killed.join("run.toml")).unwrap();
            fs::write(killed.join("events.jsonl"), &journal[..cut]).unwrap();
            let before = keys(&killed);
            let mut complete = Scripted::new(width, random);
            go(&killed, &manifest, &mut complete).unwrap();
            assert_eq!(files(&whole), files(&killed), "cut at {cut}");
            let after = keys(&killed);
            assert_eq!(
                after.len(),
                after.iter().collect::<HashSet<_>>().len(),
                "a completion was counted twice"
            );
            assert!(
                complete.answered.iter().all(|key| !before.contains(key)),
                "a completion was paid for twice"
            );
            if width == 1 {
                assert_eq!(after.len(), keys(&whole).len(), "one at a time nothing is asked for in vain");
            }
        }
    }
}

#[test]
fn an_interrupted_run_keeps_its_pool_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let manifest = manifest(5, settings());
    go(&whole, &manifest, &mut Scripted::new(4, 1)).unwrap();
    let mut sessions = 0;
    loop {
        let mut complete = Scripted::new(4, sessions);
        complete.left = 6;
        sessions += 1;
        match go(&broken, &manifest, &mut complete) {
            Ok(_) => break,
            Err(SearchError::Complete(CompleteError::Interrupted)) => {
                assert!(broken.join("pool/set/a.jsonl").exists())
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sessions > 5, "{sessions}");
    assert_eq!(files(&whole), files(&broken));
    // A finished run asks for nothing more.
    let mut idle = Scripted::new(4, 0);
    idle.left = 0;
    go(&broken, &manifest, &mut idle).unwrap();
    assert_eq!(files(&whole), files(&broken));
}

#[test]
fn a_passed_proof_has_only_ones_and_dismissed_readings_do_not_count() {
    let (mut passed, mut dismissed) = (0, 0);
    for seed in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings();
        let plans =
            go(folder.path(), &manifest(seed, settings.clone()), &mut Scripted::new(3, seed)).unwrap();
        for plan in &plans {
            for proof in &plan.proofs {
                for reading in &proof.readings {
                    let expected = reading.judgements.first().map_or(1.0, |judgement| judgement.score);
                    assert_eq!(reading.weight, expected);
                    dismissed += u32::from(reading.weight == 0.0);
                }
                match proof.state {
                    State::Passed => {
                        assert_eq!(
                            (proof.meanscore, proof.weight()),
                            (Some(1.0), f64::from(settings.verifications))
                        );
                    }
                    State::Rejected => assert!(proof.meanscore.unwrap() < 1.0 && proof.readings.len() >= 2),
                    _ => {}
                }
            }
            if plan.passed() {
                passed += 1;
                assert_eq!(plan.chosen().unwrap().state, State::Passed);
            }
        }
    }
    assert!(passed > 5 && dismissed > 20, "{passed} passed, {dismissed} dismissed");
}

#[test]
fn a_proof_that_is_written_again_after_an_objection_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut complete = Scripted::new(3, 0);
    complete.script = |request| {
        let Key { round, role, reading, .. } = request.key;
        Ok(match role {
            Role::Generate | Role::Refine => {
                "## Solution\nthe proof\n## Self Evaluation\n\\boxed{1}".to_owned()
            }
            // An objection in the first round, and another one in the second.
            Role::Verify if (round, reading) == (0, 2) || (round, reading) == (1, 0) => {
                "no \\boxed{0}".to_owned()
            }
            _ => "yes \\boxed{1}".to_owned(),
        })
    };
    let plans = go(folder.path(), &manifest(1, settings()), &mut complete).unwrap();
    for plan in &plans {
        let states: Vec<_> = plan.proofs.iter().map(|proof| (proof.again, &proof.state)).collect();
        let mut expected = vec![(None, &State::Rejected)];
        let (first, second) = (State::Duplicate(1), State::Duplicate(6));
        expected.extend([(None, &first); 4]);
        expected.push((Some(1), &State::Rejected));
        expected.extend([(None, &second); 4]);
        expected.push((Some(6), &State::Passed));
        assert_eq!(states, expected);
        // Each from the latest of its text.
        assert_eq!([5, 10].map(|proof| &plan.proofs[proof].dep_proof_ids[..]), [&[1], &[6]]);
        let chosen = plan.chosen().unwrap();
        let (own, other) = (pool::sum(&chosen.readings), pool::sum(plan.other_readings(chosen)));
        assert_eq!((chosen.proof_id, own.counted_passed, own.counted), (11, 5, 5));
        assert_eq!((other.counted_passed, other.counted), (3, 5));
    }
    let solution = std::fs::read_to_string(folder.path().join("solution.md")).unwrap();
    assert!(solution.contains(
        "5 of 5 counted readings by the verifier say 1. In other rounds 3 of 5 of the same text did."
    ));
}

#[test]
fn refining_uses_the_best_proof_and_its_lowest_evaluations() {
    let folder = tempfile::tempdir().unwrap();
    let mut complete = Scripted::new(1, 0);
    complete.script = |request| {
        if request.key.role == Role::Refine {
            assert!(request.prompt.contains("first proof"), "{}", request.prompt);
            let zero = request.prompt.find("wrong here").expect("the low evaluation is shown");
            assert!(request.prompt.find("nothing to say").is_none_or(|one| zero < one));
        }
        Ok(match (request.key.role, request.key.proof, request.key.reading) {
            (Role::Generate, 0, _) => "## Solution\nfirst proof\n## Self Evaluation\n\\boxed{0}".to_owned(),
            (Role::Generate | Role::Refine, n, _) => {
                format!("## Solution\nproof {} {n}\n## Self Evaluation\n\\boxed{{1}}", request.key.round)
            }
            (Role::Verify, 0, 0) if request.key.round == 0 => "nothing to say \\boxed{1}".to_owned(),
            (Role::Verify, ..) => "wrong here \\boxed{0}".to_owned(),
            _ => "\\boxed{1}".to_owned(),
        })
    };
    let settings = Settings { rounds: 2, proofs: 2, keep: 1, ..settings() };
    let plans = go(folder.path(), &manifest(0, settings), &mut complete).unwrap();
    assert_eq!(plans[0].end, Some((End::Rounds, Some(1))));
    assert_eq!(
        plans[0].proofs.iter().map(|proof| &proof.dep_proof_ids[..]).collect::<Vec<_>>(),
        [&[], &[], &[1][..], &[1]]
    );
    let line = fs::read_to_string(folder.path().join("pool/set/a.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.lines().nth(2).unwrap()).unwrap();
    let published =
        ["proof", "meanscore", "score2ratings", "self_eval", "proof_id", "dep_proof_ids", "round_idx"];
    assert!(published.iter().all(|field| line.get(field).is_some()), "{line}");
    assert_eq!(
        (&line["dep_proof_ids"], &line["round_idx"]),
        (&serde_json::json!([1]), &serde_json::json!(2))
    );
    assert_eq!(line["score2ratings"]["0.0"][0]["rating"], "wrong here \\boxed{0}");
    let prediction = fs::read_to_string(folder.path().join("predictions.jsonl")).unwrap();
    let prediction: serde_json::Value = serde_json::from_str(prediction.lines().next().unwrap()).unwrap();
    assert_eq!(prediction["model_prediction"]["proof"], "first proof");
    assert_eq!(prediction["model_prediction"]["average_automatic_rating"], 0.5);
}

#[test]
fn token_budgets_end_a_run_at_the_same_place_whatever_the_width() {
    let mut spent = 0;
    for budget in [1, 300, 900, 2500] {
        let folder = tempfile::tempdir().unwrap();
        let (one, many) = (folder.path().join("one"), folder.path().join("many"));
        let manifest =
            manifest(3, Settings { max_tokens_total: Some(budget), finish_round: true, ..settings() });
        let plans = go(&one, &manifest, &mut Scripted::new(1, 0)).unwrap();
        go(&many, &manifest, &mut Scripted::new(16, 1)).unwrap();
        assert_eq!(files(&one), files(&many), "budget {budget}");
        for plan in &plans {
            let tokens: u64 = plan.proofs.iter().map(|proof| proof.tokens).sum();
            assert!(tokens < budget + 100, "{tokens} of {budget}");
            spent += u32::from(plan.end.unwrap().0 == End::Tokens);
        }
    }
    assert!(spent >= 4, "{spent}");
}

#[test]
fn a_deadline_takes_the_best_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, problems) = (manifest(5, settings()), problems());
    let mut run = Run::open(folder.path(), &manifest, &problems, false).unwrap();
    let limits = Limits { interrupted: &|| false, deadline: Some(Instant::now()) };
    let prompts = PromptSet::built_in();
    let task = Task { manifest: &manifest, problems: &problems, prompts: &prompts, recompute: None };
    let plans = search(&mut run, &task, &mut Scripted::new(1, 0), &limits, &mut |_| {}).unwrap();
    assert_eq!(plans[0].end, Some((End::Time, None)));
    let solution = fs::read_to_string(folder.path().join("solution.md")).unwrap();
    assert!(solution.contains("No proof was written"), "{solution}");
    assert!(
        solution.contains("**Unfinished**: its time is over; the same command goes on with it."),
        "{solution}"
    );
    let report = Report::from_folder(folder.path()).unwrap();
    assert_eq!(report.problems[0].unfinished(), End::Time.unfinished());
}

#[test]
fn a_search_that_is_stopped_leaves_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, problems) = (manifest(5, settings()), problems());
    let mut run = Run::open(folder.path(), &manifest, &problems, false).unwrap();
    let limits = Limits { interrupted: &|| false, deadline: None };
    let mut complete = Scripted::new(1, 0);
    complete.left = 3;
    let mut ended = None;
    let prompts = PromptSet::built_in();
    let task = Task { manifest: &manifest, problems: &problems, prompts: &prompts, recompute: None };
    let stopped = search(&mut run, &task, &mut complete, &limits, &mut |event| {
        if let Event::End { passed, unfinished, problems, .. } = event {
            ended = Some((*passed, *unfinished, *problems));
        }
    });
    assert!(matches!(stopped, Err(SearchError::Complete(CompleteError::Interrupted))));
    assert_eq!(ended, Some((0, problems.len(), problems.len())));
    drop(run);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("solution.md").contains("**Unfinished**: it was stopped"), "{}", read("solution.md"));
    assert!(read("predictions.jsonl").contains("\"end\":\"interrupted\""), "{}", read("predictions.jsonl"));
    let html = Report::from_folder(folder.path()).unwrap().html().html;
    assert!(html.contains("Unfinished: it was stopped; the same command goes on with it."), "{html}");
    // It does.
    let plans = go(folder.path(), &manifest, &mut Scripted::new(4, 0)).unwrap();
    assert!(plans.iter().all(|plan| plan.unfinished().is_none()));
    assert!(!read("solution.md").contains("Unfinished"), "{}", read("solution.md"));
}

#[test]
fn all_attempts_lost_is_no_proof_and_no_hang() {
    let folder = tempfile::tempdir().unwrap();
    let mut complete = Scripted::new(4, 0);
    complete.script = |_| Err("500".to_owned());
    let plans = go(folder.path(), &manifest(5, settings()), &mut complete).unwrap();
    assert_eq!(plans[0].end, Some((End::Rounds, None)));
    assert!(plans[0].proofs.iter().all(|proof| proof.state == State::Failed("500".to_owned())));
    let mut blind = Scripted::new(4, 0);
    blind.script =
        |request| if request.key.role == Role::Verify { Ok("?".to_owned()) } else { noisy(request) };
    let other = tempfile::tempdir().unwrap();
    let plans = go(other.path(), &manifest(5, settings()), &mut blind).unwrap();
    assert!(!plans[0].passed() && plans[0].proofs.iter().any(|proof| proof.state == State::Undecided));
}

#[test]
fn events_tell_every_completion_and_every_decision_once() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, problems) = (manifest(5, settings()), problems());
    let mut run = Run::open(folder.path(), &manifest, &problems, false).unwrap();
    let limits = Limits { interrupted: &|| false, deadline: None };
    let (mut completions, mut decided, mut chosen) = (0, HashSet::new(), 0);
    let mut observe = |event: &Event<'_>| {
        let json = serde_json::to_value(event).unwrap();
        match event {
            Event::Completion { spent, .. } => {
                completions += 1;
                assert_eq!(spent.completions, completions);
            }
            Event::Proof { problem_idx, proof_id, .. } => {
                assert!(decided.insert((problem_idx.to_string(), *proof_id)), "{json}");
            }
            Event::Chosen { .. } => chosen += 1,
            Event::Start { .. } | Event::End { .. } | Event::Notice { .. } => {}
        }
    };
    let prompts = PromptSet::built_in();
    let task = Task { manifest: &manifest, problems: &problems, prompts: &prompts, recompute: None };
    search(&mut run, &task, &mut Scripted::new(3, 0), &limits, &mut observe).unwrap();
    assert_eq!((completions as usize, chosen), (run.records().len(), 2));
    assert!(!decided.is_empty());
}

#[test]
fn a_changed_setting_is_named_and_refused_and_a_fork_uses_what_still_fits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let base = manifest(5, settings());
    go(&path, &base, &mut Scripted::new(1, 0)).unwrap();
    let error = |manifest: &Manifest| Run::open(&path, manifest, &problems(), false).unwrap_err().to_string();
    let mut other = base.clone();
    other.seed = 6;
    assert!(error(&other).contains("the seed was 5, now it is 6"), "{}", error(&other));
    let mut other = base.clone();
    other.generator.fingerprint = "1".to_owned();
    assert!(error(&other).contains("the model was script (0), now it is script (1)"));
    let mut other = base.clone();
    other.settings.temperature = 0.5;
    assert!(error(&other).contains("temperature was 1, now it is 0.5"));
    // More rounds and readings only go on.
    let mut more = base.clone();
    more.settings.verifications = 6;
    go(&path, &more, &mut Scripted::new(1, 0)).unwrap();
    let fresh = folder.path().join("fresh");
    go(&fresh, &more, &mut Scripted::new(1, 0)).unwrap();
    assert_eq!(files(&path), files(&fresh));
    // A fork with another limit for readings keeps the proofs.
    let mut fork = more.clone();
    fork.settings.max_tokens_per_reading = 99;
    let mut run = Run::open(&path, &fork, &problems(), true).unwrap();
    assert_ne!(run.folder(), path);
    let mut complete = Scripted::new(1, 0);
    let limits = Limits { interrupted: &|| false, deadline: None };
    let (problems, prompts) = (problems(), PromptSet::built_in());
    let task = Task { manifest: &fork, problems: &problems, prompts: &prompts, recompute: None };
    search(&mut run, &task, &mut complete, &limits, &mut |_| {}).unwrap();
    assert!(!complete.answered.is_empty() && complete.answered.iter().all(|key| !key.role.writes()));
    assert_eq!(files(&path), files(run.folder()));
}

#[test]
fn folders_that_are_no_runs_or_damaged_or_in_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(5, settings());
    let open = |path: &Path| Run::open(path, &manifest, &problems(), false);
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "x").unwrap();
    assert!(matches!(open(&foreign).unwrap_err(), StoreError::NotARun { .. }));
    assert!(matches!(open(&foreign.join("thesis.tex")).unwrap_err(), StoreError::File { .. }));
    let run = folder.path().join("run");
    let held = open(&run).unwrap();
    assert!(matches!(open(&run).unwrap_err(), StoreError::Locked { .. }));
    drop(held);
    let journal = fs::read_to_string(run.join("events.jsonl")).unwrap();
    fs::write(run.join("events.jsonl"), format!("{journal}nonsense\n{journal}")).unwrap();
    let error = open(&run).unwrap_err().to_string();
    assert!(error.contains("line 2 is damaged"), "{error}");
    fs::write(run.join("events.jsonl"), format!("{journal}{{\"event\":\"comp")).unwrap();
    drop(open(&run).unwrap());
    assert_eq!(read_journal(&run).unwrap().len(), 2, "a torn line is dropped, and the session noted");
    fs::write(run.join("run.toml"), "version = 1\nseed = true\n").unwrap();
    let error = open(&run).unwrap_err().to_string();
    assert!(error.contains("run.toml: line 2, column 8 (`seed = true`)"), "{error}");
}

/// A program that finds a flaw in proofs with an even number, and one problem false.
struct Parity {
    false_one: &'static str,
}

impl Recompute for Parity {
    fn name(&self) -> &str {
        "parity"
    }

    fn falsehood(&self, question: &str) -> Option<String> {
        (question == self.false_one).then(|| "it is odd".to_owned())
    }

    fn recompute(&self, _: &str, proof: &str) -> Option<Result<(), Flaw>> {
        let number: u64 = proof.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        let flaw = || Flaw { why: "an even number".to_owned(), evaluation: "EVEN\n\\boxed{0}".to_owned() };
        Some(if number % 2 == 1 { Ok(()) } else { Err(flaw()) })
    }
}

/// Readers who find everything right, and writers of proofs 1 to 50.
fn credulous(request: &Request) -> Result<String, String> {
    match request.key.role {
        Role::Verify => Ok("Fine.\n\\boxed{1}".to_owned()),
        _ => noisy(request),
    }
}

fn go_with(
    folder: &Path,
    manifest: &Manifest,
    complete: &mut Scripted,
    recompute: Option<&dyn Recompute>,
) -> Result<Vec<Plan>, SearchError> {
    let problems = problems();
    let mut run = Run::open(folder, manifest, &problems, false)?;
    let limits = Limits { interrupted: &|| false, deadline: None };
    let task = Task { manifest, problems: &problems, prompts: &PromptSet::built_in(), recompute };
    search(&mut run, &task, complete, &limits, &mut |_| {})
}

#[test]
fn a_proof_that_a_program_refutes_never_passes_and_the_search_goes_on() {
    let parity = Parity { false_one: "" };
    let (mut refuted, mut passed, mut refined) = (0, 0, 0);
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(seed, Settings { finish_round: true, ..settings() });
        let mut complete = Scripted { script: credulous, ..Scripted::new(1, 0) };
        let plans = go_with(folder.path(), &manifest, &mut complete, Some(&parity)).unwrap();
        for plan in &plans {
            for proof in &plan.proofs {
                let is_even =
                    |proof: &Proof| parity.recompute("", &proof.proof).is_some_and(|found| found.is_err());
                match proof.state {
                    State::Passed => {
                        assert!(proof.recomputed.as_ref().is_some_and(|found| found.holds) && !is_even(proof))
                    }
                    State::Refuted => {
                        assert!(proof.meanscore == Some(1.0) && is_even(proof));
                        refuted += 1;
                    }
                    _ => assert_eq!(proof.recomputed, None),
                }
            }
            // A refuted proof is the best only where there is nothing else.
            let chosen = plan.chosen().unwrap();
            assert!(!chosen.is_refuted() || plan.pool().all(|proof| proof.state == State::Refuted));
            passed += u32::from(plan.passed());
        }
        let predictions = fs::read_to_string(folder.path().join("predictions.jsonl")).unwrap();
        let pool = fs::read_to_string(folder.path().join("pool/set/a.jsonl")).unwrap();
        assert!(predictions.contains(r#""recomputed":{"by":"parity","holds":"#), "{predictions}");
        assert!(pool.contains(r#""state":"refuted""#) || pool.contains(r#""holds":true"#), "{pool}");
        // Wherever it was killed, and in whatever order answers came, it ends the same.
        let broken = tempfile::tempdir().unwrap();
        for round in 0.. {
            let mut complete = Scripted { script: credulous, left: 5, ..Scripted::new(3, round) };
            match go_with(broken.path(), &manifest, &mut complete, Some(&parity)) {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, SearchError::Complete(CompleteError::Interrupted))),
            }
        }
        assert_eq!(files(folder.path()), files(broken.path()));
        // Whoever refines a refuted proof is shown what the program says.
        let only_even = Parity { false_one: "" };
        let mut complete = Scripted {
            script: |request| {
                let shown = request.prompt.contains("EVEN");
                assert_eq!(shown, request.key.role == Role::Refine, "{}", request.prompt);
                let proof = format!(
                    "## Solution\nProof {} x.\n\n## Self Evaluation\n\\boxed{{1}}",
                    request.seed / 2 * 2
                );
                Ok(if request.key.role.writes() { proof } else { "\\boxed{1}".to_owned() })
            },
            ..Scripted::new(2, 0)
        };
        let other = tempfile::tempdir().unwrap();
        let plans = go_with(other.path(), &manifest, &mut complete, Some(&only_even)).unwrap();
        assert!(plans.iter().all(|plan| plan.end.unwrap().0 == End::Rounds && !plan.passed()));
        refined += complete.answered.iter().filter(|key| key.role == Role::Refine).count();
    }
    assert!(refuted > 20 && passed > 12 && refined > 20, "{refuted} {passed} {refined}");
}

#[test]
fn a_false_statement_ends_the_search_with_its_first_proof() {
    let folder = tempfile::tempdir().unwrap();
    let parity = Parity { false_one: "Prove b." };
    let mut complete = Scripted { script: credulous, ..Scripted::new(1, 0) };
    let plans = go_with(folder.path(), &manifest(5, settings()), &mut complete, Some(&parity)).unwrap();
    assert_eq!(plans[1].end.unwrap().0, End::Refuted);
    assert_eq!(plans[1].falsehood.as_deref(), Some("it is odd"));
    assert!(plans[0].falsehood.is_none() && plans[0].end.unwrap().0 != End::Refuted);
    assert!(complete.answered.iter().all(|key| key.problem == 0 || key.proof == 0));
    let predictions = fs::read_to_string(folder.path().join("predictions.jsonl")).unwrap();
    assert!(predictions.lines().nth(1).unwrap().contains(r#""passed":false"#), "{predictions}");
    assert!(predictions.contains(r#""falsehood":"it is odd""#), "{predictions}");
    let solution = fs::read_to_string(folder.path().join("solution.md")).unwrap();
    assert!(solution.contains("The statement is false, as a program finds: it is odd."), "{solution}");
    assert!(solution.contains("Best attempt (not accepted)"), "{solution}");
    // Without the program the same completions let it pass: the run goes on from them.
    let mut complete = Scripted { script: credulous, ..Scripted::new(1, 0) };
    let plans = go_with(folder.path(), &manifest(5, settings()), &mut complete, None).unwrap();
    assert!(plans.iter().all(Plan::passed));
}
