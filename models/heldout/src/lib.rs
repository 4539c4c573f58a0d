//! How good the demo model's search is on problems it has never seen, by a checker that recomputes every step.

use std::fmt;
use std::path::{Path, PathBuf};

use porism_checker::problems::{Family, held_out};
use porism_checker::{self as checker, Score};
use porism_loader::{Checkpoint, Options};
use porism_prover::pool::State;
use porism_prover::problem::Problem;
use porism_prover::prompts::PromptSet;
use porism_prover::recompute::Recompute;
use porism_prover::search::{Limits, Plan, Task, search};
use porism_prover::settings::Settings;
use porism_prover::store::{Manifest, Model, Prompts, Run};
use porism_runtime::engine::Engine;
use porism_runtime::{DeviceId, EngineOptions};

mod answerer;

use answerer::Answerer;

/// Completions at once.
const WIDTH: usize = 16;

/// What came of the problems of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Problems.
    pub problems: usize,
    /// Proofs that passed all their readings.
    pub accepted: usize,
    /// Of these, proofs of which every step holds.
    pub right: usize,
    /// Problems of which the chosen proof, accepted or just the best, is right.
    pub solved: usize,
    /// Problems of which the first proof, one sample at temperature 1, is right.
    pub single: usize,
    /// Tokens generated.
    pub tokens: u64,
    /// Accepted proofs that are not right: problem and proof.
    pub wrong: Vec<(String, String)>,
}

impl Tally {
    /// Share of the accepted proofs that are right; 0 without any.
    pub fn precision(&self) -> f64 {
        self.right as f64 / self.accepted.max(1) as f64
    }

    fn add(&mut self, question: &str, plan: &Plan) {
        let problem = checker::Problem::parse(question).expect("a problem of the domain");
        let is_right = |proof: &str| checker::evaluate(&problem, proof).score() == Score::Right;
        self.problems += 1;
        self.single += usize::from(plan.proofs.first().is_some_and(|proof| is_right(&proof.proof)));
        let accepted: Vec<String> = plan
            .proofs
            .iter()
            .filter(|proof| proof.state == State::Passed)
            .map(|proof| proof.proof.clone())
            .collect();
        self.accepted += accepted.len();
        self.right += accepted.iter().filter(|proof| is_right(proof)).count();
        self.solved += usize::from(plan.chosen().is_some_and(|proof| is_right(&proof.proof)));
        let wrong = accepted.into_iter().filter(|proof| !is_right(proof));
        self.wrong.extend(wrong.map(|proof| (question.to_owned(), proof)));
        self.tokens += plan.proofs.iter().map(|proof| proof.tokens).sum::<u64>();
    }

    /// Two families as one.
    #[must_use]
    pub fn plus(mut self, other: &Tally) -> Tally {
        self.problems += other.problems;
        self.accepted += other.accepted;
        self.right += other.right;
        self.solved += other.solved;
        self.single += other.single;
        self.tokens += other.tokens;
        self.wrong.extend(other.wrong.iter().cloned());
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problems, accepted, right, solved, single, tokens, wrong: _ } = self;
        let share = 100.0 * self.precision();
        write!(
            f,
            "{problems:>8} {accepted:>8} {right:>6} {share:>6.1} % {solved:>6} {single:>13} {tokens:>9}"
        )
    }
}

/// The columns of a [`Tally`].
pub const COLUMNS: &str = "problems accepted  right  share   solved single sample    tokens";

/// Where the demo model lies.
pub fn model_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../porism-tiny")
}

/// Searches for proofs of held-out problems with the demo model on the host, as `porism prove` does by default, and checks
/// what it accepts. The run is left in the folder `keep`, if one is given.
///
/// # Panics
/// If the model cannot be run.
pub fn measure(family: Family, count: usize, seed: u64, keep: Option<&Path>) -> Tally {
    let problems = held_out(family, count, seed);
    // What the verifier accepts by itself is what is measured.
    let plans = prove(&problems, seed, usual(), None, keep);
    let mut tally = Tally::default();
    for (problem, plan) in problems.iter().zip(&plans) {
        tally.add(&problem.question, plan);
    }
    tally
}

/// What `porism prove` uses for a model with a short context.
pub fn usual() -> Settings {
    Settings { reading_temperature: 0.4, evaluations_to_refine: 1, ..Settings::default() }
}

/// Searches for proofs of problems with the demo model on the host. The run is left in the folder `keep`, if one is given.
///
/// # Panics
/// If the model cannot be run.
pub fn prove(
    problems: &[Problem],
    seed: u64,
    settings: Settings,
    recompute: Option<&dyn Recompute>,
    keep: Option<&Path>,
) -> Vec<Plan> {
    let folder = model_folder();
    let checkpoint = Checkpoint::open(&folder, Options::default()).expect("the demo model opens");
    let prompts = PromptSet::open(&folder.join("prompts.toml")).expect("its prompts are read");
    let context = checkpoint.config().max_position_embeddings as usize;
    let options = EngineOptions { sequences: WIDTH, ..EngineOptions::new(context) };
    let mut engine =
        Engine::open(&checkpoint, &[DeviceId::Host.into()], &options, &mut |_| Ok(())).expect("it fits");
    let mut answerer = Answerer::new(&mut engine, &checkpoint, &folder);

    let model = Model {
        name: "porism-tiny".to_owned(),
        fingerprint: "as it is".to_owned(),
        revision: None,
        endpoints: vec![],
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        seed,
        problems: Manifest::problems(problems),
        generator: model.clone(),
        verifier: model,
        prompts: Prompts {
            source: prompts.source().to_owned(),
            fingerprint: prompts.fingerprint().to_owned(),
        },
        settings,
        domain: None,
    };
    let passing = tempfile::tempdir().expect("a folder");
    let folder = keep.unwrap_or(passing.path());
    let mut run = Run::open(folder, &manifest, problems, false).expect("a run");
    let limits = Limits { interrupted: &|| false, deadline: None };
    let task = Task { manifest: &manifest, problems, prompts: &prompts, recompute };
    search(&mut run, &task, &mut answerer, &limits, &mut |_| {}).expect("the search ends")
}
