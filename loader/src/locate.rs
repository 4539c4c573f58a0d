//! What a person calls a model → the directory it is in.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Finds a model: a directory, or `org/name` or just `name` in the Hugging Face cache. Nothing is downloaded.
pub fn resolve_model(argument: &str) -> Result<PathBuf> {
    resolve_model_in(argument, hub_cache(|name| std::env::var_os(name)).as_deref())
}

/// Where the Hugging Face cache is by these environment variables: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`,
/// `HF_HOME`, `XDG_CACHE_HOME`, `HOME`, in this order. `None` if none of them is set.
pub fn hub_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| path("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface/hub")))
        .or_else(|| path("USERPROFILE").map(|home| home.join(".cache/huggingface/hub")))
}

/// [`resolve_model`] with the cache's place given.
pub fn resolve_model_in(argument: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let directory = Path::new(argument);
    if !argument.is_empty() && directory.is_dir() {
        return Ok(directory.into());
    }
    let as_directory = if directory.exists() { "it is a file" } else { "it does not exist" };
    match find_in_cache(argument, cache) {
        Ok(found) => Ok(found),
        Err(as_name) => {
            Err(Error::NoModel { name: argument.into(), as_directory: as_directory.into(), as_name })
        }
    }
}

/// The error is the rest of a sentence: "as a name in the Hugging Face cache, …".
fn find_in_cache(argument: &str, cache: Option<&Path>) -> Result<PathBuf, String> {
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let parts: Vec<_> = argument.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(plain) {
        return Err("it is not of the form org/name".into());
    }
    let Some(cache) = cache else { return Err("no cache is known (set HF_HOME)".into()) };
    let folder = match parts.as_slice() {
        [organisation, name] => cache.join(format!("models--{organisation}--{name}")),
        _ => find_bare_name(argument, cache)?,
    };
    if !folder.is_dir() {
        return Err(format!("it is not in {}", cache.display()));
    }
    find_snapshot(&folder)
}

/// `models--*--name`, whatever the organisation, if there is only one.
fn find_bare_name(name: &str, cache: &Path) -> Result<PathBuf, String> {
    let ending = format!("--{name}");
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in cache.read_dir().into_iter().flatten().flatten() {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with("models--") && file.ends_with(&ending) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(format!("it is not in {}", cache.display())),
        several => {
            let names: Vec<_> = several
                .iter()
                .filter_map(|path| {
                    Some(path.file_name()?.to_str()?.strip_prefix("models--")?.replace("--", "/"))
                })
                .collect();
            Err(format!("it is ambiguous: {}", names.join(", ")))
        }
    }
}

/// The snapshot that `refs/main` names, or the only one there is.
fn find_snapshot(folder: &Path) -> Result<PathBuf, String> {
    let snapshots = folder.join("snapshots");
    if let Ok(reference) = std::fs::read_to_string(folder.join("refs/main")) {
        let commit = reference.trim();
        if !commit.is_empty() && commit.len() <= 64 && commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            let snapshot = snapshots.join(commit);
            if snapshot.is_dir() {
                return Ok(snapshot);
            }
        }
    }
    let entries = snapshots.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(format!("{} holds no snapshot", folder.display())),
        (Some(_), false) => Err(format!("{} holds several snapshots and no refs/main", folder.display())),
    }
}
