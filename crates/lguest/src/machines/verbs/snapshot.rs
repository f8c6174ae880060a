//! `lguest snapshot`: a machine that stands, written into a folder.
//!
//! The Launcher hands the Guest's files over, and this command copies them.

use super::facts::print;
use super::found::{DONE, find};
use crate::cli::exit::Outcome;
use crate::engine::printable;
use crate::machines::error::MachineError;
use crate::machines::link::Link;
use crate::machines::name::Name;
use crate::machines::protocol::{Call, Done, Frozen};
use crate::snapshot::manifest::Still;
use crate::snapshot::take::{Begun, Standing};
use crate::snapshot::{DiskPlace, Saved, SnapshotError};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the Launcher may take to stop the Guest: its disks may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes a snapshot, and tells about it.
pub(super) fn take(
    name: &Name,
    folder: &Path,
    copies: bool,
) -> Result<Outcome, MachineError> {
    let (bytes, stood) = write(name, folder, copies)?;
    // If the reader has closed the pipe, the exit code is enough.
    let _ = print(&format!(
        "{}: {:.1} MiB of memory; the guest stood still for {:.1} ms\n",
        folder.display(),
        mebibytes(bytes),
        stood.as_secs_f64() * 1e3,
    ));
    Ok(DONE)
}

/// Takes a snapshot. Returns the bytes of memory in it, and how long the Guest
/// stood still.
pub(super) fn write(
    name: &Name,
    folder: &Path,
    copies: bool,
) -> Result<(u64, Duration), MachineError> {
    let (_, machine) = find(name)?;
    let mut link = Link::to(&machine)?;
    let begun = Begun::at(folder)?;
    let start = Instant::now();
    let deadline = Some(start + PATIENCE);
    let (frozen, files) = link.ask_with_files(&Call::Freeze {}, deadline)?;
    let standing = standing(frozen, files)?;
    let written = begun.copy(standing, copies)?;
    // What was copied is whole only if the Guest has stood until now.
    link.ask::<Done>(&Call::Thaw {})?;
    let stood = start.elapsed();
    let bytes = written.finish()?;
    Ok((bytes, stood))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The machine as its Launcher has handed it over.
fn standing(
    frozen: Frozen,
    files: Vec<OwnedFd>,
) -> Result<Standing, SnapshotError> {
    let answer =
        |what: String| SnapshotError::Answer(printable(what.as_bytes()));
    let still: Still = serde_json::from_value(frozen.machine)
        .map_err(|error| answer(error.to_string()))?;
    let wanted = 3 + still.disks.iter().map(DiskPlace::files).sum::<usize>();
    let number = files.len();
    let wrong = || answer(format!("{number} files instead of {wanted}"));
    if number != wanted {
        return Err(wrong());
    }
    let mut files = files.into_iter();
    let first = [files.next(), files.next(), files.next()];
    let [Some(memory), Some(state), Some(copies)] = first else {
        return Err(wrong());
    };
    Ok(Standing {
        still,
        files: [memory, state, copies],
        disks: files.collect(),
    })
}

/// Checks a snapshot and prints what it is.
pub(super) fn check(folder: &Path) -> Result<Outcome, MachineError> {
    let mut saved = Saved::open(folder)?;
    saved.check()?;
    let manifest = &saved.manifest;
    let machine = &manifest.machine;
    let text = |text: &str| printable(text.as_bytes());
    let mut lines = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name:<10} {value}");
    };
    line("snapshot", "whole; all checksums are right".into());
    line("lguest", text(&machine.lguest));
    line(
        "memory",
        format!(
            "{} MiB, {:.1} MiB of it not zero",
            machine.ram >> 20,
            mebibytes(manifest.memory.in_file()),
        ),
    );
    // A machine that was restored has none.
    let kernel = machine.settings.kernel.as_deref();
    let kernel = kernel.unwrap_or("(in its memory)");
    line(
        "kernel",
        match machine.built_in {
            true => "(built in)".into(),
            false => text(kernel),
        },
    );
    line("disks", manifest.disks.len().to_string());
    for path in saved.outside() {
        line("base", text(&path.to_string_lossy()));
    }
    line(
        "here",
        match saved.goes_on_here() {
            Ok(()) if saved.has_moved() => {
                "it can be restored; lguest tells the guest its time-stamp \
                 counter here"
                    .into()
            }
            Ok(()) => "it can be restored".into(),
            Err(error) => error.to_string(),
        },
    );
    let _ = print(&lines);
    Ok(DONE)
}
