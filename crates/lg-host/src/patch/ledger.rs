//! The patch ledger: the one way by which bytes are patched, and back.
//!
//! Every byte that we change in the Guest's memory or in a patched copy is
//! written down first, with what stood there ([`table`]). So a snapshot or a
//! debugger can have the memory as the Guest wrote it: [`Host::take_back`] and
//! [`Host::take_back_all`] put the bytes back, [`Host::make_again`] and
//! [`Host::make_all_again`] make the same patches anew.
//!
//! Four rules:
//!
//! - Where there is no room in the table, there is no patch. The site goes on
//!   trapping, which is always right.
//! - Patches do not overlap. A site whose patch was taken back gets no other
//!   one until that is made again.
//! - A patch whose bytes are not what we left there is *stale*: the Guest has
//!   written there. Its entry is dropped, and nothing is written.
//! - A Guest that stands at a patch stands in front of it or behind it. So it
//!   goes on rightly after the bytes were put back. The reverse is not true. So
//!   a patch is made again only if the Guest has not run in between. Otherwise
//!   its entry is dropped, and the site is patched anew when it traps.

pub mod table;

use super::copies::copy;
use crate::address::GuestVirt;
use crate::host::Host;
use table::{
    ALL_TAKEN_BACK, MAX_PATCH, Patch, PatchId, PatchKind, Place, STEPPED,
    TAKEN_BACK,
};

/// Room for a patch: a place that has none, and a free entry.
pub(super) struct Room(Patch);

impl Host<'_> {
    /// Room for a patch of `length` bytes at `place`, which the Guest's code
    /// sees at `site`.
    // Patches are rare, and this must not be in the frame of every entry.
    #[inline(never)]
    pub(super) fn room_for(
        &self,
        kind: PatchKind,
        place: Place,
        site: GuestVirt,
        length: usize,
    ) -> Option<Room> {
        let ledger = &self.vm.ledger;
        for other in ledger.overlapping(place, length) {
            if !self.drop_if_stale(&other) {
                return None;
            }
        }
        let id = ledger.free(kind, place, length).or_else(|| {
            for other in ledger.beside(place) {
                self.drop_if_stale(&other);
            }
            ledger.free(kind, place, length)
        })?;
        let mut original = [0; MAX_PATCH];
        self.read_place(place, original.get_mut(..length)?)?;
        Some(Room(Patch {
            id,
            kind,
            place,
            site,
            taken_back: 0,
            since: 0,
            length,
            original,
            ours: [0; MAX_PATCH],
        }))
    }

    /// Patches: writes `ours` where there is [`Room`], and writes it down.
    pub(super) fn write_patch(&self, room: Room, ours: &[u8]) {
        let Room(mut patch) = room;
        debug_assert_eq!(ours.len(), patch.length, "{:?}", patch.kind);
        for (to, &byte) in patch.ours.iter_mut().zip(ours) {
            *to = byte;
        }
        self.vm.ledger.record(&patch);
        self.write_place(patch.place, patch.ours());
        self.trace_patch(patch.kind, patch.site, patch.length);
        // A slot is part of its call. The other two are no fast paths.
        if !matches!(
            patch.kind,
            PatchKind::DirectSlot
                | PatchKind::TrappingIret
                | PatchKind::Breakpoint
        ) {
            self.vm.counters.patches.count();
        }
    }

    /// Takes a patch back until [`make_again`](Self::make_again); of a direct
    /// call, all of its copy, because a jump and its slot depend on each other.
    /// Answers whether it is known; a stale one is dropped.
    pub fn take_back(&self, id: PatchId) -> bool {
        self.with_its_others(id, |patch| self.take_back_for(patch, TAKEN_BACK))
    }

    /// Takes all patches back until [`make_all_again`](Self::make_all_again).
    /// After that, memory is what the Guest wrote, and patched copies are what
    /// their pages are.
    pub fn take_back_all(&self) {
        for patch in self.vm.ledger.patches() {
            self.take_back_for(patch, ALL_TAKEN_BACK);
        }
    }

    /// Makes a patch again that [`take_back`](Self::take_back) has taken back.
    /// Answers whether it is known. A stale one, or one without which the Guest
    /// has run, is dropped.
    pub fn make_again(&self, id: PatchId) -> bool {
        self.with_its_others(id, |patch| self.make_again_for(patch, TAKEN_BACK))
    }

    /// Makes the patches again that [`take_back_all`](Self::take_back_all) has
    /// taken back. One that was taken back on its own, too, stays so.
    pub fn make_all_again(&self) {
        for patch in self.vm.ledger.patches() {
            self.make_again_for(patch, ALL_TAKEN_BACK);
        }
    }

    /// Takes a patch back while a debugger steps the Guest.
    pub(super) fn take_back_for_steps(&self, patch: Patch) {
        self.take_back_for(patch, STEPPED);
    }

    /// Makes it again when that is over.
    pub(super) fn make_again_for_steps(&self, patch: Patch) {
        if patch.taken_back & STEPPED != 0 {
            self.make_again_for(patch, STEPPED);
        }
    }

    /// Does something with a patch, and with those that depend on it. Answers
    /// whether it could with all of them.
    fn with_its_others(
        &self,
        id: PatchId,
        mut act: impl FnMut(Patch) -> bool,
    ) -> bool {
        let ledger = &self.vm.ledger;
        let Some(patch) = ledger.patch(id) else {
            return false;
        };
        if !patch.kind.is_direct() {
            return act(patch);
        }
        let direct = ledger.beside(patch.place).filter(|p| p.kind.is_direct());
        let mut all = true;
        for patch in direct {
            all &= act(patch);
        }
        all
    }

    /// Takes a patch back, for `reason`.
    fn take_back_for(&self, mut patch: Patch, reason: u8) -> bool {
        if self.drop_if_stale(&patch) {
            return false;
        }
        if patch.is_in_place() {
            self.write_place(patch.place, patch.original());
            patch.since = self.entries();
        }
        patch.taken_back |= reason;
        self.vm.ledger.record(&patch);
        true
    }

    /// Makes a patch again, unless another reason is left.
    fn make_again_for(&self, mut patch: Patch, reason: u8) -> bool {
        if self.drop_if_stale(&patch) {
            return false;
        }
        let was_in_place = patch.is_in_place();
        patch.taken_back &= !reason;
        if patch.is_in_place() && !was_in_place {
            if patch.since != self.entries() {
                // The Guest may stand at an instruction in the middle.
                self.vm.ledger.forget(patch.id);
                return false;
            }
            self.write_place(patch.place, patch.ours());
            patch.since = 0;
        }
        self.vm.ledger.record(&patch);
        true
    }

    /// How often the Guest has stopped, in few bits.
    fn entries(&self) -> u32 {
        let [a, b, c, d, ..] = self.vm.counters.entries.get().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Ends a patch. Answers whether it was in its place.
    pub(super) fn end_patch(&self, patch: &Patch) -> bool {
        if self.drop_if_stale(patch) {
            return false;
        }
        if patch.is_in_place() {
            self.write_place(patch.place, patch.original());
        }
        self.vm.ledger.forget(patch.id);
        patch.is_in_place()
    }

    /// Drops the entry of a patch whose bytes are not what we left there.
    /// Answers whether it was.
    fn drop_if_stale(&self, patch: &Patch) -> bool {
        let mut there = [0; MAX_PATCH];
        let there = &mut there[..patch.length];
        let read = self.read_place(patch.place, there);
        let is_stale = read.is_none() || there != patch.expected();
        if is_stale {
            self.vm.ledger.forget(patch.id);
        }
        is_stale
    }

    fn read_place(&self, place: Place, bytes: &mut [u8]) -> Option<()> {
        match place {
            Place::Memory(at) => self.memory.read(at, bytes),
            Place::Copy(number, at) => {
                self.copies.read(copy(number).plus(at), bytes)
            }
        }
        .ok()
    }

    fn write_place(&self, place: Place, bytes: &[u8]) {
        // The place was just read, so it is there.
        let _ = match place {
            Place::Memory(at) => self.store_bytes(at, bytes),
            Place::Copy(number, at) => {
                self.copies.write(copy(number).plus(at), bytes)
            }
        };
    }
}

#[cfg(test)]
mod oracle;

#[cfg(test)]
mod tests;
