//! A network interface on the bus: its page is a network of two.
//!
//! The page is an array of Ethernet addresses, one for each member of a
//! network, and each has a key. What the interface is connected to is member 0.
//! It is promiscuous, so the Guest sends it everything. The Guest is member 1.

use super::Sent;
use super::dma::DmaSections;
use super::{BoundBuffers, Description, KeyedDevice, Place};
use crate::devices::net::Nic;
use crate::devices::{Readiness, Violation};
use crate::engine::Requests;
use crate::transport::{BusDevice, Device};
use lg_abi::device::{
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_DEVICE_T_NET, NET_PROMISC, Net,
    net_key_offset,
};
use std::io;
use std::sync::Arc;

/// The slot of the other end, at the beginning of the page.
const HOST_SLOT: u32 = 0;

/// The slot of the Guest.
const GUEST_SLOT: u16 = 1;

/// A network interface on the bus.
pub struct KeyedNic {
    nic: Nic,
    at: Option<(Arc<dyn Requests>, u32)>,
}

impl KeyedNic {
    /// `nic`, to be put on a bus.
    #[must_use]
    pub fn new(nic: Nic) -> Self {
        Self { nic, at: None }
    }
}

impl BusDevice for KeyedNic {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.nic
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some((guest, page)) = &self.at else {
            return Ok(Readiness::Wait);
        };
        self.nic.begin();
        self.nic.handle_input(&mut BoundBuffers {
            guest: &**guest,
            key: page + net_key_offset(GUEST_SLOT.into()),
        })
    }
}

impl KeyedDevice for KeyedNic {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_NET,
            features: LGUEST_DEVICE_F_RANDOMNESS | GUEST_SLOT,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        let mut mac = self.nic.far();
        mac[0] |= NET_PROMISC;
        let written = guest.memory().write_object(place.page, &Net { mac });
        written.map_err(io::Error::other)?;
        self.at = Some((guest, place.page));
        Ok(())
    }

    fn send(&mut self, dma: u32, key: u32) -> Result<Sent, Violation> {
        let Some((guest, page)) = &self.at else {
            return Ok(Sent::default());
        };
        if key != page + net_key_offset(HOST_SLOT) {
            return Ok(Sent::default());
        }
        let from = DmaSections::read(guest.memory().region(), dma);
        let bytes = self.nic.send(from.map_err(Violation::of)?.sections());
        self.nic.flush();
        Ok(Sent { bytes, rest: None })
    }
}

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
