//! The selectors that the real processor's segment registers hold.
//!
//! Kernel code runs on the flat segments that Linux has for every process, user
//! code on segments of our own in the local descriptor table. Each of ours has
//! the index that the Guest's segment has in its table.

use lg_abi::segment::{GDT_KERNEL_DS, GDT_USER_CS, GDT_USER_DS};

/// Linux's flat 32-bit code segment (`__USER32_CS`).
pub const REAL_KERNEL_CS: u32 = 0x23;

/// Linux's flat data segment (`__USER_DS`).
pub const REAL_KERNEL_DS: u32 = 0x2B;

/// Linux's 64-bit code segment (`__USER_CS`).
pub const REAL_LONG_CS: u32 = 0x33;

/// Our user code segment: in the LDT, with the index that the Guest's has.
pub const REAL_USER_CS: u32 = ldt(GDT_USER_CS);

/// Our user data segment.
pub const REAL_USER_DS: u32 = ldt(GDT_USER_DS);

/// A data segment that ends where the Switcher's pages begin.
pub const REAL_WIDE_DS: u32 = ldt(GDT_KERNEL_DS);

/// The selector of entry `index` of the local descriptor table, level 3.
#[must_use]
pub const fn ldt(index: u32) -> u32 {
    index << 3 | 7
}

/// A selector without its privilege bits.
pub(crate) const fn without_level(selector: u32) -> u32 {
    selector & 0xFFFC
}

/// Whether the selector loads nothing.
pub(crate) const fn is_null(selector: u32) -> bool {
    without_level(selector) == 0
}
