//! What a run was asked to do: `run.toml`.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;
use crate::roles::fingerprint;
use crate::settings::Settings;

/// Who answers, and how to tell that it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// For people; at endpoints, what they call it.
    pub name: String,
    /// Of the weights, or of the model's name and revision at its endpoints.
    pub fingerprint: String,
    /// Of the model's weights, where whoever asks its endpoints gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Addresses of the endpoints; empty for a model in this process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

impl Model {
    /// For people: what it is, and where.
    pub fn label(&self) -> String {
        let revision =
            self.revision.as_ref().map_or(String::new(), |revision| format!(", revision {revision},"));
        match self.endpoints.as_slice() {
            [] => self.name.clone(),
            endpoints => format!("{}{revision} at {}", self.name, endpoints.join(", ")),
        }
    }
}

/// Where the prompts come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// The file, or `built-in`.
    pub source: String,
    /// Of its text.
    pub fingerprint: String,
}

/// `run.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format.
    pub version: u32,
    /// Of the run.
    pub seed: u64,
    /// Fingerprint of the problems.
    pub problems: String,
    /// Writes and refines.
    pub generator: Model,
    /// Reads and compares.
    pub verifier: Model,
    /// What they are asked.
    pub prompts: Prompts,
    /// How much is asked.
    pub settings: Settings,
    /// What the model knows that writes or reads, where that is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Known>,
}

/// What a model knows, as far as a run is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The model.
    pub model: String,
    /// Its domain in words.
    pub knows: String,
    /// The program that recomputes proofs of its problems, unless that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The problems that are none of it, and are asked all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<String>,
}

impl Known {
    /// What its word is worth.
    pub fn reservation(&self) -> String {
        format!("{} knows {}; nothing it says of other problems counts.", self.model, self.knows)
    }
}

impl Manifest {
    /// The version this program writes.
    pub const VERSION: u32 = 1;

    /// Whether a problem is none that the model knows.
    pub fn is_outside(&self, problem: &Problem) -> bool {
        self.domain.as_ref().is_some_and(|known| known.outside.contains(&problem.problem_idx))
    }

    /// Fingerprint of a list of problems.
    pub fn problems(problems: &[Problem]) -> String {
        fingerprint(problems.iter().flat_map(|problem| {
            [problem.source.as_bytes(), problem.problem_idx.as_bytes(), problem.question.as_bytes()]
        }))
    }

    /// The first difference that makes the completions of `old` useless: name, old and new value. Numbers of proofs, readings
    /// and rounds, and budgets may change: decisions are made anew from the completions there are.
    pub(crate) fn difference(&self, old: &Manifest) -> Option<(String, String, String)> {
        let model = |model: &Model| format!("{} ({})", model.label(), model.fingerprint);
        let prompts = |prompts: &Prompts| format!("{} ({})", prompts.source, prompts.fingerprint);
        let (new, was) = (&self.settings, &old.settings);
        let pairs = [
            ("the format's version", old.version.to_string(), self.version.to_string()),
            ("the problem", old.problems.clone(), self.problems.clone()),
            ("the seed", old.seed.to_string(), self.seed.to_string()),
            ("the model", model(&old.generator), model(&self.generator)),
            ("the verifier's model", model(&old.verifier), model(&self.verifier)),
            ("the prompt set", prompts(&old.prompts), prompts(&self.prompts)),
            ("temperature", was.temperature.to_string(), new.temperature.to_string()),
            ("reading_temperature", was.reading_temperature.to_string(), new.reading_temperature.to_string()),
            ("top_p", was.top_p.to_string(), new.top_p.to_string()),
            (
                "max_tokens_per_proof",
                was.max_tokens_per_proof.to_string(),
                new.max_tokens_per_proof.to_string(),
            ),
            (
                "max_tokens_per_reading",
                was.max_tokens_per_reading.to_string(),
                new.max_tokens_per_reading.to_string(),
            ),
            (
                "evaluations_to_refine",
                was.evaluations_to_refine.to_string(),
                new.evaluations_to_refine.to_string(),
            ),
        ];
        let differ = |pair: &(&str, String, String)| {
            // The same weights under another name are the same.
            let digest =
                |text: &str| text.rsplit_once('(').map_or(text.to_owned(), |(_, digest)| digest.to_owned());
            digest(&pair.1) != digest(&pair.2)
        };
        let found = pairs.into_iter().find(differ);
        found.map(|(setting, was, now)| (setting.to_owned(), was, now))
    }
}
