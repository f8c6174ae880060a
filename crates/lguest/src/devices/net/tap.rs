//! `--net tap=`: frames between the Guest and the machine it runs on.
//!
//! The machine's side is a tap interface. A frame goes between its file and
//! the Guest's memory in one vectored system call, or through a copy if it is
//! captured, so that the capture has the bytes of the wire.

use super::backend::{Backend, FRAME_MOST, See};
use super::interface::Interface;
use super::{Nic, TapError};
use crate::machine::config::TapConfig;
use crate::memory::{SectionsIn, gather, scatter};
use rustix::io::{read, retry_on_intr, write};
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
    fn send(
        &mut self,
        frame: SectionsIn<'_>,
        see: Option<See<'_>>,
    ) -> io::Result<u32> {
        let Some(see) = see else {
            return frame.write_to(&self.0.file);
        };
        let copy = gather(frame.region, frame.list);
        let copy = copy.map_err(io::Error::other)?;
        let bytes = retry_on_intr(|| write(&self.0.file, &copy))?;
        see(&copy);
        Ok(u32::try_from(bytes).unwrap_or(0))
    }

    fn receive(
        &mut self,
        into: SectionsIn<'_>,
        see: Option<See<'_>>,
    ) -> io::Result<u32> {
        let Some(see) = see else {
            return into.read_from(&self.0.file);
        };
        let mut copy = vec![0; FRAME_MOST.min(into.total() as usize)];
        let bytes = retry_on_intr(|| read(&self.0.file, &mut copy))?;
        copy.truncate(bytes);
        see(&copy);
        let bytes = scatter(into.region, into.list, &copy);
        let bytes = bytes.map_err(io::Error::other)?;
        Ok(u32::try_from(bytes).unwrap_or(0))
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
    use crate::memory::{GuestMemory, Section};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::{AtomicBool, Ordering};

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

    /// A socket in place of a tap: both have frames.
    fn pair() -> (Tap, UnixDatagram) {
        let (ours, other) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let file = OwnedFd::from(ours).into();
        (Tap(Interface { file, mac: [2; 6] }), other)
    }

    /// Sends what is in `buffer`, receives frame `n`, and compares what is seen
    /// with the wire.
    fn both_ways(
        tap: &mut Tap,
        other: &UnixDatagram,
        buffer: SectionsIn<'_>,
        n: u32,
    ) -> io::Result<()> {
        let (mut wire, mut seen) = ([0; 100], Vec::new());
        tap.send(buffer, Some(&mut |frame| seen = frame.to_vec()))?;
        let bytes = other.recv(&mut wire)?;
        let sent = wire[..bytes] == seen;
        let frame = n.to_le_bytes().repeat(15);
        other.send(&frame)?;
        tap.receive(buffer, Some(&mut |frame| seen = frame.to_vec()))?;
        match (sent, frame == seen) {
            (true, true) => Ok(()),
            other => Err(io::Error::other(format!("same: {other:?}"))),
        }
    }

    #[test]
    fn what_is_seen_of_a_frame_is_what_is_on_the_wire() {
        let (mut tap, other) = pair();
        let memory = GuestMemory::new(0x1000, 0).unwrap();
        let list = [Section::new(memory.region(), 0, 60).unwrap()];
        let region = memory.region();
        let buffer = SectionsIn {
            region,
            list: &list,
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Another processor of the Guest, which writes meanwhile.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for byte in [1, 2] {
                        memory.write(0, &[byte; 60]).unwrap();
                    }
                }
            });
            let done = (0..10_000)
                .try_for_each(|n| both_ways(&mut tap, &other, buffer, n));
            over.store(true, Ordering::Relaxed);
            done.unwrap();
        });
        let error = tap.receive(buffer, Some(&mut |_| {})).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // Without another processor, the frame is in the Guest's memory.
        other.send(&[7; 60]).unwrap();
        tap.receive(buffer, Some(&mut |_| {})).unwrap();
        let mut bytes = [0; 60];
        memory.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 60]);
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
