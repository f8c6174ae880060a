//! What a network interface of the Guest is connected to.
//!
//! A [`Nic`](super::Nic) copies frames from the Guest and to it. A backend
//! carries the copies: to a tap, to a socket.

use super::offload::{Offload, Takes};
use std::io;
use std::os::fd::BorrowedFd;

/// The longest frame that a backend carries.
pub const FRAME_MOST: usize = (64 << 10) + 4096;

/// The other end of a network interface. None of its calls blocks.
pub trait Backend: Send {
    /// What the other end takes over.
    fn takes(&self) -> Takes {
        Takes::default()
    }

    /// Whether there is another end at all.
    fn is_connected(&self) -> bool {
        true
    }

    /// Takes a frame from the Guest, of at most [`FRAME_MOST`] bytes. No more
    /// is left to do with it than [`Self::takes`] says. It may be kept until
    /// [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The frame is lost.
    fn send(&mut self, frame: &[u8], left: Offload) -> io::Result<()>;

    /// Passes on the frames that were kept.
    fn flush(&mut self) {}

    /// A file that is readable when [`Self::flush`] can pass frames on that are
    /// kept, because the other end had no room for them. The file of
    /// [`Self::input`] is readable then, too.
    fn room(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Writes the next frame for the Guest to the end of `frame`, which is
    /// empty. It stays empty for a frame that was dropped, because it breaks a
    /// rule. Returns what is left to do.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where there is none; `ResourceBusy` where there is none,
    /// and [`Self::input`] is readable all the same. After any other error
    /// there will not be another frame.
    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<Offload>;

    /// Reads frames for the Guest ahead, as many as there is room for. The
    /// other end may lose those that are not read. What was read ahead does not
    /// keep the file of [`Self::input`] readable.
    fn read_ahead(&mut self) {}

    /// Whether frames should be read ahead when they come, although the Guest
    /// takes none.
    fn reads_more(&self) -> bool {
        false
    }

    /// The file to watch: it is readable when there may be a frame.
    fn input(&self) -> BorrowedFd<'_>;

    /// The Guest has ended. May block for a moment.
    fn finish(&mut self) {}
}
