//! Frames from the Guest that wait for room in a stream.
//!
//! A frame that was begun has to be sent whole, or the other end loses its
//! place. So the rest of one is kept, and frames behind it, up to a limit. A
//! frame beyond that is lost.

use super::super::FRAME_MOST;
use super::incoming::PREFIX;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::AsFd;

/// Bytes that are kept at most before frames are lost.
const MOST: usize = 1 << 20;

/// Bytes that are collected before they are sent.
pub(super) const BATCH: usize = 128 << 10;

/// Bytes of whole frames that are sent by one system call. A unix socket takes
/// so many or none. passt of 2023 loses its place in the stream if it has read
/// a part of a frame, and the rest does not arrive in one piece.
const UNIT: usize = 32 << 10;

/// Bytes to be sent.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them have been sent.
    sent: usize,
    /// How many of the following ones belong to a frame that was begun.
    rest: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Adds a frame, if there is room for it. Returns whether it was added.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        let Ok(length) = u32::try_from(frame.len()) else {
            return false;
        };
        let most = MOST.saturating_sub(self.waiting() + PREFIX);
        if frame.len() > FRAME_MOST.min(most) {
            return false;
        }
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend_from_slice(frame);
        true
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
            let unit = self.unit();
            match send(&socket, &self.bytes[self.sent..][..unit], flags) {
                Ok(count) => self.was_sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }

    /// How many bytes the next call sends: the rest of a frame, or whole frames
    /// of [`UNIT`] bytes at most, or one longer frame.
    fn unit(&self) -> usize {
        if self.rest > 0 {
            return self.rest;
        }
        let mut end = self.frame_at(self.sent);
        while end < UNIT && end < self.waiting() {
            let longer = end + self.frame_at(self.sent + end);
            if longer > UNIT {
                break;
            }
            end = longer;
        }
        end
    }

    /// `count` bytes were sent.
    fn was_sent(&mut self, count: usize) {
        let mut end = self.rest;
        while end < count {
            end += self.frame_at(self.sent + end);
        }
        self.sent += count;
        self.rest = end - count;
    }

    /// Bytes of the frame that begins at `at`, with its length.
    fn frame_at(&self, at: usize) -> usize {
        let bytes = self.bytes.get(at..).unwrap_or(&[]);
        let prefix = bytes.first_chunk::<PREFIX>().copied();
        let length = u32::from_be_bytes(prefix.unwrap_or_default());
        // At least one, so that a loop over frames ends.
        PREFIX + length as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair,
    };

    /// A reader like passt of 2023: it reads what is there, and the rest of the
    /// last frame by one more call.
    #[test]
    fn the_rest_of_a_frame_comes_in_one_piece() {
        let kind = SocketType::STREAM;
        let flags = SocketFlags::CLOEXEC;
        let (ours, other) =
            socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let mut outgoing = Outgoing::default();
        let lengths = [60_000, 1514, 14, 65_000, 9000, 40_000, 30_000, 2000];
        let mut lengths = lengths.into_iter().cycle();
        let mut room = vec![0; 8 << 20];
        for _ in 0..300 {
            while let Some(length) = lengths.next()
                && outgoing.push(&vec![1; length])
            {}
            outgoing.flush(&ours).unwrap();
            let (mut end, _) =
                recv(&other, &mut room[..], RecvFlags::DONTWAIT).unwrap();
            let mut at = 0;
            while at < end {
                assert!(end - at > PREFIX, "a part of a length");
                let prefix = room[at..].first_chunk::<PREFIX>().unwrap();
                at += PREFIX + u32::from_be_bytes(*prefix) as usize;
            }
            if at > end {
                // The Launcher is told that there is room again.
                outgoing.flush(&ours).unwrap();
                let rest = &mut room[end..at];
                end += recv(&other, rest, RecvFlags::empty()).unwrap().0;
                assert_eq!(at, end, "a part of the rest");
            }
        }
    }
}
