//! What a Guest begins with.
//!
//! It is open, and it was not read when it is a kernel.

use crate::loader::Image;
use crate::snapshot::Saved;
use std::fs::File;

/// What a Guest begins with.
pub(super) enum Beginning {
    /// A kernel, and perhaps an initrd.
    Kernel(Image, Option<File>),
    /// A snapshot.
    Saved(Box<Saved>),
}
