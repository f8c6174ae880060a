//! Words that change while Host and Launcher read them.
//!
//! The attacker uses two views: one makes requests, the other writes random
//! words. They share only the Guest's memory and the state. A device has the
//! same problem if its Guest runs while the device works.

use crate::arena::Arena;
use crate::script::Record;
use crate::sweep::{Sweep, all};
use crate::target::{DISK, EMPTY, LIMIT, view};
use lg_abi::hypercall::Hypercall;
use lg_switcher::layout::{IMAGE, State};
use std::mem::offset_of;

/// The command line: where in the state the attacker finds what it needs.
fn line(region: &str, mask: u32, seed: u64) -> String {
    let syscall = view().syscall - IMAGE as u64;
    format!(
        "attack=race syscall={syscall:#x} cr3={:#x} current={:#x} eip={:#x} \
         esp={:#x} run_token={:#x} {region} mask={mask:#x} seed={seed}",
        offset_of!(State, vm.cr3),
        offset_of!(State, vm.wire.current),
        offset_of!(State, vm.regs.eip),
        offset_of!(State, vm.regs.esp),
        offset_of!(State, vm.wire.run_tokens),
    )
}

fn race(name: &'static str, region: &str, mask: u32, script: &[Record]) {
    let arena = Arena::new("race");
    let seeds = if all() { 50 } else { 3 };
    for seed in 0..seeds {
        let spread = ["--no-fast-path=one-processor".into()];
        let sweep = Sweep {
            line: line(region, mask, seed),
            forges: true,
            // On one processor, and on as many as there are.
            options: spread[..usize::from(seed % 2 == 0)].to_vec(),
            ..Sweep::inside(name, script)
        };
        sweep.run(&arena);
    }
}

fn call(call: Hypercall, args: [u32; 3]) -> Record {
    Record::hypercall(call as u32, args)
}

/// A good list in `EMPTY`: two sections.
fn list() -> Vec<Record> {
    vec![
        Record::fill(EMPTY, 25, 0, 0),
        Record::fill(EMPTY + 4, 2, EMPTY + 0x1000, 0),
        Record::fill(EMPTY + 68, 1, 0x0010_0010, 0),
    ]
}

#[test]
fn used_len() {
    let mut script = list();
    script.push(call(Hypercall::SendDma, [0, EMPTY, 0]));
    script.push(Record::repeat(1, 3000));
    race("a race for used_len", &region(EMPTY, 4), u32::MAX, &script);
}

#[test]
fn lists_that_are_sent() {
    let mut script = Vec::new();
    for _ in 0..if all() { 200 } else { 20 } {
        script.extend(list());
        script.push(call(Hypercall::SendDma, [0, EMPTY, 0]));
    }
    let lengths = region(EMPTY + 68, 32);
    race("a race for lists", &lengths, 0x1FFF_1FFF, &script);
}

#[test]
fn the_ring_and_interrupt_words() {
    let steps = [
        call(Hypercall::FlushTlb, [0; 3]),
        call(Hypercall::SetClockevent, [1000, 0, 0]),
        Record::code(&[0x0F, 0x0B]),
    ];
    let mut script = steps.to_vec();
    script.push(Record::repeat(3, 1000));
    race("a race for the ring", "region=ring", 0xFF00_FF00, &script);
    race("a race for the calls", "region=calls", 0x1F, &script);
    race("a race for interrupts", "region=irq", u32::MAX, &script);
}

#[test]
fn the_pages_of_devices() {
    let mut script = list();
    script.push(call(Hypercall::BindDma, [DISK, EMPTY, 0x102]));
    for _ in 0..20 {
        script.push(Record::fill(DISK, 3, 0, 512));
        script.push(Record::fill(DISK + 12, 1, 0, 0));
        script.push(call(Hypercall::SendDma, [DISK, EMPTY, 0]));
        script.push(Record::sleep(300_000));
    }
    race(
        "a race for the disk's page",
        &region(DISK, 16),
        0xFFFF,
        &script,
    );
    let descriptors = region(LIMIT - 8192, 128);
    race("a race for descriptors", &descriptors, u32::MAX, &script);
}

fn region(at: u32, size: u32) -> String {
    format!("at={at:#x} size={size}")
}
