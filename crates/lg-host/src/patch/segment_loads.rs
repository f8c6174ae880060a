//! Patches where trap handlers load segments.
//!
//! These are the user's data segment, and those that a kernel has for itself.
//! The instruction is no trampoline: its constant becomes the selector of the
//! segment that is really meant.

use super::ledger::table::{PatchKind, Place};
use crate::address::{GuestVirt, as_word};
use crate::cpu::kernel_segments::{kernel_segment_number, real_kernel_segment};
use crate::cpu::selectors::REAL_KERNEL_DS;
use crate::fast_path;
use crate::host::Host;
use crate::state::Gate;
use lg_abi::segment::USER_DS;

impl Host<'_> {
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
                let at = at.plus(as_word(immediate));
                self.set_selector_at(at, REAL_KERNEL_DS);
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

    /// The kernel loads a segment of its own at eip, where `code` begins, by
    /// `selector`. If the instruction in front of it has put the selector into
    /// the register, that is changed to put ours there.
    pub(crate) fn patch_own_segment_load(
        &mut self,
        code: &[u8],
        selector: u32,
    ) {
        /// Bytes of `mov $constant,%reg`, and where the constant is.
        const MOV: u32 = 5;
        const CONSTANT: u32 = 1;
        let Some(number) = kernel_segment_number(selector) else {
            return;
        };
        // mov %reg,%fs or mov %reg,%gs
        let &[0x8E, modrm @ (0xE0..=0xEF), ..] = code else {
            return;
        };
        if !self.may_take(fast_path::SEGMENTS) {
            return;
        }
        let eip = self.vm.regs.eip.get();
        let before = GuestVirt(eip.wrapping_sub(MOV));
        let mut loads = [0; MOV as usize];
        let there = self.code(before, &mut loads).is_some();
        let [a, b, c, d] = selector.to_le_bytes();
        if there && loads == [0xB8 | modrm & 7, a, b, c, d] {
            let real = real_kernel_segment(number);
            self.set_selector_at(before.plus(CONSTANT), real);
        }
    }

    /// Makes the constant at `at` the selector that is really meant. Selectors
    /// have one byte.
    fn set_selector_at(&self, at: GuestVirt, real: u32) {
        let Some(place) = self.physical(at) else {
            return;
        };
        let (kind, place) = (PatchKind::SegmentLoad, Place::Memory(place));
        if let Some(room) = self.room_for(kind, place, at, 1) {
            let [low, ..] = real.to_le_bytes();
            self.write_patch(room, &[low]);
        }
    }

    /// Remembers which handler the Guest was sent to.
    pub(crate) fn note_handler(&self, gate: Gate) {
        self.vm.last_handler.set(gate.handler);
    }
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
