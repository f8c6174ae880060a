//! The built-in Guest: the Launcher boots it when no kernel is given.
//!
//! A small system. It finds its devices, runs user programs in address spaces
//! of their own, uses a network if there is one, and then waits for commands.
//! `help` at its prompt lists them.
//!
//! Words on its command line:
//!
//! | word | meaning |
//! |---|---|
//! | `started_tsc=0xN` | the time-stamp counter when the Launcher started |
//! | `ip=A.B.C.D/N` | address on the network; see below |
//! | `gw=A.B.C.D` | the way to other networks |
//! | `run="cmd;cmd"` | commands to run before the first prompt |
//! | `quiet` | no boot messages except the ready line |
//!
//! `started_tsc` is appended by the Launcher, so that the ready line can say
//! how long the whole start took. Without `ip` the address is `10.0.0.`, then
//! the number of the slot on the network plus one, `/24`.

#![no_std]
#![no_main]

extern crate alloc;

mod machine;
mod programs;

mod shell;

mod bench;
mod files;
mod network;
mod system;

use alloc::boxed::Box;
use lg_guest::boot::Boot;
use lg_guest::{log, print, println, task, time};
use machine::Machine;

lg_guest::entry!(main, any);

/// The beginning of the ready line: the Launcher's tests wait for it.
const READY: &str = "lguest guest ready";

/// Finds the devices, and starts the tasks.
fn main(boot: &'static Boot) {
    let machine: &'static Machine = Box::leak(Box::new(Machine::new(boot)));
    if let Err(error) = task::spawn("shell", life(machine)) {
        panic!("no shell: {error:?}");
    }
}

/// The whole run, in order.
async fn life(machine: &'static Machine) {
    if !machine.boot.arguments.has("quiet") {
        introduce(machine);
        let result = programs::demonstrate().await;
        log!("user mode: {result}");
    }
    ready(machine);
    if let Some(commands) = machine.boot.arguments.value("run") {
        for command in commands.split(';') {
            shell::execute(machine, command).await;
        }
    }
    shell::run(machine).await;
}

/// The boot messages.
fn introduce(machine: &Machine) {
    log!("lguest guest {}", env!("CARGO_PKG_VERSION"));
    log!("command line: {}", machine.boot.arguments.text());
    log!("{}", system::memory_line(machine));
    log!("{}", system::clock_line());
    for line in system::device_lines(machine) {
        log!("{line}");
    }
}

/// Prints the ready line with the time of the start: since the Launcher
/// started, if the command line has that, otherwise since the Guest was
/// entered.
fn ready(machine: &Machine) {
    let started = machine
        .boot
        .arguments
        .value("started_tsc")
        .and_then(lg_guest::command_line::number)
        .and_then(time::since_tsc);
    let (nanoseconds, since) = match started {
        Some(nanoseconds) => (nanoseconds, "the Launcher started"),
        None => (time::now(), "the Guest was entered"),
    };
    println!("{READY}: {} ms since {since}", Milliseconds(nanoseconds));
    print::flush();
}

/// Nanoseconds, shown as milliseconds with three places.
struct Milliseconds(u64);

impl core::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let microseconds = self.0 / 1_000;
        let (whole, rest) = (microseconds / 1_000, microseconds % 1_000);
        write!(f, "{whole}.{rest:03}")
    }
}
