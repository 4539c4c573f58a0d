//! Renders all proofs in a folder of published outputs, counts what could not be rendered, and counts the confidence figures
//! of the same proofs: `cargo run -p porism-prover --example render_proofs -- DIR [PROBLEM REPORT.html]`. With a problem's
//! name, such as `IMO2025-1`, the report of its proof is written.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::path::Path;

use porism_prover::confidence::Calibration;
use porism_prover::pool::{Outcome, Prediction, Proof};
use porism_prover::report::{ProblemReport, Report};

#[path = "../tests/common/published.rs"]
mod published;
use published::{Formulas, Published};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give the folder of the .jsonl files")?;
    let proofs = published::read(Path::new(&folder))?;
    let (mut written, mut statements) = (Formulas::default(), Formulas::default());
    for proof in &proofs {
        written.add(&proof.problem_idx, &proof.proof);
        statements.add(&proof.problem_idx, &proof.question);
    }
    let bytes: usize = proofs.iter().map(|proof| proof.proof.len()).sum();
    println!("{} proofs, {bytes} bytes, rendered in {:.2} s", proofs.len(), written.spent.as_secs_f64());
    for (what, formulas) in [("proofs", &written), ("statements", &statements)] {
        println!(
            "{} formulas in the {what}: {} not rendered ({:.3} %), {} dropped",
            formulas.found,
            formulas.rejected.len(),
            100.0 * formulas.share_rejected(),
            formulas.found - formulas.shown
        );
        for (problem, source) in &formulas.rejected {
            println!("  {problem}: {source}");
        }
    }
    let counted = published::calibration(&proofs);
    println!("counted:  {counted:?}");
    println!("built in: {:?}", Calibration::PUBLISHED);
    println!("{}", counted.statement());
    if let Some(name) = arguments.next() {
        let path = arguments.next().ok_or("give the file to write as well")?;
        let proof = proofs.iter().find(|proof| proof.problem_idx == name).ok_or("no such problem")?;
        std::fs::write(&path, report(proof).html().html)?;
        println!("{path}");
    }
    Ok(())
}

/// A run with this one proof, of which the readings are not published.
fn report(proof: &Published) -> Report {
    let pooled = Proof {
        proof_id: 1,
        round_idx: 1,
        proof: proof.proof.clone(),
        meanscore: Some(proof.automatic),
        ..Proof::default()
    };
    let outcome = Outcome {
        source: proof.source.clone(),
        problem_idx: proof.problem_idx.clone(),
        question: proof.question.clone(),
        model_prediction: Some(Prediction::default()),
        proof_id: Some(1),
        ..Outcome::default()
    };
    let problem = ProblemReport { outcome, pool: vec![pooled] };
    Report { title: proof.problem_idx.clone(), problems: vec![problem], contest: true, ..Report::default() }
}
