//! A run's folder as a report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{ProblemReport, Report};
use crate::pool::{self, Outcome};
use crate::store::{
    Known, Line, Manifest, Model, PROBLEM, PROBLEMS, Spent, StoreError, read_journal, read_manifest,
    read_outcomes, read_pools, read_text, write_whole,
};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds no run.
    #[error("{path}: holds no run.toml, so it is no run; name a folder that `porism prove --out` wrote")]
    NotARun {
        /// The folder.
        path: String,
    },
    /// `run.toml` is not what `porism prove` writes.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// Line, column and what was expected there.
        what: String,
    },
    /// A file cannot be read or written, or is damaged.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ReportError {
    fn from(error: StoreError) -> Self {
        match error {
            // Whoever wants a report cannot name another folder.
            StoreError::Malformed { path, what } => Self::Malformed { path, what },
            error => Self::Store(error),
        }
    }
}

/// Reads the run in `folder` and writes its `report.html`, whole or not at all. Returns the file.
///
/// # Errors
/// [`ReportError`] when the folder is no run, damaged, or cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let page = Report::from_folder(folder)?.html();
    let path = folder.join("report.html");
    write_whole(&path, page.html.as_bytes())?;
    Ok(path)
}

impl Report {
    /// Reads a run's folder: `run.toml`, `predictions.jsonl` (or `problems.jsonl`, `problem.md` while there is none yet),
    /// `pool/` and `events.jsonl`. An unfinished run has a report too.
    ///
    /// # Errors
    /// [`ReportError`]
    pub fn from_folder(folder: &Path) -> Result<Self, ReportError> {
        let Some(manifest) = read_manifest(folder)? else {
            return Err(ReportError::NotARun { path: folder.display().to_string() });
        };
        let problems = problems(folder, &manifest)?;
        let mut spent = Spent::default();
        let mut seconds = 0.0;
        for line in read_journal(folder)? {
            match line {
                Line::Completion(record) => spent.add(&record),
                Line::Canceled { tokens } => spent.cancel(tokens),
                Line::End { seconds: session, .. } => seconds += session,
                Line::Session { .. } => {}
            }
        }
        let title = match problems.as_slice() {
            [problem] => problem.title(),
            [] => "A proof".to_owned(),
            problems => format!("{} problems", problems.len()),
        };
        Ok(Self {
            title,
            problems,
            spent,
            seconds,
            settings: settings(&manifest),
            rerun: rerun(&manifest, folder.join(PROBLEMS).exists()),
            // A model whose domain is written down knows no contest problems.
            contest: manifest.domain.is_none(),
            reservation: manifest.domain.as_ref().map(Known::reservation).unwrap_or_default(),
            notes: notes(&manifest),
        })
    }
}

/// The problems of a run, each with its pool.
fn problems(folder: &Path, manifest: &Manifest) -> Result<Vec<ProblemReport>, StoreError> {
    let of = |outcome| ProblemReport { outcome, pool: Vec::new() };
    let mut problems: Vec<ProblemReport> = read_outcomes(folder)?.into_iter().map(of).collect();
    let question = read_text(&folder.join(PROBLEM))?;
    for (source, problem_idx, pool) in read_pools(folder)? {
        let known = problems.iter_mut().find(|ProblemReport { outcome, .. }| {
            outcome.problem_idx == problem_idx && (outcome.source == source || outcome.source.is_empty())
        });
        match known {
            Some(problem) => problem.pool = pool,
            None => {
                let question = question.clone().unwrap_or_default();
                let outcome = Outcome { source, problem_idx, question, ..Outcome::default() };
                problems.push(ProblemReport { outcome, pool });
            }
        }
    }
    if let (true, Some(question)) = (problems.is_empty(), question) {
        problems.push(of(Outcome { question, ..Outcome::default() }));
    }
    let outside = manifest.domain.as_ref().map_or(&[][..], |known| &known.outside);
    for ProblemReport { outcome, pool } in &mut problems {
        outcome.outside_domain |= outside.contains(&outcome.problem_idx);
        if outcome.proof_id.is_none() {
            // Not chosen yet: the best so far.
            let read = pool.iter().filter(|proof| proof.meanscore.is_some() && !proof.is_refuted());
            outcome.proof_id = pool::best(read).map(|proof| proof.proof_id);
        }
    }
    Ok(problems)
}

fn notes(manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    for (model, what) in
        [(&manifest.generator, "Proofs were written"), (&manifest.verifier, "They were read")]
    {
        if !model.endpoints.is_empty() {
            notes.push(format!("{what} by a model behind {}.", model.endpoints.join(", ")));
        }
    }
    notes.push(
        "With the same seed and model the same proofs come out, whatever is batched together. Remote endpoints and time \
         limits are exempt: what they answer, or when, is not ours to repeat."
            .to_owned(),
    );
    notes
}

/// The command, from the settings it left behind.
fn rerun(manifest: &Manifest, set: bool) -> String {
    let mut command = format!("porism prove {}", if set { PROBLEMS } else { PROBLEM });
    let Manifest { generator, verifier, seed, settings, .. } = manifest;
    command.push_str(&named(generator, "--endpoint", "--endpoint-model", "--model"));
    if let Some(revision) = &generator.revision {
        let _ = write!(command, " --endpoint-revision {}", quoted(revision));
    }
    if verifier != generator {
        command.push_str(&named(verifier, "--verifier-endpoint", "--verifier-model", "--verifier-model"));
    }
    let _ = write!(
        command,
        " --seed {seed} --rounds {} --proofs {} --verifications {}",
        settings.rounds, settings.proofs, settings.verifications
    );
    if let Some(most) = settings.max_tokens_total {
        let _ = write!(command, " --max-tokens-total {most}");
    }
    if manifest.domain.as_ref().is_some_and(|known| !known.outside.is_empty()) {
        command.push_str(" --outside-domain");
    }
    command.push_str(" --out again");
    command
}

/// A model as options name it: with its endpoints, or by itself.
fn named(model: &Model, endpoint: &str, remote: &str, local: &str) -> String {
    let addresses: String =
        model.endpoints.iter().map(|address| format!(" {endpoint} {}", quoted(address))).collect();
    let option = if model.endpoints.is_empty() { local } else { remote };
    format!("{addresses} {option} {}", quoted(&model.name))
}

/// As a shell reads it as one word.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    // Within single quotes a shell reads nothing but the closing one.
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// `[settings] rounds = 4` → `settings.rounds`, `4`.
fn settings(manifest: &Manifest) -> Vec<(String, String)> {
    // By way of the text, in which numbers stand as they were typed.
    let text = toml::to_string(manifest).expect("a manifest is TOML");
    let mut rows = Vec::new();
    flatten(&mut rows, "", &text.parse().expect("what was written can be read"));
    rows
}

fn flatten(rows: &mut Vec<(String, String)>, prefix: &str, table: &toml::Table) {
    for (name, value) in table {
        match value {
            toml::Value::Table(table) => flatten(rows, &format!("{prefix}{name}."), table),
            toml::Value::String(text) => rows.push((format!("{prefix}{name}"), text.clone())),
            value => rows.push((format!("{prefix}{name}"), value.to_string())),
        }
    }
}
