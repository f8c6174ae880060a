//! The project's own tools: CI, the benchmark, and checks of the tree.
//!
//! `cargo xtask ci` is all of CI. If CI fails and this command does not, that
//! is a bug. `cargo xtask tidy` checks what no compiler checks: how files
//! begin, which files may contain unsafe code, which crate may use which, and
//! whether everything that the documents name exists.

pub mod bench;
pub mod ci;
pub mod dist;
mod family;
pub mod fuzz;
mod many;
mod place;
pub mod program;
mod runtime_folder;
pub mod soak;
pub mod steps;
pub mod tally;
pub mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  ci [--quick] [STEP...]  all that CI does, or \
some steps of it
  tidy                    the checks that no compiler makes
  \
circles [--write]       files of a crate that import each other; with
                          \
--write, into the list that may only shrink
  fuzz [TARGET... [--seconds N]]
                          \
names the targets, or runs some of them
  bench [OPTION...]       measure \
costs, natively and in guests
  dist [FOLDER]           \
make what is given to others
  soak snapshots [OPTION...]
                          \
moves a machine again and again by a snapshot
  soak many [OPTION...]   \
starts hundreds of machines, and measures them
  help                    this text
";

/// Runs the command of the command line.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["ci", ref rest @ ..] => steps::main(rest),
        ["tidy"] => tidy::main(),
        ["circles", ref rest @ ..] => tidy::circles(rest),
        ["bench", ref rest @ ..] => bench::main(rest),
        ["dist", ref rest @ ..] => dist::main(rest),
        ["fuzz", ref rest @ ..] => fuzz::main(rest),
        ["soak", ref rest @ ..] => soak::main(rest),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}\nsteps of ci:\n{}", steps::listing());
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{HELP}");
            ExitCode::from(2)
        }
    }
}
