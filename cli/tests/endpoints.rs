//! `prove` and `check` with models behind a real HTTP server in this process.

#[path = "../../prover/tests/server/mod.rs"]
#[expect(dead_code, reason = "these tests need a part of the server")]
mod server;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use server::{Received, Reply, Server};

const SECRET: &str = "sk-abcdefghijklmnopqrstuvwxyz";
const QUESTION: &str = "Prove that gcd(84, 30) = 6.";
const PROMPTS: &str = r#"
generate = "WRITE {problem}"
verify = "READ {problem} {solution}"
meta_verify = "JUDGE {problem} {solution} {evaluation}"
refine = "MEND {problem} {candidates}"
candidate = "{solution} {evaluation}"
"#;

fn porism(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porism"));
    command.env("WGPU_BACKEND", "none").env("HF_HUB_CACHE", "/no/cache").stdin(Stdio::null());
    for name in ["PORISM_DEVICE", "RUST_LOG", "PORISM_ENDPOINT_KEY", "PORISM_VERIFIER_KEY", "SSL_CERT_FILE"] {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Writes proofs and is content with all of them. The first request fails.
fn play(request: &Received, reply: &mut Reply) {
    if request.number == 0 {
        return reply.whole("500 Internal Server Error", "", "not yet");
    }
    if request.header("authorization").is_some_and(|key| key != format!("Bearer {SECRET}")) {
        return reply.whole("401 Unauthorized", "", &json!({"error": {"message": "wrong key"}}).to_string());
    }
    match request.prompt().split(' ').next().unwrap() {
        "WRITE" => {
            reply.answer("<think>hm</think>## Solution\nBy division.\n\n## Self Evaluation\n\\boxed{1}")
        }
        _ => reply.answer("Nothing is missing. \\boxed{1}"),
    }
}

fn prompts(folder: &Path) -> String {
    let path = folder.join("prompts.toml");
    std::fs::write(&path, PROMPTS).unwrap();
    path.to_str().unwrap().to_owned()
}

/// All that a run wrote.
fn everything(folder: &Path) -> String {
    let mut all = String::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&everything(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    all
}

#[test]
fn a_model_behind_an_endpoint_proves_and_its_key_is_written_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, out) = (prompts(folder.path()), folder.path().join("run"));
    let server = Server::new(play);
    let url = server.url();
    let arguments = |model: &'static str| {
        let out = out.to_str().unwrap().to_owned();
        let words = [
            "prove",
            QUESTION,
            "--endpoint",
            &url,
            "--endpoint-model",
            model,
            "--prompts",
            &prompts,
            "--out",
            &out,
        ];
        words.map(str::to_owned)
    };
    let run = |model: &'static str, variables: &[(&str, &str)]| {
        let words = arguments(model);
        porism(&words.iter().map(String::as_str).collect::<Vec<_>>(), variables)
    };
    let output = run(
        "played",
        &[("PORISM_ENDPOINT_KEY", SECRET), ("RUST_LOG", "trace,ureq_proto=trace,ureq_proto::util=trace")],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "By division.\n");
    assert!(text(&output.stderr).contains("500 Internal Server Error: not yet"), "{}", text(&output.stderr));
    assert!(server.seen.requests().iter().all(|request| request.header("authorization").is_some()));
    let written = everything(&out);
    assert!(written.contains(&url) && written.contains("played"));
    for place in [written.as_str(), text(&output.stderr), text(&output.stdout)] {
        assert!(!place.contains("abcdefgh"), "the key is written down");
    }
    // Another model there is another run; the same command has nothing left to do.
    let asked = server.seen.requests().len();
    let other = run("another", &[]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));
    assert!(text(&other.stderr).contains("the model was played at"), "{}", text(&other.stderr));
    assert_eq!(run("played", &[]).status.code(), Some(0));
    assert_eq!(server.seen.requests().len(), asked);
}

#[test]
fn where_nobody_answers_it_ends_with_5_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, out) = (prompts(folder.path()), folder.path().join("run"));
    let server = Server::new(play);
    let url = server.url();
    let words = [
        "prove",
        QUESTION,
        "--endpoint",
        &url,
        "--endpoint-model",
        "played",
        "--endpoint-tries",
        "2",
        "--prompts",
        &prompts,
        "--out",
        out.to_str().unwrap(),
    ];
    let output = porism(&words, &[("PORISM_ENDPOINT_KEY", "sk-of-somebody-else-entirely")]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("401 Unauthorized: wrong key") && said.contains("hint: put the right key"),
        "{said}"
    );
    assert!(said.contains("the same command goes on") && !said.contains("somebody"), "{said}");
    let output = porism(&words, &[("PORISM_ENDPOINT_KEY", SECRET)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let nobody = ["--endpoint", "http://127.0.0.1:1", "--endpoint-model", "m", "--endpoint-outage", "1s"];
    let output = porism(&[&["check", QUESTION, "It is so."][..], &nobody].concat(), &[]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("cannot be reached"), "{}", text(&output.stderr));
}

#[test]
fn what_is_typed_wrong_ends_with_2() {
    let prove = ["prove", QUESTION];
    for (words, expected) in [
        (vec!["--endpoint", "http://127.0.0.1:1"], "--endpoint-model"),
        (vec!["--endpoint-model", "m"], "--endpoint"),
        (vec!["--endpoint", "http://127.0.0.1:1", "--endpoint-model", "m", "--model", "x"], "--model"),
        (vec!["--endpoint", "127.0.0.1:1", "--endpoint-model", "m"], "no address of an endpoint"),
        (vec!["--endpoint", "http://me:secret@host/v1", "--endpoint-model", "m"], "environment variable"),
        (
            vec![
                "--endpoint",
                "http://127.0.0.1:1",
                "--endpoint-model",
                "m",
                "--endpoint-key-env",
                "NOT_THERE",
            ],
            "NOT_THERE",
        ),
        (vec!["--verifier-endpoint", "http://127.0.0.1:1"], "--verifier-model"),
        (
            vec!["--endpoint", "http://127.0.0.1:1", "--endpoint-model", "m", "--endpoint-timeout", "soon"],
            "no duration",
        ),
    ] {
        let output = porism(&[&prove[..], &words].concat(), &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(expected) && !said.contains("secret"), "{words:?}: {said}");
    }
    let words =
        ["--endpoint", "http://127.0.0.1:1", "--endpoint-model", "m", "--verifier-model", "no-such-model"];
    let output = porism(&[&prove[..], &words].concat(), &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("--verifier-endpoint"), "{}", text(&output.stderr));
}

#[test]
fn a_local_model_and_one_behind_an_endpoint_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let roles = |server: &Server, word: &str| {
        server.seen.requests().iter().filter(|request| request.prompt().contains(word)).count()
    };
    let budget = ["--rounds", "1", "--proofs", "2", "--verifications", "2", "--json"];
    // porism-tiny writes, the endpoint reads.
    let reader = Server::new(|request, reply| match request.number {
        0 => reply.whole("429 Too Many Requests", "Retry-After: 0\r\n", ""),
        _ => reply.answer("Fine. \\boxed{1}"),
    });
    let out = folder.path().join("one");
    let words = [
        "prove",
        QUESTION,
        "--verifier-endpoint",
        &reader.url(),
        "--verifier-model",
        "played",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = porism(&[&words[..], &budget].concat(), &[("PORISM_VERIFIER_KEY", SECRET)]);
    let events: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(events.iter().any(|event| event["event"] == "notice"), "{events:?}");
    let tiny = "Check each step";
    assert!(roles(&reader, tiny) >= 3 && roles(&reader, tiny) == reader.seen.requests().len());
    let manifest = std::fs::read_to_string(out.join("run.toml")).unwrap();
    assert!(manifest.contains("porism-tiny") && manifest.contains(&reader.url()), "{manifest}");
    // The endpoint writes, porism-tiny reads.
    let writer =
        Server::new(|_, reply| reply.answer("## Solution\nSo it is.\n## Self Evaluation\n\\boxed{1}"));
    let out = folder.path().join("two");
    let words = [
        "prove",
        QUESTION,
        "--endpoint",
        &writer.url(),
        "--endpoint-model",
        "played",
        "--verifier-model",
        "porism-tiny",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = porism(&[&words[..], &budget].concat(), &[]);
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", text(&output.stderr));
    assert_eq!(roles(&writer, "Write a proof"), writer.seen.requests().len());
    assert!(text(&output.stdout).contains("\"role\":\"verify\""), "{}", text(&output.stdout));
}

#[test]
fn an_endpoint_grades() {
    let server = Server::new(|request, reply| match request.number % 3 {
        0 => reply.answer("Wrong. \\boxed{0}"),
        1 => reply.answer("no box"),
        _ => reply.answer("Right. \\boxed{1}"),
    });
    let words = [
        "check",
        QUESTION,
        "It is so.",
        "--endpoint",
        &server.url(),
        "--endpoint-model",
        "m",
        "--endpoint-parallel",
        "1",
        "--no-meta",
        "--verifications",
        "6",
        "--json",
    ];
    let output = porism(&words, &[]);
    let grade: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    assert_eq!((output.status.code(), &grade["meanscore"]), (Some(1), &json!(0.5)));
    assert_eq!(
        (grade["readings"].as_array().unwrap().len(), grade["unreadable"].as_array().unwrap().len()),
        (4, 2)
    );
}

/// The words of a check with readings that the server takes or does not.
fn check_words(url: &str, readings: &str) -> Vec<String> {
    let words = [
        "check",
        QUESTION,
        "It is so.",
        "--endpoint",
        url,
        "--endpoint-model",
        "m",
        "--verifications",
        readings,
    ];
    words.map(str::to_owned).to_vec()
}

fn run(words: &[String]) -> Output {
    porism(&words.iter().map(String::as_str).collect::<Vec<_>>(), &[])
}

#[test]
fn a_server_that_was_stopped_ends_check_and_prove_with_5_within_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path());
    for verb in ["check", "prove"] {
        let server = std::sync::Arc::new(std::sync::OnceLock::<std::sync::Arc<server::Seen>>::new());
        let seen = std::sync::Arc::clone(&server);
        // Three answers, and then it is stopped with the others under way.
        let stopping = Server::new(move |request, reply| {
            if request.number >= 3 {
                seen.get().unwrap().set_deaf(true);
                return reply.hang();
            }
            play(&Received { number: 1 + request.number, ..request.clone() }, reply);
        });
        server.set(std::sync::Arc::clone(&stopping.seen)).unwrap();
        let out = folder.path().join("run");
        let limit = ["--endpoint-timeout", "2s", "--prompts", &prompts];
        let mut words = match verb {
            "check" => check_words(&stopping.url(), "9"),
            _ => {
                let words =
                    ["prove", QUESTION, "--endpoint", &stopping.url(), "--endpoint-model", "m", "--out"];
                [words.map(str::to_owned).to_vec(), vec![out.to_str().unwrap().to_owned()]].concat()
            }
        };
        words.extend(limit.map(str::to_owned));
        let begin = std::time::Instant::now();
        let output = run(&words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{verb}: {said}");
        assert!(
            said.contains("has said nothing to any of them for") && said.contains("hint:"),
            "{verb}: {said}"
        );
        assert!(begin.elapsed() < std::time::Duration::from_secs(12), "{verb}: {:?}", begin.elapsed());
        if verb == "prove" {
            let journal = std::fs::read_to_string(out.join("events.jsonl")).unwrap();
            assert!(!journal.contains("\"error\""), "an attempt was lost: {journal}");
        }
    }
}

#[test]
fn where_every_reading_is_lost_it_ends_with_5_and_not_with_no() {
    let garbled = Server::new(|_, reply| {
        reply.whole("200 OK", "Content-Type: application/json\r\n", "{\"choices\": [")
    });
    let output = run(&check_words(&garbled.url(), "3"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("3 of 3 readings were lost to the network"), "{said}");
}

#[test]
fn a_context_that_is_given_is_used_with_an_endpoint() {
    let server = Server::new(|_, reply| reply.answer("Fine. \\boxed{1}"));
    let output = run(&[check_words(&server.url(), "3"), vec!["-c".to_owned(), "777".to_owned()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(server.seen.requests().iter().all(|request| request.body["max_tokens"] == 777));
}

#[test]
fn tables_and_files_of_endpoints_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path());
    let server = Server::new(|request, reply| play(&Received { number: 1, ..request.clone() }, reply));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let table = write("set.csv", "id,question\n1,\"Prove, please, A.\"\n2,Prove B.\n");
    let endpoints = write("endpoints.txt", &format!("# here\n{}\n", server.url()));
    let out = folder.path().join("run").to_str().unwrap().to_owned();
    let rest = ["--endpoint-file", &endpoints, "--endpoint-model", "m", "--prompts", &prompts, "--out", &out];
    let output = porism(&[&["prove", &table][..], &rest].concat(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("2 of 2 problems passed"), "{}", text(&output.stderr));
    let sheet = write("set.xlsx", "PK");
    let output = porism(&[&["prove", &sheet][..], &rest].concat(), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("is a spreadsheet") && said.contains(".csv"), "{said}");
    let empty = write("none.txt", "# nobody\n");
    let output = porism(&["prove", QUESTION, "--endpoint-file", &empty, "--endpoint-model", "m"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("names no endpoint"), "{}", text(&output.stderr));
}

/// Answers one encrypted request and ends; the certificates are good for a hundred years and for this test only.
#[cfg(target_os = "linux")]
fn encrypted_server() -> (String, std::thread::JoinHandle<Option<String>>) {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use std::io::{Read as _, Write as _};

    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let certificates = vec![CertificateDer::from_pem_file(tls.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(tls.join("server.key")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/v1", listener.local_addr().unwrap().port());
    let serve = move || {
        let connection = rustls::ServerConnection::new(std::sync::Arc::new(config.clone())).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, listener.accept().unwrap().0);
        let (mut request, mut bytes) = (String::new(), [0; 4096]);
        // The body is the last thing that is sent, and JSON.
        while !request.ends_with('}') {
            // Who asks what there is gets no answer.
            if request.starts_with("GET ") && request.ends_with("\r\n\r\n") {
                return None;
            }
            let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
            request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        let body =
            json!({"choices": [{"message": {"content": "Fine. \\boxed{1}"}, "finish_reason": "stop"}]})
                .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        Some(request)
    };
    // The first connection asks what there is.
    let thread = std::thread::spawn(move || serve().or_else(&serve));
    (url, thread)
}

#[cfg(target_os = "linux")]
#[test]
fn connections_are_encrypted_and_strangers_are_not_trusted() {
    let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/authority.pem");
    let check = |url: &str, variables: &[(&str, &str)]| {
        let words = [
            "check",
            QUESTION,
            "It is so.",
            "--endpoint",
            url,
            "--endpoint-model",
            "m",
            "--verifications",
            "1",
            "--endpoint-tries",
            "1",
        ];
        porism(&words, variables)
    };
    let (url, server) = encrypted_server();
    let key = ("PORISM_ENDPOINT_KEY", SECRET);
    let output = check(&url, &[key, ("SSL_CERT_FILE", authority.to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("without encryption"), "{}", text(&output.stderr));
    assert!(server.join().unwrap().expect("a request").contains(&format!("Bearer {SECRET}")));
    // The same server, and nobody who vouches for it.
    let (url, server) = encrypted_server();
    let output = check(&url, &[key]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("certificate"), "{}", text(&output.stderr));
    assert_eq!(server.join().unwrap(), None, "the key was sent to a stranger");
}
