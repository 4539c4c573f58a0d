//! The live view of a search on a terminal of the test's own, its absence where there is none, and the chat.
#![cfg(unix)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

const QUESTION: &str = "Prove that gcd(84, 30) = 6.";
/// The second screen, and the first one again.
const ENTERED: &str = "\u{1b}[?1049h";
const LEFT: &str = "\u{1b}[?1049l";
/// Nobody waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(120);

fn porism(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porism"));
    command.args(arguments).current_dir(folder);
    command.envs([("WGPU_BACKEND", "none"), ("PORISM_DEVICE", "host"), ("TERM", "xterm-256color")]);
    for variable in ["RUST_LOG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

/// A program on a terminal.
struct Terminal {
    keys: File,
    /// The program's end of it.
    end: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    child: Child,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let end = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&end, window(80, 24)).unwrap();
        let before = tcgetattr(&end).unwrap();
        let same = || Stdio::from(end.try_clone().unwrap());
        command.stdin(same()).stdout(same()).stderr(same());
        let takes_terminal = || {
            rustix::process::setsid()?;
            // SAFETY: it is open: stdin was put there before.
            let stdin = unsafe { BorrowedFd::borrow_raw(0) };
            rustix::process::ioctl_tiocsctty(stdin)?;
            Ok(())
        };
        // SAFETY: between fork and exec there are two system calls and no allocation.
        unsafe { command.pre_exec(takes_terminal) };
        let child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keys = File::from(master);
        let reader = thread::spawn({
            let (mut master, shown) = (keys.try_clone().unwrap(), Arc::clone(&shown));
            move || {
                let mut piece = [0; 4096];
                // It ends with an error on Linux, with nothing elsewhere.
                while let Ok(count @ 1..) = master.read(&mut piece) {
                    shown.lock().unwrap().extend_from_slice(&piece[..count]);
                }
            }
        });
        Self { keys, end, before, shown, reader, child }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until these words were shown after the first `from` bytes, and says how many bytes there are then.
    fn wait_for(&mut self, words: &str, from: usize) -> usize {
        let started = Instant::now();
        loop {
            let shown = self.shown();
            if shown.get(from..).is_some_and(|shown| shown.contains(words)) {
                return shown.len();
            }
            let ended = self.child.try_wait().unwrap();
            let patience = started.elapsed() < PATIENCE;
            assert!(patience && ended.is_none(), "`{words}` does not come ({ended:?}); shown was {shown:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end; says how it was and what was shown, once it is sure that the terminal is as it was before.
    fn end(mut self) -> (ExitStatus, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > PATIENCE {
                self.child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(10));
        };
        let after = tcgetattr(&self.end).unwrap();
        let modes = |termios: &Termios| {
            (termios.input_modes, termios.output_modes, termios.control_modes, termios.local_modes)
        };
        // Once nobody has the other end any more, all is read.
        drop(self.end);
        self.reader.join().unwrap();
        let shown = String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned();
        assert_eq!(modes(&after), modes(&self.before), "{shown:?}");
        assert_eq!(shown.matches(ENTERED).count(), shown.matches(LEFT).count(), "{shown:?}");
        let cursor = |sequence| shown.rfind(sequence);
        assert!(cursor("\u{1b}[?25h") >= cursor("\u{1b}[?25l"), "the cursor is hidden: {shown:?}");
        (status, shown)
    }
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// What is on the first screen in the end: lines without styles.
fn left_behind(shown: &str) -> Vec<String> {
    let (before, rest) = shown.split_once(ENTERED).expect("there was a view");
    let (_, after) = rest.rsplit_once(LEFT).expect("it ended");
    // A bar that is gone was written over.
    let last = |line: &str| line.rsplit('\r').next().map(plain).unwrap_or_default();
    let lines = [before, after].concat();
    // How long it took to load is not always worth a line.
    lines.split("\r\n").map(last).filter(|line| !line.is_empty() && !line.starts_with("loading ")).collect()
}

/// How often colours or other styles change.
fn styles(shown: &str) -> usize {
    let is_parameter = |c: char| c.is_ascii_digit() || c == ';';
    shown
        .split("\u{1b}[")
        .skip(1)
        .filter(|piece| piece.trim_start_matches(is_parameter).starts_with('m'))
        .count()
}

/// Text without `ESC [ … letter`.
fn plain(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default()
    })
}

/// An endpoint that never answers: the search goes on until somebody stops it.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    (listener, address)
}

fn waiting(folder: &Path, address: &str) -> Command {
    porism(folder, &["prove", QUESTION, "--endpoint", address, "--endpoint-model", "m", "--out", "run"])
}

#[test]
fn what_stays_is_what_is_said_without_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    // Enough to last longer than a view that nobody would see.
    let arguments =
        |out| ["prove", QUESTION, "--proofs", "8", "--rounds", "1", "--finish-round", "--out", out];
    let piped = porism(folder.path(), &arguments("piped")).stdin(Stdio::null()).output().unwrap();
    let (status, shown) = Terminal::start(porism(folder.path(), &arguments("shown"))).end();
    assert_eq!(status.code(), piped.status.code(), "{shown:?}");
    assert!(shown.contains(ENTERED) && shown.contains("q stops and saves"), "{shown:?}");

    // Both runs are the same but for the folder's name and what was spent meanwhile.
    let same = |line: &str| {
        let line = line.replace("piped", "shown");
        line.split_once(" passed; ").map_or(line.clone(), |(passed, _)| passed.to_owned())
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&piped.stdout), String::from_utf8_lossy(&piped.stderr));
    let is_event = |line: &&str| line.contains(" round ") || line.starts_with("loading ");
    let mut said: Vec<&str> = stderr.lines().filter(|line| !is_event(line)).collect();
    // The first line and the sum, then the result, then what it is worth.
    said.splice(2..2, stdout.lines());
    let wanted: Vec<String> = said.into_iter().filter(|line| !line.is_empty()).map(same).collect();
    let found: Vec<String> = left_behind(&shown).iter().map(|line| same(line)).collect();
    assert_eq!(found, wanted);
    assert!(wanted.len() >= 5 && wanted[0].contains("seed 1"), "{wanted:?}");
}

#[test]
fn the_view_follows_the_window_and_q_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (_listener, address) = silent();
    let mut terminal = Terminal::start(waiting(folder.path(), &address));
    let from = terminal.wait_for("q stops and saves", 0);
    assert!(styles(&terminal.shown()) > 0, "there are no colours: {:?}", terminal.shown());
    tcsetwinsize(&terminal.end, window(40, 15)).unwrap();
    // There it is said with fewer words.
    terminal.wait_for("q stops\u{1b}", from);
    terminal.press("q");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(130), "{shown:?}");
    let lines = left_behind(&shown);
    assert_eq!(lines[0], "run: seed 1");
    assert!(lines[1].starts_with("0 of 1 problem passed, unfinished; "), "{lines:?}");
    let wanted = ["stopped; unfinished: the same command goes on from run", "report so far: run/report.html"];
    assert_eq!(lines[2..], wanted);
    assert!(folder.path().join("run/events.jsonl").exists());
}

#[test]
fn an_interrupt_gives_the_terminal_back() {
    for keys in ["\u{3}", "\u{3}\u{3}"] {
        let folder = tempfile::tempdir().unwrap();
        let (_listener, address) = silent();
        let mut terminal = Terminal::start(waiting(folder.path(), &address));
        terminal.wait_for("q stops and saves", 0);
        terminal.press(keys);
        let (status, shown) = terminal.end();
        assert_eq!(status.code(), Some(130), "{shown:?}");
        assert!(shown.contains(LEFT), "{shown:?}");
    }
}

#[test]
fn a_killed_search_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_listener, address) = silent();
    let mut terminal = Terminal::start(waiting(folder.path(), &address));
    terminal.wait_for("q stops and saves", 0);
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let (status, shown) = terminal.end();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{shown:?}");
    assert!(shown.contains(LEFT), "{shown:?}");
}

#[test]
fn there_is_no_view_where_none_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (_listener, address) = silent();
    let mut no_progress = waiting(folder.path(), &address);
    no_progress.arg("--no-progress");
    let mut json = waiting(folder.path(), &address);
    json.arg("--json");
    let mut dumb = waiting(folder.path(), &address);
    dumb.env("TERM", "dumb");
    for (command, words) in
        [(no_progress, "run: seed 1"), (dumb, "run: seed 1"), (json, "\"event\":\"start\"")]
    {
        let mut terminal = Terminal::start(command);
        terminal.wait_for(words, 0);
        // Longer than it takes until a view is there.
        thread::sleep(Duration::from_millis(500));
        // Here it is a signal, which the terminal makes of it.
        terminal.press("\u{3}");
        let (status, shown) = terminal.end();
        assert_eq!(status.code(), Some(130), "{shown:?}");
        assert!(!shown.contains(ENTERED), "{shown:?}");
    }
}

#[test]
fn without_a_terminal_nothing_steers_one() {
    let folder = tempfile::tempdir().unwrap();
    let few = ["prove", QUESTION, "--rounds", "1", "--proofs", "2", "--out", "run"];
    // A terminal behind stdin and stdout alone is none.
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    assert!(terminal.as_raw_fd() > 2);
    let output = porism(folder.path(), &few).stdin(Stdio::from(terminal)).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(text.len() > 100 && !text.contains(&0x1b), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn without_colours_there_is_a_view_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let (_listener, address) = silent();
    let mut command = waiting(folder.path(), &address);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command);
    terminal.wait_for("q stops and saves", 0);
    terminal.press("q");
    let (_, shown) = terminal.end();
    assert_eq!(styles(&shown), 0, "{shown:?}");
}

#[test]
fn a_chat_refuses_what_the_model_does_not_know_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(porism(folder.path(), &["run", "-n", "40", "--no-think"]));
    let at = terminal.wait_for(">>> ", 0);
    assert!(terminal.shown().contains("porism-tiny knows gcd(a, b)"), "{}", terminal.shown());
    terminal.press("Prove that 1 = 2.\r");
    let at = terminal.wait_for("porism-tiny does not know such problems", at);
    terminal.press("gcd(84,30) = 6\r");
    let at = terminal.wait_for("read as: Prove that gcd(84, 30) = 6.", at);
    // Not only the first question is looked at.
    terminal.press("Prove that sqrt(2) is irrational.\r");
    terminal.wait_for("porism-tiny does not know such problems", at);
    terminal.press("/bye\r");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
}

#[test]
fn the_chat_explains_its_commands_and_sends_none_to_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(porism(folder.path(), &["run", "--temp", "0", "-n", "3"]));
    let mut at = terminal.wait_for(">>> ", 0);
    for (typed, answers) in [
        ("/set", ["/set temp               0 ", "/set max-tokens         3"]),
        ("/set temp 1e38", ["temp cannot be `1e38`", "from 0.0001 to 100"]),
        ("/set top_k 5", ["it holds from the next answer on", ">>> "]),
        ("/set", ["/set top-k              5 ", "/set system             none"]),
        ("/sett temp 1", ["there is no command /sett, did you mean /set?", "begins with a space"]),
        ("/save my-model", ["there is no command /save", "/help lists them"]),
        ("/help", ["/set NAME VALUE", "/bye"]),
    ] {
        terminal.press(&format!("{typed}\r"));
        for words in answers {
            terminal.wait_for(words, at);
        }
        at = terminal.wait_for(">>> ", at + typed.len());
    }
    terminal.press("/bye\r");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{shown:?}");
}
