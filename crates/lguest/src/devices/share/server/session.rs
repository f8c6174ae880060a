//! A session: the folder, and what the Guest has bound its fids to.
//!
//! A fid is bound to a file that is open without any access. Opening it for use
//! adds an open file. What a Guest makes us hold is bounded.

use super::folder::Folder;
use super::node::{self, Devices, Node};
use super::owner::Owner;
use super::protocol::Errno;
use rustix::fs::{FileType, Mode, OFlags};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The most bytes of a message, and what a Guest is offered. Linux asks for
/// 500 KiB at most.
pub const MOST_BYTES: u32 = 512 << 10;

/// The most fids that a Guest may have at a time. Each is an open file or two.
pub const MOST_FIDS: usize = 1 << 16;

/// The most places in folders that are remembered for a Guest, in all its open
/// folders together.
pub const MOST_PLACES: usize = 1 << 20;

/// What a fid is bound to.
pub(super) struct Fid {
    pub(super) node: Arc<Node>,
    pub(super) open: Option<Open>,
    /// How it is open.
    pub(super) flags: OFlags,
}

/// A file that is open for use.
pub(super) enum Open {
    File(File),
    Folder(Folder),
}

/// A server of one folder.
pub struct Server {
    pub(super) root: Arc<Node>,
    /// `/proc/self/fd`, by which a file is opened that is open already.
    pub(super) own: OwnedFd,
    pub(super) read_only: bool,
    pub(super) owner: Owner,
    pub(super) fids: HashMap<u32, Fid>,
    /// Fids of an earlier server whose files are not there any more.
    pub(super) stale: HashSet<u32>,
    pub(super) devices: RefCell<Devices>,
    /// Bytes of a message, as agreed.
    pub(super) most: u32,
    /// Places that open folders remember.
    pub(super) places: usize,
}

impl Server {
    /// A server of `folder` for a Guest that may change it, or only read.
    ///
    /// # Errors
    ///
    /// There is no `/proc`, or `folder` cannot be examined.
    pub fn new(folder: OwnedFd, read_only: bool) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
        let mut devices = Devices::default();
        let root = Arc::new(Node::of(folder, &mut devices)?);
        Ok(Self {
            root,
            own,
            read_only,
            owner: Owner::ours(),
            fids: HashMap::new(),
            stale: HashSet::new(),
            devices: RefCell::new(devices),
            most: MOST_BYTES,
            places: 0,
        })
    }

    pub(super) fn fid(&self, fid: u32) -> Result<&Fid, Errno> {
        let error = match self.stale.contains(&fid) {
            true => Errno::STALE,
            false => Errno::BADF,
        };
        self.fids.get(&fid).ok_or(error)
    }

    /// Binds a fid that is not in use to `node`.
    pub(super) fn bind(
        &mut self,
        fid: u32,
        node: Arc<Node>,
    ) -> Result<(), Errno> {
        if self.fids.contains_key(&fid) || self.stale.contains(&fid) {
            return Err(Errno::BADF);
        }
        if self.fids.len() + self.stale.len() >= MOST_FIDS {
            return Err(Errno::NFILE);
        }
        let fresh = Fid {
            node,
            open: None,
            flags: OFlags::empty(),
        };
        self.fids.insert(fid, fresh);
        Ok(())
    }

    pub(super) fn forget(&mut self, fid: u32) {
        self.stale.remove(&fid);
        if let Some(Fid {
            open: Some(Open::Folder(folder)),
            ..
        }) = self.fids.remove(&fid)
        {
            self.places -= folder.places();
        }
    }

    /// The file that `name` names in the folder `node`.
    pub(super) fn find(&self, node: &Node, name: &[u8]) -> Result<Node, Errno> {
        if node.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let found = node::look(node.fd.as_fd(), name)?;
        Node::of(found, &mut self.devices.borrow_mut())
    }

    /// The node of `fid`, if it is a folder.
    pub(super) fn folder(&self, fid: u32) -> Result<&Node, Errno> {
        let node = &*self.fid(fid)?.node;
        match node.kind {
            FileType::Directory => Ok(node),
            _ => Err(Errno::NOTDIR),
        }
    }
}
