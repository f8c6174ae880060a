//! Who jumps where: reading code around a place that is to be patched.
//!
//! A patch replaces several instructions by one, so nobody may jump into the
//! middle of it. Code has no marks where instructions begin, but reading it
//! from anywhere soon falls into step with the processor. So it is read from
//! every one of the first few bytes, which covers all ways of falling into
//! step, and every relative jump that any of these readings meets is believed.
//! Jumps through tables and pointers lead to where a compiler put a label, and
//! a hypercall's arguments are not such a place. And where an instruction is to
//! be displaced whose effect cannot be seen any more, all readings must agree
//! that it is one.

use crate::address::{GuestVirt, as_word};
use crate::emulate::{self, MAX_INSTRUCTION};
use crate::run::Host;

/// How far around a patch we look. A relative jump with a wider reach is a
/// whole function away.
const LOOK_AROUND: u32 = 2048;

/// Bytes that are read: on both sides, and a patch.
const WINDOW: usize = 2 * LOOK_AROUND as usize + 64;

/// From how many places the reading begins. All of them are in step long
/// before they come near the patch.
const BEGINNINGS: usize = 2 * MAX_INSTRUCTION;

impl Host<'_> {
    /// Whether a relative jump nearby ends inside `start..end`, its first byte
    /// not counted; or whether the `first` bytes of it, if there are to
    /// be any, may be something else than one instruction.
    pub(super) fn is_jumped_into(
        &self,
        start: u32,
        end: u32,
        first: u32,
    ) -> bool {
        let mut code = [0; WINDOW];
        let from = start.saturating_sub(LOOK_AROUND);
        let whole = (end - from + LOOK_AROUND) as usize;
        let Some(window) = code.get_mut(..whole) else {
            return true;
        };
        let mut seen = [false; WINDOW];
        // Where a page is missing there is no code; what lies behind it is
        // read as if it were the beginning.
        let mut at = 0;
        while at < whole {
            let piece = &mut window[at..];
            let got = self.fetch(GuestVirt(from + as_word(at)), piece);
            let code = &window[at..at + got];
            let base = from.wrapping_add(as_word(at));
            let jumps = |&target: &u32| start < target && target < end;
            if targets(code, base, &mut seen[at..]).any(|t| jumps(&t)) {
                return true;
            }
            at = next_page(from, at + got);
        }
        let begins = |at: u32| seen[(at - from) as usize];
        first > 0 && (!begins(start) || (start + 1..start + first).any(begins))
    }
}

/// The next offset from `from` that begins a page, behind `at`.
fn next_page(from: u32, at: usize) -> usize {
    let page = lg_abi::page::PAGE_SIZE;
    let address = from.wrapping_add(as_word(at)).wrapping_add(1);
    (address.next_multiple_of(page).wrapping_sub(from)) as usize
}

/// Where the relative jumps in `code`, which lies at `base`, lead. `seen` has
/// a place for every byte, and none is set.
fn targets<'a>(
    code: &'a [u8],
    base: u32,
    seen: &'a mut [bool],
) -> impl Iterator<Item = u32> + 'a {
    let mut beginnings = 0..BEGINNINGS.min(code.len());
    let mut at = code.len();
    core::iter::from_fn(move || {
        loop {
            if at >= code.len() || core::mem::replace(&mut seen[at], true) {
                // Read to the end, or in step with an earlier reading.
                at = beginnings.next()?;
                continue;
            }
            let rest = &code[at..];
            let here = base.wrapping_add(as_word(at));
            let target = target(rest, here);
            at += emulate::length(rest).unwrap_or(1);
            if target.is_some() {
                return target;
            }
        }
    })
}

/// Where the relative jump at the start of `code`, which lies at `here`,
/// leads.
fn target(code: &[u8], here: u32) -> Option<u32> {
    let far = |length: u32, bytes: [u8; 4]| {
        here.wrapping_add(length)
            .wrapping_add(u32::from_le_bytes(bytes))
    };
    match *code {
        [0xEB | 0x70..=0x7F | 0xE0..=0xE3, by, ..] => {
            let by = i32::from(by.cast_signed());
            Some(here.wrapping_add(2).wrapping_add_signed(by))
        }
        [0xE8 | 0xE9, a, b, c, d, ..] => Some(far(5, [a, b, c, d])),
        [0x0F, 0x80..=0x8F, a, b, c, d, ..] => Some(far(6, [a, b, c, d])),
        // A prefix that hints which way it will go.
        [0x2E | 0x3E, ref rest @ ..] => target(rest, here.wrapping_add(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn all_targets(code: &[u8]) -> Vec<u32> {
        let mut seen = std::vec![false; code.len()];
        targets(code, 0x1000, &mut seen).collect()
    }

    #[test]
    fn what_looks_like_a_jump_inside_an_instruction_is_none() {
        // 40 nops; mov $0x05740574,%eax; je +2; ret
        let mut code = std::vec![0x90; 40];
        code.extend([0xB8, 0x74, 5, 0x74, 5, 0x74, 2, 0xC3, 0xC3, 0xC3]);
        assert_eq!(all_targets(&code), [0x1000 + 49]);
    }

    #[test]
    fn a_reading_that_starts_inside_an_instruction_falls_into_step() {
        // The first bytes are the end of an instruction: 0xB8 would swallow
        // the jump behind it.
        let mut code = std::vec![0xB8, 0xEB, 4, 0x90, 0x90];
        code.extend([0x90; 16]);
        assert!(all_targets(&code).contains(&0x1007));
    }
}
