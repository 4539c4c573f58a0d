//! What a person calls a model → the directory it is in.

use crate::error::{Error, Result};
use crate::stand_in::StandIn;
use std::ffi::OsString;
use std::io::Read as _;
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
    if let Some((host, name)) = address(argument) {
        let as_directory = "it is an address".into();
        let as_name = match &name {
            Some(name) if find_in_cache(name, cache).is_ok() => {
                format!("nothing is fetched from {host}, but `{name}` is there: give that name")
            }
            Some(name) => {
                format!(
                    "nothing is fetched from {host}; download it first (`hf download {name}`) and give `{name}`"
                )
            }
            None => format!("nothing is fetched from {host}; download the model first and give its folder"),
        };
        return Err(Error::NoModel { name: without_secrets(argument), as_directory, as_name });
    }
    let as_directory = match directory.metadata() {
        Ok(_) => format!("it is {}", file_kind(directory)),
        Err(_) if directory.is_symlink() => "it is a link that leads nowhere".into(),
        Err(_) => "it does not exist".into(),
    };
    match find_in_cache(argument, cache) {
        Ok(found) => Ok(found),
        Err(as_name) => Err(Error::NoModel { name: argument.into(), as_directory, as_name }),
    }
}

/// The host of an address and, where it is one of Hugging Face's pages or of a mirror, the model's name there.
fn address(argument: &str) -> Option<(String, Option<String>)> {
    const SCHEMES: [&str; 6] = ["https://", "http://", "hf://", "s3://", "gs://", "git@"];
    let lower = argument.to_ascii_lowercase();
    let (scheme, rest) = match SCHEMES.iter().find(|scheme| lower.starts_with(**scheme)) {
        Some(scheme) => (*scheme, &argument[scheme.len()..]),
        None if lower.starts_with("huggingface.co/") || lower.starts_with("hf.co/") => ("", argument),
        None => return None,
    };
    // A name or a password may stand before the host.
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = match scheme {
        "hf://" => ("huggingface.co", rest.strip_prefix("models/").unwrap_or(rest)),
        "git@" => rest.split_once(':').unwrap_or((rest, "")),
        _ => rest.split_once('/').unwrap_or((rest, "")),
    };
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let mut parts =
        path.trim_end_matches('/').trim_end_matches(".git").split('/').filter(|part| !part.is_empty());
    let plain = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let name = match (parts.next().filter(plain), parts.next().filter(plain)) {
        (Some(organisation), Some(name)) if !matches!(scheme, "s3://" | "gs://") => {
            Some(format!("{organisation}/{name}"))
        }
        _ => None,
    };
    let host: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
    Some((host, name))
}

/// An address without the name and password that may stand before its host.
fn without_secrets(address: &str) -> String {
    let parts = address.split_once("://").and_then(|(scheme, rest)| {
        let (secrets, _) = rest.split('/').next()?.rsplit_once('@')?;
        Some(format!("{scheme}://…{}", &rest[secrets.len()..]))
    });
    parts.unwrap_or_else(|| address.to_owned())
}

/// What a file that is no directory is, and what to do.
fn file_kind(path: &Path) -> String {
    let mut beginning = Vec::new();
    let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file && let Ok(file) = std::fs::File::open(path) {
        drop(file.take(1024).read_to_end(&mut beginning));
    }
    match StandIn::of(&beginning) {
        Some(found) => format!("{found}; {}", found.remedy()),
        None if path.extension().is_some_and(|ending| ending == "safetensors") => {
            "one file of a model; give the folder it is in".into()
        }
        None => "a file".into(),
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
    let known = repositories(cache);
    // As it is written; else as it would be written in other letters, which is how people remember names.
    let same: [fn(&str, &str) -> bool; 2] = [|a, b| a == b, |a, b| a.eq_ignore_ascii_case(b)];
    let found = same.iter().map(|same| {
        let is_it = |(repository, _): &&(String, PathBuf)| {
            let bare = repository.rsplit('/').next().unwrap_or_default();
            same(if parts.len() == 2 { repository } else { bare }, argument)
        };
        known.iter().filter(is_it).collect::<Vec<_>>()
    });
    match found.into_iter().find(|found| !found.is_empty()).as_deref() {
        Some([(_, only)]) => find_snapshot(only),
        Some(several) => {
            let names: Vec<_> = several.iter().map(|(repository, _)| repository.as_str()).collect();
            Err(format!("it is ambiguous: {}", names.join(", ")))
        }
        None => Err(format!("it is not in {}", cache.display())),
    }
}

/// The models of a Hugging Face cache, each as `org/name`, sorted; complete or not.
pub fn cached_models(cache: &Path) -> Vec<String> {
    repositories(cache).into_iter().map(|(repository, _)| repository).collect()
}

/// The same with their folders.
fn repositories(cache: &Path) -> Vec<(String, PathBuf)> {
    let folders = cache.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = folders.filter_map(|path| Some((repository_of(&path)?, path))).collect();
    found.sort_unstable();
    found
}

/// The repository that a file or folder of a Hugging Face cache belongs to: `org/name` for all that is in
/// `models--org--name`.
pub fn repository_of(path: &Path) -> Option<String> {
    path.iter().rev().find_map(|part| Some(part.to_str()?.strip_prefix("models--")?.replacen("--", "/", 1)))
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
