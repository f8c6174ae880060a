//! A network: frames to other machines, and from them.
//!
//! On a network of several Guests, a Guest of 2007 finds the others in a page
//! that they share ([`super::keys`]). A later one has an address from its
//! Launcher and knows of no others.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::drivers::net::Net;
//!
//! /// Sends each frame back to where it came from.
//! async fn echo(net: &Net) {
//!     loop {
//!         let seen = net.interrupts();
//!         while let Some((length, mut frame)) = net.receive(|frame| {
//!             let mut copy = [0; 1514];
//!             let length = frame.len().min(copy.len());
//!             copy[..length].copy_from_slice(&frame[..length]);
//!             (length, copy)
//!         }) {
//!             frame.copy_within(6..12, 0); // its sender is the receiver
//!             frame[6..12].copy_from_slice(&net.mac());
//!             net.send(length, |room| room.copy_from_slice(&frame[..length]));
//!         }
//!         net.interrupt_after(seen).await;
//!     }
//! }
//! ```

#[cfg(feature = "smoltcp")]
mod phy;
#[cfg(feature = "smoltcp")]
pub use phy::Phy;

use super::{keys, virtio};
use crate::bus::{Device, DeviceError};
use crate::interface::has_virtio;
use crate::irq;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use lg_abi::device::NET_FRAME_MAX;

/// Buffers for frames that come in.
pub(super) const INCOMING: u8 = 8;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A network.
pub struct Net {
    device: Device,
    frames: Box<dyn Frames>,
    counts: Cell<Counts>,
}

/// Counts of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came.
    pub received: u32,
    /// Frames that a receiver took. A later Guest counts its Launcher as one.
    pub sent: u32,
    /// Frames that no receiver took completely.
    pub lost: u32,
}

/// How frames are moved.
pub(super) trait Frames {
    /// Our address.
    fn mac(&self) -> Mac;

    /// Our number on the network, from 0 on.
    fn slot(&self) -> u32;

    /// Whether frames need checksums.
    fn needs_checksums(&self) -> bool;

    /// The other Guests on the network that are known: number and address.
    fn neighbours(&self) -> Vec<(u32, Mac)>;

    /// Whether a frame has come.
    fn has_frame(&self) -> bool;

    /// Calls `look` with the next frame, if one has come, and returns its
    /// buffer. Returns whether there was one.
    fn receive(&self, look: &mut dyn FnMut(&[u8])) -> bool;

    /// Sends a frame of `length` bytes, which `fill` writes, unless the device
    /// is gone. `count` is told for each receiver whether it took the frame.
    fn send(
        &self,
        length: usize,
        fill: &mut dyn FnMut(&mut [u8]),
        count: &mut dyn FnMut(bool),
    );

    /// Leaves the network.
    fn down(&self);
}

impl Net {
    /// The driver for `device`.
    ///
    /// # Errors
    ///
    /// There is no memory, the Host refuses the buffers, or it names a slot
    /// that does not exist.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        let frames: Box<dyn Frames> = if has_virtio() {
            Box::new(virtio::net::Net::new(device)?)
        } else {
            Box::new(keys::net::Net::new(device)?)
        };
        Ok(Self {
            device,
            frames,
            counts: Cell::new(Counts::default()),
        })
    }

    /// Leaves the network: no more frames are received.
    pub fn down(&self) {
        self.frames.down();
    }

    /// Our address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.frames.mac()
    }

    /// Our number on the network, from 0 on.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.frames.slot()
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Whether frames need checksums, because one may leave this machine.
    #[must_use]
    pub fn needs_checksums(&self) -> bool {
        self.frames.needs_checksums()
    }

    /// The other Guests on the network, as far as they are known: number and
    /// address.
    #[must_use]
    pub fn neighbours(&self) -> Vec<(u32, Mac)> {
        self.frames.neighbours()
    }

    /// Counts of the frames so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    /// Whether a frame has come.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        self.device.check().is_ok() && self.frames.has_frame()
    }

    /// Calls `look` with the next frame, then returns its buffer to the Host.
    pub fn receive<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (mut look, mut result) = (Some(look), None);
        self.frames.receive(&mut |frame| {
            result = look.take().map(|look| look(frame));
        });
        if result.is_some() {
            self.count(|counts| counts.received += 1);
        }
        result
    }

    /// Sends a frame of `length` bytes, which `fill` writes, to all that accept
    /// it.
    ///
    /// # Panics
    ///
    /// Never: every network calls `fill` once.
    pub fn send<R>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let length = length.min(NET_FRAME_MAX as usize);
        let (mut fill, mut result) = (Some(fill), None);
        self.frames.send(
            length,
            &mut |frame| result = fill.take().map(|fill| fill(frame)),
            &mut |whole| {
                self.count(|counts| match whole {
                    true => counts.sent += 1,
                    false => counts.lost += 1,
                });
            },
        );
        result.expect("the frame was filled")
    }

    /// Waits until the network's interrupt has come after `seen`; see
    /// [`irq::after`].
    pub async fn interrupt_after(&self, seen: u32) {
        irq::after(self.device.irq(), seen).await;
    }

    /// How often the network's interrupt has come.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        irq::count(self.device.irq())
    }
}
