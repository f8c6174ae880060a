//! What is sealed stays, and nothing else does.

#![expect(unsafe_code, reason = "maps, seals and unmaps memory")]

use super::*;
use crate::layout::{BEYOND, TASK_SIZE};
use crate::syscall::{call, nr};
use std::collections::BTreeSet;

/// The number of the first page, and how many there are.
type Pages = (usize, usize);

/// A kernel with these pages mapped, of which some are sealed.
struct Kernel {
    mapped: BTreeSet<usize>,
    sealed: BTreeSet<usize>,
    calls: u32,
}

impl Kernel {
    fn new(mapped: &[Pages], sealed: &[Pages]) -> Self {
        let pages = |all: &[Pages]| -> BTreeSet<usize> {
            all.iter().flat_map(|&(at, n)| at..at + n).collect()
        };
        let sealed = pages(sealed);
        let mapped = pages(mapped).union(&sealed).copied().collect();
        Self {
            mapped,
            sealed,
            calls: 0,
        }
    }

    fn unmap(&mut self, at: usize, length: usize) -> Result<(), i32> {
        let whole = (at | length).is_multiple_of(PAGE);
        assert!(length > 0 && whole);
        self.calls += 1;
        let pages = at / PAGE..(at + length) / PAGE;
        if self.sealed.range(pages.clone()).next().is_some() {
            return Err(errno::EPERM);
        }
        self.mapped.retain(|page| !pages.contains(page));
        Ok(())
    }

    fn unmap_all(&mut self) -> Result<usize, i32> {
        unmap_all(BEYOND, TASK_SIZE, &mut |at, length| self.unmap(at, length))
    }
}

/// Pages of a usual address space.
const FIRST: usize = BEYOND / PAGE;
const LAST: usize = TASK_SIZE / PAGE;
const VDSO: usize = LAST - 0x1_2345;
const STACK: Pages = (LAST - 0x1000, 0x30);

#[test]
fn where_nothing_is_sealed_one_call_does() {
    let mut kernel = Kernel::new(&[(VDSO, 8), STACK], &[]);
    assert_eq!(kernel.unmap_all(), Ok(0));
    assert_eq!(kernel.calls, 1);
    assert!(kernel.mapped.is_empty());
}

#[test]
fn the_stack_goes_where_the_vdso_is_sealed() {
    let both_ends = [(FIRST, 1), (LAST - 1, 1)];
    for sealed in [
        &[(VDSO, 8)][..],
        &[(VDSO, 1), (VDSO + 6, 2)],
        &[(STACK.0 + STACK.1, 1), (STACK.0 - 1, 1)],
        &both_ends,
    ] {
        let mut kernel = Kernel::new(&[STACK, (VDSO - 9, 18)], sealed);
        let left = kernel.sealed.len() * PAGE;
        assert_eq!(kernel.unmap_all(), Ok(left), "{sealed:?}");
        assert_eq!(kernel.mapped, kernel.sealed, "{sealed:?}");
        assert!(kernel.calls < 300, "{}", kernel.calls);
    }
}

#[test]
fn a_kernel_that_refuses_everything_is_told_from_one_that_seals() {
    let mut calls = 0;
    let mut refuse = |error| {
        unmap_all(BEYOND, TASK_SIZE, &mut |_, _| {
            calls += 1;
            Err(error)
        })
    };
    assert_eq!(refuse(errno::EPERM), Err(errno::EPERM));
    assert_eq!(refuse(errno::ENOMEM), Err(errno::ENOMEM));
    assert!(calls < 300, "{calls}");
}

/// The same with a kernel that can seal (Linux 6.10).
#[test]
fn this_kernel_keeps_what_is_sealed_and_lets_go_of_the_rest() {
    const MSEAL: usize = 462;
    const PAGES: usize = 64;
    const SEALED: usize = 21;
    let private_anonymous = [0, PAGES * PAGE, 1, 0x22, usize::MAX, 0];
    // SAFETY: a fresh mapping at a place of the kernel's choice.
    let at = unsafe { call(nr::MMAP, private_anonymous) }.unwrap();
    let sealed = [at + SEALED * PAGE, PAGE, 0, 0, 0, 0];
    // SAFETY: a page of that mapping, which stays as it is for good.
    if unsafe { call(MSEAL, sealed) }.is_err() {
        println!("SKIPPED: this kernel cannot seal (mseal, Linux 6.10)");
        return;
    }
    let mut gone = Vec::new();
    let left = unmap_all(at, at + PAGES * PAGE, &mut |at, length| {
        // SAFETY: pages of that mapping, and nobody else knows them.
        unsafe { call(nr::MUNMAP, [at, length, 0, 0, 0, 0]) }?;
        gone.extend((at..at + length).step_by(PAGE));
        Ok(())
    });
    assert_eq!(left, Ok(PAGE));
    // Others may have mapped something there by now; each page went once.
    let all = (0..PAGES).filter(|&n| n != SEALED).map(|n| at + n * PAGE);
    assert_eq!(gone, all.collect::<Vec<_>>());
}
