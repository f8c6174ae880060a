//! A network of 2007: a page of addresses, and a key for each.
//!
//! All Guests on a network see the same page, and each has one slot in it. A
//! Guest joins by writing its address into its slot. Frames for a slot are sent
//! to the slot's key, which is the slot's place in that page. There is no
//! switch: a sender finds the slots that accept a frame, and sends it to each
//! of them.

#![expect(unsafe_code, reason = "the page is shared with other Guests")]

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError, Place};
use crate::drivers::net::{Frames, INCOMING, Mac};
use crate::frame::Phys;
use crate::{hcall, shared};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use lg_abi::device::{
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_NET_F_NOCSUM, NET_FRAME_MAX,
    NET_PROMISC, NET_SLOTS, Net as Slot, net_key_offset,
};

/// In the first byte of an address: locally administered.
const LOCAL: u8 = 2;
/// In the first byte of a destination: multicast or broadcast.
const MULTICAST: u8 = 1;

/// The network's page, and buffers.
pub(crate) struct Net {
    device: Device,
    slots: *mut Slot,
    me: u32,
    mac: Mac,
    incoming: Buffers,
    outgoing: RefCell<Buffers>,
    /// The buffer in which the next frame is expected.
    next: Cell<u32>,
    /// Whether the Launcher fills the buffers, and not another Guest's Host.
    launchers: bool,
}

impl Net {
    /// Binds buffers, then joins the network.
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let Place::Keys(place) = device.place() else {
            return Err(DeviceError::Failed);
        };
        let flags = LGUEST_NET_F_NOCSUM | LGUEST_DEVICE_F_RANDOMNESS;
        let me = u32::from(place.features() & !flags);
        if me >= NET_SLOTS {
            return Err(DeviceError::Failed);
        }
        let slots = place.map()?.cast();
        let frame = u16::try_from(NET_FRAME_MAX).unwrap_or(0);
        let net = Self {
            device,
            slots,
            me,
            mac: [0; 6],
            incoming: Buffers::new(INCOMING.into(), 1, frame)?,
            outgoing: RefCell::new(Buffers::new(1, 1, frame)?),
            next: Cell::new(0),
            launchers: false,
        };
        net.incoming.bind(net.key(me), device.irq())?;
        let mac = net.choose_mac();
        net.write_slot(mac);
        // A Launcher that is a member itself wants all frames.
        let launchers = me != 0 && net.read_slot(0)[0] & NET_PROMISC != 0;
        Ok(Self {
            mac,
            launchers,
            ..net
        })
    }

    /// Our address, made from the number that the Host gave this Guest. Two
    /// Hosts count separately, so two Guests may have the same number: the slot
    /// then tells their addresses apart.
    fn choose_mac(&self) -> Mac {
        let [high, low] = shared::guest_id().to_be_bytes();
        let mac = [LOCAL, 0, high, low, 0, 0];
        let others = (0..NET_SLOTS).filter(|&slot| slot != self.me);
        if others.map(|slot| self.read_slot(slot)).any(|m| m == mac) {
            let [.., slot_high, slot_low] = self.me.to_be_bytes();
            return [LOCAL, 0, high, low, slot_high, slot_low];
        }
        mac
    }

    fn key(&self, slot: u32) -> Phys {
        Phys(self.device.phys().0 + net_key_offset(slot))
    }

    fn read_slot(&self, slot: u32) -> Mac {
        assert!(slot < NET_SLOTS);
        // SAFETY: inside the device's page, which is mapped for good.
        let at = unsafe { self.slots.add(slot as usize) };
        // SAFETY: as above. Another Guest may write it meanwhile. The result is
        // then a mixture of two addresses, no worse than any other wrong one.
        unsafe { at.read_volatile() }.mac
    }

    fn write_slot(&self, mac: Mac) {
        // SAFETY: inside the device's page, which is mapped for good.
        let at = unsafe { self.slots.add(self.me as usize) };
        // SAFETY: as above; this slot is ours to write.
        unsafe { at.write_volatile(Slot { mac }) };
    }

    /// The buffer with the next frame, if one has come. A Host fills the
    /// buffers in order, and skips those that it does not own yet. A Launcher
    /// takes the first one that it owns: if there was no frame, the next one
    /// comes into the first buffer.
    fn filled(&self) -> Option<(u32, usize)> {
        let count = u32::from(INCOMING);
        let found = (0..count)
            .map(|step| (self.next.get() + step) % count)
            .find_map(|at| self.incoming.filled(at).map(|len| (at, len)));
        if found.is_none() && self.launchers {
            self.next.set(0);
        }
        found
    }
}

impl Frames for Net {
    fn mac(&self) -> Mac {
        self.mac
    }

    fn slot(&self) -> u32 {
        self.me
    }

    fn needs_checksums(&self) -> bool {
        self.device.features() & u32::from(LGUEST_NET_F_NOCSUM) == 0
    }

    fn neighbours(&self) -> Vec<(u32, Mac)> {
        (0..NET_SLOTS)
            .filter(|&slot| slot != self.me)
            .map(|slot| (slot, self.read_slot(slot)))
            .filter(|&(_, mac)| mac != [0; 6])
            .collect()
    }

    fn has_frame(&self) -> bool {
        self.filled().is_some()
    }

    fn receive(&self, look: &mut dyn FnMut(&[u8])) -> bool {
        let Some((at, length)) = self.filled() else {
            return false;
        };
        look(self.incoming.data(at, length));
        self.incoming.give(at);
        self.next.set((at + 1) % u32::from(INCOMING));
        true
    }

    fn send(
        &self,
        length: usize,
        fill: &mut dyn FnMut(&mut [u8]),
        count: &mut dyn FnMut(bool),
    ) {
        let mut outgoing = self.outgoing.borrow_mut();
        let frame = outgoing.data_mut(0, length);
        fill(frame);
        let mut destination = Mac::default();
        for (to, from) in destination.iter_mut().zip(&*frame) {
            *to = *from;
        }
        if self.device.check().is_err() {
            return;
        }
        for slot in (0..NET_SLOTS).filter(|&slot| slot != self.me) {
            let mac = self.read_slot(slot);
            let wanted = destination[0] & MULTICAST != 0
                || mac[0] & NET_PROMISC != 0
                || mac == destination;
            if wanted && mac != [0; 6] {
                let mut dma = outgoing.sections(0, length);
                hcall::send_dma(self.key(slot), &mut dma);
                count(dma.used_len as usize == length);
            }
        }
    }

    fn down(&self) {
        self.write_slot([0; 6]);
        self.incoming.unbind(self.key(self.me));
    }
}
