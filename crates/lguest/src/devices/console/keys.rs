//! Where typed bytes come from: standard input, and clients of a machine.
//!
//! A machine with a name has two sources: its own standard input, and a pipe
//! into which its control socket writes. Both are watched by one descriptor,
//! so that a console has one input for the rest of the Launcher.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A second source of typed bytes.
pub(super) struct Typed {
    /// The end of the pipe that is read. Reads do not block.
    pipe: OwnedFd,
    /// Watches both sources.
    both: OwnedFd,
    /// An event that has happened, in place of an input that cannot be watched
    /// and can always be read, such as a file.
    instead_of_input: Option<OwnedFd>,
    /// The pipe is watched.
    watched: bool,
}

fn data() -> EventData {
    EventData::new_u64(0)
}

impl Typed {
    /// Watches `input` and `pipe`.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub(super) fn beside(input: &OwnedFd, pipe: OwnedFd) -> io::Result<Self> {
        let both = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&both, &pipe, data(), EventFlags::IN)?;
        let instead_of_input =
            match epoll::add(&both, input, data(), EventFlags::IN) {
                Ok(()) => None,
                Err(Errno::PERM) => {
                    let happened = eventfd(1, EventfdFlags::CLOEXEC)?;
                    epoll::add(&both, &happened, data(), EventFlags::IN)?;
                    Some(happened)
                }
                Err(error) => return Err(error.into()),
            };
        Ok(Self {
            pipe,
            both,
            instead_of_input,
            watched: true,
        })
    }

    /// Watches both sources.
    pub(super) fn watch(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }

    /// Reads from the pipe. Does not block; returns 0 if there is nothing.
    pub(super) fn read(&self, into: &mut [u8]) -> usize {
        match rustix::io::read(&self.pipe, into) {
            Ok(0) => {
                // The control socket has failed. An epoll reports a closed
                // pipe again and again, whatever it was asked for.
                let _ = epoll::delete(&self.both, &self.pipe);
                0
            }
            Ok(n) => n,
            Err(_) => 0,
        }
    }

    /// `input` has ended, and is not watched any more.
    pub(super) fn forget(&self, input: &OwnedFd) {
        let watched = self.instead_of_input.as_ref().unwrap_or(input);
        // The second call finds nothing to remove.
        let _ = epoll::delete(&self.both, watched);
    }

    /// Sets whether the pipe is watched: not while typed bytes wait for the
    /// Guest, so that their sender waits, too.
    pub(super) fn listen(&mut self, wanted: bool) {
        if self.watched != wanted {
            let flags = if wanted {
                EventFlags::IN
            } else {
                EventFlags::empty()
            };
            let done = epoll::modify(&self.both, &self.pipe, data(), flags);
            if done.is_ok() {
                self.watched = wanted;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pipe::{PipeFlags, pipe, pipe_with};

    fn is_ready(typed: &Typed) -> bool {
        let mut fds = [PollFd::new(&typed.both, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn a_pipe_without_a_writer_is_not_watched_any_more() {
        let (input, keyboard) = pipe().unwrap();
        let (theirs, ours) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let typed = Typed::beside(&input, theirs).unwrap();
        drop(ours);
        assert!(is_ready(&typed));
        assert_eq!(typed.read(&mut [0; 9]), 0);
        assert!(!is_ready(&typed));
        rustix::io::write(&keyboard, b"x").unwrap();
        assert!(is_ready(&typed), "the other source is watched");
    }
}
