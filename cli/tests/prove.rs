//! Searches that cannot begin or cannot go on: a clear error, and nothing that was found is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const QUESTION: &str = "Prove that gcd(84, 30) = 6.";

fn porism(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porism"));
    command.current_dir(folder).env("WGPU_BACKEND", "none").env("PORISM_DEVICE", "host");
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn prove(folder: &Path, arguments: &[&str]) -> Output {
    porism(folder).arg("prove").args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// All files of a run but the lock.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != ".lock") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn problems_that_cannot_be_used_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let set = r#"[{"id": 1, "question": "Prove that gcd(84, 30) = 6."}, {"id": 2, "question": "Prove it."}]"#;
    fs::write(folder.join("set.json"), set).unwrap();
    fs::write(folder.join("empty.md"), " \n\n").unwrap();
    fs::write(folder.join("torn.json"), &set[..60]).unwrap();
    fs::write(folder.join("torn.jsonl"), "{\"question\": \"a\"}\n{\"question\": \n").unwrap();
    fs::write(folder.join("other.json"), "[{\"title\": \"a\"}]").unwrap();
    fs::write(folder.join("bytes.json"), b"[\xff]").unwrap();
    fs::write(folder.join("none.json"), "[]").unwrap();
    fs::create_dir(folder.join("folder.json")).unwrap();
    for (arguments, words) in [
        (&[""][..], "the problem is empty"),
        (&["  "], "the problem is empty"),
        (&["empty.md"], "empty.md: the problem is empty"),
        (&["-"], "stdin: the problem is empty"),
        (&["nothing"], "`nothing` is no file, and no problem either"),
        (&["set.json", "--only", "3"], "set.json: no problem is called `3`; there are 1, 2"),
        (&[QUESTION, "--only", "1"], "--only picks problems of a set"),
        (&["absent.json"], "absent.json"),
        (&["torn.json"], "torn.json: is not JSON"),
        (&["torn.jsonl"], "torn.jsonl: line 2 is not JSON"),
        (&["other.json"], "other.json: row 1 has no `question`"),
        (&["bytes.json"], "bytes.json is not UTF-8 text: byte 1"),
        (&["none.json"], "none.json: holds no problem"),
        (&["folder.json"], "folder.json"),
        (&[QUESTION, "--prompts", "set.json"], "set.json"),
    ] {
        let output = prove(folder, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !folder.join("runs").exists(), "{arguments:?}");
    }
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let few = ["--rounds", "1", "--proofs", "1", "-n", "4", "--out"];
    let run = |question: &str, more: &[&str], out: &str| {
        prove(folder, &[&[question][..], more, &few, &[out]].concat())
    };
    let first = run(QUESTION, &[], "mine");
    assert_eq!(first.status.code(), Some(1), "{}", stderr(&first));
    let before = files(&folder.join("mine"));
    for (question, more, words) in [
        ("Prove that gcd(84, 35) = 7.", &[][..], "mine: holds another run: the problem was"),
        (QUESTION, &["--seed", "2"], "mine: holds another run: the seed was 1, now it is 2"),
        (QUESTION, &["--temp", "0.5"], "temperature was 1, now it is 0.5"),
    ] {
        let output = run(question, more, "mine");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(words) && stderr(&output).contains("--fork"), "{}", stderr(&output));
        assert_eq!(files(&folder.join("mine")), before);
    }
    fs::create_dir(folder.join("letters")).unwrap();
    fs::write(folder.join("letters/a.txt"), "dear").unwrap();
    let output = run(QUESTION, &[], "letters");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds other files and no run.toml"), "{}", stderr(&output));
    let output = run(QUESTION, &[], "letters/a.txt");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(files(&folder.join("letters")).len(), 1);
    let output = porism(folder).args(["report", "letters"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

/// The completions of a journal, as they stand there.
fn completions(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "a line is torn");
    let is_completion =
        |line: &&str| serde_json::from_str::<Value>(line).expect("JSON")["event"] == "completion";
    text.lines().filter(is_completion).map(str::to_owned).collect()
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let asked = ["--proofs", "8", "--rounds", "2", "--verifications", "4", "--finish-round", "--out"];
    let command = |out: &'static str| [&["prove", QUESTION][..], &asked, &[out]].concat();
    let whole = porism(folder).args(command("whole")).output().unwrap();
    assert!(matches!(whole.status.code(), Some(0 | 1)), "{}", stderr(&whole));

    // No file may grow beyond 4 KiB (in units of 512 bytes), as if there were no more room.
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_porism")])
        .args(command("full"))
        .current_dir(folder)
        .envs([("WGPU_BACKEND", "none"), ("PORISM_DEVICE", "host")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(2), "{}", stderr(&full));
    let words = "full/events.jsonl: cannot be written";
    assert!(stderr(&full).contains(words), "{}", stderr(&full));
    assert!(stderr(&full).contains("every completion before this one is saved"), "{}", stderr(&full));
    let saved = completions(&folder.join("full"));
    assert!(!saved.is_empty());

    // With room again the same command goes on.
    let again = porism(folder).args(command("full")).output().unwrap();
    assert_eq!(again.status.code(), whole.status.code(), "{}", stderr(&again));
    assert!(completions(&folder.join("full")).starts_with(&saved), "what was saved is not there any more");
    for name in ["predictions.jsonl", "solution.md"] {
        let read = |run: &str| fs::read_to_string(folder.join(run).join(name)).unwrap();
        assert_eq!(read("full"), read("whole"), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_journal_that_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let few = [QUESTION, "--rounds", "1", "--proofs", "1", "-n", "4", "--out", "mine"];
    assert_eq!(prove(folder, &few).status.code(), Some(1));
    let journal = folder.join("mine/events.jsonl");
    fs::rename(&journal, folder.join("kept")).unwrap();
    std::os::unix::fs::symlink("/dev/full", &journal).unwrap();
    let output = prove(folder, &few);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("it is no regular file"), "{}", stderr(&output));
}
