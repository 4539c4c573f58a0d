//! Lists the files of the embedded model, so that a retrained one with other shards needs no change here.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/porism-tiny");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let weights = name.starts_with("model") && name.ends_with(".safetensors");
            weights || name.ends_with(".json") || name.ends_with(".jinja") || name == "prompts.toml"
        })
        .collect();
    names.sort_unstable();
    let mut list = String::from("&[\n");
    for name in names {
        let path = folder.join(&name);
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(list, "    ({name:?}, include_bytes!({path:?})),").expect("a String takes everything");
    }
    list.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("embedded.rs"), list).expect("OUT_DIR is writable");
}
