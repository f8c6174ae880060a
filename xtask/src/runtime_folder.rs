//! A runtime folder with machines of its own, and commands about them.
//!
//! All of them are ended when the folder goes, and nothing stays of it.

use crate::place;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A program lguest, and the folder with its machines.
pub(crate) struct RuntimeFolder {
    lguest: PathBuf,
    folder: PathBuf,
}

impl RuntimeFolder {
    /// A folder for the machines of a program.
    pub(crate) fn new(lguest: &Path, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let lguest = fs::canonicalize(lguest)?;
        Ok(Self { lguest, folder })
    }

    /// A folder below `target/soak`, whose name begins with `name`, for the
    /// program that LGUEST names, or the release build.
    pub(crate) fn to_soak(name: &str) -> io::Result<Self> {
        let root = place::root();
        let named = std::env::var_os("LGUEST").map(PathBuf::from);
        let lguest = named.unwrap_or_else(|| place::release(&root));
        let folder = format!("target/soak/{name}-{}", std::process::id());
        Self::new(&lguest, root.join(folder))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command about these machines.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.lguest);
        command.args(words).env("XDG_RUNTIME_DIR", &self.folder);
        command
    }

    /// Runs a command that has to succeed. Returns its output, and how long it
    /// took.
    pub(crate) fn done(
        &self,
        words: &[&str],
    ) -> Result<(String, Duration), String> {
        let mut command = self.command(words);
        let start = Instant::now();
        let output = command.output();
        let time = start.elapsed();
        let output = output.map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok((said(&output.stdout), time)),
            false => Err(format!(
                "'lguest {}' has failed: {}",
                words.join(" "),
                said(&output.stderr)
            )),
        }
    }
}

impl Drop for RuntimeFolder {
    fn drop(&mut self) {
        // What still runs has failed, and that was reported.
        let _ = self.command(&["kill", "--all"]).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The number between `before` and `after`.
pub(crate) fn figure(text: &str, before: &str, after: &str) -> Option<f64> {
    text.split(before).find_map(|rest| {
        let (number, _) = rest.split_once(after)?;
        number.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_that_a_snapshot_prints() {
        let said = "/a: 9.8 MiB of memory; the guest stood still for 1.2 ms\n";
        assert_eq!(figure(said, ": ", " MiB"), Some(9.8));
        assert_eq!(figure(said, "stood still for ", " ms"), Some(1.2));
        assert_eq!(figure("nothing", ": ", " MiB"), None);
    }

    #[test]
    fn a_command_that_fails_says_why_and_the_folder_goes() {
        let folder = std::env::temp_dir();
        let folder =
            folder.join(format!("xtask-runtime-{}", std::process::id()));
        let machines = RuntimeFolder::new(Path::new("/bin/sh"), folder.clone());
        let machines = machines.unwrap();
        let script = "echo \"$XDG_RUNTIME_DIR\"";
        let (said, _) = machines.done(&["-c", script]).unwrap();
        assert_eq!(Path::new(said.trim()), folder);
        let why = machines.done(&["-c", "echo no >&2; exit 3"]).unwrap_err();
        assert!(why.ends_with("has failed: no\n"), "{why}");
        drop(machines);
        assert!(!folder.exists());
    }
}
