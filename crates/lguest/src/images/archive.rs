//! Reads a tar archive into a tree.
//!
//! An archive is a stranger's file. Each header is looked at raw, so that the
//! size of a long name or of an extended header is checked before it is read.
//! What Linux cannot have in a file system, and what is not understood, is
//! refused with the name of the entry.

use super::contents::{ContentError, Contents};
use super::shown::shown;
use super::tree::{Content, Id, Kind, Meta, Refusal, Tree};
use std::io::{self, Read};
use tar::{Archive, Entry, EntryType, Header};

/// The most bytes of an extended header or a long name.
const MOST_EXTENDED: u64 = 1 << 20;
/// How the name of a whiteout begins.
const WHITEOUT: &[u8] = b".wh.";
/// The name of a whiteout for all files of a folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How other names begin that are for the tool that has made the layer.
const TOOL: &[u8] = b".wh..wh.";
/// How the name of an extended attribute begins in an extended header.
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// Extended attributes that are kept: a guest's kernel uses them.
const KEPT: [&str; 2] = ["security.capability", "user."];

/// What the names in an archive mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Files.
    Files,
    /// Files, and whiteouts that remove what earlier layers have.
    Layer,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry cannot be in an image.
    #[error("the entry '{0}' is refused: {1}")]
    Name(String, Refusal),
    /// An entry is not understood.
    #[error("the entry '{0}' is refused: {1}")]
    Entry(String, &'static str),
    /// The contents of an entry.
    #[error("the entry '{0}': {1}")]
    Content(String, ContentError),
    /// It is no archive, or is damaged.
    #[error(
        "it is no tar archive, or it is damaged: {}",
        // It has a name of the archive in it.
        shown(.0.to_string().as_bytes())
    )]
    Damaged(io::Error),
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    user: Option<u64>,
    group: Option<u64>,
    time: Option<u64>,
    size: Option<u64>,
    attributes: Vec<(String, Vec<u8>)>,
}

/// Puts all files of the archive into `tree`, and their contents into
/// `contents`.
///
/// # Errors
///
/// [`ArchiveError`].
pub fn read(
    archive: impl Read,
    form: Form,
    tree: &mut Tree,
    contents: &mut Contents,
) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(archive);
    let entries = archive.entries().map_err(ArchiveError::Damaged)?.raw(true);
    let mut said = Said::default();
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Damaged)?;
        if extend(&mut said, &mut entry)? {
            continue;
        }
        let said = std::mem::take(&mut said);
        let mut into = Into {
            form,
            tree,
            contents,
        };
        into.put(said, &mut entry)?;
    }
    Ok(())
}

/// Whether `entry` is an extended header. Keeps what it says about the next
/// entry.
fn extend<R: Read>(
    said: &mut Said,
    entry: &mut Entry<'_, R>,
) -> Result<bool, ArchiveError> {
    let kind = entry.header().entry_type();
    let long_name = kind == EntryType::GNULongName;
    let long_target = kind == EntryType::GNULongLink;
    let pax = kind == EntryType::XHeader;
    // What a global header says (a comment) is of no use here.
    let global = kind == EntryType::XGlobalHeader;
    if !(long_name || long_target || pax || global) {
        return Ok(false);
    }
    let name = || shown(&entry.header().path_bytes());
    if entry.size() > MOST_EXTENDED {
        return Err(ArchiveError::Entry(name(), "its header is too large"));
    }
    let failed = |error| ArchiveError::Damaged(error);
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(failed)?;
    let named = |mut text: Vec<u8>| {
        if text.last() == Some(&0) {
            text.pop();
        }
        Some(text)
    };
    if long_name {
        said.name = named(text);
    } else if long_target {
        said.target = named(text);
    } else if pax {
        said.extend(&text, entry.header())?;
    }
    Ok(true)
}

impl Said {
    fn extend(
        &mut self,
        text: &[u8],
        header: &Header,
    ) -> Result<(), ArchiveError> {
        let mut rest = text;
        while !rest.is_empty() {
            let Some((key, value, after)) = record(rest) else {
                return Err(ArchiveError::Entry(
                    shown(&header.path_bytes()),
                    "its extended header is damaged",
                ));
            };
            rest = after;
            let Ok(key) = std::str::from_utf8(key) else {
                continue;
            };
            match key {
                "path" => self.name = Some(value.to_vec()),
                "linkpath" => self.target = Some(value.to_vec()),
                "uid" => self.user = number(value),
                "gid" => self.group = number(value),
                "mtime" => self.time = number(value),
                "size" => self.size = number(value),
                _ if key.starts_with("GNU.sparse.") => return Err(sparse()),
                _ => self.attribute(key, value),
            }
        }
        Ok(())
    }

    fn attribute(&mut self, key: &str, value: &[u8]) {
        if let Some(name) = key.strip_prefix(ATTRIBUTE)
            && is_kept(name)
        {
            self.attributes.push((name.to_owned(), value.to_vec()));
        }
    }
}

/// A record of an extended header: its key, its value, and what comes after it.
/// A value may have any bytes, so the length counts.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|&byte| byte == b' ')?;
    let bytes: usize =
        std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let record = text.get(space + 1..bytes)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &text[bytes..]))
}

/// A number of an extended header. Times have a fraction.
fn number(value: &[u8]) -> Option<u64> {
    let whole = value.split(|&byte| byte == b'.').next()?;
    std::str::from_utf8(whole).ok()?.parse().ok()
}

/// Whether an image has this extended attribute. Others belong to the machine
/// that has made the archive.
pub(super) fn is_kept(name: &str) -> bool {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    KEPT.iter().any(|kept| name.starts_with(kept))
        && name.len() <= 64
        && name.chars().all(plain)
}

/// Keeps `bytes` bytes from `from`, which belong to the file at `path`.
pub(super) fn keep(
    contents: &mut Contents,
    path: &[u8],
    from: impl Read,
    bytes: u64,
) -> Result<Content, ArchiveError> {
    let kept = contents.keep(from, bytes);
    kept.map_err(|error| ArchiveError::Content(shown(path), error))
}

/// Gives the file at `path` its extended attributes.
pub(super) fn put_attributes(
    tree: &mut Tree,
    contents: &mut Contents,
    id: Id,
    path: &[u8],
    attributes: Vec<(String, Vec<u8>)>,
) -> Result<(), ArchiveError> {
    for (name, value) in attributes {
        let bytes = value.len() as u64;
        let kept = keep(contents, path, value.as_slice(), bytes)?;
        if !tree.attribute(id, &name, kept) {
            return Err(ArchiveError::Entry(
                shown(path),
                "its extended attributes are larger than the 4000 bytes that \
                 a file system has room for: leave them out ('tar \
                 --no-xattrs', 'setfattr -x')",
            ));
        }
    }
    Ok(())
}

fn sparse() -> ArchiveError {
    ArchiveError::Entry(
        "GNU.sparse".into(),
        "a file with holes is not understood: make the archive without \
         '--sparse'",
    )
}

/// Where an entry goes.
struct Into<'a> {
    form: Form,
    tree: &'a mut Tree,
    contents: &'a mut Contents,
}

impl Into<'_> {
    fn put<R: Read>(
        &mut self,
        said: Said,
        entry: &mut Entry<'_, R>,
    ) -> Result<(), ArchiveError> {
        let header = entry.header().clone();
        let path = said.name.clone();
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |why| ArchiveError::Name(shown(&path), why);
        if self.form == Form::Layer && self.white_out(&path).map_err(refused)? {
            return Ok(());
        }
        let target = || {
            let own = || header.link_name_bytes().map(|t| t.into_owned());
            said.target.clone().or_else(own).unwrap_or_default()
        };
        let wrong = |why| ArchiveError::Entry(shown(&path), why);
        let meta = said.meta(&header).map_err(wrong)?;
        // Readers of archives do not agree which of the two counts.
        if said.size.is_some_and(|size| size != entry.size()) {
            return Err(wrong(
                "it has two sizes: make the archive with 'tar --format=gnu'",
            ));
        }
        let kind = match header.entry_type() {
            EntryType::Link => {
                let linked = self.tree.link(&path, &target());
                return linked.map_err(refused);
            }
            EntryType::Regular if path.ends_with(b"/") => Kind::folder(),
            EntryType::Regular | EntryType::Continuous => {
                let bytes = entry.size();
                Kind::File(keep(self.contents, &path, entry, bytes)?)
            }
            EntryType::Symlink => Kind::Link(target()),
            EntryType::Directory => Kind::folder(),
            EntryType::Char => device(false, &header).map_err(wrong)?,
            EntryType::Block => device(true, &header).map_err(wrong)?,
            EntryType::Fifo => Kind::Pipe,
            EntryType::GNUSparse => return Err(sparse()),
            _ => return Err(wrong("its kind is not understood")),
        };
        let id = self.tree.put(&path, meta, kind).map_err(refused)?;
        put_attributes(self.tree, self.contents, id, &path, said.attributes)
    }

    /// Whether `path` is that of a whiteout. Carries it out.
    fn white_out(&mut self, path: &[u8]) -> Result<bool, Refusal> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let at = path.iter().rposition(|&byte| byte == b'/');
        let (folder, name) = match at {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        if name == OPAQUE {
            self.tree.white_out_all(folder)?;
        } else if !name.starts_with(TOOL) {
            let Some(name) = name.strip_prefix(WHITEOUT) else {
                return Ok(false);
            };
            if name.is_empty() || name == b"." {
                return Err(Refusal::Empty);
            }
            self.tree.white_out(&[folder, name].join(&b'/'))?;
        }
        Ok(true)
    }
}

impl Said {
    fn meta(&self, header: &Header) -> Result<Meta, &'static str> {
        let number = |value: io::Result<u64>| {
            value.map_err(|_| "a number in its header is wrong")
        };
        let owner = |own: Option<u64>, value: io::Result<u64>| {
            let value = own.map_or_else(|| number(value), Ok)?;
            u32::try_from(value).map_err(|_| "its owner's number is too large")
        };
        let mode = header.mode().map_err(|_| "its permissions are wrong")?;
        // A guest of 32 bits has times until 2038.
        let time = self.time.map_or_else(|| number(header.mtime()), Ok)?;
        let time = time.min(i32::MAX.unsigned_abs().into());
        Ok(Meta {
            mode: u16::try_from(mode & 0o7777).unwrap_or(0),
            user: owner(self.user, header.uid())?,
            group: owner(self.group, header.gid())?,
            time: u32::try_from(time).unwrap_or(0),
        })
    }
}

/// The most that a device's numbers may be in Linux.
const MOST_MAJOR: u32 = (1 << 12) - 1;
const MOST_MINOR: u32 = (1 << 20) - 1;

fn device(block: bool, header: &Header) -> Result<Kind, &'static str> {
    let number = |value: io::Result<Option<u32>>, most: u32| {
        let value = value.ok().flatten().unwrap_or(0);
        let fits = value <= most;
        fits.then_some(value)
            .ok_or("its device number is too large")
    };
    Ok(Kind::Device {
        block,
        major: number(header.device_major(), MOST_MAJOR)?,
        minor: number(header.device_minor(), MOST_MINOR)?,
    })
}

#[cfg(test)]
mod tests;
