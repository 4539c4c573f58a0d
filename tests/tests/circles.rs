//! No crate has a circle of more than three files that know each other: what is below does not know what is above.

use std::path::{Path, PathBuf};

use porism_tests::circles::{Crate, describe};

/// Two files may be two halves of one thing, and a third may hold them together; more is a knot.
const MOST: usize = 3;

/// Root files of the workspace's crates.
fn roots() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(workspace.join("Cargo.toml")).expect("a workspace has a manifest");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    let members = members.split(',').map(|name| name.trim().trim_matches('"'));
    let roots: Vec<PathBuf> = members
        .flat_map(|member| ["src/lib.rs", "src/main.rs"].map(|root| workspace.join(member).join(root)))
        .filter(|root| root.is_file())
        .collect();
    assert!(roots.len() > 5, "{roots:?}");
    roots
}

#[test]
fn no_more_than_three_files_know_each_other() {
    let mut knots = String::new();
    for root in roots() {
        let circles = Crate::read(&root).expect("reads").circles();
        for circle in circles.iter().filter(|circle| circle.len() > MOST) {
            knots += &format!("{}: {}", root.display(), describe(circle));
        }
    }
    assert!(knots.is_empty(), "at most {MOST} files may know each other\n{knots}");
}

/// Four files in a circle, by a `use`, a path in code, a macro's argument and a name that another file passes on.
#[test]
fn a_circle_is_found_whichever_way_it_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("lib.rs", "mod a; mod b; mod c; mod d; mod e; pub use d::Named;");
    write("a.rs", "use crate::b::{self, Thing}; fn f(thing: Thing) { b::g() }");
    write("b.rs", "pub struct Thing; pub fn g() { crate::c::inner::h() }");
    write("c/mod.rs", "pub mod inner; ");
    write("c/inner.rs", "use crate::Named; pub fn h() { Named::new() }");
    write("d.rs", "pub struct Named; impl Named { pub fn new() { println!(\"{}\", super::a::f as usize) } }");
    write("e.rs", "use crate::a; #[cfg(test)] mod tests { use super::super::e; }");
    let circles = Crate::read(&folder.path().join("lib.rs")).expect("reads").circles();
    let [circle] = &circles[..] else { panic!("{} circles", circles.len()) };
    let names: Vec<String> = circle
        .keys()
        .map(|path| {
            path.strip_prefix(folder.path()).expect("inside").display().to_string().replace('\\', "/")
        })
        .collect();
    assert_eq!(names, ["a.rs", "b.rs", "c/inner.rs", "d.rs"], "{}", describe(circle));
}
