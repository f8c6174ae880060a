//! The table of all patches: what stood there, what stands there now, and why.
//!
//! The table has a fixed size and lies in the state that the views share. Each
//! entry is one patch. The entries are shared out in advance: some for each
//! kind that is rare and searched often, the rest for the other patches in the
//! Guest's memory, and a share for each patched copy. So no kind can take the
//! room of another. Nothing here writes to the Guest's memory: that is done by
//! [`Host`](crate::host::Host), in [`ledger`](super).
//!
//! A reader outside of the view must not believe an entry: it checks the place
//! before it uses it, like everything in the state.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::patch::limits::MAX_DISPLACED;
use core::cell::Cell;
use core::ops::Range;
use lg_wire::debug::MAX_SOFTWARE;
use lg_wire::state::MAX_COPIES;

/// Bytes of the longest patch: the one in the entry page. Trampolines displace
/// less, with their `int`.
pub const MAX_PATCH: usize = 29;

const _: () = assert!(MAX_PATCH >= MAX_DISPLACED + 2);

/// Bytes of the longest patch in a patched copy: a trampoline slot.
const MAX_IN_COPY: usize = 7;

/// Hypercalls with a store in front of them that can have a trampoline.
const MAX_STORES: usize = 8;

/// Places that can have a trampoline where interrupts are switched on: a kernel
/// has a few ways to its disks.
const MAX_ENABLING: usize = 8;

/// Accessors of devices that can have a trampoline.
const MAX_ACCESSORS: usize = 8;

/// Other patches in the Guest's memory.
const MAX_OTHERS: usize = 128;

/// Patches in the Guest's memory. A debugger's breakpoints come last.
pub const MAX_IN_MEMORY: usize = FIRST_OTHER + MAX_OTHERS + MAX_SOFTWARE;

/// The entries of kinds that are rare and searched often come first.
const FIRST_ACCESSOR: usize = MAX_STORES + MAX_ENABLING;
const FIRST_OTHER: usize = FIRST_ACCESSOR + MAX_ACCESSORS;

/// Patches in one patched copy.
pub const MAX_PER_COPY: usize = 64;

/// Why there is a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PatchKind {
    /// A far jump to a trampoline in front of the kernel's `iret`.
    Iret = 1,
    /// A far call to a trampoline in the place of a hypercall.
    Hypercall = 2,
    /// The same for a hypercall with a store in front of it.
    HypercallAfterStore = 3,
    /// A far call to a trampoline where the kernel switches interrupts on.
    Enabling = 4,
    /// A far call to a trampoline in the entry page, and a jump to it.
    EntryPage = 5,
    /// The selector of the data segment that a trap handler loads.
    SegmentLoad = 6,
    /// An `int3` in a patched copy, in the place of `int $0x80`.
    Int3 = 7,
    /// A jump in a patched copy to a trampoline slot, in the place of
    /// `int $0x80`.
    DirectCall = 8,
    /// A jump in a patched copy to a trampoline, in a trampoline slot.
    DirectSlot = 9,
    /// A `hlt` in the place of the kernel's `iret`.
    TrappingIret = 10,
    /// An `int3` of a debugger.
    Breakpoint = 11,
    /// A far call to a trampoline in an accessor of devices.
    Accessor = 12,
    /// A near call to a trampoline in 32-bit code in the place of a hypercall.
    NearHypercall = 13,
}

impl PatchKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Iret,
        Self::Hypercall,
        Self::HypercallAfterStore,
        Self::Enabling,
        Self::EntryPage,
        Self::SegmentLoad,
        Self::Int3,
        Self::DirectCall,
        Self::DirectSlot,
        Self::TrappingIret,
        Self::Breakpoint,
        Self::Accessor,
        Self::NearHypercall,
    ];

    /// Whether it is a part of a direct call.
    pub(super) fn is_direct(self) -> bool {
        matches!(self, Self::DirectCall | Self::DirectSlot)
    }

    /// The entries for patches of this kind in the Guest's memory.
    fn share(self) -> Range<usize> {
        match self {
            Self::HypercallAfterStore => 0..MAX_STORES,
            Self::Enabling => MAX_STORES..FIRST_ACCESSOR,
            Self::Accessor => FIRST_ACCESSOR..FIRST_OTHER,
            Self::Breakpoint => MAX_IN_MEMORY - MAX_SOFTWARE..MAX_IN_MEMORY,
            _ => FIRST_OTHER..MAX_IN_MEMORY - MAX_SOFTWARE,
        }
    }
}

/// Where a patch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the Guest's memory.
    Memory(GuestPhys),
    /// In a patched copy: its number, and where in the page.
    Copy(usize, u32),
}

impl Place {
    /// The place this many bytes behind.
    pub(in crate::patch) fn plus(self, bytes: u32) -> Self {
        match self {
            Self::Memory(at) => Self::Memory(at.plus(bytes)),
            Self::Copy(number, at) => {
                Self::Copy(number, at.wrapping_add(bytes))
            }
        }
    }

    /// How many bytes this place is behind the beginning of its memory.
    fn offset(self) -> u32 {
        match self {
            Self::Memory(at) => at.0,
            Self::Copy(_, at) => at,
        }
    }
}

/// The number of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchId(usize);

/// A patch, as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Its entry.
    pub id: PatchId,
    /// Why it is there.
    pub kind: PatchKind,
    /// Where it is.
    pub place: Place,
    /// Where the Guest's code saw that place when the patch was made.
    pub site: GuestVirt,
    /// Why it is not in its place at the moment: [`TAKEN_BACK`],
    /// [`ALL_TAKEN_BACK`] and [`STEPPED`]. 0 = it is.
    pub taken_back: u8,
    /// The count of the Host's entries when it was first taken back; 0 while it
    /// is in its place.
    pub(super) since: u32,
    pub(super) length: usize,
    pub(super) original: [u8; MAX_PATCH],
    pub(super) ours: [u8; MAX_PATCH],
}

/// This one patch was taken back.
pub const TAKEN_BACK: u8 = 1 << 0;

/// All patches were taken back.
pub const ALL_TAKEN_BACK: u8 = 1 << 1;

/// A debugger steps the Guest.
pub const STEPPED: u8 = 1 << 2;

impl Patch {
    /// What stood there before.
    #[must_use]
    pub fn original(&self) -> &[u8] {
        &self.original[..self.length]
    }

    /// What the patch is.
    #[must_use]
    pub fn ours(&self) -> &[u8] {
        &self.ours[..self.length]
    }

    /// Whether it is in its place, unless the Guest has overwritten it.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.taken_back == 0
    }

    /// What stands there, unless the Guest has overwritten it.
    #[must_use]
    pub fn expected(&self) -> &[u8] {
        if self.is_in_place() {
            self.ours()
        } else {
            self.original()
        }
    }
}

/// What entries of any size have. All zero is a free entry.
#[repr(C)]
struct Head {
    at: Cell<u32>,
    site: Cell<u32>,
    since: Cell<u32>,
    kind: Cell<u8>,
    taken_back: Cell<u8>,
    length: Cell<u8>,
    unused: Cell<u8>,
}

/// An entry for a patch of up to `N` bytes.
#[repr(C)]
struct Entry<const N: usize> {
    head: Head,
    original: [Cell<u8>; N],
    ours: [Cell<u8>; N],
}

/// An entry of any size.
#[derive(Clone, Copy)]
struct AnyEntry<'a> {
    head: &'a Head,
    original: &'a [Cell<u8>],
    ours: &'a [Cell<u8>],
}

impl<const N: usize> Entry<N> {
    fn any(&self) -> AnyEntry<'_> {
        AnyEntry {
            head: &self.head,
            original: &self.original,
            ours: &self.ours,
        }
    }
}

/// The ledger of all patches.
#[repr(C)]
pub struct Ledger {
    memory: [Entry<MAX_PATCH>; MAX_IN_MEMORY],
    copies: [[Entry<MAX_IN_COPY>; MAX_PER_COPY]; MAX_COPIES],
}

/// Where the entries of patched copy `number` begin.
const fn first_in_copy(number: usize) -> usize {
    MAX_IN_MEMORY + number * MAX_PER_COPY
}

/// All entries for the memory that `place` is in.
fn entries_of(place: Place) -> Range<usize> {
    match place {
        Place::Memory(_) => 0..MAX_IN_MEMORY,
        Place::Copy(number, _) => {
            first_in_copy(number)..first_in_copy(number + 1)
        }
    }
}

impl Ledger {
    /// The patch with this number, if there is one.
    #[must_use]
    pub fn patch(&self, id: PatchId) -> Option<Patch> {
        let (entry, place) = self.entry(id.0)?;
        let kind = entry.head.kind.get();
        let kind = PatchKind::ALL.into_iter().find(|&k| k as u8 == kind)?;
        let mut patch = Patch {
            id,
            kind,
            place,
            site: GuestVirt(entry.head.site.get()),
            taken_back: entry.head.taken_back.get(),
            since: entry.head.since.get(),
            length: usize::from(entry.head.length.get())
                .min(entry.original.len()),
            original: [0; MAX_PATCH],
            ours: [0; MAX_PATCH],
        };
        for (to, from) in patch.original.iter_mut().zip(entry.original) {
            *to = from.get();
        }
        for (to, from) in patch.ours.iter_mut().zip(entry.ours) {
            *to = from.get();
        }
        Some(patch)
    }

    /// All patches.
    pub fn patches(&self) -> impl Iterator<Item = Patch> {
        self.among(0..first_in_copy(MAX_COPIES))
    }

    /// The patches in the memory that `place` is in: the Guest's, or a patched
    /// copy.
    pub fn beside(&self, place: Place) -> impl Iterator<Item = Patch> {
        self.among(entries_of(place))
    }

    /// The patch of this kind that was made at `site` in the Guest's memory.
    pub(in crate::patch) fn find(
        &self,
        kind: PatchKind,
        site: GuestVirt,
    ) -> Option<Patch> {
        let mut share = kind.share();
        let id = share.find(|&id| {
            let head = &self.memory[id].head;
            head.kind.get() == kind as u8 && head.site.get() == site.0
        })?;
        self.patch(PatchId(id))
    }

    /// Whether a patch of this kind is in its place in the Guest's memory.
    pub(in crate::patch) fn has(&self, kind: PatchKind) -> bool {
        kind.share().any(|id| {
            let head = &self.memory[id].head;
            head.kind.get() == kind as u8 && head.taken_back.get() == 0
        })
    }

    /// The patches that have a byte in `length` bytes from `place`.
    pub(in crate::patch) fn overlapping(
        &self,
        place: Place,
        length: usize,
    ) -> impl Iterator<Item = Patch> {
        let from = place.offset();
        let end = from.saturating_add(as_word(length));
        entries_of(place)
            .filter(move |&id| {
                self.entry(id).is_some_and(|(entry, _)| {
                    let at = entry.head.at.get();
                    let length = u32::from(entry.head.length.get());
                    at < end && from < at.saturating_add(length)
                })
            })
            .filter_map(|id| self.patch(PatchId(id)))
    }

    /// Puts back into `bytes`, which were read from `place`, what stood there
    /// before we patched it: what a debugger should show. A patch that the
    /// Guest has overwritten is left alone, as far as it is among `bytes`.
    pub fn undo(&self, place: Place, bytes: &mut [u8]) {
        let from = place.offset();
        for patch in self.overlapping(place, bytes.len()) {
            let at = patch.place.offset();
            // The part of the patch that is among the bytes.
            let skipped = from.saturating_sub(at) as usize;
            let first = at.saturating_sub(from) as usize;
            let (Some(original), Some(ours), Some(bytes)) = (
                patch.original().get(skipped..),
                patch.ours().get(skipped..),
                bytes.get_mut(first..),
            ) else {
                continue;
            };
            let length = ours.len().min(bytes.len());
            if patch.is_in_place() && bytes[..length] == ours[..length] {
                bytes[..length].copy_from_slice(&original[..length]);
            }
        }
    }

    /// A free entry for a patch of this kind and length at `place`.
    pub(super) fn free(
        &self,
        kind: PatchKind,
        place: Place,
        length: usize,
    ) -> Option<PatchId> {
        let mut share = match place {
            Place::Memory(_) => kind.share(),
            Place::Copy(..) => entries_of(place),
        };
        let fits = |entry: AnyEntry<'_>| {
            entry.head.kind.get() == 0 && length <= entry.original.len()
        };
        share
            .find(|&id| self.entry(id).is_some_and(|(entry, _)| fits(entry)))
            .map(PatchId)
    }

    /// Writes a patch down in its entry.
    pub(super) fn record(&self, patch: &Patch) {
        let Some((entry, _)) = self.entry(patch.id.0) else {
            return;
        };
        for (to, &byte) in entry.original.iter().zip(patch.original()) {
            to.set(byte);
        }
        for (to, &byte) in entry.ours.iter().zip(patch.ours()) {
            to.set(byte);
        }
        entry.head.at.set(patch.place.offset());
        entry.head.site.set(patch.site.0);
        entry.head.since.set(patch.since);
        // A patch is at most MAX_PATCH bytes long.
        entry.head.length.set(patch.length.to_le_bytes()[0]);
        entry.head.taken_back.set(patch.taken_back);
        entry.head.kind.set(patch.kind as u8);
    }

    /// The entry is free.
    pub(super) fn forget(&self, id: PatchId) {
        if let Some((entry, _)) = self.entry(id.0) {
            entry.head.kind.set(0);
            entry.head.length.set(0);
        }
    }

    /// Patched copy `number` is no more, and so are the patches in it.
    pub(in crate::patch) fn forget_copy(&self, number: usize) {
        for id in entries_of(Place::Copy(number, 0)) {
            self.forget(PatchId(id));
        }
    }

    fn among(&self, ids: Range<usize>) -> impl Iterator<Item = Patch> {
        ids.filter_map(|id| self.patch(PatchId(id)))
    }

    fn entry(&self, id: usize) -> Option<(AnyEntry<'_>, Place)> {
        let Some(id) = id.checked_sub(MAX_IN_MEMORY) else {
            let entry = self.memory[id].any();
            let at = GuestPhys(entry.head.at.get());
            return Some((entry, Place::Memory(at)));
        };
        let number = id / MAX_PER_COPY;
        let entry = self.copies.get(number)?[id % MAX_PER_COPY].any();
        Some((entry, Place::Copy(number, entry.head.at.get())))
    }
}

const _: () = assert!(MAX_PATCH <= u8::MAX as usize);
