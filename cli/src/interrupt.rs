//! Ctrl-C: once asks for an end, twice quits.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::INTERRUPTED;

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// From now on the first Ctrl-C only sets [`requested`].
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let handler = || {
            if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
                quit();
            }
        };
        // Without a handler Ctrl-C still ends the program, only less politely.
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will not finish the token: {error}");
        }
    });
}

/// As Ctrl-C once.
pub fn request() {
    PRESSED.fetch_max(1, Ordering::SeqCst);
}

/// As Ctrl-C twice: the program ends here, with the terminal as it was.
pub fn quit() -> ! {
    crate::live::screen::restore();
    std::process::exit(INTERRUPTED.into())
}

/// Whether Ctrl-C was pressed since the last [`reset`].
pub fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}

/// Forgets it: the next answer of a chat starts anew.
pub fn reset() {
    PRESSED.store(0, Ordering::SeqCst);
}
