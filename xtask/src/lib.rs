//! The project's own tools: what CI does, and what no compiler checks.
//!
//! `cargo xtask ci` is CI, whole: what it cannot reproduce on a developer's
//! machine is a bug. `cargo xtask tidy` looks at what the compiler does not
//! see: how files begin, where unsafe code may be, who may depend on whom, and
//! whether what the documents name exists.

pub mod bench;
pub mod ci;
pub mod fuzz;
pub mod program;
pub mod steps;
pub mod tally;
pub mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  ci [--quick] [STEP...]  all that CI does, or some steps of it
  tidy                    the checks that no compiler makes
  circles                 files of a crate that import each other
  fuzz [TARGET... [--seconds N]]
                          names the targets, or runs some of them
  bench [OPTION...]       what things cost, natively and in guests
  help                    this text
";

/// Does what the words on the command line say.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["ci", ref rest @ ..] => ci::main(rest),
        ["tidy"] => tidy::main(),
        ["circles"] => tidy::circles(),
        ["bench", ref rest @ ..] => bench::main(rest),
        ["fuzz", ref rest @ ..] => fuzz::main(rest),
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

/// The target that `.cargo/config.toml` names: what cargo builds lies below it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The command that `cargo build --release` makes.
fn release(root: &Path) -> PathBuf {
    root.join("target").join(TARGET).join("release/lguest")
}

/// The root of the tree.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_path_buf()
}
