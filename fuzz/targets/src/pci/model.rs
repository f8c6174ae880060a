//! What a bus does, byte by byte.
//!
//! The Host works with words and masks. The model keeps bytes, and knows from
//! the manuals which of them can be written.

use crate::machine::{DeviceRequest, register};
use lg_abi::gen3::pci::{Device, WORDS};
use lg_abi::page::PAGE_SIZE;

/// Bytes of a configuration space that mean something.
const BYTES: usize = 4 * WORDS;

/// Where in a configuration space the address of the range is, and the window.
const BAR: usize = 0x10;
const WINDOW: usize = 0x88;
const DATA: u32 = 0x94;

/// Where the reason of an interrupt is in a range.
const ISR: u32 = 0x3A;

/// The bus.
pub(super) struct Model {
    address: u32,
    functions: Vec<Function>,
    /// Interrupts that were raised and not delivered.
    pub(super) waiting: u32,
    /// Interrupts that were delivered and whose reason was not read.
    pub(super) delivered: u32,
}

struct Function {
    bar_bytes: u32,
    space: [u8; BYTES],
}

/// All bits of `bytes` bytes.
pub(super) const fn mask(bytes: u32) -> u32 {
    u32::MAX >> (32 - 8 * bytes)
}

impl Model {
    /// The bus with `devices`, the first of them at `first`.
    pub(super) fn new(devices: &[Device], first: u32) -> Self {
        let functions = (1..).zip(devices).map(|(slot, device)| {
            let bar = first + (slot - 1) * PAGE_SIZE;
            let mut space = [0; BYTES];
            let words = device.space(slot, bar);
            for (bytes, word) in space.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            let bar_bytes = device.bar_bytes();
            Function { bar_bytes, space }
        });
        Self {
            address: 0,
            functions: functions.collect(),
            waiting: 0,
            delivered: 0,
        }
    }

    /// The slot and the offset that the address register names.
    fn selected(&self) -> Option<(usize, u32)> {
        let [low, function_and_slot, bus, high] = self.address.to_le_bytes();
        let slot = usize::from(function_and_slot >> 3);
        let named = high & 0x80 != 0 && bus == 0 && function_and_slot & 7 == 0;
        let there = named && slot <= self.functions.len();
        there.then_some((slot, u32::from(low & !3)))
    }

    /// What `bytes` bytes at `port` read as, and what the Launcher is asked.
    pub(super) fn read_port(
        &mut self,
        port: u32,
        bytes: u32,
    ) -> (u32, Option<DeviceRequest>) {
        match port {
            0x42 => (0, None),
            0x64 => (1, None),
            0xCF8..0xCFC if port + bytes <= 0xCFC => {
                (self.address >> (8 * (port - 0xCF8)), None)
            }
            0xCFC..0xD00 if port + bytes <= 0xD00 => {
                let (word, request) = self.read_data();
                (word >> (8 * (port - 0xCFC)), request)
            }
            _ => (u32::MAX, None),
        }
    }

    /// The word that is selected.
    fn read_data(&mut self) -> (u32, Option<DeviceRequest>) {
        let Some((slot, at)) = self.selected() else {
            return (u32::MAX, None);
        };
        let Some(index) = slot.checked_sub(1) else {
            return (if at == 8 { 0x0600_0000 } else { 0 }, None);
        };
        if at == DATA {
            return match self.functions[index].window() {
                Some((at, bytes)) => self.access(index, at, bytes, None),
                None => (0, None),
            };
        }
        let space = &self.functions[index].space;
        (word(space, at as usize).unwrap_or(u32::MAX), None)
    }

    /// Writes to a port. Returns what the Launcher is asked.
    pub(super) fn write_port(
        &mut self,
        port: u32,
        bytes: u32,
        value: u32,
    ) -> Option<DeviceRequest> {
        let value = value.to_le_bytes();
        let value = &value[..bytes as usize];
        match port {
            0xCF8..0xCFC if port + bytes <= 0xCFC => {
                let at = (port - 0xCF8) as usize;
                let mut address = self.address.to_le_bytes();
                address[at..at + value.len()].copy_from_slice(value);
                self.address = u32::from_le_bytes(address);
                None
            }
            0xCFC..0xD00 if port + bytes <= 0xD00 => {
                self.write_data(port - 0xCFC, value)
            }
            _ => None,
        }
    }

    /// Writes to the word that is selected, from byte `from` on.
    fn write_data(&mut self, from: u32, value: &[u8]) -> Option<DeviceRequest> {
        let (slot, at) = self.selected()?;
        let index = slot.checked_sub(1)?;
        let function = &mut self.functions[index];
        if at == DATA {
            let (at, bytes) = function.window()?;
            let mut word = [0; 4];
            word[..value.len()].copy_from_slice(value);
            let value = u32::from_le_bytes(word);
            return self.access(index, at, bytes, Some(value)).1;
        }
        for (at, &new) in ((at + from) as usize..).zip(value) {
            let writable = function.writable(at);
            if let Some(old) = function.space.get_mut(at) {
                *old = *old & !writable | new & writable;
            }
        }
        None
    }

    /// The device whose range has `address`, and where in it that is.
    pub(super) fn at(&self, address: u32) -> Option<(usize, u32)> {
        let mut functions = self.functions.iter().enumerate();
        functions.find_map(|(index, function)| {
            let bar = word(&function.space, BAR)?;
            let at = address.checked_sub(bar)?;
            (at < function.bar_bytes).then_some((index, at))
        })
    }

    /// An access to the range of device `index`. Returns what it reads, and
    /// what the Launcher is asked.
    pub(super) fn access(
        &mut self,
        index: usize,
        offset: u32,
        bytes: u32,
        value: Option<u32>,
    ) -> (u32, Option<DeviceRequest>) {
        let end = self.functions[index].bar_bytes;
        if u64::from(offset) + u64::from(bytes) > u64::from(end) {
            return (mask(bytes), None);
        }
        if offset == ISR && value.is_none() {
            let irq = 2 << index;
            let reason = u32::from((self.waiting | self.delivered) & irq != 0);
            self.delivered &= !irq;
            return (reason, None);
        }
        let request = DeviceRequest {
            device: u32::try_from(index).unwrap_or(u32::MAX),
            offset,
            bytes,
            value: value.map(|value| value & mask(bytes)),
        };
        (register(offset, bytes), Some(request))
    }
}

impl Function {
    /// The bits of the byte at `at` that a driver can change.
    fn writable(&self, at: usize) -> u8 {
        let bar = (!(self.bar_bytes - 1)).to_le_bytes();
        match at {
            0x04 => 0x06,
            0x05 => 0x04,
            0x0C | 0x0D | 0x3C => 0xFF,
            0x10..0x14 => bar[at - 0x10],
            0x88 | 0x8C..0x94 => 0xFF,
            _ => 0,
        }
    }

    /// What the window shows: where, and how many bytes.
    fn window(&self) -> Option<(u32, u32)> {
        let at = word(&self.space, WINDOW + 4)?;
        let bytes = word(&self.space, WINDOW + 8)?;
        let good = self.space[WINDOW] == 0 && [1, 2, 4].contains(&bytes);
        (good && at % bytes == 0).then_some((at, bytes))
    }
}

fn word(space: &[u8], at: usize) -> Option<u32> {
    let bytes = space.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
