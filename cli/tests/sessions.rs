//! Terminal sessions: each tests/cli/*.trycmd holds commands, their exit codes and all they print.
//!
//! They see no adapter and no model cache, so that they read the same on every machine. `TRYCMD=overwrite cargo test -p
//! porism --test sessions` writes down what the program prints now; look at the difference before it is committed.

use std::path::Path;

#[test]
fn sessions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(root).expect("the repository is there");
    trycmd::TestCases::new()
        .env("WGPU_BACKEND", "none")
        .env("HF_HUB_CACHE", "/no/cache")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .env("PORISM_DEVICE", "host")
        .register_bin("porism", Path::new(env!("CARGO_BIN_EXE_porism")))
        .case("tests/cli/*.trycmd");
}
