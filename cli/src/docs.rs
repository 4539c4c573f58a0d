//! docs/cli.md from the command line's own tree.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::failure::EXIT_CODES;

const INTRODUCTION: &str = "\
# The command line

This page is generated from the program's own help: `PORISM_WRITE_DOCS=1 cargo test -p porism docs` writes it anew.

stdout is the model's text or JSON, stderr is everything else. `--json` prints JSON: one object, or for `run` one object per
line. Fields are only added within a `schema` number. `NO_COLOR` and `CLICOLOR_FORCE` are followed, `RUST_LOG` chooses what
is logged, and models are found in the Hugging Face cache through `HF_HUB_CACHE` and `HF_HOME`. Nothing is downloaded.
";

fn markdown() -> String {
    let mut page = format!("{INTRODUCTION}\n```text\n{EXIT_CODES}\n```\n");
    // Wide enough that no line breaks differently with the terminal of whoever generates it.
    let mut command = Cli::command().term_width(110);
    command.build();
    let verbs: Vec<String> = command
        .get_subcommands()
        .filter(|verb| verb.get_name() != "help" && !verb.is_hide_set())
        .map(|verb| verb.get_name().to_owned())
        .collect();
    section(&mut page, "porism", &command.render_help().to_string());
    for name in verbs {
        let verb = command.find_subcommand_mut(&name).expect("it was just listed");
        let help = verb.render_long_help().to_string();
        section(&mut page, &format!("porism {name}"), &help);
    }
    page
}

fn section(page: &mut String, title: &str, help: &str) {
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    writeln!(page, "\n## {title}\n\n```text\n{}\n```", lines.join("\n").trim_end())
        .expect("a String takes everything");
}

#[test]
fn docs_cli_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let wanted = markdown();
    if std::env::var_os("PORISM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/cli.md is stale; `PORISM_WRITE_DOCS=1 cargo test -p porism docs` writes it anew"
    );
}
