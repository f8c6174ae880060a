//! Requests that every device answers, on every transport.
//!
//! A transport puts a [`Device`] on its bus. It adds how a request arrives, and
//! where input goes.

use super::TakeInput;
use super::keys::lan::LanState;
use crate::devices::block::{Block, DiskState};
use crate::devices::console::{Console, ConsoleState};
use crate::devices::net::{Nic, NicState, nothing};
use crate::devices::port::PortState;
use crate::devices::share::ShareState;
use crate::devices::{
    NamedCounts, Readiness, RestoreError, Versioned, Violation,
};
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;

/// A device without its transport.
pub trait Device: Send {
    /// A file to watch: [`BusDevice::handle_input`] is called when it is
    /// readable.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The Guest is dead: finishes requests in progress. May block.
    fn finish(&mut self) {}

    /// The user takes away what is behind the device, and the Guest goes on.
    /// May block as long as requests do.
    fn detach(&mut self) -> Detached {
        Detached::Not
    }

    /// What the device has done so far, for the statistics.
    fn counters(&self) -> NamedCounts {
        NamedCounts::new()
    }

    /// The state. First finishes requests in progress. May block.
    fn state(&mut self) -> DeviceState;

    /// Goes on with `state`. To be called once at most, after the device got
    /// its place and before the Guest runs.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;
}

/// A device on the bus of some transport.
pub trait BusDevice: Send {
    /// The device itself.
    fn device(&mut self) -> &mut dyn Device;

    /// There may be input. Returns when it would have to wait, and when it has
    /// filled [`AT_ONCE`](crate::devices::AT_ONCE) buffers, so that other
    /// devices are served, too.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        Ok(Readiness::Wait)
    }

    /// A thread of the device may call this when there is input.
    fn let_take(&mut self, _take: TakeInput) {}
}

/// What becomes of a device whose other side was taken away.
pub enum Detached {
    /// It cannot be taken away, and nothing has changed.
    Not,
    /// The device answers with errors, or has no link.
    Stays,
    /// The same, and this is to be dropped. That may wait for a thread which
    /// waits for the device.
    Leaves(Box<dyn Send>),
    /// The device is to be dropped, and answers nothing any more.
    Drops,
}

/// The state of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Of a console.
    Console(Versioned<ConsoleState>),
    /// Of a disk.
    Disk(Versioned<DiskState>),
    /// Of a network interface.
    Nic(Versioned<NicState>),
    /// Of a place on a LAN.
    Lan(Versioned<LanState>),
    /// Of a share.
    Share(Versioned<ShareState>),
    /// Of a port to an agent.
    Port(Versioned<PortState>),
    /// Of a source of random numbers, which has none.
    Random,
}

impl DeviceState {
    /// The error that this is the state of another kind of device than
    /// `device`.
    #[must_use]
    pub fn is_not_of(&self, device: &str) -> RestoreError {
        let kind = match self {
            Self::Console(_) => "console",
            Self::Disk(_) => "disk",
            Self::Nic(_) => "network interface",
            Self::Lan(_) => "LAN",
            Self::Share(_) => "share",
            Self::Port(_) => "port",
            Self::Random => "source of random numbers",
        };
        let text = format!("it is of a {kind}, and this is a {device}");
        RestoreError::Other(text)
    }
}

impl Device for Console {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(Self::input(self))
    }

    fn finish(&mut self) {
        Self::finish(self);
    }

    fn counters(&self) -> NamedCounts {
        Self::counters(self)
    }

    fn state(&mut self) -> DeviceState {
        DeviceState::Console(Self::state(self))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Console(state) => Self::restore(self, state),
            other => Err(other.is_not_of("console")),
        }
    }
}

impl Device for Block {
    fn finish(&mut self) {
        Self::finish(self);
    }

    fn detach(&mut self) -> Detached {
        Self::detach(self);
        Detached::Stays
    }

    fn counters(&self) -> NamedCounts {
        Self::counters(self)
    }

    fn state(&mut self) -> DeviceState {
        DeviceState::Disk(Self::state(self))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Disk(state) => Self::restore(self, state),
            other => Err(other.is_not_of("disk")),
        }
    }
}

impl Device for Nic {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(Self::input(self))
    }

    fn finish(&mut self) {
        Self::finish(self);
    }

    fn detach(&mut self) -> Detached {
        match nothing::end() {
            Ok(end) => {
                self.connect_to(end);
                Detached::Stays
            }
            Err(_) => Detached::Not,
        }
    }

    fn counters(&self) -> NamedCounts {
        Self::counters(self)
    }

    fn state(&mut self) -> DeviceState {
        DeviceState::Nic(Self::state(self))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Nic(state) => Self::restore(self, state),
            // It is connected to something else now, and counts anew.
            DeviceState::Lan(_) => Ok(()),
            other => Err(other.is_not_of("network interface")),
        }
    }
}
