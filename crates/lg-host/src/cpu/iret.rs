//! `iret`: which privilege the frame of a kernel may ask for.
//!
//! A kernel pops what it has on its stack, and much of that was chosen by a
//! program: by a signal's frame, by a debugger, by `vm86`. The code selector
//! decides the privilege, so it is checked as a processor checks it: against
//! the Guest's descriptors. A frame that is refused is a general protection
//! fault. Where the frame asks for user level, the fault is delivered *from*
//! user level, so that a kernel ends the program and not itself. (Linux has a
//! fixup for a fault of its own `iret`, but not for the one in lguest's part of
//! it.)
//!
//! A frame with VM set asks for virtual-8086 mode, which is user level
//! whatever its selectors are. No processor has that mode beneath a 64-bit
//! kernel. So the mode is entered, and its first instruction is a general
//! protection fault, with the frame that a processor pushes in that mode.
//! Linux carries out a few instructions at this fault (`int`, `iret`, `pushf`,
//! `popf`, `cli`, `sti`), and ends the call for all others: `vm86` returns
//! `VM86_UNKNOWN`.

use crate::cpu::registers::{
    EFLAGS_FIXED, EFLAGS_RF, EFLAGS_USABLE, EFLAGS_VM,
};
use crate::cpu::selectors::{REAL_USER_CS, REAL_USER_DS, REAL_WIDE_DS};
use crate::cpu::traps::Stack;
use crate::host::Host;
use crate::kill::Kill;
use lg_abi::segment::{
    Descriptor, GDT_ENTRIES, GDT_TLS_ENTRIES, GDT_TLS_MIN, GUEST_PL, USER_CS,
    USER_DS, USER_PL,
};

/// The vector of a general protection fault.
const PROTECTION_VECTOR: u8 = 13;

/// The index and the table of a selector: what an error code says of it.
const fn error_of(selector: u32) -> u32 {
    selector & 0xFFFC
}

/// What every frame has.
struct Frame {
    eip: u32,
    cs: u32,
    flags: u32,
}

impl Host<'_> {
    /// Carries out the `iret` at eip, for the Guest's kernel.
    pub(crate) fn iret(&mut self) -> Result<(), Kill> {
        let stack = Stack::new(self.vm.regs.esp.get());
        self.iret_from(stack)
    }

    /// The same with the frame at the top of `stack`, where esp points to.
    pub(crate) fn iret_from(&mut self, mut stack: Stack) -> Result<(), Kill> {
        let [eip, cs, flags] = self.pop_all(&mut stack)?;
        let cs = cs & 0xFFFF;
        let frame = Frame { eip, cs, flags };
        if frame.flags & EFLAGS_VM != 0 {
            return self.iret_to_vm86(&frame, stack);
        }
        if frame.cs & 3 == USER_PL {
            return self.iret_to_user(&frame, stack);
        }
        let level = frame.cs & 3;
        if level != GUEST_PL || !self.is_code(frame.cs, GUEST_PL) {
            // The kernel has made this frame for itself: its own fault, at
            // the `iret`.
            let error = error_of(frame.cs);
            return self.deliver_trap(PROTECTION_VECTOR, Some(error));
        }
        self.vm.cs.set(frame.cs);
        self.go_on_at(&frame, stack.at);
        Ok(())
    }

    fn iret_to_user(
        &mut self,
        frame: &Frame,
        mut stack: Stack,
    ) -> Result<(), Kill> {
        let [esp, ss] = self.pop_all(&mut stack)?;
        let ss = ss & 0xFFFF;
        let refused = if !self.is_code(frame.cs, USER_PL) {
            Some(frame.cs)
        } else if !self.is_stack(ss) {
            Some(ss)
        } else {
            None
        };
        // A program that reads its selectors sees the real ones.
        self.vm.cs.set(match frame.cs {
            REAL_USER_CS => USER_CS.into(),
            cs => cs,
        });
        self.vm.ss.set(match ss {
            REAL_USER_DS | REAL_WIDE_DS => USER_DS.into(),
            ss => ss,
        });
        self.vm.user.set(1);
        self.go_on_at(frame, esp);
        let Some(selector) = refused else {
            return Ok(());
        };
        self.vm.counters.bad_irets.count();
        let flags = self.vm.regs.eflags.get() | EFLAGS_RF;
        self.vm.regs.eflags.set(flags);
        self.deliver_trap(PROTECTION_VECTOR, Some(error_of(selector)))
    }

    fn iret_to_vm86(
        &mut self,
        frame: &Frame,
        mut stack: Stack,
    ) -> Result<(), Kill> {
        let [esp, ss, es, ds, fs, gs] = self.pop_all(&mut stack)?;
        let [ss, es, ds, fs, gs] = [ss, es, ds, fs, gs].map(|s| s & 0xFFFF);
        let gate = self.gate_for_trap(PROTECTION_VECTOR, 0)?;
        self.vm.counters.vm86.count();
        let regs = &self.vm.regs;
        self.vm.cs.set(frame.cs);
        self.go_on_at(frame, esp);
        let usable = regs.eflags.get();
        regs.eflags.set(usable | EFLAGS_VM | EFLAGS_RF);
        for register in [
            &regs.ds,
            &regs.es,
            &regs.fs,
            &regs.gs,
            &regs.fs_base,
            &regs.gs_base,
        ] {
            register.set(0);
        }
        // A processor pushes the data segments, too: its handler cannot have
        // those of virtual-8086 mode.
        let [eip, cs, flags] = self.interrupted()?;
        let mut stack = self.enter_kernel_level();
        self.push_all(&mut stack, [esp, ss, es, ds, fs, gs])?;
        self.push_all(&mut stack, [0, eip, cs, flags])?;
        self.go_on_at_gate(gate, stack)
    }

    fn go_on_at(&self, frame: &Frame, esp: u32) {
        let regs = &self.vm.regs;
        regs.eip.set(frame.eip);
        regs.esp.set(esp);
        // Only breakpoints need it.
        let resume = if self.vm.debug.is_watching() {
            EFLAGS_RF
        } else {
            0
        };
        let flags = frame.flags & (EFLAGS_USABLE | resume);
        regs.eflags.set(flags | EFLAGS_FIXED);
    }

    /// Whether `selector`, whose RPL is `level`, names code that may run at
    /// this level. Code that does not begin at 0, or is not 32-bit code, is
    /// refused: there is one code segment for all of it.
    pub(crate) fn is_code(&self, selector: u32, level: u32) -> bool {
        if selector == REAL_USER_CS {
            return level == USER_PL;
        }
        self.descriptor(selector).is_some_and(|descriptor| {
            let dpl = descriptor.dpl();
            let right = if descriptor.is_conforming() {
                dpl <= level
            } else {
                dpl == level
            };
            right
                && descriptor.is_code()
                && descriptor.is_32_bit()
                && descriptor.base() == 0
        })
    }

    /// Whether user code may have `selector` for its stack.
    pub(crate) fn is_stack(&self, selector: u32) -> bool {
        if selector & 3 != USER_PL {
            return false;
        }
        is_ours(selector)
            || self.descriptor(selector).is_some_and(|descriptor| {
                descriptor.is_writable_data() && descriptor.dpl() == USER_PL
            })
    }

    /// The Guest's descriptor that `selector` names, if it can be used.
    fn descriptor(&self, selector: u32) -> Option<Descriptor> {
        let index = selector >> 3;
        if selector & IN_LDT != 0 || index == 0 || index >= GDT_ENTRIES {
            return None;
        }
        let descriptor = self.vm.gdt[index as usize].get();
        descriptor.is_present().then_some(descriptor)
    }
}

/// In a selector: the local descriptor table is meant.
const IN_LDT: u32 = 4;

/// Whether `selector` is a data segment of our local table, which a program
/// has read from a register.
fn is_ours(selector: u32) -> bool {
    let tls = GDT_TLS_MIN..GDT_TLS_MIN + GDT_TLS_ENTRIES;
    matches!(selector, REAL_USER_DS | REAL_WIDE_DS)
        || selector & IN_LDT != 0 && tls.contains(&(selector >> 3))
}

#[cfg(test)]
mod tests;
