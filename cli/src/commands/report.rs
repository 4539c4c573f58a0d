//! `porism report`: a run's folder as one HTML page.

use anyhow::Result;
use porism_prover::report::ReportError;
use porism_prover::store::StoreError;

use crate::args::Report;
use crate::failure::Failure;
use crate::ui::Ui;

pub fn run(args: &Report, ui: &Ui) -> Result<u8> {
    let path = porism_prover::report::write(&args.run).map_err(|error| {
        let hint = match &error {
            ReportError::NotARun { .. } => {
                "`porism prove` makes such a folder and says where it is, mostly in `runs`"
            }
            ReportError::Store(StoreError::File { .. }) => {
                "check the path, and that files can be written there"
            }
            ReportError::Malformed { .. } | ReportError::Store(_) => {
                "write the line as it was; the same `porism prove` mends what can be made again"
            }
        };
        Failure::usage(error.to_string()).hint(hint)
    })?;
    ui.line(&path.display().to_string())?;
    Ok(0)
}
