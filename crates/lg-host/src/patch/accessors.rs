//! Patches in the functions by which drivers reach their devices.
//!
//! Nothing is mapped where the registers of a device are, so an access is a
//! page fault. A driver makes two for each request: it notifies the device, and
//! asks it why it has interrupted. In Linux both are in accessors (`iowrite16`,
//! `ioread8`), which first compare the address with that of the last port, and
//! go one way for ports and another for memory. The `mov` itself is too short
//! for a patch. But the comparison and what comes before the branch are long
//! enough, and they have no effect but on registers and flags. So the patch is
//! there. The Host carries out what was displaced and, if the branch leads to a
//! `mov` whose memory is a register of a device, that too. Anything else goes
//! on behind the patch.

use super::far::{FAR, FAR_CALL, NOP, far};
use super::ledger::table::{PatchKind, Place};
use super::limits::MAX_ACCESSOR;
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::cpu::registers::general;
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::state::Registers;

/// How far in front of a `mov` the comparison is looked for.
const LOOK_BACK: usize = 96;

/// Flags that a comparison changes.
const CARRY: u32 = 1;
const PARITY: u32 = 1 << 2;
const ADJUST: u32 = 1 << 4;
const ZERO: u32 = 1 << 6;
const SIGN: u32 = 1 << 7;
const OVERFLOW: u32 = 1 << 11;
const COMPARED: u32 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// An instruction of an accessor in front of its `mov`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `cmp $constant,%register`
    Compare(u8, u32),
    /// `movzwl %ax,%eax`, of any register
    Extend(u8),
    /// `ja` or `jbe`, so many bytes from behind it
    Branch { if_above: bool, by: i8 },
}

impl Step {
    /// The step that `code` begins with, and its bytes.
    fn of(code: &[u8]) -> Option<(Self, usize)> {
        Some(match *code {
            [0x3D, a, b, c, d, ..] => {
                (Self::Compare(0, u32::from_le_bytes([a, b, c, d])), 5)
            }
            [0x81, byte @ 0xF8..=0xFF, a, b, c, d, ..] => {
                let constant = u32::from_le_bytes([a, b, c, d]);
                (Self::Compare(byte & 7, constant), 6)
            }
            [0x0F, 0xB7, byte @ 0xC0..=0xFF, ..]
                if byte & 7 == byte >> 3 & 7 =>
            {
                (Self::Extend(byte & 7), 3)
            }
            [op @ (0x76 | 0x77), by, ..] => {
                let (if_above, by) = (op == 0x77, by.cast_signed());
                (Self::Branch { if_above, by }, 2)
            }
            _ => return None,
        })
    }

    /// Does it. Returns where the Guest goes on, if `behind` is the address
    /// behind the instruction.
    fn carry_out(self, regs: &Registers, behind: GuestVirt) -> GuestVirt {
        let flags = regs.eflags.get();
        match self {
            Self::Compare(register, constant) => {
                let value = general(regs, register).get();
                let flags = flags & !COMPARED | compared(value, constant);
                regs.eflags.set(flags);
            }
            Self::Extend(register) => {
                let cell = general(regs, register);
                cell.set(cell.get() & 0xFFFF);
            }
            Self::Branch { if_above, by } => {
                if if_above == (flags & (CARRY | ZERO) == 0) {
                    return GuestVirt(behind.0.wrapping_add_signed(by.into()));
                }
            }
        }
        behind
    }
}

/// The flags after a comparison of `a` with `b`.
fn compared(a: u32, b: u32) -> u32 {
    let difference = a.wrapping_sub(b);
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    flag(CARRY, a < b)
        | flag(PARITY, (difference & 0xFF).count_ones().is_multiple_of(2))
        | flag(ADJUST, (a ^ b ^ difference) & 0x10 != 0)
        | flag(ZERO, difference == 0)
        | flag(SIGN, difference >> 31 != 0)
        | flag(OVERFLOW, ((a ^ b) & (a ^ difference)) >> 31 != 0)
}

/// The steps at the beginning of `code`: a comparison, up to the branch. For
/// each, where it ends. At most four.
fn steps(code: &[u8]) -> Option<impl Iterator<Item = (Step, usize)> + '_> {
    matches!(Step::of(code)?.0, Step::Compare(..)).then_some(())?;
    let (mut at, mut more) = (0, 4_u32);
    Some(core::iter::from_fn(move || {
        more = more.checked_sub(1)?;
        let (step, length) = Step::of(code.get(at..)?)?;
        at += length;
        if matches!(step, Step::Branch { .. }) {
            more = 0;
        }
        Some((step, at))
    }))
}

impl Host<'_> {
    /// The kernel's `mov` at eip has faulted at a register of a device. Puts a
    /// trampoline in front of it if it is that of an accessor.
    pub(crate) fn patch_accessor(&mut self) {
        let at = self.vm.regs.eip.get();
        if !self.may_take(fast_path::ACCESSORS)
            || self.vm.in_user_mode()
            || self.is_refused(at)
        {
            return;
        }
        if !self.find_accessor(GuestVirt(at)) {
            self.refuse(at);
        }
    }

    /// Looks for the beginning of the accessor whose `mov` is at `at`, and
    /// patches it. Answers whether it did.
    fn find_accessor(&mut self, at: GuestVirt) -> bool {
        let back = (at.page_offset() as usize).min(LOOK_BACK);
        if back < FAR {
            return false;
        }
        let from = GuestVirt(at.0 - as_word(back));
        let mut code = [0; LOOK_BACK];
        let code = &mut code[..back];
        if self.code(from, code).is_none() {
            return false;
        }
        (0..back).any(|first| {
            let start = from.plus(as_word(first));
            let accessor = &code[first..];
            self.has_come_from(start, accessor, at)
                && self.patch_accessor_at(start, accessor)
        })
    }

    /// Whether the steps of `code`, which is at `start`, lead to `at`, and have
    /// had the effect that the registers show.
    fn has_come_from(
        &self,
        start: GuestVirt,
        code: &[u8],
        at: GuestVirt,
    ) -> bool {
        let Some(steps) = steps(code) else {
            return false;
        };
        let regs = Registers::default();
        for register in 0..8 {
            let value = general(&self.vm.regs, register).get();
            general(&regs, register).set(value);
        }
        let mut next = start;
        let mut branched = false;
        for (step, end) in steps {
            next = step.carry_out(&regs, start.plus(as_word(end)));
            branched = matches!(step, Step::Branch { .. });
        }
        let both = [&regs, &self.vm.regs];
        let is_same = |register| {
            let [ours, theirs] = both.map(|regs| general(regs, register).get());
            ours == theirs
        };
        let [ours, theirs] = both.map(|regs| regs.eflags.get() & COMPARED);
        branched && next == at && ours == theirs && (0..8).all(is_same)
    }

    fn patch_accessor_at(&mut self, start: GuestVirt, code: &[u8]) -> bool {
        let Some(mut ends) = steps(code) else {
            return false;
        };
        let Some(compare) = Step::of(code).map(|(_, length)| length) else {
            return false;
        };
        let Some((_, length)) = ends.find(|&(_, end)| end >= FAR) else {
            return false;
        };
        let end = start.0.wrapping_add(as_word(length));
        if length > MAX_ACCESSOR
            || self.is_jumped_into(start.0, end, as_word(compare))
        {
            return false;
        }
        let Some(place) = self.code(start, &mut [0; MAX_ACCESSOR][..length])
        else {
            return false;
        };
        let (kind, place) = (PatchKind::Accessor, Place::Memory(place));
        let Some(room) = self.room_for(kind, place, start, length) else {
            return false;
        };
        let kind = TrampolineKind::Accessor;
        let Some(trampoline) = self.world.make_trampoline(kind, &[], 0) else {
            return false;
        };
        let mut patch = [NOP; MAX_ACCESSOR];
        patch[..FAR].copy_from_slice(&far(FAR_CALL, trampoline));
        self.write_patch(room, &patch[..length]);
        true
    }

    /// Carries out what was displaced by the patch whose far call comes back to
    /// `back`, and the access behind it.
    pub(super) fn do_accessor(&mut self, back: u32) -> Result<(), Kill> {
        let vm = self.vm;
        let start = GuestVirt(back.wrapping_sub(as_word(FAR)));
        let Some(patch) = vm.ledger.find(PatchKind::Accessor, start) else {
            // It came here from a place that is not patched.
            vm.regs.eip.set(0);
            return self.deliver_trap(13, Some(0));
        };
        let mut next = start;
        let mut branched = false;
        for (step, end) in steps(patch.original()).into_iter().flatten() {
            next = step.carry_out(&vm.regs, start.plus(as_word(end)));
            branched = matches!(step, Step::Branch { .. });
        }
        vm.regs.eip.set(next.0);
        if !branched {
            self.take_branch();
        }
        self.access_ahead()
    }

    /// Carries out the branch at eip, if there is one.
    fn take_branch(&self) {
        let regs = &self.vm.regs;
        let at = GuestVirt(regs.eip.get());
        let mut code = [0; 2];
        if self.fetch(at, &mut code) == code.len()
            && let Some((step @ Step::Branch { .. }, length)) = Step::of(&code)
        {
            let next = step.carry_out(regs, at.plus(as_word(length)));
            regs.eip.set(next.0);
        }
    }
}

#[cfg(test)]
mod tests;
