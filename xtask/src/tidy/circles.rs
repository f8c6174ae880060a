//! Import circles: files of one crate that import each other.
//!
//! A file imports another if it names a path into it. Files that import each
//! other, directly or through others, are a circle, and a reader must read all
//! of them to understand one. If a circle is right, a comment `// circle: why`
//! above one of its `use` lines excuses it.

use super::imports::{self, Uses};
use super::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};

/// Folders of the crates that are looked at.
const SOURCES: [&str; 9] = [
    "crates/lg-abi/src/",
    "crates/lg-host/src/",
    "crates/lg-memory/src/",
    "crates/lg-seccomp/src/",
    "crates/lg-switcher/src/",
    "crates/lg-wire/src/",
    "crates/lguest/src/",
    "fuzz/targets/src/",
    "xtask/src/",
];

/// The ledger of known circles: a line with the files of each. It may only
/// shrink.
const LEDGER: &str = "xtask/circles.txt";

/// How the ledger begins.
const HEAD: &str = "\
# Files of a crate that import each other, a circle a line. A new circle is an
# error. UPDATE_EXPECT=1 cargo xtask tidy makes lines smaller; cargo xtask
# circles --write writes all of them, for files that got other names.
";

/// A module's file, and what it imports and re-exports.
struct Module<'a> {
    path: &'a str,
    uses: Uses,
}

/// The modules of a crate by their paths.
type Modules<'a> = BTreeMap<Vec<String>, Module<'a>>;

/// Files by what they import: importer, imported, and what of it.
type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<String>>>;

/// A circle: its files, and the imports that close it.
pub(super) struct Circle {
    pub(super) files: BTreeSet<String>,
    pub(super) imports: Vec<String>,
}

/// The circles of all crates.
pub(super) fn circles(tree: &Tree) -> Vec<Circle> {
    let graphs = SOURCES.iter().map(|folder| graph(tree, folder));
    graphs.flat_map(|graph| closed(&graph)).collect()
}

/// Differences between circles and ledger, if there is a ledger.
pub(super) fn ledger(tree: &Tree) -> Vec<String> {
    let Some(text) = tree.text(LEDGER) else {
        return Vec::new();
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let listed: Vec<BTreeSet<String>> = lines
        .map(|line| line.split(' ').map(String::from).collect())
        .collect();
    let circles = circles(tree);
    let (old, new): (Vec<_>, Vec<_>) = circles
        .iter()
        .partition(|circle| listed.iter().any(|l| circle.files.is_subset(l)));
    let mut found: Vec<String> = new
        .iter()
        .map(|circle| {
            let files: Vec<_> = circle.files.iter().map(|f| &**f).collect();
            format!(
                "{} import each other: see cargo xtask circles",
                files.join(" ")
            )
        })
        .collect();
    if std::env::var_os("UPDATE_EXPECT").is_some()
        && !tree.root.as_os_str().is_empty()
    {
        write(tree, &old);
        return found;
    }
    for line in listed {
        if !old.iter().any(|circle| circle.files == line) {
            let first = line.first().map_or("", |file| file);
            found.push(format!(
                "{LEDGER}: the circle of {first} is smaller now: \
                 UPDATE_EXPECT=1 cargo xtask tidy writes that"
            ));
        }
    }
    found
}

/// Writes the ledger with all present circles.
pub(super) fn write_ledger(tree: &Tree) {
    let circles = circles(tree);
    write(tree, &circles.iter().collect::<Vec<_>>());
}

fn write(tree: &Tree, circles: &[&Circle]) {
    let mut text = String::from(HEAD);
    for circle in circles {
        let files: Vec<_> = circle.files.iter().map(|file| &**file).collect();
        text += &files.join(" ");
        text.push('\n');
    }
    std::fs::write(tree.root.join(LEDGER), text).expect("it can be written");
}

/// The files of one crate, and what they import.
fn graph<'a>(tree: &'a Tree, folder: &str) -> Graph<'a> {
    let files = tree.texts(".rs").filter_map(|(path, text)| {
        let name = module(path.strip_prefix(folder)?)?;
        let uses = imports::uses(text);
        Some((name, Module { path, uses }))
    });
    let modules: Modules<'_> = files.collect();
    let mut graph = Graph::new();
    for (name, module) in &modules {
        let imports = graph.entry(module.path).or_default();
        for found in &module.uses.imports {
            let Some(target) = absolute(name, found, &modules) else {
                continue;
            };
            match file_of(&target, &modules, MAX_EXPORTS) {
                Some((other, item)) if other != module.path => {
                    imports.entry(other).or_default().insert(item);
                }
                _ => {}
            }
        }
    }
    graph
}

/// The most re-exports by which a name may be reached.
const MAX_EXPORTS: u32 = 8;

/// The file that defines a path's item, and the part of the path after the
/// module. Follows re-exports.
fn file_of<'a>(
    target: &[String],
    modules: &Modules<'a>,
    exports: u32,
) -> Option<(&'a str, String)> {
    let (len, module) = (0..=target.len())
        .rev()
        .find_map(|len| Some((len, modules.get(&target[..len])?)))?;
    let here = (module.path, target[len..].join("::"));
    let (Some(item), true) = (target.get(len), exports > 0) else {
        return Some(here);
    };
    for (name, path) in &module.uses.exports {
        if name == item {
            let mut path = absolute(&target[..len], path, modules)?;
            path.extend_from_slice(&target[len + 1..]);
            return file_of(&path, modules, exports - 1);
        }
    }
    Some(here)
}

/// The module that a file is, unless it is a test or a program of its own.
fn module(path: &str) -> Option<Vec<String>> {
    let name = path.strip_suffix(".rs")?;
    let mut parts: Vec<String> = name.split('/').map(String::from).collect();
    let tests = ["tests", "testing", "oracle"];
    if parts.iter().any(|part| tests.contains(&part.as_str())) {
        return None;
    }
    match parts.last()?.as_str() {
        "main" => return None,
        "mod" | "lib" => drop(parts.pop()),
        _ => {}
    }
    Some(parts)
}

/// A path from the crate's root; nothing if it leads out of the crate.
fn absolute(
    module: &[String],
    path: &[String],
    modules: &Modules<'_>,
) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|word| *word == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (0, 1),
        "self" => (module.len(), 1),
        "super" => (module.len().checked_sub(supers)?, supers),
        _ => (module.len(), 0),
    };
    let target = [&module[..base], &path[rest..]].concat();
    let child = || modules.contains_key(&target[..=module.len()]);
    (rest != 0 || child()).then_some(target)
}

/// The groups of files that reach each other.
fn closed(graph: &Graph<'_>) -> Vec<Circle> {
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|file| (*file, reached(graph, file)))
        .collect();
    let mut circles = Vec::new();
    let mut done = BTreeSet::new();
    for (file, others) in &reach {
        if !others.contains(file) || !done.insert(*file) {
            continue;
        }
        let back = |other: &&&str| reach[**other].contains(file);
        let files: BTreeSet<&str> =
            others.iter().filter(back).copied().collect();
        done.extend(&files);
        circles.push(Circle {
            imports: within(graph, &files),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
        });
    }
    circles
}

/// What a file imports, directly or by way of others.
fn reached<'a>(graph: &Graph<'a>, file: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for other in graph.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(*other) {
                next.push(other);
            }
        }
    }
    found
}

/// Imports among these files, for a person.
fn within(graph: &Graph<'_>, files: &BTreeSet<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files {
        for (other, items) in &graph[file] {
            if files.contains(other) {
                let name = |item| match item {
                    "" => "the module",
                    item => item,
                };
                let items: Vec<&str> = items.iter().map(|i| name(i)).collect();
                let items = items.join(", ");
                lines.push(format!("{file} -> {other}: {items}"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(c: &str) -> Tree {
        Tree::of(&[
            ("xtask/src/lib.rs", "mod a;\nmod b;\n"),
            ("xtask/src/a.rs", "use crate::b::{self, Thing};\n"),
            ("xtask/src/b/mod.rs", "mod c;\nuse c::Other;\n"),
            ("xtask/src/b/c.rs", c),
            ("xtask/src/b/tests.rs", "use crate::a::X;\n"),
            ("xtask/src/main.rs", "use crate::b::c;\n"),
        ])
    }

    #[test]
    fn a_circle_is_found_by_way_of_others() {
        let found = circles(&tree("fn f() { crate::a::g() }\n"));
        assert_eq!(found.len(), 1);
        let expected = [
            "xtask/src/a.rs -> xtask/src/b/mod.rs: the module, Thing",
            "xtask/src/b/c.rs -> xtask/src/a.rs: g",
            "xtask/src/b/mod.rs -> xtask/src/b/c.rs: Other",
        ];
        assert_eq!(found[0].imports, expected);
    }

    #[test]
    fn a_re_export_leads_to_where_the_item_is() {
        let tree = Tree::of(&[
            ("xtask/src/lib.rs", "mod a;\nmod b;\n"),
            (
                "xtask/src/a/mod.rs",
                "mod c;\nmod d;\npub use d::{D, E as F};",
            ),
            ("xtask/src/a/c.rs", "use super::D;\nuse crate::a::F;\n"),
            ("xtask/src/a/d.rs", "use crate::b::B;\n"),
            ("xtask/src/b.rs", "use crate::a::D;\n"),
        ]);
        let found = circles(&tree);
        let expected = [
            "xtask/src/a/d.rs -> xtask/src/b.rs: B",
            "xtask/src/b.rs -> xtask/src/a/d.rs: D",
        ];
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].imports, expected);
    }

    #[test]
    fn files_without_a_way_back_are_no_circle() {
        assert!(circles(&tree("use std::fs;\n")).is_empty());
    }

    #[test]
    fn the_ledger_may_only_shrink() {
        let found = |ledger: &str| {
            super::ledger(&Tree::of(&[
                (LEDGER, ledger),
                ("xtask/src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
                ("xtask/src/a.rs", "use crate::b::X;\n"),
                ("xtask/src/b.rs", "use crate::a::X;\n"),
                ("xtask/src/c.rs", "use crate::a::X;\n"),
            ]))
        };
        let (a, b, c) = ("xtask/src/a.rs", "xtask/src/b.rs", "xtask/src/c.rs");
        assert!(found(&format!("# comment\n{a} {b}\n")).is_empty());
        let smaller = found(&format!("{a} {b} {c}\n"));
        assert!(smaller[0].contains("is smaller now"), "{smaller:?}");
        let new = found("");
        assert!(new[0].starts_with(&format!("{a} {b} import")), "{new:?}");
    }

    #[test]
    fn an_excuse_opens_a_circle() {
        let excused = "// circle: it is right\nuse super::Thing;\n";
        assert!(circles(&tree(excused)).is_empty());
        assert_eq!(circles(&tree("use super::Thing;\n")).len(), 1);
    }
}
