//! Where a checkpoint's files come from: a directory, or memory.

use crate::error::{Error, Result};
use crate::header::printable;
use crate::mapped::Mapped;
use crate::stand_in::StandIn;
use std::borrow::Cow;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A folder of files.
pub(crate) enum Source {
    Directory(PathBuf),
    Memory(Vec<(String, Cow<'static, [u8]>)>),
}

/// The bytes of a shard.
pub(crate) enum Bytes {
    Mapped(Mapped),
    Memory(Cow<'static, [u8]>),
}

/// What a file looked like: a file that has another stamp later was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) length: u64,
    /// Of the last change; some file systems have none.
    pub(crate) modified: Option<SystemTime>,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// `4096 bytes, modified 1700000000.25 s after 1970`
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)?;
        match self.modified.map(|time| time.duration_since(SystemTime::UNIX_EPOCH)) {
            Some(Ok(since)) => {
                write!(f, ", modified {}.{:09} s after 1970", since.as_secs(), since.subsec_nanos())
            }
            Some(Err(before)) => write!(f, ", modified {} s before 1970", before.duration().as_secs_f64()),
            None => Ok(()),
        }
    }
}

impl Bytes {
    /// Asks the system to read this range of a file soon; a wish, so errors do not matter.
    pub(crate) fn will_need(&self, range: std::ops::Range<u64>) {
        if let Self::Mapped(map) = self {
            map.will_need(range.start as usize, (range.end - range.start) as usize);
        }
    }

    /// Whether a part of the file was gone when it was read; zeros were read in its place.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Self::Mapped(map) => map.is_short(),
            Self::Memory(_) => false,
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl Source {
    /// The file's path for messages; in memory, just its name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Directory(folder) => folder.join(name),
            Self::Memory(_) => PathBuf::from(name),
        }
    }

    /// A text file of at most `limit` bytes, or `None` if there is no such file.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let text = self.read_whole(name, limit)?;
        match text.as_deref().and_then(StandIn::of) {
            Some(found) => {
                let expected = if name.ends_with(".json") { "a JSON file" } else { "a text file" };
                Err(Error::StandIn { file: self.path(name), expected: expected.into(), found })
            }
            None => Ok(text),
        }
    }

    fn read_whole(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let too_large = |found: u64| Error::TooLarge {
            file: self.path(name),
            expected: format!("at most {limit} bytes"),
            found: format!("{found} bytes"),
        };
        match self {
            Self::Directory(_) => {
                let path = self.path(name);
                let Some((file, Stamp { length, .. })) = open(&path)? else { return Ok(None) };
                if length > limit {
                    return Err(too_large(length));
                }
                let mut text = Vec::new();
                // The limit holds even if the file grows while it is read.
                file.take(limit)
                    .read_to_end(&mut text)
                    .map_err(|source| Error::Read { file: path, source })?;
                Ok(Some(text))
            }
            Self::Memory(files) => match files.iter().find(|(file, _)| file == name) {
                Some((_, bytes)) if bytes.len() as u64 > limit => Err(too_large(bytes.len() as u64)),
                Some((_, bytes)) => Ok(Some(bytes.to_vec())),
                None => Ok(None),
            },
        }
    }

    /// A shard, mapped, and what its file looked like; `None` if there is no such file.
    pub(crate) fn map(&self, name: &str) -> Result<Option<(Bytes, Option<Stamp>)>> {
        match self {
            Self::Directory(_) => {
                let path = self.path(name);
                let Some((file, stamp)) = open(&path)? else { return Ok(None) };
                if stamp.length == 0 {
                    return Ok(Some((Bytes::Memory(Cow::Borrowed(&[])), Some(stamp)))); // there is nothing to map
                }
                Mapped::new(&file)
                    .map(|map| Some((Bytes::Mapped(map), Some(stamp))))
                    .map_err(|source| Error::Read { file: path, source })
            }
            Self::Memory(files) => {
                let found = files.iter().find(|(file, _)| file == name);
                Ok(found.map(|(_, bytes)| (Bytes::Memory(bytes.clone()), None)))
            }
        }
    }

    /// The names of the files, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = match self {
            Self::Directory(folder) => {
                let failed = |source| Error::Read { file: folder.clone(), source };
                let mut names = Vec::new();
                for entry in folder.read_dir().map_err(failed)? {
                    if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                        names.push(name);
                    }
                }
                names
            }
            Self::Memory(files) => files.iter().map(|(name, _)| name.clone()).collect(),
        };
        names.sort_unstable();
        Ok(names)
    }
}

/// Reads a whole file that is small: a regular one (a pipe would wait for its other end) of at most `limit` bytes, whatever it says
/// of its own length.
///
/// # Errors
/// No such file, something else than a file, or more bytes than that.
pub fn read_small_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    match path.metadata()? {
        found if found.is_file() => {}
        found if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("the file is larger than {limit} bytes, the most read of it");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// A regular file and what it looks like. Anything else (a pipe would block) is refused before it is opened.
fn open(path: &Path) -> Result<Option<(File, Stamp)>> {
    let failed = |source| Error::Read { file: path.into(), source };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link is there although what it leads to is not: git-annex and caches leave such ones.
            return match path.read_link() {
                Ok(target) => {
                    let target = target.display().to_string();
                    let remedy =
                        if target.contains("annex/objects") { "; `git annex get` fetches it" } else { "" };
                    Err(failed(io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("it is a link to {}, which is not there{remedy}", printable(&target)),
                    )))
                }
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    Ok(Some((file, stamp)))
}
