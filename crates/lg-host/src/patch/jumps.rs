//! Reading code around a place that is to be patched: what jumps into it?
//!
//! A patch replaces several instructions by one, so no jump may lead into the
//! middle of it. Code has no marks where instructions begin, but a reading that
//! begins anywhere soon falls into step with the processor. So the code is read
//! from every one of the first few bytes, which covers all ways of falling into
//! step, and every relative jump that one of these readings meets is taken for
//! real. Jumps through tables and pointers lead to where a compiler put a
//! label, and that is not among a hypercall's arguments. Where an instruction
//! is to be displaced whose effect cannot be seen any more, all readings must
//! agree that it is one.

use crate::address::{GuestVirt, as_word};
use crate::cpu::instruction::{self, MAX_INSTRUCTION};
use crate::host::Host;

/// How far around a patch the code is read. A relative jump with a wider reach
/// is a whole function away.
const LOOK_AROUND: u32 = 2048;

/// Bytes that are read: on both sides, and a patch.
const WINDOW: usize = 2 * LOOK_AROUND as usize + 64;

/// From how many places the reading begins. All of them are in step long
/// before they come near the patch.
const BEGINNINGS: usize = 2 * MAX_INSTRUCTION;

impl Host<'_> {
    /// Whether a relative jump nearby leads into `start..end`, behind its first
    /// byte; or whether its `first` bytes, if that is not 0, may be something
    /// else than one instruction.
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

/// Bytes around a site that are read.
const AROUND_SITE: usize = 512;

/// Whether an instruction begins at `at` in `page`, whichever way the code is
/// read: from each of the first bytes of what is around it, and from each place
/// in front of it that a relative jump nearby leads to. The first instruction
/// of a page may begin in another one and end anywhere, so a site near the
/// beginning of a page is mostly not read alike.
pub(super) fn is_read_alike(page: &[u8], at: usize) -> bool {
    if at < MAX_INSTRUCTION {
        return false;
    }
    let from = at.saturating_sub(AROUND_SITE);
    let end = page.len().min(at + AROUND_SITE);
    let (code, at) = (&page[from..end], at - from);
    let mut seen = [false; 2 * AROUND_SITE];
    let mut begins = [false; MAX_INSTRUCTION];
    // Addresses count from the window's first byte.
    for target in targets(code, 0, &mut seen) {
        let before = at.wrapping_sub(target as usize);
        if let Some(begins) = begins.get_mut(before) {
            *begins = true;
        }
    }
    let beginnings = 0..BEGINNINGS.min(at);
    let jumped_to = (1..MAX_INSTRUCTION).filter(|&before| begins[before]);
    beginnings
        .chain(jumped_to.map(|before| at - before))
        .all(|beginning| reaches(code, beginning, at))
}

/// Whether a reading of `code` from `beginning` comes to an instruction that
/// begins at `at`.
fn reaches(code: &[u8], beginning: usize, at: usize) -> bool {
    let mut here = beginning;
    while here < at {
        here += instruction::length(&code[here..]).unwrap_or(1);
    }
    here == at
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
            at += instruction::length(rest).unwrap_or(1);
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

    /// A page of nops with `code` at 0x100.
    fn page(code: &[u8]) -> Vec<u8> {
        let mut page = std::vec![0x90; 4096];
        page[0x100..0x100 + code.len()].copy_from_slice(code);
        page
    }

    #[test]
    fn a_site_that_another_instruction_covers_is_not_read_alike() {
        // mov $0x80cd,%eax, which is int $0x80 from its second byte on
        assert!(!is_read_alike(&page(&[0xB8, 0xCD, 0x80, 0, 0]), 0x101));
        // jmp over the first byte of that
        let code = [0xEB, 1, 0xB8, 0xCD, 0x80, 0, 0];
        assert!(!is_read_alike(&page(&code), 0x103));
        // push $0xb8000000; int $0x80: alike, unless a jump leads to the b8
        let mut code = page(&[0x68, 0, 0, 0, 0xB8, 0xCD, 0x80, 0, 0]);
        assert!(is_read_alike(&code, 0x105));
        code[0x120..0x122].copy_from_slice(&[0xEB, 0xE2]);
        assert!(!is_read_alike(&code, 0x105));
    }

    #[test]
    fn a_site_after_usual_code_is_read_alike() {
        // mov $4,%eax; int $0x80
        let code = page(&[0xB8, 4, 0, 0, 0, 0xCD, 0x80]);
        assert!(is_read_alike(&code, 0x105));
        // In the first bytes of a page, another page's instruction may reach.
        assert!(!is_read_alike(&code[0x100..], 5));
        assert!(!is_read_alike(&code[0x105 - MAX_INSTRUCTION..], 15));
        assert!(is_read_alike(&code[0x105 - 64..], 64));
        // At the end of a page, too.
        assert!(is_read_alike(&code[..0x107], 0x105));
    }
}
