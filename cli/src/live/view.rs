//! What is known of a search at a moment. Pure: told what happened and how much time has passed, it says what to show.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use porism_prover::check::Told;
use porism_prover::complete::Request;
use porism_prover::confidence::Readings;
use porism_prover::parse::Score;
use porism_prover::pool::{End, State};
use porism_prover::roles::Role;
use porism_prover::search::Event;

/// Lines of what happened that are kept.
const NEWS: usize = 100;
/// Characters of a question that are kept.
const QUESTION: usize = 2000;
/// Over so much time the rate is measured, in steps of about so much.
const WINDOW: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(200);

/// How far something may go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Rounds, and proofs in each.
    pub rounds: u32,
    pub proofs: u32,
    /// Readings of a proof.
    pub readings: u32,
    /// Tokens of a problem.
    pub tokens: Option<u64>,
    /// Time of this session.
    pub time: Option<Duration>,
}

/// A problem.
#[derive(Clone, Debug)]
pub struct Problem {
    pub name: String,
    pub question: String,
    /// Once it is done: whether a proof passed.
    pub passed: Option<bool>,
}

/// What became of a proof.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    Passed,
    Refuted,
    Rejected,
    Undecided,
    Lost(String),
    SameAs(u32),
}

/// A proof about which nothing more is asked.
#[derive(Clone, Debug, PartialEq)]
struct Settled {
    mean: Option<f64>,
    readings: usize,
    fate: Fate,
}

/// A proof.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    pub round: u32,
    /// What it says of itself.
    pub own: Option<f64>,
    /// By reading, from 1.
    scores: BTreeMap<u32, f64>,
    /// What a judge says of them.
    judgements: BTreeMap<u32, f64>,
    settled: Option<Settled>,
}

impl Candidate {
    /// Scores and weights of the readings, in order; none for a proof of an earlier session, of which only the mean is known.
    pub fn readings(&self) -> Vec<(f64, f64)> {
        // Readings that were begun before a decision made them needless do not count.
        let most = self.settled.as_ref().map_or(usize::MAX, |settled| settled.readings);
        let weight = |reading| self.judgements.get(reading).copied().unwrap_or(1.0);
        self.scores.iter().take(most).map(|(reading, score)| (*score, weight(reading))).collect()
    }

    /// How many readings could be read.
    pub fn count(&self) -> usize {
        self.settled.as_ref().map_or(self.scores.len(), |settled| settled.readings)
    }

    pub fn mean(&self) -> Option<f64> {
        if let Some(settled) = &self.settled {
            return settled.mean;
        }
        Readings::new(self.readings()).mean
    }

    pub fn fate(&self) -> Option<&Fate> {
        self.settled.as_ref().map(|settled| &settled.fate)
    }
}

/// A completion under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    pub problem: usize,
    /// The proof's number; without meaning for a comparison.
    pub proof: u32,
    pub role: Role,
    pub reading: u32,
    pub tokens: u64,
    pub since: Duration,
}

/// What a line of news is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    /// Somebody who waits should know it.
    Notice,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub verb: &'static str,
    pub problems: Vec<Problem>,
    pub budget: Budget,
    pub seed: Option<u64>,
    pub folder: String,
    /// The problem whose news came last.
    latest: usize,
    /// By the number of the problem and of the proof.
    candidates: BTreeMap<(usize, u32), Candidate>,
    running: BTreeMap<u64, Running>,
    pub completions: u64,
    /// As the search last said it, and what was answered since.
    spent: u64,
    answered: u64,
    /// Tokens of all completions that are over, those that were given up included.
    made: u64,
    pub news: VecDeque<(Tone, String)>,
    /// When there were how many tokens.
    samples: VecDeque<(Duration, u64)>,
    /// Time since it began.
    pub elapsed: Duration,
    /// Whether somebody asked for an end.
    pub stopping: bool,
}

impl View {
    /// Nothing has happened yet. `problems` are names and statements.
    pub fn new(verb: &'static str, problems: Vec<(String, String)>, budget: Budget) -> Self {
        // No window shows more of a question.
        let beginning = |text: String| text.chars().take(QUESTION).collect();
        let problem = |(name, question)| Problem { name, question: beginning(question), passed: None };
        let problems = problems.into_iter().map(problem).collect();
        Self { verb, problems, budget, ..Self::default() }
    }

    /// The problems that are worked on now; where there are none, the one of which was heard last.
    pub fn active(&self) -> Vec<usize> {
        let mut active: Vec<usize> = self.running.values().map(|running| running.problem).collect();
        active.sort_unstable();
        active.dedup();
        if active.is_empty() {
            active.push(self.latest);
        }
        active
    }

    /// The proofs of a problem, by number.
    pub fn candidates(&self, problem: usize) -> impl DoubleEndedIterator<Item = (u32, &Candidate)> {
        self.candidates.range((problem, 0)..=(problem, u32::MAX)).map(|((_, id), proof)| (*id, proof))
    }

    /// What is under way for a proof.
    pub fn running(&self, problem: usize, proof: u32) -> impl Iterator<Item = &Running> {
        let is_its = move |running: &&Running| {
            running.problem == problem && running.proof == proof && running.role != Role::Compare
        };
        self.running.values().filter(is_its)
    }

    /// Comparisons under way.
    pub fn comparisons(&self, problem: usize) -> usize {
        let is_one = |running: &&Running| running.problem == problem && running.role == Role::Compare;
        self.running.values().filter(is_one).count()
    }

    /// The furthest round of a problem, from 1.
    pub fn round(&self, problem: usize) -> u32 {
        self.candidates(problem).map(|(_, proof)| proof.round).max().unwrap_or(1)
    }

    /// Tokens spent, those of the running completions included.
    pub fn tokens(&self) -> u64 {
        self.spent.saturating_add(self.answered).saturating_add(self.under_way())
    }

    fn under_way(&self) -> u64 {
        self.running.values().fold(0, |sum: u64, running| sum.saturating_add(running.tokens))
    }

    /// Tokens per second of late.
    pub fn rate(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        (seconds > 0.5).then(|| last.1.saturating_sub(first.1) as f64 / seconds)
    }

    /// A request was handed over.
    pub fn asked(&mut self, now: Duration, request: &Request) {
        let key = request.key;
        let round = key.round.saturating_add(1);
        let problem = key.problem as usize;
        let proof = self.number(round, key.proof.saturating_add(1));
        if key.role != Role::Compare {
            self.candidates.entry((problem, proof)).or_default().round = round;
        }
        let reading = key.reading.saturating_add(1);
        let running = Running { problem, proof, role: key.role, reading, tokens: 0, since: now };
        self.running.insert(request.ticket, running);
    }

    /// A request was answered with so many tokens, those of failed tries included.
    pub fn answered(&mut self, ticket: u64, tokens: u64) {
        self.running.remove(&ticket);
        self.made = self.made.saturating_add(tokens);
        self.answered = self.answered.saturating_add(tokens);
    }

    /// A request is not wanted any more.
    pub fn gone(&mut self, ticket: u64) {
        if let Some(running) = self.running.remove(&ticket) {
            self.made = self.made.saturating_add(running.tokens);
        }
    }

    /// At this time so many tokens of tickets are there.
    pub fn progress(&mut self, now: Duration, tokens: &[(u64, u64)]) {
        for (ticket, tokens) in tokens {
            if let Some(running) = self.running.get_mut(ticket) {
                running.tokens = *tokens;
            }
        }
        // A request that is sent again starts from nothing: the rate looks at what was gained.
        let before = self.samples.back().map_or(0, |(_, total)| *total);
        let total = self.made.saturating_add(self.under_way()).max(before);
        let newest = self.samples.len().checked_sub(2).map(|at| self.samples[at].0);
        if newest.is_some_and(|newest| now.saturating_sub(newest) < STEP) {
            self.samples.pop_back();
        }
        self.samples.push_back((now, total));
        // Two are left: a step may take longer than the window.
        while self.samples.len() > 2 && now.saturating_sub(self.samples[0].0) > WINDOW {
            self.samples.pop_front();
        }
    }

    /// `check` says something.
    pub fn told(&mut self, told: &Told<'_>) {
        match told {
            Told::Notice(words) => self.say(Tone::Notice, (*words).to_owned()),
            Told::Reading { number, role, score } => {
                self.completions += 1;
                let number = number.saturating_add(1);
                let what = match role {
                    Role::Verify => format!("reading {number}"),
                    _ => format!("reading {number} judged"),
                };
                self.scored((0, 1), role.name(), number, score.ok());
                let (tone, outcome) = outcome(score.ok(), score.err());
                self.say(tone, format!("{what}: {outcome}"));
            }
        }
    }

    /// A search says something.
    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Start { folder, seed, resumed, .. } => {
                (self.folder, self.seed) = ((*folder).to_owned(), Some(*seed));
                self.completions = *resumed;
                if *resumed > 0 {
                    self.say(Tone::Plain, format!("{resumed} completions are there already"));
                }
            }
            Event::Completion {
                problem_idx,
                role,
                round_idx,
                proof,
                reading,
                score,
                problem,
                tokens,
                spent,
                ..
            } => {
                let at = self.problem(problem_idx);
                self.latest = at;
                (self.spent, self.answered) = (spent.tokens, 0);
                self.completions = spent.completions;
                let number = self.number(*round_idx, *proof);
                let what = match *role {
                    "generate" => format!("proof {number} written"),
                    "refine" => format!("proof {number} refined"),
                    "verify" => format!("proof {number}, reading {reading}"),
                    "meta_verify" => format!("proof {number}, reading {reading} judged"),
                    _ => "two proofs compared".to_owned(),
                };
                let (tone, mut words) = outcome(*score, *problem);
                if matches!(*role, "generate" | "refine") && problem.is_none() {
                    words = score.map_or("does not rate itself".to_owned(), |score| {
                        format!("rates itself {}", score.value())
                    });
                }
                if *role != "compare" {
                    self.candidates.entry((at, number)).or_default().round = *round_idx;
                    self.scored((at, number), role, *reading, *score);
                }
                let tokens = crate::ui::plural(*tokens, "token");
                self.say_of(at, tone, &format!("{what}: {words} ({tokens})"));
            }
            Event::Proof {
                problem_idx,
                proof_id,
                round_idx,
                state,
                meanscore,
                readings,
                again,
                recomputed,
            } => {
                let (tone, fate) = match state {
                    State::Passed => (Tone::Good, Fate::Passed),
                    State::Refuted => (Tone::Bad, Fate::Refuted),
                    State::Rejected => (Tone::Bad, Fate::Rejected),
                    State::Undecided => (Tone::Plain, Fate::Undecided),
                    State::Failed(why) => (Tone::Bad, Fate::Lost(why.clone())),
                    State::Duplicate(twin) => (Tone::Plain, Fate::SameAs(*twin)),
                    State::Writing | State::Reading => return,
                };
                let at = self.problem(problem_idx);
                let candidate = self.candidates.entry((at, *proof_id)).or_default();
                candidate.round = *round_idx;
                candidate.settled = Some(Settled { mean: *meanscore, readings: *readings, fate });
                // That a proof was lost was said when it came.
                let words = crate::ui::verdict(state, *again, *recomputed);
                if let Some(words) = words.filter(|_| !matches!(state, State::Failed(_))) {
                    let mean = meanscore.map_or(String::new(), |mean| {
                        format!(", mean {mean:.2} of {}", crate::ui::plural(*readings as u64, "reading"))
                    });
                    self.say_of(at, tone, &format!("proof {proof_id} {words}{mean}"));
                }
            }
            Event::Chosen { problem_idx, end, proof_id, falsehood, .. } => {
                let at = self.problem(problem_idx);
                let passed = *end == End::Passed;
                if let Some(problem) = self.problems.get_mut(at) {
                    problem.passed = Some(passed);
                }
                self.latest = at;
                let unfinished = if end.unfinished().is_some() { "unfinished: " } else { "" };
                match (passed, proof_id) {
                    (true, _) => {}
                    _ if falsehood.is_some() => {
                        let why = falsehood.unwrap_or_default();
                        self.say_of(at, Tone::Bad, &format!("the statement is false: {why}"));
                    }
                    (_, Some(id)) => {
                        self.say_of(at, Tone::Bad, &format!("{unfinished}no proof passed; {id} is the best"));
                    }
                    (_, None) => self.say_of(at, Tone::Bad, &format!("{unfinished}no proof was written")),
                }
            }
            Event::Notice { words } => self.say(Tone::Notice, (*words).to_owned()),
            // Said in plain lines when the view is gone.
            Event::End { .. } => {}
        }
    }

    fn scored(&mut self, proof: (usize, u32), role: &str, reading: u32, score: Option<Score>) {
        let candidate = self.candidates.entry(proof).or_default();
        candidate.round = candidate.round.max(1);
        let score = score.map(Score::value);
        match (role, score) {
            ("generate" | "refine", own) => candidate.own = own,
            ("verify", Some(score)) => drop(candidate.scores.insert(reading, score)),
            ("meta_verify", Some(score)) => drop(candidate.judgements.insert(reading, score)),
            // Nothing that could be read.
            _ => {}
        }
    }

    /// Of a problem: with its name, where there are several.
    fn say_of(&mut self, problem: usize, tone: Tone, words: &str) {
        let words = match self.problems.get(problem) {
            Some(problem) if self.problems.len() > 1 => format!("{}: {words}", problem.name),
            _ => words.to_owned(),
        };
        self.say(tone, words);
    }

    fn say(&mut self, tone: Tone, words: String) {
        self.news.push_back((tone, words));
        while self.news.len() > NEWS {
            self.news.pop_front();
        }
    }

    fn problem(&self, name: &str) -> usize {
        self.problems.iter().position(|known| known.name == name).unwrap_or(0)
    }

    /// Proofs are numbered through the rounds, as the search numbers them.
    fn number(&self, round: u32, proof: u32) -> u32 {
        round.saturating_sub(1).saturating_mul(self.budget.proofs).saturating_add(proof)
    }
}

/// What a completion said, in words.
fn outcome(score: Option<Score>, problem: Option<&str>) -> (Tone, String) {
    match (score, problem) {
        (_, Some(problem)) => (Tone::Bad, format!("lost: {problem}")),
        (Some(score), None) => (Tone::Plain, format!("score {}", score.value())),
        (None, None) => (Tone::Plain, "done".to_owned()),
    }
}
