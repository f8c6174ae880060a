//! I/O ports, of which there are none.
//!
//! Linux asks a few of them at boot. As in the original, `in` reads ones and
//! `out` has no effect.

use crate::cpu::instruction::{MAX_INSTRUCTION, instruction};
use crate::host::Host;

impl Host<'_> {
    /// Steps over the `in` or `out` that `code` begins with. Answers whether
    /// there was one.
    pub(crate) fn port_io(&mut self, code: &[u8]) -> bool {
        let Some(found) = instruction(code) else {
            return false;
        };
        let regs = &self.vm.regs;
        let (immediate, input) = match found.opcode {
            0xE4 | 0xE5 => (1, true),
            0xEC | 0xED => (0, true),
            0xE6 | 0xE7 => (1, false),
            0xEE | 0xEF => (0, false),
            _ => return false,
        };
        let length = found.length + immediate;
        if length as usize > MAX_INSTRUCTION {
            return false; // with so many prefixes it is no instruction
        }
        if input {
            regs.eax.set(match (found.opcode & 1, found.operand_16) {
                (0, _) => regs.eax.get() | 0xFF,
                (_, true) => regs.eax.get() | 0xFFFF,
                (_, false) => u32::MAX,
            });
        }
        regs.eip.set(regs.eip.get().wrapping_add(length));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    #[test]
    fn an_instruction_that_is_too_long_is_none() {
        let mut machine = Machine::new();
        let mut host = machine.host();
        let eip = host.vm.regs.eip.get();
        let mut code = [0x66; MAX_INSTRUCTION];
        // in $n, %eax: a byte follows the opcode
        code[MAX_INSTRUCTION - 1] = 0xE5;
        assert!(!host.port_io(&code));
        assert_eq!(host.vm.regs.eip.get(), eip);
        assert!(host.port_io(&code[1..]));
        assert_eq!(host.vm.regs.eip.get(), eip + 15);
    }
}
