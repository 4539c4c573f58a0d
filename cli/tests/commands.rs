//! What a session in a file cannot show: pipes, signals, and files that are written.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn porism() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porism"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    command.current_dir(root).env("WGPU_BACKEND", "none").env("HF_HUB_CACHE", "/no/cache");
    command.env_remove("PORISM_DEVICE").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut child = porism()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input closes it; that is not what is tested.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn events(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const QUESTION: &str = "Prove that gcd(84, 30) = 6.";

#[test]
fn the_prompt_may_come_from_stdin() {
    let typed = run(&["run", QUESTION, "--temp", "0", "-n", "30"], "");
    let piped = run(&["run", "--temp", "0", "-n", "30"], &format!("{QUESTION}\n"));
    assert!(typed.status.success() && piped.status.success(), "{}", text(&piped.stderr));
    assert!(!typed.stdout.is_empty() || !typed.stderr.is_empty());
    assert_eq!((text(&typed.stdout), text(&typed.stderr)), (text(&piped.stdout), text(&piped.stderr)));
}

#[test]
fn the_answer_goes_to_stdout_and_the_reasoning_to_stderr() {
    let output = run(&["run", QUESTION, "--temp", "0"], "");
    let json = run(&["run", QUESTION, "--temp", "0", "--json"], "");
    let events = events(&json);
    let end = events.last().unwrap();
    let whole = end["text"].as_str().unwrap();
    let (reasoning, answer) = whole.split_once("</think>").expect("porism-tiny thinks first");
    assert_eq!(text(&output.stdout).trim_end(), answer.trim());
    assert!(text(&output.stderr).starts_with(reasoning.trim_end()), "{}", text(&output.stderr));
    let quiet = run(&["run", QUESTION, "--temp", "0", "-q"], "");
    assert_eq!((quiet.stdout, text(&quiet.stderr)), (output.stdout, ""));
}

#[test]
fn json_lines_add_up() {
    let output = run(&["run", QUESTION, "--seed", "7", "-n", "48", "--ignore-eos", "--json"], "");
    let events = events(&output);
    let (start, end) = (&events[0], events.last().unwrap());
    assert_eq!((start["event"].as_str(), start["schema"].as_u64()), (Some("start"), Some(1)));
    assert_eq!((start["seed"].as_u64(), start["sampling"]["top_p"].as_f64()), (Some(7), Some(0.95)));
    assert_eq!((end["event"].as_str(), end["finish_reason"].as_str()), (Some("end"), Some("length")));
    let tokens: Vec<&Value> = events.iter().filter(|event| event["event"] == "token").collect();
    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).filter(|id| !id.is_null()).collect();
    assert_eq!(end["token_ids"].as_array().unwrap().iter().collect::<Vec<_>>(), ids);
    assert_eq!(ids.len(), 48);
    let pieces: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(end["text"].as_str().unwrap(), pieces);
    let again = run(&["run", QUESTION, "--seed", "7", "-n", "48", "--ignore-eos", "--json"], "");
    let again: Vec<Value> =
        text(&again.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(again.last().unwrap()["token_ids"], end["token_ids"]);
}

#[test]
fn tokenize_takes_stdin_byte_for_byte() {
    let ids = |stdin: &str| -> Vec<u32> {
        let output = run(&["tokenize"], stdin);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (with, without) = (ids("2*30 = 60\n"), ids("2*30 = 60"));
    assert_eq!((&with[..with.len() - 1], with.last()), (&without[..], ids("\n").last()));
    assert!(ids("").is_empty());
    let mut child = porism().arg("tokenize").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ab\xff").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("byte 2"), "{}", text(&output.stderr));
}

#[test]
fn ids_need_no_tokenizer() {
    let model = "tests/golden/v3-tiny-bf16";
    let output =
        run(&["run", model, "--ids", "-", "--temp", "0", "-n", "3", "--ignore-eos", "--json"], "[1, 2, 3]");
    let events = events(&output);
    let end = events.last().unwrap();
    assert!(end["text"].is_null());
    assert_eq!(end["token_ids"].as_array().unwrap().len(), 3);
}

#[test]
fn a_shell_is_offered_models_and_values() {
    let script = run(&["completions", "bash"], "");
    assert!(text(&script.stdout).contains("PORISM_COMPLETE"), "{}", text(&script.stdout));
    // What the script does when Tab is pressed after these words.
    let offered = |words: &[&str]| {
        let mut command = porism();
        command.args(["--", "porism"]).args(words);
        command.env("PORISM_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{words:?}");
        text(&output.stdout).to_owned()
    };
    for (words, wanted) in [
        (&["pl"][..], "plan"),
        (&["plan", "deepseek-m"], "deepseek-math-v2"),
        (&["synth", "moon"], "moonlight-16b-a3b"),
        (&["run", "por"], "porism-tiny"),
        (&["run", "--spread", "h"], "home"),
        (&["run", "--expert-cache", "p"], "pinned"),
        (&["run", "--repet"], "--repetition-penalty"),
        (&["completions", "z"], "zsh"),
    ] {
        assert!(offered(words).lines().any(|line| line.trim() == wanted), "{words:?}: {}", offered(words));
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let page = run(&["man"], "");
    assert!(text(&page.stdout).contains(".TH porism 1"), "{}", text(&page.stdout));
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["man", folder.path().to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in ["porism.1", "porism-run.1", "porism-prove.1", "porism-plan.1"] {
        let page = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    assert!(!folder.path().join("porism-help.1").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        porism().args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let mut child = porism()
        .args(["run", QUESTION, "--json", "-n", "300", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn an_answer_that_nobody_reads_is_no_yes() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.md");
    std::fs::write(&wrong, "1. 6*7 = 46.\n2. 46 + 2 = 48.\n3. 48 = 4*12.\n4. So 4 divides 6*7 + 2.\n")
        .unwrap();
    let problem = "Prove that 4 divides 6*7 + 2.";
    let run = folder.path().join("run");
    let (wrong, run) = (wrong.to_str().unwrap(), run.to_str().unwrap());
    for arguments in
        [vec!["check", problem, wrong, "-q"], vec!["prove", problem, "--out", run, "-q", "--json"]]
    {
        let mut child =
            porism().args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""), "{arguments:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_what_was_generated() {
    let mut child = porism()
        .args(["run", QUESTION, "--json", "-n", "900", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..4 {
        lines.next().unwrap().unwrap();
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let end: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert_eq!((end["event"].as_str(), end["finish_reason"].as_str()), (Some("end"), Some("interrupted")));
    let count = end["token_ids"].as_array().unwrap().len();
    assert!((3..900).contains(&count), "{count} tokens");
}

/// A name and its tensor's dtype, shape and bytes.
fn tensors(path: &Path) -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (name, format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn logits_are_written_whole_with_their_trace() {
    let folder = tempfile::tempdir().unwrap();
    let output = |name: &str| -> PathBuf { folder.path().join(name) };
    let ids = "[0, 5, 6, 7, 8, 9, 10]";
    let write = |name: &str, more: &[&str]| {
        let path = output(name);
        let mut arguments =
            vec!["logits", "tests/golden/v32-tiny-fp8", "--ids", "-", "--output", path.to_str().unwrap()];
        arguments.extend(more);
        let done = run(&arguments, ids);
        assert!(done.status.success() && done.stdout.is_empty(), "{}", text(&done.stderr));
        tensors(&path)
    };
    let traced = write("a.safetensors", &["--trace"]);
    let shapes: Vec<_> =
        traced.iter().map(|(name, dtype, shape, _)| (name.as_str(), dtype.as_str(), shape.clone())).collect();
    assert_eq!(
        shapes,
        [
            ("dsa_indices", "I32", vec![4, 7, 16]),
            ("expert_ids", "I32", vec![3, 7, 4]),
            ("hidden_states", "F32", vec![5, 7, 256]),
            ("logits", "F32", vec![7, 512]),
        ]
    );
    let steps = write("b.safetensors", &["--schedule", "steps", "--trace"]);
    assert_eq!((&traced[0], &traced[1]), (&steps[0], &steps[1]));
    let only = write("a.safetensors", &["--schedule", "chunks:3"]);
    assert_eq!(only.len(), 1);
    // Nothing but the two outputs is left behind.
    assert_eq!(folder.path().read_dir().unwrap().count(), 2);
}

#[test]
fn a_damaged_model_is_refused_with_its_file_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v3-tiny-bf16");
    for entry in source.read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let shard = "model-00002-of-000003.safetensors";
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join(shard)).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 1).unwrap();
    let model = folder.path().to_str().unwrap();
    for arguments in [
        vec!["show", model],
        vec!["run", model, "--ids", "tests/cli/ids.json"],
        vec!["bench", model],
        vec!["logits", model, "--ids", "tests/cli/ids.json", "--output", "never.safetensors"],
    ] {
        let output = run(&arguments, "");
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", text(&output.stderr));
        let words = text(&output.stderr);
        assert!(words.contains(shard) && words.contains(&length.to_string()), "{words}");
    }
    let doctor = run(&["doctor", model, "--json"], "");
    let report: Value = serde_json::from_str(text(&doctor.stdout)).unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["name"] == "model" && finding["status"] == "fault"));
}

#[test]
fn bench_reports_every_combination() {
    let output = run(
        &["bench", "--prefill", "4,8", "--decode", "2", "--depth", "0,10", "--batch", "1,2", "--json"],
        "",
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 8);
    for run in runs {
        for field in [
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "dispatches_per_layer",
            "submits_per_step",
            "weight_bytes_per_token",
            "weight_gb_per_second",
            "device_read_gb_per_second",
        ] {
            assert!(run[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {}", run[field]);
        }
        assert!(run["readback_bytes_per_step"].is_u64());
    }
}

#[test]
fn devices_always_list_the_host() {
    let output = run(&["devices", "--json"], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    let host = report["devices"].as_array().unwrap().last().unwrap();
    assert_eq!(host["index"], "host");
    assert!(host["limits"]["cores"].as_u64().unwrap() > 0);
}

#[test]
fn without_an_adapter_the_doctor_says_what_to_do_and_the_host_works() {
    let output = run(&["doctor", "--json"], "");
    let report: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let findings = report["findings"].as_array().unwrap();
    let gpu = findings.iter().find(|finding| finding["name"] == "GPU").expect("a finding about the GPU");
    assert_eq!(gpu["status"], "fault");
    assert!(gpu["advice"].as_str().is_some_and(|advice| !advice.is_empty()));
    let host = findings.iter().find(|finding| finding["name"] == "embedded model on host").unwrap();
    assert_eq!(host["status"], "ok");
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_that_crashes_when_it_is_listed_is_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(
        at("driver.c"),
        "#include <stdlib.h>\nvoid *vk_icdGetInstanceProcAddr(void *i, const char *n) { abort(); }\n\
         int vk_icdNegotiateLoaderICDInterfaceVersion(unsigned *v) { *v = 5; return 0; }\n",
    )
    .unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-w", "-o"]).arg(at("driver.so")).arg(at("driver.c"));
    assert!(compiler.status().unwrap().success());
    let file = serde_json::json!({"file_format_version": "1.0.0",
        "ICD": {"library_path": at("driver.so"), "api_version": "1.3.0"}});
    std::fs::write(at("bad.json"), file.to_string()).unwrap();
    // Beside it whatever else is to be tested here.
    let others = std::env::var("VK_DRIVER_FILES").unwrap_or_default();
    let cases = [at("bad.json").display().to_string(), format!("{}:{others}", at("bad.json").display())];
    for (number, files) in cases.iter().enumerate() {
        let asked = |verb: &[&str]| {
            let mut command = porism();
            command.args(verb).env_remove("WGPU_BACKEND").env("XDG_CACHE_HOME", dir.path());
            command.env("VK_DRIVER_FILES", files).env("VK_ICD_FILENAMES", files).output().unwrap()
        };
        let listed = asked(&["devices", "--json"]);
        assert_eq!(listed.status.code(), Some(0), "{}", text(&listed.stderr));
        assert!(text(&listed.stderr).contains("bad.json"), "{}", text(&listed.stderr));
        let devices: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let adapters = devices["devices"].as_array().unwrap().len() - 1;
        assert_eq!(adapters > 0, number > 0 && !others.is_empty(), "{devices}");
        let looked = asked(&["doctor", "--json"]);
        assert_eq!(looked.status.code(), Some(1), "{}", text(&looked.stderr));
        let findings: Value = serde_json::from_slice(&looked.stdout).unwrap();
        let named = |finding: &Value| {
            finding["name"] == "driver" && finding["found"].as_str().unwrap().contains("bad.json")
        };
        assert!(findings["findings"].as_array().unwrap().iter().any(named), "{findings}");
        let ran = asked(&["run", "hi there", "--raw", "-n", "1", "--outside-domain"]);
        assert!(matches!(ran.status.code(), Some(0 | 1)), "{}", text(&ran.stderr));
        assert!(dir.path().join("porism/drivers.json").exists(), "it is written down");
    }
}
