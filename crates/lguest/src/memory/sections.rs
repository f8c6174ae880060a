//! Sections: pieces of memory that a transfer goes through in order.
//!
//! A Guest names the memory of a request as a list of pieces. A [`Section`]
//! exists only once its piece has been checked, so a list of them can be
//! filled from bytes, copied into bytes, or copied into another list in
//! another Guest's memory.

use super::{BadAddress, Region};

/// A piece of memory that has been checked against the size of its region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    addr: u32,
    len: u32,
}

impl Section {
    /// The `len` bytes from `addr` in `region`.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of them exist.
    pub fn new(
        region: &Region,
        addr: u32,
        len: u32,
    ) -> Result<Self, BadAddress> {
        region.check(addr, len)?;
        Ok(Self { addr, len })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn addr(self) -> u32 {
        self.addr
    }

    /// Bytes.
    #[must_use]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Bytes in all of `sections`.
#[must_use]
pub fn total(sections: &[Section]) -> u32 {
    let lengths = sections.iter().map(|section| section.len);
    lengths.fold(0, u32::saturating_add)
}

/// The first `bytes` of `sections`.
#[must_use]
pub fn truncated(sections: &[Section], bytes: u32) -> Vec<Section> {
    let mut rest = bytes;
    let first = |section: &Section| {
        let len = section.len.min(rest);
        rest -= len;
        Section {
            addr: section.addr,
            len,
        }
    };
    sections.iter().map(first).collect()
}

/// The sections after the first `bytes` of `sections`.
#[must_use]
pub fn behind(sections: &[Section], bytes: u32) -> Vec<Section> {
    let mut rest = bytes;
    let tail = |section: &Section| {
        let skipped = section.len.min(rest);
        rest -= skipped;
        Section {
            addr: section.addr + skipped,
            len: section.len - skipped,
        }
    };
    let tails = sections.iter().map(tail);
    tails.filter(|section| !section.is_empty()).collect()
}

/// Copies the bytes in `sections` of `region`, in order.
///
/// # Errors
///
/// [`BadAddress`] if they are sections of another region.
pub fn gather(
    region: &Region,
    sections: &[Section],
) -> Result<Vec<u8>, BadAddress> {
    let mut bytes = Vec::new();
    gather_behind(&mut bytes, region, sections)?;
    Ok(bytes)
}

/// Copies the bytes in `sections` of `region`, in order, to the end of `bytes`.
///
/// # Errors
///
/// [`BadAddress`] if they are sections of another region; then `bytes` is as
/// before.
pub fn gather_behind(
    bytes: &mut Vec<u8>,
    region: &Region,
    sections: &[Section],
) -> Result<(), BadAddress> {
    let start = bytes.len();
    bytes.resize(start + total(sections) as usize, 0);
    let mut rest = &mut bytes[start..];
    for section in sections {
        let (part, more) = rest.split_at_mut(section.len as usize);
        if let Err(error) = region.read(section.addr, part) {
            bytes.truncate(start);
            return Err(error);
        }
        rest = more;
    }
    Ok(())
}

/// Copies as many of `bytes` into `sections` of `region` as they take. Returns
/// how many that are.
///
/// # Errors
///
/// [`BadAddress`] if they are sections of another region.
pub fn scatter(
    region: &Region,
    sections: &[Section],
    bytes: &[u8],
) -> Result<usize, BadAddress> {
    let mut rest = bytes;
    for section in sections {
        let len = rest.len().min(section.len as usize);
        let (part, more) = rest.split_at(len);
        region.write(section.addr, part)?;
        rest = more;
    }
    Ok(bytes.len() - rest.len())
}

/// A list of sections, and the memory that they lie in.
#[derive(Clone, Copy)]
pub struct SectionsIn<'m> {
    /// The memory.
    pub region: &'m Region,
    /// Sections of it.
    pub list: &'m [Section],
}

impl SectionsIn<'_> {
    /// Bytes in all of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        total(self.list)
    }

    /// Copies the bytes in these sections into those of `to`, until either are
    /// exhausted. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if they are sections of another region.
    pub fn copy(&self, to: SectionsIn<'_>) -> Result<u32, BadAddress> {
        let (mut target, mut room) = (0, 0);
        let mut rest = to.list.iter();
        let mut total = 0;
        for &Section { addr, len } in self.list {
            let (mut source, mut left) = (addr, len);
            while left > 0 {
                if room == 0 {
                    let Some(&next) = rest.next() else {
                        return Ok(total);
                    };
                    (target, room) = (next.addr, next.len);
                }
                let step = left.min(room);
                self.region.copy_to(source, to.region, target, step)?;
                (source, left) = (source + step, left - step);
                (target, room) = (target + step, room - step);
                total += step;
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests;
