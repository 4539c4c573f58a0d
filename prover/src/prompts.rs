//! Prompts are data: a `prompts.toml`, the built-in set, or the templates of a published `math_templates.py`.
//!
//! A prompt set has the keys `generate`, `verify`, `meta_verify`, `refine`, and may have `candidate` (one proof with its
//! evaluations, as `refine` shows it) and `compare`. Placeholders: `{problem}`, `{solution}`, `{evaluation}`,
//! `{candidates}`, `{instruction}` (the whole generate prompt), `{other}` (the second proof of a comparison). Other braces
//! stand for themselves. The set that a model brings along may have a table [`domain`].

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

use crate::domain::{self, Domain};
use crate::place::{place, toml_error};
use crate::python;
use crate::roles::fingerprint;

const BUILT_IN: &str = include_str!("builtin_prompts.toml");

/// The most that is read of a prompt file.
const FILE_LIMIT: u64 = 1 << 20;

/// What is wrong with a prompt set.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is too long to be one.
    #[error("{file}: has {found} bytes, a prompt set has at most {FILE_LIMIT}")]
    TooLong {
        /// The file.
        file: String,
        /// Its length.
        found: u64,
    },
    /// It is not a prompt set.
    #[error("{file}: {what}")]
    Malformed {
        /// The file.
        file: String,
        /// What was expected and what found.
        what: String,
    },
    /// A template does without what it is about.
    #[error("{file}: the template `{template}` has no {{{placeholder}}}")]
    Missing {
        /// The file.
        file: String,
        /// The template.
        template: &'static str,
        /// The placeholder.
        placeholder: &'static str,
    },
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Problem,
    Solution,
    Evaluation,
    Candidates,
    Instruction,
    Other,
}

const SLOTS: [(&str, Slot); 6] = [
    ("problem", Slot::Problem),
    ("solution", Slot::Solution),
    ("evaluation", Slot::Evaluation),
    ("candidates", Slot::Candidates),
    ("instruction", Slot::Instruction),
    ("other", Slot::Other),
];

/// The names that the published templates use.
const PYTHON_SLOTS: [(&str, Slot); 6] = [
    ("question", Slot::Problem),
    ("statement", Slot::Problem),
    ("proof", Slot::Solution),
    ("rating", Slot::Evaluation),
    ("proofs_to_refine", Slot::Candidates),
    ("instruction", Slot::Instruction),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Slot(Slot),
}

/// Text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Piece>);

impl Template {
    /// Braces that are no placeholder stand for themselves.
    fn plain(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text.trim();
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            let found = SLOTS
                .iter()
                .find(|(name, _)| rest[1..].strip_prefix(name).is_some_and(|after| after.starts_with('}')));
            match found {
                Some((name, slot)) => {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    pieces.push(Piece::Slot(*slot));
                    rest = &rest[name.len() + 2..];
                }
                None => {
                    literal.push('{');
                    rest = &rest[1..];
                }
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Text(literal));
        Self(pieces)
    }

    /// As Python's `str.format` reads it: `{{` and `}}` are braces, `{name}` is a placeholder.
    fn python(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = PYTHON_SLOTS.iter().chain(&SLOTS).map(|(name, _)| *name).collect();
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else {
                let inner = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
                let (name, after) = inner.ok_or("has a brace that is not closed")?;
                let slot = PYTHON_SLOTS.iter().chain(&SLOTS).find(|(known, _)| *known == name);
                let (_, slot) = slot.ok_or_else(|| {
                    let name: String = name.chars().take(40).collect();
                    format!("has the placeholder {{{name}}}, known are {}", names.join(", "))
                })?;
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
                pieces.push(Piece::Slot(*slot));
                rest = after;
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Text(literal));
        Ok(Self(pieces))
    }

    fn has(&self, slot: Slot) -> bool {
        self.0.contains(&Piece::Slot(slot))
    }

    /// What stands in the place of a placeholder, if this is the template filled in.
    fn find<'a>(&self, slot: Slot, text: &'a str) -> Option<&'a str> {
        let mut rest = text;
        let mut open = None;
        let mut found = None;
        for (index, piece) in self.0.iter().enumerate() {
            match piece {
                Piece::Slot(this) => open = Some(*this),
                Piece::Text(literal) => {
                    let last = index + 1 == self.0.len();
                    let at = match (open, last) {
                        (None, _) => rest.starts_with(literal.as_str()).then_some(0)?,
                        (Some(_), true) => rest.strip_suffix(literal.as_str())?.len(),
                        (Some(_), false) => rest.find(literal.as_str())?,
                    };
                    if open == Some(slot) && found.is_none() {
                        found = Some(&rest[..at]);
                    }
                    rest = &rest[at + literal.len()..];
                }
            }
        }
        found.filter(|_| rest.is_empty())
    }

    fn fill(&self, values: &[(Slot, &str)]) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(words) => text.push_str(words),
                Piece::Slot(slot) => {
                    if let Some((_, value)) = values.iter().find(|(known, _)| known == slot) {
                        text.push_str(value);
                    }
                }
            }
        }
        text
    }
}

/// The prompts of all roles.
#[derive(Clone, Debug)]
pub struct PromptSet {
    source: String,
    fingerprint: String,
    generate: Template,
    verify: Template,
    meta_verify: Template,
    refine: Template,
    candidate: Template,
    compare: Option<Template>,
    numbered: bool,
    domain: Option<Domain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    generate: String,
    verify: String,
    meta_verify: String,
    refine: String,
    candidate: Option<String>,
    compare: Option<String>,
    domain: Option<domain::Table>,
}

impl PromptSet {
    /// The set in our own words.
    pub fn built_in() -> Self {
        Self::from_toml(BUILT_IN, "built-in").expect("the built-in prompts are a prompt set")
    }

    /// Reads a file: Python if its name ends in `.py`, else TOML.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn open(path: &Path) -> Result<Self, PromptError> {
        let file = path.display().to_string();
        let read = |source| PromptError::Read { file: file.clone(), source };
        let found = std::fs::metadata(path).map_err(read)?;
        if found.is_dir() {
            return Err(read(std::io::ErrorKind::IsADirectory.into()));
        }
        if !found.is_file() {
            // A pipe would wait for its other end.
            return Err(read(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_LIMIT + 1).read_to_string(&mut text))
            .map_err(read)?;
        // The limit holds even if the file grows while it is read.
        let found = found.len().max(text.len() as u64);
        if found > FILE_LIMIT {
            return Err(PromptError::TooLong { file, found });
        }
        let is_python = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("py"));
        if is_python { Self::from_python(&text, &file) } else { Self::from_toml(&text, &file) }
    }

    /// Reads a `prompts.toml`; `source` names it in errors and in the run's settings.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn from_toml(text: &str, source: &str) -> Result<Self, PromptError> {
        let malformed = |what: String| PromptError::Malformed { file: source.to_owned(), what };
        let file: File = toml::from_str(text).map_err(|error| malformed(toml_error(text, &error)))?;
        let candidate = file.candidate.as_deref().unwrap_or("{solution}\n\n{evaluation}");
        let domain = file.domain.map(domain::Table::read).transpose();
        let domain =
            domain.map_err(|(span, key, why)| malformed(format!("{}: {key} {why}", place(text, &span))))?;
        // What the model knows is no part of the questions: a run goes on when only that was changed.
        let own = match domain {
            None => fingerprint([text.as_bytes()]),
            Some(_) => {
                let questions = [&file.generate, &file.verify, &file.meta_verify, &file.refine];
                let others = [candidate, file.compare.as_deref().unwrap_or_default()];
                fingerprint(questions.into_iter().map(String::as_str).chain(others).map(str::as_bytes))
            }
        };
        Self {
            source: source.to_owned(),
            fingerprint: own,
            domain,
            generate: Template::plain(&file.generate),
            verify: Template::plain(&file.verify),
            meta_verify: Template::plain(&file.meta_verify),
            refine: Template::plain(&file.refine),
            candidate: Template::plain(candidate),
            compare: file.compare.as_deref().map(Template::plain),
            numbered: false,
        }
        .checked()
    }

    /// Reads the four templates of a Python file: strings assigned to names, keys of a dictionary or its items. Nothing is
    /// executed.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn from_python(text: &str, source: &str) -> Result<Self, PromptError> {
        let malformed = |what: String| PromptError::Malformed { file: source.to_owned(), what };
        let strings = python::strings(text).map_err(&malformed)?;
        let find = |role: &str, slot: Slot| -> Result<Template, PromptError> {
            let fits = |name: &str| match role {
                "generate" => name.contains("generat"),
                "verify" => name.contains("verif") && !name.contains("meta"),
                "meta_verify" => name.contains("meta"),
                _ => name.contains("refine"),
            };
            let candidates: Vec<_> = strings.iter().filter(|(name, _)| fits(&name.to_lowercase())).collect();
            let read = |(name, value): &(&String, &python::Value)| match value {
                Ok(value) => {
                    Template::python(value).map_err(|what| malformed(format!("the template {name} {what}")))
                }
                Err(why) => Err(malformed(format!("the template {name}: {why}"))),
            };
            // A title or a note may be called alike; the template is the one that holds what it is about.
            let templates: Vec<_> = candidates.iter().map(read).collect();
            let best = templates
                .iter()
                .position(|template| template.as_ref().is_ok_and(|template| template.has(slot)))
                .unwrap_or(0);
            templates.into_iter().nth(best).unwrap_or_else(|| {
                let found: Vec<&str> = strings.keys().map(String::as_str).take(8).collect();
                Err(malformed(format!(
                    "no string for the role {role}; strings found: [{}]",
                    found.join(", ")
                )))
            })
        };
        Self {
            source: source.to_owned(),
            fingerprint: fingerprint([text.as_bytes()]),
            generate: find("generate", Slot::Problem)?,
            verify: find("verify", Slot::Solution)?,
            meta_verify: find("meta_verify", Slot::Evaluation)?,
            refine: find("refine", Slot::Candidates)?,
            candidate: Template::plain("--- Solution 0 ---\n{solution}\n\n{evaluation}"),
            compare: None,
            numbered: true,
            domain: None,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, PromptError> {
        let wanted = [
            ("generate", &self.generate, Slot::Problem, "problem"),
            ("verify", &self.verify, Slot::Solution, "solution"),
            ("meta_verify", &self.meta_verify, Slot::Evaluation, "evaluation"),
            ("refine", &self.refine, Slot::Candidates, "candidates"),
            ("candidate", &self.candidate, Slot::Solution, "solution"),
            ("compare", self.compare.as_ref().unwrap_or(&self.candidate), Slot::Solution, "solution"),
        ];
        for (template, text, slot, placeholder) in wanted {
            if !text.has(slot) {
                return Err(PromptError::Missing { file: self.source, template, placeholder });
            }
        }
        if self.compare.as_ref().is_some_and(|compare| !compare.has(Slot::Other)) {
            return Err(PromptError::Missing {
                file: self.source,
                template: "compare",
                placeholder: "other",
            });
        }
        Ok(self)
    }

    /// Where it came from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Tells sets apart: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether there is a prompt for comparisons.
    pub fn compares(&self) -> bool {
        self.compare.is_some()
    }

    /// What the model knows that this set belongs to, if that is little enough to be written down.
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// What is the problem of a prompt, if it is one of these, filled in; for each that it may be.
    pub fn problems_of<'a>(&self, prompt: &'a str) -> impl Iterator<Item = &'a str> {
        let prompt = prompt.trim();
        let templates = [&self.generate, &self.verify, &self.meta_verify, &self.refine];
        let direct = templates.into_iter().filter_map(move |template| template.find(Slot::Problem, prompt));
        let instruction = self.refine.find(Slot::Instruction, prompt);
        direct.chain(instruction.and_then(|instruction| self.generate.find(Slot::Problem, instruction)))
    }

    /// Asks for a proof.
    pub fn generate(&self, problem: &str) -> String {
        self.generate.fill(&[(Slot::Problem, problem.trim())])
    }

    /// Asks for an evaluation of a proof.
    pub fn verify(&self, problem: &str, proof: &str) -> String {
        self.verify.fill(&[(Slot::Problem, problem.trim()), (Slot::Solution, proof.trim())])
    }

    /// Asks whether an evaluation is right.
    pub fn meta_verify(&self, problem: &str, proof: &str, evaluation: &str) -> String {
        self.meta_verify.fill(&[
            (Slot::Problem, problem.trim()),
            (Slot::Solution, proof.trim()),
            (Slot::Evaluation, evaluation.trim()),
        ])
    }

    /// Asks for a better proof than this one, of which these are the evaluations.
    pub fn refine(&self, problem: &str, proof: &str, evaluations: &[&str]) -> String {
        let shown: Vec<String> = evaluations
            .iter()
            .enumerate()
            .map(|(index, text)| match self.numbered {
                true => format!("=== Evaluation {index} of Solution 0 ===\n{}", text.trim()),
                false => text.trim().to_owned(),
            })
            .collect();
        let candidate = self.candidate.fill(&[
            (Slot::Problem, problem.trim()),
            (Slot::Solution, proof.trim()),
            (Slot::Evaluation, &shown.join("\n\n")),
        ]);
        self.refine.fill(&[
            (Slot::Problem, problem.trim()),
            (Slot::Instruction, self.generate(problem).trim()),
            (Slot::Candidates, candidate.trim()),
        ])
    }

    /// Asks which of two proofs is better.
    pub fn compare(&self, problem: &str, first: &str, second: &str) -> Option<String> {
        let values =
            [(Slot::Problem, problem.trim()), (Slot::Solution, first.trim()), (Slot::Other, second.trim())];
        self.compare.as_ref().map(|compare| compare.fill(&values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/porism-tiny/prompts.toml");

    #[test]
    fn the_built_in_set_fills_every_role() {
        let set = PromptSet::built_in();
        assert!(set.compares());
        assert!(set.generate("P{solution}").contains("P{solution}"), "a problem is not a template");
        assert!(set.generate("P").contains("\\boxed{0.5}"));
        let refine = set.refine("PROBLEM", "PROOF", &["FIRST", "SECOND"]);
        for part in ["PROBLEM", "PROOF", "FIRST\n\nSECOND", "## Self Evaluation"] {
            assert!(refine.contains(part), "{part}");
        }
        assert!(set.compare("P", "A", "B").unwrap().contains("# Proof 2\nB"));
        assert!(set.meta_verify("P", "A", "E").ends_with("# Grading to judge\nE"));
    }

    #[test]
    fn the_demo_model_carries_its_own() {
        let set = PromptSet::open(TINY.as_ref()).unwrap();
        assert_eq!(
            set.refine("P.", "1. a", &["Step 1: no\n\\boxed{0}"]),
            "Write a corrected proof, then evaluate it.\nProblem: P.\nSolution:\n1. a\nEvaluation:\nStep 1: no\n\\boxed{0}"
        );
        assert!(!set.compares());
    }

    const PYTHON: &str = r####"
# templates
import os
math_templates = {
    "proof_generation": """Solve it: {question}
End with \\boxed{{...}}, 'quoted'.""",
    'proof_verification': r'''{statement} | {proof} \boxed{{1}}''',
    "meta_verification": ("{statement} {proof} "
                          "{rating}"),  # two parts
}
math_templates["proof_refinement"] = """
{instruction}
## Candidates
{proofs_to_refine}
""".strip()
"####;

    #[test]
    fn python_templates_are_read_and_not_executed() {
        let set = PromptSet::from_python(PYTHON, "math_templates.py").unwrap();
        assert_eq!(set.generate("P"), "Solve it: P\nEnd with \\boxed{...}, 'quoted'.");
        assert_eq!(set.verify("P", "A"), "P | A \\boxed{1}");
        assert_eq!(set.meta_verify("P", "A", "E"), "P A E");
        assert_eq!(
            set.refine("P", "A", &["E", "F"]),
            "Solve it: P\nEnd with \\boxed{...}, 'quoted'.\n## Candidates\n--- Solution 0 ---\nA\n\n\
             === Evaluation 0 of Solution 0 ===\nE\n\n=== Evaluation 1 of Solution 0 ===\nF"
        );
    }

    #[test]
    fn python_templates_may_be_written_in_many_ways() {
        let wanted = PromptSet::from_python(PYTHON, "a").unwrap();
        let variants = [
            // Names of their own, indented in a class, with notes that are called alike.
            r####"
class Templates:
    """Proof generation and verification: {notes}."""
    generation_title: str = 'Proof generation'
    proof_generation_template: str = textwrap.dedent("""\
        Solve it: {question}
        End with \\boxed{{...}}, 'quoted'.""")
    VERIFICATION = '{statement} | {proof} ' + "\\boxed{{1}}"
    META_VERIFICATION = (
        "{statement} "  # the problem
        "{proof} "      # what was written
        "{rating}"
    )
    refinement = ("""
{instruction}
## Candidates
""" + """{proofs_to_refine}
""").strip()

    def show(self):
        print(f"{self.generation_title}: {len(self.refinement)}")
"####,
            // Calls and additions.
            r####"
templates = dict(
    proof_generation='Solve it: {question}\nEnd with \\boxed{{...}}, \'quoted\'.',
    proof_verification="{statement} | {proof} \u005cboxed{{1}}",
    meta_verification="{statement} {proof} {rating}",
)
templates['proof_refinement'] = '{instruction}\n'
templates['proof_refinement'] += "## Candidates\n{proofs_to_refine}"
"####,
        ];
        for text in variants.iter().flat_map(|text| [(*text).to_owned(), text.replace('\n', "\r\n")]) {
            let set = PromptSet::from_python(&text, "b").unwrap_or_else(|error| panic!("{error} of {text}"));
            assert_eq!(set.generate("P"), wanted.generate("P"), "of {text}");
            assert_eq!(set.verify("P", "A"), wanted.verify("P", "A"), "of {text}");
            assert_eq!(set.meta_verify("P", "A", "E"), wanted.meta_verify("P", "A", "E"), "of {text}");
            assert_eq!(set.refine("P", "A", &["E"]), wanted.refine("P", "A", &["E"]), "of {text}");
        }
    }

    #[test]
    fn errors_say_what_is_missing() {
        let python = |text: &str| PromptSet::from_python(text, "t.py").unwrap_err().to_string();
        assert!(python("x = 1").contains("no string for the role generate"));
        let executed = PYTHON.replace("r'''{statement}", "f'''{statement}");
        let words = "t.py: the template proof_verification: line 7: a string with the prefix f would have to be executed";
        assert!(python(&executed).starts_with(words), "{}", python(&executed));
        assert!(python(&PYTHON.replace(".strip()", ".format(x)")).contains("`.format` of a string"));
        assert!(python("\na = \"\"\"x").contains("line 2: a string is not closed"));
        assert!(python(&PYTHON.replace("{rating}", "{secret}")).contains("placeholder {secret}"));
        assert!(python(&PYTHON.replace("{question}", "")).contains("`generate` has no {problem}"));
        let toml = |text: &str| PromptSet::from_toml(text, "p.toml").unwrap_err().to_string();
        assert!(toml("generate = 1").contains("p.toml"));
        assert!(
            toml("generate='{problem}'\nverify='{solution}'\nmeta_verify=''\nrefine=''")
                .contains("meta_verify")
        );
    }

    proptest! {
        #[test]
        fn any_python_is_refused_or_read(text in "([a-z]|\"|'|\"\"\"|\\\\|r|=|:|\\{|\\}|\\[|\\]|\n|#|\\(|é){0,60}") {
            let _ = PromptSet::from_python(&text, "x");
        }
    }
}
