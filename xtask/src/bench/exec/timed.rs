//! Runs a command to its end, and takes the time.
//!
//! A command that fails is an error, which has the last line of what it said.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a command has printed, and how long it took from its start to its end.
pub(super) struct Ran {
    pub(super) output: String,
    pub(super) time: Duration,
}

/// Runs a command to its end, with this file as its input.
pub(super) fn timed(
    command: &mut Command,
    input: Option<&Path>,
) -> Result<Ran, String> {
    let input = match input {
        None => Stdio::null(),
        Some(path) => std::fs::File::open(path)
            .map_err(|error| format!("{}: {error}", path.display()))?
            .into(),
    };
    let name = command.get_program().display().to_string();
    command.stdin(input);
    let start = Instant::now();
    let ended = command.output();
    let time = start.elapsed();
    let ended = ended.map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !ended.status.success() {
        let said = text(&ended.stderr);
        let last = said.lines().last().unwrap_or_default();
        return Err(format!("{}: {last}", ended.status));
    }
    let output = text(&ended.stdout);
    Ok(Ran { output, time })
}
