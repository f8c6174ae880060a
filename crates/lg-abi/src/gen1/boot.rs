//! How a Guest starts: what lies in memory before its first instruction.
//!
//! Page 0 holds the Linux boot parameters ("zero page") of the 2.6.23
//! generation, page 1 the command line. Only the fields below mean anything;
//! everything else is zero. The first page directory lies just under the
//! initrd, the initrd at the very top of memory (docs/abi.md, section 3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The string that marks an lguest Guest: its entry point is the byte after it.
pub const GUEST_MAGIC: &[u8; 13] = b"GenuineLguest";

/// Physical address of the boot parameters.
pub const BOOT_PARAMETERS: u32 = 0;

/// Physical address of the command line, NUL-terminated.
pub const COMMAND_LINE: u32 = 0x1000;

/// The most bytes that a command line may have, its NUL included: one page.
pub const COMMAND_LINE_MAX: u32 = 0x1000;

/// Offsets into the boot parameters page.
pub mod offset {
    /// u8: how many entries the e820 map has.
    pub const E820_ENTRIES: u32 = 0x1E8;
    /// u8: the boot loader's type; 0xFF says "the initrd fields are valid".
    pub const LOADER_TYPE: u32 = 0x210;
    /// u32: physical address of the initrd.
    pub const INITRD_START: u32 = 0x218;
    /// u32: bytes in the initrd.
    pub const INITRD_SIZE: u32 = 0x21C;
    /// u32: physical address of the command line.
    pub const COMMAND_LINE: u32 = 0x228;
    /// u32: what kind of machine this is; see [`super::SUBARCH_LGUEST`].
    pub const SUBARCH: u32 = 0x23C;
    /// [`super::E820Entry`] array.
    pub const E820_MAP: u32 = 0x2D0;
}

/// The value of [`offset::SUBARCH`] on an lguest machine.
pub const SUBARCH_LGUEST: u32 = 1;

/// The value of [`offset::LOADER_TYPE`] for an unregistered boot loader.
pub const LOADER_UNREGISTERED: u8 = 0xFF;

/// Usable memory, for [`E820Entry::kind`].
pub const E820_RAM: u32 = 1;

/// One entry of the memory map. The 64-bit fields of the C struct are two words
/// here, because an i386 aligns them to 4 bytes and an x86-64 to 8.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct E820Entry {
    /// First physical address, low word first.
    pub addr: [u32; 2],
    /// Bytes, low word first.
    pub size: [u32; 2],
    /// What the memory is: [`E820_RAM`].
    pub kind: u32,
}

const _: () = assert!(size_of::<E820Entry>() == 20);

/// The flags at the start: bit 1 is always set, bit 9 is the interrupt flag.
pub const START_EFLAGS: u32 = 0x202;

/// The flags of the entries in the first page tables: Present, Writable, User.
pub const START_PTE_FLAGS: u32 = 0x7;
