//! What a Guest has open, as data: told by one server, and taken by another.
//!
//! A file is known by its path below the folder. The server that takes it over
//! follows the path as it follows the names of a Guest: one by one, and no
//! link. The text may come from a stranger. A fid whose file has gone, or whose
//! path leads to another file now, is *stale*: the Guest gets ESTALE for it.

use super::files::{KEPT, changes};
use super::folder::Folder;
use super::node::{Devices, Node};
use super::protocol::Errno;
use super::session::{Fid, MOST_FIDS, MOST_PLACES, Open, Server};
use super::words::is_name;
use super::{FEWEST_BYTES, MOST_BYTES};
use rustix::fs::{FileType, OFlags, readlinkat};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The most places in folders that are told. Most folders are read at once.
const MOST_TOLD: usize = 1 << 16;

/// A session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// Bytes of a message, as agreed.
    most: u32,
    /// File systems below the folder, that of the folder excluded.
    devices: Vec<u64>,
    fids: Vec<SavedFid>,
}

/// A fid.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFid {
    fid: u32,
    /// The path of its file; `None` if it has none any more.
    path: Option<Vec<u8>>,
    /// The number of its file.
    file: u64,
    open: Option<SavedOpen>,
}

/// How a file is open.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedOpen {
    /// Flags of the open, as this machine has them.
    flags: u32,
    /// Places in a folder.
    places: Vec<u64>,
}

impl Server {
    /// What the Guest has open.
    ///
    /// # Errors
    ///
    /// Why it cannot be told.
    pub fn tell(&self) -> Result<String, String> {
        if self.places > MOST_TOLD {
            let text = "it is reading folders with very many files: try again \
                        later";
            return Err(text.into());
        }
        let mut fids = Vec::with_capacity(self.fids.len());
        for (&fid, bound) in &self.fids {
            let path = self.path_of(&bound.node);
            if path.is_none() && bound.open.is_some() {
                let text = "it has a file open that was removed: have the \
                            program there close it";
                return Err(text.into());
            }
            let open = bound.open.as_ref().map(|open| SavedOpen {
                flags: bound.flags.bits(),
                places: match open {
                    Open::File(_) => Vec::new(),
                    Open::Folder(folder) => folder.all_places().to_vec(),
                },
            });
            let file = bound.node.file;
            fids.push(SavedFid {
                fid,
                path,
                file,
                open,
            });
        }
        let stale = self.stale.iter().map(|&fid| SavedFid {
            fid,
            path: None,
            file: 0,
            open: None,
        });
        fids.extend(stale);
        fids.sort_by_key(|saved| saved.fid);
        let session = Session {
            most: self.most,
            devices: self.devices.borrow().others().to_vec(),
            fids,
        };
        serde_json::to_string(&session).map_err(|error| error.to_string())
    }

    /// The path of a file below the folder, if it leads there.
    fn path_of(&self, node: &Node) -> Option<Vec<u8>> {
        let read = |node: &Node| {
            let path = readlinkat(&self.own, node.number(), Vec::new());
            path.ok().map(std::ffi::CString::into_bytes)
        };
        let root = read(&self.root)?;
        let root = root.strip_suffix(b"/").unwrap_or(&root);
        let path = read(node)?;
        let below = path.strip_prefix(root)?;
        let below = match below.split_first() {
            None => &[][..],
            Some((b'/', below)) => below,
            Some(_) => return None,
        };
        let found = self.follow(below).ok()?;
        (found.file == node.file && found.qid.path == node.qid.path)
            .then(|| below.to_vec())
    }

    /// The file at a path below the folder, without a link on the way.
    fn follow(&self, path: &[u8]) -> Result<Arc<Node>, Errno> {
        let mut node = self.root.clone();
        for name in path.split(|&byte| byte == b'/') {
            if path.is_empty() {
                break;
            }
            if !is_name(name) {
                return Err(Errno::INVAL);
            }
            node = Arc::new(self.find(&node, name)?);
        }
        Ok(node)
    }

    /// Goes on with what the Guest of another server had open.
    ///
    /// # Errors
    ///
    /// Why the text cannot be what a server has told.
    pub fn go_on(&mut self, text: &[u8]) -> Result<(), String> {
        let session: Session =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let places = session.fids.iter().filter_map(|fid| fid.open.as_ref());
        let places: usize = places.map(|open| open.places.len()).sum();
        if session.fids.len() > MOST_FIDS
            || places > MOST_PLACES
            || !(FEWEST_BYTES..=MOST_BYTES).contains(&session.most)
        {
            return Err("its numbers cannot be".into());
        }
        self.most = session.most;
        self.devices = Devices::of(self.root.device, session.devices).into();
        let mut known = HashMap::new();
        for saved in session.fids {
            let fid = saved.fid;
            if let Ok(bound) = self.find_again(saved, &mut known) {
                if let Some(Open::Folder(folder)) = &bound.open {
                    self.places += folder.places();
                }
                self.fids.insert(fid, bound);
            } else {
                self.stale.insert(fid);
            }
        }
        Ok(())
    }

    /// The file of a fid. `known` has those that were found already.
    fn find_again(
        &self,
        saved: SavedFid,
        known: &mut HashMap<Vec<u8>, Arc<Node>>,
    ) -> Result<Fid, Errno> {
        let path = saved.path.ok_or(Errno::STALE)?;
        let node = match known.get(&path) {
            Some(node) => node.clone(),
            None => self.follow(&path)?,
        };
        // The folder itself may have been moved, or copied.
        if !path.is_empty() && node.file != saved.file {
            return Err(Errno::STALE);
        }
        known.insert(path, node.clone());
        let Some(open) = saved.open else {
            return Ok(Fid {
                node,
                open: None,
                flags: OFlags::empty(),
            });
        };
        let flags = OFlags::from_bits_truncate(open.flags) & KEPT;
        if self.read_only && changes(flags) {
            return Err(Errno::ROFS);
        }
        let file = node.open(self.own.as_fd(), flags)?;
        let open = match node.kind {
            FileType::Directory => Open::Folder(Folder::at(file, open.places)),
            _ => Open::File(file.into()),
        };
        Ok(Fid {
            node,
            open: Some(open),
            flags,
        })
    }
}
