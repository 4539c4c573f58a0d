//! The only place that prints. stdout is the model's text or JSON, stderr is ours.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Color, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::args::{Global, When};
pub use crate::words::{bytes, bytes_per_second, count, duration, plural, printable, table, verdict, wrap};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const GREEN: Style = AnsiColor::Green.on_default();

/// A phase shorter than this is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// What may be printed, and how.
pub struct Ui {
    quiet: bool,
    progress: bool,
    logs: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    stdout_colour: bool,
    stderr_colour: bool,
}

/// How a finding is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Good,
    Warning,
    Fault,
}

impl Ui {
    /// As the flags, the environment and the terminal say.
    pub fn new(global: &Global) -> Self {
        let colour = |automatic: ColorChoice| match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => automatic != ColorChoice::Never,
        };
        Self {
            quiet: global.quiet,
            progress: !global.quiet && !global.no_progress,
            logs: global.log > 0 || std::env::var_os("RUST_LOG").is_some(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            stdout_colour: colour(AutoStream::choice(&io::stdout())),
            stderr_colour: colour(AutoStream::choice(&io::stderr())),
        }
    }

    /// Columns of stdout: the terminal's, else what COLUMNS says, else enough for every table.
    pub fn columns(&self) -> usize {
        let terminal = || crossterm::terminal::size().ok().filter(|_| self.stdout_is_terminal);
        let said = || std::env::var("COLUMNS").ok()?.parse::<usize>().ok();
        let columns = terminal().map(|(columns, _)| usize::from(columns)).or_else(said);
        columns.filter(|columns| *columns > 0).unwrap_or(120).clamp(30, 200)
    }

    /// Whether a person reads stdout.
    pub fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Whether what a person reads on stderr may be coloured.
    pub fn stderr_has_colour(&self) -> bool {
        self.stderr_colour
    }

    /// Whether the whole terminal may show what is under way: there is one, it can be drawn on, progress is wanted, and
    /// nobody asked for a log, which wants to be seen as it comes.
    pub fn may_take_the_terminal(&self) -> bool {
        let term = std::env::var_os("TERM");
        // On Unix every terminal that can be drawn on has a name.
        let is_dumb = term.map_or(cfg!(unix), |term| term == "dumb" || term.is_empty());
        self.progress && self.stderr_is_terminal && !self.logs && !is_dumb
    }

    /// Text on stdout, at once.
    pub fn text(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let text = if self.stdout_is_terminal { printable(text) } else { Cow::Borrowed(text) };
        to_stdout(text.as_bytes())
    }

    /// A line on stdout.
    pub fn line(&self, text: &str) -> io::Result<()> {
        let text = if self.stdout_is_terminal { printable(text) } else { Cow::Borrowed(text) };
        self.painted(&text)
    }

    /// A line on stdout that was painted here: what it holds of others is [`printable`] already.
    pub fn painted(&self, text: &str) -> io::Result<()> {
        to_stdout(format!("{text}\n").as_bytes())
    }

    /// One JSON value on one line of stdout.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        Ok(self.line(&text)?)
    }

    /// A heading on stdout.
    pub fn heading(&self, text: &str) -> io::Result<()> {
        self.painted(&paint(self.stdout_colour, BOLD, &printable(text)))
    }

    /// A finding on stdout.
    pub fn finding(&self, mark: Mark, text: &str) -> io::Result<()> {
        let (style, word) = match mark {
            Mark::Good => (GREEN, "ok"),
            Mark::Warning => (YELLOW, "note"),
            Mark::Fault => (RED, "fault"),
        };
        // Padded before it is coloured: escapes have no width.
        self.painted(&format!(
            "{} {}",
            paint(self.stdout_colour, style, &format!("{word:<5}")),
            printable(text)
        ))
    }

    /// Cells of a picture: a colour per number two to a character, or the letters where there is no colour.
    pub fn cells(&self, cells: &[(usize, char)]) -> String {
        if !self.stdout_colour {
            return cells.iter().map(|(_, letter)| letter).collect();
        }
        let mut line = String::new();
        for pair in cells.chunks(2) {
            let left = cell_colour(pair[0].0);
            let style = match pair.get(1) {
                Some(right) => Style::new().fg_color(Some(left)).bg_color(Some(cell_colour(right.0))),
                None => Style::new().fg_color(Some(left)),
            };
            line.push_str(&paint(true, style, "▌"));
        }
        line
    }

    /// The model's reasoning: dimmed on a terminal, on stderr where stdout is none.
    pub fn reasoning(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if self.stdout_is_terminal {
            return to_stdout(paint(self.stdout_colour, DIM, &printable(text)).as_bytes());
        }
        if !self.quiet {
            let shown = if self.stderr_is_terminal { printable(text) } else { Cow::Borrowed(text) };
            eprint(&paint(self.stderr_colour, DIM, &shown));
        }
        Ok(())
    }

    /// A line for the person on stderr; not with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprint(&format!("{}\n", printable(text)));
        }
    }

    /// The same, dimmed.
    pub fn aside(&self, text: &str) {
        if !self.quiet {
            eprint(&format!("{}\n", paint(self.stderr_colour, DIM, &printable(text))));
        }
    }

    /// Something to know about, `--quiet` or not.
    pub fn warn(&self, text: &str) {
        eprint(&format!("{} {}\n", paint(self.stderr_colour, YELLOW, "warning:"), printable(text)));
    }

    /// An error, and what can be done.
    pub fn error(&self, text: &str, hint: Option<&str>) {
        let mut lines = format!("{} {}\n", paint(self.stderr_colour, RED, "error:"), printable(text));
        if let Some(hint) = hint {
            lines.push_str(&format!("\n{} {}\n", paint(self.stderr_colour, BOLD, "hint:"), printable(hint)));
        }
        eprint(&lines);
    }

    /// Starts showing that something of `total` bytes is under way, e.g. `loading porism-tiny`.
    pub fn phase(&self, what: &str, total: u64) -> Phase<'_> {
        self.phase_among(&self.bars(), what, total)
    }

    /// Where bars of things that go on at the same time stand, one below the other.
    pub fn bars(&self) -> MultiProgress {
        MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10))
    }

    /// One of several things that go on at the same time.
    pub fn phase_among(&self, bars: &MultiProgress, what: &str, total: u64) -> Phase<'_> {
        let bar = (self.progress && self.stderr_is_terminal).then(|| {
            let bar = bars.add(ProgressBar::new(total));
            let template =
                "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is well formed");
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(printable(what).into_owned());
            bar
        });
        Phase {
            ui: self,
            what: what.to_owned(),
            bar,
            started: Instant::now(),
            announced: false,
            total,
            shown: 0,
        }
    }
}

/// Something under way.
pub struct Phase<'a> {
    ui: &'a Ui,
    what: String,
    bar: Option<ProgressBar>,
    started: Instant,
    announced: bool,
    total: u64,
    shown: u64,
}

impl Phase<'_> {
    /// So many bytes are done.
    pub fn update(&mut self, done: u64, total: u64) {
        (self.total, self.shown) = (total, done);
        if let Some(bar) = &self.bar {
            // A bar that is gone before it is seen only flickers.
            if self.announced || self.started.elapsed() > PATIENCE / 4 {
                self.announced = true;
                bar.set_length(total);
                bar.set_position(done);
            }
        } else if self.ui.progress && !self.announced && self.started.elapsed() > PATIENCE {
            self.announced = true;
            self.ui.note(&format!("{}, {}", self.what, bytes(total)));
        }
    }

    /// Done: the bar goes, a line stays if it took a while.
    pub fn finish(self) {
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.announced && self.ui.progress && self.started.elapsed() > PATIENCE {
            let rate = bytes_per_second(self.shown as f64 / seconds);
            self.ui.note(&format!("{}: {} in {seconds:.1} s, {rate}", self.what, bytes(self.shown)));
        }
    }
}

impl Drop for Phase<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What clap has to say: help on stdout, errors on stderr.
pub fn print_clap(error: &clap::Error) {
    // A reader that went away does not want it.
    let _ = error.print();
}

/// Whoever read stdout went away: a broken pipe of ours, and not one on the way to an endpoint.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads stdout any more")]
struct ReaderGone;

/// Whether the reader of our output went away, which is no failure of ours.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let error = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        error.is_some_and(|error| error.is::<ReaderGone>())
    })
}

fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    })
}

/// Our own lines on stderr are no reason to fail.
fn eprint(text: &str) {
    let _ = crate::live::screen::Lines.write_all(text.as_bytes());
}

/// A colour of its own for each of the first twelve numbers.
fn cell_colour(number: usize) -> Color {
    const COLOURS: [AnsiColor; 12] = [
        AnsiColor::Red,
        AnsiColor::Green,
        AnsiColor::Blue,
        AnsiColor::Yellow,
        AnsiColor::Magenta,
        AnsiColor::Cyan,
        AnsiColor::BrightRed,
        AnsiColor::BrightGreen,
        AnsiColor::BrightBlue,
        AnsiColor::BrightYellow,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightCyan,
    ];
    Color::Ansi(COLOURS[number % COLOURS.len()])
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}
