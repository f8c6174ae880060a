//! A small Guest for devices, without an engine that runs it.
//!
//! Its memory is a few pages, so that the addresses of an input often overlap.
//! The engine is the scripted one of the Launcher's own tests.

use crate::input::Input;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use lguest::engine::{Requests, Scripted};
use lguest::memory::GuestMemory;
use std::fs::File;
use std::sync::Arc;

/// Pages of RAM, and above them.
pub const RAM_PAGES: u32 = 6;

/// The descriptor page, and one page of a device.
pub const DEVICE_PAGES: u32 = 2;

/// The device's page.
pub const PAGE: u32 = (RAM_PAGES + 1) * PAGE_SIZE;

/// All bytes of memory.
pub const LIMIT: u32 = (RAM_PAGES + DEVICE_PAGES) * PAGE_SIZE;

/// A Guest that runs nothing, with zeroed memory and nothing bound.
///
/// # Panics
///
/// If this machine has no memory.
#[must_use]
pub fn guest() -> Arc<Scripted> {
    let memory = GuestMemory::new(RAM_PAGES * PAGE_SIZE, DEVICE_PAGES);
    Scripted::new(memory.expect("a few pages can be had"))
}

/// All of the memory.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn image(guest: &Scripted) -> Vec<u8> {
    let mut bytes = vec![0; LIMIT as usize];
    let read = guest.memory().read(0, &mut bytes);
    read.expect("it is there");
    bytes
}

/// Whether a list at this address is not wholly in memory, which ends the
/// Guest.
#[must_use]
pub fn is_beyond(addr: u32) -> bool {
    u64::from(addr) + u64::from(Dma::SIZE) > u64::from(LIMIT)
}

/// An address with a meaning in this memory, or any address.
pub fn address(input: &mut Input<'_>) -> u32 {
    input.one_of(&[
        0,
        0x100,
        0x1000,
        0x1FF0,
        0x2000,
        PAGE,
        LIMIT - PAGE_SIZE,
        LIMIT - 100,
        LIMIT,
        u32::MAX,
    ])
}

/// A list of sections. Some of them may be good.
pub fn list(input: &mut Input<'_>) -> Dma {
    let mut dma = Dma {
        used_len: u32::from(input.byte() == 0xFF),
        ..Dma::default()
    };
    // Long lists are seldom good.
    let count = match input.byte() {
        n @ 0..192 => usize::from(n % 5),
        n => usize::from(n % 17),
    };
    for i in 0..count {
        dma.addr[i] = address(input);
        let left = PAGE_SIZE - dma.addr[i] % PAGE_SIZE;
        let len = match input.byte() {
            // Inside its page, if there is one.
            n @ 0..160 => left.min(4 * u32::from(n)),
            n @ 160..208 => 512 * u32::from(n % 9),
            // To the end of its page, or a little less or more.
            n @ 208..240 => (left + u32::from(n - 208)).saturating_sub(16),
            _ => u32::from(input.half()),
        };
        dma.len[i] = u16::try_from(len).unwrap_or(u16::MAX);
    }
    dma
}

/// Whether a transfer may follow the list: each section inside one page that
/// exists.
#[must_use]
pub fn is_good(dma: &Dma) -> bool {
    dma.sections().all(|(addr, len)| {
        let (addr, len) = (u64::from(addr), u64::from(len));
        let page = u64::from(PAGE_SIZE);
        addr % page + len <= page && addr + len <= u64::from(LIMIT)
    })
}

/// A file in memory, with these bytes.
///
/// # Panics
///
/// If this machine has no memory.
#[must_use]
pub fn file(bytes: &[u8]) -> File {
    use std::io::Write;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("fuzz", flags);
    let mut file = File::from(file.expect("files can be had"));
    file.write_all(bytes).expect("memory can be had");
    file
}
