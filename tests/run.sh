#!/usr/bin/env bash
# Everything that must pass: set-up, format, clippy, docs, build, and all tests on the host and on every adapter.
# On a fresh Debian machine with Rust this is the only command needed; it installs the software adapters itself.
#
#     tests/run.sh
#
# It ends with the seconds of each phase and the number of tests.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || {
    echo "run.sh: no cargo: install Rust 1.95 or later from https://rustup.rs" >&2
    exit 1
}
# The output is for a log.
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-never}

phases=()
phase() {
    local title=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@" || {
        echo "run.sh: '$title' failed after $((SECONDS - start)) s" >&2
        exit 1
    }
    phases+=("$(printf '%5d s  %s' $((SECONDS - start)) "$title")")
}

set_up() {
    local environment
    environment=$(tests/setup.sh) || return
    eval "$environment"
}

check_format() {
    cargo fmt --all --check || return
    # A workspace of its own, which cargo fmt does not see from here.
    find fuzz -name '*.rs' -not -path '*/target/*' -exec rustfmt --edition 2024 --check {} +
}

lint() { cargo clippy --locked --workspace --all-targets -- -D warnings; }

document() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps; }

if cargo nextest --version >/dev/null 2>&1; then
    build() { cargo nextest run --locked --workspace --no-run; }
    # nextest leaves out the examples in comments, among them calls of kernels that must not compile.
    run_tests() {
        cargo nextest run --locked --workspace --profile ci && cargo test --quiet --locked --workspace --doc
    }
else
    build() { cargo test --locked --workspace --no-run; }
    run_tests() { cargo test --locked --workspace --no-fail-fast; }
fi

# What the kernel tests will run on, read from their own list of `kernel::adapter`.
count_adapters() {
    local names wanted=1
    names=$(cargo test --quiet --locked --workspace --test kernels -- --list | sed -n 's/^.*::\(.*\): test$/\1/p' | sort -u)
    printf '%s\n' "$names"
    # On Debian the set-up has installed two.
    [ -r /etc/os-release ] && [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] && wanted=2
    if [ "$(grep -c . <<<"$names")" -lt "$wanted" ]; then
        echo "run.sh: $wanted adapters are wanted; VK_DRIVER_FILES is ${VK_DRIVER_FILES:-not set}" >&2
        return 1
    fi
}

# The main job as the README has it, only without the release build.
prove() {
    local folder
    folder=$(mktemp -d) || return
    cargo run --locked -- prove "Prove that gcd(84, 30) = 6." --out "$folder/run" --quiet
    local code=$?
    rm -rf "$folder"
    return $code
}

# Fetched once and kept in .cache; without a network its devices are told as skipped.
compile_for_gpus() {
    local target
    target=$(cargo metadata --locked --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
    PORISM_GPU_COMPILERS=$target/debug/porism-gpu-compilers tests/gpu-compilers/run.sh --quick
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
logged_tests() { run_tests 2>&1 | tee "$log"; }

phase 'set-up' set_up
phase 'format' check_format
phase 'clippy' lint
phase 'docs' document
phase 'build' build
phase 'main job' prove
phase 'adapters' count_adapters
phase 'GPU compilers' compile_for_gpus
phase 'tests' logged_tests

printf '\n== passed\n'
printf '%s\n' "${phases[@]}"
# nextest's own summary, or the sum over cargo test's programs.
grep -E '^ *Summary ' "$log" || awk '
    /^test result:/ { passed += $4; failed += $6; ignored += $8; programs += 1 }
    END {
        printf "test result: %s. %d passed; %d failed; %d ignored; in %d programs\n",
            failed ? "FAILED" : "ok", passed, failed, ignored, programs
        exit !passed
    }' "$log"
