//! `lguest clone`: several machines that go on from one point.
//!
//! Each clone is a Launcher of its own, as 'lguest restore --detach' starts it.
//! It is a fork of this process, so it needs no exec and reads no command line.
//! A machine that runs is cloned by a snapshot that is removed at the end: the
//! clones have its files open.

use super::facts::print;
use super::found::DONE;
use super::snapshot;
use crate::cli::exit::Outcome;
use crate::cli::networks;
use crate::engine::clock;
use crate::machine::{self, Restore};
use crate::machines::error::MachineError;
use crate::machines::name::Name;
use crate::snapshot::{Saved, SnapshotError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How many names a temporary folder may have.
const ATTEMPTS: u32 = 64;

/// The copies to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clones {
    /// A machine's name, or a folder.
    pub of: PathBuf,
    /// How many.
    pub number: u16,
    /// What their names begin with.
    pub prefix: Option<Name>,
    /// The folder for what they write.
    pub changes: Option<PathBuf>,
    /// What each of them is, but for its name and its changes.
    pub each: Box<Restore>,
    /// Copies disks whose blocks cannot be cloned.
    pub copies: bool,
}

/// The name of the clone with this number.
fn named(prefix: &str, number: u16) -> Result<Name, MachineError> {
    let name = format!("{prefix}-{number}");
    let parsed = name.parse();
    parsed.map_err(|why| MachineError::NotAName(name, why))
}

/// A folder that is removed at the end.
struct Temporary(PathBuf);

impl Temporary {
    /// Makes it, for this user only. A folder that is there already is another
    /// user's, or was left.
    fn make() -> Result<Self, MachineError> {
        let pid = std::process::id();
        let mut made = Err(std::io::ErrorKind::AlreadyExists.into());
        for number in 0..ATTEMPTS {
            let name = format!("lguest-clone-{pid}-{number}");
            let path = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => {
                    made = other.map(|()| Self(path));
                    break;
                }
            }
        }
        made.map_err(|e| MachineError::Own("make a temporary folder", e))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Clones {
    /// Starts them.
    pub(super) fn start(mut self) -> Result<Outcome, MachineError> {
        let text = self.of.to_string_lossy().into_owned();
        let machine = text.parse::<Name>().ok();
        let machine = machine.filter(|_| !text.contains('/'));
        let own = self.of.file_name().unwrap_or_default().to_string_lossy();
        let prefix = self.prefix.take().map(|name| name.to_string());
        let prefix = prefix.unwrap_or_else(|| own.into_owned());
        // The last name is the longest.
        named(&prefix, self.number)?;
        let Some(name) = machine else {
            return self.start_from(&self.of, &prefix);
        };
        if self.changes.is_some() {
            return Err(SnapshotError::ChangesOfClones(name.to_string()).into());
        }
        let temporary = Temporary::make()?;
        let folder = temporary.0.join("snapshot");
        snapshot::write(&name, &folder, self.copies)?;
        // The machine that is cloned has them open: it has proved that.
        let bases: Vec<_> = {
            // It is closed before the first fork: a clone would keep its files.
            let saved = Saved::open(&folder)?;
            saved.outside().map(Path::to_owned).collect()
        };
        self.each.bases.extend(bases);
        self.start_from(&folder, &prefix)
    }

    /// Starts them from the snapshot in `folder`.
    fn start_from(
        &self,
        folder: &Path,
        prefix: &str,
    ) -> Result<Outcome, MachineError> {
        for number in 1..=self.number {
            let restore = self.numbered(number, folder, prefix)?;
            let run = machine::restore(&restore, clock::start());
            let outcome = run.unwrap_or_else(|error| error.told());
            if outcome != DONE {
                return Ok(outcome);
            }
            if let Some(name) = restore.name {
                // If the reader has closed the pipe, the machines run anyway.
                drop(print(&format!("{name}\n")));
            }
        }
        Ok(DONE)
    }

    /// The clone with this number, from 1 on.
    fn numbered(
        &self,
        number: u16,
        folder: &Path,
        prefix: &str,
    ) -> Result<Restore, MachineError> {
        let name = named(prefix, number)?;
        let mut restore = (*self.each).clone();
        folder.clone_into(&mut restore.folder);
        for network in restore.networks.iter_mut().flatten() {
            networks::give_to_clone(network, number);
        }
        for text in &mut restore.settings.net {
            *text = networks::text_of_clone(text, number);
        }
        if let Some(changes) = &self.changes {
            let own = changes.join(name.as_str());
            std::fs::create_dir_all(&own).map_err(|error| {
                MachineError::Own("make a folder for changes", error)
            })?;
            restore.changes = Some(own);
        }
        restore.name = Some(name);
        Ok(restore)
    }
}
