//! The state of a Guest's place on a LAN, as data.
//!
//! Frames that other Guests have posted and this one has not fetched are not in
//! it: they are lost, as on a wire.

use super::counters::LanCounters;
use crate::devices::Saved;
use serde::{Deserialize, Serialize};

/// The state of a Guest's place on a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanState {
    /// Its slot.
    pub(super) slot: u32,
    /// The address there, which the Guest has written.
    pub(super) address: [u8; 6],
    pub(super) counters: LanCounters,
}

impl Saved for LanState {
    const DEVICE: &'static str = "LAN";
    const VERSION: u32 = 2;
}
