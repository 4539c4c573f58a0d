//! `kill -9` at random moments of a search, then the same command: as if nothing had happened.
#![cfg(unix)]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// So many times in all; a search that ends between two kills is looked at, and a new one begun.
const KILLS: usize = 30;
/// At most so many completions of a session before it is killed.
const COMPLETIONS: u64 = 5;
/// `--parallel`: what may be in flight when the program dies.
const PARALLEL: usize = 4;
/// Nobody waits longer for one of them.
const PATIENCE: Duration = Duration::from_secs(120);

const PROBLEMS: &str = r#"{"id": "gcd", "question": "Prove that gcd(84, 30) = 6."}
{"id": "divides", "question": "Prove that 4 divides 6*7 + 2."}
{"id": "linear", "question": "Find the integer x with 3x + 5 = 26 and prove the answer is right."}
"#;

/// SplitMix64: the moments can be drawn again with `PORISM_KILL_SEED`.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % most
    }
}

/// The same command each time.
fn start(folder: &Path, out: &Path) -> Child {
    let session = fs::OpenOptions::new().create(true).append(true).open(folder.join("stdout")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_porism"))
        .args([
            "prove",
            "set.jsonl",
            "--json",
            "--seed",
            "11",
            "--temp",
            "1.4",
            "--top-p",
            "1",
            "--device",
            "host",
        ])
        .args(["--rounds", "2", "--proofs", "4", "--verifications", "4", "--finish-round"])
        .args(["--parallel", &PARALLEL.to_string(), "--out"])
        .arg(out)
        .current_dir(folder)
        .env("WGPU_BACKEND", "none")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(session)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// All that a run is judged by, by file.
fn results(run: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut files = vec![run.join("predictions.jsonl"), run.join("solution.md")];
    walk(&run.join("pool"), &mut files);
    files
        .into_iter()
        .map(|path| (path.strip_prefix(run).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The completions of a journal.
fn completions(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let values = lines.map(|line| serde_json::from_str::<Value>(line).expect("whole lines are JSON"));
    values.filter(|line| line["event"] == "completion").collect()
}

/// What a finished run must be, whatever happened to it.
fn look_at(run: &Path, folder: &Path, wanted: &BTreeMap<PathBuf, String>, say: &dyn Fn() -> String) -> usize {
    let found = results(run);
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{}", say());
    for (name, text) in &found {
        assert_eq!(text, &wanted[name], "{} differs; {}", name.display(), say());
    }
    // One line per completion: none that was saved was asked for again.
    let completions = completions(run);
    let asked: HashSet<String> =
        completions.iter().map(|line| format!("{} {}", line["key"], line["request"])).collect();
    assert_eq!(asked.len(), completions.len(), "a completion is there twice; {}", say());
    // And what the program says it spent is what the journal holds, each line counted once.
    let said = fs::read_to_string(folder.join("stdout")).unwrap();
    let end: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let tokens: u64 =
        completions.iter().map(|line| line["completion"]["tokens"].as_u64().unwrap_or_default()).sum();
    assert_eq!(end["event"], "end", "{}", say());
    assert_eq!(end["spent"]["completions"].as_u64(), Some(completions.len() as u64), "{}", say());
    assert_eq!(end["spent"]["tokens"].as_u64(), Some(tokens), "{}", say());
    completions.len()
}

#[test]
fn a_killed_search_goes_on_as_if_nothing_had_happened() {
    let seed =
        std::env::var("PORISM_KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos().into())
        });
    let mut draw = Draw(seed);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("set.jsonl"), PROBLEMS).unwrap();
    let whole = folder.join("whole");
    let status = start(folder, &whole).wait().unwrap();
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    let wanted = results(&whole);
    let needed = look_at(&whole, folder, &wanted, &|| "the uninterrupted run".to_owned());

    let (mut kills, mut runs, mut mid_run) = (0, 0, 0);
    while kills < KILLS {
        runs += 1;
        let run = folder.join(format!("killed-{runs}"));
        let mut kills_here = 0;
        loop {
            let say = || format!("PORISM_KILL_SEED={seed}, run {runs}, kill {kills}");
            let before = completions(&run).len() as u64;
            let mut child = start(folder, &run);
            // A moment is some completions further on and a little later; or early, while the program still loads.
            let after = draw.below(COMPLETIONS + 1);
            let late = Duration::from_micros(draw.below(if after == 0 { 300_000 } else { 30_000 }));
            let started = std::time::Instant::now();
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                assert!(started.elapsed() < PATIENCE, "nothing happens; {}", say());
                if kills < KILLS && completions(&run).len() as u64 >= before + after {
                    std::thread::sleep(late);
                    break child.try_wait().unwrap();
                }
                std::thread::sleep(Duration::from_millis(3));
            };
            if let Some(status) = ended {
                assert!(matches!(status.code(), Some(0 | 1)), "{status}; {}", say());
                let done = look_at(&run, folder, &wanted, &say);
                // Each death may lose what was in flight, and what is in the journal may be more than was needed in the
                // end by as much as was begun early.
                let most = needed + PARALLEL * (kills_here + 1);
                assert!(done <= most, "{done} completions, {needed} needed; {}", say());
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            kills_here += 1;
            mid_run += usize::from(completions(&run).len() as u64 > before);
        }
    }
    assert!(mid_run >= KILLS / 3, "only {mid_run} of {kills} kills hit work; PORISM_KILL_SEED={seed}");
}
