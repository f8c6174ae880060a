//! Formats of files that a user may mistake for a disk image.
//!
//! A disk of a Guest is a raw image: byte N of the file is byte N of the disk.
//! An image of another format looks like a disk full of random bytes, and
//! writes to it damage it.

use crate::loader::Compression;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The formats, and the first bytes of their files.
const FORMATS: [(&str, &[u8]); 6] = [
    ("qcow2", b"QFI\xFB"),
    ("qed", b"QED\0"),
    ("vmdk", b"KDMV"),
    ("vmdk", b"# Disk DescriptorFile"),
    ("vhdx", b"vhdxfile"),
    ("vpc", b"conectix"),
];

/// The offset of the mark in a VDI image, after a text of the program that made
/// it.
const VDI: (usize, [u8; 4]) = (64, [0x7F, 0x10, 0xDA, 0xBE]);

/// The format of an image that is not raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An image of another virtual machine, by the name that `qemu-img` has for
    /// its format.
    Image(&'static str),
    /// An image that is packed.
    Packed(Compression),
}

/// The format that `file` seems to have, if it is not a raw image.
pub(super) fn of(file: &File) -> Option<Format> {
    let mut head = [0; VDI.0 + VDI.1.len()];
    let len = file.read_at(&mut head, 0).unwrap_or(0);
    let head = &head[..len];
    if let Some((name, _)) = FORMATS.iter().find(|f| head.starts_with(f.1)) {
        return Some(Format::Image(name));
    }
    if head.get(VDI.0..) == Some(VDI.1.as_slice()) {
        return Some(Format::Image("vdi"));
    }
    Compression::of(head).map(Format::Packed)
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(name) => write!(
                f,
                "it is a {name} image, and a disk is a raw one: `qemu-img \
                 convert -O raw` makes it that"
            ),
            Self::Packed(packed) => write!(
                f,
                "it is packed by {packed}, and a disk is a raw image: unpack \
                 it"
            ),
        }
    }
}
