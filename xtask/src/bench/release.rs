//! Builds the lguest that is measured.
//!
//! It is a release build of this tree, as users have it.

use crate::place;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the Launcher as its users do.
pub(super) fn build(root: &Path) -> Result<PathBuf, String> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--quiet", "-p", "lguest"])
        .current_dir(root)
        .status();
    match status {
        Ok(status) if status.success() => Ok(place::release(root)),
        Ok(status) => Err(format!("cargo build: {status}")),
        Err(error) => Err(format!("cargo build: {error}")),
    }
}
