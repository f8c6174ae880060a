#!/usr/bin/env bash
# Finds, or fetches, a Rust compiler that can make 32-bit programs.
#
# The Guests are i686 programs. With rustup's target for that, nothing else is
# needed. But the images in the tree must be the same, byte for byte, on every
# machine, so there is one reference: Debian 12's rustc-web and lld-19, pinned
# below by version and by hash. Debian has them for amd64, and the i386 half of
# the standard library cannot be installed beside it. So nothing is installed.
# Everything is unpacked below target/, apt's lists are there, too, and the
# system is not changed. No root is needed.
#
# Prints the path of the rustc to use. In this order:
#   1. $LGUEST_I686_RUSTC, if set: it is taken as it is;
#   2. the reference compiler, unpacked before or fetched now;
#   3. the installed toolchain, if it has the target already (good images, but
#      perhaps not the same bytes).
# Exit 3 if there is none, with the reason on standard error.
#
# `lguest new` has this script in it, and sets LGUEST_TOOLCHAIN to the folder that
# the reference compiler is unpacked to.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")" && pwd)
top=$(dirname "$here")
home=${LGUEST_TOOLCHAIN:-$top/target/guest-toolchain}
target=i686-unknown-linux-gnu

rust=1.85.0+dfsg3-1~deb12u3
llvm=1:19.1.7-3~deb12u1
# The packages that are fetched, and the hashes that they must have.
packages="
rustc-web:amd64=$rust ef797a56697a0b6a82c1d704119ccaa85ab3486ccf805472de46c31971346702
libstd-rust-web-1.85:amd64=$rust c8b03bff73b2990b2a3e56b0cfb100eb4c70a9331f4232dc9783c9e50b1038be
libstd-rust-web-dev:amd64=$rust 5360a1aa03979ccc4cc91dd3d9bad1d5ff30f36d615ed01e2c5209c5e8ece21b
libstd-rust-web-dev:i386=$rust 70dcaaafcb38d1374c2900b0671c7ebcd7eda88135a373308f522f970aeb9e1f
rust-web-clippy:amd64=$rust 94fd3e8bd81e490ea340088ba7c81784fc7a24beecd143f4c511d943be62cbf8
libllvm19:amd64=$llvm 6edf3a8b28495cdba883d9760e0dca1a81983fc497a5f989dc64d0d96d23b4aa
lld-19:amd64=$llvm 416e084363a16a7060eaa6343ed641dfe864b8208c39170ee00a5679e4b486a2
liblld-19:amd64=$llvm d7ec22abb56dc7d1ac7b92bea2f119a8a3ea2072fa63884baf4a157c952246a1
"
# Libraries that the compiler is linked with and a small machine may lack. They
# do not change the compiled images, so any version is right.
libraries="libedit2 libz3-4 libxml2 libicu72 libbsd0 libmd0 libffi8"

say() { echo "toolchain: $*" >&2; }

works() { "$1" --print target-libdir --target "$target" >/dev/null 2>&1 &&
    [ -n "$(ls "$("$1" --print target-libdir --target "$target")"/libcore-*.rlib 2>/dev/null)" ]; }

# apt with everything it writes kept in "$work".
private_apt() {
    apt-get -q -o Dir::State="$work/state" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 \
        -o APT::Architectures::=i386 -o Acquire::Languages=none \
        -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}

# A program below "$1" that finds its libraries there.
wrapper() {
    mkdir -p "$1/bin"
    printf '%s\n' '#!/bin/sh' \
        '# Written by guests/toolchain.sh.' \
        'd=$(dirname "$(dirname "$(readlink -f "$0")")")' \
        'LD_LIBRARY_PATH=$d/root/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}' \
        'export LD_LIBRARY_PATH' \
        "exec \"\$d/root/usr/$3\" \"\$@\"" >"$1/bin/$2"
    chmod +x "$1/bin/$2"
}

fetch_reference() {
    local tool name hash file missing
    for tool in apt-get dpkg-deb sha256sum; do
        command -v "$tool" >/dev/null || { say "no $tool here"; return 1; }
    done
    [ "$(uname -m)" = x86_64 ] || { say "not an x86-64 machine"; return 1; }
    mkdir -p "$(dirname "$home")"
    work=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,debs,root}
    say "fetching the reference compiler (130 MB) into $(dirname "$home")"
    # A mirror in the middle of an update fails in part; that does not matter
    # if the packages are there.
    private_apt update >"$work/log" 2>&1 || true
    # shellcheck disable=SC2046
    if ! (cd "$work/debs" &&
        private_apt download $(awk 'NF { print $1 }' <<<"$packages")) \
        >>"$work/log" 2>&1; then
        grep '^E:' "$work/log" >&2 || true
        say "the packages of Debian 12 cannot be had"
        return 1
    fi
    while read -r name hash; do
        [ -n "$name" ] || continue
        file=$(sha256sum "$work"/debs/*.deb | awk -v h="$hash" '$1 == h { print $2 }')
        [ -n "$file" ] || { say "$name is not what it was"; return 1; }
        dpkg-deb -x "$file" "$work/root"
    done <<<"$packages"
    wrapper "$work" rustc bin/rustc
    wrapper "$work" rustdoc bin/rustdoc
    wrapper "$work" clippy-driver bin/clippy-driver
    wrapper "$work" lld lib/llvm-19/bin/lld
    if ! "$work/bin/rustc" --version >/dev/null 2>&1; then
        # shellcheck disable=SC2086
        (cd "$work/debs" && rm -f ./*.deb && private_apt download $libraries) \
            >>"$work/log" 2>&1 || true
        for file in "$work"/debs/*.deb; do
            [ -e "$file" ] && dpkg-deb -x "$file" "$work/root"
        done
    fi
    works "$work/bin/rustc" || { say "the reference compiler does not run"; return 1; }
    rm -rf "$home" "$work/state" "$work/cache" "$work/debs"
    mv "$work" "$home"
}

if [ -n "${LGUEST_I686_RUSTC:-}" ]; then
    works "$LGUEST_I686_RUSTC" || { say "LGUEST_I686_RUSTC has no $target"; exit 3; }
    echo "$LGUEST_I686_RUSTC"
elif works "$home/bin/rustc" || fetch_reference; then
    echo "$home/bin/rustc"
elif command -v rustc >/dev/null && works rustc; then
    say "using the installed compiler: the bytes may differ from the kept ones"
    command -v rustc
else
    say "no Rust compiler for $target: set LGUEST_I686_RUSTC, or let apt reach"
    say "Debian 12's packages, or run: rustup target add $target"
    exit 3
fi
