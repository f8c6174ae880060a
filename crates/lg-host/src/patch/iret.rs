//! A patch at the `iret` of the Guest's kernel.
//!
//! The kernel has told us where its way back is: it stores `irq_enabled`, pops
//! eax and executes `iret`, without an interrupt in between. A far jump takes
//! the place of the first two instructions, and the Host does all three. Since
//! Linux 4.1 it stores the flags of its frame instead, and pops nothing.

use super::far::{FAR, FAR_JUMP, far, near_jump};
use super::ledger::table::{PatchKind, Place};
use super::trampoline::TrampolineKind;
use crate::address::{GuestPhys, GuestVirt};
use crate::cpu::instruction::HLT;
use crate::fast_path;
use crate::host::Host;

impl Host<'_> {
    /// The kernel's `iret` has trapped, at eip: puts a trampoline in front of
    /// it, or has it trap always.
    pub(crate) fn patch_iret(&mut self) {
        if self.put_trampoline().is_none() {
            self.make_iret_trap();
        }
    }

    fn put_trampoline(&mut self) -> Option<()> {
        let vm = self.vm;
        let (start, end) = (vm.noirq_start.get(), vm.noirq_end.get());
        if !self.expects_trampoline() {
            return None;
        }
        match end.wrapping_sub(start) {
            1 => self.patch_later_iret(GuestVirt(start.wrapping_sub(11))),
            8 => self.patch_first_iret(GuestVirt(start)),
            _ => None,
        }
    }

    /// Whether the `iret` at eip is the one that the kernel has told us of.
    fn expects_trampoline(&self) -> bool {
        let iret = self.vm.noirq_end.get().wrapping_sub(1);
        self.vm.regs.eip.get() == iret && self.may_take(fast_path::IRET)
    }

    /// An `iret` without a trampoline traps because the real processor does not
    /// know the selectors of the Guest. It would not trap, and leave the Guest
    /// in its kernel's mode, if a program had put a code selector of the
    /// machine's kernel into the frame. So from its first trap on, a `hlt`
    /// stands there.
    fn make_iret_trap(&mut self) {
        let site = GuestVirt(self.vm.regs.eip.get());
        let mut code = [0];
        let Some(place) = self.code(site, &mut code) else {
            return;
        };
        let (kind, place) = (PatchKind::TrappingIret, Place::Memory(place));
        if let Some(room) = self.room_for(kind, place, site, code.len()) {
            self.write_patch(room, &[HLT]);
        }
    }

    /// Whether the kernel is at an `iret` that we made a `hlt`. If it can have
    /// a trampoline by now, it is an `iret` again, and gets it.
    pub(crate) fn is_trapping_iret(&mut self) -> bool {
        let mut code = [0];
        let site = GuestVirt(self.vm.regs.eip.get());
        let Some(place) = self.code(site, &mut code) else {
            return false;
        };
        let mut there = self.vm.ledger.overlapping(Place::Memory(place), 1);
        let patch = there.find(|p| p.kind == PatchKind::TrappingIret);
        let Some(patch) = patch.filter(|_| code == [HLT]) else {
            return false;
        };
        if self.expects_trampoline() && self.end_patch(&patch) {
            self.patch_iret();
        }
        true
    }

    /// Puts a trampoline at `start`, if the code there is Linux's before 4.1.
    fn patch_first_iret(&mut self, start: GuestVirt) -> Option<()> {
        // mov %eax,%ss:irq_enabled; pop %eax; iret
        let mut code = [0; 8];
        let place = self.code(start, &mut code)?;
        let &[0x36, 0xA3, a, b, c, d, 0x58, 0xCF] = &code else {
            return None;
        };
        let variable = GuestVirt(u32::from_le_bytes([a, b, c, d]));
        self.put_iret(start, place, variable)
    }

    /// The same since Linux 4.1.
    fn patch_later_iret(&mut self, start: GuestVirt) -> Option<()> {
        // push 8(%esp); pop %ss:irq_enabled; iret
        let mut code = [0; 12];
        let place = self.code(start, &mut code)?;
        let &[0xFF, 0x74, 0x24, 8, 0x36, 0x8F, 5, a, b, c, d, 0xCF] = &code
        else {
            return None;
        };
        let variable = GuestVirt(u32::from_le_bytes([a, b, c, d]));
        self.put_iret(start, place, variable)
    }

    /// Puts the trampoline at `start`, which is at `place` in memory, if the
    /// code there stores to `irq_enabled`.
    fn put_iret(
        &mut self,
        start: GuestVirt,
        place: GuestPhys,
        variable: GuestVirt,
    ) -> Option<()> {
        let irq_enabled = self.shared(self.layout().irq_enabled);
        if self.physical(variable) != Some(irq_enabled) {
            return None;
        }
        let (kind, place) = (PatchKind::Iret, Place::Memory(place));
        let room = self.room_for(kind, place, start, FAR)?;
        let kind = TrampolineKind::Iret;
        let trampoline = self.world.make_trampoline(kind, &[], 0)?;
        let patch = if self.may_cross() {
            let iret = self.vm.noirq_end.get().wrapping_sub(1);
            let is_later = self.vm.noirq_start.get() == iret;
            let way = self.engage_way_out(trampoline, variable, is_later);
            near_jump(start, way)
        } else {
            far(FAR_JUMP, trampoline)
        };
        self.write_patch(room, &patch);
        Some(())
    }
}
