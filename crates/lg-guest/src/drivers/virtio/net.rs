//! A virtio network: a queue of buffers to fill, and a queue of frames to send.
//!
//! A header of ten bytes, or twelve in virtio 1.0, is in front of each frame.
//! It is all zero in what is sent, because no feature that uses it is accepted.

use super::buffers::Buffers;
use super::place;
use crate::bus::{Device, DeviceError};
use crate::drivers::net::{Frames, INCOMING, Mac};
use crate::virtqueue::{Piece, Virtqueue};
use alloc::vec::Vec;
use core::cell::RefCell;
use lg_abi::device::NET_FRAME_MAX;
use lg_abi::gen2::device::NET_MAC;

/// The queues, by their places in the descriptor.
const TO_GUEST: u8 = 0;
const FROM_GUEST: u8 = 1;

/// The beginning of the addresses that a Launcher gives on a network of several
/// Guests. The number of the Guest follows, from 1 on.
const NUMBERED: [u8; 4] = [0x02, b'l', b'g', 0];

/// The queues, and buffers.
pub(crate) struct Net {
    mac: Mac,
    /// Bytes of the header.
    header: u32,
    to_guest: Virtqueue,
    incoming: Buffers,
    from_guest: Virtqueue,
    outgoing: RefCell<Outgoing>,
}

/// The buffer for frames to be sent.
struct Outgoing {
    buffers: Buffers,
    /// Whether the device has it.
    given: bool,
}

impl Net {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let place = place(&device)?;
        let mut mac = [0x02, 0, 0, 0, 0, device.index()];
        if place.accept(1 << NET_MAC) != 0 {
            for (at, byte) in (0..).zip(&mut mac) {
                let value = place.config(at, 1).ok_or(DeviceError::Failed)?;
                *byte = value.to_le_bytes()[0];
            }
        }
        let net = Self {
            mac,
            header: place.net_header(),
            to_guest: Virtqueue::new(place.queue(TO_GUEST)?)?,
            incoming: Buffers::new(INCOMING.into(), 1)?,
            from_guest: Virtqueue::new(place.queue(FROM_GUEST)?)?
                .without_interrupts(),
            outgoing: RefCell::new(Outgoing {
                buffers: Buffers::new(1, 1)?,
                given: false,
            }),
        };
        for index in 0..INCOMING.into() {
            net.give(index);
        }
        net.to_guest.notify();
        Ok(net)
    }

    /// Gives an empty buffer to the device.
    fn give(&self, index: u16) {
        let piece = Piece {
            at: self.incoming.at(index),
            bytes: self.header + NET_FRAME_MAX,
            written: true,
        };
        self.to_guest.offer(index, &[piece]);
    }
}

impl Frames for Net {
    fn mac(&self) -> Mac {
        self.mac
    }

    fn slot(&self) -> u32 {
        let [first @ .., high, low] = self.mac;
        match first == NUMBERED {
            true => u32::from(u16::from_be_bytes([high, low])).max(1) - 1,
            false => 0,
        }
    }

    fn needs_checksums(&self) -> bool {
        true
    }

    fn neighbours(&self) -> Vec<(u32, Mac)> {
        Vec::new()
    }

    fn has_frame(&self) -> bool {
        self.to_guest.has_used()
    }

    fn receive(&self, look: &mut dyn FnMut(&[u8])) -> bool {
        let Some((index, length)) = self.to_guest.take() else {
            return false;
        };
        let frame = self.incoming.data(index, length);
        look(frame.get(self.header as usize..).unwrap_or(&[]));
        self.give(index);
        self.to_guest.notify();
        true
    }

    fn send(
        &self,
        length: usize,
        fill: &mut dyn FnMut(&mut [u8]),
        count: &mut dyn FnMut(bool),
    ) {
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.given {
            while self.from_guest.take().is_none() {
                core::hint::spin_loop();
            }
        }
        let bytes = self.header + crate::word(length);
        let whole = outgoing.buffers.data_mut(0, bytes);
        let (header, frame) = whole.split_at_mut(self.header as usize);
        header.fill(0);
        fill(frame);
        let piece = Piece {
            at: outgoing.buffers.at(0),
            bytes,
            written: false,
        };
        self.from_guest.offer(0, &[piece]);
        self.from_guest.notify();
        outgoing.given = self.from_guest.take().is_none();
        count(true);
    }

    fn down(&self) {}
}
