//! The instructions of which patches are made.
//!
//! A far jump or call changes to 64-bit code and goes to a trampoline. It is
//! longer than the instruction that trapped, and what is left over is padding.

use crate::address::{GuestVirt, as_word};

/// Bytes of a far jump or call: opcode, address, selector.
pub(super) const FAR: usize = 7;

/// Bytes of a hypercall, `int $0x1f`.
pub(super) const INT: usize = 2;

pub(super) const FAR_CALL: u8 = 0x9A;
pub(super) const FAR_JUMP: u8 = 0xEA;
pub(super) const NOP: u8 = 0x90;

/// The selector of 64-bit code, as it stands in a far jump.
#[allow(clippy::cast_possible_truncation)] // it is 0x33
const LONG_CS: u8 = crate::cpu::selectors::REAL_LONG_CS as u8;

/// The same of the kernel's code.
#[allow(clippy::cast_possible_truncation)] // it is 0x23
const KERNEL_CS: u8 = crate::cpu::selectors::REAL_KERNEL_CS as u8;

const NEAR_JUMP: u8 = 0xE9;

/// A far jump or call to `trampoline`.
pub(super) fn far(opcode: u8, trampoline: u32) -> [u8; FAR] {
    let [a, b, c, d] = trampoline.to_le_bytes();
    [opcode, a, b, c, d, LONG_CS, 0]
}

/// A far call of a program to 32-bit code at `place`.
pub(super) fn far_call_of_32_bits(place: u32) -> [u8; FAR] {
    let [a, b, c, d] = place.to_le_bytes();
    [FAR_CALL, a, b, c, d, KERNEL_CS, 0]
}

/// Bytes of a near call.
pub(super) const NEAR_CALL_SIZE: usize = 5;

const NEAR_CALL: u8 = 0xE8;

/// A near call at `site` to 32-bit code at `place`.
pub(super) fn near_call(site: GuestVirt, place: u32) -> [u8; NEAR_CALL_SIZE] {
    let end = site.plus(as_word(NEAR_CALL_SIZE));
    let [a, b, c, d] = place.wrapping_sub(end.0).to_le_bytes();
    [NEAR_CALL, a, b, c, d]
}

/// A jump at `site` to 32-bit code at `place`, with padding behind it.
pub(super) fn near_jump(site: GuestVirt, place: u32) -> [u8; FAR] {
    const LENGTH: u32 = 5;
    let way = place.wrapping_sub(site.0.wrapping_add(LENGTH));
    let [a, b, c, d] = way.to_le_bytes();
    [NEAR_JUMP, a, b, c, d, NOP, NOP]
}
