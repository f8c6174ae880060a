//! The command `cargo xtask`.
//!
//! All code is in the library, where it is tested and documented.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
