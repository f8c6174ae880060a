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
use crate::runtime_folder::{RuntimeFolder, figure};
use std::path::Path;
use std::time::Duration;

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
            if let Err(why) = measure_once(program, folder, guest, &mut add) {
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

/// Measures everything of a guest once.
fn measure_once(
    lguest: &Path,
    folder: &Path,
    guest: &Guest,
    add: &mut impl FnMut(&str, f64),
) -> Result<(), String> {
    let folder = folder.join(format!("machines-{}", std::process::id()));
    let machines =
        RuntimeFolder::new(lguest, folder).map_err(|e| e.to_string())?;
    let saved = machines.folder().join("snapshot").display().to_string();
    let mut words = vec!["run", "--name=bench", "--detach", "--until"];
    words.push(guest.prompt);
    words.extend(guest.options.iter().map(String::as_str));
    machines.done(&words)?;
    let (_, pause) = machines.done(&["pause", "bench"])?;
    add(PAUSE, milliseconds(pause));
    machines.done(&["resume", "bench"])?;
    let (said, _) = machines.done(&["snapshot", "bench", &saved])?;
    let stood = figure(&said, "stood still for ", " ms");
    add(STANDS, stood.ok_or(said)?);
    machines.done(&["kill", "bench"])?;

    let restore = machines.command(&["restore", &saved, "--verbose"]);
    let mut restored = Conversation::start(restore, None)?;
    restored.say("echo answered")?;
    let (_, first) = restored.wait_for("ready after ", PATIENCE)?;
    add(FIRST, milliseconds(first));
    let (_, answer) = restored.wait_for("\nanswered", PATIENCE)?;
    add(ANSWER, milliseconds(answer));
    drop(restored);

    let (_, clone) = machines.done(&["clone", &saved, "--name=clone"])?;
    add(CLONE, milliseconds(clone));
    machines.done(&["kill", "--all"])?;
    Ok(())
}
