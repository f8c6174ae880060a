//! Places in the tree: its root, its workspaces, and what cargo builds.
//!
//! All paths are found from the folder of this crate.

use std::path::{Path, PathBuf};

/// The target in `.cargo/config.toml`. It names the folder of cargo's output.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Every workspace in the tree: its name and its manifest.
pub(crate) const WORKSPACES: [(&str, &str); 5] = [
    ("main workspace", "Cargo.toml"),
    ("view", "crates/lg-view/Cargo.toml"),
    ("guests", "guests/Cargo.toml"),
    ("course", "docs/course/Cargo.toml"),
    ("fuzz", "fuzz/Cargo.toml"),
];

/// The command that `cargo build --release` makes.
pub(crate) fn release(root: &Path) -> PathBuf {
    root.join("target").join(TARGET).join("release/lguest")
}

/// The root of the tree.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_path_buf()
}
