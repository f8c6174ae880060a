//! Privileged instructions before there is a handler for their fault.
//!
//! Linux finds out that it is a Guest after its first instructions, and some
//! configurations put privileged ones in front of that: a read of cr3
//! (`CONFIG_OLPC`), or of model-specific registers (`CONFIG_MICROCODE`). Linux
//! 4.x also reads such registers between LGUEST_INIT and its first gates, on
//! AMD processors with errata in such registers (OSVW), and up to Linux 4.8 it
//! reads cr4 there. So these instructions are carried out here, as on a
//! processor without page tables and without such registers.

use crate::cpu::instruction::{MAX_INSTRUCTION, instruction};
use crate::cpu::registers::general;
use crate::host::Host;
use lg_abi::page::LINEAR;

/// The vector of the fault of a privileged instruction.
const GENERAL_PROTECTION: usize = 13;

impl Host<'_> {
    /// Carries out the privileged instruction that `code` begins with, if
    /// LGUEST_INIT has not come yet; one of a model-specific register or of cr4
    /// also if the Guest has no handler yet. Answers whether there was one.
    pub(crate) fn early_instruction(&mut self, code: &[u8]) -> bool {
        let vm = self.vm;
        if vm.is_initialised() && vm.idt[GENERAL_PROTECTION].get().is_present()
        {
            return false;
        }
        let Some(found) = instruction(code) else {
            return false;
        };
        // A move to or from a control register has a byte behind its opcode.
        let length = found.length + u32::from(found.opcode == 0x0F20);
        if length as usize > MAX_INSTRUCTION {
            return false; // with so many prefixes it is no instruction
        }
        let regs = &vm.regs;
        match found.opcode {
            // wrmsr
            0x0F30 => {}
            // rdmsr
            0x0F32 => {
                regs.eax.set(0);
                regs.edx.set(0);
            }
            // mov %crN,%reg
            0x0F20 => {
                // The processor ignores the mode bits.
                let modrm = found.rest.first().copied().unwrap_or(0xFF);
                let number = modrm >> 3 & 7;
                if vm.is_initialised() && number != 4 {
                    return false;
                }
                let Some(value) = self.early_control(number) else {
                    return false;
                };
                general(regs, modrm & 7).set(value);
            }
            _ => return false,
        }
        regs.eip.set(regs.eip.get().wrapping_add(length));
        true
    }

    /// What control register `number` is before LGUEST_INIT, if there is such a
    /// register.
    fn early_control(&self, number: u8) -> Option<u32> {
        /// CR0: protected mode, and a floating-point unit that is not too old.
        const PE_ET: u32 = 0x11;
        match (number, self.vm.cr3.get()) {
            (0, _) => Some(PE_ET),
            (3, cr3) if cr3 != LINEAR => Some(cr3),
            (2..=4, _) => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Event;
    use crate::kill::Kill;
    use crate::state::Gate;
    use crate::testing::Machine;

    const EIP: u32 = 0x5000;

    /// What `code` does before LGUEST_INIT, on a machine with this cr3: whether
    /// it was carried out, how far eip moved, and eax and edx.
    fn execute(code: &[u8], cr3: u32) -> (bool, u32, u32, u32) {
        let mut m = Machine::new();
        m.vm.lguest_data.set(0);
        m.vm.cr3.set(cr3);
        let regs = &m.vm.regs;
        regs.eip.set(EIP);
        regs.eax.set(0x1234);
        regs.edx.set(0x5678);
        let done = m.host().early_instruction(code);
        let regs = &m.vm.regs;
        let moved = regs.eip.get() - EIP;
        (done, moved, regs.eax.get(), regs.edx.get())
    }

    #[test]
    fn control_registers_read_as_without_page_tables() {
        for (code, cr3, value) in [
            ([0x0F, 0x20, 0xC0], LINEAR, 0x11), // mov %cr0,%eax
            ([0x0F, 0x20, 0xD8], LINEAR, 0),    // mov %cr3,%eax
            ([0x0F, 0x20, 0xD8], 0x2000, 0x2000),
            ([0x0F, 0x20, 0xE0], 0x2000, 0), // mov %cr4,%eax
        ] {
            assert_eq!(execute(&code, cr3), (true, 3, value, 0x5678));
        }
    }

    #[test]
    fn model_specific_registers_are_zero_and_stay_so() {
        assert_eq!(execute(&[0x0F, 0x32], LINEAR), (true, 2, 0, 0));
        let unchanged = (true, 2, 0x1234, 0x5678);
        assert_eq!(execute(&[0x0F, 0x30], LINEAR), unchanged);
    }

    #[test]
    fn others_are_not_carried_out() {
        // mov %eax,%cr3; hlt; mov %cr1,%eax; half an instruction
        let too_long = [&[0x66; MAX_INSTRUCTION - 1][..], &[0x0F, 0x32]];
        for code in [
            &[0x0F, 0x22, 0xD8][..],
            &[0xF4],
            &[0x0F, 0x20, 0xC8],
            &[0x0F, 0x20],
            &[0x0F],
            &too_long.concat(),
        ] {
            let unchanged = (false, 0, 0x1234, 0x5678);
            assert_eq!(execute(code, LINEAR), unchanged, "{code:x?}");
        }
    }

    /// What becomes of a kernel's `code` after LGUEST_INIT: its end, or eip.
    fn after_init(code: &[u8], has_handler: bool) -> Result<u32, Kill> {
        let mut m = Machine::new();
        let at = crate::address::GuestPhys(KERNEL - 0xC000_0000);
        m.ram.memory().write(at, code).unwrap();
        m.vm.regs.eip.set(KERNEL);
        if has_handler {
            m.vm.idt[13].set(Gate {
                handler: HANDLER,
                flags: Gate::PRESENT,
            });
        }
        let trap = Event::Trap {
            vector: 13,
            error: 0,
            cr2: 0,
        };
        m.host().run_guest(trap).map(|()| m.vm.regs.eip.get())
    }

    const KERNEL: u32 = 0xC001_0000;
    const HANDLER: u32 = 0xC000_7000;

    #[test]
    fn a_kernel_with_a_handler_gets_its_faults() {
        let (rdmsr, mov_cr3) = ([0x0F, 0x32], [0x0F, 0x20, 0xD8]);
        assert_eq!(after_init(&rdmsr, true), Ok(HANDLER));
        assert_eq!(after_init(&mov_cr3, true), Ok(HANDLER));
        assert_eq!(after_init(&rdmsr, false), Ok(KERNEL + 2));
        let mov_cr4 = [0x0F, 0x20, 0xE0];
        assert_eq!(after_init(&mov_cr4, false), Ok(KERNEL + 3));
        assert_eq!(after_init(&mov_cr4, true), Ok(HANDLER));
        let killed = Kill::UnhandledTrap {
            vector: 13,
            eip: KERNEL,
            detail: 0,
        };
        assert_eq!(after_init(&mov_cr3, false), Err(killed));
    }
}
