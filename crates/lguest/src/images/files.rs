//! Reads a folder of this machine into a tree.
//!
//! No symbolic link is followed, and no other file system is entered, so that
//! `/proc` of a running system stays outside. Only root can make files that
//! belong to root. So files that belong to the user who builds the image belong
//! to root in the image.

use super::archive::{self, ArchiveError, is_kept};
use super::contents::Contents;
use super::shown::shown;
use super::tree::{Kind, Meta, Tree};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, major,
    minor, openat, readlinkat, statat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most bytes of an extended attribute, and of all their names, in Linux.
const MOST_ATTRIBUTE: usize = 64 << 10;

/// Why a folder cannot be read.
pub(super) enum FilesError {
    /// A file cannot be read.
    Read(PathBuf, io::Error),
    /// A file cannot be in an image.
    Refused(ArchiveError),
}

/// Puts all files of `folder` into `tree`.
///
/// # Errors
///
/// [`FilesError`] names the first file that cannot be read or taken over.
pub(super) fn read(
    folder: &Path,
    tree: &mut Tree,
    contents: &mut Contents,
) -> Result<(), FilesError> {
    let failed = |error: Errno| FilesError::Read(folder.into(), error.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&root).map_err(failed)?;
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let mut files = Files {
        folder,
        device: stat.st_dev,
        user,
        group,
        tree,
        contents,
        links: HashMap::new(),
    };
    let meta = files.meta(&stat);
    let put = files.tree.put(b"/", meta, Kind::folder());
    put.map_err(|why| files.refused(b"/", why))?;
    files.below(root)
}

struct Files<'a> {
    folder: &'a Path,
    device: u64,
    user: u32,
    group: u32,
    tree: &'a mut Tree,
    contents: &'a mut Contents,
    /// Files with several names, and the first of them.
    links: HashMap<u64, Vec<u8>>,
}

impl Files<'_> {
    /// Reads all folders below `root`. Their descriptors are open one at a
    /// time.
    fn below(&mut self, root: OwnedFd) -> Result<(), FilesError> {
        let mut folders = vec![Vec::new()];
        while let Some(path) = folders.pop() {
            let dir = match path.is_empty() {
                true => root.try_clone().map_err(|e| self.failed(&path, e))?,
                false => self.open(&root, &path, OFlags::DIRECTORY)?,
            };
            for name in self.names(&dir, &path)? {
                let path = match path.is_empty() {
                    true => name.as_bytes().to_vec(),
                    false => [&path, name.as_bytes()].join(&b'/'),
                };
                if self.file(&dir, &name, &path)? {
                    folders.push(path);
                }
            }
        }
        Ok(())
    }

    /// The names in a folder, sorted.
    fn names(
        &self,
        dir: &OwnedFd,
        path: &[u8],
    ) -> Result<Vec<CString>, FilesError> {
        let failed = |error: Errno| self.failed(path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Puts a file into the tree. Returns whether it is a folder to be read.
    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        path: &[u8],
    ) -> Result<bool, FilesError> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|e| self.failed(path, e.into()))?;
        let mut attributes = Vec::new();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::folder(),
            FileType::RegularFile => {
                if let Some(first) = self.links.get(&stat.st_ino) {
                    let linked = self.tree.link(path, first);
                    linked.map_err(|why| self.refused(path, why))?;
                    return Ok(false);
                }
                if stat.st_nlink > 1 {
                    self.links.insert(stat.st_ino, path.to_vec());
                }
                let file = self.contents_of(dir, name, path)?;
                attributes = attributes_of(&file);
                let bytes = file.metadata().map(|found| found.len());
                let bytes = bytes.map_err(|e| self.failed(path, e))?;
                let kept = archive::keep(self.contents, path, file, bytes);
                Kind::File(kept.map_err(FilesError::Refused)?)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| self.failed(path, e.into()))?;
                Kind::Link(target.into_bytes())
            }
            FileType::Fifo => Kind::Pipe,
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                Kind::Device {
                    block: kind == FileType::BlockDevice,
                    major: major(stat.st_rdev),
                    minor: minor(stat.st_rdev),
                }
            }
            // A socket belongs to a process, and an image has no processes.
            _ => return Ok(false),
        };
        let is_folder = matches!(kind, Kind::Folder(_));
        let id = self.tree.put(path, self.meta(&stat), kind);
        let id = id.map_err(|why| self.refused(path, why))?;
        archive::put_attributes(self.tree, self.contents, id, path, attributes)
            .map_err(FilesError::Refused)?;
        Ok(is_folder && stat.st_dev == self.device)
    }

    /// Opens a file to read it. Another process may put a pipe in its place;
    /// NONBLOCK keeps the call from waiting for a writer.
    fn contents_of(
        &self,
        dir: &OwnedFd,
        name: &CStr,
        path: &[u8],
    ) -> Result<File, FilesError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::empty());
        Ok(file.map_err(|e| self.failed(path, e.into()))?.into())
    }

    fn open(
        &self,
        root: &OwnedFd,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, FilesError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = None;
        // One name at a time: NOFOLLOW concerns the last name of a path only.
        for name in path.split(|&byte| byte == b'/') {
            let from = at.as_ref().unwrap_or(root).as_fd();
            let next = openat(from, name, flags, Mode::empty());
            at = Some(next.map_err(|e| self.failed(path, e.into()))?);
        }
        at.ok_or_else(|| self.failed(path, Errno::NOENT.into()))
    }

    fn meta(&self, stat: &Stat) -> Meta {
        // Files of the user who builds belong to root in the image.
        let user = match stat.st_uid == self.user {
            true => 0,
            false => stat.st_uid,
        };
        let group = match stat.st_gid == self.group {
            true => 0,
            false => stat.st_gid,
        };
        Meta {
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            user,
            group,
            // A guest of 32 bits has times until 2038.
            time: u32::try_from(stat.st_mtime)
                .unwrap_or(0)
                .min(i32::MAX.unsigned_abs()),
        }
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.folder.join(std::ffi::OsStr::from_bytes(path))
    }

    fn failed(&self, path: &[u8], error: io::Error) -> FilesError {
        FilesError::Read(self.path(path), error)
    }

    fn refused(&self, path: &[u8], why: super::tree::Refusal) -> FilesError {
        FilesError::Refused(ArchiveError::Name(shown(path), why))
    }
}

/// The extended attributes of a file that an image has, too.
fn attributes_of(file: &File) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; MOST_ATTRIBUTE];
    // Some file systems have none.
    let bytes = flistxattr(file, &mut names[..]).unwrap_or(0);
    names.truncate(bytes);
    let names = names.split(|&byte| byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok());
    let value = |name: &str| {
        let mut value = vec![0; MOST_ATTRIBUTE];
        let bytes = fgetxattr(file, name, &mut value[..]).ok()?;
        value.truncate(bytes);
        Some((name.to_owned(), value))
    };
    names
        .filter(|name| is_kept(name))
        .filter_map(value)
        .collect()
}
