//! I/O ports. There are none, or those of a PCI bus.
//!
//! Linux asks a few of them at boot. As in the original, `in` reads ones where
//! no port is, and `out` has no effect.

use crate::cpu::instruction::{MAX_INSTRUCTION, instruction};
use crate::host::Host;
use crate::kill::Kill;
use crate::pci::mask;

/// The counter with which Linux 4.x measures the speed of the time-stamp
/// counter. It reads the counter 100 000 times as long as that reads as ones,
/// and gives up soon when it stands still. The Host has told the speed.
const TIMER_COUNTER: u32 = 0x42;

/// The status of a keyboard, which Linux 4.x reads before a restart: a byte is
/// there.
const KEYBOARD_STATUS: u32 = 0x64;

impl Host<'_> {
    /// Carries out the `in` or `out` that `code` begins with. Answers whether
    /// there was one.
    pub(crate) fn port_io(&mut self, code: &[u8]) -> Result<bool, Kill> {
        let Some(found) = instruction(code) else {
            return Ok(false);
        };
        let regs = &self.vm.regs;
        let (immediate, input) = match found.opcode {
            0xE4 | 0xE5 => (1, true),
            0xEC | 0xED => (0, true),
            0xE6 | 0xE7 => (1, false),
            0xEE | 0xEF => (0, false),
            _ => return Ok(false),
        };
        let length = found.length + immediate;
        if length as usize > MAX_INSTRUCTION {
            return Ok(false); // with so many prefixes it is no instruction
        }
        let bytes = match (found.opcode & 1, found.operand_16) {
            (0, _) => 1,
            (_, true) => 2,
            (_, false) => 4,
        };
        let port = match (immediate, found.rest) {
            (0, _) => regs.edx.get() & 0xFFFF,
            (_, &[port, ..]) => u32::from(port),
            (_, []) => u32::MAX,
        };
        let eax = regs.eax.get();
        regs.eip.set(regs.eip.get().wrapping_add(length));
        if input {
            let value = self.read_port(port, bytes)?;
            let mask = mask(bytes);
            self.vm.regs.eax.set(eax & !mask | value & mask);
        } else if self.vm.pci.exists() {
            self.write_pci_port(port, bytes, eax)?;
        }
        Ok(true)
    }

    /// What `in` reads.
    fn read_port(&mut self, port: u32, bytes: u32) -> Result<u32, Kill> {
        if !self.vm.pci.exists() {
            return Ok(u32::MAX);
        }
        match port {
            TIMER_COUNTER => Ok(0),
            KEYBOARD_STATUS => Ok(1),
            _ => Ok(self.read_pci_port(port, bytes)?.unwrap_or(u32::MAX)),
        }
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
        assert_eq!(host.port_io(&code), Ok(false));
        assert_eq!(host.vm.regs.eip.get(), eip);
        assert_eq!(host.port_io(&code[1..]), Ok(true));
        assert_eq!(host.vm.regs.eip.get(), eip + 15);
    }

    #[test]
    fn without_a_bus_every_port_reads_as_ones() {
        let mut machine = Machine::new();
        let mut host = machine.host();
        for (code, value) in [
            (&[0xE4, 0x42][..], 0x1234_56FF), // in $0x42,%al
            (&[0x66, 0xED], 0x1234_FFFF),     // in (%dx),%ax
            (&[0xED], u32::MAX),              // in (%dx),%eax
        ] {
            host.vm.regs.eax.set(0x1234_5678);
            host.vm.regs.edx.set(0xCF8);
            assert_eq!(host.port_io(code), Ok(true));
            assert_eq!(host.vm.regs.eax.get(), value);
        }
    }
}
