//! The driver: hands out what is wanted, journals what comes back, and plans again.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::event::Event;
use super::planner::{Ask, Plan, Planner, ended};
use super::results::{Meaning, Results};
use super::solution;
use crate::complete::{Complete, CompleteError};
use crate::pool::{End, State};
use crate::problem::Problem;
use crate::prompts::PromptSet;
use crate::recompute::Recompute;
use crate::roles::Key;
use crate::store::{Manifest, PREDICTIONS, Record, Run, StoreError, as_lines};
use crate::under_way::UnderWay;

/// Why a search cannot go on. What was found is saved.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The one who answers.
    #[error(transparent)]
    Complete(#[from] CompleteError),
    /// All that was asked of a problem's proofs was lost on the way; the same call asks it again.
    #[error("no proof was read, for all that was asked was lost to the network: {0}")]
    Network(String),
}

/// What may end a search early.
pub struct Limits<'a> {
    /// Asked often; true ends with [`CompleteError::Interrupted`].
    pub interrupted: &'a dyn Fn() -> bool,
    /// When the best proof so far is taken.
    pub deadline: Option<Instant>,
}

/// What is searched for, and how.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The run's settings.
    pub manifest: &'a Manifest,
    /// What is to be proved.
    pub problems: &'a [Problem],
    /// What is asked.
    pub prompts: &'a PromptSet,
    /// The program whose word stands above the readings, where there is one.
    pub recompute: Option<&'a dyn Recompute>,
}

/// Searches for proofs of all problems of a run and writes its files. Returns one finished plan per problem.
///
/// # Errors
/// [`SearchError`]; the folder then holds all that was found, and the same call goes on from there.
pub fn search(
    run: &mut Run,
    task: &Task<'_>,
    complete: &mut dyn Complete,
    limits: &Limits<'_>,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Vec<Plan>, SearchError> {
    let started = Instant::now();
    let Task { manifest, problems, recompute, .. } = *task;
    let mut results = Results::default();
    for record in run.records() {
        results.add(record, manifest.settings.max_tokens(record.key.role), true);
    }
    results.spent.cancel(run.canceled_tokens());
    let folder = run.folder().display().to_string();
    observe(&Event::Start {
        folder: &folder,
        problems: problems.len(),
        seed: manifest.seed,
        resumed: results.spent.completions,
        domain: manifest.domain.as_ref(),
    });
    let falsehood = |problem: &Problem| recompute.and_then(|program| program.falsehood(&problem.question));
    let mut driver = Driver {
        run,
        task,
        falsehoods: problems.iter().map(falsehood).collect(),
        results,
        requests: RefCell::new(HashMap::new()),
        under_way: UnderWay::new(),
        plans: vec![None; problems.len()],
        told: HashMap::new(),
    };
    let mut outcome = driver.work(complete, limits, observe);
    driver.under_way.cancel(complete, |_| true);
    let canceled = driver.count_canceled(complete);
    if outcome.is_ok() {
        outcome = canceled.and_then(|()| driver.lost_to_network());
    }
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            driver.write_pools()?;
            driver.write_results()?;
            driver.run.end(seconds)?;
        }
        Err(error) => {
            let end = match error {
                SearchError::Complete(CompleteError::Interrupted) => End::Interrupted,
                _ => End::Broken,
            };
            driver.stop(end, observe);
            // What there is so far is worth looking at; the first error is worth more than a second one.
            drop(driver.write_pools());
            drop(driver.write_results());
            drop(driver.run.end(seconds));
            driver.tell_end(seconds, observe);
            return Err(error);
        }
    }
    driver.tell_end(seconds, observe);
    Ok(driver.plans.into_iter().flatten().collect())
}

struct Driver<'a> {
    run: &'a mut Run,
    task: &'a Task<'a>,
    /// By problem.
    falsehoods: Vec<Option<String>>,
    results: Results,
    requests: RefCell<HashMap<Key, String>>,
    under_way: UnderWay<Ask>,
    plans: Vec<Option<Plan>>,
    /// What was told of each proof: an earlier one of its round may make it a copy.
    told: HashMap<(usize, u32), State>,
}

impl Driver<'_> {
    fn work(
        &mut self,
        complete: &mut dyn Complete,
        limits: &Limits<'_>,
        observe: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), SearchError> {
        // The problem whose completion came last; at first all of them.
        let mut stale: Vec<usize> = (0..self.task.problems.len()).collect();
        loop {
            for index in std::mem::take(&mut stale) {
                self.replan(index, complete.width(), observe)?;
                if self.is_finished(index) {
                    self.under_way.cancel(complete, |ask| ask.key.problem as usize == index);
                    self.count_canceled(complete)?;
                }
            }
            if (0..self.task.problems.len()).all(|index| self.is_finished(index)) {
                return Ok(());
            }
            if (limits.interrupted)() {
                return Err(CompleteError::Interrupted.into());
            }
            if limits.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.stop(End::Time, observe);
                return Ok(());
            }
            self.hand_out(complete);
            self.stop_spent(complete, observe);
            let polled = self.under_way.poll(complete, &mut |words| observe(&Event::Notice { words }));
            let (ask, answer) = match polled {
                Ok(Some(answered)) => answered,
                Ok(None) => continue,
                // A deadline is how we interrupt the answerer ourselves.
                Err(CompleteError::Interrupted) if !(limits.interrupted)() && limits.deadline.is_some() => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            stale.push(ask.key.problem as usize);
            let (completion, lost) = match answer.result {
                Ok(completion) => (Some(completion), None),
                Err(lost) => (None, Some(lost)),
            };
            let record = Record {
                key: ask.key,
                request: ask.request,
                seed: ask.seed,
                completion,
                network: lost.as_ref().is_some_and(|lost| lost.network),
                context: lost.as_ref().and_then(|lost| lost.context),
                error: lost.map(|lost| lost.what),
                wasted: answer.wasted,
            };
            self.results.add(&record, self.task.manifest.settings.max_tokens(record.key.role), false);
            self.tell(&record, observe);
            self.run.append(record)?;
        }
    }

    /// Notes what answers had cost that are no longer wanted.
    fn count_canceled(&mut self, complete: &mut dyn Complete) -> Result<(), SearchError> {
        let tokens = complete.canceled_tokens();
        if tokens > 0 {
            self.results.spent.cancel(tokens);
            self.run.cancel(tokens)?;
        }
        Ok(())
    }

    /// A problem of whose proofs none was read because of the network has no answer, not even no.
    fn lost_to_network(&mut self) -> Result<(), SearchError> {
        let mut first = None;
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let Some(plan) = plan.as_mut().filter(|plan| matches!(plan.end, Some((End::Rounds, _)))) else {
                continue;
            };
            if let Some(why) = self.results.lost_to_network(u32::try_from(index).unwrap_or(u32::MAX)) {
                plan.end = plan.end.map(|(_, chosen)| (End::Broken, chosen));
                first.get_or_insert_with(|| why.to_owned());
            }
        }
        first.map_or(Ok(()), |why| Err(SearchError::Network(why)))
    }

    /// The problems whose tokens are spent, by what is under way already: answers may come in any order, and be longer than
    /// others, so that the plan alone would ask on.
    fn spent(&self, complete: &dyn Complete) -> HashSet<u32> {
        let Some(most) = self.task.manifest.settings.max_tokens_total.filter(|_| complete.is_elsewhere())
        else {
            return HashSet::new();
        };
        let mut tokens = self.results.by_problem.clone();
        for (ticket, so_far) in complete.progress() {
            if let Some(ask) = self.under_way.get(ticket) {
                *tokens.entry(ask.key.problem).or_default() += so_far;
            }
        }
        tokens.into_iter().filter(|(_, tokens)| *tokens >= most).map(|(problem, _)| problem).collect()
    }

    /// Ends the problems whose tokens are spent once nothing of theirs is under way.
    fn stop_spent(&mut self, complete: &dyn Complete, observe: &mut dyn FnMut(&Event<'_>)) {
        for problem in self.spent(complete) {
            if !self.under_way.values().any(|ask| ask.key.problem == problem) {
                self.stop_one(problem as usize, End::Tokens, observe);
            }
        }
    }

    fn hand_out(&mut self, complete: &mut dyn Complete) {
        let spent = self.spent(complete);
        let width = complete.width().max(1);
        let busy: HashSet<Key> = self.under_way.values().map(|ask| ask.key).collect();
        let mut free = width.saturating_sub(busy.len());
        for ask in self.plans.iter().flatten().flat_map(|plan| &plan.wanted) {
            if free == 0 {
                break;
            }
            if busy.contains(&ask.key) || spent.contains(&ask.key.problem) || !complete.has_room_for(&ask.key)
            {
                continue;
            }
            free -= 1;
            let request = (ask.key, ask.prompt.clone(), ask.seed);
            self.under_way.submit(complete, &self.task.manifest.settings, request, ask.clone());
        }
    }

    fn is_finished(&self, index: usize) -> bool {
        self.plans[index].as_ref().is_some_and(|plan| plan.end.is_some())
    }

    fn replan(
        &mut self,
        index: usize,
        width: usize,
        observe: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), SearchError> {
        let planner = Planner {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            problem: &self.task.problems[index],
            prompts: self.task.prompts,
            manifest: self.task.manifest,
            recompute: self.task.recompute,
            falsehood: self.falsehoods[index].as_deref(),
            results: &self.results,
            requests: &self.requests,
            // What is under way is wanted still, and comes first.
            enough: width.max(1) * 2,
        };
        let plan = planner.plan();
        let problem_idx = self.task.problems[index].problem_idx.as_str();
        let mut news = false;
        for proof in plan.proofs.iter().filter(|proof| proof.is_settled()) {
            if self.told.insert((index, proof.proof_id), proof.state.clone()).as_ref() != Some(&proof.state) {
                news = true;
                observe(&Event::Proof {
                    problem_idx,
                    proof_id: proof.proof_id,
                    round_idx: proof.round_idx,
                    state: &proof.state,
                    meanscore: proof.meanscore,
                    readings: proof.readings.len(),
                    again: proof.again,
                    recomputed: proof.recomputed.as_ref(),
                });
            }
        }
        let finished = plan.end.is_some();
        self.plans[index] = Some(plan);
        if news {
            self.write_pool(index)?;
        }
        if finished {
            self.tell_chosen(index, observe);
        }
        Ok(())
    }

    /// Ends the problems that have not ended with the best proof so far.
    fn stop(&mut self, end: End, observe: &mut dyn FnMut(&Event<'_>)) {
        for index in 0..self.task.problems.len() {
            self.stop_one(index, end, observe);
        }
    }

    fn stop_one(&mut self, index: usize, end: End, observe: &mut dyn FnMut(&Event<'_>)) {
        let Some(plan) = self.plans[index].as_mut().filter(|plan| plan.end.is_none()) else {
            return;
        };
        plan.wanted.clear();
        for proof in plan.proofs.iter_mut().filter(|proof| proof.state == State::Reading) {
            proof.state = State::Undecided;
        }
        plan.end = Some(ended(&plan.proofs, end));
        self.tell_chosen(index, observe);
    }

    fn tell_end(&self, seconds: f64, observe: &mut dyn FnMut(&Event<'_>)) {
        let plans = || self.plans.iter().flatten();
        observe(&Event::End {
            passed: plans().filter(|plan| plan.passed()).count(),
            unfinished: plans().filter(|plan| plan.unfinished().is_some()).count(),
            problems: self.task.problems.len(),
            outside_domain: self
                .task
                .problems
                .iter()
                .filter(|problem| self.task.manifest.is_outside(problem))
                .count(),
            spent: self.results.spent,
            seconds,
        });
    }

    fn tell_chosen(&self, index: usize, observe: &mut dyn FnMut(&Event<'_>)) {
        let Some((plan, (end, proof_id))) =
            self.plans[index].as_ref().and_then(|plan| Some((plan, plan.end?)))
        else {
            return;
        };
        let chosen = plan.chosen();
        observe(&Event::Chosen {
            problem_idx: &self.task.problems[index].problem_idx,
            end,
            proof_id,
            proof: chosen.map(|proof| proof.proof.as_str()),
            meanscore: chosen.and_then(|proof| proof.meanscore),
            readings: chosen.map_or(0, |proof| proof.readings.len()),
            recomputed: chosen.and_then(|proof| proof.recomputed.as_ref()),
            falsehood: plan.falsehood.as_deref(),
            outside_domain: self.task.manifest.is_outside(&self.task.problems[index]),
        });
    }

    fn tell(&self, record: &Record, observe: &mut dyn FnMut(&Event<'_>)) {
        let meaning = self.results.with(&record.key).last().map(|known| &known.meaning);
        let (score, problem) = match meaning {
            Some(Meaning::Attempt(attempt)) => (attempt.self_score, None),
            Some(Meaning::Evaluation(evaluation)) => (Some(evaluation.score), None),
            Some(Meaning::Preference(_)) | None => (None, None),
            Some(Meaning::Nothing(why)) => (None, Some(why.as_str())),
        };
        let key = record.key;
        observe(&Event::Completion {
            problem_idx: &self.task.problems[key.problem as usize].problem_idx,
            role: key.role.name(),
            round_idx: key.round + 1,
            proof: key.proof + 1,
            reading: key.reading + 1,
            score,
            problem,
            tokens: record.completion.as_ref().map_or(0, |completion| completion.tokens),
            seconds: record.completion.as_ref().map_or(0.0, |completion| completion.seconds),
            spent: self.results.spent,
        });
    }

    fn write_pools(&self) -> Result<(), StoreError> {
        (0..self.task.problems.len()).try_for_each(|index| self.write_pool(index))
    }

    fn write_pool(&self, index: usize) -> Result<(), StoreError> {
        let Some(plan) = &self.plans[index] else {
            return Ok(());
        };
        self.run.write_pool(&self.task.problems[index], plan.pool())
    }

    fn write_results(&self) -> Result<(), StoreError> {
        let (mut outcomes, mut solution) = (Vec::new(), String::new());
        for (problem, plan) in self.task.problems.iter().zip(self.plans.iter().flatten()) {
            let outside = self.task.manifest.is_outside(problem);
            outcomes.push(solution::outcome(problem, plan, outside));
            solution.push_str(&solution::text(problem, plan, outside));
        }
        if let Some(known) = &self.task.manifest.domain {
            solution.push_str(&format!("{}\n", known.reservation()));
        }
        self.run.write(PREDICTIONS.as_ref(), &as_lines(outcomes))?;
        self.run.write("solution.md".as_ref(), &solution)
    }
}
