//! Segments: what is really loaded while the Guest believes something else.
//!
//! Guest code runs at privilege level 3 of a 64-bit Linux, so its code and
//! stack segments are fixed. In the Guest's kernel they are the flat 32-bit
//! ones that Linux has for every process. For user code they are two of our own
//! in the local descriptor table. The Guest loads data segments itself. Most
//! selectors that it loads have another meaning here, or none: the first use
//! faults, and the Host puts them right. Where user code shares its kernel's
//! address space, its data segments end where the kernel begins;
//! [`reach`](crate::cpu::reach) says what it may have beyond. User programs
//! keep thread-local data behind three descriptors ([`tls`](crate::cpu::tls)).
//! They have the same indices in our table as in the Guest's, because C
//! libraries compute with them. Two more are the kernel's own
//! ([`kernel_segments`](crate::cpu::kernel_segments)).

use crate::address::GuestVirt;
use crate::cpu::accesses::{Access, accesses};
use crate::cpu::branch::branch;
use crate::cpu::instruction::MAX_INSTRUCTION;
use crate::cpu::kernel_segments::kernel_segment_number;
use crate::cpu::registers::SegmentRegister;
use crate::cpu::segment_load::{Source, segment_load};
use crate::cpu::selectors::{
    REAL_KERNEL_CS, REAL_KERNEL_DS, REAL_USER_CS, REAL_USER_DS, REAL_WIDE_DS,
    is_null, ldt, without_level,
};
use crate::cpu::tls::tls_number;
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::state::Registers;
use core::cell::Cell;
use lg_abi::segment::{GDT_KERNEL_DS, GDT_TLS_MIN, GDT_USER_DS};

impl Host<'_> {
    /// The code and stack segments to run on now.
    #[must_use]
    pub fn real_segments(&self) -> (u32, u32) {
        let ss = self.vm.regs.ss.get();
        if !self.vm.in_user_mode() {
            return (REAL_KERNEL_CS, ss);
        }
        let ends = !self.may_take(fast_path::FLAT_CODE);
        if self.is_beyond_the_end() || ends && self.reaches_far() {
            return (REAL_KERNEL_CS, ss);
        }
        (REAL_USER_CS, ss)
    }

    /// The Guest goes on: its segments must fit the mode that it is in.
    pub(crate) fn settle_segments(&mut self) {
        self.fit_segments();
        self.begin_reach();
    }

    /// Puts right what segment registers of this mode have.
    pub(crate) fn fit_segments(&mut self) {
        let stack = if !self.vm.in_user_mode() {
            REAL_KERNEL_DS
        } else if self.has_usual_segments() {
            self.note_base_of_gs();
            REAL_USER_DS
        } else {
            self.drop_own_segments();
            self.fix_data_segments();
            self.fix_tls();
            self.tls_stack().unwrap_or(REAL_USER_DS)
        };
        self.vm.regs.ss.set(stack);
    }

    /// Puts ds and es right; answers whether that changed anything.
    pub(crate) fn fix_data_segments(&mut self) -> bool {
        let user = self.vm.in_user_mode();
        let regs = &self.vm.regs;
        // Not `||`: both have to be looked at.
        fix_data_segment(&regs.ds, user) | fix_data_segment(&regs.es, user)
    }

    /// Carries out an instruction that loads a segment register with what the
    /// Guest's GDT allows and the real processor refuses. Answers whether
    /// there was one.
    pub(crate) fn load_segment(
        &mut self,
        code: &[u8],
        error: u32,
    ) -> Result<bool, Kill> {
        let regs = &self.vm.regs;
        let Some(load) = segment_load(code, regs) else {
            return Ok(false);
        };
        let mut bytes = [0; 2];
        let selector = match load.source {
            Source::Register(value) => value,
            Source::Memory(access) => {
                let va = self.linear(access);
                if self.fetch(va, &mut bytes) != bytes.len() {
                    return Ok(false);
                }
                u16::from_le_bytes(bytes)
            }
        };
        let selector = u32::from(selector);
        // The processor names the selector that it refused.
        if without_level(selector) != without_level(error) {
            return Ok(false);
        }
        let real = match self.real_selector(selector, load.register) {
            Ok(real) => real,
            Err(13) => return Ok(false),
            Err(vector) => {
                // The descriptor exists, but is not Present.
                self.deliver_trap(vector, Some(error))?;
                return Ok(true);
            }
        };
        let base = kernel_segment_number(selector).map_or(0, |number| {
            self.patch_own_segment_load(code, selector);
            self.own_base(number)
        });
        let regs = &self.vm.regs;
        match load.register {
            SegmentRegister::Es => regs.es.set(real),
            SegmentRegister::Ds => regs.ds.set(real),
            SegmentRegister::Fs => {
                load_with(&regs.fs, &regs.fs_base, real, base)
            }
            SegmentRegister::Gs => {
                load_with(&regs.gs, &regs.gs_base, real, base)
            }
            // `settle_segments` chooses what is loaded for it.
            SegmentRegister::Ss => self.vm.ss.set(selector),
            SegmentRegister::Cs => return Ok(false),
        }
        regs.esp.set(regs.esp.get().wrapping_add(load.popped));
        regs.eip.set(regs.eip.get().wrapping_add(load.length));
        if load.register != SegmentRegister::Ss {
            // Behind a load of ss, a step ends after the next instruction.
            self.end_instruction()?;
        }
        Ok(true)
    }

    /// What to load for a selector that the Guest may use, or the vector of the
    /// fault that it is told of.
    fn real_selector(
        &self,
        selector: u32,
        register: SegmentRegister,
    ) -> Result<u32, u8> {
        const REFUSED: Result<u32, u8> = Err(13);
        if is_null(selector) {
            // A null selector is refused for the stack only.
            let stack = register == SegmentRegister::Ss;
            return if stack { REFUSED } else { Ok(selector) };
        }
        if let Some(number) = tls_number(selector) {
            return self.real_tls(number, register);
        }
        if let Some(number) = kernel_segment_number(selector) {
            return self.load_own_segment(number, selector, register);
        }
        let data = if self.vm.in_user_mode() {
            REAL_USER_DS
        } else {
            REAL_KERNEL_DS
        };
        if selector & 4 != 0 {
            // Our own selector, which the Guest has saved and loads again.
            let ours = without_level(selector) == without_level(REAL_USER_DS);
            return if ours { Ok(selector | 3) } else { REFUSED };
        }
        match selector >> 3 {
            GDT_USER_DS => Ok(data),
            GDT_KERNEL_DS if !self.vm.in_user_mode() => Ok(data),
            _ => REFUSED,
        }
    }

    /// Carries out the branch at eip if it leads beyond its segment's limit.
    /// The limit stopped it before it branched; with a flat segment the fetch
    /// at the target would fault. Answers whether there was such a branch.
    pub(crate) fn branch_beyond_limit(&mut self) -> Result<bool, Kill> {
        let mut code = [0; MAX_INSTRUCTION];
        let vm = self.vm;
        let limit = self.user_limit();
        if self.tls_stack().is_some() {
            return Ok(false);
        }
        let eip = GuestVirt(vm.regs.eip.get());
        let fetched = self.fetch(eip, &mut code);
        let word = |operand| self.read_virtual(self.linear(operand)).ok();
        let branch = branch(&code[..fetched], &vm.regs, word);
        let Some(branch) = branch.filter(|b| b.target >= limit) else {
            return Ok(false);
        };
        let mut stack = vm.regs.esp.get().wrapping_add(branch.popped);
        if let Some(back) = branch.pushed {
            stack = stack.wrapping_sub(4);
            if self.write_virtual(GuestVirt(stack), back).is_err() {
                // Then the push would have faulted first.
                self.page_fault(GuestVirt(stack), 2)?;
                return Ok(true);
            }
        }
        vm.regs.esp.set(stack);
        vm.regs.eip.set(branch.target);
        let target = GuestVirt(branch.target);
        if !self.may_run_at(target) {
            self.page_fault(target, 0)?;
        }
        Ok(true)
    }

    /// What `code`, which stands at eip, touches beyond the limit of user
    /// code's segments: the first byte there of each operand.
    pub(crate) fn beyond_limit(&self, code: &[u8]) -> [Option<Access>; 2] {
        let limit = self.user_limit();
        accesses(code, &self.vm.regs).map(|access| {
            access
                .filter(|&a| self.ends_at_limit(a.segment))
                .filter(|access| access.last() >= limit)
                .map(|access| Access {
                    va: GuestVirt(access.va.0.max(limit)),
                    ..access
                })
        })
    }

    /// Whether the limit of a segment of user code is ours, not the Guest's.
    fn ends_at_limit(&self, segment: SegmentRegister) -> bool {
        let regs = &self.vm.regs;
        let selector = match segment {
            SegmentRegister::Cs => return !self.may_take(fast_path::FLAT_CODE),
            SegmentRegister::Ss => return self.tls_stack().is_none(),
            SegmentRegister::Ds => &regs.ds,
            SegmentRegister::Es => &regs.es,
            SegmentRegister::Fs => &regs.fs,
            SegmentRegister::Gs => &regs.gs,
        };
        selector.get() == REAL_USER_DS
    }
}

/// Loads what the Guest means where `selector` is one of the data segments.
fn fix_data_segment(selector: &Cell<u32>, user: bool) -> bool {
    let right = if user { REAL_USER_DS } else { REAL_KERNEL_DS };
    let current = selector.get();
    let is_data = without_level(current) == GDT_USER_DS << 3
        || current == REAL_USER_DS
        || current == REAL_WIDE_DS
        || current == REAL_KERNEL_DS;
    if !is_data || current == right {
        return false;
    }
    selector.set(right);
    true
}

/// Loads a selector, and with it the base of our descriptor.
fn load_with(selector: &Cell<u32>, base: &Cell<u32>, real: u32, its: u32) {
    selector.set(real);
    base.set(its);
}

/// The registers that a fresh Guest starts with: flat data segments. fs and gs
/// have nothing behind them, or, where the Guest starts with boot parameters, a
/// segment that begins there. A kernel with a stack protector reads its canary
/// before it has loaded gs; whatever is there, it is the same at both ends of a
/// function.
pub fn set_start_segments(regs: &Registers, boot_parameters: u32) {
    let own = match boot_parameters {
        0 => 0,
        _ => ldt(GDT_TLS_MIN),
    };
    regs.ds.set(REAL_KERNEL_DS);
    regs.es.set(REAL_KERNEL_DS);
    load_with(&regs.fs, &regs.fs_base, own, boot_parameters);
    load_with(&regs.gs, &regs.gs_base, own, boot_parameters);
    regs.ss.set(REAL_KERNEL_DS);
}

#[cfg(test)]
mod tests {
    use crate::address::GuestPhys;
    use crate::cpu::selectors::REAL_USER_DS;
    use crate::host::Event;
    use crate::state::{Gate, Registers};
    use crate::testing::Machine;
    use lg_abi::page::Pte;
    use lg_abi::segment::USER_DS;
    use lg_abi::shared::offset;

    /// What user code gets when the processor stops it at `code`, which is all
    /// there is on its page: where it faulted, as its kernel is told.
    fn faults_at(
        code: &[u8],
        prepare: impl FnOnce(&Machine),
    ) -> (u32, Machine) {
        let mut m = Machine::new();
        let frame = 0x5000;
        m.set_user_pte(1, Pte(frame | 0x67));
        m.ram.memory().write(GuestPhys(frame), code).unwrap();
        let handler = Gate {
            handler: 0xC000_7000,
            flags: Gate::PRESENT,
        };
        m.vm.idt[13].set(handler);
        m.vm.idt[14].set(handler);
        m.vm.user.set(1);
        m.vm.regs.eip.set(0x1000);
        m.vm.regs.esp.set(0x1FF0);
        m.vm.regs.ds.set(REAL_USER_DS);
        prepare(&m);
        let event = Event::Trap {
            vector: 13,
            error: 0,
            cr2: 0,
        };
        m.host().run_guest(event).unwrap();
        let cr2 = GuestPhys(Machine::DATA + offset::CR2);
        (m.ram.memory().word(cr2).unwrap(), m)
    }

    /// What user code gets for loading a segment register with a selector
    /// that the real processor refuses: the machine after it.
    fn loads(code: &[u8], selector: u32) -> Machine {
        let mut m = Machine::new();
        let frame = 0x5000;
        m.set_user_pte(1, Pte(frame | 0x67));
        m.ram.memory().write(GuestPhys(frame), code).unwrap();
        m.vm.idt[13].set(Gate {
            handler: 0xC000_7000,
            flags: Gate::PRESENT,
        });
        m.vm.user.set(1);
        m.vm.ss.set(u32::from(USER_DS));
        let regs = &m.vm.regs;
        regs.eip.set(0x1000);
        regs.esp.set(0x1FF0);
        regs.eax.set(selector);
        for register in [&regs.ds, &regs.es, &regs.fs, &regs.gs] {
            register.set(REAL_USER_DS);
        }
        let event = Event::Trap {
            vector: 13,
            error: selector & 0xFFFC,
            cr2: 0,
        };
        m.host().run_guest(event).unwrap();
        m
    }

    #[test]
    fn a_stack_segment_is_never_null() {
        // And pop %ss, which finds a zero.
        let (mov, pop): (&[u8], &[u8]) = (&[0x8E, 0xD0], &[0x17]);
        for (code, selector) in
            [(mov, 0), (mov, 1), (mov, 2), (mov, 3), (pop, 0)]
        {
            let m = loads(code, selector);
            assert_eq!(m.vm.regs.eip.get(), 0xC000_7000, "{selector}");
            // Error code, eip, cs, flags, esp, ss.
            let frame = [0, 1, 2, 3, 4, 5].map(|n| {
                let at = m.vm.regs.esp.get() - 0xC000_0000 + 4 * n;
                m.ram.memory().word(GuestPhys(at)).unwrap()
            });
            assert_eq!((frame[0], frame[1]), (0, 0x1000));
            assert_eq!((frame[4], frame[5]), (0x1FF0, USER_DS.into()));
        }
        // One that the Guest has goes in.
        let m = loads(mov, USER_DS.into());
        assert_eq!(m.vm.regs.eip.get(), 0x1002);
    }

    #[test]
    fn all_others_may_be_null() {
        for (n, of) in [
            (0, |r: &Registers| r.es.get()),
            (3, |r: &Registers| r.ds.get()),
            (4, |r: &Registers| r.fs.get()),
            (5, |r: &Registers| r.gs.get()),
        ] as [(u8, fn(&Registers) -> u32); 4]
        {
            let m = loads(&[0x8E, 0xC0 | n << 3], 0);
            assert_eq!(m.vm.regs.eip.get(), 0x1002, "{n}");
            assert_eq!(of(&m.vm.regs), 0, "{n}");
        }
    }

    /// The kernel's page 0xC0006000, and what lies there.
    const SECRET_PLACE: u32 = 0xC000_6000;
    const SECRET: u32 = 0xDEAD_BEE0;

    #[test]
    fn an_indirect_jump_reads_none_of_the_kernels_memory() {
        // jmp *0xC0006000: the segment's limit stopped it, and the fault is
        // at the pointer, not where it points.
        let (cr2, _) = faults_at(&[0xFF, 0x25, 0x00, 0x60, 0x00, 0xC0], |m| {
            m.ram.memory().set_word(GuestPhys(0x6000), SECRET).unwrap();
        });
        assert_eq!(cr2, SECRET_PLACE);
    }

    #[test]
    fn a_call_writes_none_of_the_kernels_memory() {
        // call 0xC0000000, with the stack in the kernel's memory.
        let (cr2, m) = faults_at(&[0xE8, 0xFB, 0xEF, 0xFF, 0xBF], |m| {
            m.ram.memory().set_word(GuestPhys(0x6000), SECRET).unwrap();
            m.vm.regs.esp.set(SECRET_PLACE + 4);
        });
        assert_eq!(m.ram.memory().word(GuestPhys(0x6000)), Ok(SECRET));
        assert_eq!(cr2, SECRET_PLACE);
    }
}
