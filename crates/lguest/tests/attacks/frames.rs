//! Forged signal frames, and the return from signals that were never sent.
//!
//! `rt_sigreturn` loads all registers, the mask of signals and the place of the
//! signal stack from memory. From the one place where it is allowed, the
//! attacker calls it with every kind of frame that a kernel might handle
//! wrongly.

use crate::arena::Arena;
use crate::script::{Long, Record, routine};
use crate::sweep::{Sweep, all, stride};
use crate::target::{EMPTY, EMPTY_VA, view};
use lg_switcher::layout::{IMAGE, STACK};

/// `int $0x80` in the user's code page, after the far jump: the same in all
/// modes.
const WAY_OUT: u64 = 0x0804_800C;

const CODE: [u16; 12] = [
    0x33, 0x23, 0x77, 0x73, 0x2B, 0x10, 0x08, 0, 3, 0x7F, 0x67, 0xFFFF,
];
const STACKS: [u16; 6] = [0x2B, 0, 0x7F, 0x33, 0x10, 0xFFFF];
const FLAGS: [u64; 9] = [
    2,
    0x302,
    0x4202,
    0x4_0202,
    0x1_0602,
    0x2_3202,
    0x18_0202,
    0,
    u64::MAX,
];
const PLACES: [u64; 5] = [
    WAY_OUT,
    IMAGE as u64 + 0x2000,
    0xFFFE_0000,
    1 << 47,
    0xFFFF_FFFF_FF60_0000,
];

/// `struct ucontext` up to the mask, as 64-bit words.
fn frame(cs: u16, ss: u16, flags: u64, rip: u64, mask: u64) -> Vec<u64> {
    let mut words = vec![
        3,
        0, // flags, link
        STACK as u64,
        0,
        0x2_0000, // the signal stack
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15, // r8 to r15
        1,
        2,
        3,
        4,
        5,
        6,
        7, // rdi rsi rbp rbx rdx rax rcx
        0xAFFF_FF00,
        rip,
        flags,
    ];
    words.push(u64::from(cs) | u64::from(ss) << 48);
    words.extend([0, 0, 0, 0]); // error, trap, old mask, cr2
    words.push(0); // no floating-point part
    words.extend([0; 8]);
    words.push(mask);
    words
}

/// The steps that put words into memory.
fn put(words: &[u64]) -> Vec<Record> {
    let chunks = (EMPTY..).step_by(96).zip(words.chunks(12));
    let put = |(at, words): (u32, &[u64])| {
        let bytes: Vec<u8> =
            words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Record::write(at, &bytes)
    };
    chunks.map(put).collect()
}

fn case(frame: &[u64]) -> Vec<Record> {
    let mut steps = put(frame);
    steps.push(go());
    Record::case(steps)
}

fn go() -> Record {
    Record::long_of_a_user(&Long {
        rip: routine::STACK,
        args: [EMPTY_VA, view().restorer, 0, 0, 0, 0],
        ..Long::default()
    })
}

fn sweep(name: &'static str, script: &[Record]) {
    Sweep::inside(name, script).run(&Arena::new("frames"));
}

/// Every combination of segments, flags, places and masks.
#[test]
fn of_every_kind() {
    let mut frames = Vec::new();
    for rip in PLACES {
        for cs in CODE {
            for ss in STACKS {
                for flags in FLAGS {
                    for mask in [0, u64::MAX] {
                        frames.push(frame(cs, ss, flags, rip, mask));
                    }
                }
            }
        }
    }
    let step = stride(frames.len() as u64, 250);
    let mut script = Vec::new();
    for frame in frames.iter().step_by(step) {
        script.extend(case(frame));
    }
    sweep("forged signal frames", &script);
}

/// Signal stacks at bad addresses, and floating-point parts.
#[test]
fn with_stacks_and_floating_point_of_their_own() {
    let mut script = Vec::new();
    let places = [
        0,
        0x1000,
        EMPTY_VA,
        0x1000_0000_0000,
        0x2000_0000_0000,
        STACK as u64,
        IMAGE as u64,
        u64::MAX - 0xFFFF,
    ];
    for place in places {
        for size in [0, 2048, 0x2_0000, u64::MAX] {
            for flags in [0, 1, 2, 1 << 31] {
                let mut words = frame(0x33, 0x2B, 2, WAY_OUT, 0);
                words[2..5].copy_from_slice(&[place, flags, size]);
                script.extend(case(&words));
            }
        }
        let mut words = frame(0x33, 0x2B, 2, WAY_OUT, 0);
        words[28] = place;
        script.extend(case(&words));
    }
    if !all() {
        script.truncate(script.len() / 2);
    }
    sweep("signal stacks and floating point", &script);
}
