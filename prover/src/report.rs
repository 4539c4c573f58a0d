//! A run as one HTML file: problem, chosen proof, every evaluation, the pool, the confidence, what it cost, how to rerun it.
//!
//! The file needs no script and no network: everything is in it, and nothing in it points outside. All text of models goes
//! through [`porism_render`]. A [`Report`] is plain data, so that a page can be made (and tested) without a run;
//! [`Report::from_folder`] fills one from a run's folder.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use porism_render::{Rendered, escape, heading, render};
use serde_json::Value;

use crate::confidence::{FULL_MARKS, Readings};
use crate::place::toml_error;
use crate::pool::End;
use crate::store;

/// Everything the page tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Heading of the page: a line of Markdown with formulas.
    pub title: String,
    /// The problems, in order.
    pub problems: Vec<ProblemReport>,
    /// What the run took.
    pub spent: Spent,
    /// Settings by name, as they should be shown.
    pub settings: Vec<(String, String)>,
    /// Command that makes the run again.
    pub rerun: String,
    /// Whether the problems are of the kind that the published calibration is about.
    pub contest: bool,
    /// What the model knows, and that nothing else counts that it says; empty where nobody wrote it down.
    pub reservation: String,
    /// Remarks, such as what a rerun need not repeat.
    pub notes: Vec<String>,
}

/// One problem and its pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProblemReport {
    /// The set it comes from.
    pub source: String,
    /// Its name in the set.
    pub problem_idx: String,
    /// The statement, Markdown with formulas.
    pub question: String,
    /// `proof_id` of the chosen proof.
    pub chosen: Option<u64>,
    /// Whether the search accepted it.
    pub passed: bool,
    /// Whether the problem is none that the model knows: then nothing counts.
    pub outside_domain: bool,
    /// Why the statement is false, where a program finds that.
    pub falsehood: Option<String>,
    /// Why the search ended before all its rounds were done, if it did: the middle of a sentence.
    pub unfinished: Option<String>,
    /// All proofs, in the order they were made.
    pub pool: Vec<PooledProof>,
}

/// A proof in the pool, under the names of the published pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PooledProof {
    /// Its number in the pool.
    pub proof_id: u64,
    /// Round it was written in, from 1.
    pub round_idx: u64,
    /// Proofs it refines.
    pub dep_proof_ids: Vec<u64>,
    /// The proof of an earlier round with the same text, which did not pass.
    pub again: Option<u64>,
    /// The proof, Markdown with formulas.
    pub proof: String,
    /// What its writer says of it.
    pub self_eval: String,
    /// The score its writer gives, 0 to 1.
    pub self_eval_score: Option<f64>,
    /// Mean score by weight, 0 to 1; `None` before the first reading.
    pub meanscore: Option<f64>,
    /// Where the search left it, in a word.
    pub state: String,
    /// What a program found that recomputed it.
    pub recomputed: Option<Recomputed>,
    /// Its readings.
    pub evaluations: Vec<Evaluation>,
    /// Readings that gave no score.
    pub unreadable: u64,
    /// Tokens generated for it and its readings.
    pub tokens: u64,
}

/// What a program found that recomputed a proof.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recomputed {
    /// Whether every step holds, and the last one is what was asked.
    pub holds: bool,
    /// What does not.
    pub why: String,
}

/// One reading of a proof.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// 1, 0.5 or 0.
    pub score: f64,
    /// How much it counts; 1 unless a meta-verification judged it.
    pub weight: f64,
    /// The evaluation, Markdown with formulas.
    pub text: String,
    /// Meta-verifications of it: score and text.
    pub quality: Vec<(f64, String)>,
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Finished completions.
    pub completions: u64,
    /// Attempts that came to nothing.
    pub failed: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Of these, in answers that were cut off and asked for again, or broken off because nobody wanted them any more.
    pub wasted: u64,
    /// Completions whose tokens are estimated.
    pub estimated: u64,
    /// Seconds, over all sessions that ended by themselves.
    pub seconds: f64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read or written.
    #[error("{path}: {what}: {source}")]
    File {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
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
    /// A file is not what `porism prove` writes.
    #[error("{path}: line {line} is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// A page and what became of its formulas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The HTML file.
    pub html: String,
    /// Formulas in it.
    pub formulas: usize,
    /// Of these, shown as source.
    pub not_rendered: usize,
}

/// Bytes of proofs and evaluations that are shown beside the chosen proof and its ancestors; the files in `pool/` have the rest.
const POOL_BYTES: usize = 4 << 20;

impl ProblemReport {
    /// Whether a proof passed, of a problem that the model knows.
    fn is_accepted(&self) -> bool {
        self.passed && !self.outside_domain
    }

    fn proof(&self, proof_id: u64) -> Option<&PooledProof> {
        self.pool.iter().find(|proof| proof.proof_id == proof_id)
    }

    /// What a page about it alone is called: its statement, shortened, after its name in a set.
    fn title(&self) -> String {
        let statement = heading::heading(&self.question);
        // A problem that was typed is named after its own text.
        match (statement.is_empty(), self.source.is_empty() || self.source == "problem") {
            (true, _) if self.problem_idx.is_empty() => "A proof".to_owned(),
            (true, _) => self.problem_idx.clone(),
            (false, true) => statement,
            (false, false) => format!("{}: {statement}", self.problem_idx),
        }
    }

    /// The chosen proof.
    pub fn chosen(&self) -> Option<&PooledProof> {
        self.chosen.and_then(|proof_id| self.proof(proof_id))
    }

    /// Proofs of other rounds with the same text that were read.
    fn others<'a>(&'a self, proof: &'a PooledProof) -> impl Iterator<Item = &'a PooledProof> {
        self.pool.iter().filter(|other| {
            let is_again = proof.again.is_some() || other.again.is_some();
            let is_other = other.proof_id != proof.proof_id && !other.evaluations.is_empty();
            is_again && is_other && other.proof == proof.proof
        })
    }

    /// The readings of a proof's text in all rounds.
    fn all_readings(&self, proof: &PooledProof) -> Readings {
        let all = std::iter::once(proof).chain(self.others(proof)).flat_map(|proof| &proof.evaluations);
        Readings::new(all.map(|evaluation| (evaluation.score, evaluation.weight)))
    }

    /// How sure a proof is: its readings, and those of the same text in other rounds.
    fn statement(&self, proof: &PooledProof, contest: bool) -> String {
        let readings = proof.readings();
        if let Some(Recomputed { holds, why }) = &proof.recomputed {
            let Readings { passed, count, .. } = readings;
            return match holds {
                true => format!(
                    "Recomputed by a program: every step holds, and the last one is what was asked. It passed {passed} of \
                     {count} readings by the verifier, too, which alone would be no certainty."
                ),
                false => format!(
                    "Recomputed by a program, which finds a flaw: {why}. It passed {passed} of {count} readings by the \
                     verifier, which was mistaken."
                ),
            };
        }
        let mut others = self.others(proof).peekable();
        if others.peek().is_none() {
            return readings.statement(contest);
        }
        let mut statement =
            format!("Passed {} of {} readings in round {}", readings.passed, readings.count, proof.round_idx);
        for other in others {
            let Readings { passed, count, .. } = other.readings();
            let _ = write!(
                statement,
                ", {passed} of {count} in round {}, as proof {}",
                other.round_idx, other.proof_id
            );
        }
        let _ = write!(statement, ". All together: {}", self.all_readings(proof).statement(contest));
        statement
    }

    /// The chosen proof and those it came from, oldest first.
    fn ancestry(&self) -> Vec<&PooledProof> {
        let mut line: Vec<&PooledProof> = Vec::new();
        let mut waiting: Vec<u64> = self.chosen.into_iter().collect();
        while let Some(proof_id) = waiting.pop() {
            let Some(proof) = self.proof(proof_id) else { continue };
            // A damaged pool could name a proof as its own ancestor.
            if line.iter().all(|seen| seen.proof_id != proof_id) {
                line.push(proof);
                waiting.extend(&proof.dep_proof_ids);
            }
        }
        line.sort_by_key(|proof| (proof.round_idx, proof.proof_id));
        line
    }

    /// `solution.md`: problem, proof, and how sure that is. `contest` as in [`Report::contest`].
    pub fn solution(&self, contest: bool) -> String {
        let mut text = format!("# {}\n\n{}\n\n", self.problem_idx, self.question.trim());
        match self.chosen() {
            Some(proof) => {
                let heading = if self.is_accepted() { "Proof" } else { "Best attempt (not accepted)" };
                let statement = self.statement(proof, contest);
                let _ =
                    writeln!(text, "## {heading}\n\n{}\n\n## How sure\n\n{statement}", proof.proof.trim());
            }
            None => text.push_str("No proof was written.\n"),
        }
        text
    }
}

impl PooledProof {
    /// Its readings, summed up.
    pub fn readings(&self) -> Readings {
        Readings::new(self.evaluations.iter().map(|evaluation| (evaluation.score, evaluation.weight)))
    }

    fn bytes(&self) -> usize {
        self.proof.len()
            + self.self_eval.len()
            + self.evaluations.iter().map(|evaluation| evaluation.text.len()).sum::<usize>()
    }
}

impl Report {
    /// The page.
    pub fn html(&self) -> Page {
        let mut writer = Writer::default();
        writer.page(self);
        let mut page = writer.page;
        page.html.insert_str(0, &Writer::head(&self.title, page.formulas));
        page
    }
}

#[derive(Default)]
struct Writer {
    page: Page,
}

/// Writes HTML; writing to a `String` cannot fail.
macro_rules! html {
    ($writer:expr, $($rest:tt)*) => {{ let _ = writeln!($writer.page.html, $($rest)*); }};
}

impl Writer {
    /// What stands before the body. The font comes along where there are formulas: it is larger than many a page.
    fn head(title: &str, formulas: usize) -> String {
        let mut head = Self::default();
        html!(head, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">");
        // Should anything active ever slip through, this keeps it from running and from calling out.
        html!(
            head,
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; font-src \
             data:\">"
        );
        html!(head, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
        html!(
            head,
            "<title>{} — Porism</title>\n<style>\n{}",
            escape(&heading::plain(title)),
            include_str!("report.css")
        );
        if formulas > 0 {
            html!(head, "{}", porism_render::font_face());
        }
        html!(head, "</style>\n</head>");
        head.page.html
    }

    fn page(&mut self, report: &Report) {
        let (title, formulas) =
            heading::html(&report.title).unwrap_or_else(|| (escape(&heading::plain(&report.title)), 0));
        self.page.formulas += formulas;
        html!(self, "<body>\n<header>\n<h1>{title}</h1>");
        let passed = report.problems.iter().filter(|problem| problem.is_accepted()).count();
        let several = report.problems.len() > 1;
        if several {
            html!(
                self,
                "<p class=\"meta\">{passed} of {} problems have a proof that passed</p>\n<ul>",
                report.problems.len()
            );
            for (index, problem) in report.problems.iter().enumerate() {
                let name = escape(&problem.problem_idx);
                let (class, word) = verdict(problem);
                html!(
                    self,
                    "<li><a href=\"#problem-{index}\">{name}</a> <span class=\"{class}\">{word}</span></li>"
                );
            }
            html!(self, "</ul>");
        }
        if !report.reservation.is_empty() {
            html!(self, "<p class=\"meta\">{}</p>", escape(&report.reservation));
        }
        html!(self, "</header>\n<main>");
        for (index, problem) in report.problems.iter().enumerate() {
            self.problem(problem, index, several, report.contest);
        }
        self.cost(report);
        html!(self, "</main>");
        let Page { formulas, not_rendered, .. } = self.page;
        html!(
            self,
            "<footer class=\"meta\"><p>{formulas} formulas, {not_rendered} of them shown as source because they could not be \
             rendered. Made by porism {}.</p></footer>\n</body>\n</html>",
            env!("CARGO_PKG_VERSION")
        );
    }

    fn problem(&mut self, problem: &ProblemReport, index: usize, several: bool, contest: bool) {
        html!(self, "<section id=\"problem-{index}\">");
        if several {
            html!(self, "<h2>{}</h2>", escape(&problem.problem_idx));
        }
        let (class, word) = verdict(problem);
        html!(self, "<p><span class=\"badge {class}\">{word}</span></p>");
        if let Some(why) = &problem.unfinished {
            html!(self, "<p class=\"meta\">Unfinished: {}.</p>", escape(why));
        }
        html!(self, "<div class=\"problem\">");
        self.text(&problem.question);
        html!(self, "</div>");
        if problem.outside_domain {
            html!(
                self,
                "<div class=\"sure\"><p><strong>The model does not know such problems: nothing below counts.</strong></p></div>"
            );
        }
        if let Some(why) = &problem.falsehood {
            html!(
                self,
                "<div class=\"sure\"><p><strong>The statement is false, as a program finds: {}.</strong></p></div>",
                escape(why)
            );
        }
        let chosen = problem.chosen();
        if let Some(proof) = chosen {
            html!(
                self,
                "<h2>How sure</h2>\n<div class=\"sure\"><p>{}</p></div>",
                escape(&problem.statement(proof, contest))
            );
            let heading = if problem.is_accepted() { "Proof" } else { "Best attempt" };
            html!(self, "<div class=\"beside\">\n<article>\n<h2>{heading}</h2>");
            let line = summary(proof);
            html!(self, "<p class=\"meta\">{line}</p>");
            self.text(&proof.proof);
            html!(self, "</article>\n<aside>\n<h2>Evaluations</h2>");
            self.evaluations(proof);
            html!(self, "</aside>\n</div>");
        }
        html!(self, "<h2>Pool</h2>");
        if problem.pool.is_empty() {
            html!(self, "<p>No proof was written.</p>");
        } else {
            self.plot(problem);
            self.pool(problem, index);
        }
        html!(self, "</section>");
    }

    /// A model's text.
    fn text(&mut self, text: &str) {
        let Rendered { html, formulas, rejected } = render(text);
        self.page.formulas += formulas;
        self.page.not_rendered += rejected.len();
        self.page.html.push_str(&html);
    }

    /// Evaluations, worst first: that is where the doubts are.
    fn evaluations(&mut self, proof: &PooledProof) {
        let mut evaluations: Vec<_> = proof.evaluations.iter().enumerate().collect();
        evaluations.sort_by(|(_, a), (_, b)| a.score.total_cmp(&b.score));
        for (position, (number, evaluation)) in evaluations.into_iter().enumerate() {
            let open = if position == 0 { " open" } else { "" };
            let class = score_class(Some(evaluation.score));
            html!(
                self,
                "<details{open}><summary>Reading {} <span class=\"badge {class}\">{}</span>",
                number + 1,
                evaluation.score
            );
            if evaluation.weight != 1.0 {
                html!(self, " counts {:.2}", evaluation.weight);
            }
            html!(self, "</summary>");
            self.text(&evaluation.text);
            for (score, text) in &evaluation.quality {
                html!(
                    self,
                    "<div class=\"meta-verification\"><p><strong>Meta-verification: {score}</strong></p>"
                );
                self.text(text);
                html!(self, "</div>");
            }
            html!(self, "</details>");
        }
        if proof.unreadable > 0 {
            html!(self, "<p class=\"meta\">{} more gave no score and do not count.</p>", proof.unreadable);
        }
        if !proof.self_eval.trim().is_empty() {
            html!(self, "<details><summary>The writer's own evaluation");
            if let Some(score) = proof.self_eval_score {
                html!(self, " <span class=\"badge {}\">{score}</span>", score_class(Some(score)));
            }
            html!(self, "</summary>");
            self.text(&proof.self_eval);
            html!(self, "</details>");
        }
    }

    /// Mean scores over rounds, with a line from each proof to those made from it.
    fn plot(&mut self, problem: &ProblemReport) {
        const WIDTH: f64 = 720.0;
        const TOP: f64 = 20.0;
        const HEIGHT: f64 = 200.0;
        const LEFT: f64 = 46.0;
        let first = problem.pool.iter().map(|proof| proof.round_idx).min().unwrap_or(1);
        let last = problem.pool.iter().map(|proof| proof.round_idx).max().unwrap_or(1);
        let rounds = (last - first).saturating_add(1);
        let column = (WIDTH - LEFT - 10.0) / rounds as f64;
        let mut in_round: HashMap<u64, u64> = HashMap::new();
        for proof in &problem.pool {
            *in_round.entry(proof.round_idx).or_default() += 1;
        }
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut places: HashMap<u64, (f64, f64)> = HashMap::new();
        for proof in &problem.pool {
            let nth = seen.entry(proof.round_idx).or_default();
            *nth += 1;
            // Side by side within the round, so that equal scores do not cover each other.
            let share = *nth as f64 / (in_round[&proof.round_idx] + 1) as f64;
            let x = LEFT + column * ((proof.round_idx - first) as f64 + 0.1 + 0.8 * share);
            let y = proof
                .meanscore
                .map_or(TOP + HEIGHT + 22.0, |mean| TOP + HEIGHT * (1.0 - mean.clamp(0.0, 1.0)));
            places.entry(proof.proof_id).or_insert((x, y));
        }
        let unread = problem.pool.iter().any(|proof| proof.meanscore.is_none());
        let bottom = TOP + HEIGHT + if unread { 34.0 } else { 12.0 };
        html!(
            self,
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"mean score of each proof by round\">",
            bottom + 22.0
        );
        for score in [0.0, 0.5, 1.0] {
            let y = TOP + HEIGHT * (1.0 - score);
            html!(
                self,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{WIDTH}\" y2=\"{y}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{score}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        if unread {
            html!(
                self,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">unread</text>",
                LEFT - 4.0,
                TOP + HEIGHT + 26.0
            );
        }
        // No more labels than there is room for.
        let step = rounds.div_ceil(16).max(1);
        for round in (0..rounds.min(1 << 16)).filter(|round| round % step == 0) {
            let x = LEFT + column * (round as f64 + 0.5);
            html!(
                self,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">round {}</text>",
                bottom + 14.0,
                first + round
            );
        }
        let line: Vec<u64> = problem.ancestry().iter().map(|proof| proof.proof_id).collect();
        for proof in &problem.pool {
            for (from, to) in proof
                .dep_proof_ids
                .iter()
                .filter_map(|dep| Some((dep, (places.get(dep)?, places.get(&proof.proof_id)?))))
            {
                let class =
                    if line.contains(from) && line.contains(&proof.proof_id) { "line" } else { "edge" };
                let ((x1, y1), (x2, y2)) = to;
                html!(
                    self,
                    "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
                );
            }
        }
        for proof in &problem.pool {
            let (x, y) = places[&proof.proof_id];
            let class = score_class(proof.meanscore);
            html!(
                self,
                "<g class=\"{class}\"><title>{}</title><circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>",
                summary(proof)
            );
            if Some(proof.proof_id) == problem.chosen {
                html!(self, "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8.5\"/>");
            }
            html!(self, "</g>");
        }
        html!(
            self,
            "</svg>\n<p class=\"meta\">Each dot is a proof, its height the mean score of its readings; lines lead from a proof to \
                     those made from it. The ring marks the chosen one.</p>"
        );
    }

    /// Where the chosen proof came from, and all proofs with their evaluations.
    fn pool(&mut self, problem: &ProblemReport, index: usize) {
        let ancestry = problem.ancestry();
        if ancestry.len() > 1 {
            html!(self, "<h3>Where the chosen proof came from</h3>\n<ol>");
            for proof in &ancestry {
                html!(
                    self,
                    "<li class=\"tabular\"><a href=\"#proof-{index}-{}\">{}</a></li>",
                    proof.proof_id,
                    summary(proof)
                );
            }
            html!(self, "</ol>");
        }
        html!(self, "<div class=\"pool\">\n<h3>All proofs, best first</h3>");
        let mut ranked: Vec<&PooledProof> = problem.pool.iter().collect();
        let key = |proof: &PooledProof| {
            let is_flawed = proof.recomputed.as_ref().is_some_and(|found| !found.holds);
            let mean = if is_flawed { -1.0 } else { proof.meanscore.unwrap_or(-1.0) };
            (mean, proof.evaluations.len(), proof.self_eval_score.unwrap_or(-1.0))
        };
        ranked.sort_by(|a, b| {
            let ((mean_a, count_a, self_a), (mean_b, count_b, self_b)) = (key(a), key(b));
            mean_b.total_cmp(&mean_a).then(count_b.cmp(&count_a)).then(self_b.total_cmp(&self_a))
        });
        let mut bytes = 0;
        let mut left_out = 0;
        for proof in ranked {
            let chosen = Some(proof.proof_id) == problem.chosen;
            let class = if chosen { " class=\"chosen\"" } else { "" };
            html!(
                self,
                "<details{class} id=\"proof-{index}-{}\"><summary>{}</summary>",
                proof.proof_id,
                summary(proof)
            );
            let ancestor = ancestry.iter().any(|other| other.proof_id == proof.proof_id);
            bytes += proof.bytes();
            if chosen {
                html!(
                    self,
                    "<p class=\"meta\">This is the chosen proof; it stands above with its evaluations.</p>"
                );
            } else if ancestor || bytes <= POOL_BYTES {
                self.text(&proof.proof);
                self.evaluations(proof);
            } else {
                left_out += 1;
                html!(
                    self,
                    "<p class=\"meta\">Left out here for length; its text is in the run's pool folder.</p>"
                );
            }
            html!(self, "</details>");
        }
        if left_out > 0 {
            html!(
                self,
                "<p class=\"meta\">The texts of {left_out} proofs are left out here for length; the pool folder has them.</p>"
            );
        }
        html!(self, "</div>");
    }

    fn cost(&mut self, report: &Report) {
        let Spent { completions, failed, prompt_tokens, tokens, wasted, estimated, seconds } = report.spent;
        html!(self, "<section>\n<h2>What it took</h2>\n<div class=\"wide\"><table class=\"tabular\">");
        let rows = [
            ("Completions", thousands(completions)),
            ("Attempts that came to nothing", thousands(failed)),
            ("Tokens generated", thousands(tokens)),
            ("Of these in answers that were cut off", thousands(wasted)),
            ("Tokens read", thousands(prompt_tokens)),
            ("Completions with estimated tokens", thousands(estimated)),
            ("Time", time(seconds)),
        ];
        // Only endpoints cut answers off, or do not count.
        let shown = |name: &str| match name {
            "Of these in answers that were cut off" => wasted > 0,
            "Completions with estimated tokens" => estimated > 0,
            _ => true,
        };
        for (name, value) in rows.into_iter().filter(|(name, _)| shown(name)) {
            html!(self, "<tr><th>{name}</th><td class=\"right\">{value}</td></tr>");
        }
        html!(
            self,
            "</table></div>\n<h2>How to run it again</h2>\n<pre><code>{}</code></pre>",
            escape(&report.rerun)
        );
        for note in &report.notes {
            html!(self, "<p>{}</p>", escape(note));
        }
        if !report.settings.is_empty() {
            html!(
                self,
                "<details><summary>Settings</summary>\n<div class=\"wide\"><table class=\"tabular\">"
            );
            for (name, value) in &report.settings {
                html!(self, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
            }
            html!(self, "</table></div></details>");
        }
        html!(self, "</section>");
    }
}

/// Class and words of a problem's outcome. "Passed" is as much as anyone can say.
fn verdict(problem: &ProblemReport) -> (&'static str, String) {
    if problem.outside_domain {
        return ("bad", "outside of what the model knows".to_owned());
    }
    if problem.falsehood.is_some() {
        return ("bad", "the statement is false".to_owned());
    }
    let Some(proof) = problem.chosen() else {
        return match problem.unfinished {
            Some(_) => ("half", "unfinished: no proof yet".to_owned()),
            None => ("bad", "no proof".to_owned()),
        };
    };
    let (readings, all) = (proof.readings(), problem.all_readings(proof));
    let mut words = format!("{} of {} readings", readings.passed, readings.count);
    if all.count > readings.count {
        let _ = write!(words, ", {} of {} in all rounds", all.passed, all.count);
    }
    let recomputed = proof.recomputed.as_ref().map(|found| found.holds);
    if problem.passed && recomputed == Some(true) {
        ("good", format!("recomputed by a program, and passed {words}"))
    } else if recomputed == Some(false) {
        ("bad", "no proof passed; a program finds a flaw in the best".to_owned())
    } else if problem.passed {
        ("good", format!("passed {words}"))
    } else if problem.unfinished.is_some() {
        ("half", format!("unfinished: no proof passed yet; the best has {words}"))
    } else {
        ("bad", format!("no proof passed; the best has {words}"))
    }
}

/// A proof in a line. Numbers and our own words, and the escaped state.
fn summary(proof: &PooledProof) -> String {
    let readings = proof.readings();
    let mut line = format!("Proof {} · round {}", proof.proof_id, proof.round_idx);
    match proof.meanscore {
        Some(mean) => {
            let _ = write!(line, " · mean {mean:.2} · {} of {} readings", readings.passed, readings.count);
        }
        None => line.push_str(" · unread"),
    }
    if let Some(score) = proof.self_eval_score {
        let _ = write!(line, " · own score {score}");
    }
    if !proof.dep_proof_ids.is_empty() {
        let deps: Vec<String> = proof.dep_proof_ids.iter().map(u64::to_string).collect();
        let _ = write!(line, " · from proof {}", deps.join(", "));
    }
    if let Some(twin) = proof.again {
        let _ = write!(line, " · the text of proof {twin} again");
    }
    match &proof.recomputed {
        Some(Recomputed { holds: true, .. }) => line.push_str(" · recomputed"),
        Some(Recomputed { holds: false, why }) => {
            let _ = write!(line, " · a program finds a flaw: {}", escape(why));
        }
        None => {}
    }
    if !proof.state.is_empty() {
        let _ = write!(line, " · {}", escape(&proof.state));
    }
    line
}

fn score_class(score: Option<f64>) -> &'static str {
    match score {
        None => "none",
        Some(score) if score >= FULL_MARKS => "good",
        Some(score) if score >= 0.25 => "half",
        Some(_) => "bad",
    }
}

/// `1234567` → `1 234 567`, with narrow no-break spaces.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn time(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Reads the run in `folder` and writes its `report.html`, whole or not at all. Returns the file.
///
/// # Errors
/// [`ReportError`] when the folder is no run, damaged, or cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let page = Report::from_folder(folder)?.html();
    let path = folder.join("report.html");
    let draft = folder.join("report.html.new");
    fs::write(&draft, page.html).map_err(file_error(&draft, "cannot be written"))?;
    fs::rename(&draft, &path).map_err(file_error(&path, "cannot be written"))?;
    Ok(path)
}

fn file_error<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> ReportError + 'a {
    move |source| ReportError::File { path: path.display().to_string(), what, source }
}

/// The text of a file, or `None` where there is none.
fn read(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(file_error(path, "cannot be read")(error)),
    }
}

/// The lines of a JSON Lines file; none where there is no file. A last line without its end was being written: it is left out.
fn json_lines(path: &Path) -> Result<Vec<Value>, ReportError> {
    let text = read(path)?.unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| ReportError::Damaged {
                path: path.display().to_string(),
                line: index + 1,
                what: error.to_string(),
            })
        })
        .collect()
}

impl Report {
    /// Reads a run's folder: `run.toml`, `predictions.jsonl` (or `problems.jsonl`, `problem.md` while there is none yet),
    /// `pool/` and `events.jsonl`. An unfinished run has a report too.
    ///
    /// # Errors
    /// [`ReportError`]
    pub fn from_folder(folder: &Path) -> Result<Self, ReportError> {
        let manifest_path = folder.join("run.toml");
        let Some(manifest) = read(&manifest_path)? else {
            return Err(ReportError::NotARun { path: folder.display().to_string() });
        };
        let manifest: toml::Table =
            manifest.parse().map_err(|error: toml::de::Error| ReportError::Malformed {
                path: manifest_path.display().to_string(),
                what: toml_error(&manifest, &error),
            })?;
        let mut problems = Vec::new();
        let mut rows = json_lines(&folder.join("predictions.jsonl"))?;
        if rows.is_empty() {
            rows = json_lines(&folder.join("problems.jsonl"))?;
        }
        let pools = pool_files(&folder.join("pool"))?;
        for row in &rows {
            problems.push(ProblemReport {
                source: word(row, "source"),
                problem_idx: word(row, "problem_idx"),
                question: word(row, "question"),
                chosen: row["proof_id"].as_u64(),
                passed: row["passed"].as_bool().unwrap_or(false),
                outside_domain: row["outside_domain"].as_bool().unwrap_or(false),
                falsehood: row["falsehood"].as_str().map(str::to_owned),
                unfinished: unfinished(row),
                pool: Vec::new(),
            });
        }
        let statement = read(&folder.join("problem.md"))?;
        for (source, problem_idx, path) in pools {
            let pool = json_lines(&path)?.iter().map(pooled_proof).collect();
            let known = problems.iter_mut().find(|problem: &&mut ProblemReport| {
                problem.problem_idx == problem_idx && (problem.source == source || problem.source.is_empty())
            });
            match known {
                Some(problem) => problem.pool = pool,
                None => problems.push(ProblemReport {
                    source,
                    problem_idx,
                    question: statement.clone().unwrap_or_default(),
                    unfinished: Some(NOT_ENDED.to_owned()),
                    pool,
                    ..ProblemReport::default()
                }),
            }
        }
        if let (true, Some(question)) = (problems.is_empty(), statement) {
            let unfinished = Some(NOT_ENDED.to_owned());
            problems.push(ProblemReport { question, unfinished, ..ProblemReport::default() });
        }
        for problem in problems.iter_mut().filter(|problem| problem.chosen.is_none()) {
            // Not chosen yet: the best so far.
            let is_flawed = |proof: &PooledProof| proof.recomputed.as_ref().is_some_and(|found| !found.holds);
            let read = problem.pool.iter().filter(|proof| proof.meanscore.is_some() && !is_flawed(proof));
            // Of the same text the last, as the search does.
            let replaced: Vec<u64> = read.clone().filter_map(|proof| proof.again).collect();
            let best = read.filter(|proof| !replaced.contains(&proof.proof_id)).max_by(|a, b| {
                let mean = |proof: &PooledProof| proof.meanscore.unwrap_or(-1.0);
                mean(a).total_cmp(&mean(b)).then(a.evaluations.len().cmp(&b.evaluations.len()))
            });
            problem.chosen = best.map(|proof| proof.proof_id);
        }

        let generator =
            manifest.get("generator").and_then(|model| model.get("name")).and_then(toml::Value::as_str);
        let domain = manifest.get("domain").and_then(|domain| domain.clone().try_into::<store::Known>().ok());
        let domain = domain.as_ref();
        let outside = domain.map_or(&[][..], |known| known.outside.as_slice());
        for problem in &mut problems {
            problem.outside_domain |= outside.contains(&problem.problem_idx);
        }
        let mut settings = Vec::new();
        flatten(&mut settings, "", &manifest);
        let mut notes = Vec::new();
        for (role, what) in [("generator", "Proofs were written"), ("verifier", "They were read")] {
            let addresses = endpoints(&manifest, role);
            if !addresses.is_empty() {
                notes.push(format!("{what} by a model behind {}.", addresses.join(", ")));
            }
        }
        notes.push(
            "With the same seed and model the same proofs come out, whatever is batched together. Remote endpoints and time \
             limits are exempt: what they answer, or when, is not ours to repeat."
                .to_owned(),
        );
        let title = match problems.as_slice() {
            [problem] => problem.title(),
            [] => "A proof".to_owned(),
            problems => format!("{} problems", problems.len()),
        };
        Ok(Self {
            title,
            problems,
            spent: spent(&json_lines(&folder.join("events.jsonl"))?),
            rerun: rerun(&manifest, generator, folder.join("problems.jsonl").exists()),
            settings,
            // A model whose domain is written down knows no contest problems.
            contest: domain.is_none(),
            reservation: domain.map(store::Known::reservation).unwrap_or_default(),
            notes,
        })
    }
}

/// Of a run that was killed, or is under way.
const NOT_ENDED: &str = "this run has not ended; the same command goes on with it";

/// Why the search of a row of the predictions is unfinished, if it is. Rows of the problems have no prediction yet.
fn unfinished(row: &Value) -> Option<String> {
    if row.get("model_prediction").is_none() {
        return Some(NOT_ENDED.to_owned());
    }
    let end: End = serde_json::from_value(row["end"].clone()).ok()?;
    end.unfinished().map(str::to_owned)
}

fn word(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// `(source, problem_idx, file)` of each `pool/<source>/<problem_idx>.jsonl`, sorted.
fn pool_files(pool: &Path) -> Result<Vec<(String, String, PathBuf)>, ReportError> {
    let entries = |folder: &Path| -> Result<Vec<PathBuf>, ReportError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file_error(folder, "cannot be read")(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(file_error(folder, "cannot be read"))?.path());
        }
        paths.sort();
        Ok(paths)
    };
    let name = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let mut files = Vec::new();
    for source in entries(pool)?.into_iter().filter(|path| path.is_dir()) {
        for file in
            entries(&source)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        {
            files.push((name(source.file_name()), name(file.file_stem()), file));
        }
    }
    Ok(files)
}

/// A line of the pool. The published fields, and ours where they are there.
fn pooled_proof(line: &Value) -> PooledProof {
    let number = |value: &Value| {
        value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|value| value.is_finite())
    };
    let mut evaluations: Vec<(u64, Evaluation)> = Vec::new();
    for (score, ratings) in line["score2ratings"].as_object().into_iter().flatten() {
        for rating in ratings.as_array().into_iter().flatten() {
            let qualities = rating["quality"].as_array().into_iter().flatten();
            let evaluation = Evaluation {
                score: number(&rating["score"]).or_else(|| score.parse().ok()).unwrap_or_default(),
                weight: number(&rating["weight"]).unwrap_or(1.0),
                text: word(rating, "rating"),
                quality: qualities
                    .map(|quality| (number(&quality["score"]).unwrap_or_default(), word(quality, "quality")))
                    .collect(),
            };
            evaluations.push((rating["reading"].as_u64().unwrap_or(u64::MAX), evaluation));
        }
    }
    evaluations.sort_by_key(|(reading, _)| *reading);
    PooledProof {
        proof_id: line["proof_id"].as_u64().unwrap_or_default(),
        round_idx: line["round_idx"].as_u64().unwrap_or(1),
        // The published script marks proofs from elsewhere by negative ids.
        dep_proof_ids: line["dep_proof_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect(),
        again: line["again"].as_u64(),
        proof: word(line, "proof"),
        self_eval: Some(word(&line["self_eval"], "self_eval"))
            .filter(|text| text != "null")
            .unwrap_or_default(),
        self_eval_score: number(&line["self_eval"]["self_eval_score"]),
        meanscore: number(&line["meanscore"]),
        state: word(line, "state").replace('_', " "),
        recomputed: line["recomputed"]["holds"]
            .as_bool()
            .map(|holds| Recomputed { holds, why: word(&line["recomputed"], "why") }),
        evaluations: evaluations.into_iter().map(|(_, evaluation)| evaluation).collect(),
        unreadable: line["unreadable"].as_u64().unwrap_or_default(),
        tokens: line["tokens"].as_u64().unwrap_or_default(),
    }
}

/// Sums of the journal.
fn spent(events: &[Value]) -> Spent {
    let mut spent = Spent::default();
    for event in events {
        let wasted = event["wasted"].as_u64().unwrap_or_default();
        spent.tokens = spent.tokens.saturating_add(wasted);
        spent.wasted = spent.wasted.saturating_add(wasted);
        match event["event"].as_str() {
            Some("completion") if event["completion"].is_object() => {
                spent.completions += 1;
                spent.estimated += u64::from(event["completion"]["served"]["estimated"] == true);
                spent.tokens += event["completion"]["tokens"].as_u64().unwrap_or_default();
                spent.prompt_tokens += event["completion"]["prompt_tokens"].as_u64().unwrap_or_default();
            }
            Some("completion") => spent.failed += 1,
            Some("canceled") => {
                let tokens = event["tokens"].as_u64().unwrap_or_default();
                spent.tokens = spent.tokens.saturating_add(tokens);
                spent.wasted = spent.wasted.saturating_add(tokens);
            }
            Some("end") => spent.seconds += event["seconds"].as_f64().unwrap_or_default(),
            _ => {}
        }
    }
    spent
}

/// The command, from the settings it left behind.
fn rerun(manifest: &toml::Table, generator: Option<&str>, set: bool) -> String {
    let mut command = format!("porism prove {}", if set { "problems.jsonl" } else { "problem.md" });
    let mut model = |name: &str, role: &str, endpoint: &str, remote: &str, local: &str| {
        let addresses = endpoints(manifest, role);
        for address in &addresses {
            let _ = write!(command, " {endpoint} {}", quoted(address));
        }
        let _ = write!(command, " {} {}", if addresses.is_empty() { local } else { remote }, quoted(name));
        let revision =
            manifest.get(role).and_then(|model| model.get("revision")).and_then(toml::Value::as_str);
        if let Some(revision) = revision.filter(|_| role == "generator") {
            let _ = write!(command, " --endpoint-revision {}", quoted(revision));
        }
    };
    if let Some(name) = generator {
        model(name, "generator", "--endpoint", "--endpoint-model", "--model");
    }
    let other = manifest.get("verifier").filter(|verifier| manifest.get("generator") != Some(*verifier));
    if let Some(name) = other.and_then(|model| model.get("name")).and_then(toml::Value::as_str) {
        model(name, "verifier", "--verifier-endpoint", "--verifier-model", "--verifier-model");
    }
    if let Some(seed) = manifest.get("seed") {
        let _ = write!(command, " --seed {}", plain(seed));
    }
    if let Some(toml::Value::Table(settings)) = manifest.get("settings") {
        for (name, flag) in [
            ("rounds", "--rounds"),
            ("proofs", "--proofs"),
            ("verifications", "--verifications"),
            ("max_tokens_total", "--max-tokens-total"),
        ] {
            if let Some(value) = settings.get(name) {
                let _ = write!(command, " {flag} {}", plain(value));
            }
        }
    }
    if manifest.get("domain").is_some_and(|domain| domain.get("outside").is_some()) {
        command.push_str(" --outside-domain");
    }
    command.push_str(" --out again");
    command
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

/// Addresses of the endpoints that played a role.
fn endpoints(manifest: &toml::Table, role: &str) -> Vec<String> {
    let addresses =
        manifest.get(role).and_then(|model| model.get("endpoints")).and_then(toml::Value::as_array);
    addresses.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `[settings] rounds = 4` → `settings.rounds`, `4`.
fn flatten(rows: &mut Vec<(String, String)>, prefix: &str, table: &toml::Table) {
    for (name, value) in table {
        match value {
            toml::Value::Table(table) => flatten(rows, &format!("{prefix}{name}."), table),
            value => rows.push((format!("{prefix}{name}"), plain(value))),
        }
    }
}
