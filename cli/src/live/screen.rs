//! The terminal: taken, drawn on, listened to, and given back whatever happens.

use std::io::{self, Write};
use std::iter;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, Clear, ClearType};
use crossterm::{cursor, execute, queue, style};

use super::line::Line;

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Held while something is drawn, so that nothing is drawn any more once the terminal is given back.
static DRAWING: Mutex<()> = Mutex::new(());

/// Lines for a person that came meanwhile.
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// stderr for lines of text: while the terminal is taken, they wait until it is given back.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if TAKEN.load(Ordering::SeqCst) {
            held.extend_from_slice(text);
            return Ok(text.len());
        }
        io::stderr().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// `q`: an end, with everything saved.
    Stop,
    /// Ctrl-C, which is a key like others while the terminal is ours.
    Interrupt,
    /// Ctrl-Z, likewise.
    Suspend,
    /// Ctrl-L: somebody else wrote over the picture.
    Redraw,
}

/// The terminal behind stderr: stdout belongs to the result.
pub struct Screen {
    /// Columns and rows of the picture that is shown, and its lines.
    size: (u16, u16),
    shown: Vec<String>,
    colour: bool,
    /// Keys cannot be heard.
    deaf: bool,
    /// Given back by Ctrl-Z, until the shell gives it to us again.
    away: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none, it cannot be drawn on, or it listens to somebody else.
    pub fn open(colour: bool) -> io::Result<Self> {
        ensure_usable()?;
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                restore();
                usual(panic);
            }));
            restore_when_told_to_end();
        });
        take()?;
        Ok(Self { size: (0, 0), shown: Vec::new(), colour, deaf: false, away: false })
    }

    /// Whether the view can be seen.
    pub fn is_here(&self) -> bool {
        TAKEN.load(Ordering::SeqCst)
    }

    /// Shows a picture of the window's size: columns and rows in, lines out.
    pub fn draw(&mut self, picture: impl FnOnce(usize, usize) -> Vec<Line>) {
        if self.away && ensure_foreground().is_ok() && take().is_ok() {
            self.away = false;
            self.redraw();
        }
        // A terminal that went away is no reason to stop a search.
        if let Err(error) = self.try_draw(picture) {
            tracing::debug!("the view cannot be drawn: {error}");
        }
    }

    fn try_draw(&mut self, picture: impl FnOnce(usize, usize) -> Vec<Line>) -> io::Result<()> {
        let size = terminal::size()?;
        let lines: Vec<String> =
            picture(size.0.into(), size.1.into()).into_iter().map(|line| line.painted(self.colour)).collect();
        let mut out = Vec::new();
        if size != self.size {
            queue!(out, Clear(ClearType::All))?;
            self.shown.clear();
        }
        // Only lines that changed are written.
        for ((row, line), shown) in
            (0..size.1).zip(&lines).zip(self.shown.iter().map(Some).chain(iter::repeat(None)))
        {
            if shown != Some(line) {
                // Emptied first: after its last column a line cannot be.
                queue!(out, cursor::MoveTo(0, row), Clear(ClearType::CurrentLine), style::Print(line))?;
            }
        }
        let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        if TAKEN.load(Ordering::SeqCst) && !out.is_empty() {
            let mut stderr = io::stderr().lock();
            stderr.write_all(&out)?;
            stderr.flush()?;
        }
        (self.size, self.shown) = (size, lines);
        Ok(())
    }

    /// Forgets what is on the screen, so that the next picture is drawn as a whole.
    pub fn redraw(&mut self) {
        self.size = (0, 0);
    }

    /// Stops the program as Ctrl-Z does, with the terminal given back meanwhile. In the background, as after `bg`, the search
    /// goes on without a view.
    pub fn suspend(&mut self) {
        restore();
        self.away = true;
        stop();
    }

    /// Waits so long for something to happen, and says what it means, if anything.
    pub fn key(&mut self, wait: Duration) -> Option<Pressed> {
        if self.deaf || !self.is_here() {
            thread::sleep(wait);
            return None;
        }
        match event::poll(wait).and_then(|any| any.then(event::read).transpose()) {
            Ok(Some(Event::Key(key))) => meaning(key),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!("the view cannot hear keys: {error}");
                self.deaf = true;
                // Ctrl-C is a signal again; nobody would hear the key.
                let _ = terminal::disable_raw_mode();
                None
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Keys that were meant for the view are not for whoever has the terminal next.
        if !self.deaf && self.is_here() {
            while matches!(event::poll(Duration::ZERO), Ok(true)) && event::read().is_ok() {}
        }
        restore();
    }
}

fn meaning(key: KeyEvent) -> Option<Pressed> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if key.kind != KeyEventKind::Press => None,
        KeyCode::Char('c') if control => Some(Pressed::Interrupt),
        KeyCode::Char('z') if control => Some(Pressed::Suspend),
        KeyCode::Char('l') if control => Some(Pressed::Redraw),
        KeyCode::Char('q' | 'Q') if !control => Some(Pressed::Stop),
        _ => None,
    }
}

/// The second screen, and keys one by one.
fn take() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    // A line that is too wide after all shall not push the next one down.
    execute!(io::stderr(), terminal::EnterAlternateScreen, terminal::DisableLineWrap, cursor::Hide)
        .inspect_err(|_| restore())
}

/// Gives the terminal back if it is ours, and then says what was held back. May be called at any time, from any thread.
pub fn restore() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // A picture is finished first, unless drawing it is what panicked or it takes too long.
    let patience = Instant::now() + Duration::from_millis(200);
    let _drawing = loop {
        match DRAWING.try_lock() {
            Ok(guard) => break Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > patience => break None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    };
    // Nothing is left to be done about a terminal that refuses.
    let _ = execute!(io::stderr(), cursor::Show, terminal::EnableLineWrap, terminal::LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
    let _ = io::stderr().write_all(&std::mem::take(&mut *held));
}

/// Whether the terminal can be taken.
///
/// # Errors
/// Why it cannot.
pub fn ensure_usable() -> io::Result<()> {
    ensure_foreground()?;
    ensure_it_understands()?;
    match terminal::size()? {
        (0, _) | (_, 0) => Err(io::Error::other("nobody says how large the terminal is")),
        _ => Ok(()),
    }
}

/// A job in the background that takes the terminal would be stopped.
#[cfg(unix)]
fn ensure_foreground() -> io::Result<()> {
    let listens_to = rustix::termios::tcgetpgrp(io::stderr())?;
    if listens_to == rustix::process::getpgrp() {
        Ok(())
    } else {
        Err(io::Error::other("the terminal listens to another program"))
    }
}

#[cfg(not(unix))]
fn ensure_foreground() -> io::Result<()> {
    Ok(())
}

/// Consoles of old Windows versions know no escape sequences.
#[cfg(windows)]
fn ensure_it_understands() -> io::Result<()> {
    if crossterm::ansi_support::supports_ansi() {
        Ok(())
    } else {
        Err(io::Error::other("the console understands no escape sequences"))
    }
}

#[cfg(not(windows))]
fn ensure_it_understands() -> io::Result<()> {
    Ok(())
}

/// Stops all programs of the command line, as the terminal does by itself when it is not ours.
#[cfg(unix)]
fn stop() {
    if let Err(error) = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP) {
        tracing::debug!("cannot be suspended: {error}");
    }
    // The signal may reach another thread first.
    thread::sleep(Duration::from_millis(50));
}

#[cfg(not(unix))]
fn stop() {}

/// From now on `kill` and a closed window end the program as ever, but not before the terminal is given back.
#[cfg(unix)]
fn restore_when_told_to_end() {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;
    match Signals::new([SIGHUP, SIGTERM]) {
        Ok(mut signals) => {
            thread::spawn(move || {
                for signal in signals.forever() {
                    restore();
                    let _ = emulate_default_handler(signal);
                }
            });
        }
        Err(error) => tracing::warn!("SIGTERM will not give the terminal back: {error}"),
    }
}

#[cfg(not(unix))]
fn restore_when_told_to_end() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_they_say() {
        let key = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let (plain, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        assert_eq!(key(KeyCode::Char('q'), plain), Some(Pressed::Stop));
        assert_eq!(key(KeyCode::Char('Q'), KeyModifiers::SHIFT), Some(Pressed::Stop));
        assert_eq!(key(KeyCode::Char('c'), control), Some(Pressed::Interrupt));
        assert_eq!(key(KeyCode::Char('z'), control), Some(Pressed::Suspend));
        for (code, modifiers) in [
            (KeyCode::Char('c'), plain),
            (KeyCode::Char('z'), plain),
            (KeyCode::Char('q'), control),
            (KeyCode::Esc, plain),
        ] {
            assert_eq!(key(code, modifiers), None);
        }
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), plain, KeyEventKind::Release);
        assert_eq!(meaning(released), None);
    }
}
