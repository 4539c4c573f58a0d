//! Writes the report of a run's folder: `cargo run -p porism-prover --example report -- DIR`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::path::Path;

use porism_prover::report;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give the run's folder")?;
    println!("{}", report::write(Path::new(&folder))?.display());
    Ok(())
}
