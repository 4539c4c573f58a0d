//! The shards as they are read: opened when first needed, closed when nothing of them is wanted any more, and
//! compared again and again with what they looked like when the checkpoint was opened.

use super::batch::{ALIGN, Read};
use crate::error::{Error, Result};
use crate::index::Shard;
use crate::source::Stamp;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatistics {
    /// The shard; in memory, its name.
    pub file: PathBuf,
    /// Bytes that were wanted of it.
    pub bytes: u64,
    /// Bytes that were read for them: more by the rest of the first and last block of each read that goes past the
    /// page cache.
    pub bytes_read: u64,
    /// Reads.
    pub reads: u64,
    /// Whether at least one of them went past the page cache.
    pub direct: bool,
}

/// Where bytes come from; tests put something slow or faulty here.
pub(super) trait Source: Send + Sync {
    /// Puts the read's bytes into `space`, which has room for its blocks; the first byte of its first block comes
    /// first.
    fn read(&self, read: &Read, tensor: &dyn Fn() -> String, space: &mut [u8]) -> Result<()>;
}

/// The shards of a checkpoint. Who waits for a file system may be left behind, so it shares what it needs.
pub(super) struct Files {
    checkpoint: Arc<Vec<Shard>>,
    direct: bool,
    shards: Vec<State>,
}

/// What became of a shard.
#[derive(Default)]
struct State {
    open: Mutex<Option<Arc<Open>>>,
    /// Bytes that are still to be read.
    wanted: AtomicU64,
    bytes: AtomicU64,
    bytes_read: AtomicU64,
    reads: AtomicU64,
    was_direct: AtomicBool,
    cannot_direct: AtomicBool,
}

struct Open {
    buffered: File,
    direct: Option<File>,
}

impl Files {
    pub(super) fn new(checkpoint: Arc<Vec<Shard>>, direct: bool) -> Self {
        let shards = checkpoint.iter().map(|_| State::default()).collect();
        Self { checkpoint, direct, shards }
    }

    /// Before anything is read: that so much will be wanted of a shard.
    pub(super) fn expect(&mut self, shard: u32, bytes: u64) {
        *self.shards[shard as usize].wanted.get_mut() += bytes;
    }

    fn path(&self, shard: u32) -> &Path {
        self.checkpoint[shard as usize].path()
    }

    fn stamp(&self, shard: u32) -> Option<Stamp> {
        self.checkpoint[shard as usize].stamp()
    }

    fn compare(&self, shard: u32, found: Stamp, tensor: &dyn Fn() -> String) -> Result<()> {
        match self.stamp(shard) {
            Some(expected) if expected != found => Err(Error::Changed {
                file: self.path(shard).into(),
                tensor: tensor(),
                expected: expected.to_string(),
                found: found.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn failed(&self, shard: u32, tensor: &dyn Fn() -> String, source: io::Error) -> Error {
        let file = self.path(shard).into();
        match source.kind() {
            io::ErrorKind::NotFound => Error::Vanished {
                file,
                tensor: tensor(),
                expected: self.stamp(shard).map_or("a shard".into(), |stamp| stamp.to_string()),
            },
            _ => Error::ReadTensor { file, tensor: tensor(), source },
        }
    }

    /// Compares the file that now has the shard's name with what was opened; `None` if there is no such file.
    pub(super) fn check_by_name(&self, shard: u32, tensor: &dyn Fn() -> String) -> Result<Option<()>> {
        if self.stamp(shard).is_none() {
            return Ok(Some(())); // it is in memory
        }
        match self.path(shard).metadata() {
            Ok(metadata) => self.compare(shard, Stamp::of(&metadata), tensor).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(shard, tensor, error)),
        }
    }

    /// The error for a shard that [`Self::check_by_name`] did not find.
    pub(super) fn vanished(&self, shard: u32, tensor: &dyn Fn() -> String) -> Error {
        self.failed(shard, tensor, io::ErrorKind::NotFound.into())
    }

    fn open(&self, shard: u32, tensor: &dyn Fn() -> String) -> Result<Arc<Open>> {
        let mut slot = self.shards[shard as usize].open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let failed = |error| self.failed(shard, tensor, error);
        let buffered = File::open(self.path(shard)).map_err(failed)?;
        let metadata = buffered.metadata().map_err(failed)?;
        self.compare(shard, Stamp::of(&metadata), tensor)?;
        let direct = match self.direct {
            true => open_direct(self.path(shard)).map_err(failed)?,
            false => None,
        };
        if let Some(direct) = &direct {
            self.compare(shard, Stamp::of(&direct.metadata().map_err(failed)?), tensor)?;
        }
        let open = Arc::new(Open { buffered, direct });
        *slot = Some(open.clone());
        Ok(open)
    }

    /// Reads past the page cache as far as that works; gives how many bytes from the read's first block on are there.
    fn read_direct(&self, open: &Open, read: &Read, space: &mut [u8]) -> io::Result<usize> {
        let shard = &self.shards[read.shard as usize];
        let Some(file) = open.direct.as_ref().filter(|_| !shard.cannot_direct.load(Ordering::Relaxed)) else {
            return Ok(0);
        };
        if is_cached(&open.buffered, &read.range) {
            return Ok(0);
        }
        match uninterrupted(|| read_at(file, space, read.blocks().start)) {
            Ok(bytes) => {
                shard.was_direct.store(true, Ordering::Relaxed);
                shard.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
                shard.reads.fetch_add(1, Ordering::Relaxed);
                Ok(bytes)
            }
            // The file system promised it when the file was opened, and asks for other alignments, say.
            Err(error) if is_unsupported(&error) => {
                shard.cannot_direct.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    fn read_file(&self, read: &Read, tensor: &dyn Fn() -> String, space: &mut [u8]) -> Result<()> {
        let open = self.open(read.shard, tensor)?;
        let shard = &self.shards[read.shard as usize];
        let failed = |error| self.failed(read.shard, tensor, error);
        let first = read.blocks().start;
        let end = (read.range.end - first) as usize;
        let there = self.read_direct(&open, read, space).map_err(failed)?;
        // All of it without direct reads; after a direct read that was cut short, the rest.
        let mut at = there.max((read.range.start - first) as usize);
        while at < end {
            let bytes = uninterrupted(|| read_at(&open.buffered, &mut space[at..end], first + at as u64))
                .map_err(failed)?;
            if bytes == 0 {
                // The file ends here: `compare` below has the words for it.
                break;
            }
            shard.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
            shard.reads.fetch_add(1, Ordering::Relaxed);
            at += bytes;
        }
        // After the read, so that what was read before this was not changed before it was read.
        self.compare(read.shard, Stamp::of(&open.buffered.metadata().map_err(failed)?), tensor)?;
        if at < end {
            return Err(Error::Truncated {
                file: self.path(read.shard).into(),
                tensor: tensor(),
                expected: self.stamp(read.shard).map_or(read.range.end, |stamp| stamp.length),
                found: first + at as u64,
            });
        }
        Ok(())
    }

    pub(super) fn statistics(&self) -> Vec<FileStatistics> {
        let of = |(number, shard): (u32, &State)| FileStatistics {
            file: self.path(number).into(),
            bytes: shard.bytes.load(Ordering::Relaxed),
            bytes_read: shard.bytes_read.load(Ordering::Relaxed),
            reads: shard.reads.load(Ordering::Relaxed),
            direct: shard.was_direct.load(Ordering::Relaxed),
        };
        (0..).zip(&self.shards).map(of).filter(|file| file.reads > 0).collect()
    }
}

impl Source for Files {
    fn read(&self, read: &Read, tensor: &dyn Fn() -> String, space: &mut [u8]) -> Result<()> {
        let shard = &self.shards[read.shard as usize];
        let bytes = read.bytes();
        if self.stamp(read.shard).is_some() {
            self.read_file(read, tensor, space)?;
        } else {
            let skip = (read.range.start - read.blocks().start) as usize;
            let from = &self.checkpoint[read.shard as usize].bytes()
                [read.range.start as usize..read.range.end as usize];
            space[skip..skip + from.len()].copy_from_slice(from);
            shard.bytes_read.fetch_add(bytes, Ordering::Relaxed);
            shard.reads.fetch_add(1, Ordering::Relaxed);
        }
        shard.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One tensor wanted twice in one buffer is read once, so this may end above zero: the file then stays open
        // until the end, which does no harm.
        if shard.wanted.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            *shard.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }
}

fn uninterrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// The file for reads past the page cache, or none where the file system has no such thing.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the first and the last byte are in the page cache, and so probably all: then the cache is faster.
#[cfg(target_os = "linux")]
fn is_cached(file: &File, range: &std::ops::Range<u64>) -> bool {
    let there = |at: u64| {
        let mut byte = [0];
        let into = &mut [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, into, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok_and(|bytes| bytes == 1)
    };
    range.start < range.end && there(range.start) && there(range.end - 1)
}

#[cfg(not(target_os = "linux"))]
fn is_cached(_: &File, _: &std::ops::Range<u64>) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

#[cfg(unix)]
fn read_at(file: &File, space: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, space, position)
}

#[cfg(windows)]
fn read_at(file: &File, space: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, space, position)
}

/// Memory whose first byte lies at a multiple of [`ALIGN`].
pub(super) struct Buffer {
    memory: Vec<u8>,
    skip: usize,
    bytes: usize,
}

impl Buffer {
    pub(super) fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGN as usize];
        let skip = memory.as_ptr().align_offset(ALIGN as usize);
        Self { memory, skip, bytes }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.skip..][..self.bytes]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..][..self.bytes]
    }
}
