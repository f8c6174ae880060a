//! A patch at the `iret` of the Guest's kernel.
//!
//! The kernel has told us where its way back is: it stores `irq_enabled`, pops
//! eax and executes `iret`, without an interrupt in between. A far jump takes
//! the place of the first two instructions, and the Host does all three. Since
//! Linux 4.1 it stores the flags of its frame instead, and pops nothing.

use super::far::{FAR, FAR_JUMP, far};
use super::ledger::table::{PatchKind, Place};
use super::trampoline::TrampolineKind;
use crate::address::{GuestPhys, GuestVirt};
use crate::fast_path;
use crate::host::Host;

impl Host<'_> {
    /// The kernel's `iret` has trapped, at eip: puts a trampoline in front of
    /// it.
    pub(crate) fn patch_iret(&mut self) {
        let vm = self.vm;
        let (start, end) = (vm.noirq_start.get(), vm.noirq_end.get());
        let at_iret = vm.regs.eip.get() == end.wrapping_sub(1);
        if !at_iret || !self.may_take(fast_path::IRET) {
            return;
        }
        if end.wrapping_sub(start) == 1 {
            return self.patch_later_iret(GuestVirt(start.wrapping_sub(11)));
        }
        if end.wrapping_sub(start) != 8 {
            return;
        }
        // mov %eax,%ss:irq_enabled; pop %eax; iret
        let mut code = [0; 8];
        let Some(place) = self.code(GuestVirt(start), &mut code) else {
            return;
        };
        let &[0x36, 0xA3, a, b, c, d, 0x58, 0xCF] = &code else {
            return;
        };
        let variable = GuestVirt(u32::from_le_bytes([a, b, c, d]));
        self.put_iret(GuestVirt(start), place, variable);
    }

    /// The same since Linux 4.1, for the code at `start`.
    fn patch_later_iret(&mut self, start: GuestVirt) {
        // push 8(%esp); pop %ss:irq_enabled; iret
        let mut code = [0; 12];
        let Some(place) = self.code(start, &mut code) else {
            return;
        };
        let &[0xFF, 0x74, 0x24, 8, 0x36, 0x8F, 5, a, b, c, d, 0xCF] = &code
        else {
            return;
        };
        let variable = GuestVirt(u32::from_le_bytes([a, b, c, d]));
        self.put_iret(start, place, variable);
    }

    /// Puts the trampoline at `start`, which is at `place` in memory, if the
    /// code there stores to `irq_enabled`.
    fn put_iret(
        &mut self,
        start: GuestVirt,
        place: GuestPhys,
        variable: GuestVirt,
    ) {
        let same = self.physical(variable)
            == Some(self.shared(self.layout().irq_enabled));
        if !same {
            return;
        }
        let (kind, place) = (PatchKind::Iret, Place::Memory(place));
        let Some(room) = self.room_for(kind, place, start, FAR) else {
            return;
        };
        let kind = TrampolineKind::Iret;
        if let Some(trampoline) = self.world.make_trampoline(kind, &[], 0) {
            self.write_patch(room, &far(FAR_JUMP, trampoline));
        }
    }
}
