//! `lguest runner`: what cargo starts for `cargo run` and `cargo test`.
//!
//! Cargo gives the file that it has built, and the user's words. An image of
//! tests is recognised by its mark. Any other one is a guest, and is run with
//! the words as its command line. The file `lguest.toml` beside the crate's
//! manifest has further options for it, and `lguest-tests.toml` for tests.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// The options of a crate's guests and of its tests, beside its manifest. They
/// are apart, because tests run at the same time: a port that a guest publishes
/// would be taken.
pub const SETTINGS: &str = "lguest.toml";
pub(super) const OF_TESTS: &str = "lguest-tests.toml";

/// The mark of an image of tests: `lg_guest::testing` prints it before their
/// names.
pub(super) const MARK: &str = "lguest tests, form 1";

/// Whether this file has tests in it. One that cannot be read has none; to run
/// it says why.
#[must_use]
pub fn has_tests(image: &Path) -> bool {
    let bytes = fs::read(image).unwrap_or_default();
    let mut windows = bytes.windows(MARK.len());
    windows.any(|window| window == MARK.as_bytes())
}

/// The words of `lguest run` for this image with these words as its command
/// line.
#[must_use]
pub fn run_words(
    image: &Path,
    words: &[OsString],
    settings: &str,
) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec!["lguest".into(), "run".into()];
    all.extend(beside_manifest(settings).map(OsString::from));
    all.push("--explain".into());
    all.push("--kernel".into());
    all.push(image.into());
    if !words.is_empty() {
        all.push("--append".into());
        all.push(words.join(OsStr::new(" ")));
    }
    all
}

/// A file of the crate, if it has it. Cargo says where the crate is.
fn beside_manifest(name: &str) -> Option<PathBuf> {
    let crate_folder = env::var_os("CARGO_MANIFEST_DIR")?;
    let file = Path::new(&crate_folder).join(name);
    file.is_file().then_some(file)
}
