//! The memory file, mapped at addresses that the attacker chooses.

use crate::arena::Arena;
use crate::script::{Long, Record};
use crate::sweep::Sweep;
use crate::target::view;
use lg_host::patch::crossing::words::{CODE_ADDRESS, WORDS};
use lg_switcher::layout::{
    IMAGE, MEMORY, RECORD, STACK, STATE, TRACE, TRAMPOLINES,
};

const MMAP: u64 = 9;
const MPROTECT: u64 = 10;
const MUNMAP: u64 = 11;

/// Shared and fixed: the only kind that is allowed, with or without [`APART`].
const FLAGS: u64 = 0x11;

/// The flag that keeps mappings apart (`MAP_NORESERVE`).
const APART: u64 = 0x4000;

/// The Guest's memory.
const MEMORY_FD: u64 = 3;

/// Addresses that only the Host may map.
const HOSTS: [u64; 15] = [
    STATE as u64,
    TRACE as u64,
    MEMORY as u64,
    RECORD as u64,
    STACK as u64,
    STACK as u64 + 0xA000,
    IMAGE as u64,
    TRAMPOLINES as u64,
    TRAMPOLINES as u64 - 0x1000,
    CODE_ADDRESS as u64,
    WORDS as u64,
    0xFFC0_0000,
    0xFFFF_F000,
    0x7FFF_FFFF_E000,
    0xFFFF_FFFF_FF60_0000,
];

fn call(nr: u64, args: [u64; 6]) -> Record {
    Record::long_of_a_user(&Long {
        rip: view().syscall,
        rax: nr,
        args,
        ..Long::default()
    })
}

fn sweep(name: &'static str, script: &[Record]) {
    Sweep::inside(name, script).run(&Arena::new("maps"));
}

/// Over the Host, the trampolines, the Switcher, the stack and the state: with
/// every protection, and with calls that are nearly allowed.
#[test]
fn over_what_is_the_hosts() {
    let mut script = Vec::new();
    for place in HOSTS {
        for protection in [0, 3, 5, 7] {
            let args = [place, 0x1000, protection, FLAGS, MEMORY_FD, 0];
            script.push(call(MMAP, args));
        }
        let flags = FLAGS | APART;
        script.push(call(MMAP, [place, 0x1000, 7, flags, MEMORY_FD, 0]));
        script.push(call(MMAP, [place, 0x40_0000, 7, FLAGS, MEMORY_FD, 0]));
        script.push(call(MMAP, [place, 0x1000, 7, 0x32, u64::MAX, 0]));
        script.push(call(MUNMAP, [place, 0x1000, 0, 0, 0, 0]));
        script.push(call(MPROTECT, [place, 0x1000, 7, 0, 0, 0]));
        // From below, across the boundary.
        script.push(call(MUNMAP, [0x1000, place, 0, 0, 0, 0]));
    }
    sweep("mappings over the Host", &script);
}

/// Calls that are nearly allowed.
#[test]
fn nearly_as_is_allowed() {
    let good = [0x1_0000, 0x1000, 7, FLAGS, MEMORY_FD, 0];
    let mut script = Vec::new();
    for (argument, values) in [
        (0, &[1 << 32, 1 << 63, u64::MAX, 0xFFC0_0000][..]),
        (1, &[0x40_0001, 0x1_0000_0000, u64::MAX, 1 << 63]),
        (2, &[8, 0x10, 0x0100_0000, 0x0200_0000, u64::MAX]),
        (
            3,
            &[
                0,
                1,
                2,
                3,
                0x10,
                0x12,
                0x13,
                0x22,
                0x31,
                0x32,
                0x51,
                0x0004_0011,
                0x8011,
                APART,
                APART | 1,
                APART | 0x10,
                APART | 0x12,
                APART | 0x13,
                APART | 0x31,
                APART | 0x8011,
                APART | 0x0001_0000_0011,
                0x10_0011,
                0x0001_0000_0011,
                u64::MAX,
            ],
        ),
        (4, &[0, 1, 2, 4, 5, 6, 7, 9, 63, 0xFFFF_FFFF, 3 | 1 << 32]),
    ] {
        for &value in values {
            let mut args = good;
            args[argument] = value;
            script.push(call(MMAP, args));
        }
    }
    for [at, len] in [
        [0xFFC0_0000, 0x1000],
        [0xFFBF_F000, 0x2000],
        [0x1000, u64::MAX - 0xFFF],
        [1 << 32, 0x1000],
        [u64::MAX - 0xFFF, 0x2000],
        [0, 1 << 32],
    ] {
        script.push(call(MUNMAP, [at, len, 0, 0, 0, 0]));
        script.push(call(MPROTECT, [at, len, 5, 0, 0, 0]));
    }
    sweep("mappings nearly as is allowed", &script);
}

/// The filter allows to map the Guest's memory anywhere in its own four
/// gigabytes, also where that breaks the view itself.
#[test]
fn as_is_allowed() {
    let mut script = Vec::new();
    for place in [
        0,
        0x1000,
        0x1_0000,
        0x0804_8000,
        0x7FFF_F000,
        0xAFFF_F000,
        0xB000_0000,
        0xC000_0000,
        0xC010_0000,
        0xC00E_0000,
        0xE000_0000,
        0xFF80_0000,
        0xFFBF_F000,
    ] {
        for (len, protection, offset) in [
            (0x1000, 7, 0),
            (0x1000, 0, 0),
            (0x1000, 7, 0x10_0000),
            (0x1000, 2, 0x100_1000),
            (0x1000, 7, 1 << 40),
            (0x1000, 7, 1),
            (0, 7, 0),
            (1, 7, u64::MAX - 0xFFF),
            (0x40_0000, 7, 0xC0_0000),
        ] {
            let args = [place, len, protection, FLAGS, MEMORY_FD, offset];
            script.push(call(MMAP, args));
            // And what the Host makes of it.
            script.push(Record::code(&[0x0F, 0x0B]));
        }
        for protection in [0, 1, 3, 5, 7] {
            let args = [place, 0x1000, protection, 0, 0, 0];
            script.push(call(MPROTECT, args));
            script.push(Record::code(&[0x0F, 0x0B]));
        }
        script.push(call(MUNMAP, [place, 0x1000, 0, 0, 0, 0]));
        script.push(Record::code(&[0x0F, 0x0B]));
    }
    script.push(call(MUNMAP, [0, 0xFFC0_0000, 0, 0, 0, 0]));
    script.push(Record::hypercall(5, [1, 0, 0]));
    sweep("mappings as is allowed", &script);
}
