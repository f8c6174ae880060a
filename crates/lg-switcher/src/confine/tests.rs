//! The filters, run by an interpreter: allowed calls, and every near miss.

use super::*;
use std::prelude::rust_2024::*;

mod boundaries;

const FACTS: Facts = Facts {
    call_site: 0x4000_0000_1234,
    return_site: 0x4000_0000_5678,
    timer: 0,
    shared_pages: 1,
    disks: 0,
    cpuid_faults: false,
    user_process: None,
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

    /// The verdict of a view's filter.
    fn verdict(&self) -> u32 {
        self.verdict_of(&filter(&FACTS))
    }

    /// The verdict of `filter`.
    fn verdict_of(&self, filter: &Filter) -> u32 {
        let call = lg_seccomp::Call {
            nr: self.nr,
            arch: self.arch,
            ip: self.ip,
            arguments: self.args,
        };
        call.verdict_of(filter.code())
    }

    fn is_allowed(&self) -> bool {
        self.verdict() == verdict::ALLOW
    }
}

const GOOD_MMAP: [u64; 6] = [0x1000, 0x1000, 7, 0x11, 3, 0x5000];
const STATE64: u64 = layout::STATE as u64;
const STACK64: u64 = layout::STACK as u64;
const OUTBOX64: u64 = layout::OUTBOXES as u64;

#[test]
fn what_a_view_does_is_allowed() {
    let top = u64::from(SWITCHER_ADDR);
    for call in [
        Call::new(nr::MMAP, GOOD_MMAP),
        Call::new(nr::MMAP, [top - 0x40_0000, 0x40_0000, 7, 0x11, 3, 0]),
        Call::new(nr::MMAP, [0x1000, 0x1000, 5, 0x4011, 3, 0x5000]),
        Call::new(nr::MMAP, [0x1000, 0x1000, 5, 0x11, 7, 0]),
        Call::new(nr::MMAP, [0x1000, 0x1000, 5, 0x11, 6, 0x3000]),
        Call::new(nr::MUNMAP, [0, top, 0, 0, 0, 0]),
        Call::new(nr::MPROTECT, [0x1000, 0x1000, 5, 0, 0, 0]),
        Call::new(nr::MODIFY_LDT, [0x11, STACK64 + 0x8000, 16, 0, 0, 0]),
        Call::new(nr::FUTEX, [STATE64 + 64, 0, 1, 0, 0, 0]),
        Call::new(nr::FUTEX, [STATE64 + 64, 1, 1, 0, 0, 0]),
        Call::new(nr::FUTEX, [OUTBOX64 + 128, 1, 1, 0, 0, 0]),
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
fn a_view_switches_faults_at_cpuid_where_there_are_some() {
    const SET: u64 = cpuid::ARCH_SET_CPUID as u64;
    let faulting = filter(&Facts {
        cpuid_faults: true,
        ..FACTS
    });
    for (function, works, allowed) in [
        (SET, 0, true),
        (SET, 1, true),
        (SET, 2, false),
        (SET, 1 << 32, false),
        (SET | 1 << 32, 1, false),
        (0x1001, 0, false),
        (0x1022, 1, false),
    ] {
        let arguments = [function, works, 0, 0, 0, 0];
        let call = Call::new(nr::ARCH_PRCTL, arguments);
        assert!(!call.is_allowed());
        let verdict = call.verdict_of(&faulting);
        assert_eq!(verdict == verdict::ALLOW, allowed, "{arguments:x?}");
    }
}

#[test]
fn calls_of_32_bits_go_to_the_guests_kernel() {
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
        nr::MPROTECT,
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

/// With one network the first disk has descriptor 9.
#[test]
fn a_view_reads_the_files_of_its_disks_and_no_others() {
    let disks = |disks| filter(&Facts { disks, ..FACTS });
    let good = [9, STACK64, 64, 0x1000, 0, 8];
    let read = |args| Call::new(nr::PREADV2, args);
    for fd in (0..20).chain([9 | 1 << 32, u64::MAX]) {
        for count in [0, 1, 2, 8] {
            let first = 9;
            let is_one = (first..first + u64::from(count)).contains(&fd);
            let expected = if is_one {
                verdict::ALLOW
            } else {
                verdict::KILL
            };
            let mut args = good;
            args[0] = fd;
            let filter = disks(count);
            assert_eq!(read(args).verdict_of(&filter), expected, "{fd}");
            let close = Call::new(nr::CLOSE, [fd, 0, 0, 0, 0, 0]);
            assert_eq!(close.verdict_of(&filter), expected, "{fd}");
        }
    }
    let filter = disks(2);
    for (argument, value, allowed) in [
        (1, 0x1000, true),
        (2, 0, true),
        (2, 65, false),
        (2, 1 << 32, false),
        (3, u64::MAX, true),
        (5, 0, false),
        (5, 1, false),
        (5, 9, false),
        (5, 8 | 1 << 32, false),
    ] {
        let mut args = good;
        args[argument] = value;
        let got = read(args).verdict_of(&filter) == verdict::ALLOW;
        assert_eq!(got, allowed, "argument {argument} = {value:#x}");
    }
    // By no other call, and from no other place.
    for nr in [0, 1, 17, 18, 295, 296, 328] {
        let call = Call::new(nr, good);
        assert_eq!(call.verdict_of(&filter), verdict::KILL, "call {nr}");
    }
    for ip in [FACTS.return_site, 0x1000] {
        let call = Call { ip, ..read(good) };
        assert_eq!(call.verdict_of(&filter), verdict::KILL);
    }
    let user = Some(USER);
    let driver = super::filter(&Facts {
        disks: 2,
        user_process: user,
        ..FACTS
    });
    assert_eq!(read(good).verdict_of(&driver), verdict::ALLOW);
    let facts = Facts { disks: 2, ..FACTS };
    assert_eq!(read(good).verdict_of(&mapper(&facts)), verdict::KILL);
}

#[test]
fn every_near_miss_of_mmap_kills() {
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
        (3, 0x8011),
        (3, 0x4010),
        (3, 0x01),
        (3, 0x11 | 1 << 32),
        (3, 0x4011 | 1 << 32),
        (4, 0),
        (4, 4),
        (4, 5),
        (4, 6), // the patched copies, but to write
        (4, 8),
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
    let over_the_trampolines = [top, 0x40_0000, 7, 0x11, 3, 0];
    let call = Call::new(nr::MMAP, over_the_trampolines);
    assert_eq!(call.verdict(), verdict::KILL);
    // A shared page's file has one page for us.
    for (len, offset) in [(0x2000, 0), (0x1000, 0x1000), (0x1000, 1 << 40)] {
        let call = Call::new(nr::MMAP, [0x1000, len, 7, 0x11, 7, offset]);
        assert_eq!(call.verdict(), verdict::KILL);
    }
}

/// Entries of the local descriptor table are set one by one, and nothing else
/// is done with it; where a user process has the table, by the mapper alone.
#[test]
fn one_entry_of_the_table_is_set_at_a_time() {
    let commands = layout::COMMANDS as u64;
    let (mapper, driver) = (mapper(&FACTS), driver());
    for (args, by_view, by_mapper) in [
        ([0x11, STACK64, 16], true, false),
        ([0x11, commands + 32, 16], false, true),
        ([0x11, STATE64, 16], false, false),
        ([0x11, STACK64 + 8, 32], false, false),
        ([1, STACK64, 16], false, false),
        ([0, STACK64, 16], false, false),
        ([0x11 | 1 << 32, STACK64, 16], false, false),
        ([0x11, commands + 32, 16 | 1 << 32], false, false),
    ] {
        let [function, at, size] = args;
        let call = Call::new(nr::MODIFY_LDT, [function, at, size, 0, 0, 0]);
        assert_eq!(call.is_allowed(), by_view, "{args:x?}");
        let allowed = call.verdict_of(&mapper) == verdict::ALLOW;
        assert_eq!(allowed, by_mapper, "{args:x?}");
        assert_eq!(call.verdict_of(&driver), verdict::KILL, "{args:x?}");
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
        [STATE64 + STATE_SIZE as u64, 0, 0, 0, 0, 0],
        [0x1000, 1, 0, 0, 0, 0],
        [STATE64, 2, 0, 0, 0, 0],
        [STATE64, 128, 0, 0, 0, 0],
        [STATE64, 0, 0, 1, 0, 0],
        [OUTBOX64 - 4, 1, 0, 0, 0, 0],
        [OUTBOX64 + u64::from(OUTBOX_SIZE), 1, 0, 0, 0, 0],
        [OUTBOX64, 0, 0, 0, 0, 0],
        [OUTBOX64, 129, 0, 0, 0, 0],
    ] {
        let call = Call::new(nr::FUTEX, args);
        assert_eq!(call.verdict(), verdict::KILL, "{args:x?}");
    }
}

const USER: UserFacts = UserFacts {
    listeners: [1, 0],
    process: 4711,
    wait_site: 0x4000_0000_2222,
};

fn driver() -> Filter {
    filter(&Facts {
        user_process: Some(USER),
        ..FACTS
    })
}

#[test]
fn a_view_hears_and_kicks_its_own_user_process() {
    let waits = |call: Call| Call {
        ip: USER.wait_site,
        ..call
    };
    let (hear, answer) = (notify::RECEIVE as u64, notify::SEND as u64);
    for call in [
        waits(Call::new(nr::IOCTL, [1, hear, 0, 0, 0, 0])),
        Call::new(nr::IOCTL, [0, hear, 0, 0, 0, 0]),
        Call::new(nr::IOCTL, [1, answer, 0, 0, 0, 0]),
        Call::new(nr::TGKILL, [4711, 4711, 10, 0, 0, 0]),
        Call::new(nr::TGKILL, [4711, 4711, 12, 0, 0, 0]),
        Call::new(nr::CLOCK_GETTIME, [1, 0, 0, 0, 0, 0]),
        Call::new(
            nr::CLOCK_GETTIME,
            [clock::clock_of(4711).into(), 0, 0, 0, 0, 0],
        ),
        Call::new(nr::MMAP, GOOD_MMAP),
    ] {
        assert_eq!(call.verdict_of(&driver()), verdict::ALLOW, "{}", call.nr);
    }
}

#[test]
fn a_view_hears_and_kicks_no_other_process() {
    let hear = notify::RECEIVE as u64;
    for args in [
        [2, hear, 0, 0, 0, 0],
        [3, hear, 0, 0, 0, 0],
        [1 << 32 | 1, hear, 0, 0, 0, 0],
        [1, hear + 1, 0, 0, 0, 0],
        [1, hear | 1 << 32, 0, 0, 0, 0],
        // SECCOMP_IOCTL_NOTIF_ADDFD, which would give the user process a
        // descriptor.
        [1, 0x4018_2103, 0, 0, 0, 0],
    ] {
        let call = Call::new(nr::IOCTL, args);
        assert_eq!(call.verdict_of(&driver()), verdict::KILL, "{args:x?}");
    }
    for args in [
        [4712, 4711, 10, 0, 0, 0],
        [4711, 4712, 10, 0, 0, 0],
        [4711, 4711, 9, 0, 0, 0],
        [4711, 4711, 1 << 32 | 10, 0, 0, 0],
        [u64::MAX, 4711, 10, 0, 0, 0],
    ] {
        let call = Call::new(nr::TGKILL, args);
        assert_eq!(call.verdict_of(&driver()), verdict::KILL, "{args:x?}");
    }
    // Only ioctl, and only from there.
    let call = Call {
        ip: USER.wait_site,
        ..Call::new(nr::MMAP, GOOD_MMAP)
    };
    assert_eq!(call.verdict_of(&driver()), verdict::KILL);
    let call = Call {
        ip: 0x1000,
        ..Call::new(nr::IOCTL, [1, hear, 0, 0, 0, 0])
    };
    assert_eq!(call.verdict_of(&driver()), verdict::KILL);
}

#[test]
fn a_user_process_can_only_stand_and_wait() {
    const STAND_SITE: u64 = 0x4000_0000_9ABC;
    let user_process = user_process(FACTS.call_site, STAND_SITE);
    for nr in (0..500).chain([0x4000_006E, 0xFFFF_FFFF]) {
        for (arch, ip) in [
            (ARCH_X86_64, FACTS.call_site),
            (ARCH_X86_64, FACTS.return_site),
            (ARCH_X86_64, 0x1000),
            (ARCH_X86_64, STAND_SITE),
            (ARCH_X86_64, STAND_SITE & 0xFFFF_FFFF),
            (ARCH_I386, FACTS.call_site),
            (ARCH_I386, STAND_SITE),
        ] {
            let call = Call {
                arch,
                ip,
                ..Call::new(nr, GOOD_MMAP)
            };
            let may_stand =
                nr == notify::WAIT && arch == ARCH_X86_64 && ip == STAND_SITE;
            let expected = if may_stand {
                verdict::STAND
            } else {
                verdict::TRAP
            };
            assert_eq!(
                call.verdict_of(&user_process),
                expected,
                "{nr} {ip:#x}"
            );
        }
    }
    let close = [0, u64::from(u32::MAX), 2, 0, 0, 0];
    let call = Call::new(nr::CLOSE_RANGE, close);
    assert_eq!(call.verdict_of(&user_process), verdict::ALLOW);
    let elsewhere = Call {
        ip: STAND_SITE,
        ..call
    };
    assert_eq!(elsewhere.verdict_of(&user_process), verdict::TRAP);
    for near_miss in [[1, close[1], 2], [0, 9, 2], [0, close[1], 0]] {
        let [a, b, c] = near_miss;
        let call = Call::new(nr::CLOSE_RANGE, [a, b, c, 0, 0, 0]);
        assert_eq!(call.verdict_of(&user_process), verdict::TRAP);
    }
}

#[test]
fn a_mapper_maps_as_a_view_does_and_nothing_else() {
    let mapper = mapper(&FACTS);
    for nr in 0..500 {
        let call = Call::new(nr, GOOD_MMAP);
        let expected = match nr {
            notify::WAIT => verdict::STAND,
            nr::MMAP => verdict::ALLOW,
            _ => verdict::KILL,
        };
        let got = call.verdict_of(&mapper);
        assert!(got == expected || nr == nr::MUNMAP, "{nr}");
        let elsewhere = Call {
            ip: FACTS.return_site,
            ..call
        };
        assert_eq!(elsewhere.verdict_of(&mapper), verdict::KILL);
    }
    let top = u64::from(SWITCHER_ADDR);
    for (args, expected) in [
        ([0x1000, 0x1000], verdict::ALLOW),
        ([0, top], verdict::ALLOW),
        ([0x1000, top], verdict::KILL),
        ([STATE64, 0x1000], verdict::KILL),
    ] {
        let call = Call::new(nr::MUNMAP, [args[0], args[1], 0, 0, 0, 0]);
        assert_eq!(call.verdict_of(&mapper), expected, "{args:x?}");
    }
    let high = [STATE64, 0x1000, 7, 0x11, 3, 0];
    let call = Call::new(nr::MMAP, high);
    assert_eq!(call.verdict_of(&mapper), verdict::KILL);
}
