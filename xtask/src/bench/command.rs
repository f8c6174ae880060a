//! A command of the benchmark: its words, its help, and its end.
//!
//! `bench` and `bench exec` are carried out in the same way.

use std::process::ExitCode;

/// Reads the words of a command, and runs it.
pub(super) fn carry_out<T>(
    words: &[&str],
    help: &str,
    parse: impl Fn(&[&str]) -> Result<T, String>,
    run: impl Fn(&T) -> Result<(), String>,
) -> ExitCode {
    if let ["--help" | "-h"] = words {
        print!("{help}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(words) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("xtask: {error}\n\n{help}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
