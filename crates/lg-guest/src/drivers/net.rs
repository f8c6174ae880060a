//! A network: a page of addresses, and a key for each.
//!
//! All Guests on a network see the same page, and each has one slot in it. A
//! Guest joins by writing its address into its slot. Frames for a slot are sent
//! to the slot's key, which is the slot's place in that page. There is no
//! switch: a sender finds the slots that accept a frame, and sends it to each
//! of them.

#![expect(unsafe_code, reason = "the page is shared with other Guests")]

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError};
use crate::frame::Phys;
use crate::{hcall, irq, shared};
use core::cell::{Cell, RefCell};
use lg_abi::device::{
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_NET_F_NOCSUM, NET_FRAME_MAX,
    NET_PROMISC, NET_SLOTS, Net as Slot, net_key_offset,
};

/// Buffers for frames that come in.
const INCOMING: u32 = 8;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// In the first byte of an address: locally administered.
const LOCAL: u8 = 2;
/// In the first byte of a destination: multicast or broadcast.
const MULTICAST: u8 = 1;

/// A network.
pub struct Net {
    device: Device,
    slots: *mut Slot,
    me: u32,
    mac: Mac,
    incoming: Buffers,
    outgoing: RefCell<Buffers>,
    /// The buffer in which the next frame is expected.
    next: Cell<u32>,
    counts: Cell<Counts>,
}

/// Counts of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came.
    pub received: u32,
    /// Frames that a receiver took.
    pub sent: u32,
    /// Frames that no receiver took completely.
    pub lost: u32,
}

impl Net {
    /// The driver for `device`: binds buffers, then joins the network.
    ///
    /// # Errors
    ///
    /// There is no memory, the Host refuses the buffers, or it names a slot
    /// that does not exist.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        let flags = LGUEST_NET_F_NOCSUM | LGUEST_DEVICE_F_RANDOMNESS;
        let me = u32::from(device.features() & !flags);
        if me >= NET_SLOTS {
            return Err(DeviceError::Failed);
        }
        let slots = device.map()?.cast();
        let frame = u16::try_from(NET_FRAME_MAX).unwrap_or(0);
        let net = Self {
            device,
            slots,
            me,
            mac: [0; 6],
            incoming: Buffers::new(INCOMING, 1, frame)?,
            outgoing: RefCell::new(Buffers::new(1, 1, frame)?),
            next: Cell::new(0),
            counts: Cell::new(Counts::default()),
        };
        net.incoming.bind(net.key(me), device.irq())?;
        let mac = net.choose_mac();
        net.write_slot(mac);
        Ok(Self { mac, ..net })
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

    /// Leaves the network: other Guests stop sending frames here.
    pub fn down(&self) {
        self.write_slot([0; 6]);
        self.incoming.unbind(self.key(self.me));
    }

    /// Our address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Our slot.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.me
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Whether frames need checksums, because one may leave this machine.
    #[must_use]
    pub const fn needs_checksums(&self) -> bool {
        self.device.features() & LGUEST_NET_F_NOCSUM == 0
    }

    /// The other Guests on the network: slot and address.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, Mac)> + '_ {
        (0..NET_SLOTS)
            .filter(|&slot| slot != self.me)
            .map(|slot| (slot, self.read_slot(slot)))
            .filter(|&(_, mac)| mac != [0; 6])
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

    /// The buffer with the next frame, if one has come. The Host fills the
    /// buffers in order, and skips those that it does not own yet.
    fn filled(&self) -> Option<(u32, usize)> {
        (0..INCOMING)
            .map(|step| (self.next.get() + step) % INCOMING)
            .find_map(|at| self.incoming.filled(at).map(|len| (at, len)))
    }

    /// Whether a frame has come.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        self.device.check().is_ok() && self.filled().is_some()
    }

    /// Calls `look` with the next frame, then returns its buffer to the Host.
    pub fn receive<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (at, length) = self.filled()?;
        let result = look(self.incoming.data(at, length));
        self.incoming.give(at);
        self.next.set((at + 1) % INCOMING);
        self.count(|counts| counts.received += 1);
        Some(result)
    }

    /// Sends a frame of `length` bytes, which `fill` writes, to all that accept
    /// it.
    pub fn send<R>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let length = length.min(NET_FRAME_MAX as usize);
        let mut outgoing = self.outgoing.borrow_mut();
        let frame = outgoing.data_mut(0, length);
        let result = fill(frame);
        let mut destination = Mac::default();
        for (to, from) in destination.iter_mut().zip(&*frame) {
            *to = *from;
        }
        if self.device.check().is_err() {
            return result;
        }
        for (slot, mac) in self.neighbours() {
            let wanted = destination[0] & MULTICAST != 0
                || mac[0] & NET_PROMISC != 0
                || mac == destination;
            if wanted {
                let mut dma = outgoing.sections(0, length);
                hcall::send_dma(self.key(slot), &mut dma);
                let whole = dma.used_len as usize == length;
                self.count(|counts| match whole {
                    true => counts.sent += 1,
                    false => counts.lost += 1,
                });
            }
        }
        result
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
