//! Random numbers, where the Launcher has a device for them.
//!
//! There is one for later Guests only. Those of 2007 have a flag in the
//! descriptors of devices whose interrupts come at fairly random times.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::drivers::random::Random;
//!
//! async fn dice(random: &Random) -> u8 {
//!     let mut byte = [0];
//!     random.fill(&mut byte).await;
//!     byte[0] % 6 + 1
//! }
//! ```

use super::virtio;
use crate::bus::{Device, DeviceError};
use crate::interface::has_virtio;
use core::cell::Cell;

/// A source of random numbers.
pub struct Random {
    source: virtio::random::Random,
    /// A task is using it.
    taken: Cell<bool>,
}

impl Random {
    /// The driver for `device`.
    ///
    /// # Errors
    ///
    /// There is no memory. Devices of 2007 have no random numbers.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        if !has_virtio() {
            return Err(DeviceError::Failed);
        }
        Ok(Self {
            source: virtio::random::Random::new(device)?,
            taken: Cell::new(false),
        })
    }

    /// Fills `into` with random numbers.
    pub async fn fill(&self, into: &mut [u8]) {
        while self.taken.replace(true) {
            crate::executor::yield_now().await;
        }
        let mut rest = into;
        while !rest.is_empty() {
            let got = self.source.fill(rest).await;
            rest = &mut rest[got..];
        }
        self.taken.set(false);
    }
}
