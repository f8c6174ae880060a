//! What no compiler checks: how the tree is kept.
//!
//! Each check looks at the whole tree and answers with a list of what it
//! found, in words that say what to do.

use std::path::Path;
use std::process::ExitCode;

type Check = fn(&Path) -> Vec<String>;

const CHECKS: &[(&str, Check)] = &[];

/// Every check by name, with what it found.
pub fn check_all(root: &Path) -> Vec<(&'static str, Vec<String>)> {
    CHECKS
        .iter()
        .map(|&(name, check)| (name, check(root)))
        .collect()
}

/// Runs all checks for a person.
pub fn main() -> ExitCode {
    let mut wrong = 0;
    for (name, found) in check_all(&crate::root()) {
        for line in &found {
            println!("{name}: {line}");
        }
        wrong += found.len();
    }
    ExitCode::from(u8::from(wrong != 0))
}
