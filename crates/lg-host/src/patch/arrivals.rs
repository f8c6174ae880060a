//! A Guest arrives through a trampoline.
//!
//! The trampoline is 64-bit code that has done what the displaced instructions
//! did, and has saved the registers. What is left to do depends on its kind.
//! The Guest goes on behind the whole patch, never in the middle of it: the
//! patch may be gone by the time that it does.

use super::TrampolineKind;
use super::enabling::ENABLING_PADDING;
use crate::address::GuestVirt;
use crate::cpu::registers::SegmentRegister;
use crate::cpu::traps::Stack;
use crate::host::Host;
use crate::kill::Kill;
use lg_abi::shared::IF;

impl Host<'_> {
    /// The Guest came through a trampoline.
    pub(crate) fn enter_trampoline(
        &mut self,
        kind: TrampolineKind,
    ) -> Result<(), Kill> {
        let user = self.vm.in_user_mode();
        // A kernel may execute a page of user code.
        if kind != TrampolineKind::DirectCall && user != kind.is_users() {
            // A jump to a trampoline that is not for this mode. It is not
            // known where it came from.
            self.vm.regs.eip.set(0);
            return self.deliver_trap(13, Some(0));
        }
        match kind {
            TrampolineKind::Iret => {
                self.vm.counters.iret_trampolines.count();
                let mut stack = Stack::new(self.vm.regs.esp.get());
                // Where the trampoline's `iret` is, should it fault.
                let iret = self.vm.noirq_end.get().wrapping_sub(1);
                if self.vm.noirq_start.get() == iret {
                    // Since Linux 4.1: the flags in the frame are stored.
                    let flags = GuestVirt(stack.at.wrapping_add(8));
                    self.set_irq_enabled(self.read_virtual(flags)?)?;
                } else {
                    self.set_irq_enabled(self.vm.regs.eax.get())?;
                    let [eax] = self.pop_all(&mut stack)?;
                    self.vm.regs.eax.set(eax);
                    self.vm.regs.esp.set(stack.at);
                }
                self.vm.regs.eip.set(iret);
                self.iret_from(stack)
            }
            TrampolineKind::Hypercall => {
                self.vm.counters.hypercall_trampolines.count();
                let padding = self.vm.regs.eip.get();
                let back = self.pop_far_return()?;
                self.vm.regs.eip.set(back.wrapping_add(padding));
                self.do_hypercall()
            }
            TrampolineKind::HypercallAfterStore => {
                self.vm.counters.store_trampolines.count();
                let back = self.pop_far_return()?;
                if self.do_displaced(back)? {
                    self.do_hypercall()?;
                }
                Ok(())
            }
            TrampolineKind::Enabling => {
                self.vm.counters.enabling_trampolines.count();
                let back = self.pop_far_return()?;
                self.vm.regs.eip.set(back.wrapping_add(ENABLING_PADDING));
                self.set_irq_enabled(IF)
            }
            TrampolineKind::Accessor => {
                self.vm.counters.accessor_trampolines.count();
                let back = self.pop_far_return()?;
                self.do_accessor(back)
            }
            TrampolineKind::DirectCall => {
                self.vm.counters.direct_calls.count();
                self.system_call()
            }
            TrampolineKind::NearHypercall => {
                self.vm.counters.hypercall_trampolines.count();
                let mut stack = Stack::new(self.vm.regs.esp.get());
                let [padding, back] = self.pop_all(&mut stack)?;
                self.vm.regs.esp.set(stack.at);
                self.vm.regs.eip.set(back.wrapping_add(padding));
                self.do_hypercall()
            }
            TrampolineKind::EntryPage => {
                self.vm.counters.entry_page_trampolines.count();
                let Ok(back) = self.pop_far_return() else {
                    // The far call has pushed, so it was no far call.
                    self.vm.regs.eip.set(0);
                    return self.deliver_trap(12, Some(0));
                };
                self.vm.regs.eip.set(self.behind_entry(back));
                self.system_call()
            }
        }
    }

    /// Takes the address and the selector that a far call has pushed.
    fn pop_far_return(&mut self) -> Result<u32, Kill> {
        let user = self.vm.in_user_mode();
        let base = if user {
            self.base(SegmentRegister::Ss)
        } else {
            0
        };
        let mut stack = self.vm.regs.esp.get().wrapping_add(base);
        let eip = self.pop(&mut stack)?;
        self.vm
            .regs
            .esp
            .set(stack.wrapping_add(4).wrapping_sub(base));
        Ok(eip)
    }
}
