#!/usr/bin/env bash
# Builds the Guests, and keeps the images that belong in the tree.
#
#   guests/build.sh            build, and copy the images to guests/built/
#   guests/build.sh --check    build, and fail if guests/built/ is not the same
#   guests/build.sh --lint     clippy, the links in the documentation and its
#                              examples, where the compiler found comes with the
#                              tools for it
#
# The images in guests/built/ are compiled by the reference compiler (see
# toolchain.sh), and come out the same in any folder and for any cargo:
#   - paths in messages are remapped;
#   - cargo tells rustc a hash to tell crates apart (-C metadata), which depends
#     on where the crates lie and goes into symbol names, and so into their
#     order. A wrapper puts name and version of the crate in its place.
# The linker is lld: the reference one, or else that of rustup's toolchains. GNU
# ld could be used only if it supports i386.
#
# Exit 3 if there is no compiler for i686 and none can be fetched: then nothing
# was checked.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
target=i686-unknown-linux-gnu
kept="default questions attacks"

mode=${1:-build}
case $mode in
build | --check | --lint) ;;
*) echo "usage: guests/build.sh [--check | --lint]" >&2 && exit 2 ;;
esac

if ! rustc=$("$here/toolchain.sh"); then
    echo "guests: skipped: no i686 toolchain" >&2
    exit 3
fi

# The linker beside that compiler, or the one beside the installed one.
linker=$(dirname "$rustc")/lld
if [ ! -x "$linker" ]; then
    linker=$(echo "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld)
fi

# `$1` is what cargo believes to be rustc.
mkdir -p "$here/target"
wrapper=$here/target/rustc-wrapper
cat >"$wrapper" <<'WRAPPER'
#!/usr/bin/env bash
# Written by guests/build.sh: rustc, with metadata and paths that depend on
# nothing but the crate's name and version.
rustc=$1
shift
crate=${CARGO_PKG_NAME:-}-${CARGO_PKG_VERSION:-}
for argument; do
    case $argument in
    metadata=*) argument=metadata=$crate ;;
    esac
    set -- "$@" "$argument"
    shift
done
case ${CARGO_MANIFEST_DIR:-} in
'' | "$LGUEST_TOP"/*) ;; # ours: they keep their places in the tree
*) set -- "$@" --remap-path-prefix="$CARGO_MANIFEST_DIR=$crate" ;;
esac
exec "$rustc" "$@"
WRAPPER
chmod +x "$wrapper"

flags=(
    -Clinker="$linker" -Clinker-flavor=ld.lld
    -Clink-arg=-T"$top/crates/lg-guest/link.ld"
    -Clink-arg=--gc-sections -Clink-arg=--build-id=none
    -Clink-arg=-zmax-page-size=4096
    -Cdefault-linker-libraries=no
    -Crelocation-model=static # loaded where the linker script says
    -Cforce-unwind-tables=no
    --remap-path-prefix="$top"=
)
encoded=$(printf '%s\x1f' "${flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${encoded%?}
export RUSTC=$rustc RUSTC_WRAPPER=$wrapper CARGO_TARGET_DIR=$here/target
export LGUEST_TOP=$top
# Never let rustup fetch a toolchain.
export RUSTUP_AUTO_INSTALL=0

cd "$here"
packages=()
for guest in $kept; do packages+=(-p "$guest"); done
if [ "$mode" = --lint ]; then
    driver=$(dirname "$rustc")/clippy-driver
    [ -x "$driver" ] || { echo "guests: no clippy beside $rustc" >&2; exit 3; }
    export CARGO_TARGET_DIR=$here/target/lint RUSTC_WORKSPACE_WRAPPER=$driver
    export CLIPPY_CONF_DIR=$top
    packages+=(-p lg-guest -p faces --locked --release --target "$target")
    packages+=(--all-features)
    cargo check "${packages[@]}"
    (cd "$top" && cargo check --locked --release --target "$target" -p lg-agent)
    (
        # The course, as far as it is compiled without its copy's settings.
        cd "$top/docs/course"
        export CARGO_ENCODED_RUSTFLAGS=$CARGO_ENCODED_RUSTFLAGS$'\x1f-Cpanic=abort\x1f-Dwarnings'
        cargo check --locked --target "$target" --workspace --bins --tests
    )
    unset RUSTC_WORKSPACE_WRAPPER
    export RUSTDOC=${driver%clippy-driver}rustdoc
    cargo doc --no-deps --document-private-items "${packages[@]}"
    # Compiled only: they run in a guest or nowhere.
    export RUSTDOCFLAGS=-Cpanic=abort
    exec cargo test --doc --locked --target "$target" \
        -p lg-guest -p lg-user \
        --features lg-guest/embassy-time,lg-guest/embedded-io \
        --features lg-guest/log,lg-guest/smoltcp
fi
cargo build --locked --release --target "$target" "${packages[@]}"

# The agent is a Linux program of the main workspace, without a C library.
flags=(
    -Clinker="$linker" -Clinker-flavor=ld.lld
    -Clink-arg=--gc-sections -Clink-arg=--build-id=none
    -Clink-arg=--strip-all -Clink-arg=-zmax-page-size=4096
    -Cdefault-linker-libraries=no
    -Ctarget-feature=+crt-static
    -Crelocation-model=static
    -Cforce-unwind-tables=no
    --remap-path-prefix="$top"=
)
encoded=$(printf '%s\x1f' "${flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${encoded%?}
(cd "$top" && cargo build --locked --release --target "$target" -p lg-agent)

mkdir -p built
status=0
for guest in $kept lg-agent; do
    image=target/$target/release/$guest
    if [ "$mode" = --check ]; then
        if cmp "$image" "built/$guest"; then
            echo "guests: $guest comes out as built/$guest is"
        else
            status=1
        fi
    else
        cp "$image" "built/$guest"
        chmod 644 "built/$guest"
        # Its tests run it as it lies there.
        [ "$guest" != lg-agent ] || chmod 755 "built/$guest"
        echo "guests: built/$guest, $(stat -c %s "$image") bytes"
    fi
done
exit $status
