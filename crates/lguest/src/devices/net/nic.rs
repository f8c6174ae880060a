//! A network interface of the Guest, whatever it is connected to.
//!
//! It moves frames between the Guest's buffers and a [`Backend`], and counts
//! them. A frame for which there is no room is lost: an interface never waits.

use super::{Backend, Capture, See};
use crate::devices::{AT_ONCE, Counter, Filled, NamedCounts, Readiness};
use crate::devices::{
    ReceiveBuffers, RestoreError, Saved, Versioned, Violation,
};
use crate::memory::SectionsIn;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::BorrowedFd;

/// A network interface with a Guest on it.
pub struct Nic {
    backend: Box<dyn Backend>,
    /// The Ethernet address of the other end.
    far: [u8; 6],
    /// The Guest's own, if it was given one.
    mac: Option<[u8; 6]>,
    capture: Option<Capture>,
    counters: NicCounters,
}

/// What an interface has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NicCounters {
    frames_sent: Counter,
    bytes_sent: Counter,
    /// Frames from the Guest that were lost.
    refused: Counter,
    frames_received: Counter,
    bytes_received: Counter,
    /// Frames that were dropped, because the Guest had no buffer bound.
    forgotten: Counter,
    /// Frames that were dropped, because their length does not fit.
    misfits: Counter,
}

/// The state of an interface. Frames that wait in the old backend are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicState {
    counters: NicCounters,
}

impl Saved for NicState {
    const DEVICE: &'static str = "network interface";
    const VERSION: u32 = 2;
}

impl Nic {
    /// An interface at the end of `backend`. The other end has the Ethernet
    /// address `far`.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>, far: [u8; 6]) -> Self {
        Self {
            backend,
            far,
            mac: None,
            capture: None,
            counters: NicCounters::default(),
        }
    }

    /// Gives the Guest this Ethernet address.
    #[must_use]
    pub fn with_mac(self, mac: [u8; 6]) -> Self {
        let mac = Some(mac);
        Self { mac, ..self }
    }

    /// Writes all frames to `capture`.
    pub fn set_capture(&mut self, capture: Capture) {
        self.capture = Some(capture);
    }

    /// The Ethernet address of the other end.
    #[must_use]
    pub fn far(&self) -> [u8; 6] {
        self.far
    }

    /// An Ethernet address for the Guest: the given one, or the neighbour of
    /// the other end's, which was chosen at random.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut neighbour = self.far;
        neighbour[5] ^= 1;
        self.mac.unwrap_or(neighbour)
    }

    /// The Guest sends `frame`. Returns the number of bytes that were taken: 0
    /// if the frame is lost. [`Self::flush`] has to follow.
    pub fn send(&mut self, frame: SectionsIn<'_>) -> u32 {
        let mut record = recorder(&mut self.capture);
        let see = record.as_mut().map(|record| record as See<'_>);
        let Ok(bytes) = self.backend.send(frame, see) else {
            self.counters.refused.add(1);
            return 0;
        };
        self.counters.frames_sent.add(1);
        self.counters.bytes_sent.add(bytes.into());
        bytes
    }

    /// Passes the frames on that were sent.
    pub fn flush(&mut self) {
        self.backend.flush();
    }

    /// The file to watch for frames.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        self.backend.input()
    }

    /// The Guest has ended.
    pub fn finish(&mut self) {
        self.backend.finish();
    }

    /// There may be frames for the Guest. Returns when it would have to wait,
    /// and after [`AT_ONCE`] frames.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_input(
        &mut self,
        buffers: &mut dyn ReceiveBuffers,
    ) -> Result<Readiness, Violation> {
        self.backend.flush();
        let backend = &mut self.backend;
        let mut record = recorder(&mut self.capture);
        for filled in 0..AT_ONCE {
            let done = buffers.fill(&mut |into| {
                // A read without room would leave the frame where it is, or
                // return at once without one.
                if into.total() == 0 {
                    return backend.discard().map(|()| 0);
                }
                let see = record.as_mut().map(|record| record as See<'_>);
                backend.receive(into, see)
            })?;
            let error = match done {
                Filled::Bytes(0) => {
                    self.counters.misfits.add(1);
                    continue;
                }
                Filled::Bytes(bytes) => {
                    self.counters.frames_received.add(1);
                    self.counters.bytes_received.add(bytes.into());
                    continue;
                }
                Filled::Ended => return Ok(Readiness::Closed),
                Filled::NoneFree if buffers.are_any() => {
                    return Ok(Readiness::NoBuffer {
                        took: filled > 0,
                        watch: false,
                    });
                }
                // The Guest's interface is down and waits for no frames.
                Filled::NoneFree => match backend.discard() {
                    Ok(()) => {
                        self.counters.forgotten.add(1);
                        continue;
                    }
                    Err(error) => error,
                },
                Filled::Failed(error) => error,
            };
            return Ok(readiness(&error));
        }
        // A backend may have frames that its file does not show.
        Ok(Readiness::More)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Versioned<NicState> {
        NicState {
            counters: self.counters.clone(),
        }
        .versioned()
    }

    /// Goes on with `state`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &mut self,
        state: &Versioned<NicState>,
    ) -> Result<(), RestoreError> {
        self.counters = state.known()?.counters.clone();
        Ok(())
    }

    /// What the interface has done so far, for the statistics.
    #[must_use]
    pub fn counters(&self) -> NamedCounts {
        let c = &self.counters;
        vec![
            ("frames_sent", c.frames_sent.get()),
            ("bytes_sent", c.bytes_sent.get()),
            ("refused", c.refused.get()),
            ("frames_received", c.frames_received.get()),
            ("bytes_received", c.bytes_received.get()),
            ("forgotten", c.forgotten.get()),
            ("misfits", c.misfits.get()),
        ]
    }
}

/// Writes frames to `capture`, if there is one.
fn recorder(capture: &mut Option<Capture>) -> Option<impl FnMut(&[u8])> {
    let capture = capture.as_mut()?;
    Some(|frame: &[u8]| {
        if !frame.is_empty() {
            capture.record(frame);
        }
    })
}

/// What an error in reading means.
fn readiness(error: &io::Error) -> Readiness {
    match error.kind() {
        io::ErrorKind::WouldBlock => Readiness::Wait,
        _ => Readiness::Closed,
    }
}
