//! What a network interface of the Guest is connected to.
//!
//! A [`Nic`](super::Nic) counts frames and takes the Guest's buffers. A backend
//! carries the frames: to a tap, to a socket.

use crate::memory::SectionsIn;
use std::io;
use std::os::fd::BorrowedFd;

/// The longest frame that a backend carries.
pub const FRAME_MOST: usize = (64 << 10) + 4096;

/// Takes the bytes of a frame as they were sent, or as they go to the Guest.
/// The frame in the Guest's memory may be another one a moment later.
pub type See<'a> = &'a mut dyn FnMut(&[u8]);

/// The other end of a network interface. None of its calls blocks.
pub trait Backend: Send {
    /// Takes a frame from the Guest, and shows it to `see`. Returns the number
    /// of bytes. It may be kept until [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The frame is lost.
    fn send(
        &mut self,
        frame: SectionsIn<'_>,
        see: Option<See<'_>>,
    ) -> io::Result<u32>;

    /// Passes on the frames that were kept.
    fn flush(&mut self) {}

    /// Writes the next frame for the Guest into `into`, and shows it to `see`.
    /// Returns its length, or 0 for a frame that was dropped, because it is too
    /// long or too short.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where there is none. After any other error there will not
    /// be another frame.
    fn receive(
        &mut self,
        into: SectionsIn<'_>,
        see: Option<See<'_>>,
    ) -> io::Result<u32>;

    /// Drops the next frame.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    fn discard(&mut self) -> io::Result<()>;

    /// The file to watch: it is readable when there may be a frame.
    fn input(&self) -> BorrowedFd<'_>;

    /// The Guest has ended. May block for a moment.
    fn finish(&mut self) {}
}
