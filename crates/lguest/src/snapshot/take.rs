//! Taking a snapshot of a machine that runs.
//!
//! The Guest stands while its memory and its disks are copied. Everything else
//! is done before and afterwards.

use super::folder::{MANIFEST, New};
use super::manifest::{FORMAT, Manifest, Still};
use super::pages::Pages;
use super::saved::{COPIES, MEMORY, STATE, SUM};
use super::{DiskPlace, SnapshotError};
use lg_wire::state::{COPIES_SIZE, STATE_SIZE};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A machine that stands still, as its Launcher has handed it over.
pub struct Standing {
    /// What the Launcher tells.
    pub still: Still,
    /// Its memory, the state that its views share, and its patched copies.
    pub files: [OwnedFd; 3],
    /// The files of its disks, in order: [`DiskPlace::files`] of each.
    pub disks: Vec<OwnedFd>,
}

/// A snapshot that is written, before it is complete.
pub struct Begun(New);

/// A snapshot whose Guest may go on.
pub struct Written {
    new: New,
    manifest: Manifest,
}

impl Begun {
    /// Begins a snapshot in `folder`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn at(folder: &Path) -> Result<Self, SnapshotError> {
        New::begin(folder).map(Self)
    }

    /// Copies all that the Guest changes when it goes on. `copies`: where the
    /// blocks of a disk cannot be cloned, they are copied.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn copy(
        self,
        standing: Standing,
        copies: bool,
    ) -> Result<Written, SnapshotError> {
        let Self(new) = self;
        let Standing {
            still,
            files,
            disks,
        } = standing;
        let mut open = disks.into_iter();
        let [memory, state, copied] = &files;
        let pack = |name: &str, from: &OwnedFd, bytes: u64| {
            let mut to = new.create(name)?;
            let packed = Pages::pack(from, bytes, &mut to);
            packed.map_err(|error| SnapshotError::Write {
                path: new.path().join(name),
                error,
            })
        };
        let places = still.disks.iter().enumerate();
        let disks = places
            .map(|(n, place): (usize, &DiskPlace)| {
                let open = open.by_ref().take(place.files()).collect();
                place.save(open, &new, n, copies)
            })
            .collect::<Result<_, _>>()?;
        let manifest = Manifest {
            format: FORMAT,
            taken: crate::devices::console::backlog::now(),
            memory: pack(MEMORY, memory, still.limit.into())?,
            state: pack(STATE, state, STATE_SIZE as u64)?,
            copies: pack(COPIES, copied, COPIES_SIZE as u64)?,
            machine: still,
            disks,
        };
        Ok(Written { new, manifest })
    }
}

impl Written {
    /// Completes the snapshot. Returns the bytes of memory in it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn finish(self) -> Result<u64, SnapshotError> {
        let Self { new, manifest } = self;
        let (text, sum) = manifest.write();
        for (name, bytes) in [(MANIFEST, &text[..]), (SUM, sum.as_bytes())] {
            let mut file: File = new.create(name)?;
            let written = file.write_all(bytes);
            written.map_err(|error| SnapshotError::Write {
                path: new.path().join(name),
                error,
            })?;
        }
        new.finish()?;
        Ok(manifest.memory.in_file())
    }
}
