//! `porism prove`: problems in, proofs out, with everything that was found in a folder.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use porism_prover::complete::CompleteError;
use porism_prover::confidence::Readings;
use porism_prover::pool::{self, End};
use porism_prover::problem::{self, Problem};
use porism_prover::recompute::Recompute;
use porism_prover::search::{Event, Limits, Plan, SearchError, Task, search};
use porism_prover::settings::Settings;
use porism_prover::store::{self, Known, Manifest, Prompts, Run};

use crate::answerer::{self, Setup};
use crate::args::Prove;
use crate::failure::{Failure, INTERRUPTED};
use crate::interrupt;
use crate::live::{self, Budget, Live, View};
use crate::settings;
use crate::ui::{self, Ui};

pub fn run(args: &Prove, ui: &Ui) -> Result<u8> {
    let mut problems = problems(args.problem.as_deref(), &args.only)?;
    let setup = Setup::open(&args.prover)?;
    let outside = setup.bounds.place(&mut problems, args.prover.outside_domain, ui)?;
    let referee = setup.bounds.referee().filter(|_| !args.prover.no_recompute);
    let recompute = referee.as_ref().map(|referee| referee as &dyn Recompute);
    let domain = setup.bounds.known().map(|known| Known {
        program: known.program.filter(|_| recompute.is_some()),
        outside,
        ..known
    });
    let mut settings = search_settings(args, &setup)?;
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&problems));
    let old = store::read_manifest(&folder)?;
    // A server that does not answer yet has not changed.
    settings.context = settings.context.or(old.as_ref().and_then(|old| old.settings.context));
    let (generator, verifier) = setup.identities()?;
    let manifest = Manifest {
        version: Manifest::VERSION,
        seed: args.prover.seed.or(old.map(|old| old.seed)).unwrap_or(DEFAULT_SEED),
        problems: Manifest::problems(&problems),
        generator,
        verifier,
        prompts: Prompts {
            source: setup.prompts.source().to_owned(),
            fingerprint: setup.prompts.fingerprint().to_owned(),
        },
        settings,
        domain,
    };
    let mut run = Run::open(&folder, &manifest, &problems, args.fork)?;
    interrupt::install();
    let mut teller = Teller { ui, json: args.json, budget: args.budget.max_tokens_total, broken: None };
    let found = setup.answer(&args.prover, ui, args.budget.time_limit, |complete, deadline| {
        let limits = Limits { interrupted: &interrupt::requested, deadline };
        let live = Live::start(ui, args.json, || view(args, &manifest.settings, &problems));
        live::watched(live.as_ref(), complete, |complete| {
            let task = Task { manifest: &manifest, problems: &problems, prompts: &setup.prompts, recompute };
            search(&mut run, &task, complete, &limits, &mut |event| {
                if let Some(live) = &live {
                    live.tell(|view| view.event(event));
                }
                // Where the view tells what happens, only the first and the last line are left for when it is gone.
                let is_seen = live.as_ref().is_some_and(Live::tells);
                if !is_seen || matches!(event, Event::Start { .. } | Event::End { .. }) {
                    teller.tell(event);
                }
            })
        })
    })?;
    if let Some(error) = teller.broken {
        return Err(error);
    }
    let goes_on = format!("unfinished: the same command goes on from {}", run.folder().display());
    let plans = match found {
        Ok(plans) => plans,
        Err(error @ (SearchError::Complete(_) | SearchError::Network(_))) => {
            // Of what there is so far. That it cannot be written is less than why the search ended.
            let page = porism_prover::report::write(run.folder());
            let interrupted = matches!(error, SearchError::Complete(CompleteError::Interrupted));
            if !args.json {
                ui.note(&if interrupted { format!("stopped; {goes_on}") } else { goes_on });
                if let Ok(page) = page {
                    ui.note(&format!("report so far: {}", page.display()));
                }
            }
            return match error {
                _ if interrupted => Ok(INTERRUPTED),
                SearchError::Complete(error) => Err(answerer::unwrap(error)),
                error => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let page = porism_prover::report::write(run.folder())?;
    if !args.json {
        show(&manifest, &problems, &plans, &setup, run.folder(), ui)?;
        ui.note(&format!("report: {}", page.display()));
    }
    let counts = |(problem, plan): (&Problem, &Plan)| plan.passed() && !manifest.is_outside(problem);
    Ok(u8::from(!problems.iter().zip(&plans).all(counts)))
}

/// What the live view starts with.
fn view(args: &Prove, settings: &Settings, problems: &[Problem]) -> View {
    let name = |problem: &Problem| (problem.problem_idx.clone(), problem.question.clone());
    let budget = Budget {
        rounds: settings.rounds,
        proofs: settings.proofs,
        readings: settings.verifications,
        tokens: settings.max_tokens_total,
        time: args.budget.time_limit,
    };
    View::new("prove", problems.iter().map(name).collect(), budget)
}

/// Without `--seed` a run has this one: the same command gives the same proofs.
pub const DEFAULT_SEED: u64 = 1;

fn search_settings(args: &Prove, setup: &Setup) -> Result<Settings> {
    let common = setup.settings(&args.prover)?;
    let settings = Settings {
        rounds: args.budget.rounds.unwrap_or(common.rounds),
        proofs: args.budget.proofs.unwrap_or(common.proofs),
        minimum_readings: args.budget.minimum_readings.unwrap_or(common.minimum_readings),
        sure: args.budget.sure,
        keep: args.budget.keep.unwrap_or(common.keep),
        finish_round: args.budget.finish_round,
        max_tokens_total: args.budget.max_tokens_total,
        ..common
    };
    if settings.minimum_readings > settings.verifications {
        let message = format!(
            "--minimum-readings is {}, more than the {} of --verifications",
            settings.minimum_readings, settings.verifications
        );
        return Err(Failure::usage(message)
            .hint("raise --verifications, or lower --minimum-readings")
            .into());
    }
    Ok(settings)
}

/// A text, a file, a set, or stdin.
fn problems(argument: Option<&str>, only: &[String]) -> Result<Vec<Problem>> {
    let argument = argument.unwrap_or("-");
    let path = Path::new(argument);
    let extension =
        path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    let is_file = path.exists() || !argument.contains(char::is_whitespace);
    if let Some(form) = problem::Form::of(&extension).filter(|_| is_file) {
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        return Ok(problem::read_set(&settings::read_text(path)?, form, argument, &stem, only)?);
    }
    const ENDINGS: &str = ".json, .jsonl, .csv or .tsv";
    if let Some(what) = problem::foreign_set(&extension).filter(|_| path.is_file()) {
        let message =
            format!("{argument}: is {what}, which is read neither as a problem nor as a problem set");
        return Err(Failure::usage(message)
            .hint(format!("save it as {ENDINGS}, or a problem as text"))
            .into());
    }
    if !only.is_empty() {
        let message = format!("--only picks problems of a set, and the problem is no {ENDINGS} file");
        return Err(Failure::usage(message).hint("leave --only away, or give the set's file").into());
    }
    Ok(vec![Problem::from_text(&text_or_file(argument, "problem")?, argument)?])
}

/// The text itself if it has white space and is no file; `-` is stdin.
pub fn text_or_file(argument: &str, what: &str) -> Result<String> {
    let path = Path::new(argument);
    if argument == "-" || path.exists() {
        return settings::read_text(path);
    }
    if argument.trim().is_empty() {
        return Err(Failure::usage(format!("the {what} is empty"))
            .hint("give a text, a file, or `-` for stdin")
            .into());
    }
    if argument.contains(char::is_whitespace) {
        return Ok(argument.to_owned());
    }
    let message = format!("`{argument}` is no file, and no {what} either (it has no white space)");
    Err(Failure::usage(message)
        .hint(format!("check the path, or type the {what} itself, in quotation marks"))
        .into())
}

/// `runs/<date>-<slug>`; an older run of the same problems is gone on with.
fn default_folder(problems: &[Problem]) -> PathBuf {
    let slug = match problems {
        [one] if one.source == "problem" => one.problem_idx.clone(),
        [one] => problem::slug(&format!("{} {}", one.problem_idx, one.question)),
        many => problem::slug(&format!("{} {}", many[0].source, Manifest::problems(many))),
    };
    let runs = Path::new("runs");
    let ending = format!("-{slug}");
    let entries = std::fs::read_dir(runs).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter(|name| name.len() == ending.len() + 10 && name.ends_with(&ending)).max();
    runs.join(newest.unwrap_or_else(|| format!("{}{ending}", today())))
}

/// `2026-11-24`, in UTC.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Days to a date in the Gregorian calendar: eras of 400 years that begin in March.
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Turns events into lines: JSON on stdout, or words on stderr.
struct Teller<'a> {
    ui: &'a Ui,
    json: bool,
    /// Tokens that the search of a problem may take.
    budget: Option<u64>,
    broken: Option<anyhow::Error>,
}

impl Teller<'_> {
    fn tell(&mut self, event: &Event<'_>) {
        if self.json {
            if let Err(error) = self.ui.json(event) {
                // The reader went away; what is found is in the folder all the same.
                self.broken.get_or_insert(error);
            }
            return;
        }
        match event {
            Event::Start { folder, problems, seed, resumed, domain } => {
                let problems = if *problems == 1 { String::new() } else { format!(", {problems} problems") };
                let resumed = if *resumed == 0 {
                    String::new()
                } else {
                    format!(", {resumed} completions are there already")
                };
                self.ui.note(&format!("{folder}: seed {seed}{problems}{resumed}"));
                if let Some(known) = domain.filter(|known| !known.outside.is_empty()) {
                    self.ui.warn(&outside_words(known));
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
                let what = match *role {
                    "generate" => format!("proof {proof} written"),
                    "refine" => format!("proof {proof} refined"),
                    "verify" => format!("proof {proof} read, reading {reading}"),
                    "meta_verify" => format!("proof {proof}, reading {reading} judged"),
                    _ => "two proofs compared".to_owned(),
                };
                let outcome = match (score, problem) {
                    (_, Some(problem)) => format!("lost: {problem}"),
                    (Some(score), None) if matches!(*role, "generate" | "refine") => {
                        format!("rates itself {}", score.value())
                    }
                    (Some(score), None) => format!("score {}", score.value()),
                    (None, None) => "done".to_owned(),
                };
                self.ui.aside(&format!(
                    "{problem_idx} round {round_idx}: {what}: {outcome} ({}, {} in all)",
                    ui::plural(*tokens, "token"),
                    ui::count(spent.tokens)
                ));
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
                let Some(words) = ui::verdict(state, *again, *recomputed) else { return };
                let mean = meanscore
                    .map_or(String::new(), |mean| format!(", mean {mean:.2} of {readings} readings"));
                self.ui.note(&format!("{problem_idx} round {round_idx}: proof {proof_id} {words}{mean}"));
            }
            Event::Notice { words } => self.ui.aside(words),
            Event::Chosen { .. } => {}
            Event::End { passed, unfinished, problems, outside_domain, spent, seconds } => {
                let about = if spent.estimated > 0 { "about " } else { "" };
                let wasted = match spent.wasted {
                    0 => String::new(),
                    wasted => format!(" ({} of them in answers that were cut off)", ui::count(wasted)),
                };
                let outside = match outside_domain {
                    0 => String::new(),
                    several => format!(" ({several} outside of what the model knows: that does not count)"),
                };
                let unfinished = match unfinished {
                    0 => String::new(),
                    1 if *problems == 1 => ", unfinished".to_owned(),
                    unfinished => format!(", {unfinished} unfinished"),
                };
                self.ui.note(&format!(
                    "{passed} of {} passed{outside}{unfinished}; {}, {about}{}{wasted}, {seconds:.1} s",
                    ui::plural(*problems as u64, "problem"),
                    ui::plural(spent.completions, "completion"),
                    ui::plural(spent.tokens, "token")
                ));
                // Of several problems each has its own.
                let over =
                    self.budget.filter(|_| *problems == 1).and_then(|most| spent.tokens.checked_sub(most));
                if let Some(over) = over.filter(|over| *over > 0) {
                    self.ui.note(&format!(
                        "{} more than --max-tokens-total: of answers that were under way when it was reached",
                        ui::plural(over, "token")
                    ));
                }
            }
        }
    }
}

/// That problems are asked of a model that does not know such.
pub fn outside_words(known: &Known) -> String {
    format!(
        "this is outside of what {} knows, so nothing that follows counts; it knows {}",
        known.model, known.knows
    )
}

/// Of a search without a proof that passed: why it ended, and what goes on with it.
fn how_to_go_on(plan: &Plan, ui: &Ui) {
    match plan.end {
        Some((End::Rounds, _)) => {
            ui.note("all rounds are done; the same command with more --rounds goes on with it")
        }
        _ => {
            if let Some(why) = plan.unfinished() {
                ui.warn(&format!("unfinished: {why}"));
            }
        }
    }
}

/// The chosen proofs on stdout, and what they are worth.
fn show(
    manifest: &Manifest,
    problems: &[Problem],
    plans: &[Plan],
    setup: &Setup,
    folder: &Path,
    ui: &Ui,
) -> Result<()> {
    let reader = if setup.reads_itself() { "the same model" } else { "the verifier" };
    for (problem, plan) in problems.iter().zip(plans) {
        let several = problems.len() > 1;
        let Some(proof) = plan.chosen() else {
            let why = plan
                .falsehood
                .as_ref()
                .map(|why| format!("the statement is false, as a program finds ({why}); "));
            ui.warn(&format!("{}: {}no proof was written", problem.problem_idx, why.unwrap_or_default()));
            how_to_go_on(plan, ui);
            continue;
        };
        if several {
            ui.heading(&problem.problem_idx)?;
        }
        ui.text(&format!("{}\n", proof.proof))?;
        if several {
            ui.line("")?;
        }
        let Readings { counted, .. } = pool::sum(&proof.readings);
        let other = match pool::sum(plan.other_readings(proof)) {
            Readings { counted: 0, .. } => String::new(),
            Readings { counted, counted_passed, .. } => {
                format!(", and {counted_passed} of {counted} in other rounds")
            }
        };
        let mean = proof.meanscore.map_or("no counted reading".to_owned(), |mean| format!("mean {mean:.2}"));
        let flaw = proof.recomputed.as_ref().and_then(|found| found.why.as_ref());
        match plan.end {
            Some((End::Passed, _)) if manifest.is_outside(problem) => ui.warn(&format!(
                "proof {} passed {counted} of {counted} readings, and the model does not know such problems: that is worth nothing",
                proof.proof_id
            )),
            Some((End::Passed, _)) if proof.recomputed.is_some() => ui.note(&format!(
                "proof {} passed {counted} of {counted} readings by {reader}{other}; recomputed by a program, every step holds",
                proof.proof_id
            )),
            Some((End::Refuted, _)) => ui.warn(&format!(
                "the statement is false, as a program finds: {}; proof {} proves something else or nothing",
                plan.falsehood.as_deref().unwrap_or_default(),
                proof.proof_id
            )),
            Some((End::Passed, _)) => ui.note(&format!(
                "proof {} passed {counted} of {counted} readings by {reader}{other}; that is no certainty",
                proof.proof_id
            )),
            _ => ui.warn(&format!(
                "no proof passed; proof {} is the best of {} ({mean}, {}){other}{}",
                proof.proof_id,
                plan.pool().count(),
                ui::plural(counted, "reading"),
                flaw.map_or(String::new(), |why| format!("; a program finds a flaw in it: {why}"))
            )),
        }
        how_to_go_on(plan, ui);
    }
    if let Some(known) = &manifest.domain {
        ui.note(&known.reservation());
    }
    ui.note(&format!("everything is in {}", folder.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_text_a_file_or_a_set() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let read = |argument: &str, only: &[String]| problems(Some(argument), only);
        assert_eq!(read("Prove it.", &[]).unwrap()[0].question, "Prove it.");
        assert_eq!(read(&write("p.md", "Prove this.\n"), &[]).unwrap()[0].question, "Prove this.");
        let set = write("set.json", "[{\"id\": 1, \"question\": \"a\"}, {\"id\": 2, \"question\": \"b\"}]");
        assert_eq!(read(&set, &[]).unwrap().len(), 2);
        assert_eq!(read(&set, &["2".to_owned()]).unwrap()[0].source, "set");
        for bad in ["", " ", "nothing", "no.json", &write("empty.md", " \n")] {
            assert_eq!(crate::failure::code(&read(bad, &[]).unwrap_err()), 2, "{bad}");
        }
        assert!(read("Prove it.", &["1".to_owned()]).is_err());
    }

    #[test]
    fn dates_are_dates() {
        let today = today();
        assert!(today.len() == 10 && today.as_str() > "2026-01-01", "{today}");
    }
}
