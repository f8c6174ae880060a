//! A debugger of the Guest: the part that the Host does for it.
//!
//! The Launcher talks to the debugger. The Host knows the Guest's registers,
//! its tables, and what was patched. So the Launcher lets the Guest stop at a
//! clean point and gives orders there ([`lg_wire::debug`]), which are carried
//! out in [`orders`]. What the Host tells is only as true as the view is: the
//! Launcher checks the form of it and believes nothing.
//!
//! The real debug registers belong to the machine. So a breakpoint is an `int3`
//! in the Guest's memory ([`crate::patch::breakpoints`]), or all of the Guest's
//! code is single-stepped and compared before each instruction ([`stepping`]).
//! The debug registers that the Guest believes in are apart from all of this
//! ([`crate::cpu::debug`]).
//!
//! As long as no debugger has given an order, one word is read at each visit.

mod frames;
use frames::Frames;

mod memory;
mod orders;
mod registers;
pub(crate) mod stepping;

use crate::address::GuestPhys;
use core::cell::Cell;
use lg_wire::debug::{Kind, MAX_OTHERS, Stop};

/// Bits of [`Debugger::work`].
mod work {
    /// The Guest stops after one instruction.
    pub(super) const STEP: u32 = 1 << 0;
    /// There are breakpoints that are compared before each instruction.
    pub(super) const COMPARE: u32 = 1 << 1;
    /// A breakpoint was lifted for one instruction.
    pub(super) const LIFTED: u32 = 1 << 2;
}

/// What the Host knows of a debugger. All zero is right at the beginning.
#[derive(Default)]
#[repr(C)]
pub struct Debugger {
    /// What there is to do at each instruction: bits of [`work`].
    work: Cell<u32>,
    /// 1 = the single-step flag in the registers is ours.
    armed: Cell<u32>,
    /// The single-step flag that was there before.
    own_step: Cell<u32>,
    /// What the instruction that is stepped does with the flags.
    flag_use: Cell<u32>,
    /// The watchpoint that it sets off, plus one.
    earned: Cell<u32>,
    /// 1 = the next instruction is not compared if it is where the Guest stood,
    /// and that address.
    passes: [Cell<u32>; 2],
    /// How many instructions come before the next interrupt.
    pause: Cell<u32>,
    /// The address of the instruction for which a breakpoint was lifted, and
    /// where that is.
    lifted: [Cell<u32>; 2],
    /// The address at which the debugger has planted it.
    planted: Cell<u32>,
    /// Why the Guest stands, as [`Stop`], and what belongs to it.
    stop: Cell<u32>,
    value: Cell<u32>,
    /// Fast paths that are switched off while the Guest is stepped.
    slow_paths: Cell<u32>,
    compared: [Compared; MAX_OTHERS],
    /// Where the programs are whose page directories are not loaded.
    frames: Frames,
}

/// A breakpoint that is compared.
#[derive(Default)]
#[repr(C)]
struct Compared {
    /// A [`Kind`]; 0, which is none of these, means that the place is free.
    kind: Cell<u32>,
    first: Cell<u32>,
    last: Cell<u32>,
}

impl Debugger {
    /// Whether there is anything to do at each instruction.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.work.get() != 0
    }

    fn has(&self, bits: u32) -> bool {
        self.work.get() & bits != 0
    }

    fn set(&self, bits: u32) {
        self.work.set(self.work.get() | bits);
    }

    fn clear(&self, bits: u32) {
        self.work.set(self.work.get() & !bits);
    }

    /// Whether the Guest has stopped by itself and does not stand yet.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        self.stop.get() != 0
    }

    /// Whether an interrupt is to wait: the next instruction is the one that
    /// the debugger means.
    fn keeps_interrupts(&self) -> bool {
        self.has(work::STEP | work::LIFTED) || self.passes[0].get() != 0
    }

    /// The breakpoint that was lifted: its address and its place.
    fn lifted(&self) -> Option<(u32, GuestPhys)> {
        let [va, place] = &self.lifted;
        self.has(work::LIFTED)
            .then(|| (va.get(), GuestPhys(place.get())))
    }

    /// Whether the instruction at `eip`, which is next, is not compared: the
    /// Guest stood there. An interrupt or a trap may have come first.
    fn passes(&self, eip: u32) -> bool {
        let [passes, stood] = &self.passes;
        passes.replace(0) != 0 && stood.get() == eip
    }

    /// The first breakpoint of those that are compared that is `meant`, by its
    /// kind and its first and last byte.
    fn find(&self, meant: impl Fn(Kind, u32, u32) -> bool) -> Option<usize> {
        self.compared.iter().position(|compared| {
            let Compared { kind, first, last } = compared;
            compared.is_used()
                && Kind::from_number(kind.get())
                    .is_some_and(|kind| meant(kind, first.get(), last.get()))
        })
    }

    /// The Guest is to stand, for this reason.
    fn note_stop(&self, stop: Stop, value: u32) {
        self.stop.set(stop as u32);
        self.value.set(value);
        self.clear(work::STEP);
    }
}

impl Compared {
    fn is_used(&self) -> bool {
        self.kind.get() != 0
    }
}

#[cfg(test)]
mod tests;
