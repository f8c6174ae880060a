//! Writes a tree as an ext4 file system into a file, without root.
//!
//! `mke2fs` makes an empty file system, and `debugfs` puts files into it: both
//! are of e2fsprogs, which are the file system's own tools. They need no
//! privilege, because they write to a file and nothing is mounted. `mke2fs -d`
//! would take owners from files of this machine, which only root can make, and
//! since 1.47.1 from an archive, which needs a library that is often not there.
//! `debugfs` sets an owner by its number in every release.
//!
//! `debugfs` reads a command per line, and says what fails on standard error.
//! Names are put between quotation marks. A name with a line break cannot be
//! written, and is refused before ([`super::tree::Refusal::Break`]).

use super::contents::{NO_ROOM as NO_ROOM_CURE, cure};
use super::tree::{Content, Id, Kind, Meta, Node, ROOT, Tree};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the file system has. Each is known to Linux 2.6.28 and every later one,
/// and to every release of e2fsprogs since. Checksums and 64-bit block numbers
/// are left out: Linux 4.13 and older do not know all of today's defaults.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,\
                        flex_bg,sparse_super,large_file,uninit_bg,dir_nlink,\
                        extra_isize";

/// Megabytes of the journal.
const JOURNAL: &str = "size=8";

/// Files that a guest can make beyond those of the image.
const MORE_FILES: usize = 64 << 10;

/// The folder that every ext4 has.
const LOST_FOUND: &[u8] = b"lost+found";

/// The longest line that `debugfs` reads whole.
const LONGEST_LINE: usize = 8000;

/// The most of its messages that are read.
const MOST_MESSAGES: u64 = 64 << 10;

/// The error of a file system without room, in its messages.
const FULL: [&str; 3] = ["Could not allocate", "No free space", "no space"];

/// Errors of a file that cannot become larger, in their messages: the disk of
/// this machine is full, or the user may not have more of it.
const NO_ROOM: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// Where programs of e2fsprogs are when the search path does not have them: in
/// Debian, that of an ordinary user does not.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why a file system is not written.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// A program is not here.
    #[error(
        "the program '{0}' is not on this machine, and images need it: \
         install e2fsprogs ('apt-get install e2fsprogs', 'dnf install \
         e2fsprogs')"
    )]
    NoProgram(&'static str),
    /// A program does not start.
    #[error("the program '{0}' does not start: {1}")]
    Start(&'static str, io::Error),
    /// A program says that something is wrong.
    #[error("the program '{0}' failed: {1}")]
    Failed(&'static str, String),
    /// The files do not fit.
    #[error("its files do not fit: give a larger --size")]
    Full,
    /// The disk of this machine is full.
    #[error("its disk cannot be written: {0}: {NO_ROOM_CURE}")]
    NoRoom(&'static str),
    /// A file is in the way of the file system's own.
    #[error(
        "the file '/lost+found' is not a folder, and the file system needs a \
         folder with this name: leave the file out"
    )]
    LostFound,
    /// A path is too long.
    #[error("the path of a file is too long: '{0}'")]
    Path(String),
    /// A file of the build cannot be used.
    #[error("a file of the build cannot be used: {0}: {cure}", cure = cure(.0))]
    File(#[from] io::Error),
}

/// The program with this name, if it is on this machine.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).filter(|p| p.is_absolute());
    let places = places.chain(PLACES.map(PathBuf::from));
    let mut programs = places.map(|place| place.join(name));
    programs.find(|path| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
            && path.is_file()
    })
}

/// Looks for the programs that [`write()`] needs.
///
/// # Errors
///
/// [`Ext4Error::NoProgram`].
pub fn has_programs() -> Result<(), Ext4Error> {
    needed("mke2fs").and(needed("debugfs")).map(|_| ())
}

/// Writes `tree`, whose contents are in the folder `contents`, as a file system
/// of `bytes` bytes into the new file `disk`. `messages` is a file for what the
/// programs say.
///
/// # Errors
///
/// [`Ext4Error`].
pub fn write(
    tree: &Tree,
    contents: &Path,
    disk: &Path,
    bytes: u64,
    messages: &Path,
) -> Result<(), Ext4Error> {
    let put = needed("debugfs")?;
    if let Some(id) = tree.at_root(LOST_FOUND)
        && !matches!(tree.node(id).kind, Kind::Folder(_))
    {
        return Err(Ext4Error::LostFound);
    }
    format(tree, disk, bytes, messages)?;
    let mut debugfs = command(&put)
        .args(["-w", "-f", "-"])
        .arg(disk)
        // Contents are named by their numbers.
        .current_dir(contents)
        .stdin(Stdio::piped())
        .stderr(File::create(messages)?)
        .spawn()
        .map_err(|error| Ext4Error::Start("debugfs", error))?;
    let input = debugfs.stdin.take();
    let written = match input {
        Some(input) => {
            let mut input = BufWriter::new(input);
            let written = commands(tree, &mut input);
            written.and_then(|()| Ok(input.flush()?))
        }
        None => Ok(()),
    };
    // Its input ends here, and so does the program.
    let ended = debugfs.wait()?;
    let said = what_was_said(messages)?;
    let complaints: Vec<_> = said
        .lines()
        // The first line is its version.
        .filter(|line| !line.starts_with("debugfs 1."))
        .filter(|line| !line.trim().is_empty())
        .collect();
    if let Some(first) = complaints.first() {
        return Err(complaint("debugfs", &said, first));
    }
    written?;
    match ended.success() {
        true => Ok(()),
        false => Err(Ext4Error::Failed("debugfs", ended.to_string())),
    }
}

/// Writes the commands that make the files of `tree` in an empty file system.
///
/// # Errors
///
/// [`Ext4Error::Path`], [`Ext4Error::File`].
pub fn commands(tree: &Tree, to: impl Write) -> Result<(), Ext4Error> {
    Script::new(tree, to).all()
}

fn needed(name: &'static str) -> Result<PathBuf, Ext4Error> {
    program(name).ok_or(Ext4Error::NoProgram(name))
}

/// A command that finds nothing of the user's in its environment.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("LC_ALL", "C")
        // What a machine has in its file of defaults would come into images.
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Makes an empty file system.
fn format(
    tree: &Tree,
    disk: &Path,
    bytes: u64,
    messages: &Path,
) -> Result<(), Ext4Error> {
    let make = needed("mke2fs")?;
    File::create_new(disk)?.set_len(bytes)?;
    let files = (tree.len() + MORE_FILES).to_string();
    let ended = command(&make)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"])
        .args(["-m", "0", "-O", FEATURES, "-J", JOURNAL, "-N", &files])
        .args(["-E", "root_owner=0:0,nodiscard", "-L", "lguest"])
        .arg(disk)
        .stderr(File::create(messages)?)
        .status()
        .map_err(|error| Ext4Error::Start("mke2fs", error))?;
    match ended.success() {
        true => Ok(()),
        false => {
            let said = what_was_said(messages)?;
            Err(complaint("mke2fs", &said, said.trim()))
        }
    }
}

/// What it means that a program has `said` this, whose first part is `first`.
fn complaint(program: &'static str, said: &str, first: &str) -> Ext4Error {
    // A disk of this machine that is full can have any consequence.
    if let Some(why) = NO_ROOM.iter().find(|mark| said.contains(**mark)) {
        return Ext4Error::NoRoom(why);
    }
    match FULL.iter().any(|mark| said.contains(mark)) {
        true => Ext4Error::Full,
        false => {
            let said = super::shown::shown(first.as_bytes());
            Ext4Error::Failed(program, said)
        }
    }
}

fn what_was_said(messages: &Path) -> io::Result<String> {
    let mut said = Vec::new();
    File::open(messages)?
        .take(MOST_MESSAGES)
        .read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Commands for `debugfs`.
struct Script<'a, W: Write> {
    tree: &'a Tree,
    to: W,
    /// Files that have a name already, and their first path.
    named: HashMap<Id, Vec<u8>>,
    /// How many names a file has.
    links: HashMap<Id, u32>,
}

impl<'a, W: Write> Script<'a, W> {
    fn new(tree: &'a Tree, to: W) -> Self {
        Self {
            tree,
            to,
            named: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// Commands for all files.
    fn all(&mut self) -> Result<(), Ext4Error> {
        self.count(ROOT);
        let root = self.tree.node(ROOT);
        self.meta(b"/", 0o040_000, root.meta)?;
        self.folder(ROOT, b"")
    }

    fn count(&mut self, folder: Id) {
        if let Kind::Folder(files) = &self.tree.node(folder).kind {
            for &id in files.values() {
                *self.links.entry(id).or_default() += 1;
                self.count(id);
            }
        }
    }

    /// Commands for the files of a folder. The depth of calls is that of
    /// folders, which is bounded.
    fn folder(&mut self, id: Id, path: &[u8]) -> Result<(), Ext4Error> {
        let Kind::Folder(files) = &self.tree.node(id).kind else {
            return Ok(());
        };
        let here: &[u8] = if path.is_empty() { b"/" } else { path };
        self.line(&[Word::Plain("cd"), Word::Name(here)])?;
        for (name, &id) in files {
            self.file(id, name, &[path, name].join(&b'/'))?;
        }
        for (name, &id) in files {
            self.folder(id, &[path, name].join(&b'/'))?;
        }
        Ok(())
    }

    /// Commands for the file `name` in the folder where `debugfs` is.
    fn file(
        &mut self,
        id: Id,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Ext4Error> {
        let node = self.tree.node(id);
        // A name that begins with '<' would be taken for a number by commands
        // that look a file up. Those that make one take the name alone.
        let here = [b"./", name].concat();
        let (here, name) = (Word::Name(&here), Word::Name(name));
        if let Some(first) = self.named.get(&id).cloned() {
            return self.another_name(&first, here, name);
        }
        let links = self.links.get(&id).copied().unwrap_or(1);
        if links > 1 {
            self.named.insert(id, path.to_vec());
        }
        let kind = self.make(node, here, name, path)?;
        let Word::Name(plain) = here else {
            return Ok(());
        };
        self.meta(plain, kind, node.meta)?;
        for (attribute, value) in &node.attributes {
            let from = number(value);
            let words = [Word::Plain("ea_set"), Word::Plain("-f")];
            let rest = [Word::Plain(&from), here, Word::Plain(attribute)];
            self.line(&[&words[..], &rest].concat())?;
        }
        if links > 1 && !matches!(node.kind, Kind::Folder(_)) {
            self.set(plain, "links_count", &links.to_string())?;
        }
        Ok(())
    }

    /// Makes a file. Returns the bits of its mode that are its kind.
    fn make(
        &mut self,
        node: &Node,
        here: Word,
        name: Word,
        path: &[u8],
    ) -> Result<u32, Ext4Error> {
        let plain = Word::Plain;
        match &node.kind {
            // mke2fs has made this one.
            Kind::Folder(_) if path == [b"/", LOST_FOUND].concat() => {}
            Kind::Folder(_) => self.line(&[plain("mkdir"), here])?,
            Kind::File(content) => {
                let from = number(content);
                self.line(&[plain("write"), plain(&from), name])?;
                return Ok(0o100_000);
            }
            Kind::Link(target) => {
                self.line(&[plain("symlink"), here, Word::Name(target)])?;
                return Ok(0o120_000);
            }
            Kind::Device {
                block,
                major,
                minor,
            } => {
                let kind = if *block { "b" } else { "c" };
                let (major, minor) = (major.to_string(), minor.to_string());
                let numbers = [plain(kind), plain(&major), plain(&minor)];
                let words = [&[plain("mknod"), name][..], &numbers];
                self.line(&words.concat())?;
                return Ok(if *block { 0o060_000 } else { 0o020_000 });
            }
            Kind::Pipe => {
                self.line(&[plain("mknod"), name, plain("p")])?;
                return Ok(0o010_000);
            }
        }
        Ok(0o040_000)
    }

    /// One more name for the file at `first`. Older releases of `ln` do not
    /// make a folder larger: another file that is made and removed does.
    fn another_name(
        &mut self,
        first: &[u8],
        here: Word,
        name: Word,
    ) -> Result<(), Ext4Error> {
        let plain = Word::Plain;
        self.line(&[plain("mknod"), name, plain("p")])?;
        self.line(&[plain("rm"), here])?;
        self.line(&[plain("ln"), Word::Name(first), here])
    }

    fn meta(
        &mut self,
        name: &[u8],
        kind: u32,
        meta: Meta,
    ) -> Result<(), Ext4Error> {
        let mode = kind | u32::from(meta.mode);
        self.set(name, "mode", &format!("0{mode:o}"))?;
        self.set(name, "uid", &meta.user.to_string())?;
        self.set(name, "gid", &meta.group.to_string())?;
        let time = format!("@{}", meta.time);
        for field in ["mtime", "ctime", "atime"] {
            self.set(name, field, &time)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        name: &[u8],
        field: &str,
        value: &str,
    ) -> Result<(), Ext4Error> {
        let plain = Word::Plain;
        self.line(&[plain("sif"), Word::Name(name), plain(field), plain(value)])
    }

    /// Writes a line. Its first word is a command, so that nothing in a name
    /// is taken for one.
    fn line(&mut self, words: &[Word]) -> Result<(), Ext4Error> {
        let mut line = Vec::new();
        for word in words {
            if !line.is_empty() {
                line.push(b' ');
            }
            word.push_to(&mut line);
        }
        if line.len() > LONGEST_LINE {
            return Err(Ext4Error::Path(super::shown::shown(&line)));
        }
        line.push(b'\n');
        match self.to.write_all(&line) {
            // Its messages say more than that it has closed its input.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

fn number(content: &Content) -> String {
    content.number.to_string()
}

/// A word of a command.
#[derive(Clone, Copy)]
enum Word<'a> {
    /// One of ours.
    Plain(&'a str),
    /// A name from an archive.
    Name(&'a [u8]),
}

impl Word<'_> {
    fn push_to(self, line: &mut Vec<u8>) {
        match self {
            Self::Plain(word) => line.extend(word.bytes()),
            Self::Name(name) => {
                line.push(b'"');
                for &byte in name {
                    line.push(byte);
                    if byte == b'"' {
                        line.push(byte);
                    }
                }
                line.push(b'"');
            }
        }
    }
}

#[cfg(test)]
mod tests;
