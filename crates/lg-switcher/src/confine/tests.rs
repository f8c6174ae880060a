//! The filter, run by an interpreter: what is allowed, and every near miss.

use super::*;
use std::prelude::rust_2024::*;

mod boundaries;

const FACTS: Facts = Facts {
    call_site: 0x4000_0000_1234,
    return_site: 0x4000_0000_5678,
    timer: 0,
    shared_pages: 1,
};

/// A system call as the filter sees it.
#[derive(Clone, Copy)]
struct Call {
    nr: u32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

impl Call {
    fn new(nr: usize, args: [u64; 6]) -> Self {
        let nr = u32::try_from(nr).unwrap();
        Self {
            nr,
            arch: ARCH_X86_64,
            ip: FACTS.call_site,
            args,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        let wide = |value| halves(value)[offset as usize % 8 / 4];
        match offset {
            NR => self.nr,
            ARCH => self.arch,
            8 | 12 => wide(self.ip),
            _ => wide(self.args[(offset as usize - 16) / 8]),
        }
    }

    /// Runs the filter, as the kernel would.
    fn verdict(&self) -> u32 {
        let filter = filter(&FACTS);
        let code = filter.code();
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0);
        loop {
            let i = code[pc];
            pc += 1;
            let condition = match i.code {
                LOAD_WORD => {
                    a = self.word(i.value);
                    continue;
                }
                TO_X => {
                    x = a;
                    continue;
                }
                ADD_X => {
                    a = a.wrapping_add(x);
                    continue;
                }
                RETURN => return i.value,
                JUMP_EQUAL => a == i.value,
                JUMP_GREATER => a > i.value,
                JUMP_NOT_LESS_THAN_X => a >= x,
                JUMP_ANY_BIT => a & i.value != 0,
                other => panic!("no such instruction: {other:#x}"),
            };
            let skip = if condition { i.jump_true } else { i.jump_false };
            pc += usize::from(skip);
        }
    }

    fn is_allowed(&self) -> bool {
        self.verdict() == verdict::ALLOW
    }
}

const GOOD_MMAP: [u64; 6] = [0x1000, 0x1000, 7, 0x11, 3, 0x5000];
const STATE64: u64 = layout::STATE as u64;

#[test]
fn what_a_view_does_is_allowed() {
    let top = u64::from(SWITCHER_ADDR);
    for call in [
        Call::new(nr::MMAP, GOOD_MMAP),
        Call::new(nr::MMAP, [top - 0x40_0000, 0x40_0000, 7, 0x11, 3, 0]),
        Call::new(nr::MMAP, [0x1000, 0x1000, 5, 0x11, 6, 0]),
        Call::new(nr::MUNMAP, [0, top, 0, 0, 0, 0]),
        Call::new(nr::FUTEX, [STATE64 + 64, 0, 1, 0, 0, 0]),
        Call::new(nr::FUTEX, [STATE64 + 64, 1, 1, 0, 0, 0]),
        Call::new(nr::CLOCK_GETTIME, [1, 0, 0, 0, 0, 0]),
        Call::new(nr::TIMER_SETTIME, [0, 1, 0, 0, 0, 0]),
        Call::new(nr::RT_SIGPROCMASK, [2, 0, 0, 8, 0, 0]),
        Call::new(nr::EXIT_GROUP, [0; 6]),
    ] {
        assert!(call.is_allowed(), "call {}", call.nr);
    }
    let back = Call {
        ip: FACTS.return_site,
        ..Call::new(nr::RT_SIGRETURN, [0; 6])
    };
    assert!(back.is_allowed());
}

#[test]
fn the_32_bit_door_leads_to_the_guests_kernel() {
    for nr in 0..500 {
        let call = Call {
            arch: ARCH_I386,
            ..Call::new(nr, [0; 6])
        };
        assert_eq!(call.verdict(), verdict::TRAP);
    }
}

#[test]
fn nothing_is_allowed_from_anywhere_else() {
    for nr in 0..500 {
        for ip in [0, 0x1000, FACTS.call_site - 1, FACTS.call_site + 1, !0] {
            let call = Call {
                ip,
                ..Call::new(nr, GOOD_MMAP)
            };
            assert_eq!(call.verdict(), verdict::KILL, "{nr} from {ip:#x}");
        }
        let swapped = Call {
            ip: if nr == nr::RT_SIGRETURN {
                FACTS.call_site
            } else {
                FACTS.return_site
            },
            ..Call::new(nr, GOOD_MMAP)
        };
        assert_eq!(swapped.verdict(), verdict::KILL);
    }
}

#[test]
fn only_a_handful_of_calls_is_allowed_at_all() {
    let known = [
        nr::MMAP,
        nr::MUNMAP,
        nr::FUTEX,
        nr::CLOCK_GETTIME,
        nr::TIMER_SETTIME,
        nr::RT_SIGPROCMASK,
        nr::EXIT_GROUP,
    ];
    for nr in (0..500).chain([0x4000_0009, 0xFFFF_FFFF]) {
        if known.contains(&nr) {
            continue;
        }
        let call = Call::new(nr, GOOD_MMAP);
        assert_eq!(call.verdict(), verdict::KILL, "call {nr}");
    }
}

#[test]
fn every_near_miss_of_mmap_is_deadly() {
    let top = u64::from(SWITCHER_ADDR);
    for (argument, value) in [
        (0, 1 << 32),
        (0, STATE64),
        (0, top),
        (0, top - 0x800 + 1),
        (0, 0xFFFF_F000),
        (1, 1 << 32),
        (1, 0x40_1000),
        (1, 0xFFFF_F000),
        (2, 8),
        (2, 0x0100_0000),
        (2, 1 << 32),
        (3, 0x12),
        (3, 0x31),
        (3, 0x01),
        (3, 0x11 | 1 << 32),
        (4, 0),
        (4, 4),
        (4, 5),
        (4, 7),
        (4, 0xFFFF_FFFF),
        (4, 3 | 1 << 32),
    ] {
        let mut args = GOOD_MMAP;
        args[argument] = value;
        let call = Call::new(nr::MMAP, args);
        let what = format!("argument {argument} = {value:#x}");
        assert_eq!(call.verdict(), verdict::KILL, "{what}");
    }
    // A sum that wraps must not look small: this one would be 0.
    let over_the_gates = [top, 0x40_0000, 7, 0x11, 3, 0];
    let call = Call::new(nr::MMAP, over_the_gates);
    assert_eq!(call.verdict(), verdict::KILL);
    // A shared page's file has one page for us.
    for (len, offset) in [(0x2000, 0), (0x1000, 0x1000), (0x1000, 1 << 40)] {
        let call = Call::new(nr::MMAP, [0x1000, len, 7, 0x11, 6, offset]);
        assert_eq!(call.verdict(), verdict::KILL);
    }
}

#[test]
fn munmap_and_futex_stay_in_their_own_places() {
    let top = u64::from(SWITCHER_ADDR);
    for args in [
        [0x1000, top],
        [top, 0x1000],
        [0xFFFF_F000, 0x2000],
        [0x2000, 0xFFFF_F000],
        [STATE64, 0x1000],
        [0, 1 << 32],
    ] {
        let call = Call::new(nr::MUNMAP, [args[0], args[1], 0, 0, 0, 0]);
        assert_eq!(call.verdict(), verdict::KILL, "{args:x?}");
    }
    for args in [
        [STATE64 - 4, 0, 0, 0, 0, 0],
        [STATE64 + layout::STATE_SIZE as u64, 0, 0, 0, 0, 0],
        [0x1000, 1, 0, 0, 0, 0],
        [STATE64, 2, 0, 0, 0, 0],
        [STATE64, 128, 0, 0, 0, 0],
        [STATE64, 0, 0, 1, 0, 0],
    ] {
        let call = Call::new(nr::FUTEX, args);
        assert_eq!(call.verdict(), verdict::KILL, "{args:x?}");
    }
}
