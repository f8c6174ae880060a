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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Filled, Readiness, ReceiveBuffers, Violation};
    use crate::memory::GuestMemory;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    /// A buffer without a byte, which is always free.
    struct Empty(GuestMemory);

    impl ReceiveBuffers for Empty {
        fn fill(
            &mut self,
            fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
        ) -> Result<Filled, Violation> {
            let (region, list) = (self.0.region(), &[][..]);
            let filled = fill(SectionsIn { region, list });
            Ok(filled.map_or_else(Filled::Failed, Filled::Bytes))
        }

        fn are_any(&self) -> bool {
            true
        }
    }

    #[test]
    fn frames_for_an_empty_buffer_are_dropped_and_then_it_waits() {
        let (ours, other) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let file = OwnedFd::from(ours).into();
        let mac = [2; 6];
        let tap = Tap(Interface { file, mac });
        let mut nic = Nic::new(Box::new(tap), mac);
        let mut empty = Empty(GuestMemory::new(0x1000, 0).unwrap());
        let misfits = |nic: &Nic| {
            let counters = nic.counters();
            counters
                .iter()
                .find(|(name, _)| *name == "misfits")
                .unwrap()
                .1
        };
        let readiness = nic.handle_input(&mut empty).unwrap();
        assert!(matches!(readiness, Readiness::Wait), "no frame is there");
        assert_eq!(misfits(&nic), 0);
        for frame in [[1; 60], [2; 60]] {
            other.send(&frame).unwrap();
        }
        let readiness = nic.handle_input(&mut empty).unwrap();
        assert!(matches!(readiness, Readiness::Wait), "all are dropped");
        assert_eq!(misfits(&nic), 2);
    }
}
