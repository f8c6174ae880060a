//! `--net tap=`: frames between the Guest and the machine it runs on.
//!
//! The machine's side is a tap interface. A frame goes between its file and
//! the Guest's memory in one vectored system call.

use super::backend::Backend;
use super::interface::Interface;
use super::{Nic, TapError};
use crate::machine::config::TapConfig;
use crate::memory::SectionsIn;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// A tap interface, as a backend.
pub struct Tap(Interface);

impl Tap {
    /// Makes a tap interface and sets it up. Dropping it removes it.
    ///
    /// # Errors
    ///
    /// [`TapError`], whose message names the cure.
    pub fn open(config: &TapConfig) -> Result<Nic, TapError> {
        let interface = Interface::open(config)?;
        let mac = interface.mac;
        Ok(Nic::new(Box::new(Self(interface)), mac))
    }

    /// Whether interfaces can be made here. Makes one, and removes it again.
    pub(crate) fn probe() -> Result<(), TapError> {
        Interface::probe()
    }
}

impl Backend for Tap {
    fn send(&mut self, frame: SectionsIn<'_>) -> io::Result<u32> {
        frame.write_to(&self.0.file)
    }

    fn receive(&mut self, into: SectionsIn<'_>) -> io::Result<u32> {
        into.read_from(&self.0.file)
    }

    fn discard(&mut self) -> io::Result<()> {
        // The kernel drops what does not fit.
        (&self.0.file).read(&mut [0]).map(drop)
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}
