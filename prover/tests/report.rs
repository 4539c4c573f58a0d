//! The page of a run: what it says, and that hostile text in it stays text.

use std::fs;

use porism_prover::pool::{self, End, Judgement, Outcome, Prediction, Proof, Reading, SelfEvaluation};
use porism_prover::report::{self, ProblemReport, Report, ReportError};
use porism_prover::settings::Settings;
use porism_prover::store::{Manifest, Model, Prompts, StoreError};
use serde_json::json;

#[path = "../../render/tests/common/inert.rs"]
mod inert;
use inert::{HOSTILE, assert_inert};

fn reading(number: usize, score: f64, text: &str) -> Reading {
    let judgements = vec![Judgement { text: text.to_owned(), score: 1.0 }];
    Reading { text: text.to_owned(), judgements, score, number: number as u32, weight: 1.0 }
}

fn proof(proof_id: u32, round_idx: u32, from: &[u32], scores: &[f64], text: &str) -> Proof {
    let readings: Vec<_> =
        scores.iter().enumerate().map(|(number, score)| reading(number, *score, text)).collect();
    Proof {
        proof_id,
        round_idx,
        dep_proof_ids: from.to_vec(),
        proof: text.to_owned(),
        self_eval: SelfEvaluation { text: text.to_owned(), score: Some(1.0) },
        meanscore: pool::sum(&readings).mean,
        readings,
        ..Proof::default()
    }
}

fn report(text: &str) -> Report {
    let pool = vec![
        proof(1, 1, &[], &[0.0, 0.5], text),
        proof(2, 1, &[], &[], text),
        proof(3, 2, &[1], &[0.5, 1.0], text),
        proof(4, 3, &[3, 2], &[1.0; 8], text),
    ];
    let outcome = Outcome {
        source: text.to_owned(),
        problem_idx: text.to_owned(),
        question: text.to_owned(),
        model_prediction: Some(Prediction::default()),
        proof_id: Some(4),
        passed: true,
        end: Some(End::Passed),
        ..Outcome::default()
    };
    Report {
        title: text.to_owned(),
        problems: vec![ProblemReport { outcome, pool }],
        settings: vec![(text.to_owned(), text.to_owned())],
        rerun: text.to_owned(),
        contest: true,
        notes: vec![text.to_owned()],
        ..Report::default()
    }
}

#[test]
fn readings_of_the_same_text_in_other_rounds_are_told_and_count() {
    let mut report = report("x");
    let problem = &mut report.problems[0];
    for (proof, text) in problem.pool.iter_mut().zip(["a", "b", "c", "c"]) {
        proof.proof = text.to_owned();
    }
    problem.pool[3].again = Some(3);
    let words = "Passed 8 of 8 readings in round 3, 1 of 2 in round 2, as proof 3. All together: Passed 9 of 10 readings";
    let html = report.html().html;
    assert!(html.contains("60\u{a0}% to 98\u{a0}%"), "{html}");
    assert!(html.contains(words) && html.contains("passed 8 of 8 readings, 9 of 10 in all rounds"), "{html}");
    assert!(html.contains("the text of proof 3 again"), "{html}");
}

#[test]
fn hostile_text_stays_text() {
    for text in HOSTILE {
        assert_inert(&report(text).html().html, text);
    }
}

#[test]
fn a_line_of_ten_megabytes_stays_text() {
    let unit = "<script>alert(1)</script> [x](javascript:alert(1)) 2*3 = 6, ";
    let count = (10 << 20) / unit.len();
    let mut report = report("short");
    report.problems[0].pool[3].proof = unit.repeat(count);
    let html = report.html().html;
    assert_inert(&html, "ten megabytes");
    for whole in ["&lt;script&gt;alert(1)&lt;/script&gt;", "[x](javascript:alert(1))", "2*3 = 6,"] {
        assert_eq!(html.matches(whole).count(), count, "{whole}");
    }
}

#[test]
fn the_page_has_no_script_and_points_nowhere() {
    let html = report("Let \\(x<1\\).").html().html;
    assert_inert(&html, "a report");
    for absent in ["<script", "http://", "https://", "@import", "javascript:"] {
        assert!(!html.contains(absent), "{absent} is in the page");
    }
    // The font is in the page itself.
    assert_eq!(html.matches("url(").count(), 1);
    assert!(html.contains("url(data:font/woff2;base64,d09GMg"), "no WOFF2 file is in the page");
    assert!(html.contains("default-src 'none'") && html.contains("font-src data:"));
}

#[test]
fn only_pages_with_formulas_carry_the_font() {
    let html = report("Prove that 1 = 1.").html().html;
    assert!(!html.contains("@font-face") && html.len() < 30_000, "{} bytes", html.len());
}

#[test]
fn the_page_tells_everything() {
    let page = report("Let \\(x=1\\).").html();
    let html = &page.html;
    // Heading, statement, four proofs (the chosen one once), 12 evaluations with their meta-verifications, self evaluations
    // of 4.
    assert_eq!((page.formulas, page.not_rendered), (2 + 4 + 2 * 12 + 4, 0));
    assert!(html.contains("<title>Let x=1. — Porism</title>"), "{}", &html[..400]);
    assert_eq!(html.matches("<math").count(), page.formulas);
    for part in [
        "passed 8 of 8 readings",
        "Passed 8 of 8 readings by the same verifier",
        "7 of those did not get full marks",
        "Proof 4 · round 3 · mean 1.00 · 8 of 8 readings · own score 1 · from proof 3, 2",
        "How to run it again",
        "Where the chosen proof came from",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    // 4 dots, the ring; lines 1→3, 3→4, 2→4 and the three of the grid.
    assert_eq!((html.matches("<circle").count(), html.matches("<line").count()), (5, 6));
    assert!(!html.contains("proved"), "the page claims too much");
}

#[test]
fn an_unfinished_search_is_called_so() {
    let mut report = report("x");
    report.problems[0].outcome.passed = false;
    report.problems[0].outcome.end = Some(End::Time);
    let html = report.html().html;
    assert!(html.contains("unfinished: no proof passed yet; the best has 8 of 8 readings"), "{html}");
    assert!(html.contains("Unfinished: its time is over; the same command goes on with it."), "{html}");
    report.problems[0].pool.clear();
    assert!(report.html().html.contains("unfinished: no proof yet"));
}

#[test]
fn a_problem_without_proofs_has_a_page() {
    let empty = Report { problems: vec![ProblemReport::default()], ..Report::default() };
    let html = empty.html().html;
    assert_inert(&html, "an empty report");
    assert!(html.contains("No proof was written"));
    assert!(Report::default().html().html.contains("</html>"));
}

#[test]
fn wild_numbers_do_not_panic() {
    let mut report = report("x");
    let pool = &mut report.problems[0].pool;
    pool[0].round_idx = u32::MAX;
    pool[0].meanscore = Some(f64::NAN);
    pool[1].round_idx = 0;
    pool[3].dep_proof_ids = vec![4, 77, u32::MAX];
    pool[3].again = Some(4);
    pool[3].readings[0].score = f64::INFINITY;
    report.seconds = f64::NAN;
    assert_inert(&report.html().html, "wild numbers");
}

#[test]
fn a_folder_becomes_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(matches!(report::write(path), Err(ReportError::NotARun { .. })));
    let model = Model {
        name: "a model's".to_owned(),
        fingerprint: "0".to_owned(),
        revision: None,
        endpoints: Vec::new(),
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        seed: 7,
        problems: String::new(),
        generator: model.clone(),
        verifier: model,
        prompts: Prompts { source: "built-in".to_owned(), fingerprint: "1".to_owned() },
        settings: Settings { rounds: 2, proofs: 3, ..Settings::default() },
        domain: None,
    };
    fs::write(path.join("run.toml"), toml::to_string(&manifest).unwrap()).unwrap();
    fs::write(path.join("problem.md"), "Show \\(1<2\\).").unwrap();
    fs::create_dir_all(path.join("pool/set")).unwrap();
    // The first line has the published fields only.
    let published = json!({
        "proof": "Clear.", "meanscore": 0.5, "proof_id": 1, "dep_proof_ids": [-1], "round_idx": 1,
        "score2ratings": {"0.5": [{"rating": "Hm.", "score": 0.5}]},
        "self_eval": {"self_eval": "null", "self_eval_score": 0},
    });
    let ours = json!({
        "proof": "By \\(2-1>0\\).", "meanscore": 1.0, "proof_id": 2, "dep_proof_ids": [1], "round_idx": 2, "state": "passed",
        "score2ratings": {"1": [{"rating": "Right.", "score": 1, "reading": 0, "weight": 1, "quality": []}]},
        "self_eval": {"self_eval": "Good.", "self_eval_score": 1}, "unreadable": 1, "tokens": 12,
    });
    fs::write(path.join("pool/set/p1.jsonl"), format!("{published}\n{ours}\n{{\"proof\": \"torn")).unwrap();
    let key = json!({"problem": 0, "round": 0, "proof": 0, "role": "generate", "reading": 0});
    let completion = json!({"event": "completion", "key": key, "request": "", "seed": 1, "completion": {
        "thinking": "", "answer": "", "finish": "stop", "tokens": 5, "prompt_tokens": 3, "seconds": 0.5,
    }});
    let failed = json!({"event": "completion", "key": key, "request": "", "seed": 1, "error": "timeout"});
    let end = json!({"event": "end", "unix_seconds": 1, "seconds": 61.0});
    fs::write(path.join("events.jsonl"), format!("{completion}\n{failed}\n{completion}\n{end}\n")).unwrap();

    let unfinished = Report::from_folder(path).unwrap();
    assert_eq!(unfinished.problems[0].outcome.question, "Show \\(1<2\\).");
    let outcome = &unfinished.problems[0].outcome;
    assert_eq!((outcome.proof_id, outcome.passed), (Some(2), false));
    assert!(unfinished.problems[0].unfinished().unwrap().contains("has not ended"));

    let prediction = json!({
        "question": "Show \\(1<2\\).", "problem_idx": "p1", "source": "set", "passed": true, "proof_id": 2,
        "model_prediction": {"proof": "By \\(2-1>0\\).", "average_automatic_rating": 1.0},
    });
    fs::write(path.join("predictions.jsonl"), format!("{prediction}\n")).unwrap();
    let report = Report::from_folder(path).unwrap();
    assert_eq!(report.problems.len(), 1);
    let problem = &report.problems[0];
    let Outcome { proof_id, passed, .. } = problem.outcome;
    assert_eq!((problem.pool.len(), proof_id, passed), (2, Some(2), true));
    assert_eq!((report.spent.completions, report.spent.failed, report.spent.tokens), (3, 1, 10));
    assert_eq!(report.seconds, 61.0);
    assert_eq!(
        report.rerun,
        "porism prove problem.md --model 'a model'\\''s' --seed 7 --rounds 2 --proofs 3 --verifications 8 --out again"
    );
    let written = fs::read_to_string(report::write(path).unwrap()).unwrap();
    assert_eq!(written, report.html().html);
    assert!(
        written.contains("Passed 1 of 1 reading by")
            && written.contains("1 min 1 s")
            && written.contains("1 more gave no score")
    );

    fs::write(path.join("predictions.jsonl"), "{\n").unwrap();
    match Report::from_folder(path) {
        Err(ReportError::Store(StoreError::Damaged { line: 1, .. })) => {}
        other => panic!("a damaged file gave {other:?}"),
    }
}
