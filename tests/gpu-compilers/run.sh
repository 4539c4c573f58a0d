#!/usr/bin/env bash
# Every kernel variant through the shader compilers of real GPUs, without the GPUs:
#
#     tests/gpu-compilers/run.sh [--quick] [--json FILE] [--renew] [--listings FOLDER] [--device NAME]…
#
# RADV, NVK, Honeykrisp and Turnip on stub devices, wgpu on top of them, DXC on naga's HLSL, and Tint. The first run fetches
# them (setup.sh); .cache/gpu-compilers keeps them. Where they cannot be had, their devices are reported as skipped.
#
#   --quick     navi31, Hopper, M1, DXC and Tint only: what tests/run.sh has
#   --json      a row per variant and device, one JSON object per line
#   --renew     writes docs/gpu-kernels.md
#   --listings  writes the instructions and statistics of every pipeline to a folder
#   --device    only this one, e.g. amd:navi31
#
# It fails on a compile error, on spills or scratch memory that exceptions.txt does not have, on an exception that is not
# needed any more, and where a figure is worse by more than 5 % than the table has for the same compiler.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cache=$here/../../.cache/gpu-compilers
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
"$here/setup.sh" "$cache"
# Built here and run where the caller is, so that the paths given are the caller's. tests/run.sh has built it already.
program=${PORISM_GPU_COMPILERS:-}
if [ -z "$program" ]; then
    cargo build --quiet --locked --manifest-path "$here/Cargo.toml"
    target=$(cargo metadata --locked --format-version 1 --no-deps --manifest-path "$here/Cargo.toml" | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
    program=$target/debug/porism-gpu-compilers
fi
exec "$program" --cache "$cache" "$@"
