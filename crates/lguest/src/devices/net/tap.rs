//! `--net tap=`: frames between the Guest and the machine it runs on.
//!
//! The machine's side is a tap interface. If the kernel offers it, a header
//! precedes each frame, and either end leaves checksums and segments to the
//! other.

use super::backend::{Backend, FRAME_MOST};
use super::interface::Interface;
use super::offload::{HEADER, Offload, Takes};
use super::{Nic, TapError};
use crate::machine::config::TapConfig;
use rustix::io::{readv, retry_on_intr, writev};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

/// A tap interface, as a backend.
pub struct Tap {
    interface: Interface,
    /// Room for a frame.
    room: Box<[u8]>,
}

impl Tap {
    fn new(interface: Interface) -> Self {
        let room = vec![0; FRAME_MOST].into();
        Self { interface, room }
    }

    /// Bytes in front of a frame.
    fn header(&self) -> usize {
        if self.interface.headers { HEADER } else { 0 }
    }

    /// Makes a tap interface and sets it up, for packets of `mtu` bytes if that
    /// was said. Dropping it removes it.
    ///
    /// # Errors
    ///
    /// [`TapError`], whose message names the cure.
    pub fn open(
        config: &TapConfig,
        mtu: Option<u16>,
        mac: Option<[u8; 6]>,
    ) -> Result<Nic, TapError> {
        let interface = Interface::open(config, mtu, mac)?;
        let mac = interface.mac;
        Ok(Nic::new(Box::new(Self::new(interface)), mac))
    }

    /// Whether interfaces can be made here. Makes one, and removes it again.
    pub(crate) fn probe() -> Result<(), TapError> {
        Interface::probe()
    }
}

impl Backend for Tap {
    fn takes(&self) -> Takes {
        match self.interface.headers {
            true => Takes::HEADERS,
            false => Takes::default(),
        }
    }

    fn send(&mut self, frame: &[u8], left: Offload) -> io::Result<()> {
        let header = left.header();
        let header = &header[..self.header()];
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        retry_on_intr(|| writev(&self.interface.file, &parts))?;
        Ok(())
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<Offload> {
        let mut header = [0; HEADER];
        let length = self.header();
        let bytes = retry_on_intr(|| {
            let first = IoSliceMut::new(&mut header[..length]);
            let rest = IoSliceMut::new(&mut self.room);
            readv(&self.interface.file, &mut [first, rest])
        })?;
        let bytes = bytes.saturating_sub(length);
        frame.extend_from_slice(&self.room[..bytes]);
        let left = Offload::read_of_kernel(header, frame);
        Ok(left.unwrap_or_else(|_| {
            frame.clear();
            Offload::default()
        }))
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.interface.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::net::FrameBuffers;
    use crate::devices::{Filled, Readiness, ReceiveBuffers, Violation};
    use crate::memory::{GuestMemory, SectionsIn};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    /// A buffer without a byte, which is always free.
    struct Empty(GuestMemory);

    impl FrameBuffers for Empty {}

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

    /// A socket in place of a tap: both have frames.
    fn pair() -> (Tap, UnixDatagram) {
        let (ours, other) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let file = OwnedFd::from(ours).into();
        let interface = Interface {
            file,
            mac: [2; 6],
            headers: false,
        };
        (Tap::new(interface), other)
    }

    #[test]
    fn frames_for_an_empty_buffer_are_dropped_and_then_it_waits() {
        let (tap, other) = pair();
        let mut nic = Nic::new(Box::new(tap), [2; 6]);
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
