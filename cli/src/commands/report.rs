//! `porism report`: a run's folder as one HTML page.

use anyhow::Result;

use crate::args::Report;
use crate::failure::Failure;
use crate::ui::Ui;

pub fn run(args: &Report, ui: &Ui) -> Result<u8> {
    let path = porism_prover::report::write(&args.run).map_err(|error| Failure::usage(error.to_string()))?;
    ui.line(&path.display().to_string())?;
    Ok(0)
}
