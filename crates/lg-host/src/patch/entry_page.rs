//! A patch in the entry page, by which programs make system calls.
//!
//! The page is the kernel's, and every program has it. Its `int $0x80` has room
//! for a short jump only, which goes to a far call where the page has nothing:
//! in Linux 2.6.23 and 2.6.24 behind the `ret`, later in front of the signal
//! return, which comes before the entry, and in Linux 4.x between the `ret` and
//! the signal return, where there are just seven bytes. The Host sends the
//! program to the instruction behind the `int $0x80`, where the kernel believes
//! it to be.

use super::far::{FAR, FAR_CALL, NOP, far, far_call_of_32_bits};
use super::ledger::table::{MAX_PATCH, Patch, PatchKind, Place};
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use lg_abi::page::PAGE_SIZE;

/// The beginning of the signal return: `pop %eax; mov $119,%eax`.
const SIGNAL_RETURN: [u8; 7] = [0x58, 0xB8, 0x77, 0, 0, 0, 0xCD];

/// The entry: `int $0x80; ret`.
const ENTRY: &[u8] = &[0xCD, 0x80, 0xC3];

/// The entry of Linux 4.x: `int $0x80; pop %ebp; pop %edx; pop %ecx; ret`.
const ENTRY_WITH_POPS: &[u8] = &[0xCD, 0x80, 0x5D, 0x5A, 0x59, 0xC3];

/// Bytes of `int $0x80`, and of the short jump in its place.
const INT: u32 = 2;

/// Where the code of the entry is, and what is free around it.
#[derive(Clone, Copy)]
struct Shape {
    /// The entry.
    code: &'static [u8],
    /// Bytes from where the page's header says that programs enter to the
    /// `int $0x80`.
    ahead: u32,
    /// Bytes of the code that shows it.
    length: usize,
    /// Where the entry is in it.
    entry: usize,
    /// Where the signal return is.
    signal_return: usize,
    /// Where the far call goes.
    call: usize,
    /// Which bytes must be free.
    free: (usize, usize),
}

/// What free bytes are: zeroes, `int3`, and the instructions without an effect
/// by which assemblers align code to four bytes. In Linux 3.10 that is
/// `nop; lea 0(%esi),%esi`.
const PADDING: [&[u8]; 6] = [
    &[0],
    &[NOP],
    &[0xCC],
    &[0x66, NOP],
    &[0x8D, 0x76, 0],
    &[0x0F, 0x1F, 0],
];

/// 2.6.23 and 2.6.24: the signal return is 32 bytes behind the entry.
const ENTRY_FIRST: Shape = Shape {
    code: ENTRY,
    ahead: 0,
    length: 39,
    entry: 0,
    signal_return: 32,
    call: 16,
    free: (3, 32),
};

/// Since 2.6.25: the signal return is 20 bytes in front of the entry, and the
/// page has nothing before it but, in kernels for processors that need no wider
/// alignment (Linux 3.10 for M686), the four bytes that align it.
const ENTRY_LAST: Shape = Shape {
    code: ENTRY,
    ahead: 0,
    length: 30,
    entry: 27,
    signal_return: 7,
    call: 0,
    free: (0, 7),
};

/// Since 4.x: registers are pushed and there is room for `sysenter`. The signal
/// return is 13 bytes behind the `int $0x80`, with `nop` and `lea 0(%esi),%esi`
/// in front of it.
const ENTRY_WITH_ROOM: Shape = Shape {
    code: ENTRY_WITH_POPS,
    ahead: 7,
    length: 20,
    entry: 0,
    signal_return: 13,
    call: 6,
    free: (6, 13),
};

/// All of them.
const SHAPES: [Shape; 3] = [ENTRY_FIRST, ENTRY_LAST, ENTRY_WITH_ROOM];

/// In [`Patches::entry_call`](super::tables::Patches): which of [`SHAPES`] it
/// is, from this bit on. The rest is where the far call is.
const SHAPE_SHIFT: u32 = 30;

impl Shape {
    /// Where the patch begins and ends.
    const fn span(&self) -> (usize, usize) {
        if self.call < self.entry {
            (self.call, self.entry + INT as usize)
        } else {
            (self.entry, self.call + FAR)
        }
    }

    /// Whether `code` has it.
    fn is_in(&self, code: &[u8]) -> bool {
        let (from, to) = self.free;
        code.get(self.entry..)
            .is_some_and(|code| code.starts_with(self.code))
            && code
                .get(self.signal_return..)
                .is_some_and(|code| code.starts_with(&SIGNAL_RETURN))
            && code.get(from..to).is_some_and(is_free)
    }

    /// From behind the far call to behind the `int $0x80`.
    const fn back(&self) -> u32 {
        as_word(self.entry)
            .wrapping_add(INT)
            .wrapping_sub(as_word(self.call + FAR))
    }
}

/// Whether `code` is [`PADDING`] and nothing else.
fn is_free(mut code: &[u8]) -> bool {
    while !code.is_empty() {
        let mut all = PADDING.iter();
        let Some(rest) = all.find_map(|piece| code.strip_prefix(*piece)) else {
            return false;
        };
        code = rest;
    }
    true
}

const _: () = {
    let mut n = 0;
    while n < SHAPES.len() {
        let (from, to) = SHAPES[n].span();
        assert!(to - from <= MAX_PATCH);
        assert!(SHAPES[n].length <= ENTRY_FIRST.length);
        n += 1;
    }
};

impl Host<'_> {
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
        if !is_elf {
            return;
        }
        for (number, shape) in (0..).zip(SHAPES) {
            if says + shape.ahead != entry {
                continue;
            }
            let Some(at) = entry.checked_sub(as_word(shape.entry)) else {
                continue;
            };
            let mut code = [0; ENTRY_FIRST.length];
            let code = &mut code[..shape.length];
            let Some(place) = self.code(page.plus(at), code) else {
                continue;
            };
            debug_assert_eq!(place, frame.plus(at), "one page");
            if shape.is_in(code) {
                let (from, to) = shape.span();
                let at = at + as_word(from);
                let place = Place::Memory(frame.plus(at));
                if self.put_entry(place, page.plus(at), &code[from..to], shape)
                {
                    let call = at - as_word(from) + as_word(shape.call);
                    let number = number << SHAPE_SHIFT;
                    self.vm.patches.entry_call.set(call | number);
                }
                return;
            }
        }
    }

    /// Writes the jump and the far call around `code`. Answers whether there
    /// was room.
    fn put_entry(
        &mut self,
        place: Place,
        site: GuestVirt,
        code: &[u8],
        shape: Shape,
    ) -> bool {
        let kind = PatchKind::EntryPage;
        let Some(room) = self.room_for(kind, place, site, code.len()) else {
            return false;
        };
        let kind = TrampolineKind::EntryPage;
        let Some(trampoline) = self.world.make_trampoline(kind, &[], 0) else {
            return false;
        };
        // The way back and a restart stay where they were: behind the first
        // instruction, and at it.
        let mut patch = [0; MAX_PATCH];
        let patch = &mut patch[..code.len()];
        patch.copy_from_slice(code);
        let (from, _) = shape.span();
        let (entry, call) = (shape.entry - from, shape.call - from);
        #[expect(clippy::cast_possible_truncation, reason = "a short jump")]
        let distance = call.wrapping_sub(entry + INT as usize) as u8;
        patch[entry..][..2].copy_from_slice(&[0xEB, distance]);
        let far_call = if self.may_cross() {
            far_call_of_32_bits(self.engage_way_in(trampoline, shape.back()))
        } else {
            far(FAR_CALL, trampoline)
        };
        patch[call..][..FAR].copy_from_slice(&far_call);
        self.write_patch(room, patch);
        true
    }

    /// The shape of the entry page that has a patch.
    fn entry_shape(&self) -> Shape {
        let number = self.vm.patches.entry_call.get() >> SHAPE_SHIFT;
        SHAPES.get(number as usize).copied().unwrap_or(ENTRY_FIRST)
    }

    /// Where the kernel believes a program to be whose far call pushed `back`.
    pub(super) fn behind_entry(&self, back: u32) -> u32 {
        back.wrapping_add(self.entry_shape().back())
    }

    /// Where a program began that stands between the jump in the entry page and
    /// the far call that it goes to.
    pub(super) fn entry_before(&self, at: GuestVirt) -> Option<GuestVirt> {
        let call = self.vm.patches.entry_call.get() & (PAGE_SIZE - 1);
        if at.page_offset() != call || call == 0 || !self.vm.in_user_mode() {
            return None;
        }
        let shape = self.entry_shape();
        let (from, _) = shape.span();
        let place = self.physical(at)?;
        let ledger = &self.vm.ledger;
        let mut patches = ledger.overlapping(Place::Memory(place), 1);
        let is_entry = |patch: Patch| {
            patch.kind == PatchKind::EntryPage
                && Place::Memory(place)
                    == patch.place.plus(as_word(shape.call - from))
        };
        let found = patches.any(is_entry);
        let entry = as_word(shape.entry).wrapping_sub(as_word(shape.call));
        found.then(|| GuestVirt(at.0.wrapping_add(entry)))
    }
}
