//! Files of the folder: found by name, and opened.
//!
//! A file is looked for in a folder that is open, by a single name, and a link
//! is not followed: what is found is the link itself. A single name needs no
//! openat2, whose arguments no filter of system calls can check. Only regular
//! files and folders are opened. Opening a device, a pipe or a socket would
//! reach the machine, or wait.

use super::protocol::{Errno, QID_FOLDER, QID_LINK, Qid};
use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A file, open without access.
pub(super) struct Node {
    pub(super) fd: OwnedFd,
    pub(super) kind: FileType,
    pub(super) qid: Qid,
    /// Its number, and that of its file system.
    pub(super) file: u64,
    pub(super) device: u64,
}

/// Flags of every open: for us alone, without waiting, and never a terminal.
const QUIET: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

impl Node {
    pub(super) fn of(
        fd: OwnedFd,
        devices: &mut Devices,
    ) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self {
            fd,
            kind: FileType::from_raw_mode(stat.st_mode),
            qid: devices.qid(&stat),
            file: stat.st_ino,
            device: stat.st_dev,
        })
    }

    /// Opens it for use. `own` is `/proc/self/fd`.
    pub(super) fn open(
        &self,
        own: BorrowedFd<'_>,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        match self.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::ACCESS),
        }
        let flags = flags | QUIET;
        openat(own, self.number(), flags, Mode::empty())
    }

    /// Its name in `/proc/self/fd`.
    pub(super) fn number(&self) -> String {
        self.fd.as_raw_fd().to_string()
    }
}

/// The file that `name`, a single component, names in `folder`.
pub(super) fn look(
    folder: BorrowedFd<'_>,
    name: &[u8],
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// Makes and opens a regular file of this name in `folder`, where there must be
/// nothing of that name.
pub(super) fn make(
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags =
        flags | QUIET | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    openat(folder, name, flags, mode)
}

/// An open file once more, without access.
pub(super) fn again(
    own: BorrowedFd<'_>,
    file: impl AsFd,
) -> Result<OwnedFd, Errno> {
    let name = file.as_fd().as_raw_fd().to_string();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat(own, name, flags, Mode::empty())
}

/// File systems below the folder. Their files may have the same numbers, and
/// the Guest must not take them for each other.
#[derive(Default)]
pub(super) struct Devices(Vec<u64>);

/// More file systems than these are told apart less well.
const MOST_DEVICES: usize = 1 << 10;

/// Where the number of a file system is in that of a file.
const DEVICE_SHIFT: u32 = 48;

impl Devices {
    /// Those below a folder on `first`, with their numbers from 1 on.
    pub(super) fn of(first: u64, mut others: Vec<u64>) -> Self {
        others.truncate(MOST_DEVICES - 1);
        others.insert(0, first);
        Self(others)
    }

    /// All but that of the folder.
    pub(super) fn others(&self) -> &[u64] {
        self.0.get(1..).unwrap_or_default()
    }

    pub(super) fn qid(&mut self, stat: &Stat) -> Qid {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let changed = stat.st_mtime.cast_unsigned();
        let changed =
            changed ^ stat.st_mtime_nsec ^ stat.st_size.cast_unsigned() << 8;
        #[expect(clippy::cast_possible_truncation, reason = "a hash")]
        let version = (changed ^ changed >> 32) as u32;
        Qid {
            kind: qid_kind(kind),
            version,
            path: stat.st_ino ^ self.number(stat.st_dev) << DEVICE_SHIFT,
        }
    }

    /// The number of a file system: 0 for that of the folder.
    pub(super) fn number(&mut self, device: u64) -> u64 {
        let known = self.0.iter().position(|&known| known == device);
        let index = known.unwrap_or(self.0.len());
        if known.is_none() && index < MOST_DEVICES {
            self.0.push(device);
        }
        index as u64
    }
}

/// The kind of a qid.
pub(super) fn qid_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => QID_FOLDER,
        FileType::Symlink => QID_LINK,
        _ => 0,
    }
}
