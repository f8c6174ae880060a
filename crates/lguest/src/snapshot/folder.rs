//! The folder of a new snapshot.
//!
//! All files are written to a folder beside the place where it is to be, which
//! takes that place when it is complete. A command that is killed before does
//! not change the old snapshot. The next command empties the folder that the
//! killed one has filled.

use super::SnapshotError;
use crate::replace::{replace, settle};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The name of a manifest, by which a snapshot is known.
pub(super) const MANIFEST: &str = "manifest.json";

/// How the names of hidden folders end: of one that is being filled, and of one
/// that is being replaced.
const NEW: &str = ".lguest-new";
const OLD: &str = ".lguest-old";

/// A folder that is being filled.
pub(super) struct New {
    /// Where it is going to be.
    place: PathBuf,
    /// Where it is. `None` when it is in its place.
    path: Option<PathBuf>,
    /// Locked by the command that fills it.
    _lock: File,
}

impl New {
    /// Makes an empty folder for a snapshot at `place`.
    pub(super) fn begin(place: &Path) -> Result<Self, SnapshotError> {
        let failed = |error| SnapshotError::Write {
            path: place.into(),
            error,
        };
        recover(place);
        let path = hidden(place, NEW);
        let Some(path) = path.filter(|_| is_free(place)) else {
            return Err(SnapshotError::Taken(place.into()));
        };
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&path, flags, Mode::empty());
        let lock = File::from(lock.map_err(|error| failed(error.into()))?);
        // Another user may have made it, to read what is written there.
        if !is_private(&lock).map_err(failed)? {
            return Err(SnapshotError::NotPrivate(path));
        }
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        // Another command may have finished its own meanwhile.
        if locked.is_err() || !is_at(&lock, &path) {
            return Err(SnapshotError::Busy(place.into()));
        }
        empty(&path).map_err(failed)?;
        Ok(Self {
            place: place.into(),
            path: Some(path),
            _lock: lock,
        })
    }

    /// Where the folder is now.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(&self.place)
    }

    /// Makes a file in it.
    pub(super) fn create(&self, name: &str) -> Result<File, SnapshotError> {
        let path = self.path().join(name);
        let mut new = OpenOptions::new();
        new.write(true).create_new(true).mode(0o600);
        new.open(&path)
            .map_err(|error| SnapshotError::Write { path, error })
    }

    /// The folder is complete, and takes its place.
    pub(super) fn finish(mut self) -> Result<(), SnapshotError> {
        let Some(path) = self.path.take() else {
            return Ok(());
        };
        let moved = self.put(&path);
        if moved.is_err() {
            self.path = Some(path);
        }
        moved.map_err(|error| SnapshotError::Write {
            path: self.place.clone(),
            error,
        })
    }

    fn put(&self, path: &Path) -> io::Result<()> {
        let place = &self.place;
        match hidden(place, OLD) {
            Some(aside) if std::fs::symlink_metadata(place).is_ok() => {
                replace(path, place, &aside)
            }
            _ => std::fs::rename(path, place),
        }
    }
}

/// If a command was killed while it replaced the snapshot at `place`, the old
/// one is moved back.
pub(super) fn recover(place: &Path) {
    let folders = (hidden(place, NEW), hidden(place, OLD));
    if let (Some(new), Some(old)) = folders {
        settle(place, &new, &old);
    }
}

/// A hidden folder beside `place`.
fn hidden(place: &Path, end: &str) -> Option<PathBuf> {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(place.file_name()?);
    hidden.push(end);
    Some(place.with_file_name(hidden))
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The caller reports the error that has led to this.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Whether a snapshot may take this place: there is none yet, or an old one, or
/// an empty folder.
fn is_free(place: &Path) -> bool {
    match std::fs::symlink_metadata(place) {
        Err(_) => true,
        Ok(found) if !found.is_dir() => false,
        Ok(_) => {
            let has = place.join(MANIFEST).exists();
            let is_empty = std::fs::read_dir(place);
            has || is_empty.is_ok_and(|mut files| files.next().is_none())
        }
    }
}

/// Whether the open folder is this user's, and nobody else gets into it.
fn is_private(folder: &File) -> io::Result<bool> {
    let found = folder.metadata()?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    Ok(ours && found.mode() & 0o077 == 0)
}

/// Whether the open folder is that at `path`.
fn is_at(folder: &File, path: &Path) -> bool {
    let number = |found: std::fs::Metadata| (found.dev(), found.ino());
    let ours = folder.metadata().map(number).ok();
    let there = std::fs::symlink_metadata(path).map(number).ok();
    ours.is_some() && ours == there
}

/// Removes what a command has left that was killed.
fn empty(folder: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(folder)? {
        std::fs::remove_file(file?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("lguest-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    fn fill(place: &Path, text: &str) -> New {
        let new = New::begin(place).unwrap();
        let mut file = new.create(MANIFEST).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        new
    }

    #[test]
    fn a_snapshot_takes_its_place_whole_or_not_at_all() {
        let scratch = scratch("whole");
        let place = scratch.join("web");
        let read = || std::fs::read_to_string(place.join(MANIFEST)).ok();
        drop(fill(&place, "never"));
        assert_eq!(read(), None);
        fill(&place, "first").finish().unwrap();
        assert_eq!(read().as_deref(), Some("first"));
        // A command that was killed has left something.
        std::mem::forget(fill(&place, "killed"));
        assert_eq!(read().as_deref(), Some("first"));
        assert!(matches!(New::begin(&place), Err(SnapshotError::Busy(_))));
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn nothing_is_written_where_another_user_could_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = scratch("private");
        let place = scratch.join("web");
        let hidden = scratch.join(".web.lguest-new");
        std::fs::create_dir(&hidden).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&hidden, open).unwrap();
        let error = New::begin(&place).err().unwrap();
        assert!(matches!(error, SnapshotError::NotPrivate(_)), "{error}");
        assert!(error.to_string().contains(".web.lguest-new"), "{error}");
        std::fs::remove_dir(&hidden).unwrap();
        fill(&place, "all").finish().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&place), 0o700);
        assert_eq!(mode(&place.join(MANIFEST)), 0o600);
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_snapshot_that_was_moved_aside_comes_back() {
        let scratch = scratch("aside");
        let place = scratch.join("web");
        fill(&place, "old").finish().unwrap();
        let aside = scratch.join(".web.lguest-old");
        std::fs::rename(&place, &aside).unwrap();
        // A reader finds it, and so does the next command that writes there.
        let error = crate::snapshot::Saved::open(&place).unwrap_err();
        assert!(error.to_string().contains("manifest"), "{error}");
        std::fs::rename(&place, &aside).unwrap();
        drop(fill(&place, "never"));
        let text = std::fs::read_to_string(place.join(MANIFEST)).unwrap();
        assert_eq!(text, "old");
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn what_is_no_snapshot_is_left_alone() {
        let scratch = scratch("alone");
        let place = scratch.join("web");
        std::fs::create_dir(&place).unwrap();
        fill(&place, "into an empty folder").finish().unwrap();
        fill(&place, "in place of another").finish().unwrap();
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1);
        let other = scratch.join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("file"), "mine").unwrap();
        for taken in [&other, &other.join("file")] {
            let error = New::begin(taken).err().unwrap();
            assert!(matches!(error, SnapshotError::Taken(_)), "{error}");
        }
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
