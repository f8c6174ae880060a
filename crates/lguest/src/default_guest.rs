//! The Guest that is part of the Launcher, so that there is always one to boot.

/// Its kernel, an ELF file.
pub const IMAGE: Option<&[u8]> = None;
