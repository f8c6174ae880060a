//! The agent: the program that runs commands in a Linux guest.
//!
//! It is built from `crates/lg-agent` by `guests/build.sh`, and kept in the
//! tree so that an image with it can be made without a cross compiler. The
//! guest starts it as its first process, or that process does. `lg-exec` is how
//! it is spoken to.

/// A static i386 Linux program.
pub const BINARY: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../guests/built/lg-agent"
));
