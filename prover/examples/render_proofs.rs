//! Renders all proofs in a folder of published outputs and counts what could not be rendered:
//! `cargo run -p porism-prover --example render_proofs -- DIR`, with DIR holding `.jsonl` files of
//! `{question, problem_idx, model_prediction: {proof, average_automatic_rating, human_rating}}`.
//! Counts the confidence figures of the same proofs as well.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use porism_prover::confidence::{Calibration, full_human_marks};
use porism_prover::markdown;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder of the .jsonl files")?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();

    let (mut proofs, mut bytes, mut formulas, mut shown, mut rejected) = (0u64, 0, 0, 0, Vec::new());
    let (mut statements, mut rejected_in_statements) = (0, Vec::new());
    let mut calibration = Calibration::default();
    let mut spent = Duration::ZERO;
    for file in &files {
        for line in std::fs::read_to_string(file)?.lines() {
            let value: Value = serde_json::from_str(line)?;
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let prediction = &value["model_prediction"];
            let proof = prediction["proof"].as_str().ok_or("a line has no proof")?;
            let start = Instant::now();
            let rendered = markdown::render(proof);
            spent += start.elapsed();
            proofs += 1;
            bytes += proof.len();
            formulas += rendered.formulas;
            shown +=
                rendered.html.matches("<math").count() + rendered.html.matches("<code class=\"tex").count();
            // A tag with commands in it is a formula of its own in the page.
            shown -= rendered.html.matches("<span class=\"tag\"><math").count();
            rejected.extend(rendered.rejected.into_iter().map(|source| (text("problem_idx"), source)));
            let question = markdown::render(&text("question"));
            statements += question.formulas;
            rejected_in_statements
                .extend(question.rejected.into_iter().map(|source| (text("problem_idx"), source)));
            calibration.add(
                prediction["average_automatic_rating"]
                    .as_f64()
                    .ok_or("a line has no average_automatic_rating")?,
                prediction["human_rating"].as_f64().ok_or("a line has no human_rating")?,
                full_human_marks(&text("problem_idx")),
            );
        }
    }
    println!("{proofs} proofs, {bytes} bytes, rendered in {:.2} s", spent.as_secs_f64());
    let share = 100.0 * rejected.len() as f64 / formulas.max(1) as f64;
    println!(
        "{formulas} formulas: {} not rendered ({share:.3} %), {} dropped",
        rejected.len(),
        formulas - shown
    );
    println!("{statements} formulas in the statements: {} not rendered", rejected_in_statements.len());
    for (problem, source) in rejected.iter().chain(&rejected_in_statements) {
        println!("  {problem}: {source}");
    }
    println!("{calibration:?}");
    println!("{}", calibration.statement());
    Ok(())
}
