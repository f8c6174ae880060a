//! Numbers of 9P2000.L, as Linux has them.
//!
//! An answer has the number of its request and one more. The protocol is that
//! of diod (<https://github.com/chaos/diod/blob/master/protocol.md>).

pub(super) use rustix::io::Errno;

/// Bytes of a message before its body: size (4), kind (1), tag (2).
pub const HEADER: u32 = 7;

/// An error, as an answer.
pub(super) const ERROR: u8 = 7;

pub(super) const STATFS: u8 = 8;
pub(super) const LOPEN: u8 = 12;
pub(super) const LCREATE: u8 = 14;
pub(super) const SYMLINK: u8 = 16;
pub(super) const MKNOD: u8 = 18;
pub(super) const RENAME: u8 = 20;
pub(super) const READLINK: u8 = 22;
pub(super) const GETATTR: u8 = 24;
pub(super) const SETATTR: u8 = 26;
pub(super) const XATTRCREATE: u8 = 32;
pub(super) const READDIR: u8 = 40;
pub(super) const FSYNC: u8 = 50;
pub(super) const LOCK: u8 = 52;
pub(super) const GETLOCK: u8 = 54;
pub(super) const LINK: u8 = 70;
pub(super) const MKDIR: u8 = 72;
pub(super) const RENAMEAT: u8 = 74;
pub(super) const UNLINKAT: u8 = 76;
pub(super) const VERSION: u8 = 100;
pub(super) const ATTACH: u8 = 104;
pub(super) const FLUSH: u8 = 108;
pub(super) const WALK: u8 = 110;
pub(super) const READ: u8 = 116;
pub(super) const WRITE: u8 = 118;
pub(super) const CLUNK: u8 = 120;
pub(super) const REMOVE: u8 = 122;

/// Requests that change something, always. LOPEN does so sometimes.
pub(super) const CHANGES: &[u8] = &[
    LCREATE,
    SYMLINK,
    MKNOD,
    RENAME,
    SETATTR,
    XATTRCREATE,
    LINK,
    MKDIR,
    RENAMEAT,
    UNLINKAT,
    WRITE,
    REMOVE,
];

/// The protocol that is known here, and the answer to any other.
pub(super) const VERSION_L: &[u8] = b"9P2000.L";
pub(super) const VERSION_UNKNOWN: &[u8] = b"unknown";

/// The most names in a walk.
pub(super) const LONGEST_WALK: u16 = 16;

/// What identifies a file: its kind, its version, its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Qid {
    pub(super) kind: u8,
    pub(super) version: u32,
    pub(super) path: u64,
}

/// Kinds of qids.
pub(super) const QID_FOLDER: u8 = 0x80;
pub(super) const QID_LINK: u8 = 0x02;

/// Bytes of an answer to READ before the data, and of a WRITE.
pub(super) const READ_HEADER: u32 = HEADER + 4;
pub(super) const WRITE_HEADER: u32 = HEADER + 4 + 8 + 4;

/// The type of the file system, which Linux calls `V9FS_MAGIC`.
pub(super) const MAGIC: u32 = 0x0102_1997;
