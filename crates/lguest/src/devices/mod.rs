//! Devices: they carry out a Guest's requests for input and output.
//!
//! A console, a disk, a network interface and a share each have a core,
//! something behind it (a terminal, a file, a tap, a process), and a state.
//! None of them depends on how the Guest reaches it. A
//! [`transport`](crate::transport) turns what the Guest asks for into the calls
//! of a device:
//!
//! - bytes for a console's output;
//! - a [`DiskRequest`](block::DiskRequest), with the memory that it is about
//!   and a completion that tells the Guest how it ended;
//! - a frame for a network, as sections of memory;
//! - a request to a share, as sections of memory;
//! - bytes of a port to an agent;
//! - and for everything that comes in, [`ReceiveBuffers`], from which the
//!   device takes memory of the Guest's and fills it.

use crate::memory::SectionsIn;
use std::io;

pub mod console;

pub mod block;

pub mod net;

pub mod port;

pub mod share;

mod counter;
pub use counter::Counter;

pub mod bucket;

mod state;
pub use state::{RestoreError, Saved, Versioned};

/// The Guest broke the rules of a device or of its transport: it dies for this
/// reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

impl Violation {
    /// A violation with the words of `error`.
    pub fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Counters of a device, each with its name.
pub type NamedCounts = Vec<(&'static str, u64)>;

/// How many buffers one call of a device's `handle_input` fills.
pub const AT_ONCE: usize = 64;

/// Memory that the Guest offers for what comes in, buffer by buffer.
pub trait ReceiveBuffers {
    /// Takes the next free buffer and has `fill` write into it; `fill` returns
    /// the number of bytes. Then the buffer is the Guest's again, and an
    /// interrupt says so. If `fill` fails or writes nothing, the buffer stays
    /// free.
    ///
    /// # Errors
    ///
    /// A [`Violation`], where the buffer breaks the rules.
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation>;

    /// Whether the Guest has any buffers, free or not: an interface that is
    /// switched off has none.
    fn are_any(&self) -> bool;
}

/// What has become of a buffer.
#[derive(Debug)]
pub enum Filled {
    /// So many bytes were written into it.
    Bytes(u32),
    /// There is no free buffer.
    NoneFree,
    /// The Guest is dead and takes nothing any more.
    Ended,
    /// There was nothing to write.
    Failed(io::Error),
}

/// What a device's `handle_input` wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Call again when the file is readable.
    Wait,
    /// There is more, and perhaps a buffer for it: call again after the other
    /// devices.
    More,
    /// There is input, but the Guest has no free buffer: call again when it
    /// may have one.
    NoBuffer {
        /// Some input has found a buffer in this call.
        took: bool,
        /// Call again also when the file is readable.
        watch: bool,
    },
    /// There is input, but the Guest has no free buffer, and its driver
    /// notifies the device of the next one: call again then.
    Starved {
        /// Call again also when the file is readable.
        watch: bool,
    },
    /// The file is in use by another process, or cannot be used yet: call
    /// again after a while, readable or not.
    Taken,
    /// The file has ended or failed: never call again.
    Closed,
    /// The user has asked to end the Guest.
    Quit,
}

impl Readiness {
    /// This result of a device that is notified of free buffers.
    #[must_use]
    pub fn notified(self) -> Self {
        match self {
            Self::NoBuffer { watch, .. } => Self::Starved { watch },
            other => other,
        }
    }

    /// This result, combined with that of an earlier call. `took_before`: the
    /// earlier call has found a buffer for some input.
    #[must_use]
    pub fn after(self, took_before: bool) -> Self {
        match self {
            Self::NoBuffer { took, watch } => Self::NoBuffer {
                took: took || took_before,
                watch,
            },
            other => other,
        }
    }
}

/// A Guest of 16 pages, and 3 of devices, that runs nothing.
#[cfg(test)]
pub(crate) fn scripted() -> std::sync::Arc<crate::engine::Scripted> {
    let memory = crate::memory::GuestMemory::new(0x1_0000, 3);
    crate::engine::Scripted::new(memory.unwrap())
}
