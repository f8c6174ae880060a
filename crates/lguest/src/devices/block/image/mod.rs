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

use crate::memory::{GuestMemory, Section, behind, total, truncated};
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
    /// Whether tables have changed that are not in the file yet.
    unsettled: AtomicBool,
}

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
    fn of(access: Access) -> Self {
        Self {
            access,
            unsettled: AtomicBool::new(false),
        }
    }

    /// A raw image, as the base of another.
    pub(super) fn raw(file: File, again: Option<File>) -> io::Result<Self> {
        let file = ImageFile::new(file, again);
        let raw = Raw::builder(file);
        let raw = raw.write(false).open(DenyImplicitOpenGate::default())?;
        Ok(Self::of(FormatAccess::new(raw)))
    }

    /// The qcow2 image in `file`, which must have been checked, above `base`.
    pub(super) fn open(
        file: File,
        again: Option<File>,
        writable: bool,
        base: Option<Self>,
    ) -> io::Result<Self> {
        let image = Image2::builder(ImageFile::new(file, again))
            .write(writable)
            .data_file(None)
            .backing(base.map(|base| base.access))
            .open(DenyImplicitOpenGate::default())?;
        Ok(Self::of(FormatAccess::new(image)))
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
        let image = new.size(size).create_open(gate, |image| {
            Ok(Image2::builder(image).backing(Some(base.access)))
        })?;
        let access = FormatAccess::new(image);
        access.flush()?;
        Ok(Self::of(access))
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
        self.pieces(offset, sections, |mapping, piece| match mapping {
            Mapping::Raw {
                storage, offset, ..
            } => {
                let moved = memory.read_file(&storage.file, offset, piece)?;
                zero(memory, &behind(piece, moved))
            }
            Mapping::Special { layer, offset, .. } => {
                let mut bytes = vec![0; total(piece) as usize];
                layer.read(&mut bytes[..], offset)?;
                put(memory, piece, &bytes)
            }
            _ => zero(memory, piece),
        })
    }

    /// Reads into `sections` what is in the kernel's memory.
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
        self.pieces(offset, sections, |mapping, piece| match mapping {
            Mapping::Raw {
                storage, offset, ..
            } => {
                let file = &storage.file;
                let moved = memory.read_file_now(file, offset, piece)?;
                zero(memory, &behind(piece, moved))
            }
            Mapping::Special { .. } => Err(io::ErrorKind::WouldBlock.into()),
            _ => zero(memory, piece),
        })
    }

    /// Writes `sections` where the image has clusters already.
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
            self.unsettled.store(true, Ordering::SeqCst);
            self.access.commit_data_mapping(mapping)?;
            moved += len;
        }
        Ok(moved)
    }

    /// Writes the tables that are in our memory, so that the death of this
    /// process loses nothing that was written.
    pub(super) fn settle(&self) -> io::Result<()> {
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
    const ZEROES: &[u8] = &[0; 64 << 10];
    let mut done = 0;
    while done < total(sections) {
        let rest = behind(sections, done);
        put(memory, &rest, ZEROES)?;
        done += total(&rest).min(short(ZEROES.len() as u64));
    }
    Ok(())
}

/// Copies `bytes` into `sections`.
fn put(
    memory: &GuestMemory,
    sections: &[Section],
    bytes: &[u8],
) -> io::Result<()> {
    let mut rest = bytes;
    for section in sections {
        let len = rest.len().min(section.len() as usize);
        let (part, more) = rest.split_at(len);
        let written = memory.write(section.addr(), part);
        written.map_err(io::Error::other)?;
        rest = more;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
