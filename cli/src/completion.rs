//! What a shell offers when Tab is pressed: the program itself says, so that models in the cache and the catalogue are known.

use std::ffi::OsStr;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use porism_loader::{cached_models, catalog, hub_cache};

use crate::model::EMBEDDED_NAME;

/// The variable by which a shell asks.
pub const VARIABLE: &str = "PORISM_COMPLETE";

/// A model whose files are needed: a folder, one in the cache, or the embedded one.
pub fn model(current: &OsStr) -> Vec<CompletionCandidate> {
    let cached =
        hub_cache(|name| std::env::var_os(name)).map(|cache| cached_models(&cache)).unwrap_or_default();
    let mut found = beginning(current, cached.into_iter().chain([EMBEDDED_NAME.to_owned()]));
    found.extend(PathCompleter::dir().complete(current));
    found
}

/// The same or a model of the catalogue, of which no file is needed.
pub fn model_or_catalogued(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = catalogued(current);
    found.extend(model(current));
    found
}

/// A model of the catalogue: its name, or its repository once that is begun.
pub fn catalogued(current: &OsStr) -> Vec<CompletionCandidate> {
    let names =
        catalog::names().chain(catalog::repositories().filter(|_| current.to_string_lossy().contains('/')));
    beginning(current, names.map(str::to_owned))
}

/// Those that begin with what is typed, in letters of any case.
fn beginning(current: &OsStr, names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy().to_lowercase();
    names.filter(|name| name.to_lowercase().starts_with(&typed)).map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(found: &[CompletionCandidate]) -> Vec<String> {
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn names_of_the_catalogue_are_offered_where_no_files_are_needed() {
        assert_eq!(offered(&catalogued(OsStr::new("deepseek-m"))), ["deepseek-math-v2"]);
        assert_eq!(
            offered(&catalogued(OsStr::new("deepseek-ai/deepseek-math"))),
            ["deepseek-ai/DeepSeek-Math-V2"]
        );
        assert_eq!(catalogued(OsStr::new("")).len(), catalog::names().count());
        assert!(offered(&model(OsStr::new("porism"))).contains(&EMBEDDED_NAME.to_owned()));
        assert!(!offered(&model(OsStr::new("deepseek-m"))).contains(&"deepseek-math-v2".to_owned()));
        let both = offered(&model_or_catalogued(OsStr::new("")));
        assert!(both.contains(&"kimi-k2".to_owned()) && both.contains(&EMBEDDED_NAME.to_owned()));
    }
}
