//! Requests that change folders: make, link, rename, remove.
//!
//! Each names a folder by a fid and a file in it by a single name. A link may
//! have any text: only the Guest follows it, in its own files.

use super::files::PERMISSIONS;
use super::node::look;
use super::protocol::Errno;
use super::session::Server;
use super::words::{Reader, Writer};
use rustix::fs::{AtFlags, FileType, Mode};
use std::os::fd::AsFd;

/// In the flags of UNLINKAT: it is a folder.
const REMOVE_FOLDER: u32 = 0x200;

/// The most bytes of a link's text.
const LONGEST_LINK: usize = 4095;

/// The kind of a file in its mode.
const KIND: u32 = 0o17_0000;

impl Server {
    /// The answer about a file that was made in the folder of `fid`.
    fn made(&self, fid: u32, name: &[u8]) -> Result<Writer, Errno> {
        let made = look(self.folder(fid)?.fd.as_fd(), name)?;
        let stat = rustix::fs::fstat(made)?;
        let mut answer = Writer::new();
        answer.qid(self.devices.borrow_mut().qid(&stat));
        Ok(answer)
    }

    pub(super) fn mkdir(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, name) = (words.u32()?, words.name()?);
        let mode = Mode::from_raw_mode(words.u32()? & PERMISSIONS);
        rustix::fs::mkdirat(&self.folder(fid)?.fd, name, mode)?;
        self.made(fid, name)
    }

    pub(super) fn symlink(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, name) = (words.u32()?, words.name()?);
        let text = words.text()?;
        if text.len() > LONGEST_LINK {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::symlinkat(text, &self.folder(fid)?.fd, name)?;
        self.made(fid, name)
    }

    /// Makes a file, a pipe or a socket, but no device of the machine.
    pub(super) fn mknod(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, name) = (words.u32()?, words.name()?);
        let mode = words.u32()?;
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Unknown if mode & KIND == 0 => FileType::RegularFile,
            kind @ (FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let folder = &self.folder(fid)?.fd;
        rustix::fs::mknodat(folder, name, kind, mode, 0)?;
        self.made(fid, name)
    }

    /// Another name for the file of a fid.
    pub(super) fn link(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (folder, fid) = (words.u32()?, words.u32()?);
        let name = words.name()?;
        let (old, own) = (self.fid(fid)?.node.number(), &self.own);
        let folder = &self.folder(folder)?.fd;
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(own, old, folder, name, follow)?;
        Ok(Writer::new())
    }

    pub(super) fn renameat(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (from, old) = (words.u32()?, words.name()?);
        let (to, new) = (words.u32()?, words.name()?);
        let (from, to) = (&self.folder(from)?.fd, &self.folder(to)?.fd);
        rustix::fs::renameat(from, old, to, new)?;
        Ok(Writer::new())
    }

    pub(super) fn unlinkat(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, name) = (words.u32()?, words.name()?);
        let flags = match words.u32()? {
            0 => AtFlags::empty(),
            REMOVE_FOLDER => AtFlags::REMOVEDIR,
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::unlinkat(&self.folder(fid)?.fd, name, flags)?;
        Ok(Writer::new())
    }
}
