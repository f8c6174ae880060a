//! System calls that an attacker makes in its view.

use crate::arena::Arena;
use crate::script::{Long, Record, routine};
use crate::sweep::{Sweep, stride};
use crate::target::view;

/// More than the kernel has.
const NUMBERS: u64 = 601;

/// The bit of the calls with 32-bit pointers.
const X32: u64 = 0x4000_0000;

/// Arguments that would do harm if they were accepted.
fn hostile(nr: u64) -> [u64; 6] {
    match nr % 3 {
        0 => [1, 0x1000_0000_0000, 4096, 0, 0, 0],
        1 => [!0, !0, !0, !0, !0, !0],
        _ => [0xC000_0000, 0xC000_1000, 0xC000_2000, 8, 3, 0],
    }
}

fn call(rip: u64, nr: u64, args: [u64; 6]) -> Record {
    Record::long_of_a_user(&Long {
        rip,
        rax: nr,
        args,
        ..Long::default()
    })
}

fn sweep(name: &'static str, script: &[Record]) {
    Sweep::inside(name, script).run(&Arena::new("calls"));
}

/// Every number, from the attacker's own code. Each needs a boot, because each
/// ends the Guest.
#[test]
fn of_every_number() {
    let step = stride(NUMBERS, 200);
    let numbers = (0..NUMBERS).step_by(step).chain([9, 11, 13, 14, 15]);
    let script: Vec<Record> = numbers
        .map(|nr| call(routine::SYSCALL, nr, hostile(nr)))
        .collect();
    sweep("system calls", &script);
}

/// Every number, from the one place where calls are allowed.
#[test]
fn of_every_number_from_the_allowed_place() {
    let numbers = 0..NUMBERS;
    let x32 = [0, 1, 9, 11, 59, 202, 512, 520, 547].map(|nr| nr | X32);
    let others = [1 << 32, 9 | 1 << 63, u64::MAX, 0x8000_0009];
    let script: Vec<Record> = numbers
        .chain(x32)
        .chain(others)
        .map(|nr| call(view().syscall, nr, hostile(nr)))
        .collect();
    sweep("system calls from the allowed place", &script);
}

/// From every place in the Host's code that could be taken for a system call.
#[test]
fn from_every_place() {
    let places = view().sites.iter().copied();
    let script: Vec<Record> = places
        .flat_map(|at| {
            let numbers = (0..NUMBERS).step_by(50).chain([9, 11, 13, 15, 157]);
            numbers.map(move |nr| call(at, nr, hostile(nr)))
        })
        .collect();
    sweep("system calls from every place", &script);
}

/// Every number by `int $0x80`, from 64-bit code.
#[test]
fn by_int_80() {
    let numbers = (0..NUMBERS).chain([X32, 0xFFFF_FFFF]);
    let script: Vec<Record> = numbers
        .map(|nr| call(routine::INT80, nr, hostile(nr)))
        .collect();
    sweep("system calls by int 0x80", &script);
}

/// The return from a signal that was never sent: the kernel reads words of the
/// stack as the frame.
#[test]
fn return_from_no_signal() {
    let stacks = [
        0,
        0x1000,
        0xC010_0000,
        0xC000_0000,
        0xFFFE_0000,
        0xFFFF_FFF8,
        0x1000_0000_0000,
        0x2000_0000_0000,
        0x3100_0000_0000,
        0x3100_0000_A000,
        0x3100_0001_FFF8,
        0x4000_0000_0000,
        0x7FFF_FFFF_F000,
        1 << 63,
        u64::MAX,
    ];
    let script: Vec<Record> = stacks
        .into_iter()
        .map(|stack| {
            Record::long_of_a_user(&Long {
                rip: routine::STACK,
                args: [stack, view().restorer, 0, 0, 0, 0],
                ..Long::default()
            })
        })
        .collect();
    sweep("return from no signal", &script);
}
