//! The attacker: a Guest that makes one attack per boot.
//!
//! `attack=NAME` on the command line chooses the attack. Most attacks are
//! scripts of small steps in its initial ram disk (see [`script`]), so that a
//! test can describe a thousand attacks in a table. Attacks that need a loop of
//! their own are modules here. It prints the number of each step, because a
//! step may end the Guest, and then the next boot goes on after it.
//! `crates/lguest/tests/attacks` runs all of them, and checks that nothing
//! outside the Guest was harmed.

#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "usize has 32 bits here, and the values are small"
)]

#[path = "../../questions/src/lab/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the questions use other parts of it"
)]
mod lab;

mod code;
mod flags;
mod frames;
mod long;
mod race;
mod random;
mod script;
mod selectors;

use lab::memory::{peek, va};
use lab::space::{KERNEL_PAGE, first};
use lg_abi::device::{DeviceDescriptor, LGUEST_MAX_DEVICES};
use lg_abi::gen2::device::DESCRIPTOR_SIZE;
use lg_abi::gen3::pci::{
    ADDRESS_PORT, DATA_PORT, ENABLE, MAX_DEVICES, first_place, offset,
};
use lg_abi::page::PAGE_SIZE;
use lg_guest::boot::Boot;
use lg_guest::command_line::CommandLine;
use lg_guest::interface::{has_pci, has_virtio};
use lg_guest::{power, println};

lg_guest::entry!(main, any);

/// A name and its function.
type Attack = (&'static str, fn(&'static Boot));

const ATTACKS: &[Attack] = &[
    ("script", script::run),
    ("selectors", selectors::run),
    ("flags", flags::run),
    ("code", code::run),
    ("frames", frames::run),
    ("race", race::run),
    ("random", random::run),
];

fn main(boot: &'static Boot) {
    let name = boot.arguments.value("attack").unwrap_or("none");
    let found = ATTACKS.iter().find(|(known, _)| *known == name);
    let Some((_, attack)) = found else {
        panic!("no such attack: {name}");
    };
    lab::open();
    map_devices(boot);
    println!("begin");
    attack(boot);
    power::off(0);
}

/// Maps the descriptors and the devices' pages, or their rings, after the
/// memory; on a PCI bus, the places where devices can be.
fn map_devices(boot: &Boot) {
    let map = |at: u32| first().set(va(at), at | KERNEL_PAGE);
    if has_pci() {
        for n in 0..=MAX_DEVICES as u32 {
            let place = first_place(boot.memory, n);
            map(place);
            move_device(n + 1, place);
        }
        return;
    }
    map(boot.memory);
    let mut end = boot.memory + PAGE_SIZE;
    if has_virtio() {
        for _ in 0..RING_PAGES * queues(boot.memory) {
            map(end);
            end += PAGE_SIZE;
        }
        return;
    }
    for n in 0..LGUEST_MAX_DEVICES as u32 {
        let at = boot.memory + n * DeviceDescriptor::SIZE;
        // Pages are in the high half of the second word.
        let pages = peek(at + 4) >> 16;
        for _ in 0..pages {
            map(end);
            end += PAGE_SIZE;
        }
    }
}

/// Moves the device in `slot`, if there is one, to `place`.
fn move_device(slot: u32, place: u32) {
    let mut code = [0; 22];
    let word = ENABLE | (slot << 11) | offset::BAR_0;
    let outs = [(ADDRESS_PORT, word), (DATA_PORT, place)];
    for (out, (port, word)) in code.chunks_exact_mut(11).zip(outs) {
        // mov $port,%edx; mov $word,%eax; out %eax,(%dx)
        out[0] = 0xBA;
        out[1..5].copy_from_slice(&port.to_le_bytes());
        out[5] = 0xB8;
        out[6..10].copy_from_slice(&word.to_le_bytes());
        out[10] = 0xEF;
    }
    lab::kernel(&code);
}

/// Pages of a virtqueue.
const RING_PAGES: u32 = 3;

/// How many virtqueues the descriptors from `at` on name.
fn queues(at: u32) -> u32 {
    let (mut at, mut queues) = (at, 0);
    loop {
        let [kind, num_vq, feature_len, config_len] = peek(at).to_le_bytes();
        if kind == 0 {
            return queues;
        }
        queues += u32::from(num_vq);
        at += DESCRIPTOR_SIZE
            + 8 * u32::from(num_vq)
            + 2 * u32::from(feature_len)
            + u32::from(config_len);
    }
}

/// The number behind `name=` on the command line, in decimal or with `0x`.
pub(crate) fn number(line: CommandLine<'_>, name: &str) -> Option<u32> {
    let text = line.value(name)?;
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Prints the number of cases: the last line of an attack that its Guest has
/// survived.
pub(crate) fn survived(cases: u32) {
    println!("survived {cases} cases");
}
