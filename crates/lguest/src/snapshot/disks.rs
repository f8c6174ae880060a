//! The disks of a snapshot.
//!
//! A file that the Guest may write is copied into the folder, by a clone of its
//! blocks where the file system can do that. A file that nobody writes, such as
//! the base of an overlay, stays where it is, and the manifest notes its size
//! and the time of its last change.

use super::SnapshotError;
use super::folder::New;
use crate::machine::config::{Changes, DiskConfig};
use rustix::fs::{FileType, OFlags, SeekFrom};
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The most layers of a disk.
const LAYERS: usize = 64;

/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// Where a machine that runs has a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskPlace {
    /// The file, or the base of an overlay.
    pub path: PathBuf,
    /// Images above it that nobody writes.
    pub layers: Vec<PathBuf>,
    /// Whether it is a raw image whatever it begins like.
    pub raw: bool,
    /// How the Guest uses it.
    pub way: Way,
}

/// How a Guest uses a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It only reads.
    ReadOnly,
    /// It writes to the file.
    Writes,
    /// It writes to this image above the file.
    Overlay(PathBuf),
    /// What it writes ends with it.
    ThrownAway,
}

impl DiskPlace {
    /// The place of `disk`. Relative names become absolute, because they are
    /// those of this process.
    ///
    /// # Errors
    ///
    /// There is no folder in which this process works.
    pub fn of(disk: &DiskConfig) -> io::Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let layers = disk.layers.iter().map(absolute);
        Ok(Self {
            path: absolute(&disk.path)?,
            layers: layers.collect::<io::Result<_>>()?,
            raw: disk.raw,
            way: match &disk.changes {
                Changes::Kept if disk.read_only => Way::ReadOnly,
                Changes::Kept => Way::Writes,
                Changes::Overlay(path) => Way::Overlay(absolute(path)?),
                Changes::ThrownAway => Way::ThrownAway,
            },
        })
    }

    /// How many files it has.
    #[must_use]
    pub fn files(&self) -> usize {
        let above = matches!(self.way, Way::Overlay(_));
        1 + self.layers.len() + usize::from(above)
    }

    /// Copies what changes into `new`, as disk `number`. `open` are its files,
    /// as the Launcher has them open: it is the Launcher, too, that tells their
    /// names, and nothing is opened by them. `copies`: where blocks cannot be
    /// cloned, they are copied.
    pub(super) fn save(
        &self,
        open: Vec<OwnedFd>,
        new: &New,
        number: usize,
        copies: bool,
    ) -> Result<SavedDisk, SnapshotError> {
        let name = format!("disk{number}");
        let open = open.into_iter().map(readable);
        let mut open = open.collect::<Result<Vec<_>, _>>()?;
        // Those below the last one stay where they are.
        let copied = match &self.way {
            Way::Writes => Some((&self.path, copies)),
            // It has the changes only, and is as long as they are.
            Way::Overlay(path) => Some((path, true)),
            Way::ReadOnly | Way::ThrownAway => None,
        };
        let copied = copied.and_then(|copied| Some((copied, open.pop()?)));
        let paths = std::iter::once(&self.path).chain(&self.layers);
        let outside = paths.zip(&open);
        let mut layers = outside
            .map(|(path, file)| Layer::outside(path, file))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(((path, copies), file)) = copied {
            copy((path, &file), new, &name, copies)?;
            layers.push(Layer::Copied(name));
        }
        Ok(SavedDisk {
            raw: self.raw,
            read_only: self.way == Way::ReadOnly,
            layers,
        })
    }
}

/// A disk in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SavedDisk {
    raw: bool,
    read_only: bool,
    /// The file, and images above it.
    layers: Vec<Layer>,
}

/// A file of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Layer {
    /// It is in the snapshot, with this name.
    Copied(String),
    /// It is elsewhere, and must not change.
    Outside {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// When it was changed last: seconds and nanoseconds.
        changed: (i64, i64),
    },
}

impl SavedDisk {
    /// Whether there can be such a disk.
    pub(super) fn is_possible(&self) -> bool {
        let plain = |name: &str| {
            let number = name.strip_prefix("disk").unwrap_or("");
            (1..5).contains(&number.len())
                && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        (1..=LAYERS).contains(&self.layers.len())
            && self.layers.iter().all(|layer| match layer {
                Layer::Copied(name) => plain(name),
                Layer::Outside { path, .. } => path.is_absolute(),
            })
    }

    /// The disk of a machine that goes on from the snapshot in `folder`, as
    /// disk `number`. The Guest may read the files `bases` outside of it.
    pub(super) fn config(
        &self,
        folder: &Path,
        number: usize,
        bases: &[PathBuf],
        changes: Option<&Path>,
    ) -> Result<DiskConfig, SnapshotError> {
        let resolve = |layer: &Layer| layer.resolve(folder, number, bases);
        let layers = self.layers.iter().map(resolve);
        let mut layers = layers.collect::<Result<Vec<_>, _>>()?.into_iter();
        let path = layers.next().unwrap_or_default();
        let changes = match changes {
            _ if self.read_only => Changes::Kept,
            None => Changes::ThrownAway,
            Some(changes) => {
                let file = changes.join(format!("disk{number}.qcow2"));
                if std::fs::symlink_metadata(&file).is_ok() {
                    return Err(SnapshotError::ChangesExist(file));
                }
                Changes::Overlay(file)
            }
        };
        Ok(DiskConfig {
            path,
            layers: layers.collect(),
            read_only: self.read_only,
            changes,
            raw: self.raw,
            fail: None,
        })
    }

    /// The files outside of the snapshot.
    pub(super) fn outside(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Copied(_) => None,
            Layer::Outside { path, .. } => Some(&**path),
        })
    }
}

impl Layer {
    /// The open `file`, which stays at `path`.
    fn outside(path: &Path, file: &File) -> Result<Self, SnapshotError> {
        let found = file.metadata().map_err(|e| write(path, e))?;
        let named = std::fs::metadata(path).ok();
        let number = |of: &Metadata| (of.dev(), of.ino());
        if named.as_ref().map(number) != Some(number(&found)) {
            return Err(SnapshotError::Renamed(path.into()));
        }
        Ok(Self::Outside {
            path: path.to_owned(),
            bytes: found.len(),
            changed: changed(&found),
        })
    }

    /// Where it is. It must not have changed.
    fn resolve(
        &self,
        folder: &Path,
        disk: usize,
        bases: &[PathBuf],
    ) -> Result<PathBuf, SnapshotError> {
        match self {
            Self::Copied(name) => {
                let path = folder.join(name);
                // A link would lead out of the folder.
                match std::fs::symlink_metadata(&path) {
                    Ok(found) if found.is_file() => Ok(path),
                    _ => Err(SnapshotError::Damaged {
                        path: folder.into(),
                        what: format!("there is no file {name}"),
                    }),
                }
            }
            Self::Outside {
                path,
                bytes,
                changed: at,
            } => {
                let given = given(path, bases);
                let base = given.ok_or_else(|| SnapshotError::NeedsBase {
                    path: folder.into(),
                    disk,
                    base: path.clone(),
                })?;
                let differs = |what: String| SnapshotError::BaseChanged {
                    path: folder.into(),
                    base: base.clone(),
                    what,
                };
                let found = std::fs::metadata(base)
                    .map_err(|error| differs(error.to_string()))?;
                let now = found.len();
                if now != *bytes {
                    let what = format!("it had {bytes} bytes and has {now}");
                    return Err(differs(what));
                }
                if changed(&found) != *at {
                    return Err(differs("it was written to".into()));
                }
                Ok(base.clone())
            }
        }
    }
}

/// The file of `bases` that was at `path` when the snapshot was taken. It may
/// be in another folder now, for example where a volume is mounted in a
/// container.
fn given<'a>(path: &Path, bases: &'a [PathBuf]) -> Option<&'a PathBuf> {
    let same = bases.iter().find(|base| *base == path);
    same.or_else(|| {
        let mut moved = bases.iter().filter(|base| {
            base.file_name().is_some() && base.file_name() == path.file_name()
        });
        moved.next().filter(|_| moved.next().is_none())
    })
}

/// When a file was changed last.
fn changed(of: &Metadata) -> (i64, i64) {
    (of.mtime(), of.mtime_nsec())
}

fn write(path: &Path, error: io::Error) -> SnapshotError {
    let path = path.to_owned();
    SnapshotError::Write { path, error }
}

/// A file that the Launcher has handed over, if it may be read and reading it
/// does not wait for anybody.
fn readable(file: OwnedFd) -> Result<File, SnapshotError> {
    let bad = |what: &str| SnapshotError::Answer(what.into());
    let flags = rustix::fs::fcntl_getfl(&file);
    let flags = flags.map_err(|error| bad(&error.to_string()))?;
    let mode = flags & OFlags::ACCMODE;
    if flags.contains(OFlags::PATH) || mode == OFlags::WRONLY {
        return Err(bad("a file of a disk that it cannot read itself"));
    }
    let found = rustix::fs::fstat(&file);
    let found = found.map_err(|error| bad(&error.to_string()))?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(file.into()),
        _ => Err(bad("a disk that is no file")),
    }
}

/// Copies the open file, which is called `from`, into `new` under `name`.
fn copy(
    (from, source): (&Path, &File),
    new: &New,
    name: &str,
    copies: bool,
) -> Result<(), SnapshotError> {
    let to = new.create(name)?;
    match rustix::fs::ioctl_ficlone(&to, source) {
        Ok(()) => Ok(()),
        Err(_) if copies => copy_data(source, &to)
            .map_err(|error| write(&new.path().join(name), error)),
        Err(_) => Err(SnapshotError::CannotClone {
            path: from.into(),
            to: new.path().into(),
        }),
    }
}

/// Copies all bytes; holes stay holes.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let bytes = rustix::fs::seek(from, SeekFrom::End(0))?;
    to.set_len(bytes)?;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A block device has no holes.
            Err(_) => at,
        };
        let read = from.read_at(&mut chunk, at)?;
        if read == 0 {
            break;
        }
        to.write_all_at(&chunk[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(layers: Vec<Layer>) -> SavedDisk {
        SavedDisk {
            raw: false,
            read_only: false,
            layers,
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        let copied = |name: &str| saved(vec![Layer::Copied(name.into())]);
        assert!(copied("disk0").is_possible());
        for name in ["", "disk", "disk0/../x", "../disk0", "disk00000", "x0"] {
            assert!(!copied(name).is_possible(), "{name}");
        }
        let outside = |path: &str| {
            saved(vec![Layer::Outside {
                path: path.into(),
                bytes: 0,
                changed: (0, 0),
            }])
        };
        assert!(outside("/a").is_possible());
        assert!(!outside("a").is_possible());
        assert!(!saved(Vec::new()).is_possible());
    }

    /// A Launcher that was taken over tells any names.
    #[test]
    fn only_what_the_launcher_has_open_gets_into_a_snapshot() {
        let name = format!("lguest-forged-{}", std::process::id());
        let scratch = std::env::temp_dir().join(name);
        std::fs::create_dir(&scratch).unwrap();
        let secret = scratch.join("secret");
        std::fs::write(&secret, b"secret").unwrap();
        let mine = scratch.join("mine");
        std::fs::write(&mine, b"mine").unwrap();
        let new = New::begin(&scratch.join("saved")).unwrap();
        let save = |way: &Way, files: [OwnedFd; 2], number| {
            let place = DiskPlace {
                path: secret.clone(),
                layers: Vec::new(),
                raw: true,
                way: way.clone(),
            };
            let files = files.into_iter().take(place.files()).collect();
            place.save(files, &new, number, true)
        };
        let open = || OwnedFd::from(File::open(&mine).unwrap());
        let renamed = |error| matches!(error, Err(SnapshotError::Renamed(_)));
        assert!(renamed(save(&Way::ReadOnly, [open(), open()], 0)));
        let overlay = Way::Overlay(secret.clone());
        assert!(renamed(save(&overlay, [open(), open()], 0)));
        save(&Way::Writes, [open(), open()], 1).unwrap();
        let copied = std::fs::read(new.path().join("disk1")).unwrap();
        assert_eq!(copied, b"mine");
        let at = |flags| {
            let mode = rustix::fs::Mode::empty();
            rustix::fs::open(&secret, flags, mode).unwrap()
        };
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        for bad in [at(OFlags::PATH), at(OFlags::WRONLY), reader] {
            for way in [Way::ReadOnly, Way::Writes] {
                let bad = bad.try_clone().unwrap();
                let error = save(&way, [bad, open()], 2).err().unwrap();
                assert!(matches!(error, SnapshotError::Answer(_)), "{error}");
            }
        }
        drop(new);
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_file_outside_needs_the_users_word_and_must_not_change() {
        let folder = std::env::temp_dir();
        let name = format!("lguest-base-{}", std::process::id());
        let base = folder.join(&name);
        std::fs::write(&base, b"base").unwrap();
        let open = File::open(&base).unwrap();
        let disk = saved(vec![Layer::outside(&base, &open).unwrap()]);
        let open = |bases: &[PathBuf]| disk.config(&folder, 0, bases, None);
        assert!(matches!(open(&[]), Err(SnapshotError::NeedsBase { .. })));
        let given = std::slice::from_ref(&base);
        let config = open(given).unwrap();
        assert_eq!(
            (config.path, config.changes),
            (base.clone(), Changes::ThrownAway)
        );
        // It was moved with its folder, and keeps its name.
        let elsewhere = folder.join(format!("{name}-moved"));
        std::fs::create_dir(&elsewhere).unwrap();
        let moved = elsewhere.join(&name);
        std::fs::rename(&base, &moved).unwrap();
        let config = open(std::slice::from_ref(&moved)).unwrap();
        assert_eq!(config.path, moved);
        // It is not clear which of two is meant.
        let two = [moved.clone(), elsewhere.join("x").join(&name)];
        assert!(matches!(open(&two), Err(SnapshotError::NeedsBase { .. })));
        std::fs::rename(&moved, &base).unwrap();
        std::fs::remove_dir(&elsewhere).unwrap();
        std::fs::write(&base, b"other").unwrap();
        let error = open(given).unwrap_err();
        std::fs::remove_file(&base).unwrap();
        assert!(
            matches!(error, SnapshotError::BaseChanged { .. }),
            "{error}"
        );
    }
}
