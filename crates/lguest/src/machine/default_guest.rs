//! The built-in guest, which boots when no kernel is named.
//!
//! It is built from `guests/default` by `guests/build.sh`, and kept in the
//! tree so that the first command of a new user needs no cross compiler.

/// Its kernel, an ELF file.
pub const IMAGE: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../guests/built/default"
));
