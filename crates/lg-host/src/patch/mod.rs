//! Gates: the places where a Guest may come to us without a trap.
//!
//! A trap costs two microseconds, a far jump into 64-bit code costs a fiftieth
//! of that. So where the Guest's code is about to trap anyway, and where we are
//! sure what it does there, the trapping instruction is replaced by a far jump
//! to a *trampoline* in the Switcher's pages, which comes straight here. There
//! are three such places: the `iret` of the Guest's kernel, whose stretch it
//! has told us; its hypercalls; and the entry page that it gives its user
//! programs for system calls. A fourth patch is no trampoline: the instruction
//! with which its trap handlers load a data segment that means something else
//! here is made to load the right one. And where a program's code is not ours
//! to patch, it gets a copy that traps for less ([`patched copies`]).
//!
//! Everything is patched late, at a trap that came from the very place, and
//! only if what stands there is what we think: the registers must agree with
//! the instructions in front of it. A place that is refused goes on trapping,
//! which is always right. A Guest that reads its own code sees the patch; that
//! is the price, and `slow_paths` is for whoever cannot pay it.

pub mod copies;
pub mod direct;
pub mod displaced;
pub mod enabling;
mod jumps;

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::cpu::registers::{SegmentRegister, general};
use crate::fast_path;
use crate::kill::Kill;
use crate::run::Host;
use crate::state::{Gate, MAX_REFUSED};
use displaced::Store;
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::USER_DS;
use lg_abi::shared::IF;

/// What a trampoline stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TrampolineKind {
    /// The kernel's way back: eax goes to `irq_enabled`, eax is popped, and
    /// then comes `iret`.
    Iret = 1,
    /// A hypercall; the way back is on the stack.
    Hypercall = 2,
    /// A system call by the entry page; the way back is on the stack.
    EntryPage = 3,
    /// A hypercall with a store to memory in front of it, which is left to us
    /// with all that was displaced.
    HypercallAfterStore = 4,
    /// The kernel switches interrupts on; the way back is on the stack.
    Enabling = 5,
    /// A system call that its program makes itself ([`direct`]); the trampoline
    /// has put the way back into eip.
    DirectCall = 6,
}

impl TrampolineKind {
    /// Whether it is for user code.
    #[must_use]
    pub const fn is_users(self) -> bool {
        matches!(self, Self::EntryPage | Self::DirectCall)
    }
}

impl TrampolineKind {
    /// The kind with number `nr`.
    #[must_use]
    pub const fn from_number(nr: u32) -> Option<Self> {
        Some(match nr {
            1 => Self::Iret,
            2 => Self::Hypercall,
            3 => Self::EntryPage,
            4 => Self::HypercallAfterStore,
            5 => Self::Enabling,
            6 => Self::DirectCall,
            _ => return None,
        })
    }
}

/// The longest run of instructions that moves into a trampoline.
pub const MAX_DISPLACED: usize = 24;

/// Bytes of a far jump or call: opcode, address, selector.
const FAR: usize = 7;

const FAR_CALL: u8 = 0x9A;
const FAR_JUMP: u8 = 0xEA;
const NOP: u8 = 0x90;

/// The selector of 64-bit code, as it stands in a far jump.
#[allow(clippy::cast_possible_truncation)] // it is 0x33
const LONG_CS: u8 = crate::cpu::segments::REAL_LONG_CS as u8;

impl Host<'_> {
    /// The Guest came through a trampoline.
    pub(crate) fn enter_trampoline(
        &mut self,
        kind: TrampolineKind,
    ) -> Result<(), Kill> {
        let user = self.vm.in_user_mode();
        // A kernel may execute a page of user code.
        if kind != TrampolineKind::DirectCall && user != kind.is_users() {
            // A jump to a trampoline that is not for this mode. Where it came
            // from is lost; that it was wrong is not.
            self.vm.regs.eip.set(0);
            return self.deliver_trap(13, Some(0));
        }
        match kind {
            TrampolineKind::Iret => {
                self.vm.counters.iret_gates.count();
                self.set_irq_enabled(self.vm.regs.eax.get())?;
                let mut stack = self.vm.regs.esp.get();
                let eax = self.pop(&mut stack)?;
                self.vm.regs.eax.set(eax);
                self.vm.regs.esp.set(stack);
                // Where the trampoline's `iret` is, should it fault.
                let iret = self.vm.noirq_end.get().wrapping_sub(1);
                self.vm.regs.eip.set(iret);
                self.iret()
            }
            TrampolineKind::Hypercall => {
                self.vm.counters.hypercall_gates.count();
                let back = self.pop_far_return()?;
                self.vm.regs.eip.set(back);
                self.do_hypercall()
            }
            TrampolineKind::HypercallAfterStore => {
                self.vm.counters.store_gates.count();
                let back = self.pop_far_return()?;
                self.vm.regs.eip.set(back);
                if self.do_displaced(back)? {
                    self.do_hypercall()?;
                }
                Ok(())
            }
            TrampolineKind::Enabling => {
                self.vm.counters.enabling_gates.count();
                let back = self.pop_far_return()?;
                self.vm.regs.eip.set(back);
                self.set_irq_enabled(IF)
            }
            TrampolineKind::DirectCall => {
                self.vm.counters.direct_calls.count();
                self.system_call()
            }
            TrampolineKind::EntryPage => {
                self.vm.counters.entry_page_gates.count();
                let Ok(back) = self.pop_far_return() else {
                    // Nobody who came by the far call has no stack.
                    self.vm.regs.eip.set(0);
                    return self.deliver_trap(12, Some(0));
                };
                self.vm.regs.eip.set(back.wrapping_sub(ENTRY_BACK));
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

    pub(crate) fn may_take(&self, path: u32) -> bool {
        self.vm.slow_paths.get() & path == 0
    }

    /// Whether `site` was found to be one that gets no trampoline.
    fn is_refused(&self, site: u32) -> bool {
        self.vm.refused.iter().any(|refused| refused.get() == site)
    }

    /// Remembers that `site` gets no trampoline; the oldest such is forgotten.
    fn refuse(&self, site: u32) {
        let count = self.vm.refused_count.get();
        self.vm.refused[count as usize % MAX_REFUSED].set(site);
        self.vm.refused_count.set(count.wrapping_add(1));
    }

    /// The kernel's `iret` has trapped, at eip: puts a trampoline in front of
    /// it.
    pub(crate) fn patch_iret(&mut self) {
        let vm = self.vm;
        let (start, end) = (vm.noirq_start.get(), vm.noirq_end.get());
        let at_iret = vm.regs.eip.get() == end.wrapping_sub(1);
        if !at_iret || end.wrapping_sub(start) != 8 {
            return;
        }
        if !self.may_take(fast_path::IRET) {
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
        let same = self.physical(variable)
            == Some(self.shared(self.layout().irq_enabled));
        if !same {
            return;
        }
        let trampoline = self.world.make_trampoline(TrampolineKind::Iret, &[]);
        if let Some(trampoline) = trampoline {
            self.patch(place, &far(FAR_JUMP, trampoline));
            vm.counters.patches.count();
        }
    }

    /// A hypercall has trapped; eip is at its `int`. Puts a trampoline in its
    /// place if the instructions before it leave room.
    pub(crate) fn patch_hypercall(&mut self) {
        if !self.may_take(fast_path::HYPERCALL) {
            return;
        }
        let int = self.vm.regs.eip.get();
        if self.is_refused(int) {
            return; // reading the code around it once is enough
        }
        if int % PAGE_SIZE < as_word(MAX_DISPLACED) {
            return; // it may begin in another page
        }
        let from = GuestVirt(int - as_word(MAX_DISPLACED));
        let mut code = [0; MAX_DISPLACED + 2];
        let Some(place) = self.code(from, &mut code) else {
            return;
        };
        let displaced = self.displaceable(&code[..MAX_DISPLACED]);
        if displaced + 2 < FAR {
            return;
        }
        let first = MAX_DISPLACED - displaced;
        let start = from.plus(as_word(first));
        let moved = &code[first..MAX_DISPLACED];
        let store = Store::at_the_start_of(moved).map_or(0, |s| s.length);
        if self.is_jumped_into(start.0, int + 2, as_word(store)) {
            self.refuse(int);
            return;
        }
        let trampoline = if store == 0 {
            self.world.make_trampoline(TrampolineKind::Hypercall, moved)
        } else {
            self.make_trampoline_after_store(start.0, moved)
        };
        if let Some(trampoline) = trampoline {
            let mut patch = [NOP; MAX_DISPLACED + 2];
            let patch = &mut patch[..displaced + 2];
            patch[..FAR].copy_from_slice(&far(FAR_CALL, trampoline));
            self.patch(place.plus(as_word(first)), patch);
            self.vm.counters.patches.count();
        }
    }

    /// How many bytes at the end of `code` are instructions that can be moved
    /// elsewhere: loads of a register with a small constant or with another
    /// register, and in front of them a store. Bytes can be read in more ways
    /// than one, so each must also have had the effect that we see in the
    /// registers, or in memory.
    fn displaceable(&self, code: &[u8]) -> usize {
        let regs = &self.vm.regs;
        let value = |number: u8| general(regs, number).get();
        let mut length = 0;
        // What a register held before the instructions that we have taken is
        // not known, so each may be written but once, and not read before.
        let mut written = 0_u8;
        let mut flags_written = false;
        loop {
            let rest = &code[..code.len() - length];
            let step = match *rest {
                [.., op @ 0xB8..=0xBF, a, b, 0, 0]
                    if op != 0xBC
                        && value(op) == u32::from_le_bytes([a, b, 0, 0]) =>
                {
                    Some((op & 7, 5))
                }
                // mov %reg,%reg
                [.., 0x89, modrm @ 0xC0..=0xFF]
                    if modrm & 7 != 4
                        && written & 1 << (modrm >> 3 & 7) == 0
                        && value(modrm) == value(modrm >> 3) =>
                {
                    Some((modrm & 7, 2))
                }
                // xor %reg,%reg with itself
                [.., 0x31, modrm @ 0xC0..=0xFF]
                    if modrm & 7 == modrm >> 3 & 7
                        && modrm & 7 != 4
                        && value(modrm) == 0 =>
                {
                    Some((modrm & 7, 2))
                }
                _ => None,
            };
            match step {
                Some((register, bytes)) if written & 1 << register == 0 => {
                    flags_written |= rest[rest.len() - 2] == 0x31;
                    written |= 1 << register;
                    length += bytes;
                }
                _ => {
                    let store = Store::at_the_end_of(rest);
                    let done = store.filter(|store| {
                        // Where its register holds something else by now, its
                        // effect cannot be seen; it is read in step, too.
                        let lost = written & 1 << store.needs != 0;
                        !flags_written && (lost || self.has_stored(store))
                    });
                    return length + done.map_or(0, |store| store.length);
                }
            }
            if length + 2 >= FAR {
                return length;
            }
        }
    }

    /// A system call has trapped; eip is behind its `int $0x80`. If that was in
    /// the entry page that the kernel gives its user programs, puts a
    /// trampoline there. Every program has the same page.
    pub(crate) fn patch_entry_page(&mut self) {
        if !self.may_take(fast_path::ENTRY_PAGE) {
            return;
        }
        let eip = self.vm.regs.eip.get();
        let page = GuestVirt(eip & !(PAGE_SIZE - 1));
        let entry = eip.wrapping_sub(2) & (PAGE_SIZE - 1);
        let mut header = [0; 28];
        let Some(frame) = self.code(page, &mut header) else {
            return;
        };
        let is_elf = header.starts_with(b"\x7fELF");
        let [.., a, b, c, d] = header;
        let says = u32::from_le_bytes([a, b, c, d]) & (PAGE_SIZE - 1);
        if !is_elf || says != entry {
            return;
        }
        // int $0x80; ret; and nothing up to the signal return, 32 bytes on:
        // pop %eax; mov $119,%eax.
        let mut code = [0; ENTRY_ROOM + 3];
        let Some(place) = self.code(page.plus(entry), &mut code) else {
            return;
        };
        let fits = code.starts_with(&[0xCD, 0x80, 0xC3])
            && code[3..ENTRY_ROOM]
                .iter()
                .all(|&b| matches!(b, 0 | NOP | 0xCC))
            && code.ends_with(&[0x58, 0xB8, 0x77]);
        debug_assert_eq!(place, frame.plus(entry), "one page");
        if !fits {
            return;
        }
        let trampoline =
            self.world.make_trampoline(TrampolineKind::EntryPage, &[]);
        if let Some(trampoline) = trampoline {
            // The call first, then the jump to it: a program may be at the
            // entry at any time. The way back and a restart stay where they
            // were, behind and at the first instruction.
            let call = place.plus(u32::from(ENTRY_CALL));
            self.patch(call, &far(FAR_CALL, trampoline));
            self.patch(place, &[0xEB, ENTRY_CALL - 2]);
            self.vm.counters.patches.count();
        }
    }

    /// A trap handler has loaded the user's data segment, which does not do
    /// here, and has just found out. Its code is changed to load the one that
    /// does.
    pub(crate) fn patch_segment_load(&mut self) {
        if !self.may_take(fast_path::SEGMENTS) {
            return;
        }
        let mut at = GuestVirt(self.vm.last_handler.replace(0));
        if at.0 == 0 {
            return;
        }
        for _ in 0..3 {
            let mut code = [0; 192];
            let got = self.fetch(at, &mut code);
            if let Some(immediate) = segment_load(&code[..got]) {
                let immediate = at.plus(as_word(immediate));
                if let Some(place) = self.physical(immediate) {
                    let real =
                        crate::cpu::segments::REAL_KERNEL_DS.to_le_bytes();
                    self.patch(place, &real[..1]);
                    self.vm.counters.patches.count();
                }
                return;
            }
            // A handler that only pushes something and jumps to the common
            // code.
            match first_jump(&code[..got]) {
                Some((length, by)) => {
                    at = at.plus(length).plus(by.cast_unsigned());
                }
                None => return,
            }
        }
    }

    /// Copies kernel or entry-page code at `va`, which must lie in one page;
    /// answers where it is.
    fn code(&self, va: GuestVirt, code: &mut [u8]) -> Option<GuestPhys> {
        let last = va.plus(as_word(code.len()) - 1);
        if va.page_number() != last.page_number() {
            return None;
        }
        let place = self.physical(va)?;
        self.memory.read(place, code).ok()?;
        Some(place)
    }

    fn physical(&self, va: GuestVirt) -> Option<GuestPhys> {
        let entry = self.entry(va)?;
        Some(GuestPhys(entry.pte.frame()).plus(va.page_offset()))
    }

    fn patch(&mut self, place: GuestPhys, code: &[u8]) {
        // The place was just read, so it is there.
        let _ = self.store_bytes(place, code);
    }

    /// Remembers which handler the Guest was sent to.
    pub(crate) fn note_handler(&self, trampoline: Gate) {
        self.vm.last_handler.set(trampoline.handler);
    }
}

/// Bytes from the entry to the signal return behind it.
const ENTRY_ROOM: usize = 32;

/// Where in the entry page's code the far call goes: behind the `ret`, with
/// room around it.
const ENTRY_CALL: u8 = 16;

/// From behind the far call back to the `ret`.
const ENTRY_BACK: u32 = ENTRY_CALL as u32 + as_word(FAR) - 2;

/// A far jump or call to `trampoline`.
fn far(opcode: u8, trampoline: u32) -> [u8; FAR] {
    let [a, b, c, d] = trampoline.to_le_bytes();
    [opcode, a, b, c, d, LONG_CS, 0]
}

/// Where in `code` the constant is that goes into ds and es: `mov $0x7b,%reg`
/// with reg = ecx or edx, and soon `mov %reg,%ds; mov %reg,%es`.
fn segment_load(code: &[u8]) -> Option<usize> {
    #[allow(clippy::cast_possible_truncation)] // it is 0x7B
    const USER: u8 = USER_DS as u8;
    (0..code.len()).find_map(|i| {
        let &[op @ (0xB9 | 0xBA), USER, 0, 0, 0, ref rest @ ..] = &code[i..]
        else {
            return None;
        };
        let register = op & 7;
        let loads = [0x8E, 0xD8 | register, 0x8E, 0xC0 | register];
        let near = &rest[..rest.len().min(16)];
        near.windows(loads.len())
            .any(|w| w == loads)
            .then_some(i + 1)
    })
}

/// The jump behind at most one push at the start of `code`: the length up to
/// its end, and how far it goes from there.
fn first_jump(code: &[u8]) -> Option<(u32, i32)> {
    let pushed = match code.first()? {
        0x68 => 5,
        0x6A => 2,
        _ => 0,
    };
    // A second push: the error code that the processor did not push.
    let more = match code.get(pushed)? {
        0x68 => 5,
        0x6A => 2,
        _ => 0,
    };
    let at = pushed + more;
    match *code.get(at..)? {
        [0xEB, by, ..] => Some((as_word(at) + 2, i32::from(by.cast_signed()))),
        [0xE9, a, b, c, d, ..] => {
            Some((as_word(at) + 5, i32::from_le_bytes([a, b, c, d])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
