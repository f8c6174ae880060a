//! The kernel's vDSO: a view does not need it, but its address matters.
//!
//! A view unmaps the vDSO. The kernel still remembers where it was: a
//! `sysenter` or `syscall` of 32-bit code goes on at a place in it, because the
//! processor does not save where the call came from. The seccomp filter stops
//! most of these calls. One case comes before the filter: if the kernel cannot
//! read the word to which ebp (of `sysenter`) or esp (of `syscall`) points, the
//! code goes on with -EFAULT in eax, at the low half of that address. So the
//! vDSO is moved before it is unmapped. The low half of its new address is in
//! the Switcher's part of the Guest's address space, where no Guest can have
//! code. The first instruction there faults, and the address of the fault shows
//! what has happened.

#![expect(unsafe_code, reason = "moves a mapping of the kernel's")]

use crate::layout::{LANDING, LANDING_SIZE, VDSO};
use crate::syscall::{call, nr};
use core::sync::atomic::{AtomicUsize, Ordering};
use lg_abi::page::PAGE_SIZE;

/// Where the kernel has mapped it; 0 = nowhere.
static FOUND: AtomicUsize = AtomicUsize::new(0);

/// Looks it up in what the kernel has left on the first stack: arguments,
/// environment, and then pairs of words.
///
/// # Safety
///
/// `stack` is the stack pointer of the first instruction, and nothing has been
/// changed there.
pub unsafe fn find(stack: *const u64) {
    const AT_NULL: u64 = 0;
    const AT_SYSINFO_EHDR: u64 = 33;
    // SAFETY: as promised; the loops below stop at its end.
    let word = |n: usize| unsafe { *stack.wrapping_add(n) };
    // A count comes first.
    let Ok(count) = usize::try_from(word(0)) else {
        return;
    };
    // Arguments and environment end with a zero each.
    let mut n = count + 2;
    while word(n) != 0 {
        n += 1;
    }
    n += 1;
    while word(n) != AT_NULL && word(n) != AT_SYSINFO_EHDR {
        n += 2;
    }
    if word(n) == AT_SYSINFO_EHDR {
        let at = usize::try_from(word(n + 1)).unwrap_or(0);
        FOUND.store(at, Ordering::Relaxed);
    }
}

/// Moves it to [`VDSO`], where it will be unmapped with everything else. If the
/// kernel does not let its own mappings be moved, stray system calls go on
/// where they are.
pub(crate) fn move_away() {
    const MAYMOVE_FIXED: usize = 3;
    let from = FOUND.load(Ordering::Relaxed);
    if from == 0 {
        return;
    }
    // It can be moved as a whole only, and its size is not known.
    for size in (PAGE_SIZE as usize..=LANDING_SIZE).step_by(PAGE_SIZE as usize)
    {
        let arguments = [from, size, size, MAYMOVE_FIXED, VDSO, 0];
        // SAFETY: nothing of ours is at either place.
        if unsafe { call(nr::MREMAP, arguments) }.is_ok() {
            return;
        }
    }
}

/// Whether 32-bit code that goes on at `rip` has come from a `sysenter` or
/// `syscall`. The kernel may have cut the address to its low half, or not.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(crate) fn is_landing(rip: u64) -> bool {
    (LANDING..LANDING + LANDING_SIZE).contains(&(rip as u32 as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landing_is_told_by_its_low_half() {
        let first = VDSO as u64;
        let last = first + LANDING_SIZE as u64 - 1;
        for rip in [first, first + 0x57A, last] {
            assert!(is_landing(rip) && is_landing(rip & 0xFFFF_FFFF));
        }
        for rip in [first - 1, last + 1, 0, 0x0804_8000] {
            assert!(!is_landing(rip) && !is_landing(rip & 0xFFFF_FFFF));
        }
    }

    #[test]
    fn the_kernels_pairs_are_found_behind_the_environment() {
        let stack = [2, 10, 11, 0, 20, 21, 22, 0, 6, 4096, 33, 0x7000, 0, 0];
        // SAFETY: it looks as a kernel's does.
        unsafe { find(stack.as_ptr()) };
        assert_eq!(FOUND.load(Ordering::Relaxed), 0x7000);
    }
}
