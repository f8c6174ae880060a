//! The bus: descriptors of different lengths above RAM, and rings after them.
//!
//! The Guest reads the descriptors once, at boot. When it later changes one
//! (status, accepted features), it sends NOTIFY with the descriptor's address.

use super::device::{Features, VirtioDevice, begin, notified, reset};
use super::queue::{Queue, QueueState};
use super::ring::{Place, RING_BYTES};
use crate::devices::console::Screen;
use crate::devices::{
    NamedCounts, Readiness, RestoreError, Saved, Versioned, Violation,
};
use crate::engine::{Requests, SharedPage};
use crate::memory::GuestMemory;
use crate::transport::held::{Held, find_nth, inputs, let_take, same_number};
use crate::transport::{
    DeviceState, Notified, TakeInput, Transport, TransportState,
};
use lg_abi::gen2::device::{
    BLOCK_FIELDS, DESCRIPTOR_SIZE, Descriptor, FIELD_QUEUE, FORMATS_2_6_25,
    Formats, NET_FIELDS, Queue as QueueDescriptor, RING_SIZE, STATUS_DRIVER_OK,
    STATUS_FAILED, TYPE_BLOCK, TYPE_NET,
};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// The last interrupt of a kernel without an I/O APIC.
const LAST_IRQ: u8 = 15;

/// Bytes of an Ethernet address.
const MAC_BYTES: usize = 6;

/// Bytes of each set of feature bits.
const FEATURE_BYTES: u8 = 4;

/// The longest text that the early console is given at once.
const LONGEST_TEXT: u32 = 4096;

/// All devices of a Guest. Any thread may use it; each device has a lock.
pub struct VirtioBus {
    guest: Arc<dyn Requests>,
    formats: &'static Formats,
    slots: Vec<Slot>,
    screen: Arc<Screen>,
}

struct Slot {
    device: Held<dyn VirtioDevice>,
    /// For the statistics.
    name: &'static str,
    /// Where its descriptor is.
    at: u32,
    /// Where the driver writes the features that it accepts.
    accepted_at: Option<u32>,
    /// Where the Ethernet address of a network is.
    mac_at: Option<u32>,
    queues: Vec<Queue>,
}

/// The devices cannot be put on a bus.
#[derive(Debug, thiserror::Error)]
pub enum VirtioBusError {
    /// There are not enough interrupts.
    #[error(
        "the devices need {0} interrupts, one for each of their queues, and \
         this kernel has {LAST_IRQ}: leave some out"
    )]
    TooManyQueues(usize),
    /// A device lacks something.
    #[error("cannot start a device: {0}")]
    Device(#[from] io::Error),
}

/// How many pages a Guest with these devices has above its RAM, the page of
/// the descriptors among them.
#[must_use]
pub fn pages_above_ram(devices: &[Box<dyn VirtioDevice>]) -> u32 {
    let queues = devices.iter().map(|device| u32::from(device.queues()));
    1 + queues.sum::<u32>() * (RING_BYTES >> PAGE_SHIFT)
}

impl VirtioBus {
    /// Puts `devices` on a bus as since Linux 2.6.25.
    ///
    /// # Errors
    ///
    /// As of [`VirtioBus::with`].
    pub fn new(
        guest: Arc<dyn Requests>,
        devices: Vec<Box<dyn VirtioDevice>>,
        screen: Arc<Screen>,
    ) -> Result<Self, VirtioBusError> {
        Self::with(&FORMATS_2_6_25, guest, devices, screen)
    }

    /// Puts `devices` on a bus, in this order. `guest` must not have run yet,
    /// and have [`pages_above_ram`]. `screen` shows what the early console
    /// prints.
    ///
    /// # Errors
    ///
    /// [`VirtioBusError`] if there are too many.
    pub fn with(
        formats: &'static Formats,
        guest: Arc<dyn Requests>,
        devices: Vec<Box<dyn VirtioDevice>>,
        screen: Arc<Screen>,
    ) -> Result<Self, VirtioBusError> {
        let queues = devices.iter().map(|device| usize::from(device.queues()));
        let queues: usize = queues.sum();
        if queues > usize::from(LAST_IRQ) {
            return Err(VirtioBusError::TooManyQueues(queues));
        }
        let mut next = Next {
            formats,
            descriptor: guest.memory().ram(),
            ring: guest.memory().ram() + PAGE_SIZE,
            irq: 1,
        };
        let slots = devices.into_iter();
        let slots = slots.map(|device| next.place(&guest, device));
        let slots: io::Result<_> = slots.collect();
        Ok(Self {
            guest,
            formats,
            slots: slots?,
            screen,
        })
    }

    /// The state of the bus and of all devices. The Guest must stand still. Its
    /// memory and its interrupts are saved afterwards, because disks finish
    /// their requests first. May block.
    #[must_use]
    pub fn state(&self) -> Versioned<VirtioBusState> {
        let state = |slot: &Slot| {
            // The device comes before its queues, because it may answer chains.
            let device = slot.device.state();
            let queues = slot.queues.iter().map(Queue::state).collect();
            SlotState { device, queues }
        };
        let slots = self.slots.iter().map(state).collect();
        VirtioBusState { slots }.versioned()
    }

    /// Goes on with `state`, which was taken of a bus with the same devices. To
    /// be called once at most, before the Guest runs.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then the bus cannot be used any more.
    pub fn restore(
        &self,
        state: &Versioned<VirtioBusState>,
    ) -> Result<(), RestoreError> {
        let VirtioBusState { slots } = state.known()?;
        same_number(slots.len(), self.slots.len())?;
        for (slot, saved) in self.slots.iter().zip(slots) {
            slot.device.restore(saved.device.as_ref())?;
            for (queue, saved) in slot.queues.iter().zip(&saved.queues) {
                queue.restore(saved);
            }
            let accepted = self.accepted(slot);
            let accepted =
                accepted.map_err(|bad| RestoreError::Other(bad.to_string()))?;
            begin(&slot.device, accepted, || {});
            self.put_mac(slot);
        }
        Ok(())
    }

    /// Describes the Ethernet address of a network, which may be another than
    /// in the memory of a Guest that goes on.
    fn put_mac(&self, slot: &Slot) {
        let device = slot.device.lock();
        let config = device.as_ref().map(|device| device.config());
        let mac = config.as_deref().and_then(|config| config.get(..MAC_BYTES));
        if let (Some(at), Some(mac)) = (slot.mac_at, mac) {
            let written = self.memory().write(at, mac);
            written.expect("every Guest has a page of descriptors");
        }
    }

    fn memory(&self) -> &GuestMemory {
        self.guest.memory()
    }

    /// The driver of a device has changed the status.
    fn status_changed(&self, slot: &Slot) -> Result<(), Violation> {
        let status: u8 = self
            .memory()
            .read_object(slot.at + self.formats.status)
            .map_err(Violation::of)?;
        let queues = slot.queues.iter();
        match status {
            0 => reset(&slot.device, &slot.queues),
            _ if status & STATUS_FAILED != 0 => queues.for_each(Queue::stop),
            _ if status & STATUS_DRIVER_OK != 0 => {
                let accepted = self.accepted(slot)?;
                begin(&slot.device, accepted, || queues.for_each(Queue::start));
            }
            _ => {}
        }
        Ok(())
    }

    /// The features that the driver of a device accepts. Kernels whose
    /// descriptors are lists of fields are offered none.
    fn accepted(&self, slot: &Slot) -> Result<Features, Violation> {
        let Some(at) = slot.accepted_at else {
            return Ok(0);
        };
        self.memory().read_object(at).map_err(Violation::of)
    }

    /// Shows the text at `address`, up to its NUL.
    fn print(&self, address: u32) {
        let mut text = Vec::new();
        for at in (address..).take(LONGEST_TEXT as usize) {
            match self.memory().read_object::<u8>(at) {
                Ok(byte) if byte != 0 => text.push(byte),
                _ => break,
            }
        }
        self.screen.show(&text);
    }
}

/// The state of a bus. Descriptors and rings are in the Guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioBusState {
    slots: Vec<SlotState>,
}

impl Saved for VirtioBusState {
    const DEVICE: &'static str = "bus of virtio";
    const VERSION: u32 = 1;
}

/// The state of one device on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SlotState {
    device: Option<DeviceState>,
    queues: Vec<QueueState>,
}

/// Where the next device goes.
struct Next {
    formats: &'static Formats,
    descriptor: u32,
    ring: u32,
    irq: u8,
}

impl Next {
    fn place(
        &mut self,
        guest: &Arc<dyn Requests>,
        mut device: Box<dyn VirtioDevice>,
    ) -> io::Result<Slot> {
        let (name, kind) = (device.name(), device.kind());
        let mut queues = Vec::new();
        let mut described = Vec::new();
        for _ in 0..device.queues() {
            let pfn = self.ring >> PAGE_SHIFT;
            #[expect(clippy::cast_possible_truncation, reason = "two halves")]
            described.push(QueueDescriptor {
                num: RING_SIZE,
                irq: self.irq.into(),
                pfn: [pfn as u16, (pfn >> 16) as u16],
            });
            let guest = guest.clone();
            let formats = self.formats;
            let place = Place::of_generation_2(self.ring);
            queues.push(Queue::new(guest, place, self.irq, formats));
            self.ring += RING_BYTES;
            self.irq += 1;
        }
        let bytes = if self.formats.fields {
            fields(device.as_ref(), &described)
        } else {
            descriptor(device.as_ref(), &described)
        };
        let at = self.descriptor;
        let written = guest.memory().write(at, &bytes);
        written.expect("every Guest has a page of descriptors");
        self.descriptor += u32::try_from(bytes.len()).unwrap_or(PAGE_SIZE);
        let queue_bytes = described.as_bytes().len();
        let before = DESCRIPTOR_SIZE as usize + queue_bytes;
        let before = u32::try_from(before).unwrap_or(PAGE_SIZE);
        let accepted_at = (!self.formats.fields)
            .then_some(at + before + u32::from(FEATURE_BYTES));
        // The configuration is last, and begins with the address. Of the fields
        // of a network, the address is the last one.
        let from_end = match self.formats.fields {
            true => MAC_BYTES,
            false => device.config().len(),
        };
        let mac_at = bytes.len().checked_sub(from_end);
        let mac_at = mac_at.filter(|_| kind == TYPE_NET);
        let mac_at = mac_at.and_then(|offset| u32::try_from(offset).ok());
        device.place(queues.clone())?;
        Ok(Slot {
            mac_at: mac_at.map(|offset| at + offset),
            name,
            device: Held::new(device),
            at,
            accepted_at,
            queues,
        })
    }
}

/// The descriptor of `device` since Linux 2.6.25.
fn descriptor(
    device: &dyn VirtioDevice,
    queues: &[QueueDescriptor],
) -> Vec<u8> {
    let config = device.config();
    let header = Descriptor {
        kind: device.kind(),
        num_vq: device.queues(),
        feature_len: FEATURE_BYTES,
        config_len: short(&config),
        status: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(queues.as_bytes());
    bytes.extend(device.features().to_le_bytes());
    bytes.extend([0; FEATURE_BYTES as usize]);
    bytes.extend(config);
    bytes
}

/// The descriptor of `device` for Linux 2.6.24: a type, the bytes of all
/// fields, the status, and the fields. No features are offered.
fn fields(device: &dyn VirtioDevice, queues: &[QueueDescriptor]) -> Vec<u8> {
    let config = device.config();
    let known = match device.kind() {
        TYPE_BLOCK => BLOCK_FIELDS,
        TYPE_NET => NET_FIELDS,
        _ => &[],
    };
    let mut fields = Vec::new();
    let mut add = |kind: u8, bytes: &[u8]| {
        fields.extend([kind, short(bytes)]);
        fields.extend(bytes);
    };
    for queue in queues {
        add(FIELD_QUEUE, queue.as_bytes());
    }
    for field in known {
        add(field.kind, &config[field.from..][..field.len]);
    }
    [&[device.kind(), short(&fields), 0][..], &fields].concat()
}

/// The number of these bytes, which are a part of a descriptor.
fn short(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).expect("a configuration is short")
}

const _: () = assert!(DESCRIPTOR_SIZE == 5);

impl Transport for VirtioBus {
    fn send(&self, _dma: u32, key: u32) -> Result<bool, Violation> {
        let text = format!("SEND_DMA to {key:#x}, which its interface lacks");
        Err(Violation(text))
    }

    fn notify(&self, address: u32) -> Result<Notified, Violation> {
        for (device, slot) in self.slots.iter().enumerate() {
            if slot.at == address {
                self.status_changed(slot)?;
                return Ok(Notified::Done);
            }
            let queues = &mut slot.queues.iter();
            let queue = queues.position(|queue| queue.address() == address);
            let Some(index) = queue else { continue };
            let accepted = self.accepted(slot)?;
            let queue = &slot.queues[index];
            return notified(&slot.device, accepted, device, (index, queue));
        }
        if address >= self.memory().ram() {
            let text = format!("NOTIFY of {address:#x}, where no ring is");
            return Err(Violation(text));
        }
        self.print(address);
        Ok(Notified::Done)
    }

    fn handle_input(&self, index: usize) -> Result<Readiness, Violation> {
        let Some(slot) = self.slots.get(index) else {
            return Ok(Readiness::Closed);
        };
        slot.device.handle_input()
    }

    fn let_take(&self, take: &dyn Fn(usize) -> TakeInput) {
        let_take(self.slots.iter().map(|slot| &slot.device), take);
    }

    fn inputs(&self) -> io::Result<Vec<(usize, OwnedFd)>> {
        inputs(self.slots.iter().map(|slot| &slot.device))
    }

    fn shared_pages(&self) -> io::Result<Vec<SharedPage>> {
        Ok(Vec::new())
    }

    fn buffers_changed(&self) {}

    /// This bus cannot say that a link is down.
    fn detach(&self, kind: &str, nth: usize) -> Option<usize> {
        let names = self.slots.iter().map(|slot| slot.name);
        let index = find_nth(names, kind, nth)?;
        let slot = self.slots.get(index)?;
        slot.device.detach().then_some(index)
    }

    fn damage(&self) -> Option<String> {
        let damage = |slot: &Slot| slot.device.try_with(|d| d.damage());
        self.slots.iter().find_map(damage)
    }

    fn counters(&self) -> Vec<(&'static str, NamedCounts)> {
        let counts = |slot: &Slot| (slot.name, slot.device.counters());
        self.slots.iter().map(counts).collect()
    }

    fn state(&self) -> TransportState {
        TransportState::of(&Self::state(self))
    }

    fn obstacle(&self) -> Option<String> {
        let obstacle = |slot: &Slot| slot.device.try_with(|d| d.obstacle());
        self.slots.iter().find_map(obstacle)
    }

    fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        Self::restore(self, &state.read()?)
    }

    fn finish(&self) -> Vec<(&'static str, NamedCounts)> {
        let end = |slot: &Slot| (slot.name, slot.device.finish());
        self.slots.iter().map(end).collect()
    }
}

#[cfg(test)]
mod tests;
