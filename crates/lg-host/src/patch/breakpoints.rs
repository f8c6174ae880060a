//! A debugger's breakpoints in the Guest's memory.
//!
//! A breakpoint is an `int3` in the page itself, so that every program and
//! every view meets it. It is in the patch ledger like other patches, and a
//! debugger that reads memory does not see it. The Guest does, if it reads its
//! own code. A patch that is in the way ends: its site traps again, and is
//! patched anew when the breakpoint is gone.

use super::copies::INT3;
use super::ledger::table::{Patch, PatchKind, Place};
use crate::address::{GuestPhys, GuestVirt};
use crate::host::Host;
use lg_wire::debug::{MAX_SOFTWARE, Outcome};

impl Host<'_> {
    /// Plants a breakpoint at `va`.
    pub(crate) fn plant_breakpoint(&self, va: GuestVirt) -> Outcome {
        let Some(place) = self.place_of(va) else {
            return Outcome::NoSuch;
        };
        if self.planted_at(place).is_some() {
            return Outcome::Done;
        }
        if self.put_breakpoint(va, place) {
            Outcome::Done
        } else {
            Outcome::Full
        }
    }

    /// Puts a breakpoint at `place`, which the debugger sees at `va`. Answers
    /// whether there was room.
    pub(crate) fn put_breakpoint(
        &self,
        va: GuestVirt,
        place: GuestPhys,
    ) -> bool {
        let place = Place::Memory(place);
        for patch in self.vm.ledger.overlapping(place, 1) {
            self.end_patch(&patch);
        }
        let room = self.room_for(PatchKind::Breakpoint, place, va, 1);
        let has_room = room.is_some();
        if let Some(room) = room {
            self.write_patch(room, &[INT3]);
        }
        has_room
    }

    /// Removes the breakpoint that was planted at `va`, wherever that leads by
    /// now.
    pub(crate) fn remove_breakpoint(&self, va: GuestVirt) -> Outcome {
        match self.vm.ledger.find(PatchKind::Breakpoint, va) {
            Some(patch) => {
                self.end_patch(&patch);
                Outcome::Done
            }
            None => Outcome::NoSuch,
        }
    }

    /// Removes all of them.
    pub(crate) fn remove_breakpoints(&self) {
        for patch in self.breakpoints() {
            self.end_patch(&patch);
        }
    }

    /// If the byte at `va` is a breakpoint: the address at which the debugger
    /// has planted it.
    pub(crate) fn breakpoint_at(&self, va: GuestVirt) -> Option<GuestVirt> {
        let patch = self.planted_at(self.place_of(va)?)?;
        Some(patch.site)
    }

    /// Takes the breakpoint at `va` out of memory, if there is one. Answers the
    /// address at which the debugger has planted it, and its place.
    pub(crate) fn lift_breakpoint(
        &self,
        va: GuestVirt,
    ) -> Option<(GuestVirt, GuestPhys)> {
        let place = self.place_of(va)?;
        let patch = self.planted_at(place)?;
        self.end_patch(&patch);
        Some((patch.site, place))
    }

    /// Writes to the Guest's memory as if there were no patches in it.
    /// Breakpoints stay, before what was written; other patches end.
    pub(crate) fn write_below_patches(&self, place: GuestPhys, bytes: &[u8]) {
        let mut kept = [None; MAX_SOFTWARE];
        let mut free = kept.iter_mut();
        let there = Place::Memory(place);
        for patch in self.vm.ledger.overlapping(there, bytes.len()) {
            let Place::Memory(at) = patch.place else {
                continue;
            };
            let was_there = self.end_patch(&patch);
            if patch.kind == PatchKind::Breakpoint
                && was_there
                && let Some(free) = free.next()
            {
                *free = Some((patch.site, at));
            }
        }
        // The place was just read, so it is there.
        let _ = self.store_bytes(place, bytes);
        for (va, place) in kept.into_iter().flatten() {
            self.put_breakpoint(va, place);
        }
    }

    /// Takes all other patches back, so that code can be stepped.
    pub(crate) fn take_back_to_step(&self) {
        for patch in self.vm.ledger.patches() {
            if patch.kind != PatchKind::Breakpoint {
                self.take_back_for_steps(patch);
            }
        }
    }

    /// Makes them again. One without which the Guest has run is dropped, and
    /// made anew when its site traps.
    pub(crate) fn make_again_after_steps(&self) {
        for patch in self.vm.ledger.patches() {
            if patch.kind != PatchKind::Breakpoint {
                self.make_again_for_steps(patch);
            }
        }
    }

    /// The breakpoint at `place`.
    fn planted_at(&self, place: GuestPhys) -> Option<Patch> {
        let all = self.vm.ledger.overlapping(Place::Memory(place), 1);
        let mut all = all.filter(|p| p.kind == PatchKind::Breakpoint);
        // One that the Guest has overwritten is none.
        let is_there = |patch: &Patch| {
            self.memory.byte(place).is_ok_and(|byte| byte == INT3)
                && patch.is_in_place()
        };
        all.find(is_there)
    }

    fn breakpoints(&self) -> impl Iterator<Item = Patch> {
        let all = self.vm.ledger.beside(Place::Memory(GuestPhys(0)));
        all.filter(|patch| patch.kind == PatchKind::Breakpoint)
    }
}
