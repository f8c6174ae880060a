//! Faults of the Guest's code: what each of them means.
//!
//! A fault is a page that we have not mapped yet, an instruction that privilege
//! level 3 may not execute, a segment that has to be put right, a limit of ours
//! that the Guest's own segments do not have, or the Guest's own.

use crate::address::{GuestVirt, as_word};
use crate::cpu::device_access::DeviceFault;
use crate::cpu::instruction::{HLT, MAX_INSTRUCTION};
use crate::cpu::registers::{EFLAGS_AC, EFLAGS_RF};
use crate::cpu::selectors::REAL_LONG_CS;
use crate::cpu::traps::low_byte;
use crate::host::{Event, Host};
use crate::kill::Kill;
use crate::paging::Fault;
use lg_abi::gen2::VMCALL;
use lg_abi::hypercall::HYPERCALL_VECTOR;
use lg_abi::shared::{PAGE_FAULT_VECTOR, SYSCALL_VECTOR};

/// The bit of a page fault's error code that says that a protection key forbade
/// the access (Intel SDM volume 3, "Page-Fault Exceptions").
pub const PROTECTION_KEY: u32 = 1 << 5;

impl Host<'_> {
    /// The processor trapped, and the Guest's code is where it may be.
    pub(crate) fn trap(
        &mut self,
        vector: u8,
        error: u32,
        cr2: u32,
    ) -> Result<(), Kill> {
        let user = self.vm.in_user_mode();
        match vector {
            13 => self.general_protection(error),
            14 if error & PROTECTION_KEY != 0 => {
                // The Guest's processor has no protection keys. What its code
                // has written to their register is gone by now, and the
                // instruction is carried out again.
                self.vm.counters.key_faults.count();
                Ok(())
            }
            14 => self.page_fault(GuestVirt(cr2), error & 3),
            12 if error == 0 && user => self.limit_or(12),
            17 if !user => {
                // Alignment checks are for privilege level 3; that a kernel
                // runs there is our doing.
                let flags = self.vm.regs.eflags.get() & !EFLAGS_AC;
                self.vm.regs.eflags.set(flags);
                Ok(())
            }
            3 | 4 => self.breakpoint(vector),
            6 if !user && self.is_vmcall() => self.vmcall(),
            _ => self.deliver_trap(vector, Some(error)),
        }
    }

    /// `int3` or `into`; eip stands behind it.
    fn breakpoint(&mut self, vector: u8) -> Result<(), Kill> {
        if vector == 3 && self.is_copys_call()? {
            return Ok(());
        }
        let gate = self.vm.idt[usize::from(vector)].get();
        if gate.is_present() && !gate.allows(self.vm.cpl()) {
            // These instructions need the gate's permission, and this one gave
            // none: eip goes back to the instruction.
            let eip = self.vm.regs.eip.get();
            self.vm.regs.eip.set(eip.wrapping_sub(1));
            let error = u32::from(vector) << 3 | 2;
            return self.deliver_trap(13, Some(error));
        }
        self.deliver_trap(vector, None)
    }

    /// A page fault at `va`; `error` has the write bit in bit 1.
    pub(crate) fn page_fault(
        &mut self,
        va: GuestVirt,
        error: u32,
    ) -> Result<(), Kill> {
        let user = self.vm.in_user_mode();
        if va.is_switchers() && !user {
            let eip = self.vm.regs.eip.get();
            return Err(Kill::TouchedSwitcher { va: va.0, eip });
        }
        let write = error & 2 != 0;
        match self.demand_page(va, write, user)? {
            Fault::Mapped => {
                self.vm.counters.shadow_faults.count();
                return Ok(());
            }
            Fault::Guests | Fault::Unmappable if user && self.fix_tls() => {
                self.vm.counters.tls_fixes.count();
                return Ok(());
            }
            Fault::Guests => match self.device_access(va, write)? {
                DeviceFault::NoDevice => {}
                DeviceFault::Done => return Ok(()),
                DeviceFault::Refused => return self.refuse_access(),
            },
            Fault::Unmappable => return self.refuse_access(),
        }
        self.vm.counters.guest_faults.count();
        let present = u32::from(self.is_present(va));
        let error = present | error & 2 | u32::from(user) << 2;
        self.set_cr2(va)?;
        self.deliver_trap(low_byte(PAGE_FAULT_VECTOR), Some(error))
    }

    /// An access that the Guest's tables allow, and that cannot be had. As a
    /// page fault it would come back for ever: the Guest's kernel finds nothing
    /// to put right. This trap is SIGSEGV for a program, and EFAULT for a
    /// kernel that copies.
    fn refuse_access(&mut self) -> Result<(), Kill> {
        self.vm.counters.guest_faults.count();
        self.deliver_trap(13, Some(0))
    }

    /// A general protection fault. Nearly everything that a kernel may do and
    /// privilege level 3 may not ends here.
    fn general_protection(&mut self, error: u32) -> Result<(), Kill> {
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(self.vm.regs.eip.get()), &mut code);
        let code = &code[..fetched];
        let user = self.vm.in_user_mode();

        if let &[0xCD, vector, ..] = code
            && error == u32::from(vector) << 3 | 2
        {
            return self.software_interrupt(vector, error);
        }
        if !user {
            if self.is_vmcall() {
                // On a machine that runs KVM it is this fault.
                return self.vmcall();
            }
            if let [0xCF, ..] = code {
                self.vm.counters.irets.count();
                self.patch_iret();
                return self.iret();
            }
            if let [HLT, ..] = code
                && self.is_trapping_iret()
            {
                self.vm.counters.irets.count();
                return self.iret();
            }
            if self.debug_register(code)
                || self.call_for_debug_register(code)?
            {
                self.vm.counters.debug_registers.count();
                return Ok(());
            }
        }
        if self.load_segment(code, error)? {
            self.vm.counters.segment_loads.count();
            return Ok(());
        }
        if error == 0 {
            if self.cpuid(code) {
                self.vm.counters.cpuids.count();
                return self.end_instruction();
            }
            if self.read_counter(code) {
                self.vm.counters.counter_reads.count();
                return self.end_instruction();
            }
            if self.fix_data_segments() {
                self.vm.counters.segment_fixes.count();
                if !user {
                    self.patch_segment_load();
                }
                return Ok(());
            }
            if user {
                return self.limit_or(13);
            }
            if self.port_io(code)? {
                self.vm.counters.port_io.count();
                return self.end_instruction();
            }
            if self.early_instruction(code) {
                return Ok(());
            }
        }
        self.deliver_trap(13, Some(error))
    }

    /// Whether the next instruction is `vmcall`, and the Guest's kernel is of a
    /// release that makes hypercalls by it.
    fn is_vmcall(&self) -> bool {
        let mut code = [0; 3];
        let at = GuestVirt(self.vm.regs.eip.get());
        self.interface().vmcall
            && self.fetch(at, &mut code) == code.len()
            && code == VMCALL
    }

    /// A hypercall by `vmcall`. The Launcher replaces these instructions by
    /// `int $0x1f`, which is faster, where it recognises them.
    fn vmcall(&mut self) -> Result<(), Kill> {
        self.clear_resume_flag();
        let eip = self.vm.regs.eip.get();
        self.vm
            .regs
            .eip
            .set(eip.wrapping_add(as_word(VMCALL.len())));
        self.do_hypercall()
    }

    /// `int $vector`, which the real processor refused.
    fn software_interrupt(
        &mut self,
        vector: u8,
        error: u32,
    ) -> Result<(), Kill> {
        let gate = self.vm.idt[usize::from(vector)].get();
        let eip = self.vm.regs.eip.get();
        if vector == HYPERCALL_VECTOR && !self.vm.in_user_mode() {
            self.patch_hypercall();
            self.vm.regs.eip.set(eip.wrapping_add(2));
            return self.do_hypercall();
        }
        // Vectors that the Host has to see stay the Host's, whatever their
        // gates allow: otherwise a program could forge a page fault.
        let callable = vector < 32 && !matches!(vector, 7 | 13 | 14)
            || u32::from(vector) == SYSCALL_VECTOR;
        if callable && gate.allows(self.vm.cpl()) {
            self.clear_resume_flag();
            self.vm.regs.eip.set(eip.wrapping_add(2));
            // Not a fault: there is no error code, whatever the vector.
            return self.go_through(gate, None);
        }
        self.deliver_trap(13, Some(error))
    }

    /// Clears RF, which only faults push (Intel SDM volume 3, 19.3.1.1). The
    /// processor has set it for a trap that the Guest does not see.
    pub(crate) fn clear_resume_flag(&self) {
        let flags = self.vm.regs.eflags.get() & !EFLAGS_RF;
        self.vm.regs.eflags.set(flags);
    }

    /// `int $0x80`. A kernel makes such calls, too: it starts init by one.
    pub(crate) fn system_call(&mut self) -> Result<(), Kill> {
        self.vm.counters.system_calls.count();
        self.expect_debugger();
        self.expect_loads_of_gs();
        let gate = self.vm.idt[SYSCALL_VECTOR as usize].get();
        if gate.is_present() && !gate.allows(self.vm.cpl()) {
            let eip = self.vm.regs.eip.get();
            self.vm.regs.eip.set(eip.wrapping_sub(2));
            return self.deliver_trap(13, Some(SYSCALL_VECTOR << 3 | 2));
        }
        self.deliver_trap(low_byte(SYSCALL_VECTOR), None)
    }

    /// `sysenter` or `syscall`: what the Guest's processor does at an
    /// instruction that it does not have. Where it stood is lost.
    pub(crate) fn stray_system_call(&mut self) -> Result<(), Kill> {
        self.vm.regs.eip.set(0);
        self.deliver_trap(6, None)
    }

    /// Guest code jumped to the 64-bit code segment. A user program gets the
    /// fault that its own processor would give it. A kernel that does so ends
    /// the Guest.
    pub(crate) fn long_mode(&mut self) -> Result<(), Kill> {
        self.vm.counters.long_mode.count();
        if !self.vm.in_user_mode() {
            return Err(Kill::LongMode);
        }
        self.deliver_trap(13, Some(REAL_LONG_CS & !3))
    }

    /// A segment's limit may have stopped an access of a user program. If a
    /// segment has to be put right, that is done. If the access is beyond our
    /// limit, it is a page fault, or none where the Guest's tables allow it.
    /// Otherwise trap `vector` is delivered.
    fn limit_or(&mut self, vector: u8) -> Result<(), Kill> {
        if self.fix_data_segments() {
            self.vm.counters.segment_fixes.count();
            return Ok(());
        }
        if self.fix_tls() {
            self.vm.counters.tls_fixes.count();
            return Ok(());
        }
        if self.branch_beyond_limit()? {
            self.vm.counters.limit_faults.count();
            return Ok(());
        }
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(self.vm.regs.eip.get()), &mut code);
        let code = &code[..fetched];
        let mut beyond = self.beyond_limit(code).into_iter().flatten();
        let Some(first) = beyond.next() else {
            return self.deliver_trap(vector, Some(0));
        };
        let mut all = [first].into_iter().chain(beyond);
        if let Some(bad) = all.find(|&access| !self.may_touch(access)) {
            self.vm.counters.limit_faults.count();
            return self.page_fault(bad.va, u32::from(bad.write) << 1);
        }
        self.reach_further(code);
        Ok(())
    }

    /// If user code is about to go on above PAGE_OFFSET, in a page that the
    /// tables do not give to it, delivers the page fault of the fetch at once.
    /// An `iret` can lead there. Our own way out would fault at the end of the
    /// segment, which is another fault than the Guest's processor would raise.
    pub(crate) fn stop_beyond_limit(&mut self) -> Result<(), Kill> {
        let eip = GuestVirt(self.vm.regs.eip.get());
        if self.may_run_at(eip) {
            return Ok(());
        }
        self.vm.counters.limit_faults.count();
        self.shadow.set_last_fault(eip);
        let error = u32::from(self.is_present(eip)) | 1 << 2;
        self.set_cr2(eip)?;
        self.deliver_trap(low_byte(PAGE_FAULT_VECTOR), Some(error))
    }

    /// Where user code is, if it has jumped into its kernel. The jump itself is
    /// not always noticed: the code segment has no end where an end would cost
    /// time. The first trap there is.
    pub(crate) fn strayed(&self, event: Event) -> Option<GuestVirt> {
        let behind = match event {
            Event::Trap { vector: 3 | 4, .. } => 1,
            Event::Trap { .. } => 0,
            Event::SystemCall => 2,
            _ => return None,
        };
        let eip = GuestVirt(self.vm.regs.eip.get().wrapping_sub(behind));
        let strayed = self.vm.in_user_mode() && !self.may_run_at(eip);
        strayed.then_some(eip)
    }
}
