//! The accesses: one instruction each, written in assembly.
//!
//! A plain read through a pointer is a promise to the compiler that nobody
//! else writes there. It may then read twice, and find two different values,
//! where the source reads once. A volatile read has no such freedom, but Rust
//! has none for an address that is not aligned, and a volatile copy is a loop
//! over bytes. So the accesses are assembly: the compiler executes a block of
//! it exactly as often as the source says. On this processor an access of up
//! to eight bytes is one access, aligned or not, though not an atomic one if
//! it crosses a cache line.
//!
//! A copy moves blocks of 64 bytes through four registers, then words. `rep
//! movsb` would be one instruction, but on Zen 4 it takes 50 times as long
//! where the copy begins a few bytes further into its page than the original:
//! 1951 ns and 40 ns for a frame of 1514 bytes that is received at an offset
//! of 2, where Linux wants it.

#![expect(unsafe_code, reason = "accesses to shared memory, in assembly")]

use core::arch::asm;

/// Defines a load and a store of one size.
macro_rules! accesses {
    ($load:ident, $store:ident, $type:ty, $class:ident, $move:literal) => {
        /// Reads the value at `at`, once.
        ///
        /// # Safety
        ///
        /// The bytes are mapped and readable.
        #[inline(always)]
        pub(crate) unsafe fn $load(at: *const u8) -> $type {
            let value: $type;
            // SAFETY: the caller vouches for the bytes; nothing else changes.
            unsafe {
                asm!(
                    concat!("mov ", $move, ", [{at}]"),
                    at = in(reg) at,
                    value = out($class) value,
                    options(nostack, preserves_flags, readonly),
                );
            }
            value
        }

        /// Writes `value` to `at`, once.
        ///
        /// # Safety
        ///
        /// The bytes are mapped and writable, and no Rust value.
        #[inline(always)]
        pub(crate) unsafe fn $store(at: *mut u8, value: $type) {
            // SAFETY: the caller vouches for the bytes.
            unsafe {
                asm!(
                    concat!("mov [{at}], ", $move),
                    at = in(reg) at,
                    value = in($class) value,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

accesses!(load_8, store_8, u8, reg_byte, "{value}");
accesses!(load_16, store_16, u16, reg, "{value:x}");
accesses!(load_32, store_32, u32, reg, "{value:e}");
accesses!(load_64, store_64, u64, reg, "{value}");

/// Bytes that one block of assembly moves or compares.
pub(crate) const BLOCK: usize = 64;

/// Copies `len` bytes. Each byte is read once and written once; two, four or
/// eight bytes are one access. The two ranges may be the same memory; if they
/// overlap, the copy holds bytes of either.
///
/// # Safety
///
/// Both ranges are mapped, `from` readable and `to` writable, and no Rust
/// value that is in use lies in `to`.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    while len - done >= BLOCK {
        // SAFETY: `BLOCK` bytes are left of both ranges.
        unsafe { copy_block(from.wrapping_add(done), to.wrapping_add(done)) };
        done += BLOCK;
    }
    while len - done >= 16 {
        // SAFETY: 16 bytes are left of both ranges.
        unsafe { copy_16(from.wrapping_add(done), to.wrapping_add(done)) };
        done += 16;
    }
    if len - done >= 8 {
        // SAFETY: eight bytes are left of the range.
        let word = unsafe { load_64(from.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { store_64(to.wrapping_add(done), word) };
        done += 8;
    }
    if len - done >= 4 {
        // SAFETY: four bytes are left of the range.
        let word = unsafe { load_32(from.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { store_32(to.wrapping_add(done), word) };
        done += 4;
    }
    if len - done >= 2 {
        // SAFETY: two bytes are left of the range.
        let half = unsafe { load_16(from.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { store_16(to.wrapping_add(done), half) };
        done += 2;
    }
    if done < len {
        // SAFETY: a byte is left of the range.
        let byte = unsafe { load_8(from.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { store_8(to.wrapping_add(done), byte) };
    }
}

/// Copies 16 bytes.
///
/// # Safety
///
/// As for [`copy`].
#[inline(always)]
unsafe fn copy_16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        asm!(
            "movdqu {a}, [{from}]",
            "movdqu [{to}], {a}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies [`BLOCK`] bytes.
///
/// # Safety
///
/// As for [`copy`].
#[inline(always)]
unsafe fn copy_block(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            from = in(reg) from,
            to = in(reg) to,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// A bit for each of 16 bytes that are equal.
const EQUAL: u32 = 0xFFFF;

/// Whether two ranges of `len` bytes, a multiple of [`BLOCK`], hold the same.
/// Each byte is read once.
///
/// # Safety
///
/// Both ranges are mapped and readable.
pub(crate) unsafe fn is_same(a: *const u8, b: *const u8, len: usize) -> bool {
    let mut equal = EQUAL;
    for at in (0..len).step_by(BLOCK) {
        let (a, b) = (a.wrapping_add(at), b.wrapping_add(at));
        let same: u32;
        // SAFETY: `BLOCK` bytes are left of both ranges.
        unsafe {
            asm!(
                "movdqu {x0}, [{a}]",
                "movdqu {x1}, [{a} + 16]",
                "movdqu {x2}, [{a} + 32]",
                "movdqu {x3}, [{a} + 48]",
                "movdqu {y0}, [{b}]",
                "movdqu {y1}, [{b} + 16]",
                "movdqu {y2}, [{b} + 32]",
                "movdqu {y3}, [{b} + 48]",
                "pcmpeqb {x0}, {y0}",
                "pcmpeqb {x1}, {y1}",
                "pcmpeqb {x2}, {y2}",
                "pcmpeqb {x3}, {y3}",
                "pand {x0}, {x1}",
                "pand {x2}, {x3}",
                "pand {x0}, {x2}",
                "pmovmskb {same:e}, {x0}",
                a = in(reg) a,
                b = in(reg) b,
                same = out(reg) same,
                x0 = out(xmm_reg) _,
                x1 = out(xmm_reg) _,
                x2 = out(xmm_reg) _,
                x3 = out(xmm_reg) _,
                y0 = out(xmm_reg) _,
                y1 = out(xmm_reg) _,
                y2 = out(xmm_reg) _,
                y3 = out(xmm_reg) _,
                options(nostack, preserves_flags, readonly),
            );
        }
        equal &= same;
    }
    equal == EQUAL
}
