//! `--tunnet`: frames between the Guest and the machine it runs on.
//!
//! The machine's side is a tap interface. A frame goes between its file and
//! the Guest's memory in one vectored system call.

use super::TapError;
use super::interface::Interface;
use crate::devices::{AT_ONCE, Counter, Filled, NamedCounts, Readiness};
use crate::devices::{
    ReceiveBuffers, RestoreError, Saved, Versioned, Violation,
};
use crate::machine::config::TapConfig;
use crate::memory::SectionsIn;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// A tap interface with a Guest on it.
pub struct Tap {
    interface: Interface,
    counters: TapCounters,
}

/// What a tap has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TapCounters {
    frames_sent: Counter,
    bytes_sent: Counter,
    /// Frames that the interface refused.
    refused: Counter,
    frames_received: Counter,
    bytes_received: Counter,
    /// Frames that were dropped, because the Guest had no buffer bound.
    forgotten: Counter,
}

/// The state of a tap. Frames that wait in the old interface are lost, as on a
/// wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapState {
    counters: TapCounters,
}

impl Saved for TapState {
    const DEVICE: &'static str = "tap";
    const VERSION: u32 = 1;
}

impl Tap {
    /// Makes a tap interface and sets it up. Dropping this removes it.
    ///
    /// # Errors
    ///
    /// [`TapError`], whose message names the cure.
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        Ok(Self {
            interface: Interface::open(config)?,
            counters: TapCounters::default(),
        })
    }

    /// Whether interfaces can be made here. Makes one, and removes it again.
    pub(crate) fn probe() -> Result<(), TapError> {
        Interface::probe()
    }

    /// The name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.interface.name
    }

    /// The Ethernet address of the machine's end.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.interface.mac
    }

    /// The Guest sends `frame`. Returns the number of bytes that were taken. A
    /// frame that the interface refuses is lost, and the Guest sees that 0
    /// bytes were taken.
    pub fn send(&mut self, frame: SectionsIn<'_>) -> u32 {
        let Ok(bytes) = frame.write_to(self.file()) else {
            self.counters.refused.add(1);
            return 0;
        };
        self.counters.frames_sent.add(1);
        self.counters.bytes_sent.add(bytes.into());
        bytes
    }

    /// The file to watch for frames.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }

    /// There may be frames for the Guest. Returns when it would have to wait,
    /// and after [`AT_ONCE`] frames. Frames that are left in the interface make
    /// its file readable again.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_input(
        &mut self,
        buffers: &mut dyn ReceiveBuffers,
    ) -> Result<Readiness, Violation> {
        let file = &self.interface.file;
        for filled in 0..AT_ONCE {
            let error = match buffers.fill(&mut |into| into.read_from(file))? {
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
                Filled::NoneFree => match discard(file) {
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
        Ok(Readiness::Wait)
    }

    fn file(&self) -> &File {
        &self.interface.file
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Versioned<TapState> {
        TapState {
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
        state: &Versioned<TapState>,
    ) -> Result<(), RestoreError> {
        self.counters = state.known()?.counters.clone();
        Ok(())
    }

    /// What the tap has done so far, for the statistics.
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
        ]
    }
}

/// Takes one frame from the tap and drops it.
fn discard(mut file: &File) -> io::Result<()> {
    // The kernel drops what does not fit.
    file.read(&mut [0]).map(drop)
}

/// What an error in reading means.
fn readiness(error: &io::Error) -> Readiness {
    match error.kind() {
        io::ErrorKind::WouldBlock => Readiness::Wait,
        _ => Readiness::Closed,
    }
}
