//! The files of an image, before there is a file system for them.
//!
//! Archives are foreign bytes. Their names never become names of files on this
//! machine: a tree in memory has the names, and the contents are numbered files
//! in a folder of the build. Links are followed inside the tree only, so no
//! name leads out of it.

use std::collections::BTreeMap;

/// The most files of an image.
const MOST_NODES: usize = 1 << 20;
/// The most folders in one another.
const MOST_DEPTH: usize = 200;
/// The longest name, in ext4 and in Linux.
const LONGEST_NAME: usize = 255;
/// The longest path, and the longest target of a symbolic link.
pub(super) const LONGEST_PATH: usize = 3800;
/// The most symbolic links that are followed for one path, as in Linux.
const MOST_LINKS: u32 = 40;

/// The most bytes of all extended attributes of a file: they are in a block of
/// 4096 bytes, which has a head and an end.
const MOST_ATTRIBUTES: u64 = 4096 - 32 - 4;
/// What an extended attribute has beside its name and its value.
const ATTRIBUTE_HEAD: u64 = 16;

/// What every file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The permissions, without the kind of file.
    pub mode: u16,
    /// The number of the user.
    pub user: u32,
    /// The number of the group.
    pub group: u32,
    /// When it was changed last, in seconds since 1970.
    pub time: u32,
}

impl Meta {
    /// A file of root.
    pub(super) const fn root(mode: u16) -> Self {
        Self {
            mode,
            user: 0,
            group: 0,
            time: 0,
        }
    }
}

/// A file in the folder of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub number: u32,
    /// Its bytes.
    pub bytes: u64,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder: names and their nodes.
    Folder(BTreeMap<Vec<u8>, Id>),
    /// A file with contents.
    File(Content),
    /// A symbolic link, and its target.
    Link(Vec<u8>),
    /// A device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Pipe,
}

impl Kind {
    /// An empty folder.
    pub(super) fn folder() -> Self {
        Self::Folder(BTreeMap::new())
    }
}

/// A file. It has a name for each hard link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner, permissions, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
    /// Extended attributes: name, and contents.
    pub attributes: Vec<(String, Content)>,
    /// The layer that has made it.
    layer: u32,
    /// The last layer that has removed older files in it.
    emptied: u32,
}

/// The number of a node.
pub(super) type Id = usize;

/// The root folder.
pub(super) const ROOT: Id = 0;

/// Why a name of an archive cannot be in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would lead out of the image.
    #[error("its name has '..' in it")]
    Out,
    /// The tool that writes the file system takes a command per line.
    #[error("its name has a line break or a zero byte in it")]
    Break,
    /// It is too long.
    #[error("its name or the target of the link is too long")]
    Long,
    /// A path of folders is too long.
    #[error("it is in too many folders")]
    Deep,
    /// It has no name, or a link has no target.
    #[error("its name or the target of the link is empty")]
    Empty,
    /// Part of its path is a file.
    #[error("part of its path is not a folder")]
    NotInFolder,
    /// Symbolic links lead in a circle.
    #[error("symbolic links in its path lead in a circle")]
    Circle,
    /// A hard link to what is not there, or is a folder.
    #[error("it is a hard link to a file that does not come before it")]
    NoTarget,
    /// Too many files.
    #[error("the image has more than a million files")]
    Many,
}

/// Files of an image.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    layer: u32,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            meta: Meta::root(0o755),
            kind: Kind::folder(),
            attributes: Vec::new(),
            layer: 0,
            emptied: 0,
        };
        Self {
            nodes: vec![root],
            layer: 0,
        }
    }
}

impl Tree {
    /// What is put from now on is in a new layer.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The nodes that were made: more than there are names, or fewer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was put into it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Puts a file into the tree, in place of what has its name. Of a folder
    /// that is there already, only owner, permissions and time are changed.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn put(
        &mut self,
        path: &[u8],
        meta: Meta,
        kind: Kind,
    ) -> Result<Id, Refusal> {
        if let Kind::Link(target) = &kind {
            check_target(target)?;
        }
        let names = names(path)?;
        let Some((last, folders)) = names.split_last() else {
            // The archive says how its root is.
            if !matches!(kind, Kind::Folder(_)) {
                return Err(Refusal::Empty);
            }
            self.nodes[ROOT].meta = meta;
            return Ok(ROOT);
        };
        let parent = self.folder(folders)?;
        if let Some(id) = self.child(parent, last)
            && matches!(kind, Kind::Folder(_))
            && matches!(self.nodes[id].kind, Kind::Folder(_))
        {
            self.nodes[id].meta = meta;
            self.nodes[id].layer = self.layer;
            self.nodes[id].attributes.clear();
            return Ok(id);
        }
        let id = self.add(meta, kind)?;
        self.name(parent, last, id);
        Ok(id)
    }

    /// Gives the file at `target` one more name, `path`.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Refusal> {
        let there = names(target)?;
        let (last, folders) = there.split_last().ok_or(Refusal::Empty)?;
        let id = self
            .find(folders)?
            .and_then(|folder| self.child(folder, last))
            .filter(|&id| !matches!(self.nodes[id].kind, Kind::Folder(_)))
            .ok_or(Refusal::NoTarget)?;
        let names = names(path)?;
        let (last, folders) = names.split_last().ok_or(Refusal::Empty)?;
        let parent = self.folder(folders)?;
        // A node that a layer links is of that layer: a whiteout in it means
        // what was there before.
        self.nodes[id].layer = self.layer;
        self.name(parent, last, id);
        Ok(())
    }

    /// Gives a node an extended attribute. Returns whether its file system has
    /// room for all that it has.
    #[must_use]
    pub fn attribute(&mut self, id: Id, name: &str, value: Content) -> bool {
        let all = &mut self.nodes[id].attributes;
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value));
        let whole = |bytes: u64| bytes.next_multiple_of(4);
        let bytes = all.iter().map(|(name, value)| {
            ATTRIBUTE_HEAD + whole(name.len() as u64) + whole(value.bytes)
        });
        bytes.sum::<u64>() <= MOST_ATTRIBUTES
    }

    /// Removes what earlier layers have at `path`.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn white_out(&mut self, path: &[u8]) -> Result<(), Refusal> {
        let names = names(path)?;
        let (last, folders) = names.split_last().ok_or(Refusal::Empty)?;
        let Some(parent) = self.find(folders)? else {
            return Ok(());
        };
        if let Some(id) = self.child(parent, last)
            && !self.keeps_newer(id)
            && let Kind::Folder(files) = &mut self.nodes[parent].kind
        {
            files.remove(*last);
        }
        Ok(())
    }

    /// Removes what earlier layers have in the folder at `path`.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn white_out_all(&mut self, path: &[u8]) -> Result<(), Refusal> {
        if let Some(folder) = self.find(&names(path)?)? {
            self.empty_of_older(folder);
        }
        Ok(())
    }

    /// Removes older files in a node. Returns whether the node is of this
    /// layer, or something in it is.
    fn keeps_newer(&mut self, id: Id) -> bool {
        let inside = self.empty_of_older(id);
        inside || self.nodes[id].layer == self.layer
    }

    /// Removes older files in a folder. Returns whether something is left. The
    /// depth of calls is that of folders, which is bounded. A folder is looked
    /// through once for each layer: a layer may have a million whiteouts.
    fn empty_of_older(&mut self, folder: Id) -> bool {
        let layer = self.layer;
        let node = &mut self.nodes[folder];
        let Kind::Folder(files) = &mut node.kind else {
            return false;
        };
        if node.emptied == layer {
            return !files.is_empty();
        }
        node.emptied = layer;
        let mut files = std::mem::take(files);
        files.retain(|_, id| self.keeps_newer(*id));
        let left = !files.is_empty();
        self.nodes[folder].kind = Kind::Folder(files);
        left
    }

    /// The node at `path`, if there is one. All links are followed.
    #[must_use]
    pub fn at(&self, path: &[u8]) -> Option<Id> {
        self.find(&names(path).ok()?).ok()?
    }

    /// The node with this name in the root folder, if there is one. A link is
    /// not followed.
    pub(super) fn at_root(&self, name: &[u8]) -> Option<Id> {
        self.child(ROOT, name)
    }

    fn child(&self, folder: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes[folder].kind {
            Kind::Folder(files) => files.get(name).copied(),
            _ => None,
        }
    }

    /// The node that `names` lead to. All links are followed.
    fn find(&self, names: &[&[u8]]) -> Result<Option<Id>, Refusal> {
        let mut walk = Walk::new(names);
        Ok(match walk.step(self)? {
            Step::Arrived => walk.here.last().copied(),
            Step::Absent(_) => None,
        })
    }

    /// The folder that `names` lead to. Folders that are not there are made.
    fn folder(&mut self, names: &[&[u8]]) -> Result<Id, Refusal> {
        let mut walk = Walk::new(names);
        loop {
            match walk.step(self)? {
                Step::Arrived => break,
                Step::Absent(name) => {
                    let id = self.add(Meta::root(0o755), Kind::folder())?;
                    self.name(walk.place(), &name, id);
                    walk.here.push(id);
                }
            }
        }
        let depth = walk.here.len();
        let id = walk.place();
        match self.nodes[id].kind {
            Kind::Folder(_) if depth > MOST_DEPTH => Err(Refusal::Deep),
            Kind::Folder(_) => Ok(id),
            _ => Err(Refusal::NotInFolder),
        }
    }

    fn add(&mut self, meta: Meta, kind: Kind) -> Result<Id, Refusal> {
        if self.nodes.len() >= MOST_NODES {
            return Err(Refusal::Many);
        }
        self.nodes.push(Node {
            meta,
            kind,
            attributes: Vec::new(),
            layer: self.layer,
            emptied: 0,
        });
        Ok(self.nodes.len() - 1)
    }

    fn name(&mut self, folder: Id, name: &[u8], id: Id) {
        if let Kind::Folder(files) = &mut self.nodes[folder].kind {
            files.insert(name.to_owned(), id);
        }
    }
}

/// A walk along a path, with symbolic links.
struct Walk {
    /// The folders on the way, the root first, and the last node.
    here: Vec<Id>,
    /// The names that are left, the next one last.
    left: Vec<Vec<u8>>,
    links: u32,
}

/// What a walk came to.
enum Step {
    /// The end of the path.
    Arrived,
    /// A name that is not there.
    Absent(Vec<u8>),
}

impl Walk {
    fn new(names: &[&[u8]]) -> Self {
        Self {
            here: vec![ROOT],
            left: names.iter().rev().map(|name| name.to_vec()).collect(),
            links: 0,
        }
    }

    fn place(&self) -> Id {
        self.here.last().copied().unwrap_or(ROOT)
    }

    /// Goes on until the end, or a name that is not there.
    fn step(&mut self, tree: &Tree) -> Result<Step, Refusal> {
        while let Some(name) = self.left.pop() {
            if name == b".." {
                // Above the root is the root.
                if self.here.len() > 1 {
                    self.here.pop();
                }
                continue;
            }
            let place = self.place();
            if !matches!(tree.nodes[place].kind, Kind::Folder(_)) {
                return Err(Refusal::NotInFolder);
            }
            let Some(id) = tree.child(place, &name) else {
                return Ok(Step::Absent(name));
            };
            let Kind::Link(target) = &tree.nodes[id].kind else {
                self.here.push(id);
                continue;
            };
            self.links += 1;
            if self.links > MOST_LINKS {
                return Err(Refusal::Circle);
            }
            if target.starts_with(b"/") {
                self.here.truncate(1);
            }
            let parts = target.split(|&byte| byte == b'/');
            let parts = parts.filter(|part| !matches!(part, [] | [b'.']));
            self.left.extend(parts.rev().map(<[u8]>::to_vec));
        }
        Ok(Step::Arrived)
    }
}

/// The names of a path in an archive.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, Refusal> {
    if path.len() > LONGEST_PATH {
        return Err(Refusal::Long);
    }
    let parts = path.split(|&byte| byte == b'/');
    let parts = parts.filter(|part| !matches!(part, [] | [b'.']));
    parts.map(|part| check_name(part).map(|()| part)).collect()
}

fn check_name(name: &[u8]) -> Result<(), Refusal> {
    if name == b".." {
        return Err(Refusal::Out);
    }
    if name.len() > LONGEST_NAME {
        return Err(Refusal::Long);
    }
    one_line(name)
}

fn check_target(target: &[u8]) -> Result<(), Refusal> {
    match target.len() {
        0 => Err(Refusal::Empty),
        1..=LONGEST_PATH => {
            // Names in it that no file can have lead nowhere.
            let mut parts = target.split(|&byte| byte == b'/');
            if parts.any(|part| part.len() > LONGEST_NAME) {
                return Err(Refusal::Long);
            }
            one_line(target)
        }
        _ => Err(Refusal::Long),
    }
}

fn one_line(text: &[u8]) -> Result<(), Refusal> {
    match text.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        true => Err(Refusal::Break),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
