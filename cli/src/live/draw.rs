//! The view as lines of text. Narrow windows leave out what matters least; short ones keep what is under way.
//!
//! Nothing is said by colour alone. A reading is a cell whose height is its score: `▇` 1, `▄` 0.5, `▁` 0, `·` to come.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use porism_prover::roles::Role;

use super::line::{self, Line, Span, cut, wrap};
use super::view::{Candidate, Fate, Running, Tone, View};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const OPEN: Style = AnsiColor::Yellow.on_default();

/// Narrower windows have no margin and fewer columns.
const WIDE: usize = 60;
/// Lower windows have no empty lines.
const HIGH: usize = 20;

/// `height` lines of at most `width` columns.
pub fn lines(view: &View, width: usize, height: usize) -> Vec<Line> {
    let whole = width;
    let (margin, gap) = (usize::from(width >= WIDE), usize::from(height >= HIGH));
    // The same on both sides.
    let width = width.saturating_sub(2 * margin);
    let head = head(view, width, (height / 8).clamp(1, 4));
    let foot = foot(view, width, if height < 10 { 1 } else { 2 });
    let room = height.saturating_sub(head.len() + foot.len() + 3 * gap);
    // Of the rest the proofs need the most, but what happened is never left out altogether.
    let news = view.news.len().min((room / 4).max(1));
    let mut out = head;
    out.resize(out.len() + gap, Line::default());
    out.extend(proofs(view, width, room.saturating_sub(news)));
    out.resize(out.len() + gap, Line::default());
    let room = height.saturating_sub(out.len() + foot.len() + gap);
    out.extend(happened(view, width, room));
    out.resize(height.saturating_sub(foot.len()), Line::default());
    out.extend(foot);
    out.truncate(height);
    if margin > 0 {
        out.iter_mut().for_each(|line| line.0.insert(0, Span::plain(" ")));
    }
    out.into_iter().map(|line| line.fit(whole)).collect()
}

/// What is asked, and how far it is; the question on so many lines at most.
fn head(view: &View, width: usize, question: usize) -> Vec<Line> {
    let stop = match (view.stopping, width < WIDE - 2) {
        (true, true) => Span::styled("stopping …", OPEN),
        (true, false) => Span::styled("stopping, everything is saved …", OPEN),
        (false, true) => Span::styled("q stops", DIM),
        (false, false) => Span::styled("q stops and saves", DIM),
    };
    let mut left = vec![Span::styled(format!("porism {}", view.verb), BOLD)];
    let one = match view.problems.as_slice() {
        [one] => Some(one),
        _ => None,
    };
    if one.is_some() && view.budget.rounds > 1 {
        left.push(Span::plain(format!(" · round {} of {}", view.round(0), view.budget.rounds)));
    }
    let mut lines = vec![sides(left, stop, width)];
    match one {
        Some(problem) => {
            let words = wrap(&problem.question, width, question);
            lines.extend(words.into_iter().map(Line::plain));
        }
        None => lines.push(problems(view, width)),
    }
    lines
}

/// Several problems: a cell for each, as far as they fit, and how many are done.
fn problems(view: &View, width: usize) -> Line {
    let done = view.problems.iter().filter(|problem| problem.passed.is_some()).count();
    let passed = view.problems.iter().filter(|problem| problem.passed == Some(true)).count();
    let words = if width < WIDE - 2 {
        format!("{done} of {} done, {passed} passed", view.problems.len())
    } else {
        format!("{done} of {} problems done, {passed} passed", view.problems.len())
    };
    let mut spans = vec![Span::plain(cut(&words, width))];
    if words.chars().count() + 2 + view.problems.len() <= width {
        spans.push(Span::plain("  "));
        let active = view.active();
        spans.extend(view.problems.iter().enumerate().map(|(index, problem)| match problem.passed {
            Some(true) => Span::styled("▇", GOOD),
            Some(false) => Span::styled("▁", BAD),
            None if active.binary_search(&index).is_ok() => Span::styled("▒", OPEN),
            None => Span::styled("·", DIM),
        }));
    }
    Line(spans)
}

/// A row of the table of proofs.
enum Row<'a> {
    Problem(usize),
    Proof(usize, u32, &'a Candidate),
    Comparisons(usize),
}

fn proofs(view: &View, width: usize, room: usize) -> Vec<Line> {
    if room == 0 {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for problem in view.active() {
        let before = rows.len();
        rows.extend(view.candidates(problem).map(|(id, proof)| Row::Proof(problem, id, proof)));
        match view.comparisons(problem) {
            0 => {}
            count => rows.push(Row::Comparisons(count)),
        }
        if view.problems.len() > 1 && rows.len() > before {
            rows.insert(before, Row::Problem(problem));
        }
    }
    let all = rows.iter().filter(|row| matches!(row, Row::Proof(..))).count();
    let rows = fitting(view, rows, room - 1);
    let shown = rows.iter().filter(|row| matches!(row, Row::Proof(..))).count();
    let columns = Columns::new(view, width);
    let mut lines = vec![columns.heading(view, shown, all)];
    lines.extend(rows.iter().map(|row| match row {
        Row::Problem(index) => problem(view, *index, width),
        Row::Proof(problem, id, proof) => columns.proof(view, *problem, *id, proof),
        Row::Comparisons(count) => {
            let words = if *count == 1 { "two proofs are compared" } else { "the best proofs are compared" };
            Line::styled(cut(&format!("{:>5}  {words}", ""), width), OPEN)
        }
    }));
    lines
}

/// So many rows: first those of proofs that are settled give way, the oldest first, then others, the newest first.
fn fitting<'a>(view: &View, mut rows: Vec<Row<'a>>, room: usize) -> Vec<Row<'a>> {
    let mut excess = rows.len().saturating_sub(room);
    rows.retain(|row| match row {
        Row::Proof(problem, id, proof) => {
            let idle = proof.fate().is_some() || view.running(*problem, *id).next().is_none();
            let gives_way = idle && excess > 0;
            excess -= usize::from(gives_way);
            !gives_way
        }
        _ => true,
    });
    // A problem none of whose proofs is left.
    let has_next: Vec<bool> = (0..rows.len())
        .map(|at| !matches!((&rows[at], rows.get(at + 1)), (Row::Problem(_), None | Some(Row::Problem(_)))))
        .collect();
    let mut has_next = has_next.into_iter();
    rows.retain(|_| has_next.next().unwrap_or(true));
    rows.truncate(room);
    rows
}

fn problem(view: &View, index: usize, width: usize) -> Line {
    let Some(problem) = view.problems.get(index) else {
        return Line::default();
    };
    let name = cut(&problem.name, width / 2);
    let round = match view.budget.rounds {
        0 | 1 => String::new(),
        rounds => format!(" · round {} of {rounds}", view.round(index)),
    };
    let used = line::width(&name) + round.chars().count() + 2;
    let question = problem.question.split_whitespace().collect::<Vec<_>>().join(" ");
    let question = cut(&question, width.saturating_sub(used));
    Line(vec![
        Span::styled(name, BOLD),
        Span::plain(cut(&round, width / 2)),
        Span::styled(format!("  {question}"), DIM),
    ])
}

/// The columns of the table, as the width allows.
struct Columns {
    width: usize,
    /// Number of a proof.
    number: usize,
    round: bool,
    /// Cells of the readings, and their column.
    cells: usize,
    readings: usize,
    /// As numbers too, where a cell stands for several.
    count: usize,
    own: bool,
}

impl Columns {
    fn new(view: &View, width: usize) -> Self {
        let wide = width >= WIDE - 2;
        let asked = view.budget.readings.max(1) as usize;
        let most = match width {
            ..24 => 0,
            24..58 => 8,
            58..120 => 16,
            120..160 => 32,
            _ => 64,
        };
        let cells = asked.min(most);
        // `readings` stands above it.
        let readings = if wide { cells.max(8) } else { cells };
        let digits = asked.to_string().len();
        let count = if asked > cells && wide { 2 * digits + 1 } else { 0 };
        Self {
            width,
            number: if wide { 5 } else { 3 },
            round: wide && view.budget.rounds > 1,
            cells,
            readings,
            count,
            own: wide && view.verb == "prove",
        }
    }

    /// What stands above the columns, and how many proofs there is no room for.
    fn heading(&self, view: &View, shown: usize, all: usize) -> Line {
        let mut words = String::new();
        if self.width < WIDE - 2 {
            words.push_str("proofs");
        } else {
            words.push_str("proof");
            if self.round {
                words.push_str("  round");
            }
            words.push_str(&format!("  {:<1$}", "readings", self.readings));
            if self.count > 0 {
                words.push_str(&format!("  {:>1$}", "", self.count));
            }
            words.push_str("  mean");
            if self.own {
                words.push_str("  own");
            }
        }
        let right = match (all, shown < all) {
            (0, _) if view.stopping => String::new(),
            (0, _) => "nothing yet".to_owned(),
            (_, true) if self.width < WIDE - 2 => format!("{shown} of {all}"),
            (_, true) => format!("{shown} of {all} are shown"),
            _ => String::new(),
        };
        let room = self.width.saturating_sub(right.chars().count() + 2);
        sides(vec![Span::styled(cut(&words, room), DIM)], Span::styled(right, DIM), self.width)
    }

    fn proof(&self, view: &View, problem: usize, id: u32, proof: &Candidate) -> Line {
        let mut spans = vec![Span::plain(format!("{id:>0$}", self.number))];
        if self.round {
            spans.push(Span::plain(format!("  {:>5}", proof.round)));
        }
        if self.cells > 0 {
            let gap = if self.width < WIDE - 2 { " " } else { "  " };
            spans.push(Span::plain(gap));
            spans.extend(chart(proof, view.budget.readings as usize, self.cells));
            spans.push(Span::plain(" ".repeat(self.readings - self.cells)));
            if self.count > 0 {
                let count = match proof.count() {
                    0 => String::new(),
                    count => format!("{count}/{}", view.budget.readings),
                };
                spans.push(Span::plain(format!("{gap}{count:>0$}", self.count)));
            }
            let mean = proof.mean().map_or(String::new(), |mean| format!("{mean:.2}"));
            spans.push(Span::plain(format!("{gap}{mean:>4}")));
            if self.own {
                let own = proof.own.map_or(String::new(), |own| own.to_string());
                spans.push(Span::styled(format!("{gap}{own:<3}"), DIM));
            }
            spans.push(Span::plain(gap));
        } else {
            spans.push(Span::plain(" "));
        }
        let used: usize = spans.iter().map(Span::width).sum();
        let room = self.width.saturating_sub(used);
        let (words, style) = state(view, problem, id, proof, room);
        spans.push(Span::styled(cut(&words, room), style));
        Line(spans)
    }
}

/// What is to be said of a proof, in few words where there is little room.
fn state(view: &View, problem: usize, id: u32, proof: &Candidate, room: usize) -> (String, Style) {
    let brief = room < 32;
    match proof.fate() {
        Some(Fate::Passed) => return ("passed".to_owned(), GOOD.bold()),
        Some(Fate::Refuted) => return ("refuted by a program".to_owned(), BAD),
        Some(Fate::Rejected) => return ("rejected".to_owned(), BAD),
        Some(Fate::Undecided) => return ("undecided".to_owned(), OPEN),
        Some(Fate::Lost(why)) => return (format!("lost: {why}"), BAD),
        Some(Fate::SameAs(twin)) => return (format!("the same as {twin}"), DIM),
        None => {}
    }
    let running: Vec<&Running> = view.running(problem, id).collect();
    let what = match running.as_slice() {
        [] if view.problems.get(problem).is_some_and(|problem| problem.passed.is_some()) => {
            return ("not needed any more".to_owned(), DIM);
        }
        [] => return ("waits".to_owned(), DIM),
        [one] => match one.role {
            Role::Generate => "being written".to_owned(),
            Role::Refine => "being refined".to_owned(),
            Role::MetaVerify => format!("reading {} is judged", one.reading),
            Role::Verify | Role::Compare => format!("reading {}", one.reading),
        },
        many => format!("{} readings", many.len()),
    };
    let tokens = running.iter().fold(0_u64, |sum, running| sum.saturating_add(running.tokens));
    let since = running.iter().map(|running| running.since).min().unwrap_or_default();
    let lasts = view.elapsed.saturating_sub(since);
    let progress = match tokens {
        0 if lasts < Duration::from_secs(1) => String::new(),
        0 => format!(" · {}", clock(lasts)),
        tokens if brief => format!(" · {}", number(tokens)),
        tokens => format!(" · {}", crate::ui::plural(tokens, "token")),
    };
    (format!("{what}{progress}"), OPEN)
}

/// The readings of a proof in so many cells, when so many are asked for.
fn chart(proof: &Candidate, asked: usize, cells: usize) -> Vec<Span> {
    // Not the whole cell, which would touch the row above.
    const HEIGHTS: [&str; 7] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇"];
    let readings = proof.readings();
    // Of an earlier session's proof only the mean is known.
    let known = if readings.is_empty() { proof.mean() } else { None };
    let count = if known.is_some() { proof.count() } else { readings.len() };
    let total = asked.max(count);
    // Where there are more readings than were asked for, each cell stands for a little more than one.
    let bound = |cell: usize| usize::try_from(cell as u128 * total as u128 / cells as u128).unwrap_or(total);
    let cell = |cell: usize| {
        let (from, to) = (bound(cell), bound(cell + 1).min(count));
        if from >= to {
            // Nothing comes any more once it is settled.
            return Span::styled(if proof.fate().is_some() { " " } else { "·" }, DIM);
        }
        let (score, counts) = match known {
            Some(mean) => (mean, true),
            None => {
                let own = &readings[from..to];
                let counts = own.iter().any(|(_, weight)| *weight > 0.0);
                let scores =
                    own.iter().filter(|(_, weight)| !counts || *weight > 0.0).map(|(score, _)| *score);
                (scores.clone().sum::<f64>() / scores.count() as f64, counts)
            }
        };
        let style = match score {
            // The judge says that it is wrong.
            _ if !counts => DIM,
            score if score >= 1.0 => GOOD,
            score if score >= 0.5 => OPEN,
            _ => BAD,
        };
        Span::styled(HEIGHTS[((score.clamp(0.0, 1.0) * 6.0) as usize).min(6)], style)
    };
    (0..cells).map(cell).collect()
}

fn happened(view: &View, width: usize, room: usize) -> Vec<Line> {
    let line = |(tone, words): &(Tone, String)| {
        let style = match tone {
            Tone::Plain => DIM,
            Tone::Good => GOOD,
            Tone::Bad => BAD.dimmed(),
            Tone::Notice => OPEN,
        };
        Line::styled(cut(words, width), style)
    };
    view.news.iter().skip(view.news.len().saturating_sub(room)).map(line).collect()
}

fn foot(view: &View, width: usize, height: usize) -> Vec<Line> {
    let bars = width >= WIDE - 2;
    let tokens = view.tokens();
    let mut spans = Vec::new();
    // Of several problems each may take so many, which says little about the sum.
    let most = view.budget.tokens.filter(|most| view.problems.len() == 1 && *most > 0);
    match most {
        Some(most) => {
            spans.push(Span::plain(format!("{} of {} tokens", number(tokens), number(most))));
            spans.extend(bars.then(|| share(tokens as f64 / most as f64)));
        }
        None => spans.push(Span::plain(crate::ui::plural(tokens, "token"))),
    }
    spans.push(Span::plain(" · "));
    match view.budget.time {
        Some(limit) => {
            spans.push(Span::plain(format!("{} of {}", clock(view.elapsed), clock(limit))));
            let part = view.elapsed.as_secs_f64() / limit.as_secs_f64().max(f64::MIN_POSITIVE);
            spans.extend(bars.then(|| share(part)));
        }
        None => spans.push(Span::plain(clock(view.elapsed))),
    }
    let mut lines = vec![Line(spans)];
    let mut facts: Vec<String> =
        view.rate().map(|rate| format!("{} tok/s", round(rate))).into_iter().collect();
    facts.push(crate::ui::plural(view.completions, "completion"));
    facts.extend(view.seed.map(|seed| format!("seed {seed}")));
    if !view.folder.is_empty() {
        facts.push(view.folder.clone());
    }
    lines.push(Line::styled(cut(&facts.join(" · "), width), DIM));
    lines.truncate(height);
    lines
}

/// A share between 0 and 1 in ten cells, with a space before it.
fn share(share: f64) -> Span {
    let full = (share.clamp(0.0, 1.0) * 10.0).round() as usize;
    let style = if share < 0.9 { GOOD } else { OPEN };
    Span::styled(format!(" {}{}", "█".repeat(full), "░".repeat(10 - full)), style)
}

/// Two texts at the two ends of a line; the one on the left gives way.
fn sides(left: Vec<Span>, right: Span, width: usize) -> Line {
    let mut spans = Vec::new();
    let mut room = width.saturating_sub(right.width() + 2);
    for span in left {
        let words = cut(&span.text, room);
        let span = Span::styled(words, span.style);
        room = room.saturating_sub(span.width());
        spans.push(span);
    }
    spans.push(Span::plain(" ".repeat(room + 2)));
    spans.push(right);
    Line(spans)
}

fn round(rate: f64) -> String {
    if rate < 9.95 { format!("{rate:.1}") } else { number(rate.round() as u64) }
}

fn number(number: u64) -> String {
    crate::ui::count(number)
}

/// `75 s` is `1:15`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match hours {
        0 => format!("{minutes}:{:02}", seconds % 60),
        _ => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
    }
}

#[cfg(test)]
mod tests;
