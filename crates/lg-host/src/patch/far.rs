//! The instructions of which patches are made.
//!
//! A far jump or call changes to 64-bit code and goes to a trampoline. It is
//! longer than the instruction that trapped, and what is left over is padding.

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

/// A far jump or call to `trampoline`.
pub(super) fn far(opcode: u8, trampoline: u32) -> [u8; FAR] {
    let [a, b, c, d] = trampoline.to_le_bytes();
    [opcode, a, b, c, d, LONG_CS, 0]
}
