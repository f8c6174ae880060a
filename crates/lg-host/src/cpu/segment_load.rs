//! Which instruction loads a segment register, and from where.
//!
//! The Guest's descriptors are not the real ones, so most of what it loads
//! faults. [`Host::load_segment`](crate::host::Host) carries it out.

use crate::address::GuestVirt;
use crate::cpu::accesses::Access;
use crate::cpu::instruction::{Operand, instruction, mod_rm};
use crate::cpu::registers::{SegmentRegister, general};
use crate::state::Registers;

/// Where a segment register is loaded from.
pub(crate) enum Source {
    /// This value, from a general register.
    Register(u16),
    /// Memory, the stack included.
    Memory(Access),
}

/// An instruction that loads a segment register.
pub(crate) struct SegmentLoad {
    pub(crate) register: SegmentRegister,
    pub(crate) source: Source,
    /// Bytes that it takes from the stack.
    pub(crate) popped: u32,
    /// Bytes of code.
    pub(crate) length: u32,
}

/// The segment load that `code` begins with, if it is one.
pub(crate) fn segment_load(
    code: &[u8],
    regs: &Registers,
) -> Option<SegmentLoad> {
    use SegmentRegister::{Ds, Es, Fs, Gs, Ss};
    let found = instruction(code)?;
    let popped = if found.operand_16 { 2 } else { 4 };
    let pop = |register| {
        let source = Source::Memory(Access {
            va: GuestVirt(regs.esp.get()),
            write: false,
            segment: Ss,
        });
        let length = found.length;
        Some(SegmentLoad {
            register,
            source,
            popped,
            length,
        })
    };
    match found.opcode {
        0x07 => pop(Es),
        0x17 => pop(Ss),
        0x1F => pop(Ds),
        0x0FA1 => pop(Fs),
        0x0FA9 => pop(Gs),
        0x8E if !found.address_16 => {
            let modrm = mod_rm(found.rest, regs)?;
            let register = match modrm.reg {
                0 => Es,
                2 => Ss,
                3 => Ds,
                4 => Fs,
                5 => Gs,
                _ => return None,
            };
            let source = match modrm.operand {
                Operand::Register(n) => {
                    let [low, high, ..] = general(regs, n).get().to_le_bytes();
                    Source::Register(u16::from_le_bytes([low, high]))
                }
                Operand::Memory(va, usual) => Source::Memory(Access {
                    va,
                    write: false,
                    segment: found.segment(usual),
                }),
            };
            let length = found.length + modrm.length;
            Some(SegmentLoad {
                register,
                source,
                popped: 0,
                length,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_loads_are_told_from_other_moves() {
        let regs = Registers::default();
        regs.eax.set(0xFFFF_007B);
        let load = segment_load(&[0x8E, 0xD8, 0x90], &regs).unwrap();
        assert_eq!(load.register, SegmentRegister::Ds);
        assert!(matches!(load.source, Source::Register(0x7B)));
        assert_eq!((load.length, load.popped), (2, 0));
        let load = segment_load(&[0x0F, 0xA9], &regs).unwrap();
        assert_eq!(load.register, SegmentRegister::Gs);
        assert_eq!((load.length, load.popped), (2, 4));
        // mov cs, ax does not exist
        assert!(segment_load(&[0x8E, 0xC8], &regs).is_none());
    }

    #[test]
    fn code_that_ends_too_soon_loads_nothing() {
        let regs = Registers::default();
        for code in [&[][..], &[0x66], &[0x0F], &[0x8B], &[0x8B, 0x04]] {
            assert!(segment_load(code, &regs).is_none());
        }
    }
}
