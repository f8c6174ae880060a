//! Where output of a command goes: to a stream of ours, or into the result.
//!
//! A stream may be slow. A write to a pipe that poll(2) says is ready does not
//! block up to [`PIECE`] bytes. So the file is not made non-blocking, which
//! would change it for other processes that use it.

use lg_exec::command::Flow;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// How many bytes are written at a time: PIPE_BUF.
const PIECE: usize = 4096;

/// The most that is kept for the result as JSON when no limit is given.
pub const KEPT_MOST: u64 = 16 << 20;

/// The output of one flow.
pub(super) struct Output {
    /// Which.
    pub(super) flow: Flow,
    /// Its bytes are kept for the result.
    keeps: bool,
    /// What is kept, or waits to be written.
    pub(super) bytes: VecDeque<u8>,
    /// It has no reader any more.
    pub(super) closed: bool,
    /// How many bytes have come.
    pub(super) total: u64,
}

impl Output {
    pub(super) fn new(flow: Flow, keeps: bool) -> Self {
        Self {
            flow,
            keeps,
            bytes: VecDeque::new(),
            closed: false,
            total: 0,
        }
    }

    /// Takes bytes of the agent. Returns how many of them are done with.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        self.total += bytes.len() as u64;
        if self.closed {
            return bytes.len();
        }
        self.bytes.extend(bytes);
        if self.keeps { bytes.len() } else { 0 }
    }

    /// The file to write to, if something waits.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'static>> {
        if self.keeps || self.closed || self.bytes.is_empty() {
            return None;
        }
        Some(match self.flow {
            Flow::Stderr => rustix::stdio::stderr(),
            _ => rustix::stdio::stdout(),
        })
    }

    /// Writes a piece. The file is ready. Returns how many bytes are done with.
    pub(super) fn write(&mut self) -> io::Result<usize> {
        let Some(file) = self.waits_for() else {
            return Ok(0);
        };
        let (piece, _) = self.bytes.as_slices();
        let piece = &piece[..piece.len().min(PIECE)];
        match rustix::io::write(file, piece) {
            Ok(n) => {
                crate::machine::terminal::written(&piece[..n]);
                self.bytes.drain(..n);
                Ok(n)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(error) => {
                self.closed = true;
                let lost = self.bytes.len();
                self.bytes.clear();
                match error {
                    Errno::PIPE => Ok(lost),
                    other => Err(other.into()),
                }
            }
        }
    }
}
