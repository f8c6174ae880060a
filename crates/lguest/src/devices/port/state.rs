//! The state of a port as data.
//!
//! It has the bytes of both directions, and the messages about the port that
//! wait for a buffer.

use super::channel::ChannelState;
use crate::devices::{Counter, Saved, Versioned};
use serde::{Deserialize, Serialize};

/// The state of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Of the channel behind it.
    pub channel: Versioned<ChannelState>,
    /// What waits for a buffer.
    pub waiting: Waiting,
    /// What was done so far.
    pub counters: PortCounters,
}

impl Saved for PortState {
    const DEVICE: &'static str = "port";
    const VERSION: u32 = 1;
}

/// Messages that wait for a buffer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Waiting {
    /// That there is the port.
    pub add: bool,
    /// Its name.
    pub name: bool,
    /// That it is open outside.
    pub open: bool,
}

/// What a port has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Bytes to the Guest.
    pub bytes_in: Counter,
    /// Bytes from the Guest.
    pub bytes_out: Counter,
    /// Messages about ports.
    pub messages: Counter,
    /// Those that mean nothing.
    pub messages_unknown: Counter,
}
