//! An image in the format qcow2, alone or above a base.
//!
//! An image has clusters where it was written. Everything else is read from its
//! base, or is zero. Data goes straight between the Guest's memory and the
//! files; only what is compressed passes through memory of ours. The crate
//! `imago` keeps the tables. It is given checked images only ([`check`]), and
//! opens no file by its name: a base is what the user has named.

mod check;
mod storage;

pub use check::BadImage;

use crate::memory::{GuestMemory, Section, behind, scatter, total, truncated};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder,
    FormatDriverBuilder, Mapping,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::ImageFile;

type Access = FormatAccess<ImageFile>;
type Image2 = Qcow2<ImageFile, Access>;

/// An open image.
#[derive(Debug)]
pub(super) struct Image {
    access: Access,
    /// Whether anything reads it after the Guest has ended.
    pub(super) is_kept: bool,
    /// Whether tables of an image that is kept have changed, and are not in the
    /// file yet.
    unsettled: AtomicBool,
    /// Bytes of a cluster. A raw image has none.
    cluster: u64,
    /// Whether tables that are not in the file yet have a cluster with bytes
    /// that the Guest did not write just now: they were copied from elsewhere.
    copied: AtomicBool,
}

/// Bytes of a cluster of an image that is made here.
const CLUSTER: usize = 64 << 10;

/// The name of a base, as it is written into an image.
pub(super) struct BaseName {
    pub(super) name: String,
    /// `raw` or `qcow2`.
    pub(super) format: &'static str,
}

/// The name of the base that the image in `file` has in its header. Checks the
/// image.
pub(super) fn base_of(file: &File) -> Result<Option<String>, BadImage> {
    check::check(file).map(|facts| facts.base)
}

impl Image {
    fn of(access: Access, cluster: u64) -> Self {
        Self {
            access,
            is_kept: true,
            unsettled: AtomicBool::new(false),
            cluster,
            copied: AtomicBool::new(false),
        }
    }

    /// A raw image, as the base of another.
    pub(super) fn raw(file: File, again: Option<File>) -> io::Result<Self> {
        let file = ImageFile::new(file, again);
        let raw = Raw::builder(file);
        let raw = raw.write(false).open(DenyImplicitOpenGate::default())?;
        Ok(Self::of(FormatAccess::new(raw), 1))
    }

    /// The qcow2 image in `file`, which must have been checked, above `base`.
    pub(super) fn open(
        file: File,
        again: Option<File>,
        writable: bool,
        base: Option<Self>,
    ) -> io::Result<Self> {
        let cluster = check::cluster(&file)?;
        let image = Image2::builder(ImageFile::new(file, again))
            .write(writable)
            .data_file(None)
            .backing(base.map(|base| base.access))
            .open(DenyImplicitOpenGate::default())?;
        Ok(Self::of(FormatAccess::new(image), cluster))
    }

    /// Makes a qcow2 image above `base` in `file`, which is empty. `name` is
    /// the name that the image has for its base.
    pub(super) fn create(
        file: File,
        again: Option<File>,
        size: u64,
        base: Self,
        name: Option<BaseName>,
    ) -> io::Result<Self> {
        let new = Image2::create_builder(ImageFile::new(file, again));
        let new = match name {
            Some(base) => new.backing(base.name, base.format.to_owned()),
            None => new,
        };
        let gate = DenyImplicitOpenGate::default();
        let new = new.size(size).cluster_size(CLUSTER);
        let image = new.create_open(gate, |image| {
            Ok(Image2::builder(image).backing(Some(base.access)))
        })?;
        let access = FormatAccess::new(image);
        access.flush()?;
        Ok(Self::of(access, CLUSTER as u64))
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.access.size()
    }

    /// Reads into `sections`. Returns the bytes moved.
    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        self.read_or_wait(memory, offset, sections, true)
    }

    /// Reads into `sections` what is in the kernel's memory. Blocks only where
    /// a table has to be read from the file first.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if not all of it is.
    pub(super) fn read_now(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        self.read_or_wait(memory, offset, sections, false)
    }

    fn read_or_wait(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
        waits: bool,
    ) -> io::Result<u32> {
        self.pieces(offset, sections, |mapping, piece| match mapping {
            Mapping::Raw {
                storage, offset, ..
            } => {
                let file = &storage.file;
                let moved = match waits {
                    true => memory.read_file(file, offset, piece)?,
                    false => memory.read_file_now(file, offset, piece)?,
                };
                zero(memory, &behind(piece, moved))
            }
            Mapping::Special { layer, offset, .. } if waits => {
                let mut bytes = vec![0; total(piece) as usize];
                layer.read(&mut bytes[..], offset)?;
                let put = scatter(memory.region(), piece, &bytes);
                put.map(drop).map_err(io::Error::other)
            }
            Mapping::Special { .. } => Err(io::ErrorKind::WouldBlock.into()),
            _ => zero(memory, piece),
        })
    }

    /// Writes `sections` where the image has clusters already. Blocks only
    /// where a table has to be read from the file first.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it has not, or if the file does not say so yet; nothing
    /// is written then.
    pub(super) fn write_now(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        let bytes = u64::from(total(sections));
        match self.access.get_mapping(offset, bytes)? {
            (
                Mapping::Raw {
                    storage,
                    offset,
                    writable: true,
                    ..
                },
                mapped,
            ) if mapped >= bytes && !self.unsettled.load(Ordering::SeqCst) => {
                memory.write_file(&storage.file, offset, sections)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes `sections`. Returns the bytes moved.
    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        let wanted = total(sections);
        let mut moved = 0;
        while moved < wanted {
            let rest = behind(sections, moved);
            let at = offset + u64::from(moved);
            let bytes = (wanted - moved).into();
            let mapping = self.access.prepare_data_mapping(at, bytes, true)?;
            let len = short(mapping.length()).min(wanted - moved);
            if len == 0 {
                break;
            }
            let piece = truncated(&rest, len);
            let file = &mapping.storage().file;
            if memory.write_file(file, mapping.offset(), &piece)? < len {
                break;
            }
            let is_new = !mapping.is_nonblocking();
            let end = at + u64::from(len);
            if is_new && (at | end) & (self.cluster - 1) != 0 {
                self.copied.store(true, Ordering::SeqCst);
            }
            self.unsettled.store(self.is_kept, Ordering::SeqCst);
            self.access.commit_data_mapping(mapping)?;
            moved += len;
        }
        Ok(moved)
    }

    /// Writes the tables that are in our memory, so that the death of this
    /// process loses nothing that was written.
    ///
    /// What was copied to a new cluster goes to the disk first. The machine may
    /// write the tables to its disk before the cluster. If its power failed
    /// then, bytes would be lost that the Guest has flushed long ago.
    pub(super) fn settle(&self) -> io::Result<()> {
        if self.copied.load(Ordering::SeqCst) {
            self.access.sync()?;
            self.copied.store(false, Ordering::SeqCst);
        }
        self.access.flush()?;
        // The thread that settles is the one that changes tables.
        self.unsettled.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until the disk under the file has all that was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.settle()?;
        self.access.sync()
    }

    /// Reads ahead at `offset`, in pieces as long as `ignored`. Returns how
    /// many bytes; `None` at the end.
    pub(super) fn read_ahead(
        &self,
        offset: u64,
        ignored: &mut [u8],
    ) -> Option<usize> {
        let len = ignored.len();
        let (mapping, mapped) =
            self.access.get_mapping(offset, len as u64).ok()?;
        let len = len.min(usize::try_from(mapped).ok()?);
        if let Mapping::Raw {
            storage, offset, ..
        } = mapping
        {
            let file = storage.again.as_ref()?;
            file.read_at(ignored.get_mut(..len)?, offset).ok()?;
        }
        (len > 0).then_some(len)
    }

    /// Calls `each` with the parts of `sections` and where they are. Returns
    /// the bytes.
    fn pieces(
        &self,
        offset: u64,
        sections: &[Section],
        each: impl Fn(Mapping<'_, ImageFile>, &[Section]) -> io::Result<()>,
    ) -> io::Result<u32> {
        let wanted = total(sections);
        let mut moved = 0;
        while moved < wanted {
            let at = offset + u64::from(moved);
            let rest = u64::from(wanted - moved);
            let (mapping, mapped) = self.access.get_mapping(at, rest)?;
            let len = short(mapped).min(wanted - moved);
            if len == 0 {
                break;
            }
            if len == wanted {
                each(mapping, sections)?;
            } else {
                let piece = truncated(&behind(sections, moved), len);
                each(mapping, &piece)?;
            }
            moved += len;
        }
        Ok(moved)
    }
}

/// A length, at most as long as a request can be.
fn short(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Fills `sections` with zeroes.
fn zero(memory: &GuestMemory, sections: &[Section]) -> io::Result<()> {
    // A Guest may name the same memory often, and so a long request.
    const ZEROES: &[u8] = &[0; 64 << 10];
    for section in sections {
        let (mut at, mut rest) = (section.addr(), section.len());
        while rest > 0 {
            let len = rest.min(short(ZEROES.len() as u64));
            let written = memory.write(at, &ZEROES[..len as usize]);
            written.map_err(io::Error::other)?;
            (at, rest) = (at + len, rest - len);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
