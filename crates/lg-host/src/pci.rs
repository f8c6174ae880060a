//! The Guest's PCI bus, as far as the Host answers for it.
//!
//! The Host keeps the configuration space of each device and answers accesses
//! to it, so that the many accesses at boot cost no trip to the Launcher. It
//! also answers why there was an interrupt, which a driver asks each time. The
//! other registers of a device are the Launcher's.

use crate::address::{GuestPhys, as_word};
use crate::host::Host;
use crate::kill::Kill;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use lg_abi::gen3::pci::{
    ADDRESS_PORT, BRIDGE_CLASS, DATA_PORT, Device, ENABLE, MAX_DEVICES, WORDS,
    first_place, offset,
};
use lg_abi::gen3::registers::{ISR, ISR_CONFIG, ISR_QUEUE, NOTIFY};
use lg_abi::page::PAGE_SIZE;
use lg_wire::state::ViewSetup;

/// Bits of a command that a driver may set: memory, bus master, no interrupt.
const COMMAND_BITS: u32 = 0x406;

/// The number of the one queue of a disk.
const QUEUE_OF_A_DISK: u32 = 0;

/// The bus. Zero means that there is none.
#[repr(C)]
pub struct Pci {
    /// The address register of configuration mechanism 1.
    address: Cell<u32>,
    /// How many devices there are.
    count: Cell<u32>,
    /// Interrupts that were delivered, and whose reason was not read since: a
    /// bit each.
    delivered: Cell<u32>,
    /// The devices.
    devices: [Cell<u32>; MAX_DEVICES],
    /// Their configuration spaces.
    spaces: [[Cell<u32>; WORDS]; MAX_DEVICES],
}

impl Pci {
    /// Fills in the devices of `setup`, each of which has a page of addresses
    /// of its own.
    pub fn begin(&self, setup: &ViewSetup) {
        let count = as_word(MAX_DEVICES).min(setup.device_count);
        self.count.set(count);
        let devices = self.devices.iter().zip(&self.spaces).zip(0..count);
        for ((device, space), index) in devices {
            let word = setup.devices[index as usize];
            device.set(word);
            let bar = first_place(setup.limit, index);
            let words = Device::from_word(word).space(index + 1, bar);
            for (cell, word) in space.iter().zip(words) {
                cell.set(word);
            }
        }
    }

    /// One more than the last address of a device; 0 if there is none.
    #[must_use]
    pub fn end(setup: &ViewSetup) -> u32 {
        let count = as_word(MAX_DEVICES).min(setup.device_count);
        match count {
            0 => 0,
            _ => first_place(setup.limit, 0).saturating_add(count * PAGE_SIZE),
        }
    }

    /// Whether there is a bus.
    pub(crate) fn exists(&self) -> bool {
        self.count.get() != 0
    }

    /// Interrupt `irq` was delivered.
    pub(crate) fn note_delivered(&self, irq: u32) {
        self.delivered.set(self.delivered.get() | 1 << irq);
    }

    /// The device with number `index`.
    fn device(&self, index: u32) -> Device {
        Device::from_word(self.devices[index as usize].get())
    }

    /// The word at `at` of the configuration space of device `index`.
    fn word(&self, index: u32, at: u32) -> &Cell<u32> {
        &self.spaces[index as usize][at as usize / 4]
    }

    /// The device whose BAR has `address`, and where in it that is.
    fn find(&self, address: GuestPhys) -> Option<(u32, u32)> {
        (0..self.count.get()).find_map(|index| {
            let bar = self.word(index, offset::BAR_0).get();
            let at = address.0.wrapping_sub(bar);
            (at < self.device(index).bar_bytes()).then_some((index, at))
        })
    }

    /// The device and the word that the address register names: `None` where
    /// there is none. The host bridge has no number.
    fn selected(&self) -> Option<(Slot, u32)> {
        let address = self.address.get();
        let (bus, slot) = (address >> 16 & 0xFF, address >> 11 & 0x1F);
        let function = address >> 8 & 7;
        if address & ENABLE == 0 || bus != 0 || function != 0 {
            return None;
        }
        let slot = match slot.checked_sub(1) {
            None => Slot::Bridge,
            Some(index) if index < self.count.get() => Slot::Device(index),
            Some(_) => return None,
        };
        Some((slot, address & 0xFC))
    }
}

/// What is in a slot.
#[derive(Clone, Copy)]
enum Slot {
    Bridge,
    Device(u32),
}

/// All bits of `bytes` bytes.
pub(crate) const fn mask(bytes: u32) -> u32 {
    if bytes >= 4 {
        u32::MAX
    } else {
        (1 << (8 * bytes)) - 1
    }
}

/// `word` with `bytes` bytes from byte `at` on replaced by those of `value`.
const fn replaced(word: u32, at: u32, bytes: u32, value: u32) -> u32 {
    let mask = mask(bytes) << (8 * at);
    word & !mask | value << (8 * at) & mask
}

/// Where `bytes` bytes from `port` on are in the register at `register`, if
/// they all are.
fn in_register(port: u32, bytes: u32, register: u32) -> Option<u32> {
    let at = port.wrapping_sub(register);
    (at < 4 && at + bytes <= 4).then_some(at)
}

impl Host<'_> {
    /// What `in` reads at a port: `None` where no port is.
    pub(crate) fn read_pci_port(
        &mut self,
        port: u32,
        bytes: u32,
    ) -> Result<Option<u32>, Kill> {
        if let Some(at) = in_register(port, bytes, ADDRESS_PORT) {
            return Ok(Some(self.vm.pci.address.get() >> (8 * at)));
        }
        let Some(at) = in_register(port, bytes, DATA_PORT) else {
            return Ok(None);
        };
        let pci = &self.vm.pci;
        let Some((slot, word)) = pci.selected() else {
            return Ok(Some(u32::MAX));
        };
        let value = match slot {
            Slot::Bridge if word == offset::CLASS => BRIDGE_CLASS,
            Slot::Bridge => 0,
            Slot::Device(index) if word == offset::WINDOW_DATA => {
                self.read_window(index)?
            }
            Slot::Device(_) if word as usize / 4 >= WORDS => u32::MAX,
            Slot::Device(index) => pci.word(index, word).get(),
        };
        Ok(Some(value >> (8 * at)))
    }

    /// What `out` does at a port. Returns whether there is one.
    pub(crate) fn write_pci_port(
        &mut self,
        port: u32,
        bytes: u32,
        value: u32,
    ) -> Result<bool, Kill> {
        if let Some(at) = in_register(port, bytes, ADDRESS_PORT) {
            let address = &self.vm.pci.address;
            address.set(replaced(address.get(), at, bytes, value));
            return Ok(true);
        }
        let Some(at) = in_register(port, bytes, DATA_PORT) else {
            return Ok(false);
        };
        if let Some((Slot::Device(index), word)) = self.vm.pci.selected()
            && (word as usize) < WORDS * 4
        {
            if word == offset::WINDOW_DATA {
                self.write_window(index, value)?;
            } else {
                self.write_space(index, word, [at, bytes, value]);
            }
        }
        Ok(true)
    }

    /// Writes to a configuration space: `value` replaces so many bytes, from
    /// byte `at` of the word on. Only some bits of it can be written.
    fn write_space(&self, index: u32, word: u32, [at, bytes, value]: [u32; 3]) {
        let pci = &self.vm.pci;
        let writable = match word {
            offset::COMMAND => COMMAND_BITS,
            offset::HEADER => 0xFFFF,
            offset::BAR_0 => !(pci.device(index).bar_bytes() - 1),
            offset::INTERRUPT | offset::WINDOW_BAR => 0xFF,
            offset::WINDOW_OFFSET | offset::WINDOW_LENGTH => u32::MAX,
            _ => 0,
        };
        let cell = pci.word(index, word);
        let new = replaced(cell.get(), at, bytes, value);
        cell.set(cell.get() & !writable | new & writable);
    }

    /// What the window of device `index` shows: offset and bytes, if the window
    /// is one that exists.
    fn window(&self, index: u32) -> Option<(u32, u32)> {
        let word = |at| self.vm.pci.word(index, at).get();
        let bytes = word(offset::WINDOW_LENGTH);
        let at = word(offset::WINDOW_OFFSET);
        let good = word(offset::WINDOW_BAR) & 0xFF == 0
            && matches!(bytes, 1 | 2 | 4)
            && at.is_multiple_of(bytes);
        good.then_some((at, bytes))
    }

    fn read_window(&mut self, index: u32) -> Result<u32, Kill> {
        match self.window(index) {
            Some((at, bytes)) => self.read_bar(index, at, bytes),
            None => Ok(0),
        }
    }

    fn write_window(&mut self, index: u32, value: u32) -> Result<(), Kill> {
        match self.window(index) {
            Some((at, bytes)) => self.write_bar(index, at, bytes, value),
            None => Ok(()),
        }
    }

    /// Reads `bytes` at an address behind the memory.
    pub(crate) fn read_device(
        &mut self,
        address: GuestPhys,
        bytes: u32,
    ) -> Result<u32, Kill> {
        match self.vm.pci.find(address) {
            Some((index, at)) => self.read_bar(index, at, bytes),
            None => Ok(u32::MAX),
        }
    }

    /// Writes there.
    pub(crate) fn write_device(
        &mut self,
        address: GuestPhys,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill> {
        match self.vm.pci.find(address) {
            Some((index, at)) => self.write_bar(index, at, bytes, value),
            None => Ok(()),
        }
    }

    fn read_bar(
        &mut self,
        index: u32,
        at: u32,
        bytes: u32,
    ) -> Result<u32, Kill> {
        self.vm.counters.device_accesses.count();
        if !self.is_in_bar(index, at, bytes) {
            return Ok(u32::MAX);
        }
        if at == ISR {
            return Ok(self.read_reason(index));
        }
        self.vm.counters.device_requests.count();
        self.world.read_device(index, at, bytes)
    }

    fn write_bar(
        &mut self,
        index: u32,
        at: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill> {
        self.vm.counters.device_accesses.count();
        if !self.is_in_bar(index, at, bytes) {
            return Ok(());
        }
        let value = value & mask(bytes);
        let notifies = at == NOTIFY && value == QUEUE_OF_A_DISK;
        if notifies && self.answer_reads(|ring| ring.irq == index + 1) {
            return Ok(());
        }
        self.vm.counters.device_requests.count();
        self.world.write_device(index, at, bytes, value)
    }

    fn is_in_bar(&self, index: u32, at: u32, bytes: u32) -> bool {
        let end = self.vm.pci.device(index).bar_bytes();
        at < end && bytes <= end - at
    }

    /// Why device `index` has interrupted. An interrupt that was delivered, or
    /// that waits, means that a queue has something. One that waits is
    /// delivered later nevertheless.
    fn read_reason(&self, index: u32) -> u32 {
        let bit = 1 << (index + 1);
        let pci = &self.vm.pci;
        let delivered = pci.delivered.get();
        pci.delivered.set(delivered & !bit);
        let waits = self.vm.wire.irqs.load(Ordering::SeqCst);
        let changes = &self.vm.wire.config_changes;
        let changed = changes.fetch_and(!bit, Ordering::SeqCst) & bit != 0;
        let mut reason = 0;
        if (delivered | waits) & bit != 0 {
            reason |= ISR_QUEUE;
        }
        if changed {
            reason |= ISR_CONFIG;
        }
        reason
    }
}

#[cfg(test)]
pub(crate) mod tests;
