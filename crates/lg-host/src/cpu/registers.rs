//! The Guest's registers by the numbers and bits that instructions use.
//!
//! What is in them is in [`Registers`]. Here are the flags that mean something
//! to the Host, and the numbering of general and segment registers.

use crate::state::Registers;
use core::cell::Cell;

/// Trap after one instruction.
pub const EFLAGS_TF: u32 = 1 << 8;
/// Nested task: with it set, `iret` returns from a task.
pub const EFLAGS_NT: u32 = 1 << 14;
/// Resume: no debug fault for one instruction.
pub const EFLAGS_RF: u32 = 1 << 16;
/// Virtual-8086 mode. It is never set in the registers, only in frames.
pub const EFLAGS_VM: u32 = 1 << 17;
/// Alignment check.
pub const EFLAGS_AC: u32 = 1 << 18;

/// The flags that an `iret` of the Guest's may set: CF PF AF ZF SF TF DF OF,
/// AC and ID. NT is left out: with it our own `iret` would fail.
pub const EFLAGS_USABLE: u32 = 0x0024_0DD5;

/// The flags that are always set while the Guest runs: bit 1, which always is,
/// and the real interrupt flag.
pub const EFLAGS_FIXED: u32 = 0x202;

/// Segment registers by the number that instructions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentRegister {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// The general register with the number that instructions use.
pub(crate) fn general(regs: &Registers, number: u8) -> &Cell<u32> {
    match number & 7 {
        0 => &regs.eax,
        1 => &regs.ecx,
        2 => &regs.edx,
        3 => &regs.ebx,
        4 => &regs.esp,
        5 => &regs.ebp,
        6 => &regs.esi,
        _ => &regs.edi,
    }
}
