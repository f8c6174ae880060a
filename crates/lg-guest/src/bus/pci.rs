//! The PCI bus of Linux 4.0 to 4.13, and its virtio 1.0 devices.
//!
//! Bus 0 has a device in each slot from 1 on. Its configuration space is
//! reached by two ports, and its registers are in the page that BAR 0 names
//! (virtio 1.0, section 4.1). The Guest puts the rings of its queues into its
//! own memory.
//!
//! Before there is a driver, text is printed by the window in the configuration
//! space of the console, which is always in slot 1.

#![expect(unsafe_code, reason = "ports, and registers of devices")]

use super::{Device, DeviceError, Kind};
use crate::frame::{self, Phys};
use crate::one_cpu::OneCpu;
use crate::paging;
use crate::virtqueue::{self, Described, Doorbell};
use alloc::vec::Vec;
use core::arch::asm;
use lg_abi::gen3::pci::{ADDRESS_PORT, DATA_PORT, ENABLE, MAX_DEVICES, offset};
use lg_abi::gen3::registers::{
    DEVICE, EMERGENCY_WRITE, FEATURE_VERSION_1, NOTIFY, STATUS_FEATURES_OK,
    common,
};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};

/// The slot of the console.
const CONSOLE: u8 = 1;

/// A register of a device. It stays mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register(*mut u8);

impl Register {
    /// Writes 16 bits.
    pub(crate) fn put(self, value: u16) {
        // SAFETY: `Place::register` has made it, so it is in a page of a device
        // that stays mapped. The Host carries out one `mov`.
        unsafe {
            asm!("mov [{at}], {value:x}", at = in(reg) self.0,
                value = in(reg) value, options(nostack, preserves_flags));
        }
    }

    fn put_byte(self, value: u8) {
        // SAFETY: as in `put`.
        unsafe {
            asm!("mov [{at}], {value}", at = in(reg) self.0,
                value = in(reg_byte) value, options(nostack, preserves_flags));
        }
    }

    fn put_word(self, value: u32) {
        // SAFETY: as in `put`.
        unsafe {
            asm!("mov [{at}], {value:e}", at = in(reg) self.0,
                value = in(reg) value, options(nostack, preserves_flags));
        }
    }

    fn byte(self) -> u8 {
        let value;
        // SAFETY: as in `put`.
        unsafe {
            asm!("mov {value}, [{at}]", at = in(reg) self.0,
                value = out(reg_byte) value, options(nostack, preserves_flags));
        }
        value
    }

    fn half(self) -> u16 {
        let value: u16;
        // SAFETY: as in `put`.
        unsafe {
            asm!("mov {value:x}, [{at}]", at = in(reg) self.0,
                value = out(reg) value, options(nostack, preserves_flags));
        }
        value
    }

    fn word(self) -> u32 {
        let value;
        // SAFETY: as in `put`.
        unsafe {
            asm!("mov {value:e}, [{at}]", at = in(reg) self.0,
                value = out(reg) value, options(nostack, preserves_flags));
        }
        value
    }
}

/// A device: its slot, what it is, and where its registers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    kind: u8,
    irq: u8,
    bar: u32,
    mapped: *mut u8,
    /// Bytes of the registers that depend on its type.
    config_bytes: u32,
}

/// The devices, once they were looked for.
static FOUND: OneCpu<Option<Vec<Place>>> = OneCpu::new(None);

/// Finds the devices and maps their registers.
pub(super) fn scan() -> Vec<Device> {
    crate::irq::without(|| {
        FOUND.with(|found| {
            let places = found.get_or_insert_with(|| {
                let slots = (1..=MAX_DEVICES).map(|slot| slot.to_le_bytes()[0]);
                slots.map_while(Place::in_slot).collect()
            });
            let devices = (0..).zip(places.iter().copied());
            let device = |(index, place): (u8, Place)| Device {
                index,
                kind: Kind::of_virtio(place.kind),
                place: super::Place::Pci(place),
            };
            devices.map(device).collect()
        })
    })
}

impl Place {
    /// The virtio device in this slot.
    fn in_slot(slot: u8) -> Option<Self> {
        /// Vendor of every virtio device, and the device number of type 0.
        const VENDOR: u32 = 0x1AF4;
        const FIRST_DEVICE: u32 = 0x1040;
        /// Accesses to memory, and by the device.
        const COMMAND: u32 = 6;
        let ids = config(slot, offset::IDS);
        if ids & 0xFFFF != VENDOR {
            return None;
        }
        let kind = (ids >> 16).checked_sub(FIRST_DEVICE)?;
        set_config(slot, offset::COMMAND, COMMAND);
        let bar = config(slot, offset::BAR_0) & !0xF;
        let mapped = paging::map_device(bar >> PAGE_SHIFT, 1)?;
        Some(Self {
            kind: kind.to_le_bytes()[0],
            irq: config(slot, offset::INTERRUPT).to_le_bytes()[0],
            bar,
            mapped: mapped.wrapping_add((bar % PAGE_SIZE) as usize),
            config_bytes: config_bytes(slot),
        })
    }

    fn register(&self, at: u32) -> Register {
        assert!(self.bar % PAGE_SIZE + at <= PAGE_SIZE - 4);
        Register(self.mapped.wrapping_add(at as usize))
    }

    /// The first 32 features that it offers.
    pub(crate) fn features(&self) -> u32 {
        self.register(common::DEVICE_FEATURE_SELECT).put_word(0);
        self.register(common::DEVICE_FEATURE).word()
    }

    /// Accepts those of `wanted` that are offered. Returns them. What was
    /// accepted is final.
    pub(crate) fn accept(&self, wanted: u32) -> u32 {
        let accepted = self.features() & wanted;
        let version = u32::try_from(FEATURE_VERSION_1 >> 32).unwrap_or(0);
        for (select, features) in (0..).zip([accepted, version]) {
            self.register(common::DRIVER_FEATURE_SELECT)
                .put_word(select);
            self.register(common::DRIVER_FEATURE).put_word(features);
        }
        self.set_status(STATUS_FEATURES_OK);
        accepted
    }

    /// A number in the registers that depend on its type, of up to eight bytes.
    pub(crate) fn config(&self, offset: u32, bytes: u32) -> Option<u64> {
        let inside = offset + bytes <= self.config_bytes;
        let bytes = (offset..offset + bytes).rev();
        let byte = |at| self.register(DEVICE + at).byte();
        let number = |n: u64, at| (n << 8) | u64::from(byte(at));
        inside.then(|| bytes.fold(0, number))
    }

    /// Its virtqueue `index`, with a ring in memory of ours.
    pub(crate) fn queue(&self, index: u8) -> Result<Described, DeviceError> {
        if self.status() & STATUS_FEATURES_OK == 0 {
            self.accept(0);
        }
        if self.status() & STATUS_FEATURES_OK == 0 {
            return Err(DeviceError::Failed);
        }
        self.register(common::QUEUE_SELECT).put(index.into());
        let size = self.register(common::QUEUE_SIZE).half();
        let used = self.register(common::QUEUE_ENABLE).half() != 0;
        if size == 0 || used {
            return Err(DeviceError::Failed);
        }
        let ring = frame::alloc_row(virtqueue::pages(size));
        let ring = ring.ok_or(DeviceError::OutOfMemory)?;
        for (at, part) in [
            (common::QUEUE_DESC, 0),
            (common::QUEUE_DRIVER, virtqueue::available(size)),
            (common::QUEUE_DEVICE, virtqueue::used(size)),
        ] {
            self.register(at).put_word(ring.0 + part);
            self.register(at + 4).put_word(0);
        }
        self.register(common::QUEUE_ENABLE).put(1);
        Ok(Described {
            ring,
            size,
            irq: self.irq,
            doorbell: Doorbell::Register(self.register(NOTIFY), index.into()),
        })
    }

    /// Its status, as it is now.
    pub(crate) fn status(&self) -> u8 {
        self.register(common::DEVICE_STATUS).byte()
    }

    /// Sets bits of it.
    pub(crate) fn set_status(&self, bits: u8) {
        let status = self.status() | bits;
        self.register(common::DEVICE_STATUS).put_byte(status);
    }

    /// The interrupt of all its queues.
    pub(crate) fn irq(&self) -> u8 {
        self.irq
    }

    /// Where its registers are.
    pub(crate) fn phys(&self) -> Phys {
        Phys(self.bar)
    }
}

/// Prints before there is a driver.
pub(crate) fn print_early(bytes: &[u8]) {
    for (at, word) in [
        (offset::WINDOW_BAR, 0),
        (offset::WINDOW_OFFSET, DEVICE + EMERGENCY_WRITE),
        (offset::WINDOW_LENGTH, 4),
    ] {
        set_config(CONSOLE, at, word);
    }
    for &byte in bytes {
        set_config(CONSOLE, offset::WINDOW_DATA, byte.into());
    }
}

/// How many bytes the registers have that depend on the type of a device: its
/// last capability says it.
fn config_bytes(slot: u8) -> u32 {
    /// The type of that capability.
    const OF_THE_TYPE: u32 = 4;
    let mut at = config(slot, offset::CAPABILITIES) & 0xFC;
    // No list is longer, and one with a loop ends.
    for _ in 0..16 {
        if at == 0 {
            break;
        }
        let head = config(slot, at);
        if head >> 24 == OF_THE_TYPE {
            return config(slot, at + 12).min(PAGE_SIZE - DEVICE);
        }
        at = (head >> 8) & 0xFC;
    }
    0
}

/// Chooses a word of a configuration space.
fn choose(slot: u8, at: u32) {
    out(ADDRESS_PORT, ENABLE | (u32::from(slot) << 11) | at);
}

/// A word of a configuration space.
fn config(slot: u8, at: u32) -> u32 {
    choose(slot, at);
    let word;
    // SAFETY: the Host carries it out, and it changes no memory.
    unsafe {
        asm!("in eax, dx", in("edx") DATA_PORT, out("eax") word,
            options(nomem, nostack, preserves_flags));
    }
    word
}

/// Writes a word of a configuration space.
fn set_config(slot: u8, at: u32, word: u32) {
    choose(slot, at);
    out(DATA_PORT, word);
}

fn out(port: u32, word: u32) {
    // SAFETY: as in `config`. A device that gets an address this way is one of
    // this Guest.
    unsafe {
        asm!("out dx, eax", in("edx") port, in("eax") word,
            options(nostack, preserves_flags));
    }
}
