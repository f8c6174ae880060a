//! The filter at every pair of numbers that matter.
//!
//! Addresses and lengths around each border there is, in all combinations,
//! and everything else that a call may name: what the filter allows must be
//! what a few lines with numbers that cannot overflow allow, and no mapping
//! may reach a byte outside the Guest's part of the address space.

use super::*;

const TOP: u128 = SWITCHER_ADDR as u128;
const PAGE: u128 = PAGE_SIZE as u128;

/// Around each border: one before, the border, one behind, and the same for
/// pages.
fn numbers() -> Vec<u64> {
    let top = u64::from(SWITCHER_ADDR);
    let span = u64::from(DIRECTORY_SPAN);
    let borders = [
        0,
        span,
        1 << 31,
        top - span,
        top,
        1 << 32,
        (1 << 32) + top,
        layout::TRAMPOLINES as u64,
        STATE64,
        STATE64 + STATE_SIZE as u64,
        layout::MEMORY as u64,
        OUTBOX64,
        OUTBOX64 + u64::from(OUTBOX_SIZE),
        layout::IMAGE as u64,
        layout::BEYOND as u64,
        1 << 47,
        1 << 63,
    ];
    let page = u64::from(PAGE_SIZE);
    let mut all: Vec<u64> = borders
        .into_iter()
        .flat_map(|border| {
            [0, 1, 4, page, page + 1].into_iter().flat_map(move |step| {
                [border.wrapping_sub(step), border.wrapping_add(step)]
            })
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether `len` bytes from `addr`, in the whole pages that the kernel makes
/// of them, are the Guest's.
fn is_the_guests(addr: u64, len: u64) -> bool {
    let (addr, len) = (u128::from(addr), u128::from(len));
    addr % PAGE != 0 || addr + len.next_multiple_of(PAGE) <= TOP
}

#[test]
fn no_mapping_reaches_outside_the_guest() {
    let numbers = numbers();
    for &addr in &numbers {
        for &len in &numbers {
            let call = Call::new(nr::MMAP, [addr, len, 7, 0x11, 3, 0]);
            let sum = u128::from(addr) + u128::from(len);
            let allowed = sum <= TOP
                && u128::from(addr) < TOP
                && len <= u64::from(DIRECTORY_SPAN);
            let what = format!("{addr:#x} {len:#x}");
            assert_eq!(call.is_allowed(), allowed, "mmap {what}");
            assert!(!allowed || is_the_guests(addr, len), "mmap {what}");

            let call = Call::new(nr::MUNMAP, [addr, len, 0, 0, 0, 0]);
            assert_eq!(call.is_allowed(), sum <= TOP, "munmap {what}");
            assert!(sum > TOP || is_the_guests(addr, len), "munmap {what}");

            for protection in [0, 5, 7, 8, 1 << 24, 7 | 1 << 32] {
                let args = [addr, len, protection, 0, 0, 0];
                let call = Call::new(nr::MPROTECT, args);
                let allowed = sum <= TOP && protection < 8;
                assert_eq!(call.is_allowed(), allowed, "mprotect {what}");
            }
        }
    }
}

#[test]
fn a_mapping_is_of_the_guests_files_and_of_no_other_kind() {
    let wide = |n: u64| [n, n | 1 << 32, n | 1 << 63];
    let protections: Vec<u64> = (0..17).flat_map(wide).collect();
    let flags: Vec<u64> = (0..0x40)
        .chain([0x4001, 0x4010, 0x4011, 0x4012, 0x4013])
        .chain([0x4031, 0x8011, 0xC011, 0x10_0011, 0x4011 | 1 << 32])
        .collect();
    let files: Vec<u64> = (0..10)
        .chain([0xFFFF_FFFF, u64::MAX])
        .flat_map(wide)
        .collect();
    let offsets = [0, 1, 0x1000, 1 << 32, 1 << 63];
    let places = [(0x1000, 0x1000), (0x1000, 0x2000), (0, 0x40_0000)];
    let memory = MEMORY_FD.cast_unsigned();
    let copies = u64::from(COPIES_FD.cast_unsigned());
    let shared = SHARED_PAGE_FD.cast_unsigned();
    let shared = shared..shared + FACTS.shared_pages;
    for (addr, len) in places {
        for &file in &files {
            for offset in offsets {
                let is_page = len == 0x1000 && offset == 0;
                let good_file = u32::try_from(file).is_ok_and(|file| {
                    file == memory || shared.contains(&file) && is_page
                });
                let is_copys = file == copies;
                for &protection in &protections {
                    let args = [addr, len, protection, 0x11, file, offset];
                    let written = protection & 2 != 0;
                    let allowed =
                        protection < 8 && (good_file || is_copys && !written);
                    let call = Call::new(nr::MMAP, args);
                    assert_eq!(call.is_allowed(), allowed, "{args:x?}");
                }
                for &flags in &flags {
                    let args = [addr, len, 5, flags, file, offset];
                    let good_flags = flags == 0x11 || flags == 0x4011;
                    let allowed = (good_file || is_copys) && good_flags;
                    let call = Call::new(nr::MMAP, args);
                    assert_eq!(call.is_allowed(), allowed, "{args:x?}");
                }
            }
        }
    }
}

#[test]
fn a_view_sleeps_on_words_of_the_state_and_rings_only_at_outboxes() {
    let state = u128::from(STATE64);
    let words = state..=state + STATE_SIZE as u128 - 4;
    let outbox = u128::from(OUTBOX64);
    let doorbells = outbox..=outbox + u128::from(OUTBOX_SIZE) - 4;
    for &addr in &numbers() {
        for operation in [0, 1, 2, 9, 128, 256, 1 << 32, 1 << 63, u64::MAX] {
            for time_out in [0, 1, 1 << 32, u64::MAX] {
                let args = [addr, operation, 1, time_out, 0, 0];
                let sleeps = words.contains(&u128::from(addr))
                    && operation < 2
                    && time_out == 0;
                let rings =
                    doorbells.contains(&u128::from(addr)) && operation == 1;
                let allowed = sleeps || rings;
                let call = Call::new(nr::FUTEX, args);
                assert_eq!(call.is_allowed(), allowed, "{args:x?}");
            }
        }
    }
}
