//! A run is a folder. `events.jsonl` is the truth: one line per finished completion, on the disk before it counts. All else
//! can be made again from it.
//!
//! | file | holds |
//! |---|---|
//! | `run.toml` | seed, models, prompt set, settings: [`Manifest`] |
//! | `problem.md` or `problems.jsonl` | what is to be proved |
//! | `events.jsonl` | the journal: [`Line`] |
//! | `pool/<source>/<problem_idx>.jsonl` | the proofs that are decided, a [`Proof`] a line |
//! | `predictions.jsonl` | the chosen proofs, an [`Outcome`] a line |
//! | `solution.md` | the chosen proofs for people |

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::complete::Completion;
pub use crate::manifest::{Known, Manifest, Model, Prompts};
use crate::place::toml_error;
use crate::pool::{Outcome, Proof};
use crate::problem::Problem;
use crate::roles::Key;

/// What goes wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or made.
    #[error("{path}: {what}: {source}")]
    File {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The journal takes no more, as on a full disk.
    #[error(
        "{path}: cannot be written: {source}; every completion before this one is saved, and the same command goes on from there"
    )]
    Journal {
        /// The journal.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A line of a file is not what this program writes.
    #[error("{path}: line {line} is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// `run.toml` is not what this program writes.
    #[error("{path}: {what}; write it as it was, or name another folder")]
    Malformed {
        /// The file.
        path: String,
        /// Line, column and what was expected there.
        what: String,
    },
    /// The folder holds something else.
    #[error("{path}: holds other files and no run.toml, so it is no run; name another folder")]
    NotARun {
        /// The folder.
        path: String,
    },
    /// The folder holds a run with other settings.
    #[error(
        "{path}: holds another run: {setting} was {was}, now it is {now}; name another folder, or use --fork to start a copy of the run with the new value"
    )]
    Changed {
        /// The folder.
        path: String,
        /// What differs.
        setting: String,
        /// Its value in the folder.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Another process works in the folder.
    #[error("{path}: another process is working on this run")]
    Locked {
        /// The folder.
        path: String,
    },
}

/// A finished completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is for.
    pub key: Key,
    /// Fingerprint of everything that was asked: model, prompt, seed, sampling, limit.
    pub request: String,
    /// Its seed.
    pub seed: u64,
    /// What came, unless the attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tokens generated in tries that came to nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wasted: u64,
    /// It was lost because nobody could be reached, or answered in full: the next session asks again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// The context that it did not fit, where it was lost for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Completions, lost ones included.
    pub completions: u64,
    /// Completions that failed.
    pub failed: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens among the generated ones that came to nothing, in answers that were cut off and asked for again.
    pub wasted: u64,
    /// Tokens among the generated ones of answers that were broken off because they were no longer wanted.
    pub canceled: u64,
    /// Completions whose tokens are estimated, because their endpoint does not count them.
    pub estimated: u64,
}

impl Spent {
    /// Counts a completion.
    pub(crate) fn add(&mut self, record: &Record) {
        self.completions += 1;
        self.tokens = self.tokens.saturating_add(record.wasted);
        self.wasted = self.wasted.saturating_add(record.wasted);
        match &record.completion {
            Some(completion) => {
                self.tokens = self.tokens.saturating_add(completion.tokens);
                self.prompt_tokens = self.prompt_tokens.saturating_add(completion.prompt_tokens);
                self.estimated += u64::from(completion.is_estimated());
            }
            None => self.failed += 1,
        }
    }

    /// Counts what answers had cost that were broken off.
    pub(crate) fn cancel(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
        self.canceled = self.canceled.saturating_add(tokens);
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// The program began or went on.
    Session {
        /// Seconds since 1970.
        unix_seconds: u64,
        /// The program's version.
        version: String,
    },
    /// A completion ended.
    Completion(Box<Record>),
    /// Answers that were no longer wanted were broken off.
    Canceled {
        /// Tokens they had cost.
        tokens: u64,
    },
    /// The program ended by itself.
    End {
        /// Seconds since 1970.
        unix_seconds: u64,
        /// How long this session took.
        seconds: f64,
    },
}

/// An open run.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    journal: Journal,
    // Held for its lock.
    _lock: File,
    records: Vec<Record>,
    canceled_tokens: u64,
}

impl Run {
    /// Opens a run's folder, or makes it. With `fork`, a folder whose run was made with other settings is left alone; its
    /// completions are copied to a new folder beside it, where those that still fit are used again.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open(
        folder: &Path,
        manifest: &Manifest,
        problems: &[Problem],
        fork: bool,
    ) -> Result<Self, StoreError> {
        let mut folder = folder.to_owned();
        if let Some(old) = read_manifest(&folder)? {
            if let Some((setting, was, now)) = manifest.difference(&old) {
                if !fork {
                    return Err(StoreError::Changed { path: shown(&folder), setting, was, now });
                }
                let copy = free_name(&folder);
                make_folder(&copy)?;
                let (from, to) = (folder.join(JOURNAL), copy.join(JOURNAL));
                fs::copy(&from, &to).map_err(file_error(&from, "cannot be copied"))?;
                folder = copy;
            }
        } else {
            make_folder(&folder)?;
            let mut entries = fs::read_dir(&folder).map_err(file_error(&folder, "cannot be listed"))?;
            // A kill before run.toml was written leaves the lock.
            if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK)) {
                return Err(StoreError::NotARun { path: shown(&folder) });
            }
        }
        let lock = lock(&folder)?;
        let text = toml::to_string(manifest).expect("a manifest is TOML");
        write_whole(&folder.join(MANIFEST), text.as_bytes())?;
        write_problems(&folder, problems)?;
        let (journal, lines) = Journal::open(&folder.join(JOURNAL))?;
        let mut run = Self { folder, journal, _lock: lock, records: Vec::new(), canceled_tokens: 0 };
        for line in lines {
            match line {
                Line::Completion(record) => run.records.push(*record),
                Line::Canceled { tokens } => run.canceled_tokens = run.canceled_tokens.saturating_add(tokens),
                Line::Session { .. } | Line::End { .. } => {}
            }
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        run.journal.append(&Line::Session { unix_seconds: now(), version })?;
        Ok(run)
    }

    /// Where it is; another place than asked for after a fork.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The completions so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Tokens of answers that were broken off because they were no longer wanted.
    pub fn canceled_tokens(&self) -> u64 {
        self.canceled_tokens
    }

    /// Notes that answers were broken off which had cost so many tokens.
    ///
    /// # Errors
    /// [`StoreError::Journal`]
    pub fn cancel(&mut self, tokens: u64) -> Result<(), StoreError> {
        self.canceled_tokens = self.canceled_tokens.saturating_add(tokens);
        self.journal.append(&Line::Canceled { tokens })
    }

    /// Adds a completion; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Journal`]; the journal is then as it was before.
    pub fn append(&mut self, record: Record) -> Result<(), StoreError> {
        let line = Line::Completion(Box::new(record));
        self.journal.append(&line)?;
        if let Line::Completion(record) = line {
            self.records.push(*record);
        }
        Ok(())
    }

    /// Notes that the program ends by itself.
    ///
    /// # Errors
    /// [`StoreError::Journal`]
    pub fn end(&mut self, seconds: f64) -> Result<(), StoreError> {
        self.journal.append(&Line::End { unix_seconds: now(), seconds })
    }

    /// Writes the pool of a problem.
    ///
    /// # Errors
    /// [`StoreError::File`]
    pub(crate) fn write_pool<'a>(
        &self,
        problem: &Problem,
        pool: impl Iterator<Item = &'a Proof>,
    ) -> Result<(), StoreError> {
        let name = Path::new(POOL).join(&problem.source).join(format!("{}.jsonl", problem.problem_idx));
        self.write(&name, &as_lines(pool))
    }

    /// Writes a file of the run, whole or not at all. `name` may have folders in it.
    ///
    /// # Errors
    /// [`StoreError::File`]
    pub fn write(&self, name: &Path, contents: &str) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        write_whole(&path, contents.as_bytes())
    }
}

const MANIFEST: &str = "run.toml";
const JOURNAL: &str = "events.jsonl";
const LOCK: &str = ".lock";
/// A problem that was typed, or the only one of a set.
pub(crate) const PROBLEM: &str = "problem.md";
/// Several problems.
pub(crate) const PROBLEMS: &str = "problems.jsonl";
/// What came of them.
pub(crate) const PREDICTIONS: &str = "predictions.jsonl";
const POOL: &str = "pool";

/// Reads `run.toml`; `None` where there is none.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn read_manifest(folder: &Path) -> Result<Option<Manifest>, StoreError> {
    let path = folder.join(MANIFEST);
    let Some(text) = read_text(&path)? else { return Ok(None) };
    let malformed = |error| StoreError::Malformed { path: shown(&path), what: toml_error(&text, &error) };
    toml::from_str(&text).map(Some).map_err(malformed)
}

/// The text of a file; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(file_error(path, "cannot be read")(error)),
    }
}

/// Reads a run's journal without touching it; a torn last line is left out, and nothing is read where there is none.
///
/// # Errors
/// [`StoreError`]
pub fn read_journal(folder: &Path) -> Result<Vec<Line>, StoreError> {
    let path = folder.join(JOURNAL);
    let mut bytes = Vec::new();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(&path, "cannot be read")(error)),
    };
    ensure_file(&file, &path)?;
    file.read_to_end(&mut bytes).map_err(file_error(&path, "cannot be read"))?;
    Ok(whole_lines(&bytes, &path, true)?.0)
}

/// What came of a run's problems; without a prediction where they were not searched yet.
pub(crate) fn read_outcomes(folder: &Path) -> Result<Vec<Outcome>, StoreError> {
    let outcomes = read_lines(&folder.join(PREDICTIONS))?;
    if outcomes.is_empty() { read_lines(&folder.join(PROBLEMS)) } else { Ok(outcomes) }
}

/// The proofs of each problem, with its source and name, in the order of these.
pub(crate) fn read_pools(folder: &Path) -> Result<Vec<(String, String, Vec<Proof>)>, StoreError> {
    let name = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let mut pools = Vec::new();
    for source in list(&folder.join(POOL))?.into_iter().filter(|path| path.is_dir()) {
        for file in
            list(&source)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        {
            pools.push((name(source.file_name()), name(file.file_stem()), read_lines(&file)?));
        }
    }
    Ok(pools)
}

/// What is in a folder, sorted; nothing where there is no folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let cannot = || file_error(folder, "cannot be read");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot()(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(cannot())?;
    paths.sort();
    Ok(paths)
}

/// A file of lines of JSON; none where there is no file.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StoreError> {
    Ok(whole_lines(read_text(path)?.unwrap_or_default().as_bytes(), path, false)?.0)
}

/// Lines of JSON that are whole, and the length of that part of the file: the last one may be torn.
fn whole_lines<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    is_journal: bool,
) -> Result<(Vec<T>, usize), StoreError> {
    let mut lines = Vec::new();
    let (mut good, mut number) = (0, 0);
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        number += 1;
        match serde_json::from_slice(&rest[..end]) {
            Ok(line) => lines.push(line),
            Err(_) if rest[..end].trim_ascii().is_empty() => {}
            // A crash of the whole machine may leave anything at the very end.
            Err(_) if is_journal && rest[end + 1..].iter().all(|byte| *byte == 0) => break,
            Err(error) => {
                return Err(StoreError::Damaged { path: shown(path), line: number, what: error.to_string() });
            }
        }
        rest = &rest[end + 1..];
        good += end + 1;
    }
    Ok((lines, good))
}

/// A device or a pipe has no end to be read to.
fn ensure_file(file: &File, path: &Path) -> Result<(), StoreError> {
    let kind = file.metadata().map_err(file_error(path, "cannot be read"))?;
    if kind.is_file() {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    Err(file_error(path, "cannot be used as a journal")(source))
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Journal {
    fn open(path: &Path) -> Result<(Self, Vec<Line>), StoreError> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(file_error(path, "cannot be opened"))?;
        ensure_file(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(file_error(path, "cannot be read"))?;
        let (lines, good) = whole_lines(&bytes, path, true)?;
        let length = good as u64;
        if good < bytes.len() {
            // The line was never counted: its completion is asked for again.
            file.set_len(length).map_err(file_error(path, "cannot be shortened"))?;
        }
        file.seek(SeekFrom::Start(length)).map_err(file_error(path, "cannot be read"))?;
        Ok((Self { path: path.to_owned(), file, length }, lines))
    }

    fn append(&mut self, line: &Line) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec(line).expect("a line of the journal is JSON");
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a line would be dropped by the next reader anyhow.
            let back =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            drop(back);
            return Err(StoreError::Journal { path: shown(&self.path), source });
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn write_problems(folder: &Path, problems: &[Problem]) -> Result<(), StoreError> {
    match problems {
        [one] => write_whole(&folder.join(PROBLEM), format!("{}\n", one.question).as_bytes()),
        many => write_whole(&folder.join(PROBLEMS), as_lines(many).as_bytes()),
    }
}

/// Lines of JSON.
pub(crate) fn as_lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> String {
    let line = |value| serde_json::to_string(&value).expect("what a run holds is JSON") + "\n";
    values.into_iter().map(line).collect()
}

/// Readers see the old file or the new one, never a part.
pub(crate) fn write_whole(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(contents)?;
        file.sync_data()?;
        fs::rename(&part, path)
    };
    write().map_err(|error| {
        drop(fs::remove_file(&part));
        file_error(path, "cannot be written")(error)
    })
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(folder).map_err(file_error(folder, "cannot be made"))
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(file_error(&path, "cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path: shown(folder) }),
        // Some file systems have no locks; a run is worth more than the warning.
        Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

fn free_name(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut number = 2;
    loop {
        let candidate = folder.with_file_name(format!("{name}-fork-{number}"));
        if !candidate.exists() {
            return candidate;
        }
        number += 1;
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn file_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = shown(path);
    move |source| StoreError::File { path, what, source }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
