//! Finds paths of one machine, and large files.
//!
//! A path that exists on one machine only is of no use elsewhere. The words are
//! concatenated so that this file does not contain them.

use super::tree::Tree;

/// Words that have a meaning on one machine only, or name a mirror.
const FORBIDDEN: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("debian", ".org"),
    concat!("crates.io", "/"),
    concat!(".crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", "."),
];

/// Files that cargo writes.
const WRITTEN_BY_CARGO: &str = "Cargo.lock";

/// The folder of the guests' images, and their largest size. Images are in the
/// tree so that a new user needs no cross compiler.
const IMAGES: &str = "guests/built/";
const IMAGE_LIMIT: u64 = 256 << 10;

/// The largest size of any other file.
const FILE_LIMIT: u64 = 512 << 10;

/// The places of such words.
pub(super) fn forbidden(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.texts("") {
        if path.ends_with(WRITTEN_BY_CARGO) {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            if let Some(word) = FORBIDDEN.iter().find(|w| says(line, w)) {
                found.push(format!("{path}:{}: `{word}`", n + 1));
            }
        }
    }
    found
}

/// Whether a line has this word; as a path, only from where a path begins.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let begins = |c: char| c.is_whitespace() || "'\"`(=<[".contains(c);
        let before = &line[..at];
        !word.starts_with('/') || before.is_empty() || before.ends_with(begins)
    })
}

/// Files that are too large.
pub(super) fn images(tree: &Tree) -> Vec<String> {
    let limit = |path: &str| {
        if path.starts_with(IMAGES) {
            IMAGE_LIMIT
        } else {
            FILE_LIMIT
        }
    };
    let large = tree.sizes().filter(|(path, size)| *size > limit(path));
    large
        .map(|(path, size)| format!("{path}: {size} bytes"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_one_machine_is_found() {
        let text = format!("see {}me/notes\n", FORBIDDEN[1]);
        let inner = "$d/root/bin, crates/work/mod.rs\n";
        let tree = Tree::of(&[("a.md", &text), ("b.md", inner)]);
        assert_eq!(forbidden(&tree).len(), 1);
    }
}
