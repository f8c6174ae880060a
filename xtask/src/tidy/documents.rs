//! Checks that documents name only things that exist.
//!
//! A document that is not checked becomes wrong with time. So this looks up
//! every relative link, every path and item between backticks, and every test
//! of a promise.

use super::tree::Tree;

/// The documents that name places in the tree, besides those in `docs`.
const MAPS: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
];
const DOCS: &str = "docs/";

/// Folders that do not always exist, and two of Linux's sources.
const NOT_KEPT: [&str; 4] =
    ["target/", "fuzz/artifacts", "arch/i386", "drivers/lguest"];

/// The endings of names that count as files.
const ENDINGS: [&str; 6] = [".rs", ".md", ".toml", ".sh", ".txt", ".ld"];

/// The beginning of labels in our assembly.
const LABEL: &str = "lg_";

/// Relative links that lead nowhere.
pub(super) fn links(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.texts(".md") {
        for target in targets(text) {
            let (file, heading) =
                target.split_once('#').unwrap_or((target, ""));
            let elsewhere = target.contains("://");
            let good = elsewhere
                || if file.is_empty() {
                    has_heading(text, heading)
                } else {
                    leads_somewhere(tree, path, file, heading)
                };
            if !good {
                found.push(format!("{path}: nothing at `{target}`"));
            }
        }
    }
    found
}

/// The text in the round brackets of `[text](target)`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let end = rest.find(')')?;
        let target = rest[..end].split_whitespace().next()?;
        Some(target)
    })
}

/// Whether there is a file and, if one is named, a heading in it.
fn leads_somewhere(
    tree: &Tree,
    document: &str,
    file: &str,
    heading: &str,
) -> bool {
    let text = tree.text(&resolved(document, file)).or(tree.text(file));
    let has = |text: &str| heading.is_empty() || has_heading(text, heading);
    there(tree, document, file) && text.is_none_or(has)
}

/// Whether a document has a heading that is linked to by this name.
fn has_heading(text: &str, name: &str) -> bool {
    let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-';
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.replace(|c| !kept(c), "").replace(' ', "-"))
        .any(|title| title == name)
}

/// Whether a path exists, from the document's folder or from the root.
fn there(tree: &Tree, document: &str, path: &str) -> bool {
    tree.has(&resolved(document, path)) || tree.has(path)
}

/// A path in a document, from the root.
fn resolved(document: &str, path: &str) -> String {
    let mut folder: Vec<&str> = document.split('/').collect();
    folder.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(folder.pop()),
            "." | "" => {}
            part => folder.push(part),
        }
    }
    folder.join("/")
}

/// Paths and items between backticks that name nothing.
pub(super) fn names(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let is_map = |path: &str| MAPS.contains(&path) || path.starts_with(DOCS);
    for (document, text) in tree.texts(".md") {
        if !is_map(document) {
            continue;
        }
        for name in backticked(text) {
            if !means_something(tree, document, name) {
                found.push(format!("{document}: nothing is called `{name}`"));
            }
        }
    }
    found
}

/// The text between single backticks, outside of blocks of code.
fn backticked(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

fn means_something(tree: &Tree, document: &str, name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if !name.chars().all(plain) || name.starts_with(['/', '-', '.']) {
        return true; // a command, an option, a pattern, a path of the system
    }
    if let Some((path, item)) = name.split_once("::") {
        let item = item.rsplit("::").next().unwrap_or(item);
        if path.ends_with(".rs") {
            return tree.text(path).is_some_and(|text| makes(text, item));
        }
        return tree.texts(".rs").any(|(_, text)| says(text, item));
    }
    if name.starts_with(LABEL) && name.chars().all(|c| plain(c) && c != '/') {
        return tree.texts(".rs").any(|(_, text)| says(text, name));
    }
    let is_path = name.contains('/')
        || ENDINGS.iter().any(|ending| name.ends_with(ending));
    !is_path
        || name.contains(':')
        || NOT_KEPT.iter().any(|folder| name.starts_with(folder))
        || there(tree, document, name)
}

/// Whether a source file makes this item, and does not only use it.
fn makes(text: &str, item: &str) -> bool {
    const KEYWORDS: [&str; 7] =
        ["fn", "struct", "enum", "trait", "mod", "const", "static"];
    let makes = |keyword| {
        let start = format!("{keyword} {item}");
        text.match_indices(&start).any(|(at, _)| {
            let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !text[..at].ends_with(part)
                && !text[at + start.len()..].starts_with(part)
        })
    };
    KEYWORDS.iter().any(makes)
}

/// Whether a text has this word.
fn says(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part)
            && !text[at + word.len()..].starts_with(part)
    })
}

/// Rows of SECURITY.md's tables that must name a test and do not. [`names`]
/// checks that the tests exist.
pub(super) fn promises(tree: &Tree) -> Vec<String> {
    let text = tree.text("SECURITY.md").unwrap_or_default();
    let mut column = None;
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(row) = line.trim().strip_prefix('|') else {
            column = None;
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Some(test) = column else {
            let is_test = |cell: &str| cell.to_lowercase().contains("test");
            column = cells.iter().position(|cell| is_test(cell));
            continue;
        };
        let cell = cells.get(test).copied().unwrap_or_default();
        let rule = cell.starts_with("--") || cell.starts_with(":-");
        if !rule && backticked(cell).next().is_none() {
            found.push(format!("SECURITY.md: no test for: {}", cells[0]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_looked_up_from_the_document_and_from_the_root() {
        let tree = Tree::of(&[
            (
                "README.md",
                "# Top\n[a](crates/a.rs) [b](https://x) [c](#top)",
            ),
            (
                "doc/one.md",
                "[up](../README.md#top) [gone](two.md) [h](../README.md#x)",
            ),
            ("crates/a.rs", ""),
        ]);
        let gone = ["two.md", "../README.md#x"];
        let gone = gone.map(|t| format!("doc/one.md: nothing at `{t}`"));
        assert_eq!(links(&tree), gone);
    }

    #[test]
    fn paths_and_items_in_documents_have_to_exist() {
        let readme = "`crates/a.rs` `crates/` `a.rs::run` `a::run` `/dev/kvm` \
                      `cargo run` `--stats` `target/x` `lguest`\n\
                      ```\n`no/such/thing`\n```\n\
                      `crates/b.rs` `crates/a.rs::step` `a::walk`";
        let tree = Tree::of(&[
            ("README.md", readme),
            ("crates/a.rs", "fn run() {}\nfn walker() { step() }"),
            ("a.rs", "fn run() {}"),
        ]);
        let found: Vec<_> =
            ["crates/b.rs", "crates/a.rs::step", "a::walk"].into();
        let found: Vec<_> = found
            .iter()
            .map(|name| format!("README.md: nothing is called `{name}`"))
            .collect();
        assert_eq!(names(&tree), found);
    }

    #[test]
    fn a_promise_without_a_test_is_found() {
        let security = "\
| actor | promise | test |
| --- | --- | --- |
| Guest | nothing | `a.rs::b` |
| user | something | |

| other | table |
| --- | --- |
| x | |
";
        let tree = Tree::of(&[("SECURITY.md", security)]);
        assert_eq!(promises(&tree), ["SECURITY.md: no test for: user"]);
    }
}
