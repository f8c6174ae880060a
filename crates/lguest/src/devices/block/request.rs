//! A request to a disk, and its completion.
//!
//! A transport makes a [`DiskRequest`] of what a Guest asks for: from a page
//! of registers and a list of buffers, or from a chain of descriptors. It has
//! checked the list, and every field is a copy. The disk does not know how the
//! request came; it calls the request's [`Completion`] exactly once, perhaps
//! on another thread.

use crate::memory::{GuestMemory, Section};

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// From the disk into the sections.
    Read,
    /// From the sections to the disk.
    Write,
    /// Makes earlier writes outlast a loss of power. There are no sections.
    Flush,
}

/// One request.
pub struct DiskRequest {
    /// Its kind.
    pub operation: DiskOperation,
    /// The first sector; 0 for a flush.
    pub sector: u64,
    /// The Guest's memory.
    pub memory: GuestMemory,
    /// Where in it the data goes to or comes from. Their sum is the length of
    /// the request.
    pub sections: Vec<Section>,
    /// Whether a write is acknowledged only when it survives a loss of power:
    /// the Guest's driver sends no flush.
    pub stable: bool,
    /// Reports to the Guest that it is done.
    pub done: Box<dyn Completion>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOutcome {
    /// All bytes were moved.
    pub is_done: bool,
    /// Bytes that were written into the Guest's memory, from the beginning of
    /// the sections on.
    pub written: u32,
}

impl DiskOutcome {
    /// Nothing was moved.
    pub const REFUSED: Self = Self {
        is_done: false,
        written: 0,
    };
}

/// The completion of a request, for its Guest.
pub trait Completion: Send {
    /// Reports it to the Guest.
    fn complete(self: Box<Self>, outcome: DiskOutcome);
}
