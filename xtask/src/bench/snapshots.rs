//! Snapshots: how fast a machine goes on, and how long it stands for one.
//!
//! A machine at its prompt is written into a snapshot, which is restored again
//! and again. That is measured from outside, from the start of the command on:
//! to the moment when the Launcher hands over to the guest, and to the guest's
//! answer to a line that was typed at once.

use super::conversation::Conversation;
use super::embedded::milliseconds;
use super::options::Options;
use super::results::{Figure, Results, System};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) const TITLE: &str = "snapshots";

/// What is measured of each guest.
const FIRST: &str = "restore to first instruction";
const ANSWER: &str = "restore to an answer on its console";
const CLONE: &str = "clone of a snapshot, the whole command";
const PAUSE: &str = "pause, the whole command";
const STANDS: &str = "stands for a snapshot";
const ALL: [&str; 5] = [FIRST, ANSWER, CLONE, PAUSE, STANDS];

const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that is measured.
struct Guest {
    /// The beginning of its rows.
    name: &'static str,
    /// What it prints when it takes commands.
    prompt: &'static str,
    /// Options of `lguest run`.
    options: Vec<String>,
}

impl Guest {
    fn built_in() -> Self {
        Self {
            name: "snapshot built-in",
            prompt: "lguest> ",
            options: Vec::new(),
        }
    }

    /// A Linux with 64 MB, at the shell of its ram disk.
    fn linux() -> Result<Self, String> {
        let given = |name: &str| {
            let value = std::env::var(name);
            value.map_err(|_| format!("give {name}"))
        };
        let kernel = given("LGUEST_TEST_VMLINUX")?;
        let initrd = given("LGUEST_TEST_INITRD")?;
        Ok(Self {
            name: LINUX,
            prompt: "# ",
            options: vec![
                "--memory=64M".into(),
                format!("--kernel={kernel}"),
                format!("--initrd={initrd}"),
                "--append=console=hvc0".into(),
            ],
        })
    }

    fn row(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }
}

const LINUX: &str = "snapshot linux";

/// Measures all guests.
pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    folder: &Path,
    results: &mut Results,
) {
    measure_built_in(options, lguest, folder, results);
    if !options.wants(LINUX) {
        return;
    }
    match Guest::linux() {
        Ok(guest) => rounds(options, &guest, lguest, folder, results),
        Err(why) => results.add(TITLE, LINUX, System::Lguest, Err(why)),
    }
}

/// Measures the built-in guest, which needs no files.
pub(super) fn measure_built_in(
    options: &Options,
    lguest: &Path,
    folder: &Path,
    results: &mut Results,
) {
    let guest = Guest::built_in();
    if options.wants(guest.name) {
        rounds(options, &guest, lguest, folder, results);
    }
}

fn rounds(
    options: &Options,
    guest: &Guest,
    lguest: &Path,
    folder: &Path,
    results: &mut Results,
) {
    let mut systems = vec![(System::Lguest, lguest)];
    if let Some(other) = &options.baseline {
        systems.push((System::Baseline, other));
    }
    for round in 0..options.rounds {
        eprintln!("{}: round {}", guest.name, round + 1);
        for &(system, program) in &systems {
            let mut add = |what: &str, time: f64| {
                let figure = Ok(Figure::new(time, "ms"));
                results.add(TITLE, &guest.row(what), system, figure);
            };
            let place = Place::new(program, folder);
            if let Err(why) = place.and_then(|p| p.measure(guest, &mut add)) {
                let row = guest.row(FIRST);
                results.add(TITLE, &row, system, Err(why));
            }
        }
        systems.reverse();
    }
    for what in ALL {
        results.must_have(TITLE, &guest.row(what), System::Lguest);
    }
}

/// A folder for machines and a snapshot, which is removed at the end.
struct Place {
    lguest: PathBuf,
    folder: PathBuf,
}

impl Place {
    fn new(lguest: &Path, folder: &Path) -> Result<Self, String> {
        let name = format!("machines-{}", std::process::id());
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let lguest = lguest.to_owned();
        Ok(Self { lguest, folder })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.lguest);
        command.args(words).env("XDG_RUNTIME_DIR", &self.folder);
        command
    }

    /// Runs a command that has to succeed. Returns its output, and how long it
    /// took.
    fn done(&self, words: &[&str]) -> Result<(String, Duration), String> {
        let start = Instant::now();
        let output = self.command(words).output();
        let time = start.elapsed();
        let output = output.map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok((said(&output.stdout), time)),
            false => Err(format!("{}: {}", words[0], said(&output.stderr))),
        }
    }

    /// One round.
    fn measure(
        &self,
        guest: &Guest,
        add: &mut impl FnMut(&str, f64),
    ) -> Result<(), String> {
        let saved = self.folder.join("snapshot").display().to_string();
        let mut words = vec!["run", "--name=bench", "--detach", "--until"];
        words.push(guest.prompt);
        words.extend(guest.options.iter().map(String::as_str));
        self.done(&words)?;
        let (_, pause) = self.done(&["pause", "bench"])?;
        add(PAUSE, milliseconds(pause));
        self.done(&["resume", "bench"])?;
        let (said, _) = self.done(&["snapshot", "bench", &saved])?;
        add(STANDS, stood(&said).ok_or(said)?);
        self.done(&["kill", "bench"])?;

        let restore = self.command(&["restore", &saved, "--verbose"]);
        let mut restored = Conversation::start(restore, None)?;
        restored.say("echo answered")?;
        let (_, first) = restored.wait_for("ready after ", PATIENCE)?;
        add(FIRST, milliseconds(first));
        let (_, answer) = restored.wait_for("\nanswered", PATIENCE)?;
        add(ANSWER, milliseconds(answer));
        drop(restored);

        let (_, clone) = self.done(&["clone", &saved, "--name=clone"])?;
        add(CLONE, milliseconds(clone));
        self.done(&["kill", "--all"])?;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A machine that is left has failed, and that is reported.
        let _ = self.command(&["kill", "--all"]).output();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// How many milliseconds a guest stood, by what `lguest snapshot` says.
fn stood(said: &str) -> Option<f64> {
    let (_, time) = said.rsplit_once("stood still for ")?;
    time.split_once(" ms")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_how_long_the_guest_stood() {
        let said = "/a: 9.8 MiB of memory; the guest stood still for 1.2 ms\n";
        assert_eq!(stood(said), Some(1.2));
        assert_eq!(stood("nothing"), None);
    }
}
