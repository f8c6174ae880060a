//! The ledger of files that may contain unsafe code.
//!
//! The compiler forbids it in all other files. A file opts in at its top, with
//! a reason. The ledger repeats file and reason, so that a reviewer sees each
//! new one.

use super::tree::Tree;
use std::collections::BTreeMap;

/// A line each: path, colon, reason.
const LEDGER: &str = "xtask/unsafe.txt";

/// Differences between ledger and files.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<String> {
    let ledger = tree.text(LEDGER).unwrap_or_default();
    let lines = ledger.lines().filter(|line| !line.starts_with('#'));
    let listed: BTreeMap<&str, &str> =
        lines.filter_map(|line| line.split_once(": ")).collect();
    let mut found = Vec::new();
    let mut used = BTreeMap::new();
    for (path, text) in tree.texts(".rs") {
        if let Some(reason) = opts_in(text) {
            used.insert(path, reason);
        }
        if squeezed(text).contains(concat!("#![allow(", "unsafe_code")) {
            found.push(format!("{path}: expect it with a reason, not allow"));
        }
    }
    if std::env::var_os("UPDATE_EXPECT").is_some()
        && !tree.root.as_os_str().is_empty()
    {
        write(tree, ledger, &used);
        return found;
    }
    for (path, reason) in &used {
        match listed.get(path) {
            None => found.push(format!("{LEDGER} lacks `{path}: {reason}`")),
            Some(other) if other != reason => {
                found.push(format!("{LEDGER}: {path} says `{reason}`"));
            }
            Some(_) => {}
        }
    }
    for path in listed.keys().filter(|path| !used.contains_key(*path)) {
        found.push(format!("{LEDGER}: {path} has no unsafe code any more"));
    }
    found
}

/// Writes the ledger again, below its comments.
fn write(tree: &Tree, old: &str, used: &BTreeMap<&str, String>) {
    let comments = old.lines().filter(|line| line.starts_with('#'));
    let mut new: String = comments.map(|line| format!("{line}\n")).collect();
    for (path, reason) in used {
        new += &format!("{path}: {reason}\n");
    }
    std::fs::write(tree.root.join(LEDGER), new).expect("it can be written");
}

/// The reason that a file gives for its unsafe code.
fn opts_in(text: &str) -> Option<String> {
    const OPENING: &str = concat!("#![", "expect(unsafe_code,");
    const REASON: &str = "reason=\"";
    // Layout does not matter; blanks inside the reason do.
    let start = text.match_indices("#![").find_map(|(at, _)| {
        let end = text[at..].find(")]")? + at;
        squeezed(&text[at..end]).starts_with(OPENING).then_some(at)
    })?;
    let attribute = &text[start..];
    let reason = attribute.find("reason")?;
    let quoted = attribute[reason..].split('"').nth(1)?;
    debug_assert!(squeezed(attribute).contains(REASON), "one follows");
    Some(quoted.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(reason: &str) -> String {
        format!(
            "//! A.\n#![expect(\n    unsafe_code,\n    reason = \
             \"{reason}\"\n)]\n"
        )
    }

    #[test]
    fn ledger_and_files_have_to_agree() {
        let ledger = "# comment\na.rs: assembly\nc.rs: it had some\n";
        let tree = Tree::of(&[
            (LEDGER, ledger),
            ("a.rs", &file("assembly")),
            ("b.rs", &file("system calls")),
        ]);
        let found = unsafe_code(&tree);
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("lacks `b.rs: system calls`"));
        assert!(found[1].contains("c.rs"));
    }

    #[test]
    fn a_reason_that_has_changed_is_seen() {
        let tree = Tree::of(&[
            (LEDGER, "a.rs: assembly\n"),
            ("a.rs", &file("more assembly")),
        ]);
        assert_eq!(unsafe_code(&tree).len(), 1);
    }
}
