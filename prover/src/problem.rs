//! What is to be proved: a text, a file, or a problem set as published.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::roles::fingerprint;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The set it comes from; a folder's name.
    pub source: String,
    /// Its name within the set; a file's name.
    pub problem_idx: String,
    /// The statement.
    pub question: String,
}

/// Why a problem cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProblemError {
    /// Nothing but white space.
    #[error("{0}: the problem is empty")]
    Empty(String),
    /// Not a problem set.
    #[error("{file}: {what}")]
    Malformed {
        /// The file.
        file: String,
        /// What was expected and what found, and where.
        what: String,
    },
    /// No problem has this id.
    #[error("{file}: no problem is called `{only}`; there are {known}")]
    Unknown {
        /// The file.
        file: String,
        /// What was asked for.
        only: String,
        /// What there is.
        known: String,
    },
}

impl Problem {
    /// A problem typed or read from a text file, named after its own text.
    ///
    /// # Errors
    /// [`ProblemError::Empty`].
    pub fn from_text(text: &str, from: &str) -> Result<Self, ProblemError> {
        let question = text.trim();
        if question.is_empty() {
            let from = if from == "-" { "stdin" } else { from };
            return Err(ProblemError::Empty(from.to_owned()));
        }
        Ok(Self { source: "problem".to_owned(), problem_idx: slug(question), question: question.to_owned() })
    }
}

/// How a problem set is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON array of rows, or one row a line.
    Json,
    /// A table whose first line names its columns; parted by commas, or by semicolons as spreadsheets in some languages do.
    Csv,
    /// The same, parted by tabs.
    Tsv,
}

impl Form {
    /// Endings of files that hold problem sets.
    pub const ENDINGS: [(&'static str, Form); 4] =
        [("json", Form::Json), ("jsonl", Form::Json), ("csv", Form::Csv), ("tsv", Form::Tsv)];

    /// The form that a file's ending stands for.
    pub fn of(ending: &str) -> Option<Self> {
        let ending = ending.to_ascii_lowercase();
        Self::ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, form)| *form)
    }
}

/// What a file with this ending is, if it may hold a problem set in a form that is not read.
pub fn foreign_set(ending: &str) -> Option<&'static str> {
    Some(match ending.to_ascii_lowercase().as_str() {
        "xls" | "xlsx" | "xlsm" | "ods" | "numbers" => "a spreadsheet",
        "parquet" | "arrow" | "feather" => "a table in a binary form",
        "yaml" | "yml" => "YAML",
        "toml" => "TOML",
        "xml" => "XML",
        "sqlite" | "db" => "a database",
        "zip" | "gz" | "xz" | "zst" | "bz2" | "tar" | "7z" => "an archive",
        "pdf" | "docx" | "odt" | "doc" | "rtf" => "a document of a word processor",
        _ => return None,
    })
}

/// Columns that may hold the statement, in the order in which they are looked for.
const STATEMENTS: [&str; 3] = ["question", "problem", "statement"];

/// The rows of a table, as the objects that JSON would have.
fn table_rows(text: &str, form: Form) -> Result<Vec<Value>, String> {
    let first = text.lines().next().unwrap_or_default();
    let count = |mark: char| first.matches(mark).count();
    let mark = match form {
        Form::Tsv => b'\t',
        _ if count(';') > count(',') => b';',
        _ => b',',
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(mark).flexible(false).from_reader(text.as_bytes());
    let names: Vec<String> = reader
        .headers()
        .map_err(|error| format!("is no table: {error}"))?
        .iter()
        .map(|name| name.trim().trim_start_matches('\u{feff}').to_ascii_lowercase())
        .collect();
    if !names.iter().any(|name| STATEMENTS.contains(&name.as_str())) {
        let shown: Vec<&str> = names.iter().map(String::as_str).take(20).collect();
        return Err(format!(
            "has no column `question` (nor `problem` or `statement`); its first line names {}",
            shown.join(", ")
        ));
    }
    let row = |record: csv::StringRecord| {
        let cells = names.iter().zip(record.iter());
        Value::Object(cells.map(|(name, cell)| (name.clone(), Value::from(cell))).collect())
    };
    let records =
        reader.records().map(|record| record.map(row).map_err(|error| format!("is no table: {error}")));
    records.collect()
}

/// Reads a problem set: rows, each with a `question` (or `problem`, `statement`) and perhaps a `problem_idx` or an
/// `id`. `stem` is the file's name without its ending: the set's name. `only` picks rows by `problem_idx` or `id`.
///
/// # Errors
/// [`ProblemError`]
pub fn read_set(
    text: &str,
    form: Form,
    file: &str,
    stem: &str,
    only: &[String],
) -> Result<Vec<Problem>, ProblemError> {
    let malformed = |what: String| ProblemError::Malformed { file: file.to_owned(), what };
    let trimmed = text.trim_start_matches('\u{feff}').trim();
    let rows: Vec<Value> = if form != Form::Json {
        table_rows(trimmed, form).map_err(malformed)?
    } else if trimmed.starts_with('[') {
        serde_json::from_str(trimmed).map_err(|error| malformed(format!("is not JSON: {error}")))?
    } else {
        let lines = trimmed.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(index, line)| {
                serde_json::from_str(line)
                    .map_err(|error| malformed(format!("line {} is not JSON: {error}", index + 1)))
            })
            .collect::<Result<_, _>>()?
    };
    let mut problems = Vec::<(Problem, Option<String>)>::new();
    for (index, row) in rows.iter().enumerate() {
        let number = index + 1;
        let statement = STATEMENTS.iter().find_map(|name| row.get(*name));
        let question = match statement {
            Some(Value::String(question)) if !question.trim().is_empty() => question.trim().to_owned(),
            Some(Value::String(_)) => {
                return Err(malformed(format!("the question of row {number} is empty")));
            }
            Some(_) => return Err(malformed(format!("the question of row {number} is not a string"))),
            None => return Err(malformed(format!("row {number} has no `question`"))),
        };
        let word = |key: &str| match row.get(key) {
            Some(Value::String(word)) if !word.trim().is_empty() => Some(word.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let id = word("id");
        let name = word("problem_idx").or_else(|| id.clone()).unwrap_or_else(|| slug(&question));
        let problem_idx = file_name(&name);
        let source = file_name(&word("source_name").unwrap_or_else(|| stem.to_owned()));
        let twin = problems.iter().position(|(other, _)| other.problem_idx == problem_idx);
        if let Some(twin) = twin {
            return Err(malformed(format!("rows {} and {number} are both called `{problem_idx}`", twin + 1)));
        }
        problems.push((Problem { source, problem_idx, question }, id));
    }
    if problems.is_empty() {
        return Err(malformed("holds no problem".to_owned()));
    }
    for only in only {
        if !problems.iter().any(|row| is_called(row, only)) {
            let known: Vec<&str> =
                problems.iter().map(|(problem, _)| problem.problem_idx.as_str()).take(20).collect();
            let more = if problems.len() > known.len() { ", …" } else { "" };
            let known = format!("{}{more}", known.join(", "));
            return Err(ProblemError::Unknown { file: file.to_owned(), only: only.clone(), known });
        }
    }
    let wanted =
        |row: &(Problem, Option<String>)| only.is_empty() || only.iter().any(|only| is_called(row, only));
    Ok(problems.into_iter().filter(wanted).map(|(problem, _)| problem).collect())
}

fn is_called((problem, id): &(Problem, Option<String>), name: &str) -> bool {
    problem.problem_idx == name || id.as_deref() == Some(name)
}

/// A short name made of the text's first words, and of its digest so that no two texts share one.
pub fn slug(text: &str) -> String {
    let mut words = String::new();
    for c in text.chars().take(200) {
        if c.is_ascii_alphanumeric() {
            words.push(c.to_ascii_lowercase());
        } else if !words.ends_with('-') && !words.is_empty() {
            words.push('-');
        }
        if words.len() >= 32 {
            break;
        }
    }
    let digest = fingerprint([text.as_bytes()]);
    format!("{}-{}", words.trim_end_matches('-'), &digest[..6]).trim_start_matches('-').to_owned()
}

/// A name that is safe as a file's: letters, digits, `-`, `_`, and dots that do not lead.
fn file_name(name: &str) -> String {
    let safe = |(at, c): (usize, char)| {
        if c.is_alphanumeric() || matches!(c, '-' | '_') || (c == '.' && at > 0) { c } else { '_' }
    };
    let name: String = name.trim().chars().take(80).enumerate().map(safe).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_published() {
        let array = r#"[{"id": 1, "question": "A?", "contest": "C", "problem_idx": "C-1"}, {"id": 2, "question": "B?"}]"#;
        let lines = "{\"id\": 1, \"question\": \"A?\", \"problem_idx\": \"C-1\"}\n\n{\"id\": 2, \"question\": \"B?\"}\n";
        for text in [array, lines] {
            let all = read_set(text, Form::Json, "C.json", "C", &[]).unwrap();
            assert_eq!(all.iter().map(|p| p.problem_idx.as_str()).collect::<Vec<_>>(), ["C-1", "2"]);
            assert_eq!((all[0].source.as_str(), all[0].question.as_str()), ("C", "A?"));
            assert_eq!(read_set(text, Form::Json, "C.json", "C", &["1".into()]).unwrap(), all[..1]);
            assert_eq!(read_set(text, Form::Json, "C.json", "C", &["C-1".into(), "2".into()]).unwrap(), all);
            let error = read_set(text, Form::Json, "C.json", "C", &["9".into()]).unwrap_err().to_string();
            assert_eq!(error, "C.json: no problem is called `9`; there are C-1, 2");
        }
    }

    #[test]
    fn bad_rows_are_named() {
        let error = |text: &str| read_set(text, Form::Json, "f", "f", &[]).unwrap_err().to_string();
        assert!(error("[{\"question\": \"a\"}, {}]").contains("row 2 has no `question`"));
        assert!(error("[{\"question\": \" \"}]").contains("question of row 1 is empty"));
        assert!(error("[{\"question\": 3}]").contains("question of row 1 is not a string"));
        assert!(error("[3]").contains("row 1 has no `question`"));
        assert!(error("{\"question\": \"a\"}\n{").contains("line 2 is not JSON"));
        assert!(error("[1,").contains("is not JSON"));
        assert!(error("").contains("holds no problem"));
        assert!(
            error("[{\"question\":\"a\",\"id\":1},{\"question\":\"b\",\"id\":\"1\"}]")
                .contains("rows 1 and 2")
        );
    }

    #[test]
    fn tables_are_sets_too() {
        let rows = |text: &str, form: Form| {
            let set = read_set(text, form, "C.csv", "C", &[]).unwrap();
            set.into_iter().map(|problem| (problem.problem_idx, problem.question)).collect::<Vec<_>>()
        };
        let expected =
            [("1".to_owned(), "Show, that \"a\"\nholds.".to_owned()), ("2".to_owned(), "B; c?".to_owned())];
        let commas = "\u{feff}id,Question,points\r\n1,\"Show, that \"\"a\"\"\nholds.\",7\r\n2,B; c?,7\r\n";
        assert_eq!(rows(commas, Form::Csv), expected);
        let semicolons = "question;id\n\"Show, that \"\"a\"\"\nholds.\";1\n\"B; c?\";2";
        assert_eq!(rows(semicolons, Form::Csv), expected);
        let tabs = "id\tproblem\n1\t\"Show, that \"\"a\"\"\nholds.\"\n2\tB; c?\n";
        assert_eq!(rows(tabs, Form::Tsv), expected);
        let only = read_set(commas, Form::Csv, "C.csv", "C", &["2".to_owned()]).unwrap();
        assert_eq!((only.len(), only[0].source.as_str()), (1, "C"));
        let error = |text: &str| read_set(text, Form::Csv, "f.csv", "f", &[]).unwrap_err().to_string();
        assert!(
            error("id,text\n1,a\n").contains("no column `question`")
                && error("id,text\n1,a\n").contains("id, text")
        );
        assert!(error("id,question\n1\n").contains("is no table"), "{}", error("id,question\n1\n"));
        assert!(error("id,question\n1,\n").contains("question of row 1 is empty"));
        assert!(error("id,question\n").contains("holds no problem"));
        assert!(error("").contains("no column"));
        assert_eq!(
            (Form::of("CSV"), Form::of("jsonl"), Form::of("md")),
            (Some(Form::Csv), Some(Form::Json), None)
        );
        assert_eq!((foreign_set("XLSX"), foreign_set("txt")), (Some("a spreadsheet"), None));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let set =
            read_set("[{\"question\": \"a\", \"problem_idx\": \"../../x/y\"}]", Form::Json, "f", "..", &[])
                .unwrap();
        assert_eq!((set[0].problem_idx.as_str(), set[0].source.as_str()), ("_._.._x_y", "_."));
        assert!(Problem::from_text(" \n", "-").is_err());
        let named = Problem::from_text("Prove that gcd(84, 30) = 6.", "-").unwrap();
        assert!(named.problem_idx.starts_with("prove-that-gcd-84-30-6-"), "{}", named.problem_idx);
        assert_ne!(slug("a?"), slug("a!"));
    }
}
