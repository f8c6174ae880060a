//! The check of a qcow2 image, before anything else reads it.
//!
//! An image is a file from a stranger. The crate that reads and writes images
//! trusts some of their numbers and asserts others. So all tables are read here
//! first: each must be inside the file, no cluster may be used twice where that
//! could make one table overwrite another, and every cluster in use must have a
//! reference count. The work is bounded by the size of the file. Names are in
//! the specification (docs/interop/qcow2 of QEMU).

use std::fs::File;
use std::io;

/// What an image says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// The name of the image below it.
    pub(super) base: Option<String>,
}

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It has a feature that is not known here.
    #[error("it {0}: `qemu-img convert -O qcow2` makes one without that")]
    Feature(&'static str),
    /// It was not closed, or is known to be damaged.
    #[error("it {0}: `qemu-img check -r all` repairs it")]
    Open(&'static str),
    /// Its tables contradict each other or the file.
    #[error(
        "it is no good qcow2 image ({0}): `qemu-img check -r all` repairs what \
         can be repaired; if it is a raw image all the same, give it as \
         '--disk FILE,raw'"
    )]
    Tables(&'static str),
}

use BadImage::{Feature, Open, Tables};

/// Bytes of a header that mean something here.
const HEADER: usize = 112;

/// The longest table of first level, and of reference counts. QEMU has the same
/// limits.
const MOST_TABLE: u64 = 32 << 20;
const MOST_REFTABLE: u64 = 8 << 20;

/// The most clusters in a file, and bytes in tables of second level. 64 KiB
/// clusters reach 4 TiB with them.
const MOST_CLUSTERS: u64 = 1 << 26;
const MOST_SECOND: u64 = 1 << 30;

/// The most bytes of a disk: its sectors have numbers of 32 bits.
const MOST_SIZE: u64 = 1 << 41;

/// The longest name of an image below.
const MOST_NAME: usize = 1023;

/// Extensions of the header that are looked at. The first ends the list.
const END: u32 = 0;
const FEATURE_NAMES: u32 = 0x6803_F857;
const DATA_FILE: u32 = 0x4441_5441;

/// Bytes of one entry in the list of feature names.
const FEATURE_NAME: usize = 48;

/// Bits of an entry of the first or second level.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ALL_ZERO: u64 = 1;

/// A cluster that holds a table.
const TABLE: u16 = u16::MAX;

/// Checks the image in `file`.
pub(super) fn check(file: &File) -> Result<Facts, BadImage> {
    let len = file.metadata().map_err(BadImage::Read)?.len();
    let mut bytes = [0; HEADER];
    read(file, &mut bytes, 0)?;
    let header = Header::new(&bytes)?;
    let clusters = len.div_ceil(header.cluster());
    if clusters > MOST_CLUSTERS {
        return Err(Tables("its file has too many clusters"));
    }
    let count = usize::try_from(clusters).unwrap_or(0);
    let mut image = Checked {
        file,
        len,
        header,
        uses: vec![0; count],
    };
    let base = image.names()?;
    image.table(0, image.header.cluster())?;
    image.data()?;
    image.counts()?;
    Ok(Facts {
        size: image.header.size,
        base,
    })
}

/// Bytes of a cluster of the image in `file`, which must have been checked.
pub(super) fn cluster(file: &File) -> io::Result<u64> {
    let mut bytes = [0; HEADER];
    super::storage::read_at(file, &mut bytes, 0)?;
    let header = Header::new(&bytes).map_err(io::Error::other)?;
    Ok(header.cluster())
}

/// The fields of a header that are used.
struct Header {
    version: u32,
    name: (u64, u32),
    cluster_bits: u32,
    size: u64,
    first: (u64, u64),
    counts: (u64, u64),
    count_order: u32,
    length: u32,
}

impl Header {
    fn new(bytes: &[u8; HEADER]) -> Result<Self, BadImage> {
        let half = |at| u32::from_be_bytes(part(bytes, at));
        let word = |at| u64::from_be_bytes(part(bytes, at));
        let version = half(4);
        let later = version >= 3;
        let header = Self {
            version,
            name: (word(8), half(16)),
            cluster_bits: half(20),
            size: word(24),
            first: (word(40), u64::from(half(36)) * 8),
            counts: (word(48), half(56).into()),
            count_order: if later { half(96) } else { 4 },
            length: if later { half(100) } else { 72 },
        };
        if !(2..=3).contains(&version) {
            return Err(Feature("is of a later version of qcow2"));
        }
        if half(32) != 0 {
            return Err(Feature("is encrypted"));
        }
        if half(60) != 0 {
            return Err(Feature("has snapshots inside"));
        }
        if later {
            features(word(72))?;
        }
        header.is_sane()?;
        if header.length > 104 && bytes[104] != 0 {
            return Err(Feature("is compressed by another way than deflate"));
        }
        Ok(header)
    }

    fn is_sane(&self) -> Result<(), BadImage> {
        if !(9..=21).contains(&self.cluster_bits) || self.count_order > 6 {
            return Err(Tables("its header has clusters of no possible size"));
        }
        let length = u64::from(self.length);
        let whole = self.version == 2 || length >= 104 && length % 8 == 0;
        if !whole || length > self.cluster() {
            return Err(Tables("its header has no possible length"));
        }
        if self.size == 0 || self.size > MOST_SIZE {
            return Err(Tables("a disk has a sector at least, and 2 TiB most"));
        }
        if self.first.1 > MOST_TABLE
            || self.counts.1 == 0
            || self.counts.1.saturating_mul(self.cluster()) > MOST_REFTABLE
        {
            return Err(Tables("a table is too long or missing"));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Whether the incompatible features of an image are known here.
fn features(bits: u64) -> Result<(), BadImage> {
    match bits {
        0 => Ok(()),
        _ if bits & 2 != 0 => Err(Open("is marked as damaged")),
        _ if bits & 1 != 0 => Err(Open("was not closed by its last user")),
        _ if bits & 4 != 0 => Err(Feature("has its data in another file")),
        _ if bits & 8 != 0 => {
            Err(Feature("is compressed by another way than deflate"))
        }
        _ => Err(Feature("has a feature that is not known here")),
    }
}

/// An image during the check.
struct Checked<'a> {
    file: &'a File,
    len: u64,
    header: Header,
    /// How often each cluster is used, or [`TABLE`].
    uses: Vec<u16>,
}

impl Checked<'_> {
    /// Checks the extensions of the header. Returns the name of the image
    /// below.
    fn names(&self) -> Result<Option<String>, BadImage> {
        let end = u64::from(self.header.length);
        if self.header.version > 2 {
            self.extensions(end)?;
        }
        let (at, len) = self.header.name;
        if at == 0 {
            return Ok(None);
        }
        let mut name = vec![0; MOST_NAME.min(len as usize)];
        let inside = at.saturating_add(len.into()) < self.header.cluster();
        if !inside || name.len() < len as usize {
            return Err(Tables("the name of its backing file is too long"));
        }
        read(self.file, &mut name, at)?;
        String::from_utf8(name)
            .map(Some)
            .map_err(|_| Tables("the name of its backing file is not UTF-8"))
    }

    fn extensions(&self, mut at: u64) -> Result<(), BadImage> {
        loop {
            let mut head = [0; 8];
            if at + 8 > self.header.cluster() {
                return Err(Tables("its header has no end"));
            }
            read(self.file, &mut head, at)?;
            let kind = u32::from_be_bytes(part(&head, 0));
            let len = u32::from_be_bytes(part(&head, 4));
            at += 8;
            if at + u64::from(len) > self.header.cluster() {
                return Err(Tables("its header has no end"));
            }
            match kind {
                END => return Ok(()),
                DATA_FILE => {
                    return Err(Feature("has its data in another file"));
                }
                FEATURE_NAMES
                    if !(len as usize).is_multiple_of(FEATURE_NAME) =>
                {
                    return Err(Tables("its list of features is cut off"));
                }
                _ => at += u64::from(len).next_multiple_of(8),
            }
        }
    }

    /// Checks the tables of first and second level.
    fn data(&mut self) -> Result<(), BadImage> {
        let (at, len) = self.header.first;
        self.table(at, len)?;
        let cluster = self.header.cluster();
        let reach = cluster * (cluster / 8);
        let needed = self.header.size.div_ceil(reach);
        if needed.saturating_mul(cluster) > MOST_SECOND {
            return Err(Tables("its clusters are too small for its size"));
        }
        for (n, entry) in (0..).zip(words(self.file, at, len)?) {
            let offset = entry & OFFSET;
            if entry & !(OFFSET | COPIED) != 0 || n >= needed && offset != 0 {
                return Err(Tables("a table of first level has a bad entry"));
            }
            if offset != 0 {
                self.table(offset, cluster)?;
                for entry in words(self.file, offset, cluster)? {
                    self.entry(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Checks an entry of the second level.
    fn entry(&mut self, entry: u64) -> Result<(), BadImage> {
        const BAD: BadImage = Tables("a table of second level has a bad entry");
        if entry & COMPRESSED != 0 {
            let bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << bits) - 1);
            let sectors = (entry & !COPIED & !COMPRESSED) >> bits;
            let end = (offset & !511).saturating_add((sectors + 1) * 512);
            if entry & COPIED != 0 || offset >= self.len {
                return Err(BAD);
            }
            return self.used(offset, end.min(self.len) - offset);
        }
        let offset = entry & OFFSET;
        let zero = u64::from(self.header.version > 2) * ALL_ZERO;
        if entry & !(OFFSET | COPIED | zero) != 0
            || !offset.is_multiple_of(self.header.cluster())
            || offset >= self.len
        {
            return Err(BAD);
        }
        if offset == 0 {
            return if entry & COPIED == 0 {
                Ok(())
            } else {
                Err(BAD)
            };
        }
        self.used(offset, 1)
    }

    /// Checks that all clusters in use have reference counts that say so.
    fn counts(&mut self) -> Result<(), BadImage> {
        let (at, clusters) = self.header.counts;
        let cluster = self.header.cluster();
        self.table(at, clusters * cluster)?;
        let blocks: Vec<u64> =
            words(self.file, at, clusters * cluster)?.collect();
        for &block in &blocks {
            if block & !OFFSET != 0 {
                return Err(Tables("a table of counts has a bad entry"));
            }
            if block != 0 {
                self.table(block, cluster)?;
            }
        }
        let each = usize::try_from(cluster << 3 >> self.header.count_order);
        let each = each.unwrap_or(usize::MAX);
        let mut bytes = vec![0; usize::try_from(cluster).unwrap_or(0)];
        for (n, uses) in self.uses.chunks(each).enumerate() {
            if uses.iter().all(|&uses| uses == 0) {
                continue;
            }
            match blocks.get(n) {
                Some(&block) if block != 0 => {
                    read(self.file, &mut bytes, block)?;
                }
                _ => bytes.fill(0),
            }
            let order = self.header.count_order;
            let counted = |(n, &uses): (usize, &u16)| {
                let uses = if uses == TABLE { 1 } else { uses };
                count(&bytes, order, n) >= u64::from(uses)
            };
            if !uses.iter().enumerate().all(counted) {
                return Err(Tables("a cluster in use counts as free"));
            }
        }
        Ok(())
    }

    /// Notes a table of `len` bytes at `at`, which nothing else may use.
    fn table(&mut self, at: u64, len: u64) -> Result<(), BadImage> {
        const BAD: BadImage = Tables("a table is where no table can be");
        if !at.is_multiple_of(self.header.cluster()) {
            return Err(BAD);
        }
        for uses in self.clusters(at, len).ok_or(BAD)? {
            if *uses != 0 {
                return Err(Tables("a table is used for something else"));
            }
            *uses = TABLE;
        }
        Ok(())
    }

    /// Notes data of `len` bytes at `at`.
    fn used(&mut self, at: u64, len: u64) -> Result<(), BadImage> {
        const BAD: BadImage = Tables("data is where no data can be");
        for uses in self.clusters(at, len).ok_or(BAD)? {
            if *uses >= TABLE - 1 {
                return Err(Tables("a table is used for something else"));
            }
            *uses += 1;
        }
        Ok(())
    }

    /// The clusters of `len` bytes at `at`, if the file has them.
    fn clusters(&mut self, at: u64, len: u64) -> Option<&mut [u16]> {
        let end = at.checked_add(len)?.div_ceil(self.header.cluster());
        let first = at / self.header.cluster();
        let (first, end) = (first.try_into().ok()?, end.try_into().ok()?);
        self.uses.get_mut::<std::ops::Range<usize>>(first..end)
    }
}

/// Reference count `n` of a block: it has 2 to the power of `order` bits.
fn count(block: &[u8], order: u32, n: usize) -> u64 {
    if order < 3 {
        let bits = 1_usize << order;
        let byte = block.get(n * bits / 8).copied().unwrap_or(0);
        let count = byte >> (n * bits % 8);
        return u64::from(count) & ((1 << bits) - 1);
    }
    let bytes = 1 << (order - 3);
    let all = block.get(n * bytes..(n + 1) * bytes).unwrap_or(&[]);
    all.iter()
        .fold(0, |count, &byte| count << 8 | u64::from(byte))
}

/// The words in `len` bytes at `at`.
fn words(
    file: &File,
    at: u64,
    len: u64,
) -> Result<impl Iterator<Item = u64> + use<>, BadImage> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    read(file, &mut bytes, at)?;
    let count = bytes.len() / 8;
    Ok((0..count).map(move |n| u64::from_be_bytes(part(&bytes, n * 8))))
}

/// Reads `bytes` at `at`. Bytes after the end of the file are 0.
fn read(file: &File, bytes: &mut [u8], at: u64) -> Result<(), BadImage> {
    super::storage::read_at(file, bytes, at).map_err(BadImage::Read)
}

/// `N` bytes from `at` on; 0 where there are none.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    for (to, from) in part.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    part
}

#[cfg(test)]
mod tests;
