//! A file that says which endpoints there are, and is read again while they are asked.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, EndpointError};

/// The most that is read of such a file.
const LIMIT: u64 = 1 << 20;
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Makes an endpoint of an address.
type Make = Box<dyn Fn(&str) -> Result<Endpoint, EndpointError> + Send>;

/// A file with an address on each line; empty lines and what follows a `#` do not count.
pub struct Followed {
    path: PathBuf,
    make: Make,
    text: String,
    looked_at: Instant,
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Followed({})", self.path.display())
    }
}

impl Followed {
    /// Reads the file; `make` makes an endpoint of an address.
    ///
    /// # Errors
    /// In words: the file cannot be read, names no endpoint, or a line is no address.
    pub fn open(path: &Path, make: Make) -> Result<(Self, Vec<Endpoint>), String> {
        let text = read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        let followed = Self { path: path.to_owned(), make, text, looked_at: Instant::now() };
        let endpoints = followed.endpoints()?;
        Ok((followed, endpoints))
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, String> {
        let wrong =
            |line: usize, error: &dyn fmt::Display| format!("{}: line {line}: {error}", self.path.display());
        let mut endpoints = Vec::<Endpoint>::new();
        for (index, line) in self.text.lines().enumerate() {
            // An address may have a # in it only after a blank.
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let endpoint = (self.make)(line).map_err(|error| wrong(index + 1, &error))?;
            if !endpoints.iter().any(|known| known.name() == endpoint.name()) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(format!("{}: names no endpoint: give an address on each line", self.path.display()));
        }
        Ok(endpoints)
    }

    /// The endpoints, when the file says others than before; an error in words when they cannot be understood, and then the
    /// ones before stay.
    pub(super) fn changed(&mut self) -> Option<Result<Vec<Endpoint>, String>> {
        if self.looked_at.elapsed() < INTERVAL {
            return None;
        }
        self.looked_at = Instant::now();
        // Whoever writes it anew may have removed it for a moment.
        let text = read(&self.path).ok()?;
        if text == self.text {
            return None;
        }
        self.text = text;
        Some(self.endpoints().map_err(|words| format!("{words}; the endpoints stay as they were")))
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}
