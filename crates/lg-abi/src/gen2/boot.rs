//! How a Guest starts since Linux 2.6.25, beyond what a Guest of 2007 finds.
//!
//! The fields of [`gen1::boot::offset`](crate::gen1::boot::offset) are at the
//! same places of the boot parameters. The page itself is elsewhere: esi holds
//! its address (docs/abi.md, section 9).

/// Physical address of the boot parameters. It may be any page from 0x10000 on,
/// if the kernel does not use that page before it has copied them.
pub const PARAMETERS: u32 = 0x9_0000;

/// Physical address of the command line, NUL-terminated: one page at the most.
pub const COMMAND_LINE: u32 = 0x9_1000;

/// Offsets into the boot parameters that generation 1 does not use.
pub mod offset {
    /// u16: version of the boot protocol.
    pub const VERSION: u32 = 0x206;
    /// u8: see [`KEEP_SEGMENTS`](super::KEEP_SEGMENTS).
    pub const LOAD_FLAGS: u32 = 0x211;
    /// u32: how the kernel is aligned in physical memory.
    pub const ALIGNMENT: u32 = 0x230;
}

/// The first version of the protocol with a field for the kind of machine.
pub const PROTOCOL: u16 = 0x207;

/// The entry code leaves segments and descriptors alone.
pub const KEEP_SEGMENTS: u8 = 1 << 6;

/// The usual alignment.
pub const ALIGNMENT: u32 = 0x100_0000;
