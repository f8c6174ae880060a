//! Recognises by their first bytes how bytes are packed.
//!
//! Messages name the format of a file, and a bzImage is unpacked by it.

use serde::Serialize;
use std::fmt;

/// A way to pack bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// `gzip`.
    Gzip,
    /// `bzip2`.
    Bzip2,
    /// `lzma`, the format before xz.
    Lzma,
    /// `xz`.
    Xz,
    /// `lzop`.
    Lzo,
    /// `lz4`, as kernels have it or as its tool makes it.
    Lz4,
    /// `zstd`.
    Zstd,
}

/// The first bytes of each format.
const MARKS: [(Compression, &[u8]); 8] = [
    (Compression::Gzip, b"\x1F\x8B\x08"),
    (Compression::Bzip2, b"BZh"),
    (Compression::Lzma, b"\x5D\0\0"),
    (Compression::Xz, b"\xFD7zXZ\0"),
    (Compression::Lzo, b"\x89LZO\0\r\n\x1A\n"),
    (Compression::Lz4, b"\x02\x21\x4C\x18"),
    (Compression::Lz4, b"\x04\x22\x4D\x18"),
    (Compression::Zstd, b"\x28\xB5\x2F\xFD"),
];

/// Marks that are long enough not to be found by chance in a kernel.
const LONG: usize = 6;

impl Compression {
    /// How bytes are packed that begin with `head`, if they are packed.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        let found = MARKS.iter().find(|(_, mark)| head.starts_with(mark));
        found.map(|&(compression, _)| compression)
    }

    /// How packed bytes somewhere in `file` are packed, if that can be
    /// recognised.
    pub(super) fn anywhere_in(file: &[u8]) -> Option<Self> {
        let begins = |at: usize| {
            let rest = &file[at..];
            // In bzip2 the mark of a stream follows the mark of the file.
            let bzip2 = rest.get(4..10) == Some(b"1AY&SY".as_slice());
            if bzip2 && rest.starts_with(b"BZh") {
                return Some(Self::Bzip2);
            }
            let long = MARKS.iter().filter(|(_, mark)| mark.len() >= LONG);
            let mut found = long.filter(|(_, mark)| rest.starts_with(mark));
            found.next().map(|&(compression, _)| compression)
        };
        (0..file.len()).find_map(begins)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}
