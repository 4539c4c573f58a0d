//! The proofs published with DeepSeekMath-V2, where they are: `PORISM_PROOFS=DIR cargo test -p porism-prover --test published`
//! with DIR the folder `outputs` of its repository. They are no part of this one, so without the variable nothing is tested.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use porism_prover::confidence::Calibration;

#[path = "../../render/tests/common/font.rs"]
mod font;
#[path = "common/published.rs"]
mod published;
use published::Formulas;

#[test]
fn published_proofs_are_rendered_and_counted() {
    let Some(folder) = std::env::var_os("PORISM_PROOFS") else { return };
    let proofs = published::read(Path::new(&folder)).expect("PORISM_PROOFS is a folder of published outputs");
    let sources: HashSet<&str> = proofs.iter().map(|proof| proof.source.as_str()).collect();
    assert_eq!((proofs.len(), sources.len()), (84, 5));
    let mut formulas = Formulas::default();
    let mut missing = BTreeSet::new();
    for proof in &proofs {
        missing.extend(font::missing(&porism_render::render(&proof.proof).html));
        formulas.add(&proof.problem_idx, &proof.proof);
        formulas.add(&proof.problem_idx, &proof.question);
    }
    assert_eq!(missing, BTreeSet::new(), "the font lacks characters");
    assert!(formulas.found > 13_000, "{} formulas", formulas.found);
    assert_eq!(formulas.found, formulas.shown, "formulas were dropped");
    assert!(formulas.share_rejected() <= 0.001, "not rendered: {:#?}", formulas.rejected);
    assert_eq!(published::calibration(&proofs), Calibration::PUBLISHED);
}
