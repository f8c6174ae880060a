//! The Guest that attacks: one attack per boot.
//!
//! It is hostile from its first instruction. `attack=NAME` on the command line
//! says what it does; most of what it does it reads from its initial ram disk,
//! a script of small steps (see [`script`]), so that a test can write down a
//! thousand attacks as a table. What needs a loop of its own is a module here.
//! It prints how far it has come, because an attack may end the Guest; the next
//! boot goes on after that step. `crates/lguest/tests/attacks` runs it all and
//! checks that nothing outside the Guest was harmed.

#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "usize has 32 bits here, and what is cut was small"
)]

#[path = "../../questions/src/lab/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "it has what questions need, too"
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
use lg_abi::page::PAGE_SIZE;
use lg_guest::boot::Boot;
use lg_guest::command_line::CommandLine;
use lg_guest::{power, println};

lg_guest::entry!(main);

/// A name, and what is done.
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

/// Maps the descriptors and the devices' pages where memory would go on.
fn map_devices(boot: &Boot) {
    let map = |at: u32| first().set(va(at), at | KERNEL_PAGE);
    map(boot.memory);
    let mut end = boot.memory + PAGE_SIZE;
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

/// The number behind `name=` on the command line, in decimal or with `0x`.
pub(crate) fn number(line: CommandLine<'_>, name: &str) -> Option<u32> {
    let text = line.value(name)?;
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Says how many cases there were: the last line of an attack that its Guest
/// has survived.
pub(crate) fn survived(cases: u32) {
    println!("survived {cases} cases");
}
