//! `porism completions` and `porism man`: what a shell and a reader of manuals want to know of the command line.

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::env::Shells;

use crate::args::{Cli, Completions, Man};
use crate::completion::VARIABLE;
use crate::ui::{self, Ui};

/// Prints the lines that make a shell ask the program.
pub fn run(args: &Completions, ui: &Ui) -> Result<u8> {
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).expect("the command line takes no other shell");
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "porism", "porism", "porism", &mut script)?;
    ui.text(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Prints a page of the manual, or writes all into a folder.
pub fn man(args: &Man, ui: &Ui) -> Result<u8> {
    let command = Cli::command().disable_help_subcommand(true);
    let Some(folder) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        ui.text(&String::from_utf8_lossy(&page))?;
        return Ok(0);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    let pages =
        folder.read_dir()?.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "1"));
    ui.line(&format!("{}: {}", folder.display(), ui::plural(pages.count() as u64, "page")))?;
    Ok(0)
}
