//! Checks that lessons are complete, and show the code that is tested.
//!
//! A lesson is a folder below `docs/course` whose name begins with a number.
//! Its page quotes its sources. A quotation that differs from them is found
//! here.

use super::tree::Tree;
use std::collections::BTreeSet;

const COURSE: &str = "docs/course/";

/// What each lesson has.
const PARTS: [&str; 7] = [
    "README.md",
    "Cargo.toml",
    "src/main.rs",
    "src/exercise.rs",
    "solution/exercise.rs",
    "tests/lesson.rs",
    "tests/exercise.rs",
];

/// What each page has: its parts, and an answer that is folded away.
const HEADINGS: [&str; 6] = [
    "## What we want",
    "## What the machine is",
    "## The code",
    "## What happens in the Host",
    "## Exercise",
    "## Question",
];
const ANSWER: &str = "<details>";

/// Parts that lessons lack, and code on a page that is not in the sources.
pub(super) fn lessons(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let contents = tree.text("docs/course/README.md").unwrap_or_default();
    for lesson in names(tree) {
        let folder = format!("{COURSE}{lesson}/");
        for part in PARTS {
            if !tree.has(&format!("{folder}{part}")) {
                found.push(format!("{folder}{part} is missing"));
            }
        }
        if !contents.contains(&format!("({lesson}/README.md)")) {
            found.push(format!("docs/course/README.md: no link to {lesson}"));
        }
        let page = format!("{folder}README.md");
        let text = tree.text(&page).unwrap_or_default();
        for heading in HEADINGS.into_iter().chain([ANSWER]) {
            if !text.lines().any(|line| line == heading) {
                found.push(format!("{page}: `{heading}` is missing"));
            }
        }
        for code in quoted(text) {
            if !stands_in(tree, code) {
                let line = code.lines().next().unwrap_or_default();
                found.push(format!(
                    "{page}: the code from `{line}` on is in no source"
                ));
            }
        }
    }
    found
}

/// The folders of lessons.
fn names(tree: &Tree) -> BTreeSet<&str> {
    let below = tree.sizes().filter_map(|(path, _)| {
        let name = path.strip_prefix(COURSE)?.split_once('/')?.0;
        name.starts_with(|c: char| c.is_ascii_digit())
            .then_some(name)
    });
    below.collect()
}

/// The blocks of Rust and assembly on a page.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n```rust\n").skip(1).filter_map(|rest| {
        let (code, _) = rest.split_once("```")?;
        Some(code)
    })
}

/// Whether a source of the tree has this code, each part between lines `...`.
fn stands_in(tree: &Tree, code: &str) -> bool {
    let has = |text: &str| {
        code.split("...\n")
            .all(|part| text.contains(part.trim_end()))
    };
    tree.texts(".rs").any(|(_, text)| has(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_on_a_page_is_code_of_a_source() {
        let page = |code: &str| {
            let headings = HEADINGS.join("\n");
            format!("{headings}\n<details>\n\n```rust\n{code}```\n")
        };
        let parts = PARTS.map(|part| format!("{COURSE}01-a/{part}"));
        let find = |code: &str, contents: &str| {
            let page = page(code);
            let mut files: Vec<(&str, &str)> = parts
                .iter()
                .map(|part| (part.as_str(), "fn a() {}\n"))
                .collect();
            files[0].1 = &page;
            files.push(("docs/course/README.md", contents));
            lessons(&Tree::of(&files))
        };
        let link = "[a](01-a/README.md)";
        assert_eq!(find("fn a() {}\n", link), [""; 0]);
        assert_eq!(find("fn b() {}\n", link).len(), 1);
        assert_eq!(find("fn a() {}\n", "").len(), 1);
    }

    #[test]
    fn a_lesson_has_all_its_parts() {
        let tree = Tree::of(&[("docs/course/02-b/src/main.rs", "")]);
        let found = lessons(&tree);
        let parts = PARTS.len() - 1;
        assert_eq!(found.len(), parts + HEADINGS.len() + 2);
    }
}
