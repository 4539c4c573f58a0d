//! The outputs published with DeepSeekMath-V2, a folder of `.jsonl` files of `{question, problem_idx, model_prediction: {proof,
//! average_automatic_rating, human_rating}}`, and what becomes of them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use porism_prover::confidence::Calibration;
use serde_json::Value;

/// One published proof.
pub struct Published {
    pub source: String,
    pub problem_idx: String,
    pub question: String,
    pub proof: String,
    pub automatic: f64,
    pub human: f64,
}

/// All proofs of a folder, by file and line.
pub fn read(folder: &Path) -> Result<Vec<Published>, Box<dyn Error>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut proofs = Vec::new();
    for file in &files {
        let source = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for line in std::fs::read_to_string(file)?.lines() {
            let value: Value = serde_json::from_str(line)?;
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let prediction = &value["model_prediction"];
            let number = |name: &str| prediction[name].as_f64().ok_or(format!("a line has no {name}"));
            proofs.push(Published {
                source: source.clone(),
                problem_idx: text("problem_idx"),
                question: text("question"),
                proof: prediction["proof"].as_str().ok_or("a line has no proof")?.to_owned(),
                automatic: number("average_automatic_rating")?,
                human: number("human_rating")?,
            });
        }
    }
    Ok(proofs)
}

/// Formulas of some texts.
#[derive(Default)]
pub struct Formulas {
    /// Found.
    pub found: usize,
    /// In the page, as mathematics or as code.
    pub shown: usize,
    /// Shown as code: problem and source.
    pub rejected: Vec<(String, String)>,
    /// Time to render.
    pub spent: Duration,
}

impl Formulas {
    pub fn add(&mut self, problem_idx: &str, text: &str) {
        let start = Instant::now();
        let rendered = porism_render::render(text);
        self.spent += start.elapsed();
        self.found += rendered.formulas;
        let html = &rendered.html;
        // A tag with commands in it is a formula of its own in the page.
        self.shown += html.matches("<math").count() + html.matches("<code class=\"tex").count()
            - html.matches("<span class=\"tag\"><math").count();
        self.rejected.extend(rendered.rejected.into_iter().map(|source| (problem_idx.to_owned(), source)));
    }

    /// Not rendered, of all.
    pub fn share_rejected(&self) -> f64 {
        self.rejected.len() as f64 / self.found.max(1) as f64
    }
}

/// What an automatic mean of 1 was worth among them.
pub fn calibration(proofs: &[Published]) -> Calibration {
    let mut calibration = Calibration::default();
    for proof in proofs {
        calibration.proofs += 1;
        if proof.automatic >= 1.0 {
            calibration.automatic_full += 1;
            calibration.not_full += u64::from(proof.human < full_marks(&proof.problem_idx));
            calibration.zero += u64::from(proof.human <= 0.0);
        }
    }
    calibration
}

/// The most that people could give to a proof, by the start of its `problem_idx`: 21 in CMO, 10 in the Putnam, 7 elsewhere.
fn full_marks(problem_idx: &str) -> f64 {
    match problem_idx {
        idx if idx.starts_with("CMO") => 21.0,
        idx if idx.starts_with("Putnam") => 10.0,
        _ => 7.0,
    }
}
