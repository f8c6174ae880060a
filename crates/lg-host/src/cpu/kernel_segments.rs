//! The kernel's own segments: per-cpu data, and the stack canary.
//!
//! A kernel for several processors reads its data through fs, and one with a
//! stack protector reads its canary through gs in nearly every function. Both
//! load these segments at each entry, and nothing traps when they use them. So
//! two entries of the local descriptor table, with the indices of the Guest's,
//! have the real bases. Selectors and indices are never those of the machine's
//! kernel, so the first load faults. The Host then carries it out, and patches
//! its constant ([`Host::patch_own_segment_load`]).
//!
//! A view gets the entries before its filter is installed, and cannot change
//! them afterwards. When the Guest changes a descriptor, which Linux does about
//! three times at boot, each view is made anew before it runs again
//! ([`Host::has_old_segments`]).
//!
//! A segment here reaches no more than the kernel's ds does: bases and limits
//! have 32 bits, and addresses wrap at 4 GiB. It is always data of level 3.
//! User code that shares the address space can load it as it can load the flat
//! segment of the machine's kernel; a user process has no such entries.

use crate::cpu::registers::SegmentRegister;
use crate::cpu::selectors::ldt;
use crate::host::Host;
use crate::kill::Kill;
use core::cell::Cell;
use lg_abi::segment::{Descriptor, GDT_PER_CPU, GUEST_PL, USER_PL};

/// How many segments a kernel has for itself.
pub const KERNEL_SEGMENTS: usize = 2;

/// Which of them `selector` means, in the Guest's GDT or in our table.
pub(crate) fn kernel_segment_number(selector: u32) -> Option<usize> {
    let number = (selector >> 3).checked_sub(GDT_PER_CPU)? as usize;
    (number < KERNEL_SEGMENTS).then_some(number)
}

/// Our selector for one of them.
pub(crate) fn real_kernel_segment(number: usize) -> u32 {
    ldt(GDT_PER_CPU + crate::address::as_word(number))
}

/// What a view's table gets for a descriptor of the Guest's kernel: data of
/// level 3 with the same base and limit, or nothing.
#[must_use]
pub fn entry_for(descriptor: Descriptor) -> Descriptor {
    /// All but the level, and bits that have no meaning for 32-bit data.
    const KEPT: u32 = 0xFFCF_9F00 | 0xFF;
    let is_data = descriptor.high & Descriptor::NOT_SYSTEM != 0
        && descriptor.high & Descriptor::CODE == 0;
    if !is_data || !descriptor.is_present() {
        return Descriptor::default();
    }
    let level = USER_PL << Descriptor::DPL_SHIFT;
    Descriptor {
        low: descriptor.low,
        high: descriptor.high & KEPT | level | Descriptor::ACCESSED,
    }
}

/// The entries that all views are to have, in the state that they share. All
/// zero is nothing.
#[derive(Default)]
#[repr(C)]
pub struct KernelSegments {
    /// The entries. A view reads them when it is made.
    entries: [Cell<Descriptor>; KERNEL_SEGMENTS],
    /// Changes so far; 0 = the Guest has loaded none of them yet.
    version: Cell<u32>,
}

impl KernelSegments {
    /// The entries, and the number of their version, for the table of a new
    /// view. What is in the state may be made up, so they are checked again.
    #[must_use]
    pub fn read(&self) -> ([Descriptor; KERNEL_SEGMENTS], u32) {
        let entries = [0, 1].map(|n: usize| entry_for(self.entries[n].get()));
        (entries, self.version.get())
    }
}

impl Host<'_> {
    /// What to load for a selector of one of them, or the vector of the fault
    /// that the Guest gets.
    pub(crate) fn load_own_segment(
        &self,
        number: usize,
        selector: u32,
        register: SegmentRegister,
    ) -> Result<u32, u8> {
        const REFUSED: Result<u32, u8> = Err(13);
        let others =
            !matches!(register, SegmentRegister::Fs | SegmentRegister::Gs);
        if self.vm.in_user_mode() || others {
            return REFUSED;
        }
        let descriptor = self.own_descriptor(number);
        let is_ours = selector & 4 != 0;
        let level = if is_ours { GUEST_PL } else { selector & 3 };
        if descriptor.dpl() < level.max(GUEST_PL) {
            return REFUSED;
        }
        if entry_for(descriptor) != Descriptor::default() {
            self.publish_segments();
            return Ok(real_kernel_segment(number));
        }
        let is_absent = !descriptor.is_present()
            && descriptor.high & Descriptor::NOT_SYSTEM != 0
            && descriptor.high & Descriptor::CODE == 0;
        if is_absent { Err(11) } else { REFUSED }
    }

    /// The base of one of them.
    pub(crate) fn own_base(&self, number: usize) -> u32 {
        self.own_descriptor(number).base()
    }

    fn own_descriptor(&self, number: usize) -> Descriptor {
        self.vm.gdt[GDT_PER_CPU as usize + number].get()
    }

    /// Descriptors have changed. Until the Guest has loaded one of these, they
    /// do not matter.
    pub(crate) fn note_own_descriptors(&self) {
        if self.vm.kernel_segments.version.get() != 0 {
            self.publish_segments();
        }
    }

    /// Makes the Guest's descriptors those that all views are to have.
    fn publish_segments(&self) {
        let segments = &self.vm.kernel_segments;
        let mut changed = false;
        for (number, entry) in segments.entries.iter().enumerate() {
            let wanted = entry_for(self.own_descriptor(number));
            changed |= entry.replace(wanted) != wanted;
        }
        if changed {
            let version = segments.version.get().wrapping_add(1);
            segments.version.set(version.max(1));
        }
    }

    /// Whether this view's table has other entries than it should have.
    #[inline]
    pub(crate) fn has_old_segments(&self) -> bool {
        self.vm.kernel_segments.version.get() != self.shadow.segments_version()
    }

    /// Has this view made anew, with the entries that there are now. In the
    /// real world this process ends here, and a new one goes on.
    #[cold]
    pub(crate) fn renew_view(&mut self) -> Result<(), Kill> {
        self.vm.counters.views_renewed.count();
        self.park_extended();
        self.world.renew_view()?;
        let (_, version) = self.vm.kernel_segments.read();
        self.shadow.set_segments_version(version);
        Ok(())
    }

    /// The Guest goes to user mode. A processor takes segments of a kernel away
    /// when it goes there.
    pub(crate) fn drop_own_segments(&self) {
        let regs = &self.vm.regs;
        let ours = |selector: u32| {
            selector & 4 != 0 && kernel_segment_number(selector).is_some()
        };
        for selector in [&regs.ds, &regs.es] {
            if ours(selector.get()) {
                selector.set(0);
            }
        }
        for (selector, base) in
            [(&regs.fs, &regs.fs_base), (&regs.gs, &regs.gs_base)]
        {
            if ours(selector.get()) {
                selector.set(0);
                base.set(0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
