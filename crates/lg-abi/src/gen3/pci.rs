//! The PCI bus: configuration mechanism 1, and the space of a virtio device.
//!
//! Bus 0 has the host bridge in slot 0 and a device in each slot from 1 on.
//! The slot of a device is also its interrupt. A device has one range of memory
//! (BAR 0), and its capabilities say where in it the groups of registers are
//! ([`registers`]; virtio 1.0, section 4.1; docs/abi.md, section 10).

use super::registers;
use crate::page::PAGE_SIZE;

/// The most devices: one for each interrupt that a kernel without an I/O APIC
/// has beside the timer.
pub const MAX_DEVICES: usize = 15;

/// Addresses between the end of memory and the first device.
const GAP: u32 = 1 << 20;

/// Where the registers of device `index` are after a reset, in a Guest whose
/// memory ends at `limit`: each device has a page of its own.
#[must_use]
pub const fn first_place(limit: u32, index: u32) -> u32 {
    let first = limit.saturating_add(GAP);
    first.wrapping_add(index.wrapping_mul(PAGE_SIZE))
}

/// The port of the address register, and that of the data.
pub const ADDRESS_PORT: u32 = 0xCF8;
/// See [`ADDRESS_PORT`].
pub const DATA_PORT: u32 = 0xCFC;

/// In the address register: data accesses go to the configuration space.
pub const ENABLE: u32 = 1 << 31;

/// Words of a configuration space that mean something. Those behind read as
/// ones.
pub const WORDS: usize = 0x98 / 4;

/// Offsets in a configuration space.
pub mod offset {
    /// Vendor and device.
    pub const IDS: u32 = 0x00;
    /// Command and status.
    pub const COMMAND: u32 = 0x04;
    /// Revision and class.
    pub const CLASS: u32 = 0x08;
    /// Line of the cache, latency, type of this header.
    pub const HEADER: u32 = 0x0C;
    /// The first of six ranges, [`BAR_0`] to 5.
    pub const BAR_0: u32 = 0x10;
    /// The last one.
    pub const BAR_5: u32 = 0x24;
    /// Vendor and device of the board.
    pub const SUBSYSTEM: u32 = 0x2C;
    /// The range of a ROM, of which there is none.
    pub const ROM: u32 = 0x30;
    /// Where the first capability is.
    pub const CAPABILITIES: u32 = 0x34;
    /// The interrupt.
    pub const INTERRUPT: u32 = 0x3C;
    /// The first capability: the common registers.
    pub const COMMON: u32 = 0x40;
    /// Where the driver notifies.
    pub const NOTIFY: u32 = 0x50;
    /// The interrupt's reason.
    pub const ISR: u32 = 0x64;
    /// Registers that depend on the type of the device.
    pub const DEVICE: u32 = 0x74;
    /// The window through which BAR 0 can be reached without being mapped.
    pub const WINDOW: u32 = 0x84;
    /// The window: which BAR.
    pub const WINDOW_BAR: u32 = 0x88;
    /// Where in it.
    pub const WINDOW_OFFSET: u32 = 0x8C;
    /// How many bytes: 1, 2 or 4.
    pub const WINDOW_LENGTH: u32 = 0x90;
    /// The bytes.
    pub const WINDOW_DATA: u32 = 0x94;
}

/// Vendor of every virtio device, and the device number of type 0.
const VENDOR: u32 = 0x1AF4;
const FIRST_DEVICE: u32 = 0x1040;

/// In the status: there are capabilities.
const HAS_CAPABILITIES: u32 = 0x10 << 16;

/// The class of the host bridge.
pub const BRIDGE_CLASS: u32 = 0x0600 << 16;

/// The class (upper half) of each type of device.
const fn class(kind: u8) -> u32 {
    use crate::gen2::device::{TYPE_BLOCK, TYPE_CONSOLE, TYPE_NET};
    match kind {
        TYPE_CONSOLE => 0x0700,
        TYPE_BLOCK => 0x0180,
        TYPE_NET => 0x0200,
        _ => 0xFF00,
    }
}

/// What the Launcher says of a device: its type in the low byte, and in the
/// next one the bytes of the registers that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its type, as virtio numbers them.
    pub kind: u8,
    /// Bytes of the registers that depend on its type.
    pub config_bytes: u8,
}

impl Device {
    /// As a word.
    #[must_use]
    pub const fn word(self) -> u32 {
        u32::from_le_bytes([self.kind, self.config_bytes, 0, 0])
    }

    /// From a word.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        let [kind, config_bytes, ..] = word.to_le_bytes();
        Self { kind, config_bytes }
    }

    /// Bytes of its range of memory, a power of two.
    #[must_use]
    pub const fn bar_bytes(self) -> u32 {
        (registers::DEVICE + self.config_bytes as u32).next_power_of_two()
    }

    /// Its configuration space after a reset, in slot `slot`, with its range of
    /// memory at `bar`.
    #[must_use]
    pub const fn space(self, slot: u32, bar: u32) -> [u32; WORDS] {
        let mut words = [0; WORDS];
        let kind = self.kind as u32;
        put(
            &mut words,
            offset::IDS,
            (FIRST_DEVICE + kind) << 16 | VENDOR,
        );
        put(&mut words, offset::COMMAND, HAS_CAPABILITIES);
        put(&mut words, offset::CLASS, class(self.kind) << 16 | 1);
        put(&mut words, offset::BAR_0, bar);
        put(&mut words, offset::SUBSYSTEM, 0x40 << 16);
        put(&mut words, offset::CAPABILITIES, offset::COMMON);
        put(&mut words, offset::INTERRUPT, slot);
        capability(
            &mut words,
            [offset::COMMON, offset::NOTIFY, 0x10, 1],
            [registers::COMMON, registers::COMMON_BYTES],
        );
        capability(
            &mut words,
            [offset::NOTIFY, offset::ISR, 0x14, 2],
            [registers::NOTIFY, 2],
        );
        capability(
            &mut words,
            [offset::ISR, offset::WINDOW, 0x10, 3],
            [registers::ISR, 1],
        );
        let config = self.config_bytes as u32;
        let has_config = config != 0;
        let next = if has_config { offset::DEVICE } else { 0 };
        capability(&mut words, [offset::WINDOW, next, 0x14, 5], [0, 0]);
        if has_config {
            capability(
                &mut words,
                [offset::DEVICE, 0, 0x10, 4],
                [registers::DEVICE, config],
            );
        }
        words
    }
}

const fn put(words: &mut [u32; WORDS], at: u32, value: u32) {
    words[at as usize / 4] = value;
}

/// A capability of virtio in BAR 0: where it is, where the next one is, its
/// bytes and its type; and which bytes of the BAR it names.
const fn capability(
    words: &mut [u32; WORDS],
    [at, next, bytes, kind]: [u32; 4],
    [offset, length]: [u32; 2],
) {
    /// A capability whose form its vendor chose.
    const VENDORS: u32 = 9;
    put(words, at, VENDORS | next << 8 | bytes << 16 | kind << 24);
    put(words, at + 8, offset);
    put(words, at + 12, length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gen2::device::{TYPE_CONSOLE, TYPE_RANDOM};

    const fn word(words: &[u32; WORDS], at: u32) -> u32 {
        words[at as usize / 4]
    }

    /// The types of capabilities from the first to the last.
    fn kinds(space: &[u32; WORDS]) -> ([u32; 5], usize) {
        let mut kinds = [0; 5];
        let mut count = 0;
        let mut at = word(space, offset::CAPABILITIES);
        while at != 0 {
            let head = word(space, at);
            assert_eq!(head & 0xFF, 9);
            kinds[count] = head >> 24;
            count += 1;
            at = head >> 8 & 0xFF;
        }
        (kinds, count)
    }

    #[test]
    fn a_driver_finds_all_groups_of_registers() {
        let console = Device {
            kind: TYPE_CONSOLE,
            config_bytes: 12,
        };
        assert_eq!(Device::from_word(console.word()), console);
        assert_eq!(console.bar_bytes(), 128);
        let space = console.space(1, 0x410_0000);
        assert_eq!(word(&space, offset::IDS), 0x1043_1AF4);
        assert_eq!(word(&space, offset::CLASS), 0x0700_0001);
        assert_eq!(word(&space, offset::BAR_0), 0x410_0000);
        assert_eq!(word(&space, offset::INTERRUPT), 1);
        assert_eq!(kinds(&space), ([1, 2, 3, 5, 4], 5));
        assert_eq!(word(&space, offset::DEVICE + 8), registers::DEVICE);
        assert_eq!(word(&space, offset::DEVICE + 12), 12);
    }

    #[test]
    fn a_device_without_registers_of_its_own_has_no_capability_for_them() {
        let random = Device {
            kind: TYPE_RANDOM,
            config_bytes: 0,
        };
        assert_eq!(random.bar_bytes(), 64);
        let space = random.space(2, 0);
        assert_eq!(kinds(&space), ([1, 2, 3, 5, 0], 4));
        assert_eq!(word(&space, offset::CLASS), 0xFF00_0001);
    }
}
