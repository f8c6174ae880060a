//! The setup header of a bzImage.
//!
//! Its layout is the Linux x86 boot protocol. Only the fields that help to find
//! and name the kernel inside are read.

use super::{Compression, Release};
use std::ops::Range;

/// How many bytes of a file are needed to recognise it.
pub(super) const HEAD: usize = 0x210;

/// Whether this is the beginning of a bzImage: its setup header has a mark.
pub(super) fn recognise(head: &[u8]) -> bool {
    head.get(0x202..0x206) == Some(b"HdrS".as_slice())
}

/// The fields of a setup header that are used.
pub(super) struct Setup {
    /// The release of Linux.
    pub(super) release: Option<Release>,
    /// It has an entry point for 64-bit code.
    pub(super) is_for_64_bits: bool,
    /// Where in the file the packed kernel is. Headers have this since protocol
    /// 2.08.
    pub(super) payload: Option<Range<usize>>,
}

impl Setup {
    /// Reads the header of `file`, as far as it is there.
    pub(super) fn of(file: &[u8]) -> Self {
        let half = |at: usize| {
            let bytes = file.get(at..at + 2)?;
            Some(u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let version = half(0x206).unwrap_or(0);
        // The offset of the text with the release, from the end of the boot
        // sector.
        let text = half(0x20E).filter(|&at| at != 0).and_then(|at| {
            let text = file.get(usize::from(at) + 0x200..)?;
            Release::parse(text)
        });
        // Since protocol 2.12 the header says whether there is a 64-bit entry.
        let flags = half(0x236).filter(|_| version >= 0x20C).unwrap_or(0);
        Self {
            release: text,
            is_for_64_bits: flags & 1 != 0,
            payload: (version >= 0x208).then(|| payload(file)).flatten(),
        }
    }

    /// How the kernel in `file` is packed, if that can be recognised.
    pub(super) fn packed_by(&self, file: &[u8]) -> Option<Compression> {
        match &self.payload {
            Some(at) => Compression::of(file.get(at.clone())?),
            None => Compression::anywhere_in(file),
        }
    }
}

fn payload(file: &[u8]) -> Option<Range<usize>> {
    let word = |at: usize| {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // No sectors means four, for old boot loaders; the boot sector is one more.
    let sectors = match *file.get(0x1F1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let from = word(0x248)?.checked_add((sectors + 1) * 512)?;
    let to = from.checked_add(word(0x24C)?)?;
    Some(from..to.min(file.len())).filter(|at| at.start < at.end)
}
