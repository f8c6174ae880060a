//! The bus: sixteen descriptors above RAM, and the device of each.
//!
//! Real machines spread what describes their devices over PCI, ACPI and
//! hot-plug controllers; here it is one page. A Guest reads it once, at boot,
//! and then reaches the devices by their keys. The devices are placed in the
//! order of the command line, the console last. All of it is settled before the
//! Guest runs, with one exception: a device can be taken away again
//! ([`Bus::remove`]).

use super::dma::answer;
use super::{KeyedDevice, Place};
use crate::devices::{
    NamedCounts, Readiness, RestoreError, Saved, Versioned, Violation,
};
use crate::engine::{Requests, SharedPage};
use crate::memory::GuestMemory;
use crate::transport::held::{Held, find_nth, inputs, same_number};
use crate::transport::{DeviceState, Notified, Transport, TransportState};
use lg_abi::device::{
    DeviceDescriptor, LGUEST_DEVICE_S_REMOVED, LGUEST_DEVICE_S_REMOVED_ACK,
    LGUEST_DEVICE_T_BLOCK, LGUEST_DEVICE_T_CONSOLE, LGUEST_DEVICE_T_NET,
    LGUEST_MAX_DEVICES, device_irq,
};
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// All devices of a Guest. Any thread may use it; each device has a lock.
pub struct Bus {
    guest: Arc<dyn Requests>,
    slots: Vec<Slot>,
}

struct Slot {
    device: Held<dyn KeyedDevice>,
    kind: u16,
    place: Place,
    pages: u32,
    removed: AtomicBool,
}

/// The devices cannot be put on a bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The descriptor page is too short.
    #[error(
        "{0} devices are too many: a guest has at most \
         {LGUEST_MAX_DEVICES}, its console among them"
    )]
    TooManyDevices(usize),
    /// A device cannot prepare its page.
    #[error("device {0} cannot be placed: {1}")]
    Place(usize, #[source] io::Error),
}

/// How many pages a Guest with these devices has above its RAM, the
/// descriptor page among them.
#[must_use]
pub fn pages_above_ram(devices: &[Box<dyn KeyedDevice>]) -> u32 {
    let described = devices.iter().map(|device| device.description());
    1 + described.map(|d| u32::from(d.num_pages)).sum::<u32>()
}

impl Bus {
    /// Puts `devices` on a bus, in this order. `guest` must not have run yet,
    /// and have [`pages_above_ram`].
    ///
    /// # Errors
    ///
    /// [`BusError`] says which device is one too many.
    pub fn new(
        guest: Arc<dyn Requests>,
        devices: Vec<Box<dyn KeyedDevice>>,
    ) -> Result<Self, BusError> {
        if devices.len() > LGUEST_MAX_DEVICES {
            return Err(BusError::TooManyDevices(devices.len()));
        }
        let memory = guest.memory();
        let mut next_page = memory.ram() + PAGE_SIZE;
        let mut slots = Vec::with_capacity(devices.len());
        for (index, mut device) in (0_u8..).zip(devices) {
            let description = device.description();
            let pages = u32::from(description.num_pages);
            let place = Place {
                index,
                page: if pages == 0 { 0 } else { next_page },
                irq: device_irq(index),
            };
            next_page += pages << PAGE_SHIFT;
            let written = memory.write_object(
                descriptor(memory, index),
                &DeviceDescriptor {
                    kind: description.kind,
                    features: description.features,
                    status: 0,
                    num_pages: description.num_pages,
                    pfn: place.page >> PAGE_SHIFT,
                },
            );
            written.expect("every Guest has a descriptor page");
            device
                .place(Arc::clone(&guest), place)
                .map_err(|error| BusError::Place(index.into(), error))?;
            slots.push(Slot {
                device: Held::new(device),
                kind: description.kind,
                place,
                pages,
                removed: AtomicBool::new(false),
            });
        }
        Ok(Self { guest, slots })
    }

    /// Takes a device away from the running Guest. The descriptor says so, an
    /// interrupt makes the driver look, and output to the device is lost from
    /// now on. The driver may acknowledge at any later time:
    /// [`Self::is_let_go`].
    pub fn remove(&self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        slot.removed.store(true, Ordering::SeqCst);
        self.say_removed(slot);
    }

    /// The descriptor of `slot` says that it is removed, and an interrupt makes
    /// the driver look.
    fn say_removed(&self, slot: &Slot) {
        let status = descriptor(self.memory(), slot.place.index)
            + DeviceDescriptor::STATUS_OFFSET;
        let set = self.memory().set_bits(status, LGUEST_DEVICE_S_REMOVED);
        set.expect("every Guest has a descriptor page");
        // A dead Guest needs no interrupt.
        let _ = self.guest.irq(slot.place.irq);
    }

    /// Whether the driver of a removed device has acknowledged. Then the device
    /// is dropped, with its file and the file's lock. Until then a disk may
    /// still be busy for a Guest that relies on it.
    #[must_use]
    pub fn is_let_go(&self, index: usize) -> bool {
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        let status = self.descriptor(index).map_or(0, |d| d.status);
        let let_go = slot.removed.load(Ordering::SeqCst)
            && status & LGUEST_DEVICE_S_REMOVED_ACK != 0;
        if let_go {
            slot.device.lock().take();
        }
        let_go
    }

    /// The present descriptor at `index`.
    #[must_use]
    pub fn descriptor(&self, index: usize) -> Option<DeviceDescriptor> {
        let place = self.slots.get(index)?.place;
        let memory = self.memory();
        memory.read_object(descriptor(memory, place.index)).ok()
    }

    /// The state of the bus and of all devices. The Guest must stand still. Its
    /// memory and its interrupts are saved afterwards, because disks finish
    /// their requests first. May block.
    #[must_use]
    pub fn state(&self) -> Versioned<BusState> {
        let state = |slot: &Slot| SlotState {
            removed: slot.removed.load(Ordering::SeqCst),
            device: slot.device.state(),
        };
        let slots = self.slots.iter().map(state).collect();
        BusState { slots }.versioned()
    }

    /// Goes on with `state`, which was taken of a bus with the same devices. To
    /// be called once at most, before the Guest runs.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then the bus cannot be used any more.
    pub fn restore(
        &self,
        state: &Versioned<BusState>,
    ) -> Result<(), RestoreError> {
        let BusState { slots } = state.known()?;
        same_number(slots.len(), self.slots.len())?;
        for (slot, saved) in self.slots.iter().zip(slots) {
            slot.device.restore(saved.device.as_ref())?;
            slot.removed.store(saved.removed, Ordering::SeqCst);
        }
        Ok(())
    }

    fn memory(&self) -> &GuestMemory {
        self.guest.memory()
    }
}

impl Transport for Bus {
    /// A key without a device is no error, because its owner may have left a
    /// network. The list then stays as it is.
    fn send(&self, dma: u32, key: u32) -> Result<bool, Violation> {
        let Some(slot) = self.slots.iter().find(|slot| slot.has(key)) else {
            return Ok(false);
        };
        let mut sent = super::Sent::default();
        if !slot.removed.load(Ordering::SeqCst)
            && let Some(device) = slot.device.lock().as_mut()
        {
            sent = device.send(dma, key)?;
        }
        if let Some(rest) = sent.rest {
            rest();
        }
        answer(self.memory(), dma, sent.bytes).map_err(Violation::of)?;
        Ok(true)
    }

    fn notify(&self, address: u32) -> Result<Notified, Violation> {
        let text = format!("NOTIFY of {address:#x}, which its interface lacks");
        Err(Violation(text))
    }

    fn handle_input(&self, index: usize) -> Result<Readiness, Violation> {
        let Some(slot) = self.slots.get(index) else {
            return Ok(Readiness::Closed);
        };
        if slot.removed.load(Ordering::SeqCst) {
            return Ok(Readiness::Closed);
        }
        slot.device.handle_input()
    }

    fn inputs(&self) -> io::Result<Vec<(usize, OwnedFd)>> {
        inputs(self.slots.iter().map(|slot| &slot.device))
    }

    fn shared_pages(&self) -> io::Result<Vec<SharedPage>> {
        let mut pages = Vec::new();
        for slot in &self.slots {
            let device = slot.device.lock();
            if let Some(files) = device.as_ref().and_then(|d| d.shared_page()) {
                pages.push(SharedPage {
                    pfn: slot.place.page >> PAGE_SHIFT,
                    file: files.page.try_clone_to_owned()?,
                    outbox: files.outbox.try_clone_to_owned()?,
                });
            }
        }
        Ok(pages)
    }

    fn buffers_changed(&self) {
        for slot in &self.slots {
            // Only network devices use this, and it happens often.
            if slot.kind == LGUEST_DEVICE_T_NET
                && let Some(device) = slot.device.lock().as_mut()
            {
                device.buffers_changed();
            }
        }
    }

    /// The descriptor says so, too. A disk answers further requests with
    /// errors, because the drivers of Linux do not look at the descriptor.
    fn detach(&self, kind: &str, nth: usize) -> Option<usize> {
        let names = self.slots.iter().map(|slot| name(slot.kind));
        let index = find_nth(names, kind, nth)?;
        let slot = self.slots.get(index)?;
        slot.device.detach().then(|| {
            self.say_removed(slot);
            index
        })
    }

    fn damage(&self) -> Option<String> {
        let damage = |slot: &Slot| slot.device.try_with(|d| d.damage());
        self.slots.iter().find_map(damage)
    }

    fn counters(&self) -> Vec<(&'static str, NamedCounts)> {
        let counts = |slot: &Slot| (name(slot.kind), slot.device.counters());
        self.slots.iter().map(counts).collect()
    }

    fn state(&self) -> TransportState {
        TransportState::of(&Self::state(self))
    }

    fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        Self::restore(self, &state.read()?)
    }

    fn finish(&self) -> Vec<(&'static str, NamedCounts)> {
        let end = |slot: &Slot| (name(slot.kind), slot.device.finish());
        self.slots.iter().map(end).collect()
    }
}

/// The state of a bus. The descriptors are in the Guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusState {
    slots: Vec<SlotState>,
}

impl Saved for BusState {
    const DEVICE: &'static str = "bus";
    const VERSION: u32 = 1;
}

/// The state of one device on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SlotState {
    /// It has been taken away from the Guest.
    removed: bool,
    /// `None` after its driver has acknowledged the removal.
    device: Option<DeviceState>,
}

impl Slot {
    /// Whether output to `key` is for this device.
    fn has(&self, key: u32) -> bool {
        if self.pages == 0 {
            return self.kind == LGUEST_DEVICE_T_CONSOLE
                && key == LGUEST_CONSOLE_DMA_KEY;
        }
        let page = key.wrapping_sub(self.place.page) >> PAGE_SHIFT;
        key >= self.place.page && page < self.pages
    }
}

/// The name of a type of device, for `--stats`.
fn name(kind: u16) -> &'static str {
    match kind {
        LGUEST_DEVICE_T_CONSOLE => "console",
        LGUEST_DEVICE_T_NET => "net",
        LGUEST_DEVICE_T_BLOCK => "block",
        _ => "unknown",
    }
}

/// The physical address of descriptor `index`.
fn descriptor(memory: &GuestMemory, index: u8) -> u32 {
    memory.ram() + u32::from(index) * DeviceDescriptor::SIZE
}

#[cfg(test)]
mod tests;
