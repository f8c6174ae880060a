//! Checks of the tree that no compiler makes.
//!
//! Each check reads the whole tree and returns a list of faults, which say what
//! to do. They run as a step of CI, as tests of this crate, and as
//! `cargo xtask tidy`.

mod prose;
mod tree;

mod circles;
mod course;
mod crates;
mod documents;
mod glossary;
mod imports;
mod ledger;
mod sources;
mod words;

use crate::place;
use std::path::Path;
use std::process::ExitCode;
use tree::Tree;

/// A check and its name.
struct Check {
    name: &'static str,
    find: fn(&Tree) -> Vec<String>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "every source file introduces itself",
        find: sources::introductions,
    },
    Check {
        name: "lines are short and end where they end",
        find: sources::lines,
    },
    Check {
        name: "no function is assembly from its first byte",
        find: sources::bare_functions,
    },
    Check {
        name: "unsafe code is where the ledger says",
        find: ledger::unsafe_code,
    },
    Check {
        name: "crates use only those that they may",
        find: crates::arrows,
    },
    Check {
        name: "files of a crate import each other in no new circle",
        find: circles::ledger,
    },
    Check {
        name: "every package has its licence, lints and versions",
        find: crates::packages,
    },
    Check {
        name: "every dependency has its reason",
        find: crates::reasons,
    },
    Check {
        name: "links in documents lead somewhere",
        find: documents::links,
    },
    Check {
        name: "documents name only things that exist",
        find: documents::names,
    },
    Check {
        name: "lessons of the course are complete and quote their sources",
        find: course::lessons,
    },
    Check {
        name: "every promise names its test",
        find: documents::promises,
    },
    Check {
        name: "every term has its line in the glossary",
        find: glossary::terms,
    },
    Check {
        name: "words of the earlier vocabulary are not used",
        find: glossary::former,
    },
    Check {
        name: "no path of one machine is named",
        find: words::forbidden,
    },
    Check {
        name: "images that are kept are small",
        find: words::images,
    },
];

/// The name of every check, with its faults.
pub fn check_all(root: &Path) -> Vec<(&'static str, Vec<String>)> {
    let tree = Tree::read(root);
    let results = CHECKS.iter().map(|c| (c.name, (c.find)(&tree)));
    results.collect()
}

/// Prints the import circles with the imports that close them, or writes them
/// to their ledger.
pub fn circles(words: &[&str]) -> ExitCode {
    let tree = Tree::read(&place::root());
    if words == ["--write"] {
        circles::write_ledger(&tree);
        return ExitCode::SUCCESS;
    }
    for circle in circles::circles(&tree) {
        println!("a circle of {} files:", circle.files.len());
        for line in circle.imports {
            println!("  {line}");
        }
    }
    ExitCode::SUCCESS
}

/// Runs all checks, and prints the faults.
pub fn main() -> ExitCode {
    let mut wrong = 0;
    for (name, found) in check_all(&place::root()) {
        for line in &found {
            println!("{name}: {line}");
        }
        wrong += found.len();
    }
    ExitCode::from(u8::from(wrong != 0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        if !crate::program::cargo_runs() {
            let why = "this user has no cargo that runs";
            return crate::program::skip("the_tree_is_tidy", why);
        }
        let all = super::check_all(&crate::place::root());
        let found: Vec<_> = all.iter().filter(|(_, f)| !f.is_empty()).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}
