//! Checks of the form of source files.
//!
//! A reader gets an overview from the first paragraphs of all files. So each
//! file must have one.

use super::tree::Tree;

/// The widest subtitle.
const SUBTITLE_WIDTH: usize = 80;

/// The widest line. `cargo fmt` breaks code at 80. Texts that it does not break
/// may be a little longer.
const WIDTH: usize = 100;

/// The widest comment, which `cargo fmt` does not break.
const COMMENT_WIDTH: usize = 80;

/// Kinds of files that are written by hand. Golden files are not checked.
const WRITTEN: [&str; 5] = [".rs", ".sh", ".toml", ".md", ".ld"];

/// Kinds of files whose lines may have any length: tables and lists of
/// features.
const WIDE: [&str; 2] = [".md", ".toml"];

/// Files that do not open with a subtitle, a blank line and a paragraph. Tests
/// and Guests need not.
pub(super) fn introductions(tree: &Tree) -> Vec<String> {
    let files = tree.texts(".rs").filter_map(|(path, text)| {
        let why = wrong(text)?;
        let excused = is_informal(path) && why != SUBTITLE;
        (!excused).then(|| format!("{path}: {why}"))
    });
    files.collect()
}

fn is_informal(path: &str) -> bool {
    let names = ["/tests.rs", "/testing.rs"];
    names.iter().any(|name| path.ends_with(name))
        || path.contains("/tests/")
        || path.starts_with("guests/")
}

const SUBTITLE: &str = "open it with a subtitle: `//! What it is.`";

const PARAGRAPH: &str = "let a blank line and a paragraph follow the subtitle";

/// What is wrong with the beginning of a source file.
fn wrong(text: &str) -> Option<&'static str> {
    let mut lines = text.lines();
    let subtitle = lines.next().and_then(|line| line.strip_prefix("//! "));
    let Some(subtitle) = subtitle else {
        return Some(SUBTITLE);
    };
    if subtitle.chars().count() + 4 > SUBTITLE_WIDTH {
        return Some("the subtitle must fit into a line");
    }
    if !subtitle.ends_with(['.', '?', '!']) {
        return Some("the subtitle is a sentence: let it end like one");
    }
    if lines.next() != Some("//!") {
        return Some(PARAGRAPH);
    }
    match lines.next().and_then(|line| line.strip_prefix("//! ")) {
        Some(paragraph) if !paragraph.starts_with('#') => None,
        _ => Some(PARAGRAPH),
    }
}

/// How wide a line may be.
fn width(path: &str, line: &str) -> usize {
    let is_comment =
        path.ends_with(".rs") && line.trim_start().starts_with("//");
    if is_comment { COMMENT_WIDTH } else { WIDTH }
}

/// Lines that are too long, or end in blanks; files without a last newline.
pub(super) fn lines(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in WRITTEN.iter().flat_map(|kind| tree.texts(kind)) {
        if !text.is_empty() && !text.ends_with('\n') {
            found.push(format!("{path}: the last line does not end"));
        }
        let wide = WIDE.iter().any(|kind| path.ends_with(kind));
        for (n, line) in text.lines().enumerate() {
            let n = n + 1;
            if line.ends_with([' ', '\t']) {
                found.push(format!("{path}:{n}: blanks at the end"));
            }
            let most = width(path, line);
            if !wide && line.chars().count() > most {
                found.push(format!("{path}:{n}: more than {most} columns"));
            }
        }
    }
    found
}

/// Functions that are assembly from their first byte. A safe one passes even
/// `forbid(unsafe_code)`, so assembly is `global_asm!` here.
pub(super) fn bare_functions(tree: &Tree) -> Vec<String> {
    const WORD: &str = concat!("na", "ked");
    let uses = |text: &str| text.contains(WORD);
    let files = tree.texts(".rs").filter(|(_, text)| uses(text));
    files
        .map(|(path, _)| format!("{path}: `{WORD}`: use global_asm!"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! A page fault: whose is it?\n//!\n//! Ours.\n";

    #[test]
    fn a_file_has_to_introduce_itself() {
        assert_eq!(wrong(GOOD), None);
        for bad in [
            "",
            "use std::fs;\n",
            "//! A page\n//!\n//! Ours.\n",
            "//! A page.\n//! Ours.\n",
            "//! A page.\n//!\n",
            "//! A page.\n//!\n//! # Safety\n",
        ] {
            assert!(wrong(bad).is_some(), "{bad:?}");
        }
        let long = GOOD.replace("A page", &"A page ".repeat(12));
        assert!(wrong(&long).is_some());
    }

    #[test]
    fn blanks_and_long_lines_are_found_where_they_are() {
        let long = "x".repeat(WIDTH + 1);
        let wide = "x".repeat(COMMENT_WIDTH + 1);
        let tree = Tree::of(&[
            ("a.rs", &format!("//! A.\n{long}\n    // {wide}\n{wide}\n")),
            ("b.sh", "echo  \n"),
            ("c.md", &format!("{long}\n")),
            ("d.ld", "no end"),
        ]);
        let found = lines(&tree);
        let places: Vec<_> =
            found.iter().map(|f| f.split(": ").next()).collect();
        let wanted = ["a.rs:2", "a.rs:3", "b.sh:1", "d.ld"].map(Some);
        assert_eq!(places, wanted);
    }
}
