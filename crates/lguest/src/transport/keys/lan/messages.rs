//! Messages that Launchers on one LAN exchange when they connect.
//!
//! There are two messages, and files come with them. A message of the wrong
//! size, or with another first word, is none.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first word of every message: the protocol, and its version.
const MAGIC: u64 = u64::from_le_bytes(*b"lguestL1");

/// From a Launcher that connects. Its outbox comes with this, if it has one.
#[derive(
    Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Hello {
    magic: u64,
    /// The file that the sender means: device and inode.
    pub(super) file: [u64; 2],
    /// Its slot there.
    pub(super) slot: u32,
    /// 1 if it wants to be called back, 0 if this is that call.
    pub(super) call_back: u32,
}

impl Hello {
    pub(super) fn new(file: (u64, u64), slot: u32, call_back: bool) -> Self {
        Self {
            magic: MAGIC,
            file: [file.0, file.1],
            slot,
            call_back: call_back.into(),
        }
    }
}

/// The answer. The memory file and the port come with this.
#[derive(
    Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Welcome {
    magic: u64,
    /// Locks the port.
    pub(super) ticket: u32,
    /// Physical address of the LAN's page in the memory file.
    pub(super) page: u32,
}

impl Welcome {
    pub(super) fn new(ticket: u32, page: u32) -> Self {
        Self {
            magic: MAGIC,
            ticket,
            page,
        }
    }
}

/// A message. Its magic and its size tell its kind.
pub(super) trait Message: FromBytes + IntoBytes + Immutable {
    fn magic(&self) -> u64;
}

impl Message for Hello {
    fn magic(&self) -> u64 {
        self.magic
    }
}
impl Message for Welcome {
    fn magic(&self) -> u64 {
        self.magic
    }
}

/// Bytes of the longest message.
pub(super) const LONGEST_MESSAGE: usize = size_of::<Hello>();

/// The message in these bytes, if it is one of this kind.
pub(super) fn parse<T: Message>(bytes: &[u8]) -> Option<T> {
    let message = T::read_from_bytes(bytes).ok()?;
    (message.magic() == MAGIC).then_some(message)
}
