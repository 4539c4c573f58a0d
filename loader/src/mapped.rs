//! A mapped file that may become shorter while it is read.
//!
//! Reading a page of a map that its file no longer has is answered by the system with SIGBUS, which ends the program: hours of a
//! search would be lost because somebody wrote to a shard. Here the signal puts pages of zeros in the place of what is gone and
//! notes that in the map. Whatever was being computed goes on with zeros to its end, where [`Mapped::is_short`] says that it is worth
//! nothing; the error that follows is an ordinary one, with everything saved and the terminal as it was.
//!
//! Windows does not let anybody shorten a file that is mapped, so nothing is done there.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;

/// A file's bytes, mapped to be read.
pub(crate) struct Mapped {
    // Given up before the map is.
    #[cfg(unix)]
    watch: Option<unix::Watch>,
    map: Mmap,
}

impl Mapped {
    /// Maps a file that is not empty.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is only read, as bytes of which none has a meaning that must hold, and every length is checked against
        // the file's at open. Whoever writes to the file changes what is read, and `check_shards` finds out by its stamp; whoever
        // shortens it is what this module is for.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self {
            #[cfg(unix)]
            watch: unix::Watch::new(&map),
            map,
        })
    }

    /// Whether pages of the file were found to be gone.
    pub(crate) fn is_short(&self) -> bool {
        #[cfg(unix)]
        return self.watch.as_ref().is_some_and(unix::Watch::is_short);
        #[cfg(not(unix))]
        false
    }

    /// Asks the system to read a range of the file soon; a wish, so errors do not matter.
    pub(crate) fn will_need(&self, start: usize, length: usize) {
        #[cfg(unix)]
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, start, length);
        #[cfg(not(unix))]
        let _ = (start, length);
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Maps that can be watched at a time. The largest published checkpoints have 163 shards; what is beyond is mapped as ever.
    const MAPS: usize = 4096;
    /// No map begins here.
    const FREE: usize = 0;
    /// Nor here: somebody is about to use the entry.
    const TAKEN: usize = 1;

    /// The addresses of a map. A table without locks, since a signal reads it.
    struct Entry {
        start: AtomicUsize,
        end: AtomicUsize,
        is_short: AtomicBool,
    }

    static TABLE: [Entry; MAPS] = [const {
        Entry { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0), is_short: AtomicBool::new(false) }
    }; MAPS];

    /// Bytes of a page; 0 until the signal is handled.
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// What was done about the signal before; `None` if it could not be asked for.
    static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

    /// An entry of the table, for as long as the map lives.
    pub(super) struct Watch(&'static Entry);

    impl Watch {
        pub(super) fn new(map: &[u8]) -> Option<Self> {
            if !is_handled() {
                return None;
            }
            let entry = TABLE.iter().find(|entry| {
                entry.start.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })?;
            let start = map.as_ptr() as usize;
            entry.is_short.store(false, Ordering::Relaxed);
            entry.end.store(start + map.len(), Ordering::Relaxed);
            entry.start.store(start, Ordering::Release);
            Some(Self(entry))
        }

        pub(super) fn is_short(&self) -> bool {
            self.0.is_short.load(Ordering::Acquire)
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            self.0.start.store(FREE, Ordering::Release);
        }
    }

    /// Asks for the signal, once.
    fn is_handled() -> bool {
        let ask = || {
            // SAFETY: no arguments but a number.
            let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
            PAGE.store(page, Ordering::Relaxed);
            // SAFETY: a `sigaction` is numbers and a pointer that may be null, so zeros are one; its mask is then made empty. The
            // handler has the signature that SA_SIGINFO asks for, and runs on the stack that Rust gives threads for this.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigemptyset(&mut action.sa_mask);
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                action.sa_sigaction = on_bus_error as *const () as usize;
                let mut before: libc::sigaction = std::mem::zeroed();
                (libc::sigaction(libc::SIGBUS, &action, &mut before) == 0).then_some(before)
            }
        };
        BEFORE.get_or_init(ask).is_some()
    }

    /// Runs on the thread that read what is gone. It does only what a signal may do: it reads and writes atomics and makes system
    /// calls.
    extern "C" fn on_bus_error(
        _signal: libc::c_int,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the system hands over what SA_SIGINFO promises, and of SIGBUS it says the address.
        let address = unsafe { (*info).si_addr() } as usize;
        let owner = TABLE.iter().find_map(|entry| {
            let (start, end) = (entry.start.load(Ordering::Acquire), entry.end.load(Ordering::Relaxed));
            (start > TAKEN && (start..end).contains(&address)).then_some((entry, end))
        });
        if let Some((entry, end)) = owner {
            let page = PAGE.load(Ordering::Relaxed);
            // Where one page is gone, all that follow are.
            let from = address & !(page - 1);
            let length = end.next_multiple_of(page) - from;
            // Before anybody can read the zeros.
            entry.is_short.store(true, Ordering::Release);
            // SAFETY: these pages belong to a map that lives: reading it brought us here. It is only read, so pages that are read
            // may stand in their place; unmapping it unmaps them.
            let zeros = unsafe {
                libc::mmap(
                    from as *mut libc::c_void,
                    length,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if zeros != libc::MAP_FAILED {
                return;
            }
        }
        // Not ours: what comes again after this goes to whoever had the signal before.
        // SAFETY: what is put back is what the system gave us, or its default.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            let before = BEFORE.get().and_then(Option::as_ref).unwrap_or(&default);
            libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_becomes_shorter_is_noticed_and_read_as_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 100_000]).unwrap();
        let (first, second) = (Mapped::new(&file).unwrap(), Mapped::new(&file).unwrap());
        assert!(first.iter().all(|byte| *byte == 7) && !first.is_short());
        file.set_len(10).unwrap();
        let sums = std::thread::scope(|scope| {
            let sum = || first.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            [scope.spawn(sum), scope.spawn(sum)].map(|thread| thread.join().unwrap())
        });
        assert_eq!(sums, [70, 70]);
        assert!(first.is_short() && !second.is_short());
        // Its place may be used again.
        drop(first);
        file.set_len(100_000).unwrap();
        let third = Mapped::new(&file).unwrap();
        assert_eq!((third[5], third[99_999], third.is_short()), (7, 0, false));
    }
}
