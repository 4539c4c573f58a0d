//! Terminal sessions: each tests/cli/*.trycmd holds commands, their exit codes and all they print.
//!
//! They see no adapter and no model cache, so that they read the same on every machine. `TRYCMD=overwrite cargo test -p
//! porism --test sessions` writes down what the program prints now; look at the difference before it is committed. With
//! `PORISM_WRITE_DOCS=1` it also writes the answers of the embedded model in docs/prover.md, which are no test: they change
//! whenever it is trained anew.

use std::path::Path;

#[test]
fn sessions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(root).expect("the repository is there");
    // Runs of earlier tests would be gone on with.
    for run in ["runs/session-prove", "runs/session-false", "runs/session-docs", "runs/session-doubt"] {
        let _ = std::fs::remove_dir_all(run);
    }
    let cases = trycmd::TestCases::new();
    cases
        .env("WGPU_BACKEND", "none")
        .env("HF_HUB_CACHE", "/no/cache")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .env("PORISM_DEVICE", "host")
        .register_bin("porism", Path::new(env!("CARGO_BIN_EXE_porism")))
        .case("tests/cli/*.trycmd");
    if std::env::var_os("PORISM_WRITE_DOCS").is_some() {
        cases.case("docs/prover.md");
    }
}
