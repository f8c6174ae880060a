//! `lguest clone`: several machines that go on from one point.
//!
//! Each clone is a Launcher of its own, as 'lguest restore --detach' starts it.
//! A machine that runs is cloned by a snapshot that is removed at the end: the
//! clones have its files open.

use super::facts::print;
use super::found::DONE;
use super::snapshot;
use crate::cli::exit::Outcome;
use crate::cli::networks;
use crate::machines::error::MachineError;
use crate::machines::name::Name;
use crate::snapshot::{Saved, SnapshotError};
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    /// Files outside of the snapshot that they may read.
    pub bases: Vec<PathBuf>,
    /// What their network interfaces are connected to, as `--net` says it.
    pub networks: Vec<OsString>,
    /// Their shares, as `--share` says them.
    pub shares: Vec<OsString>,
    /// Copies disks whose blocks cannot be cloned.
    pub copies: bool,
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
        let saved = Saved::open(&folder)?;
        self.bases.extend(saved.outside().map(Path::to_owned));
        self.start_from(&folder, &prefix)
    }

    /// Starts them from the snapshot in `folder`.
    fn start_from(
        &self,
        folder: &Path,
        prefix: &str,
    ) -> Result<Outcome, MachineError> {
        for number in 1..=self.number {
            let name = format!("{prefix}-{number}");
            let mut command = Command::new("/proc/self/exe");
            command.arg("restore").arg(folder);
            command.args(["--detach", "--name", &name]);
            for base in &self.bases {
                command.arg("--base").arg(base);
            }
            for network in &self.networks {
                command
                    .arg("--net")
                    .arg(networks::of_clone(network, number));
            }
            for share in &self.shares {
                command.arg("--share").arg(share);
            }
            if let Some(changes) = &self.changes {
                let own = changes.join(&name);
                std::fs::create_dir_all(&own).map_err(|error| {
                    MachineError::Own("make a folder for changes", error)
                })?;
                command.arg("--changes").arg(own);
            }
            let status = command
                .status()
                .map_err(|e| MachineError::Own("start a clone", e))?;
            // It has said why.
            match status.code().and_then(|code| u8::try_from(code).ok()) {
                // If the reader has closed the pipe, the machines run anyway.
                Some(0) => drop(print(&format!("{name}\n"))),
                code => {
                    let code = code.unwrap_or(Outcome::Failed.code());
                    return Ok(Outcome::OfMachine(code));
                }
            }
        }
        Ok(DONE)
    }
}
