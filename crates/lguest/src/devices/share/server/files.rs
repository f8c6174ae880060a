//! Requests about open files: open, create, read, write, flush.
//!
//! Bytes go between the file and the Guest's memory. A write is answered when
//! the kernel has the bytes, and a flush when the disk has them.

use super::folder::Folder;
use super::node::{self, Node};
use super::payload::Payload;
use super::protocol::{Errno, READ_HEADER};
use super::session::{Open, Server};
use super::words::{Reader, Writer};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Flags of an open, as Linux has them on most processors, and ours. Others
/// are hints.
const ACCESS: u32 = 0o3;
const FLAGS: &[(u32, OFlags)] = &[
    (0o1000, OFlags::TRUNC),
    (0o2000, OFlags::APPEND),
    (0o1_0000, OFlags::DSYNC),
    (0o20_0000, OFlags::DIRECTORY),
    (0o400_0000, OFlags::SYNC),
];
const EXCLUSIVE: u32 = 0o200;

/// The flags that an open file keeps.
pub(super) const KEPT: OFlags = OFlags::ACCMODE
    .union(OFlags::APPEND)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC)
    .union(OFlags::DIRECTORY);

/// Permissions that a file may be made with. Nothing becomes a program that
/// runs as our user.
pub(super) const PERMISSIONS: u32 = 0o1777;

/// A lock that was had, and a place that is not locked.
const LOCKED: u8 = 0;
const UNLOCKED: u8 = 2;

/// The flags of an open, as the kernel has them.
fn flags(given: u32) -> Result<OFlags, Errno> {
    let access = match given & ACCESS {
        0 => OFlags::RDONLY,
        1 => OFlags::WRONLY,
        2 => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    let set = FLAGS.iter().filter(|(theirs, _)| given & theirs == *theirs);
    Ok(set.fold(access, |all, &(_, ours)| all | ours))
}

/// Whether an open with these flags may change the file.
pub(super) fn changes(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}

/// The error number of an error.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}

impl Server {
    pub(super) fn lopen(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, given) = (words.u32()?, words.u32()?);
        let flags = flags(given)?;
        let bound = self.fid(fid)?;
        if bound.open.is_some() {
            return Err(Errno::BUSY);
        }
        if self.read_only && changes(flags) {
            return Err(Errno::ROFS);
        }
        let open = self.open(&bound.node, flags)?;
        let qid = bound.node.qid;
        if let Some(bound) = self.fids.get_mut(&fid) {
            bound.open = Some(open);
            bound.flags = flags & KEPT;
        }
        let mut answer = Writer::new();
        answer.qid(qid);
        answer.u32(0);
        Ok(answer)
    }

    fn open(&self, node: &Node, flags: OFlags) -> Result<Open, Errno> {
        let file = node.open(self.own.as_fd(), flags)?;
        Ok(match node.kind {
            FileType::Directory => Open::Folder(Folder::new(file)),
            _ => Open::File(file.into()),
        })
    }

    /// Makes a file in the folder of a fid, and binds the fid to the file.
    pub(super) fn lcreate(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, name) = (words.u32()?, words.name()?);
        let (given, mode) = (words.u32()?, words.u32()?);
        let flags = flags(given)? - OFlags::DIRECTORY;
        let folder = self.folder(fid)?;
        if self.fid(fid)?.open.is_some() {
            return Err(Errno::BUSY);
        }
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let made = node::make(folder.fd.as_fd(), name, flags, mode);
        let (node, open) = match made {
            Ok(file) => {
                let known = node::again(self.own.as_fd(), &file);
                let known = known.and_then(|path| {
                    Node::of(path, &mut self.devices.borrow_mut())
                });
                if known.is_err() {
                    // The Guest is told that there is none.
                    let _ = unlinkat(&folder.fd, name, AtFlags::empty());
                }
                (known?, Open::File(file.into()))
            }
            // Another process has made it since the Guest has looked.
            Err(Errno::EXIST) if given & EXCLUSIVE == 0 => {
                let node = self.find(folder, name)?;
                if node.kind == FileType::Directory {
                    return Err(Errno::ISDIR);
                }
                let open = self.open(&node, flags)?;
                (node, open)
            }
            Err(error) => return Err(error),
        };
        let mut answer = Writer::new();
        answer.qid(node.qid);
        answer.u32(0);
        if let Some(bound) = self.fids.get_mut(&fid) {
            bound.node = Arc::new(node);
            bound.open = Some(open);
            bound.flags = flags & KEPT;
        }
        Ok(answer)
    }

    /// The file of a fid that is open.
    pub(super) fn file(&self, fid: u32) -> Result<&File, Errno> {
        match &self.fid(fid)?.open {
            Some(Open::File(file)) => Ok(file),
            Some(Open::Folder(_)) => Err(Errno::ISDIR),
            None => Err(Errno::BADF),
        }
    }

    /// Returns the bytes that were read, into the Guest's memory.
    pub(super) fn read(
        &mut self,
        words: &mut Reader<'_>,
        payload: &Payload<'_>,
    ) -> Result<u32, Errno> {
        let (fid, offset, count) = (words.u32()?, words.u64()?, words.u32()?);
        let file = self.file(fid)?;
        let room = payload.room().min(self.most);
        let most = room.checked_sub(READ_HEADER).ok_or(Errno::MSGSIZE)?;
        let read = payload.read(file, offset, count.min(most));
        read.map_err(|error| errno(&error))
    }

    pub(super) fn write(
        &mut self,
        words: &mut Reader<'_>,
        payload: &Payload<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, offset, count) = (words.u32()?, words.u64()?, words.u32()?);
        let file = self.file(fid)?;
        let written = payload.write(file, offset, count.min(self.most));
        let mut answer = Writer::new();
        answer.u32(written.map_err(|error| errno(&error))?);
        Ok(answer)
    }

    pub(super) fn fsync(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let fid = words.u32()?;
        // The first kernels do not say whether the data is enough.
        let data = words.u32().unwrap_or(0) != 0;
        let file = match &self.fid(fid)?.open {
            Some(Open::File(file)) => file.as_fd(),
            Some(Open::Folder(folder)) => folder.fd(),
            None => return Err(Errno::BADF),
        };
        if data {
            rustix::fs::fdatasync(file)?;
        } else {
            rustix::fs::fsync(file)?;
        }
        Ok(Writer::new())
    }

    /// A Guest's kernel keeps the locks of its programs itself. Programs of
    /// this machine do not see them.
    pub(super) fn locked(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        self.file(words.u32()?)?;
        let mut answer = Writer::new();
        answer.u8(LOCKED);
        Ok(answer)
    }

    pub(super) fn getlock(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        self.file(words.u32()?)?;
        words.u8()?;
        let mut answer = Writer::new();
        answer.u8(UNLOCKED);
        answer.u64(words.u64()?);
        answer.u64(words.u64()?);
        answer.u32(words.u32()?);
        answer.text(words.text()?);
        Ok(answer)
    }
}
