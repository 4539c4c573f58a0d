//! Lines of the pool, ours and published ones.

use porism_prover::pool::{Judgement, Proof, Reading, SelfEvaluation, State, sum};
use porism_prover::recompute::Recomputed;

#[test]
fn a_line_says_what_it_was_made_of() {
    let reading = |number, score, weight| Reading {
        text: format!("reading {number}"),
        judgements: vec![Judgement { text: "so".to_owned(), score: weight }],
        score,
        number,
        weight,
    };
    let readings = vec![reading(0, 1.0, 1.0), reading(2, 0.0, 0.5), reading(3, 1.0, 1.0)];
    let proof = Proof {
        proof_id: 7,
        round_idx: 2,
        index: 1,
        dep_proof_ids: vec![3],
        again: Some(2),
        proof: "Clear.".to_owned(),
        self_eval: SelfEvaluation { text: "Good.".to_owned(), score: Some(0.5) },
        meanscore: sum(&readings).mean,
        readings,
        unreadable: 1,
        state: State::Refuted,
        recomputed: Some(Recomputed { why: Some("no".to_owned()), ..Recomputed::default() }),
        tokens: 9,
    };
    let line = serde_json::to_string(&proof).unwrap();
    assert!(
        line.starts_with(
            r#"{"proof":"Clear.","meanscore":0.8,"score2ratings":{"1.0":[{"rating":"reading 0","#
        )
    );
    assert_eq!(serde_json::from_str::<Proof>(&line).unwrap(), proof);
}

#[test]
fn a_published_line_is_read() {
    let line = r#"{"proof": "Clear.", "meanscore": 0.25, "proof_id": 1, "dep_proof_ids": [-1, 3], "round_idx": 1,
        "score2ratings": {"0.0": [{"rating": "No."}], "0.5": [{"rating": "Hm.", "score": 0.5}]},
        "self_eval": {"self_eval": "null", "self_eval_score": 0}}"#;
    let proof: Proof = serde_json::from_str(line).unwrap();
    let scores: Vec<_> = proof.readings.iter().map(|reading| (reading.score, reading.weight)).collect();
    assert_eq!((scores, proof.dep_proof_ids), (vec![(0.0, 1.0), (0.5, 1.0)], vec![3]));
    assert_eq!((proof.state, proof.self_eval.score), (State::Reading, Some(0.0)));
    assert!(serde_json::from_str::<Proof>(r#"{"proof": 1}"#).is_err());
}
