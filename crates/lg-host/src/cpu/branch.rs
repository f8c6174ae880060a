//! Where a jump, a call or a return goes.
//!
//! A branch of user code across the end of its segment is told to the Guest as
//! the page fault that it would have had at the target.

use crate::address::GuestVirt;
use crate::cpu::accesses::Access;
use crate::cpu::instruction::{Operand, displacement, instruction, mod_rm};
use crate::cpu::registers::{SegmentRegister, general};
use crate::state::Registers;

/// A near jump, call or return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Where it goes.
    pub(crate) target: u32,
    /// The address that a call leaves on the stack.
    pub(crate) pushed: Option<u32>,
    /// Bytes that a return takes from it.
    pub(crate) popped: u32,
}

/// The near branch that `code`, which lies at eip, begins with. A conditional
/// one is taken as taken. `word` reads an operand of one word.
pub(crate) fn branch(
    code: &[u8],
    regs: &Registers,
    word: impl Fn(Access) -> Option<u32>,
) -> Option<Branch> {
    let found = instruction(code)?;
    if found.operand_16 || found.address_16 {
        return None;
    }
    let on_stack = Access {
        va: GuestVirt(regs.esp.get()),
        write: false,
        segment: SegmentRegister::Ss,
    };
    let behind = |more: u32| {
        regs.eip.get().wrapping_add(found.length).wrapping_add(more)
    };
    let short = || {
        let &by = found.rest.first()?;
        Some(behind(1).wrapping_add_signed(i32::from(by.cast_signed())))
    };
    let near = || Some(behind(4).wrapping_add(displacement(found.rest, 0)?));
    match found.opcode {
        0x70..=0x7F | 0xE0..=0xE3 | 0xEB => short().map(jump),
        0xE9 | 0x0F80..=0x0F8F => near().map(jump),
        0xE8 => near().map(|target| Branch {
            pushed: Some(behind(4)),
            ..jump(target)
        }),
        0xC3 => Some(Branch {
            popped: 4,
            ..jump(word(on_stack)?)
        }),
        0xC2 => {
            let &[low, high, ..] = found.rest else {
                return None;
            };
            let more = u32::from(u16::from_le_bytes([low, high]));
            Some(Branch {
                popped: 4 + more,
                ..jump(word(on_stack)?)
            })
        }
        0xFF => {
            let modrm = mod_rm(found.rest, regs)?;
            let target = match modrm.operand {
                Operand::Register(n) => general(regs, n).get(),
                Operand::Memory(va, usual) => word(Access {
                    va,
                    write: false,
                    segment: found.segment(usual),
                })?,
            };
            let pushed = match modrm.reg {
                2 => Some(behind(modrm.length)),
                4 => None,
                _ => return None,
            };
            Some(Branch {
                pushed,
                ..jump(target)
            })
        }
        _ => None,
    }
}

fn jump(target: u32) -> Branch {
    Branch {
        target,
        pushed: None,
        popped: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_followed_to_where_they_lead() {
        let regs = Registers::default();
        regs.eip.set(0x1000);
        regs.ecx.set(0xC010_0000);
        let nowhere = |_| None;
        let to = |code: &[u8]| branch(code, &regs, nowhere);
        assert_eq!(to(&[0xFF, 0xE1]), Some(jump(0xC010_0000)));
        let call = Branch {
            pushed: Some(0x1002),
            ..jump(0xC010_0000)
        };
        assert_eq!(to(&[0xFF, 0xD1]), Some(call));
        assert_eq!(to(&[0xEB, 0xFE]), Some(jump(0x1000)));
        assert_eq!(to(&[0x0F, 0x84, 0, 1, 0, 0]), Some(jump(0x1106)));
        assert_eq!(to(&[0xC3]), None, "an unreadable stack");
        // call *%gs:16
        let far = branch(&[0x65, 0xFF, 0x15, 16, 0, 0, 0], &regs, |operand| {
            assert_eq!(operand.segment, SegmentRegister::Gs);
            Some(operand.va.0)
        });
        assert_eq!(far.map(|branch| branch.target), Some(16));
        let ret = branch(&[0xC2, 8, 0], &regs, |_| Some(5));
        assert_eq!(
            ret,
            Some(Branch {
                popped: 12,
                ..jump(5)
            })
        );
        assert_eq!(to(&[0x90]), None);
    }
}
