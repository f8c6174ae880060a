//! Frames from the Guest that wait for room in a stream.
//!
//! A frame that was begun has to be sent whole, or the other end loses its
//! place. So the rest of one is kept, and frames behind it, up to a limit. A
//! frame beyond that is lost.

use super::super::FRAME_MOST;
use super::incoming::PREFIX;
use crate::memory::{BadAddress, SectionsIn, gather_behind};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::AsFd;

/// Bytes that are kept at most before frames are lost.
const MOST: usize = 1 << 20;

/// Bytes that are collected before they are sent.
pub(super) const BATCH: usize = 128 << 10;

/// Bytes to be sent.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them have been sent.
    sent: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Adds a frame, if there is room for it and `admits` agrees to the copy.
    /// Returns whether it was added.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if these are not sections of their region.
    pub(super) fn push(
        &mut self,
        frame: SectionsIn<'_>,
        admits: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, BadAddress> {
        let bytes = frame.total() as usize;
        if bytes > FRAME_MOST || self.waiting() + PREFIX + bytes > MOST {
            return Ok(false);
        }
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        let start = self.bytes.len();
        self.bytes.extend(frame.total().to_be_bytes());
        let copied = gather_behind(&mut self.bytes, frame.region, frame.list);
        if let Err(error) = copied {
            self.bytes.truncate(start);
            return Err(error);
        }
        if !admits(&self.bytes[start + PREFIX..]) {
            self.bytes.truncate(start);
            return Ok(false);
        }
        Ok(true)
    }

    /// Sends what `socket` takes without waiting.
    ///
    /// # Errors
    ///
    /// The error of the kernel: the other end takes nothing any more.
    pub(super) fn flush(&mut self, socket: impl AsFd) -> Result<(), Errno> {
        // A socket whose other end is gone must not end us by a signal.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        while self.waiting() > 0 {
            match send(&socket, &self.bytes[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}
