//! A network interface that is connected to nothing.
//!
//! A Guest that goes on from a snapshot has one, if the user has said no
//! network for it. What the Guest sends is lost, and nothing comes.

use super::offload::Offload;
use super::stream::random_mac;
use super::{Backend, Nic};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The end of a line without another end.
struct Nothing {
    /// It is never readable.
    input: OwnedFd,
}

/// An interface without a link.
///
/// # Errors
///
/// The kernel has no descriptor left.
pub fn connect() -> io::Result<Nic> {
    Ok(Nic::new(end()?, random_mac()?))
}

/// The end of a line without another end.
///
/// # Errors
///
/// The kernel has no descriptor left.
pub fn end() -> io::Result<Box<dyn Backend>> {
    let input = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    Ok(Box::new(Nothing { input }))
}

impl Backend for Nothing {
    fn is_connected(&self) -> bool {
        false
    }

    fn send(&mut self, _: &[u8], _: Offload) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn receive(&mut self, _: &mut Vec<u8>) -> io::Result<Offload> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}
