//! The live view of a search, on a terminal: what is known in `view.rs`, how it looks in `draw.rs`, out of pieces of
//! `line.rs`, the terminal in `screen.rs`. It stands between the search and whoever answers, and so sees what is under way. A thread of its own draws
//! and listens to keys, because one step of a large model takes seconds.

mod draw;
mod line;
pub mod screen;
mod view;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use porism_prover::complete::{Answer, Complete, CompleteError, Request};
use porism_prover::roles::Key;

use crate::interrupt;
use crate::ui::Ui;
use screen::{Pressed, Screen};
pub use view::{Budget, View};

/// Pictures follow each other so far apart.
const FRAME: Duration = Duration::from_millis(100);
/// A search that ends sooner would only flicker, as one does of which everything is there already.
const PATIENCE: Duration = Duration::from_millis(200);

/// A view on the terminal, which is given back when it is dropped.
pub struct Live {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    view: Mutex<View>,
    started: Instant,
    colour: bool,
    over: AtomicBool,
    /// Whether the view tells what happens, so that nobody else need do so.
    tells: AtomicBool,
}

impl Live {
    /// Takes the terminal, if there is one and a view is wanted; `None` means plain lines, or JSON.
    pub fn start(ui: &Ui, json: bool, view: impl FnOnce() -> View) -> Option<Self> {
        if json || !ui.may_take_the_terminal() {
            return None;
        }
        if let Err(error) = screen::ensure_usable() {
            tracing::info!("no live view: {error}");
            return None;
        }
        let shared = Arc::new(Shared {
            view: Mutex::new(view()),
            started: Instant::now(),
            colour: ui.stderr_has_colour(),
            over: AtomicBool::new(false),
            tells: AtomicBool::new(true),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                // Dropped in a panic as well: then the lines go on.
                let _silence = Silence(&shared);
                shared.show();
            }
        });
        Some(Self { shared, thread: Some(thread) })
    }

    /// Changes what is known.
    pub fn tell(&self, tell: impl FnOnce(&mut View)) {
        tell(&mut self.shared.view.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether what happens can be seen here; otherwise it is to be told in lines.
    pub fn tells(&self) -> bool {
        self.shared.tells.load(Ordering::SeqCst)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // If it panicked, that was said already.
            let _ = thread.join();
        }
    }
}

/// When it goes, the view tells nothing any more.
struct Silence<'a>(&'a Shared);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.tells.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn show(&self) {
        thread::park_timeout(PATIENCE);
        if self.over.load(Ordering::SeqCst) {
            return;
        }
        let mut screen = match Screen::open(self.colour) {
            Ok(screen) => screen,
            Err(error) => {
                tracing::warn!("no live view: {error}");
                return;
            }
        };
        while !self.over.load(Ordering::SeqCst) {
            self.tells.store(screen.is_here(), Ordering::SeqCst);
            // A copy: a slow terminal shall not hold up the search.
            let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
            view.elapsed = self.started.elapsed();
            view.stopping = interrupt::requested();
            screen.draw(|width, height| draw::lines(&view, width, height));
            match screen.key(FRAME) {
                Some(Pressed::Interrupt) if interrupt::requested() => interrupt::quit(),
                Some(Pressed::Stop | Pressed::Interrupt) => interrupt::request(),
                Some(Pressed::Suspend) => screen.suspend(),
                Some(Pressed::Redraw) => screen.redraw(),
                None => {}
            }
        }
    }
}

/// Does the work with an answerer that the view, if there is one, watches.
pub fn watched<R>(
    live: Option<&Live>,
    complete: &mut dyn Complete,
    work: impl FnOnce(&mut dyn Complete) -> R,
) -> R {
    match live {
        Some(live) => work(&mut Watched { complete, live }),
        None => work(complete),
    }
}

/// An answerer whose requests and answers are seen on the way.
struct Watched<'a> {
    complete: &'a mut dyn Complete,
    live: &'a Live,
}

impl Complete for Watched<'_> {
    fn width(&self) -> usize {
        self.complete.width()
    }

    fn has_room_for(&self, key: &Key) -> bool {
        self.complete.has_room_for(key)
    }

    fn works_in_poll(&self) -> bool {
        self.complete.works_in_poll()
    }

    fn is_elsewhere(&self) -> bool {
        self.complete.is_elsewhere()
    }

    fn submit(&mut self, request: Request) {
        let now = self.live.shared.started.elapsed();
        self.live.tell(|view| view.asked(now, &request));
        self.complete.submit(request);
    }

    fn cancel(&mut self, ticket: u64) {
        self.live.tell(|view| view.gone(ticket));
        self.complete.cancel(ticket);
    }

    fn canceled_tokens(&mut self) -> u64 {
        self.complete.canceled_tokens()
    }

    fn progress(&self) -> Vec<(u64, u64)> {
        self.complete.progress()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Answer>, CompleteError> {
        let answer = self.complete.poll(wait.min(FRAME))?;
        let (now, progress) = (self.live.shared.started.elapsed(), self.complete.progress());
        self.live.tell(|view| {
            if let Some(answer) = &answer {
                let tokens = answer.result.as_ref().map_or(0, |completion| completion.tokens);
                view.answered(answer.ticket, tokens.saturating_add(answer.wasted));
            }
            view.progress(now, &progress);
        });
        Ok(answer)
    }

    fn notices(&mut self) -> Vec<String> {
        self.complete.notices()
    }
}
