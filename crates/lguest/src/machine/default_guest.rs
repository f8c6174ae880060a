//! The Guest that is part of the Launcher, so that there is always one to boot.
//!
//! It is built from `guests/default` by `guests/build.sh`, and kept in the
//! tree so that the first command of a new user needs no cross compiler.

/// Its kernel, an ELF file.
pub const IMAGE: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../guests/built/default"
));
