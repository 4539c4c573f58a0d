//! What a model may be called, and what to do about one that is not here.

use std::path::Path;

use porism_loader::{cached_models, catalog, hub_cache};

use crate::host::free_space;
use crate::model::EMBEDDED_NAME;
use crate::words;

/// Names that are this much alike may be meant: 1 is the same.
const ALIKE: f64 = 0.75;
/// As many are suggested at most.
const SUGGESTED: usize = 3;

/// An error about a model that was not found: what is wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Absent {
    pub message: String,
    pub hint: String,
}

/// About a name that is neither a folder nor in the cache, for these reasons.
pub fn absent(name: &str, as_directory: &str, as_name: &str) -> Absent {
    if let Some(absent) = known(name) {
        return absent;
    }
    let message = format!(
        "no model `{name}`: as a directory, {as_directory}; as a name in the Hugging Face cache, {as_name}"
    );
    Absent { message, hint: advice(name) }
}

/// What can be done about a name that nothing is known of.
pub fn advice(name: &str) -> String {
    let alike = similar(name);
    if !alike.is_empty() {
        return did_you_mean(&alike);
    }
    let is_repository = name.split('/').count() == 2 && !name.starts_with(['.', '/']) && !name.ends_with('/');
    let download = if is_repository {
        format!("; `hf download {name}` downloads it if it exists")
    } else {
        String::new()
    };
    format!(
        "give a folder with config.json and its .safetensors files, a name in the Hugging Face cache, or no model at all for the \
         embedded {EMBEDDED_NAME}{download}"
    )
}

/// Whether a name is that of a model of the catalogue, or of the folder it would be in.
pub fn is_known(name: &str) -> bool {
    known(name).is_some()
}

/// About a model of the catalogue, if it is one: where it can be had, how large it is, and whether there is room. It may be
/// named as the folder that it would be in.
fn known(name: &str) -> Option<Absent> {
    let is_path = name.starts_with(['.', '/', '~']);
    let folder = Path::new(name.trim_end_matches('/'));
    let model = catalog::find(if is_path { folder.file_name()?.to_str()? } else { name })?;
    let repository = catalog::repository(model.name())?;
    let bytes = model.stored_bytes();
    let what =
        format!("{repository}, {} in {}", words::bytes(bytes), words::plural(model.shards().into(), "shard"));
    let plan = format!("`porism plan {}` shows what this machine would make of it", model.name());
    if is_path {
        let name = folder.display();
        return Some(Absent {
            message: format!(
                "there is no folder `{name}`; that is the name of {what}{}",
                room(folder, bytes)
            ),
            hint: format!(
                "`hf download {repository} --local-dir {name}` downloads it there (hf comes with `pip install huggingface_hub`); {plan}"
            ),
        });
    }
    let cache = hub_cache(|name| std::env::var_os(name));
    let elsewhere = match &cache {
        Some(_) => " into the Hugging Face cache, or with `--local-dir DIR` into a folder to name instead",
        None => "",
    };
    Some(Absent {
        message: format!(
            "`{name}` is not on this machine: it is {what}{}",
            cache.map_or_else(String::new, |cache| room(&cache, bytes))
        ),
        hint: format!(
            "`hf download {repository}` downloads it{elsewhere} (hf comes with `pip install huggingface_hub`); {plan}"
        ),
    })
}

/// What there is room for where a model would be downloaded to.
fn room(place: &Path, bytes: u64) -> String {
    let Some(free) = free_space(place) else { return String::new() };
    let short = match bytes.checked_sub(free) {
        Some(short) if short > 0 => format!(", {} too little", words::bytes(short)),
        _ => String::new(),
    };
    format!("; the disk of {} has {} free{short}", place.display(), words::bytes(free))
}

/// That a model which would have to be downloaded does not fit on the disk, if it does not.
pub fn no_room(bytes: u64) -> Option<String> {
    let cache = hub_cache(|name| std::env::var_os(name))?;
    let (free, place) = (free_space(&cache)?, cache.display());
    (free < bytes).then(|| {
        let (whole, free) = (words::bytes(bytes), words::bytes(free));
        format!("the weights are not on this machine, and the disk of {place} has {free} free for {whole} of files")
    })
}

/// Names that may have been meant: of folders beside the one that is not there, of the catalogue, of models in the cache.
pub fn similar(name: &str) -> Vec<String> {
    let cached =
        hub_cache(|name| std::env::var_os(name)).map(|cache| cached_models(&cache)).unwrap_or_default();
    let catalogued = catalog::names().chain([EMBEDDED_NAME]).map(str::to_owned);
    let names: Vec<String> = siblings(name).into_iter().chain(catalogued).chain(cached).collect();
    most_alike(name, names)
}

/// Names of the catalogue that may have been meant.
pub fn similar_known(name: &str) -> Vec<String> {
    most_alike(name, catalog::names().map(str::to_owned).collect())
}

/// `did you mean `a`, `b` or `c`?`
pub fn did_you_mean(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => format!("did you mean {only}?"),
        [first @ .., last] => format!("did you mean {} or {last}?", first.join(", ")),
    }
}

/// Folders beside a path, written as the path is.
fn siblings(name: &str) -> Vec<String> {
    let path = Path::new(name.trim_end_matches('/'));
    let (Some(parent), true) = (path.parent(), name.contains('/')) else { return Vec::new() };
    let entries = parent.read_dir().into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir()).take(1000);
    folders.filter_map(|entry| entry.path().to_str().map(str::to_owned)).collect()
}

fn most_alike(name: &str, names: Vec<String>) -> Vec<String> {
    let wanted = bare(name);
    let mut scored: Vec<(f64, String)> = names
        .into_iter()
        .map(|known| {
            let candidate = bare(&known);
            let alike = strsim::normalized_damerau_levenshtein(&wanted, &candidate);
            // A part of a name, as `math-v2`, is as good as a name with a slip in it.
            let is_part = wanted.len() >= 4 && candidate.contains(&wanted);
            (if is_part { alike.max(ALIKE) } else { alike }, known)
        })
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    // Stable: of equally good ones the first.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.truncate(SUGGESTED);
    scored.into_iter().map(|(_, name)| name).collect()
}

/// A name without organisation, case and punctuation, in which names differ most when they are remembered.
fn bare(name: &str) -> String {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let first = |name: &str| similar_known(name).first().cloned();
        for (typed, meant) in [
            ("deepsek-math-v2", "deepseek-math-v2"),
            ("DeepSeekMath-V2", "deepseek-math-v2"),
            ("deepseek-ai/DeepSeek-MathV2", "deepseek-math-v2"),
            ("math-v2", "deepseek-math-v2"),
            ("deepseek-v32", "deepseek-v3.2"),
            ("moonlight", "moonlight-16b-a3b"),
            ("kimi-k3", "kimi-k2"),
        ] {
            assert_eq!(first(typed).as_deref(), Some(meant), "{typed}");
        }
        for other in ["llama-3", "gpt-oss-120b", "Hello", "x", "", "/"] {
            assert_eq!(first(other), None, "{other}");
        }
    }

    #[test]
    fn a_known_model_that_is_not_here_says_how_to_get_it() {
        for name in ["deepseek-math-v2", "deepseek-ai/DeepSeek-Math-V2", "DeepSeek-Math-v2"] {
            let Absent { message, hint } = absent(name, "it does not exist", "it is not there");
            assert!(message.contains("deepseek-ai/DeepSeek-Math-V2, 689.5 GB in 163 shards"), "{message}");
            assert!(hint.contains("`hf download deepseek-ai/DeepSeek-Math-V2`"), "{hint}");
            assert!(hint.contains("`porism plan deepseek-math-v2`"), "{hint}");
        }
        assert_eq!(absent("porism-tini", "", "").hint, "did you mean `porism-tiny`?");
        assert!(absent("someone/some-model", "", "").hint.contains("`hf download someone/some-model`"));
        assert!(!absent("./some-folder", "", "").hint.contains("hf download"));
        let Absent { message, hint } = absent("./DeepSeek-V3.2/", "it does not exist", "");
        assert!(message.starts_with(
            "there is no folder `./DeepSeek-V3.2`; that is the name of deepseek-ai/DeepSeek-V3.2"
        ));
        assert!(
            hint.contains("`hf download deepseek-ai/DeepSeek-V3.2 --local-dir ./DeepSeek-V3.2`"),
            "{hint}"
        );
    }

    #[test]
    fn folders_beside_are_suggested() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("DeepSeek-V3.2")).unwrap();
        let typed = folder.path().join("DeepSeek-V32");
        assert_eq!(
            similar(typed.to_str().unwrap()).first(),
            Some(&folder.path().join("DeepSeek-V3.2").to_str().unwrap().to_owned())
        );
    }

    #[test]
    fn suggestions_are_a_sentence() {
        let names =
            |count: usize| ["a", "b", "c"][..count].iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(did_you_mean(&names(1)), "did you mean `a`?");
        assert_eq!(did_you_mean(&names(3)), "did you mean `a`, `b` or `c`?");
    }
}
