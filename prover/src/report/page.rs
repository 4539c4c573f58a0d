//! The page.

use std::fmt::Write as _;

use porism_render::{Rendered, escape, heading, render};

use super::{ProblemReport, Report};
use crate::confidence::FULL_MARKS;
use crate::pool::{self, Proof, Reading, State};
use crate::recompute::Recomputed;
use crate::store::Spent;

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
pub(super) struct Writer {
    pub page: Page,
}

/// Writes HTML; writing to a `String` cannot fail.
macro_rules! html {
    ($writer:expr, $($rest:tt)*) => {{ let _ = writeln!($writer.page.html, $($rest)*); }};
}
pub(super) use html;

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
                let name = escape(&problem.outcome.problem_idx);
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
            html!(self, "<h2>{}</h2>", escape(&problem.outcome.problem_idx));
        }
        let (class, word) = verdict(problem);
        html!(self, "<p><span class=\"badge {class}\">{word}</span></p>");
        if let Some(why) = problem.unfinished() {
            html!(self, "<p class=\"meta\">Unfinished: {}.</p>", escape(why));
        }
        html!(self, "<div class=\"problem\">");
        self.text(&problem.outcome.question);
        html!(self, "</div>");
        if problem.outcome.outside_domain {
            html!(
                self,
                "<div class=\"sure\"><p><strong>The model does not know such problems: nothing below counts.</strong></p></div>"
            );
        }
        if let Some(why) = &problem.outcome.falsehood {
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
    fn evaluations(&mut self, proof: &Proof) {
        let mut evaluations: Vec<(usize, &Reading)> = proof.readings.iter().enumerate().collect();
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
            for judgement in &evaluation.judgements {
                html!(
                    self,
                    "<div class=\"meta-verification\"><p><strong>Meta-verification: {}</strong></p>",
                    judgement.score
                );
                self.text(&judgement.text);
                html!(self, "</div>");
            }
            html!(self, "</details>");
        }
        if proof.unreadable > 0 {
            html!(self, "<p class=\"meta\">{} more gave no score and do not count.</p>", proof.unreadable);
        }
        let own = own_evaluation(proof);
        if !own.trim().is_empty() {
            html!(self, "<details><summary>The writer's own evaluation");
            if let Some(score) = proof.self_eval.score {
                html!(self, " <span class=\"badge {}\">{score}</span>", score_class(Some(score)));
            }
            html!(self, "</summary>");
            self.text(own);
            html!(self, "</details>");
        }
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
        let mut ranked: Vec<&Proof> = problem.pool.iter().collect();
        ranked.sort_by(|a, b| a.rank(b));
        let mut bytes = 0;
        let mut left_out = 0;
        for proof in ranked {
            let chosen = Some(proof.proof_id) == problem.outcome.proof_id;
            let class = if chosen { " class=\"chosen\"" } else { "" };
            html!(
                self,
                "<details{class} id=\"proof-{index}-{}\"><summary>{}</summary>",
                proof.proof_id,
                summary(proof)
            );
            let ancestor = ancestry.iter().any(|other| other.proof_id == proof.proof_id);
            bytes += length(proof);
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
        let Spent { completions, failed, prompt_tokens, tokens, wasted, canceled, estimated } = report.spent;
        let wasted = wasted.saturating_add(canceled);
        html!(self, "<section>\n<h2>What it took</h2>\n<div class=\"wide\"><table class=\"tabular\">");
        let rows = [
            ("Completions", thousands(completions - failed)),
            ("Attempts that came to nothing", thousands(failed)),
            ("Tokens generated", thousands(tokens)),
            ("Of these in answers that were cut off", thousands(wasted)),
            ("Tokens read", thousands(prompt_tokens)),
            ("Completions with estimated tokens", thousands(estimated)),
            ("Time", time(report.seconds)),
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
    if problem.outcome.outside_domain {
        return ("bad", "outside of what the model knows".to_owned());
    }
    if problem.outcome.falsehood.is_some() {
        return ("bad", "the statement is false".to_owned());
    }
    let Some(proof) = problem.chosen() else {
        return match problem.unfinished() {
            Some(_) => ("half", "unfinished: no proof yet".to_owned()),
            None => ("bad", "no proof".to_owned()),
        };
    };
    let (readings, all) = (pool::sum(&proof.readings), problem.all_readings(proof));
    let mut words = format!("{} of {} readings", readings.passed, readings.count);
    if all.count > readings.count {
        let _ = write!(words, ", {} of {} in all rounds", all.passed, all.count);
    }
    let recomputed = proof.recomputed.as_ref().map(|found| found.holds);
    if problem.outcome.passed && recomputed == Some(true) {
        ("good", format!("recomputed by a program, and passed {words}"))
    } else if recomputed == Some(false) {
        ("bad", "no proof passed; a program finds a flaw in the best".to_owned())
    } else if problem.outcome.passed {
        ("good", format!("passed {words}"))
    } else if problem.unfinished().is_some() {
        ("half", format!("unfinished: no proof passed yet; the best has {words}"))
    } else {
        ("bad", format!("no proof passed; the best has {words}"))
    }
}

/// A proof in a line. Numbers and our own words, and what is escaped.
pub(super) fn summary(proof: &Proof) -> String {
    let readings = pool::sum(&proof.readings);
    let mut line = format!("Proof {} · round {}", proof.proof_id, proof.round_idx);
    match proof.meanscore {
        Some(mean) => {
            let _ = write!(line, " · mean {mean:.2} · {} of {} readings", readings.passed, readings.count);
        }
        None => line.push_str(" · unread"),
    }
    if let Some(score) = proof.self_eval.score {
        let _ = write!(line, " · own score {score}");
    }
    if !proof.dep_proof_ids.is_empty() {
        let deps: Vec<String> = proof.dep_proof_ids.iter().map(u32::to_string).collect();
        let _ = write!(line, " · from proof {}", deps.join(", "));
    }
    if let Some(twin) = proof.again {
        let _ = write!(line, " · the text of proof {twin} again");
    }
    match &proof.recomputed {
        Some(Recomputed { holds: true, .. }) => line.push_str(" · recomputed"),
        Some(Recomputed { why, .. }) => {
            let why = why.as_deref().unwrap_or_default();
            let _ = write!(line, " · a program finds a flaw: {}", escape(why));
        }
        None => {}
    }
    line.push_str(match &proof.state {
        State::Passed => " · passed",
        State::Refuted => " · refuted",
        State::Rejected => " · rejected",
        State::Undecided => " · undecided",
        // A published pool does not say.
        State::Writing | State::Failed(_) | State::Duplicate(_) | State::Reading => "",
    });
    line
}

pub(super) fn score_class(score: Option<f64>) -> &'static str {
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

/// What the writer of a proof says of it; the published way to say nothing is `null`.
fn own_evaluation(proof: &Proof) -> &str {
    if proof.self_eval.text == "null" { "" } else { &proof.self_eval.text }
}

/// Bytes of a proof and what was said of it.
fn length(proof: &Proof) -> usize {
    let readings: usize = proof.readings.iter().map(|reading| reading.text.len()).sum();
    proof.proof.len() + own_evaluation(proof).len() + readings
}
