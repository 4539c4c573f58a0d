//! Import circles: files of a crate that know each other, directly or by way of others.
//!
//! A file knows another if a path in it leads there: in a `use`, in code, in the arguments of a macro. What is `#[cfg(test)]`
//! does not count, and a name that is only passed on (`pub use`) leads to the file that it comes from. What `include!` brings
//! in is not looked at.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Item, UseTree, Visibility};

/// A module by its path in the crate; the root has none.
type Module = Vec<String>;

/// What a file says of others.
#[derive(Default)]
struct File {
    path: PathBuf,
    /// Names that it brings in, with the path of each as written.
    names: Vec<(String, Vec<String>)>,
    /// Paths that it follows.
    follows: BTreeSet<Vec<String>>,
}

/// A crate's files by module.
pub struct Crate {
    files: BTreeMap<Module, File>,
}

/// Files that know each other, each with the files of the circle that it knows and the path by which it does.
pub type Circle = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

impl Crate {
    /// The crate whose root file is `root`.
    ///
    /// # Errors
    /// A file that is missing or is no Rust.
    pub fn read(root: &Path) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        let folder = root.parent().ok_or("a root file is in a folder")?;
        read_module(root.to_owned(), folder, vec![], &mut files)?;
        Ok(Crate { files })
    }

    /// The largest sets of files that all know each other, of two files or more.
    pub fn circles(&self) -> Vec<Circle> {
        let edges: BTreeMap<&Module, BTreeMap<&Module, String>> =
            self.files.keys().map(|module| (module, self.known_by(module))).collect();
        let reached: BTreeMap<&Module, HashSet<&Module>> = edges
            .keys()
            .map(|from| {
                let (mut reached, mut open) = (HashSet::new(), vec![*from]);
                while let Some(module) = open.pop() {
                    open.extend(edges[module].keys().filter(|next| reached.insert(**next)));
                }
                (*from, reached)
            })
            .collect();
        let mut circles = Vec::new();
        let mut seen = HashSet::new();
        for from in edges.keys().copied() {
            let circle: Vec<&Module> = edges
                .keys()
                .copied()
                .filter(|to| *to == from || (reached[from].contains(to) && reached[to].contains(from)))
                .collect();
            if circle.len() < 2 || !circle.iter().all(|module| seen.insert(*module)) {
                continue;
            }
            let file = |module: &Module| self.files[module].path.clone();
            circles.push(
                circle
                    .iter()
                    .map(|module| {
                        let known = edges[*module].iter().filter(|(to, _)| circle.contains(to));
                        (file(module), known.map(|(to, by)| (file(to), by.clone())).collect())
                    })
                    .collect(),
            );
        }
        circles
    }

    /// The modules that one knows, each with a path that leads there.
    fn known_by(&self, module: &Module) -> BTreeMap<&Module, String> {
        let mut known = BTreeMap::new();
        for path in &self.files[module].follows {
            if let Some(to) = self.resolve(module, path, 0)
                && to != module
            {
                known.entry(to).or_insert_with(|| path.join("::"));
            }
        }
        known
    }

    /// The module that has what a path in `module` names, if it is one of this crate.
    fn resolve(&self, module: &Module, path: &[String], depth: u32) -> Option<&Module> {
        let mut at = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (vec![], &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                at.push(first.to_owned());
                let is_child = self.files.contains_key(&at);
                at.pop();
                if !is_child {
                    return None;
                }
            }
        }
        while let Some((first, after)) = rest.split_first() {
            at.push(first.clone());
            if !self.files.contains_key(&at) {
                at.pop();
                break;
            }
            rest = after;
        }
        // What a module only brings in is somebody else's.
        if let Some((name, after)) = rest.split_first()
            && depth < 8
        {
            let brought = |wanted: &str| {
                let names = self.files[&at].names.iter().filter(move |(name, _)| name == wanted);
                names.map(|(_, path)| path.clone()).collect::<Vec<_>>()
            };
            for mut path in brought(name) {
                path.extend(after.iter().cloned());
                if let Some(found) = self.resolve(&at, &path, depth + 1) {
                    return Some(found);
                }
            }
        }
        self.files.get_key_value(&at).map(|(module, _)| module)
    }
}

/// A circle for people: who knows whom, by which path.
pub fn describe(circle: &Circle) -> String {
    let mut text = format!("{} files know each other:\n", circle.len());
    for (file, known) in circle {
        for (other, by) in known {
            writeln!(text, "  {} knows {} by {by}", file.display(), other.display()).expect("a string");
        }
    }
    text
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("(test)")
    })
}

fn read_module(
    path: PathBuf,
    folder: &Path,
    module: Module,
    files: &mut BTreeMap<Module, File>,
) -> Result<(), String> {
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let parsed = syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut file = File { path, ..File::default() };
    let mut children = Vec::new();
    read_items(parsed.items, &mut file, &mut children);
    files.insert(module.clone(), file);
    for child in children {
        let below = folder.join(&child);
        let candidates = [folder.join(format!("{child}.rs")), below.join("mod.rs")];
        let found = candidates.into_iter().find(|path| path.is_file());
        let found = found.ok_or_else(|| format!("{}: no file for `mod {child}`", folder.display()))?;
        let mut module = module.clone();
        module.push(child);
        read_module(found, &below, module, files)?;
    }
    Ok(())
}

fn read_items(items: Vec<Item>, file: &mut File, children: &mut Vec<String>) {
    for item in items {
        match item {
            Item::Mod(item) if is_for_tests(&item.attrs) => {}
            Item::Mod(item) => match item.content {
                None => children.push(item.ident.to_string()),
                Some((_, items)) => read_items(items, file, children),
            },
            Item::Use(item) => {
                let mut paths = Vec::new();
                flatten(&item.tree, &mut vec![], &mut paths);
                if matches!(item.vis, Visibility::Inherited) {
                    file.follows.extend(paths.iter().map(|(_, path)| path.clone()));
                }
                file.names.extend(paths);
            }
            item => read_tokens(item.to_token_stream(), file),
        }
    }
}

/// The names that a `use` brings in, with their paths.
fn flatten(tree: &UseTree, before: &mut Vec<String>, paths: &mut Vec<(String, Vec<String>)>) {
    let mut with = |name: &str, last: Option<&str>| {
        let mut path = before.clone();
        path.extend(last.filter(|last| *last != "self").map(str::to_owned));
        let name = if name == "self" { path.last().cloned().unwrap_or_default() } else { name.to_owned() };
        paths.push((name, path));
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, paths);
            before.pop();
        }
        UseTree::Name(name) => with(&name.ident.to_string(), Some(&name.ident.to_string())),
        UseTree::Rename(renamed) => with(&renamed.rename.to_string(), Some(&renamed.ident.to_string())),
        UseTree::Glob(_) => with("*", None),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, paths)),
    }
}

/// Every path of two names or more, wherever it stands.
fn read_tokens(tokens: TokenStream, file: &mut File) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            // `pub(in super::super)` is no knowledge.
            TokenTree::Ident(ident) if *ident == "pub" => {
                at += 1;
                if matches!(tokens.get(at), Some(TokenTree::Group(_))) {
                    at += 1;
                }
            }
            TokenTree::Group(group) => {
                read_tokens(group.stream(), file);
                at += 1;
            }
            TokenTree::Ident(ident) => {
                let mut path = vec![ident.to_string()];
                at += 1;
                while let [TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(next), ..] =
                    &tokens[at..]
                    && a.as_char() == ':'
                    && b.as_char() == ':'
                {
                    path.push(next.to_string());
                    at += 3;
                }
                if path.len() > 1 {
                    file.follows.insert(path);
                }
            }
            _ => at += 1,
        }
    }
}
