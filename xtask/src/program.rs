//! Runs a program with its output in a file and a time limit.
//!
//! Both streams go to one log below `target/ci`, so that they stay in order and
//! can be read afterwards. A program that takes too long is ended with all that
//! it has started, so that CI ends and names it.

use crate::family::family;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
pub struct Ended {
    /// Its exit status; none if it was killed.
    pub code: Option<i32>,
    /// All that it printed.
    pub output: String,
    /// The path of the log.
    pub log: PathBuf,
    /// The time that it took.
    pub time: Duration,
}

impl Ended {
    /// Whether its exit status is 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs `command` with `input` on its standard input, for `limit` at most.
///
/// # Errors
///
/// It cannot be started, or the log cannot be written.
pub fn run(
    mut command: Command,
    input: &str,
    log: &Path,
    limit: Duration,
) -> io::Result<Ended> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    if input.is_empty() {
        command.stdin(Stdio::null());
    } else {
        command.stdin(Stdio::piped());
    }
    // No command here may let rustup fetch a toolchain.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    let start = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input may still succeed.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            end_all_of(child.id());
            let status = child.wait()?;
            let mut file = File::options().append(true).open(log)?;
            writeln!(file, "ended by xtask after {limit:?}")?;
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    Ok(Ended {
        code: status.code(),
        output: String::from_utf8_lossy(&fs::read(log)?).into_owned(),
        log: log.to_path_buf(),
        time: start.elapsed(),
    })
}

/// Ends a process and everything that it has started. Parents come first, so
/// that none of them sees a child end and starts another.
pub(crate) fn end_all_of(process: u32) {
    let all = family(process);
    let all = all.iter().map(u32::to_string);
    // An error of `kill` does not matter: the process has ended meanwhile.
    let mut kill = Command::new("kill");
    kill.arg("-KILL").args(all).stderr(Stdio::null());
    let _ = kill.status();
}

/// Whether there is a program of this name to run.
pub fn exists(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether cargo runs for this user. A user may have a tree that another one
/// built, and no toolchain.
pub fn cargo_runs() -> bool {
    let mut cargo = Command::new("cargo");
    cargo.arg("--version").env("RUSTUP_AUTO_INSTALL", "0");
    cargo.output().is_ok_and(|ended| ended.status.success())
}

/// Reports that a test cannot run here, and counts it. The test runner cannot
/// hide the line.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    // The runner keeps only what the macros print.
    let _ = io::stdout().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, limit: Duration) -> Ended {
        let name = format!("xtask-{}-{}", std::process::id(), script.len());
        let log = std::env::temp_dir().join(name);
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = run(command, input, &log, limit).unwrap();
        fs::remove_file(log).unwrap();
        ended
    }

    #[test]
    fn both_streams_and_the_status_come_back() {
        let limit = Duration::from_secs(20);
        let ended = shell("cat; echo b >&2; exit 3", "a\n", limit);
        assert_eq!((ended.code, &*ended.output), (Some(3), "a\nb\n"));
        assert!(!ended.succeeded());
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let limit = Duration::from_millis(300);
        let ended = shell("sleep 50 & sleep 50; echo no", "", limit);
        assert_eq!(ended.code, None);
        assert!(ended.output.starts_with("ended by xtask"));
    }
}
