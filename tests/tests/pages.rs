//! Every file and folder that a page names is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders that git ignores.
const IGNORED: [&str; 5] = [".git", ".cache", "target", "runs", "node_modules"];
/// Ends of bare names that mean a file of the repository. Other names may be files of a model or of a run.
const SOURCES: [&str; 3] = [".rs", ".wgsl", ".sh"];
/// Files that an example is about to add.
const EXAMPLES: [&str; 2] = ["scale_rows.wgsl", "scale_rows.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file and folder below `folder`, as paths from the root with `/` between names.
fn tree(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in folder.read_dir().expect("a folder can be listed") {
        let entry = entry.expect("a folder can be listed");
        let name = entry.file_name().into_string().expect("names are Unicode");
        if IGNORED.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("it has a type").is_dir() {
            tree(&entry.path(), &format!("{path}/"), found);
        }
        found.insert(path);
    }
}

/// What a line names: the words in backticks, the targets of links, and in a list of folders what the line begins with.
fn named(line: &str, in_block: bool) -> Vec<&str> {
    if in_block {
        return line.split(' ').next().filter(|word| word.ends_with('/')).into_iter().collect();
    }
    let mut words: Vec<&str> = line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace).collect();
    for rest in line.split("](").skip(1) {
        let target = rest.split([')', '#']).next().unwrap_or_default();
        words.extend((!target.is_empty()).then_some(target));
    }
    words
}

fn is_path(word: &str, top: &BTreeSet<&str>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if !word.chars().all(plain) || word.starts_with('/') || word.contains("NAME") || EXAMPLES.contains(&word)
    {
        return false;
    }
    match word.split_once('/') {
        Some((first, _)) => top.contains(first),
        None => SOURCES.iter().any(|end| word.ends_with(end) && word.len() > end.len()),
    }
}

#[test]
fn every_path_that_a_page_names_exists() {
    let root = root();
    let mut files = BTreeSet::new();
    tree(&root, "", &mut files);
    let top: BTreeSet<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    let is_there = |page: &str, word: &str| {
        let word = word.trim_end_matches('/');
        let beside = page.rsplit_once('/').map_or(word.to_owned(), |(folder, _)| format!("{folder}/{word}"));
        let end = format!("/{word}");
        files.contains(word) || files.contains(&beside) || files.iter().any(|file| file.ends_with(&end))
    };
    let (mut checked, mut missing) = (0, String::new());
    let pages = files.iter().filter(|file| file.ends_with(".md"));
    // Not what others wrote or what a tool made, and no list of what was once.
    for page in pages.filter(|page| !page.starts_with("tests/cli/") && *page != "CHANGELOG.md") {
        let text = std::fs::read(root.join(page)).expect("a page can be read");
        let mut in_block = false;
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            for word in named(line, in_block).into_iter().filter(|word| is_path(word, &top)) {
                checked += 1;
                if !is_there(page, word) {
                    missing.push_str(&format!("\n{page}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} paths were found in the pages");
    assert!(missing.is_empty(), "named and not there:{missing}");
}

#[test]
fn a_path_is_told_from_other_words() {
    let top = ["shaders", "docs"].into();
    for (word, is) in [
        ("shaders/src/lib.rs", true),
        ("docs/", true),
        ("matvec.wgsl", true),
        ("shaders/src/kernels/NAME.rs", false),
        ("solution.md", false),
        (".rs", false),
        ("deepseek-ai/DeepSeek-V3.2", false),
        ("/docs", false),
    ] {
        assert_eq!(is_path(word, &top), is, "{word}");
    }
    assert_eq!(named("see `docs/a.md` and [b](docs/b.md#c)", false), ["docs/a.md", "docs/b.md"]);
    assert_eq!(named("shaders/    the kernels", true), ["shaders/"]);
}
