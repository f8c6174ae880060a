//! Thread-local segments: what is behind the three descriptors of a thread.
//!
//! Programs keep a pointer to their thread behind gs, in a segment of 4 GiB
//! that begins at some address. For these the local descriptor table has one
//! flat entry, and the base goes straight into its register, which costs a few
//! nanoseconds at a switch of threads. Anything unusual needs the descriptor
//! itself in the table, and that is a system call: a limit, a segment that
//! cannot be written, and any use of ds, es or ss, whose bases cannot be set.
//! The call is made when a thread with such a descriptor goes on, and only if
//! the table has another one.
//!
//! A kernel with a stack protector loads gs again at each way out to user code,
//! and so loses the base in the register. If it returned to one thread often
//! enough, the table gets that thread's base, and nobody has to set it.
//!
//! One entry has a selector that the machine's kernel has, too: 0x33, its
//! 64-bit code. A program that loads it does not fault, and has a base of 0
//! until its next trap.

use crate::cpu::accesses::Access;
use crate::cpu::registers::SegmentRegister;
use crate::cpu::selectors::{REAL_USER_DS, ldt};
use crate::host::Host;
use crate::paging::shadow::{TLS_ENTRIES, USUAL, is_usual};
use core::cell::Cell;
use lg_abi::segment::{
    Descriptor, GDT_STACK_CANARY, GDT_TLS_ENTRIES, GDT_TLS_MIN, USER_DS,
    USER_PL,
};

/// After so many returns by the Host the table gets the base of a thread: to
/// put it there costs about as much as ten of them.
const OFTEN: u32 = 16;

/// Which of the three `selector` means, in the Guest's GDT or in our LDT.
pub(crate) fn tls_number(selector: u32) -> Option<usize> {
    let number = (selector >> 3).checked_sub(GDT_TLS_MIN)?;
    (number < GDT_TLS_ENTRIES).then_some(number as usize)
}

/// Our selector for one of them.
fn real(number: usize) -> u32 {
    ldt(GDT_TLS_MIN + crate::address::as_word(number))
}

/// Whether a segment register takes this descriptor of the Guest's; if not, the
/// vector of the fault that it gets instead.
pub(crate) fn check(
    descriptor: Descriptor,
    register: SegmentRegister,
) -> Result<(), u8> {
    let has = |bits| descriptor.high & bits == bits;
    let stack = register == SegmentRegister::Ss;
    let kind = if stack {
        descriptor.is_writable_data() && descriptor.is_32_bit()
    } else {
        has(Descriptor::NOT_SYSTEM)
            && (!descriptor.is_code() || has(Descriptor::WRITABLE))
    };
    if !kind || descriptor.dpl() != USER_PL {
        return Err(13);
    }
    match (descriptor.is_present(), stack) {
        (true, _) => Ok(()),
        (false, true) => Err(12),
        (false, false) => Err(11),
    }
}

/// What the table gets for a descriptor: the same, as the machine's kernel
/// takes it. Code can be read through it, but no far jump leads there, so it is
/// not executed.
fn in_table(descriptor: Descriptor) -> Descriptor {
    const KEPT: u32 = 0xFFDF_FFFF & !(1 << 20);
    let dropped = if descriptor.is_conforming() {
        Descriptor::CONFORMING
    } else {
        0
    };
    Descriptor {
        low: descriptor.low,
        high: descriptor.high & KEPT & !dropped | Descriptor::ACCESSED,
    }
}

/// What is known of the Guest's three descriptors, in `Vm::tls`. All zero is
/// nothing.
mod known {
    /// There are none.
    pub(super) const NONE: u32 = 1;
    /// There is the first one, and it is of the usual kind.
    pub(super) const FIRST: u32 = 2;
}

impl Host<'_> {
    /// The descriptors have changed.
    pub(crate) fn note_descriptors(&self) {
        self.vm.crossing.unsettle();
        let known = if self.has_unusual_tls() {
            0
        } else if self.tls(0).is_present() {
            known::FIRST
        } else {
            known::NONE
        };
        self.vm.tls.set(known);
        self.note_own_descriptors();
    }

    /// Whether user code has the segments that nearly all programs have. It is
    /// asked at each way out to user code, and sets the base of gs.
    pub(crate) fn has_usual_segments(&self) -> bool {
        let (vm, regs) = (self.vm, &self.vm.regs);
        let usual = regs.ds.get() == REAL_USER_DS
            && regs.es.get() == REAL_USER_DS
            && regs.fs.get() == 0
            && vm.ss.get() == u32::from(USER_DS)
            && self.shadow.has_usual_table();
        usual
            && match (vm.tls.get(), regs.gs.get()) {
                (known::FIRST | known::NONE, 0) => true,
                (known::FIRST, gs) if gs == real(0) => {
                    // A kernel that pops gs has loaded the base of our table.
                    regs.gs_base.set(self.tls(0).base());
                    true
                }
                _ => false,
            }
    }

    /// Whether the descriptors are those that nearly all programs have.
    pub(crate) fn has_usual_descriptors(&self) -> bool {
        matches!(self.vm.tls.get(), known::FIRST | known::NONE)
            && self.shadow.has_usual_table()
    }

    /// The selector that gs may have then, beside 0, and its base.
    pub(crate) fn usual_gs(&self) -> (u32, u32) {
        match self.vm.tls.get() {
            known::FIRST => (real(0), self.tls(0).base()),
            _ => (0, 0),
        }
    }

    /// Whether gs has its base when the kernel has loaded it again, which one
    /// with a stack protector does at each way out.
    pub(crate) fn keeps_base_of_gs(&self) -> bool {
        let first = self.tls(0);
        !self.has_canary()
            || !first.is_present()
            || self.shadow.table()[0] == in_table(first)
    }

    fn has_canary(&self) -> bool {
        self.vm.gdt[GDT_STACK_CANARY as usize].get().is_present()
    }

    /// The Host returns to a program with usual segments. If the way out would
    /// be a crossing but for the base of gs, counts, and puts the base into the
    /// table in the end.
    pub(crate) fn note_base_of_gs(&mut self) {
        let gs = self.vm.regs.gs.get();
        if gs != real(0) || self.keeps_base_of_gs() || !self.may_cross() {
            return;
        }
        let first = self.tls(0);
        if self.vm.crossing.is_often(first.base(), OFTEN) {
            self.load_descriptor(0, in_table(first));
        }
    }

    fn tls(&self, number: usize) -> Descriptor {
        self.vm.gdt[GDT_TLS_MIN as usize + number].get()
    }

    /// The descriptor of the Guest's that `selector` means for `register`.
    fn tls_of(
        &self,
        selector: u32,
        register: SegmentRegister,
    ) -> Option<(usize, Descriptor)> {
        let number = tls_number(selector)?;
        let descriptor = self.tls(number);
        check(descriptor, register).ok()?;
        Some((number, descriptor))
    }

    /// What to load for a thread-local selector, or the vector of the fault
    /// that the Guest gets.
    pub(crate) fn real_tls(
        &self,
        number: usize,
        register: SegmentRegister,
    ) -> Result<u32, u8> {
        check(self.tls(number), register).map(|()| real(number))
    }

    /// Puts all segment registers right that name thread-local segments, and
    /// the table that they are loaded from. Answers whether that changed
    /// anything. Linux sets the selectors long before the descriptors, and
    /// loads other bases in between.
    pub(crate) fn fix_tls(&mut self) -> bool {
        use SegmentRegister::{Ds, Es};
        let regs = &self.vm.regs;
        // Not `||`: all have to be looked at.
        let fixed = self.fix_tls_segment(&regs.gs, &regs.gs_base)
            | self.fix_tls_segment(&regs.fs, &regs.fs_base)
            | self.fix_tls_data(&regs.ds, Ds)
            | self.fix_tls_data(&regs.es, Es);
        self.fill_table() | fixed
    }

    fn fix_tls_segment(&self, selector: &Cell<u32>, base: &Cell<u32>) -> bool {
        use SegmentRegister::Gs;
        let Some((right, right_base)) = self.right_tls(selector.get(), Gs)
        else {
            return false;
        };
        let changed = selector.get() != right || base.get() != right_base;
        selector.set(right);
        base.set(right_base);
        changed
    }

    fn fix_tls_data(
        &self,
        selector: &Cell<u32>,
        register: SegmentRegister,
    ) -> bool {
        let right = self.right_tls(selector.get(), register);
        right.is_some_and(|(right, _)| selector.replace(right) != right)
    }

    /// What a register gets that has a thread-local selector: ours with its
    /// base. If the Guest has no such descriptor any more, the register gets
    /// 0, as from Linux, whose own load would fault. Ours does not fault.
    fn right_tls(
        &self,
        selector: u32,
        register: SegmentRegister,
    ) -> Option<(u32, u32)> {
        let number = tls_number(selector)?;
        let descriptor = self.tls(number);
        Some(match check(descriptor, register) {
            Ok(()) => (real(number), descriptor.base()),
            Err(_) => (0, 0),
        })
    }

    /// Puts the Guest's descriptors into the table, as far as they matter.
    /// Answers whether the table changed.
    fn fill_table(&mut self) -> bool {
        let vm = self.vm;
        let [ds, es, ss] = [&vm.regs.ds, &vm.regs.es, &vm.ss]
            .map(|selector| tls_number(selector.get()));
        if (ds, es, ss) == (None, None, None)
            && self.shadow.has_usual_table()
            && !self.has_unusual_tls()
        {
            return false;
        }
        self.fill_table_for([ds, es, ss])
    }

    /// Whether a descriptor needs a place in the table.
    fn has_unusual_tls(&self) -> bool {
        let [first, second, third] = [0, 1, 2].map(|number| self.tls(number));
        let others = (second.high | third.high) & Descriptor::PRESENT != 0;
        others || first.is_present() && !is_usual(first)
    }

    /// The same where it is not as usual; `data` is what ds, es and ss have.
    #[cold]
    fn fill_table_for(&mut self, data: [Option<usize>; 3]) -> bool {
        let mut changed = false;
        for number in 0..TLS_ENTRIES {
            let descriptor = self.tls(number);
            if check(descriptor, SegmentRegister::Gs).is_err() {
                continue; // it cannot be loaded, so the entry does not matter
            }
            // C libraries use the first one. Its base does not matter while
            // only fs and gs are loaded with it.
            let is_any = number == 0
                && is_usual(descriptor)
                && !data.contains(&Some(number));
            let found = self.shadow.table()[number];
            let wanted = match is_any {
                true if is_usual(found) => found,
                true => USUAL[0],
                false => in_table(descriptor),
            };
            if found != wanted {
                changed |= self.load_descriptor(number, wanted);
            }
        }
        changed
    }

    fn load_descriptor(&mut self, number: usize, wanted: Descriptor) -> bool {
        let index = GDT_TLS_MIN + crate::address::as_word(number);
        let load = |host: &mut Self| host.mapper.set_segment(index, wanted);
        let done = match self.in_user_process(load) {
            Some(done) => done,
            None => load(self),
        };
        if done.is_ok() {
            self.vm.counters.descriptors.count();
            self.shadow.set_table(number, wanted);
            self.vm.regs.reload.set(1);
        }
        done.is_ok()
    }

    /// User code loads its stack segment without a trap. What it has loaded is
    /// noted here as what the Guest believes in.
    pub(crate) fn note_stack_segment(&self) {
        let vm = self.vm;
        let found = vm.regs.ss.get();
        let usual = found == REAL_USER_DS && vm.ss.get() == u32::from(USER_DS);
        if usual || !vm.in_user_mode() {
            return;
        }
        let is_ours = tls_number(found).is_some_and(|n| real(n) == found);
        if is_ours {
            vm.ss.set(found & !7 | USER_PL);
        } else if found != 0 && tls_number(vm.ss.get()).is_some() {
            vm.ss.set(u32::from(USER_DS));
        }
    }

    /// The stack segment that user code goes on with, if it is thread-local.
    pub(crate) fn tls_stack(&self) -> Option<u32> {
        let found = self.tls_of(self.vm.ss.get(), SegmentRegister::Ss);
        found.map(|(number, _)| real(number))
    }

    /// Where the segment begins that user code has an operand in.
    pub(crate) fn base(&self, segment: SegmentRegister) -> u32 {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let regs = &self.vm.regs;
        let selector = match segment {
            Cs => 0,
            Ss => self.vm.ss.get(),
            Ds => regs.ds.get(),
            Es => regs.es.get(),
            Fs => return regs.fs_base.get(),
            Gs => return regs.gs_base.get(),
        };
        let found = self.tls_of(selector, segment);
        found.map_or(0, |(_, descriptor)| descriptor.base())
    }

    /// The linear address of an operand of user code.
    pub(crate) fn linear(&self, access: Access) -> crate::address::GuestVirt {
        access.va.plus(self.base(access.segment))
    }
}

#[cfg(test)]
mod tests;
