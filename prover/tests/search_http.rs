//! The whole search over an endpoint whose server plays a model, and fails one request in three.

#[expect(dead_code, reason = "this file needs a part of the server")]
mod server;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use porism_prover::complete::{Complete, CompleteError};
use porism_prover::http::{self, Endpoint, Endpoints, HttpError, Key, Options};
use porism_prover::pair::Pair;
use porism_prover::pool::State;
use porism_prover::problem::Problem;
use porism_prover::prompts::PromptSet;
use porism_prover::report;
use porism_prover::roles::{self, Role};
use porism_prover::search::{Event, Limits, Plan, SearchError, Task, search};
use porism_prover::settings::Settings;
use porism_prover::store::{Line, Manifest, Prompts, Run, read_journal};
use serde_json::json;
use server::{Received, Reply, Server};

const SECRET: &str = "sk-abcdefghijklmnopqrstuvwxyz";
const PROMPTS: &str = r#"
generate = "WRITE {problem}"
verify = "READ {problem} {solution}"
meta_verify = "JUDGE {problem} {solution} {evaluation}"
refine = "MEND {problem} {candidates}"
candidate = "{solution} {evaluation}"
"#;

fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    x ^ (x >> 29)
}

/// What the model says: it depends on the request alone.
fn play(request: &Received) -> String {
    let seed = request.body["seed"].as_u64().unwrap();
    let good = request.prompt().contains("quality good");
    let luck = |salt: u64, percent: u64| mix(seed ^ salt) % 100 < percent;
    match request.prompt().split(' ').next().unwrap() {
        role @ ("WRITE" | "MEND") => {
            let quality = if luck(1, if role == "MEND" { 40 } else { 5 }) { "good" } else { "bad" };
            format!(
                "<think>hm</think>## Solution\nProof {seed} of quality {quality}.\n\n## Self Evaluation\n\\boxed{{1}}"
            )
        }
        "READ" => format!("Reading {seed}.\n\\boxed{{{}}}", if good == luck(2, 90) { "1" } else { "0" }),
        "JUDGE" => format!("\\boxed{{{}}}", if good { "0" } else { "1" }),
        other => panic!("{other}"),
    }
}

fn answer(request: &Received, reply: &mut Reply) {
    let text = play(request);
    reply.begin();
    let (first, second) = text.split_at(text.len() / 2);
    reply.delta(&json!({"content": first}));
    reply.delta(&json!({"content": second}));
    reply.end(Some((request.prompt().len() as u64, text.len() as u64)));
}

/// Half of the requests fail the first time they come, so that one in three fails, each in another way.
fn flaky() -> impl Fn(&Received, &mut Reply) + Send + Sync {
    let known = Mutex::new(HashSet::new());
    move |request, reply| {
        let seed = request.body["seed"].as_u64().unwrap();
        let first = known.lock().unwrap().insert((seed, request.prompt().to_owned()));
        if !first || mix(seed).is_multiple_of(2) {
            return answer(request, reply);
        }
        match mix(seed ^ 9) % 6 {
            0 => reply.whole("500 Internal Server Error", "", ""),
            1 => reply.whole("429 Too Many Requests", "Retry-After: 0\r\n", "{}"),
            2 => reply.whole("200 OK", "Content-Type: application/json\r\n", "{\"choices\""),
            3 => reply.whole("200 OK", "", ""),
            4 => {
                reply.begin();
                reply.delta(&json!({"content": "## Solution\nHalf of"}));
            }
            _ => reply.hang(),
        }
    }
}

fn problems() -> Vec<Problem> {
    vec![Problem { source: "set".to_owned(), problem_idx: "a".to_owned(), question: "Prove it.".to_owned() }]
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint::new(&server.url(), "played", Some(Key::new(SECRET).unwrap())).unwrap()
}

fn options(parallel: usize) -> Options {
    let (wait, silence) = (Duration::from_millis(2), Duration::from_secs(2));
    Options { parallel, wait, silence, ..Options::default() }
}

fn manifest(writer: &Server, reader: &Server) -> Manifest {
    let prompts = PromptSet::from_toml(PROMPTS, "test").unwrap();
    let (source, fingerprint) = (prompts.source().to_owned(), prompts.fingerprint().to_owned());
    Manifest {
        version: Manifest::VERSION,
        seed: 3,
        problems: Manifest::problems(&problems()),
        generator: http::identity(&[endpoint(writer)]),
        verifier: http::identity(&[endpoint(reader)]),
        prompts: Prompts { source, fingerprint },
        settings: Settings { rounds: 4, proofs: 5, verifications: 4, keep: 2, ..Settings::default() },
        domain: None,
    }
}

struct Outcome {
    plans: Result<Vec<Plan>, SearchError>,
    notices: Vec<String>,
}

fn go(folder: &Path, manifest: &Manifest, complete: &mut dyn Complete) -> Outcome {
    let problems = problems();
    let prompts = PromptSet::from_toml(PROMPTS, "test").unwrap();
    let mut run = Run::open(folder, manifest, &problems, false).unwrap();
    let limits = Limits { interrupted: &|| false, deadline: None };
    let mut notices = Vec::new();
    let mut observe = |event: &Event<'_>| {
        if let Event::Notice { words } = event {
            notices.push((*words).to_owned());
        }
    };
    let task = Task { manifest, problems: &problems, prompts: &prompts, recompute: None };
    let plans = search(&mut run, &task, complete, &limits, &mut observe);
    Outcome { plans, notices }
}

fn files(folder: &Path) -> [String; 3] {
    ["pool/set/a.jsonl", "predictions.jsonl", "solution.md"]
        .map(|name| fs::read_to_string(folder.join(name)).unwrap())
}

#[test]
fn a_proof_is_found_while_one_request_in_three_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let calm = Server::new(answer);
    // The seeds and so the answers do not depend on who answers.
    let manifest = manifest(&calm, &calm);
    let first = go(&path("calm"), &manifest, &mut Endpoints::new(vec![endpoint(&calm)], options(1)));
    let plans = first.plans.unwrap();
    assert!(
        plans[0].passed() && plans[0].chosen().unwrap().round_idx > 1,
        "the script is too easy or too hard"
    );
    assert!(first.notices.is_empty());

    let shaky = Server::new(flaky());
    let mut complete = Endpoints::new(vec![endpoint(&shaky)], options(6));
    let second = go(&path("shaky"), &manifest, &mut complete);
    let plans = second.plans.unwrap();
    assert_eq!(plans[0].chosen().unwrap().state, State::Passed);
    assert_eq!(files(&path("calm")), files(&path("shaky")));
    assert!(second.notices.len() > 4, "{:?}", second.notices);
    let (mut journal, mut wasted) = (Vec::new(), 0);
    for line in read_journal(&path("shaky")).unwrap() {
        if let Line::Completion(record) = line {
            wasted += record.wasted;
            journal.push(record);
        }
    }
    let tries: u32 =
        journal.iter().map(|record| record.completion.as_ref().unwrap().served.as_ref().unwrap().tries).sum();
    assert!(tries as usize * 10 >= journal.len() * 13, "{tries} tries of {} completions", journal.len());
    assert!(wasted > 0, "cut answers cost something");

    // Two models, one at each of two endpoints, with other numbers of places.
    let (writer, reader) = (Server::new(flaky()), Server::new(flaky()));
    let (mut writes, mut reads) = (
        Endpoints::new(vec![endpoint(&writer)], options(3)),
        Endpoints::new(vec![endpoint(&reader)], options(2)),
    );
    let third = go(&path("pair"), &manifest, &mut Pair::new(&mut writes, &mut reads));
    assert!(third.plans.unwrap()[0].passed());
    assert_eq!(files(&path("calm")), files(&path("pair")));
    let roles = |server: &Server| -> HashSet<String> {
        let word = |request: &Received| request.prompt().split(' ').next().unwrap().to_owned();
        server.seen.requests().iter().map(word).collect()
    };
    assert_eq!(roles(&writer), HashSet::from(["WRITE", "MEND"].map(str::to_owned)));
    assert_eq!(roles(&reader), HashSet::from(["READ", "JUDGE"].map(str::to_owned)));
    assert!(writer.seen.most_at_once() <= 3 && reader.seen.most_at_once() <= 2);

    // Nothing that was written has the key in it, and the report says who answered.
    let page = fs::read_to_string(report::write(&path("shaky")).unwrap()).unwrap();
    assert!(page.contains(&calm.url()) && page.contains("--endpoint-model played"));
    for entry in ["run.toml", "events.jsonl", "report.html", "solution.md"] {
        let text = fs::read_to_string(path("shaky").join(entry)).unwrap();
        assert!(!text.contains(SECRET) && !text.contains("Bearer"), "{entry}");
    }
}

#[test]
fn a_run_whose_endpoint_dies_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let dead = Arc::new(AtomicBool::new(false));
    let (switch, played) = (Arc::clone(&dead), Mutex::new(HashMap::<(u64, String), u32>::new()));
    let played = Arc::new(played);
    let counter = Arc::clone(&played);
    let server = Server::new(move |request, reply| {
        if request.number == 9 {
            switch.store(true, Ordering::SeqCst);
        }
        if switch.load(Ordering::SeqCst) {
            return reply.whole("401 Unauthorized", "", "{\"error\": \"the key was withdrawn\"}");
        }
        let key = (request.body["seed"].as_u64().unwrap(), request.prompt().to_owned());
        *counter.lock().unwrap().entry(key).or_default() += 1;
        answer(request, reply);
    });
    let manifest = manifest(&server, &server);
    let path = folder.path().join("run");
    let broken = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(3)));
    match broken.plans {
        Err(SearchError::Complete(CompleteError::Broken(error))) => {
            assert!(matches!(error.downcast_ref(), Some(HttpError::Denied { .. })), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let before = read_journal(&path).unwrap();
    let lost = |line: &Line| matches!(line, Line::Completion(record) if record.completion.is_none());
    assert!(!before.iter().any(lost) && before.len() > 5, "{before:?}");
    dead.store(false, Ordering::SeqCst);
    let whole = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(3)));
    assert!(whole.plans.unwrap()[0].passed());
    let fresh = folder.path().join("fresh");
    let calm = Server::new(answer);
    go(&fresh, &manifest, &mut Endpoints::new(vec![endpoint(&calm)], options(1))).plans.unwrap();
    assert_eq!(files(&fresh), files(&path));
    assert!(played.lock().unwrap().values().all(|times| *times == 1), "something was paid for twice");
}

#[test]
fn a_moved_endpoint_is_the_same_run_and_another_model_is_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Server::new(answer), Server::new(answer));
    let first = manifest(&one, &one);
    let open = |manifest: &Manifest| Run::open(folder.path(), manifest, &problems(), false);
    drop(open(&first).unwrap());
    let refused = |manifest: &Manifest| open(manifest).unwrap_err().to_string();
    drop(open(&manifest(&two, &one)).unwrap());
    let mut other = first.clone();
    other.generator = http::identity(&[Endpoint::new(&one.url(), "another", None).unwrap()]);
    let words = refused(&other);
    assert!(words.contains("the model was played at") && words.contains("another at"), "{words}");
    let mut revised = first.clone();
    revised.verifier =
        http::identity(&[Endpoint::new(&one.url(), "played", None).unwrap().with_revision(Some("b"))]);
    assert!(refused(&revised).contains("the verifier's model was"));
    // The key is no part of it.
    let mut keyless = first;
    keyless.generator = http::identity(&[Endpoint::new(&one.url(), "played", None).unwrap()]);
    drop(open(&keyless).unwrap());
}

#[test]
fn what_was_lost_to_the_network_is_asked_again_by_the_next_session() {
    let folder = tempfile::tempdir().unwrap();
    let sick = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&sick);
    // Proofs come, and no reading does.
    let server = Server::new(move |request, reply| {
        if request.prompt().starts_with("READ") && switch.load(Ordering::SeqCst) {
            return reply.whole("200 OK", "Content-Type: application/json\r\n", "{\"choices\": [");
        }
        answer(request, reply);
    });
    let mut manifest = manifest(&server, &server);
    manifest.settings = Settings { rounds: 1, proofs: 1, verifications: 2, ..manifest.settings };
    let path = folder.path().join("run");
    let first = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(1)));
    // Four in a row are the endpoint's fault.
    assert!(
        matches!(first.plans, Err(SearchError::Complete(_) | SearchError::Network(_))),
        "{:?}",
        first.plans
    );
    let lost = |line: &Line| matches!(line, Line::Completion(record) if record.network);
    assert!(read_journal(&path).unwrap().iter().any(lost));
    sick.store(false, Ordering::SeqCst);
    let second = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(1)));
    let plans = second.plans.unwrap();
    assert!(!plans[0].proofs[0].readings.is_empty(), "{plans:?}");
    assert_eq!(plans[0].proofs[0].unreadable, 0, "{plans:?}");
    // The proof was there already.
    let writes =
        server.seen.requests().iter().filter(|request| request.prompt().starts_with("WRITE")).count();
    assert_eq!(writes, 1);
}

#[test]
fn no_reading_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|request, reply| match request.prompt().starts_with("READ") {
        true => reply.whole("200 OK", "Content-Type: application/json\r\n", "{\"choices\": ["),
        false => answer(request, reply),
    });
    let mut manifest = manifest(&server, &server);
    // Three lost readings: too few to call the endpoint broken.
    manifest.settings =
        Settings { rounds: 1, proofs: 1, verifications: 1, minimum_readings: 1, ..manifest.settings };
    let outcome =
        go(&folder.path().join("run"), &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(1)));
    let error = outcome.plans.unwrap_err().to_string();
    assert!(error.contains("lost to the network") || error.contains("came to nothing"), "{error}");
}

#[test]
fn refinements_show_as_many_evaluations_as_fit() {
    let folder = tempfile::tempdir().unwrap();
    // A token a byte, and nothing longer than this.
    const CONTEXT: usize = 420;
    let server = Server::new(|request, reply| {
        if request.prompt().len() > CONTEXT {
            let words = format!(
                "request ({} tokens) exceeds the available context size ({CONTEXT} tokens)",
                request.prompt().len()
            );
            return reply.whole("400 Bad Request", "", &json!({"error": {"message": words}}).to_string());
        }
        let text = match request.prompt().split(' ').next().unwrap() {
            "READ" => format!("{} \\boxed{{0}}", "No step holds. ".repeat(8)),
            "JUDGE" => "\\boxed{1}".to_owned(),
            _ => format!("## Solution\nProof {}.\n\n## Self Evaluation\n\\boxed{{1}}", request.body["seed"]),
        };
        reply.begin();
        reply.delta(&json!({"content": text}));
        reply.end(Some((request.prompt().len() as u64, text.len() as u64)));
    });
    for told in [None, Some(CONTEXT as u32)] {
        let mut manifest = manifest(&server, &server);
        manifest.settings = Settings {
            rounds: 2,
            proofs: 1,
            verifications: 5,
            minimum_readings: 5,
            keep: 1,
            context: told,
            max_tokens_per_proof: 60,
            ..manifest.settings
        };
        let before = server.seen.requests().len();
        let path = folder.path().join(format!("{told:?}"));
        let outcome = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(2)));
        let plans = outcome.plans.unwrap();
        assert_eq!(plans[0].proofs.len(), 2);
        assert!(!plans[0].proofs[1].proof.is_empty(), "{:?}", plans[0].proofs[1].state);
        let requests = server.seen.requests();
        let mends: Vec<&str> = requests[before..]
            .iter()
            .map(Received::prompt)
            .filter(|prompt| prompt.starts_with("MEND"))
            .collect();
        let refused = mends.iter().filter(|prompt| prompt.len() > CONTEXT).count();
        assert_eq!(refused > 0, told.is_none(), "{mends:?}");
        assert!(mends.last().unwrap().contains("No step holds."));
    }
}

#[test]
fn tokens_of_answers_that_nobody_wants_any_more_count() {
    let folder = tempfile::tempdir().unwrap();
    // The first proof passes while the second one is still being written.
    let second = roles::Key { problem: 0, round: 0, proof: 1, role: Role::Generate, reading: 0 }.seed(3, "a");
    let server = Server::new(move |request, reply| match request.prompt().split(' ').next().unwrap() {
        "WRITE" if request.body["seed"] == second => {
            reply.begin();
            reply.delta(&json!({"content": "x".repeat(400)}));
            reply.hang();
        }
        "WRITE" => reply.answer("## Solution\nA.\n\n## Self Evaluation\n\\boxed{1}"),
        _ => {
            std::thread::sleep(Duration::from_millis(100));
            reply.answer("\\boxed{1}");
        }
    });
    let mut manifest = manifest(&server, &server);
    manifest.settings =
        Settings { rounds: 1, proofs: 2, verifications: 1, minimum_readings: 1, ..manifest.settings };
    let path = folder.path().join("run");
    let complete = &mut Endpoints::new(
        vec![endpoint(&server)],
        Options { silence: Duration::from_secs(30), ..options(4) },
    );
    assert!(go(&path, &manifest, complete).plans.unwrap()[0].passed());
    let canceled: u64 = read_journal(&path)
        .unwrap()
        .iter()
        .map(|line| if let Line::Canceled { tokens } = line { *tokens } else { 0 })
        .sum();
    assert_eq!(canceled, 100);
    assert!(fs::read_to_string(report::write(&path).unwrap()).unwrap().contains("cut off"));
}

#[test]
fn a_budget_is_overshot_by_what_is_under_way_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|request, reply| {
        let text = if request.prompt().starts_with("WRITE") {
            format!(
                "## Solution\nProof {}.{}\n\n## Self Evaluation\n\\boxed{{1}}",
                request.body["seed"],
                " x".repeat(200)
            )
        } else {
            "\\boxed{0}".to_owned()
        };
        reply.begin();
        reply.delta(&json!({"content": text}));
        reply.end(Some((1, 100)));
    });
    let mut manifest = manifest(&server, &server);
    manifest.settings = Settings { rounds: 9, proofs: 9, max_tokens_total: Some(1000), ..manifest.settings };
    let path = folder.path().join("run");
    let plans = go(&path, &manifest, &mut Endpoints::new(vec![endpoint(&server)], options(4))).plans.unwrap();
    assert!(plans[0].unfinished().is_some_and(|why| why.contains("tokens are spent")), "{:?}", plans[0].end);
    let completions =
        read_journal(&path).unwrap().iter().filter(|line| matches!(line, Line::Completion(_))).count();
    assert!((10..=14).contains(&completions), "{completions} of 100 tokens each, 4 at once");
}
