//! Attributes of files: owner, permissions, size, times; and of file systems.
//!
//! An owner cannot be changed, but a request that says what is so already is no
//! error: programs that copy files as root make it.

use super::node::Node;
use super::protocol::{Errno, MAGIC};
use super::session::Server;
use super::words::{Reader, Writer};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT,
};
use std::os::fd::AsFd;

/// What attributes a request is about.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const USER: u32 = 1 << 1;
    pub(super) const GROUP: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ACCESSED: u32 = 1 << 4;
    pub(super) const MODIFIED: u32 = 1 << 5;
    pub(super) const ACCESSED_SET: u32 = 1 << 7;
    pub(super) const MODIFIED_SET: u32 = 1 << 8;

    /// What an answer has: everything up to the number of blocks.
    pub(super) const BASIC: u64 = 0x7FF;
}

/// Permissions by which a program runs as its owner or group.
const SET_ID: u32 = 0o6000;

/// A time that a request sets.
fn time(
    is_about: bool,
    is_set: bool,
    seconds: u64,
    nanoseconds: u64,
) -> Result<Timespec, Errno> {
    let tv_nsec = match (is_about, is_set) {
        (false, _) => UTIME_OMIT,
        (true, false) => UTIME_NOW,
        (true, true) if nanoseconds < 1_000_000_000 => {
            nanoseconds.cast_signed()
        }
        (true, true) => return Err(Errno::INVAL),
    };
    Ok(Timespec {
        tv_sec: seconds.cast_signed(),
        tv_nsec,
    })
}

impl Server {
    pub(super) fn getattr(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let node = &self.fid(words.u32()?)?.node;
        let stat = rustix::fs::fstat(&node.fd)?;
        let (user, group) = self.owner.shown(&stat);
        let mut answer = Writer::new();
        answer.u64(valid::BASIC);
        answer.qid(self.devices.borrow_mut().qid(&stat));
        answer.u32s(&[stat.st_mode, user, group]);
        let size = stat.st_size.cast_unsigned();
        let blocks = stat.st_blocks.cast_unsigned();
        let block = stat.st_blksize.cast_unsigned();
        let words = [stat.st_nlink, stat.st_rdev, size, block, blocks];
        answer.u64s(&words);
        for (seconds, nanoseconds) in [
            (stat.st_atime, stat.st_atime_nsec),
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        ] {
            answer.u64(seconds.cast_unsigned());
            answer.u64(nanoseconds);
        }
        // The time of birth, a generation, and the version of the data.
        answer.u64s(&[0; 4]);
        Ok(answer)
    }

    pub(super) fn setattr(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let (fid, about) = (words.u32()?, words.u32()?);
        let (mode, user, group) = (words.u32()?, words.u32()?, words.u32()?);
        let size = words.u64()?;
        let accessed = (words.u64()?, words.u64()?);
        let modified = (words.u64()?, words.u64()?);
        let is = |bit| about & bit != 0;
        let node = &*self.fid(fid)?.node;
        if is(valid::USER | valid::GROUP) {
            let stat = rustix::fs::fstat(&node.fd)?;
            let (now_user, now_group) = self.owner.shown(&stat);
            if is(valid::USER) && user != now_user
                || is(valid::GROUP) && group != now_group
            {
                return Err(Errno::PERM);
            }
        }
        if is(valid::MODE) {
            self.set_mode(node, mode)?;
        }
        if is(valid::SIZE) {
            self.set_size(fid, size)?;
        }
        if is(valid::ACCESSED | valid::MODIFIED) {
            let times = Timestamps {
                last_access: time(
                    is(valid::ACCESSED),
                    is(valid::ACCESSED_SET),
                    accessed.0,
                    accessed.1,
                )?,
                last_modification: time(
                    is(valid::MODIFIED),
                    is(valid::MODIFIED_SET),
                    modified.0,
                    modified.1,
                )?,
            };
            let (own, name) = (&self.own, node.number());
            rustix::fs::utimensat(own, name, &times, AtFlags::empty())?;
        }
        Ok(Writer::new())
    }

    fn set_mode(&self, node: &Node, mode: u32) -> Result<(), Errno> {
        if mode & SET_ID != 0 {
            return Err(Errno::PERM);
        }
        if node.kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let mode = Mode::from_raw_mode(mode & super::files::PERMISSIONS);
        rustix::fs::chmodat(&self.own, node.number(), mode, AtFlags::empty())
    }

    fn set_size(&self, fid: u32, size: u64) -> Result<(), Errno> {
        i64::try_from(size).map_err(|_| Errno::FBIG)?;
        if let Ok(file) = self.file(fid)
            && rustix::fs::ftruncate(file, size).is_ok()
        {
            return Ok(());
        }
        // It is not open, or not for writing.
        let node = &self.fid(fid)?.node;
        let file = node.open(self.own.as_fd(), OFlags::WRONLY)?;
        rustix::fs::ftruncate(file, size)
    }

    pub(super) fn readlink(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let node = &self.fid(words.u32()?)?.node;
        let text = rustix::fs::readlinkat(&node.fd, "", Vec::new())?;
        let mut answer = Writer::new();
        answer.text(text.as_bytes());
        Ok(answer)
    }

    pub(super) fn statfs(
        &mut self,
        words: &mut Reader<'_>,
    ) -> Result<Writer, Errno> {
        let node = &self.fid(words.u32()?)?.node;
        let found = rustix::fs::fstatfs(&node.fd)?;
        let block = u32::try_from(found.f_bsize).unwrap_or(4096);
        let name = u32::try_from(found.f_namelen).unwrap_or(255);
        let mut answer = Writer::new();
        answer.u32s(&[MAGIC, block]);
        answer.u64s(&[
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            0,
        ]);
        answer.u32(name);
        Ok(answer)
    }
}
