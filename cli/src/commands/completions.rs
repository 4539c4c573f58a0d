//! `porism completions`: a script for a shell.

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::{Cli, Completions};
use crate::ui::Ui;

pub fn run(args: &Completions, ui: &Ui) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "porism", &mut script);
    ui.text(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
