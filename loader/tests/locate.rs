//! From what a person calls a model to its directory.

use porism_loader::{cached_models, hub_cache, repository_of, resolve_model_in};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A cache with one model in one snapshot, or several.
fn cache(models: &[(&str, &[&str], Option<&str>)]) -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    for (model, snapshots, main) in models {
        let folder = cache.path().join(model);
        for snapshot in *snapshots {
            fs::create_dir_all(folder.join("snapshots").join(snapshot)).unwrap();
        }
        if let Some(commit) = main {
            fs::create_dir_all(folder.join("refs")).unwrap();
            fs::write(folder.join("refs/main"), commit).unwrap();
        }
    }
    cache
}

fn refused(argument: &str, cache: Option<&Path>, parts: &[&str]) {
    let error = resolve_model_in(argument, cache).unwrap_err().to_string();
    for part in [&["as a directory", "as a name in the Hugging Face cache"], parts].concat() {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_directory_is_taken_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let found = resolve_model_in(directory.path().to_str().unwrap(), None).unwrap();
    assert_eq!(found, directory.path());
}

#[test]
fn names_are_found_in_the_cache_with_and_without_organisation() {
    let cache = cache(&[
        ("models--deepseek-ai--DeepSeek-Math-V2", &["abc123", "def456"], Some("def456\n")),
        ("models--moonshotai--Moonlight-16B-A3B", &["0a"], None),
    ]);
    let math = cache.path().join("models--deepseek-ai--DeepSeek-Math-V2/snapshots/def456");
    for name in ["deepseek-ai/DeepSeek-Math-V2", "DeepSeek-Math-V2"] {
        assert_eq!(resolve_model_in(name, Some(cache.path())).unwrap(), math);
    }
    // As people remember them.
    for name in ["deepseek-ai/deepseek-math-v2", "deepseek-math-v2", "DEEPSEEK-AI/DEEPSEEK-MATH-V2"] {
        assert_eq!(resolve_model_in(name, Some(cache.path())).unwrap(), math, "{name}");
    }
    assert_eq!(cached_models(cache.path()), ["deepseek-ai/DeepSeek-Math-V2", "moonshotai/Moonlight-16B-A3B"]);
    assert_eq!(repository_of(&math).as_deref(), Some("deepseek-ai/DeepSeek-Math-V2"));
    let moonlight = resolve_model_in("Moonlight-16B-A3B", Some(cache.path())).unwrap();
    assert!(moonlight.ends_with("snapshots/0a"), "{}", moonlight.display());
}

#[test]
fn what_is_not_found_is_told_for_both_readings() {
    let cache = cache(&[
        ("models--a--same", &["1"], None),
        ("models--b--same", &["1"], None),
        ("models--a--empty", &[], Some("1")),
        ("models--a--two", &["1", "2"], Some("../../../1")),
    ]);
    fs::create_dir_all(cache.path().join("models--a--empty")).unwrap();
    let path = cache.path().display().to_string();
    refused("nobody/nothing", Some(cache.path()), &["no model `nobody/nothing`", "does not exist", &path]);
    refused("nothing", Some(cache.path()), &["it is not in", &path]);
    refused("same", Some(cache.path()), &["ambiguous: a/same, b/same"]);
    refused("a/empty", Some(cache.path()), &["no snapshot"]);
    refused("a/two", Some(cache.path()), &["several snapshots"]);
    refused("nothing", None, &["HF_HOME"]);
    for argument in ["", "a/b/c", "../models--a--same", "a/..", ".", "/nowhere/at/all", "a b", "ä/ö"] {
        if argument != "." {
            refused(argument, Some(cache.path()), &["not of the form org/name"]);
        }
    }
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    refused(file.to_str().unwrap(), None, &["it is a file"]);
}

#[test]
fn the_cache_is_where_the_environment_says() {
    let with = |set: &[(&str, &str)]| {
        hub_cache(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    };
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(with(&[]), None);
    assert_eq!(with(&[("HOME", "/h")]), path("/h/.cache/huggingface/hub"));
    assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), path("/x/huggingface/hub"));
    assert_eq!(with(&[("HOME", "/h"), ("HF_HOME", "/f")]), path("/f/hub"));
    assert_eq!(with(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), path("/c"));
    assert_eq!(with(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "")]), path("/f/hub"));
}

#[test]
fn addresses_and_single_files_are_told_as_what_they_are() {
    let cache = cache(&[("models--a--there", &["1"], None)]);
    for address in [
        "https://huggingface.co/deepseek-ai/DeepSeek-Math-V2",
        "https://huggingface.co/deepseek-ai/DeepSeek-Math-V2/tree/main?x=y",
        "http://me:secret@mirror.example/deepseek-ai/DeepSeek-Math-V2/",
        "hf://deepseek-ai/DeepSeek-Math-V2",
        "huggingface.co/deepseek-ai/DeepSeek-Math-V2",
        "git@hf.co:deepseek-ai/DeepSeek-Math-V2.git",
    ] {
        let error = resolve_model_in(address, Some(cache.path())).unwrap_err().to_string();
        assert!(error.contains("nothing is fetched from") && !error.contains("secret"), "{error}");
        assert!(error.contains("`hf download deepseek-ai/DeepSeek-Math-V2`"), "{error}");
    }
    refused(
        "https://hf.co/a/there",
        Some(cache.path()),
        &["it is an address", "`a/there` is there: give that name"],
    );
    refused("s3://bucket/model", None, &["nothing is fetched from bucket", "give its folder"]);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, parts) in [
        ("m.gguf", &b"GGUF\x03\0\0\0"[..], &["a GGUF file", "llama-server", "--endpoint"][..]),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", &["one file of a model", "folder"]),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n", &["Git LFS pointer"]),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        refused(file.to_str().unwrap(), None, parts);
    }
}
