//! Checks of the glossary: a line for each term, and a use of each term.
//!
//! Terms are words with a capital in the middle of a sentence. Each has its
//! line in the glossary, or is in the list of names at its end. Names between
//! backticks in a line must exist. Words of the earlier vocabulary must not
//! come back.

use super::prose;
use super::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};

const GLOSSARY: &str = "docs/glossary.md";

/// The beginning of the list of names.
const NAMES: &str = "\n## Names\n";

/// Words of the earlier vocabulary, and their replacements. They are
/// concatenated so that this file does not contain them.
const FORMER: &[(&str, &str)] = &[
    (concat!("tw", "in"), "patched copy"),
    (concat!("nurs", "ery"), "view spawner"),
    (concat!("bat", "on"), "run token"),
    (concat!("keep", "er"), "user-process driver"),
    (concat!("stepping ", "stone"), "trampoline slot"),
    (concat!("su", "lk"), "back-off"),
    (concat!("af", "ar"), "another processor"),
    (concat!("note", "book"), "recording mapper"),
    (concat!("mo", "urn"), "the end of a process is reported"),
    (concat!("user ", "cell"), "user process"),
    (concat!("cell", "'s"), "user process"),
    (concat!("outbox ", "cell"), "outbox ring"),
];

/// The lines of the table: terms, and what each is.
struct Glossary<'a> {
    terms: BTreeMap<&'a str, &'a str>,
    names: BTreeSet<&'a str>,
}

impl<'a> Glossary<'a> {
    fn read(tree: &'a Tree) -> Self {
        let text = tree.text(GLOSSARY).unwrap_or_default();
        let (table, names) = text.split_once(NAMES).unwrap_or((text, ""));
        let rows = table.lines().filter_map(|line| {
            let (term, what) = line.strip_prefix("| ")?.split_once(" | ")?;
            (term != "term").then_some((term, what))
        });
        let list = names.split_once(':').map_or("", |(_, list)| list);
        let clean = |word: &'a str| word.trim().trim_end_matches('.');
        Self {
            terms: rows.collect(),
            names: list.split(',').map(clean).collect(),
        }
    }

    fn knows(&self, word: &str) -> bool {
        let has =
            |w: &str| self.terms.contains_key(w) || self.names.contains(w);
        has(word) || word.strip_suffix('s').is_some_and(has)
    }
}

/// Terms without a line, lines without a term, and names of nothing.
pub(super) fn terms(tree: &Tree) -> Vec<String> {
    let glossary = Glossary::read(tree);
    let mut found = unknown(tree, &glossary);
    found.extend(out_of_order(tree));
    let used = Used::read(tree);
    for (term, what) in &glossary.terms {
        if !used.has(term) {
            found.push(format!("{GLOSSARY}: nothing uses `{term}`"));
        }
        for code in what.split('`').skip(1).step_by(2) {
            let plain = |c: char| c.is_alphanumeric() || c == '_';
            let exists = tree.texts(".rs").any(|(_, text)| text.contains(code));
            if code.chars().all(plain) && !exists {
                found.push(format!("{GLOSSARY}: nothing is called `{code}`"));
            }
        }
    }
    found
}

/// Words with a capital in the middle of a sentence that have no line.
fn unknown(tree: &Tree, glossary: &Glossary<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.texts(".rs").chain(tree.texts(".md")) {
        for paragraph in prose::paragraphs(path, text) {
            for (at, word) in capitalised(&paragraph.text) {
                if !glossary.knows(word) {
                    let above = paragraph.text[..at].matches('\n').count();
                    let line = paragraph.line + above;
                    found.push(format!(
                        "{path}:{line}: `{word}` has no line in {GLOSSARY}"
                    ));
                }
            }
        }
    }
    found
}

/// Words that begin with a capital and follow a word in small letters or a
/// comma.
fn capitalised(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices(|c: char| c.is_ascii_uppercase())
        .filter_map(|(at, _)| {
            let before = text[..at].trim_end();
            let apart = before.len() < at;
            let within =
                |c: char| c.is_ascii_lowercase() || c == ',' || c == ';';
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
            let word = &rest[..end.unwrap_or(rest.len())];
            let small = word.chars().nth(1)?.is_ascii_lowercase();
            let path = rest[word.len()..].starts_with("::");
            (apart && before.ends_with(within) && small && !path)
                .then_some((at, word))
        })
}

/// Terms that are not in alphabetical order.
fn out_of_order(tree: &Tree) -> Vec<String> {
    let text = tree.text(GLOSSARY).unwrap_or_default();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let terms = rows.filter_map(|row| row.split(" | ").next());
    let terms: Vec<&str> = terms.filter(|term| *term != "term").collect();
    let pairs = terms.windows(2);
    pairs
        .filter(|pair| pair[0].to_lowercase() > pair[1].to_lowercase())
        .map(|pair| format!("{GLOSSARY}: `{}` is not in order", pair[1]))
        .collect()
}

/// All texts but the glossary, to look for terms in.
struct Used(Vec<String>);

impl Used {
    fn read(tree: &Tree) -> Self {
        let texts = tree.texts(".rs").chain(tree.texts(".md"));
        let others = texts.filter(|(path, _)| *path != GLOSSARY);
        Self(others.map(|(_, text)| joined(text)).collect())
    }

    fn has(&self, term: &str) -> bool {
        let term = term.to_lowercase();
        self.0.iter().any(|text| text.contains(&term))
    }
}

/// A text in small letters, its lines and comments joined.
fn joined(text: &str) -> String {
    let words = text.split_whitespace();
    let words = words.filter(|word| !word.starts_with("//"));
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Words of the earlier vocabulary.
pub(super) fn former(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.texts(".rs").chain(tree.texts(".md")) {
        for (n, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, now) in FORMER {
                if says(&line, word) {
                    let n = n + 1;
                    found.push(format!("{path}:{n}: `{word}`: say {now}"));
                }
            }
        }
    }
    found
}

/// Whether a line has this word, perhaps with an ending.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let rest = &line[at + word.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let ending = &rest[..end.unwrap_or(rest.len())];
        !line[..at].ends_with(|c: char| c.is_alphanumeric())
            && ["", "s", "ed", "ing", "_"].contains(&ending)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "| term | what |\n|---|---|\n| Guest | a machine |\n\
                        | view | process of `View` |\n\n## Names\n\n\
                        They are: Linux, Rust.\n";

    #[test]
    fn a_word_with_a_capital_needs_a_line() {
        let tree = Tree::of(&[
            (GLOSSARY, ROWS),
            (
                "a.rs",
                "//! A view of the Guest's, or of\n//! Guests, under Linux: \
                 the Porter's `Door`.\nstruct View;\nlet x = the Thing;\n",
            ),
        ]);
        let found = terms(&tree);
        let expected = format!("a.rs:2: `Porter` has no line in {GLOSSARY}");
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_line_needs_a_term_that_is_used_and_names_that_exist() {
        let tree = Tree::of(&[(GLOSSARY, ROWS), ("a.md", "Our guest.\n")]);
        let found = terms(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("nothing uses `view`"));
        assert!(found[1].ends_with("nothing is called `View`"));
    }

    #[test]
    fn lines_are_in_order() {
        let rows = "| term | what |\n| view | x |\n| Guest | x |\n";
        let tree = Tree::of(&[(GLOSSARY, rows), ("a.md", "A view, a Guest")]);
        let expected = format!("{GLOSSARY}: `Guest` is not in order");
        assert_eq!(terms(&tree), [expected]);
    }

    #[test]
    fn former_words_do_not_come_back() {
        let word = FORMER[2].0;
        let text = format!("// Two {word}s.\n// {word}et\n// x{word}\n");
        let tree = Tree::of(&[("a.rs", &text)]);
        assert_eq!(former(&tree).len(), 1);
    }
}
