//! Lesson 2: what the Launcher has put into the guest's memory.
//!
//! Page 0 has the boot parameters, page 1 the command line. Both are plain
//! memory, seen at PAGE_OFFSET.

#![no_std]
#![expect(unsafe_code, reason = "memory that the Launcher has written")]

pub mod console;
pub mod exercise;
mod memory_functions;

use lesson01::PAGE_OFFSET;

/// Offsets in the page of boot parameters, from Linux.
const MAP_ENTRIES: u32 = 0x1E8;
const COMMAND_LINE: u32 = 0x228;
const MAP: u32 = 0x2D0;

/// The word at a physical address in the first two pages.
fn word(physical: u32) -> u32 {
    assert!(physical % 4 == 0 && physical < 0x2000);
    let at = (PAGE_OFFSET + physical) as *const u32;
    // SAFETY: the Launcher has mapped all memory there, and written these pages
    // before this kernel began. Nothing writes there now.
    unsafe { at.read() }
}

/// An entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first physical address.
    pub start: u32,
    /// Its bytes.
    pub size: u32,
    /// Whether it is memory that a kernel may use.
    pub is_usable: bool,
}

/// The memory map. It may have 128 entries; this machine's has one.
pub fn map() -> impl Iterator<Item = Range> {
    let entries = word(MAP_ENTRIES) & 0xFF; // it is a byte
    // An entry has 20 bytes: two words of address, two of size, and the kind.
    (0..entries.min(128)).map(|n| Range {
        start: word(MAP + n * 20),
        size: word(MAP + n * 20 + 8),
        is_usable: word(MAP + n * 20 + 16) == 1,
    })
}

/// Bytes of memory.
pub fn memory() -> u32 {
    let usable = map().filter(|range| range.is_usable);
    usable.map(|range| range.size).sum()
}

/// The command line, up to its first byte that is not text.
pub fn command_line() -> &'static str {
    let at = (PAGE_OFFSET + word(COMMAND_LINE)) as *const u8;
    // SAFETY: it has a page of its own, which is as `word` says.
    let page = unsafe { core::slice::from_raw_parts(at, 4096) };
    let text = page.split(|&byte| byte == 0).next().unwrap_or(page);
    match core::str::from_utf8(text) {
        Ok(text) => text,
        Err(bad) => {
            core::str::from_utf8(&text[..bad.valid_up_to()]).unwrap_or_default()
        }
    }
}
