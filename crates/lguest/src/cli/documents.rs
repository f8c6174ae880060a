//! Completions and manual pages, from the definition of the command line.
//!
//! They say the same as `--help`, because they are generated from the same
//! texts.

use super::grammar::Cli;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A manual page cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "manual page {}: it cannot be written: {error}: give a folder that exists \
     and that you may write to",
    path.display()
)]
pub struct ManualError {
    /// Its file.
    path: PathBuf,
    /// Why not.
    error: io::Error,
}

/// The script that completes the words of `lguest` in `shell`.
#[must_use]
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lguest", &mut script);
    script
}

/// The manual pages: file names and contents.
fn manual() -> Vec<(String, Vec<u8>)> {
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![page("lguest.1".into(), command.clone())];
    for part in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let file = format!("lguest-{}.1", part.get_name());
        pages.push(page(file, part.clone()));
    }
    pages
}

fn page(file: String, command: Command) -> (String, Vec<u8>) {
    let mut text = Vec::new();
    let written = Man::new(command).render(&mut text);
    written.expect("writing to memory does not fail");
    (file, text)
}

/// Writes the manual pages into `dir`. Replaces those of another version.
///
/// # Errors
///
/// [`ManualError`] names the first page that cannot be written.
pub fn write_manual(dir: &Path) -> Result<(), ManualError> {
    for (file, text) in manual() {
        let path = dir.join(file);
        fs::write(&path, text).map_err(|error| ManualError { path, error })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_the_commands_and_their_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completion(shell)).unwrap();
            for word in ["doctor", "image", "no-fast-path", "sharenet"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page_with_its_exit_codes() {
        let pages = manual();
        let names: Vec<&str> = pages.iter().map(|page| &page.0[..]).collect();
        assert_eq!(
            names,
            [
                "lguest.1",
                "lguest-run.1",
                "lguest-restore.1",
                "lguest-exec.1",
                "lguest-doctor.1",
                "lguest-image.1",
                "lguest-completion.1",
                "lguest-ps.1",
                "lguest-top.1",
                "lguest-console.1",
                "lguest-logs.1",
                "lguest-stop.1",
                "lguest-kill.1",
                "lguest-pause.1",
                "lguest-resume.1",
                "lguest-device.1",
                "lguest-wait.1",
                "lguest-stats.1",
                "lguest-inspect.1",
                "lguest-rm.1",
                "lguest-snapshot.1",
                "lguest-clone.1",
                "lguest-trace.1",
                "lguest-profile.1",
                "lguest-send.1",
                "lguest-new.1",
                "lguest-runner.1",
                "lguest-man.1"
            ]
        );
        for (name, text) in &pages[..4] {
            let text = String::from_utf8_lossy(text);
            assert!(text.starts_with(".ie"), "{name}");
            assert!(text.contains("Exit status"), "{name}");
        }
    }
}
