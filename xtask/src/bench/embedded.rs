//! The built-in guest: its start, its resources, its own figures.
//!
//! It runs only under lguest, so it is compared only with another lguest. It
//! needs no files from outside, so CI can measure it.

use super::conversation::Conversation;
use super::options::Options;
use super::processes;
use super::results::{Figure, Results, System};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) const TITLE: &str = "embedded guest";
const PATIENCE: Duration = Duration::from_secs(30);
const PROMPT: &str = "lguest> ";

/// Where the memory of a guest is.
pub(super) const GUEST_MEMORY: [&str; 1] = ["lguest-memory"];

/// Rows that are measured from outside the guest.
const FIRST: &str = "start to first instruction";
const READY: &str = "start to ready, as the guest sees it";
const SHOWN: &str = "start to prompt";
const MEMORY: &str = "memory beyond the guest's";
const TABLES: &str = "page tables of its processes";
const IDLE: &str = "processor of an idle guest";

/// Rows of the guest's own `bench`.
const SAID: [&str; 14] = [
    "one step of a xorshift generator",
    "filling 1 MiB of memory",
    "reading the clock",
    "interrupts off and on again",
    "hypercall (FLUSH_ASYNC)",
    "hypercall by way of the ring",
    "FLUSH_TLB of the user part",
    "page fault in the kernel, to its handler",
    "system call",
    "page on demand",
    "switch between two programs",
    "program: start, one call, end",
    "a sleep of 1 ms is too long by",
    "a turn of a kernel task",
];

/// Measures one guest in rounds, then many guests at once.
pub(super) fn measure(options: &Options, lguest: &Path, results: &mut Results) {
    if !options.wants("embedded") {
        return;
    }
    let mut systems = vec![(System::Lguest, lguest)];
    if let Some(other) = &options.baseline {
        systems.push((System::Baseline, other));
    }
    for round in 0..options.rounds {
        eprintln!("{TITLE}: round {}", round + 1);
        for &(system, program) in &systems {
            if let Err(why) = one(options, program, system, results) {
                results.add(TITLE, FIRST, system, Err(why));
            }
        }
        systems.reverse();
    }
    let count = if options.quick { 10 } else { 100 };
    for (system, program) in systems {
        if let Err(why) = many(count, program, system, results) {
            let row = format!("{count} idle guests: processor");
            results.add(TITLE, &row, system, Err(why));
        }
    }
    for row in FROM_OUTSIDE.iter().chain(&SAID) {
        results.must_have(TITLE, row, System::Lguest);
    }
}

const FROM_OUTSIDE: [&str; 6] = [FIRST, READY, SHOWN, MEMORY, TABLES, IDLE];

fn start(program: &Path) -> Result<Conversation, String> {
    let mut command = Command::new(program);
    command.args(["run", "--verbose"]);
    Conversation::start(command, None)
}

fn one(
    options: &Options,
    program: &Path,
    system: System,
    results: &mut Results,
) -> Result<(), String> {
    let mut guest = start(program)?;
    let mut add = |row: &str, value: f64, unit: &str| {
        results.add(TITLE, row, system, Ok(Figure::new(value, unit)));
    };
    let (said, _) = guest.wait_for("lguest guest ready: ", PATIENCE)?;
    let (ready, _) = guest.wait_for(" ms", PATIENCE)?;
    let ready: f64 = ready.parse().map_err(|_| format!("ready: {ready}?"))?;
    let own = stamp(&said).ok_or("its messages have no times")?;
    add(FIRST, ready - own, "ms");
    add(READY, ready, "ms");
    let (_, shown) = guest.wait_for(PROMPT, PATIENCE)?;
    add(SHOWN, milliseconds(shown), "ms");

    let memory = processes::memory(guest.id(), &GUEST_MEMORY);
    add(MEMORY, memory.own, "KiB");
    add(TABLES, memory.page_tables, "KiB");
    let time = if options.quick { 300 } else { 1000 };
    let idle = processes::load(&[guest.id()], Duration::from_millis(time));
    add(IDLE, idle, "%");

    guest.say("bench")?;
    let (said, _) = guest.wait_for(PROMPT, PATIENCE)?;
    for (name, value) in said.lines().filter_map(figure) {
        add(name, value, "ns");
    }
    guest.say("poweroff")
}

/// The time on the last message, in milliseconds since the guest's first
/// instruction.
fn stamp(said: &str) -> Option<f64> {
    let (_, last) = said.rsplit_once("[ ")?;
    let seconds: f64 = last.split_once(']')?.0.trim().parse().ok()?;
    Some(seconds * 1e3)
}

/// A line of the guest: a name, and nanoseconds.
fn figure(line: &str) -> Option<(&str, f64)> {
    let line = line.trim().strip_suffix(" ns")?;
    let (name, value) = line.rsplit_once(' ')?;
    Some((name.trim(), value.parse().ok()?))
}

/// Measures idle guests, many at once.
fn many(
    count: u32,
    program: &Path,
    system: System,
    results: &mut Results,
) -> Result<(), String> {
    eprintln!("{TITLE}: {count} guests");
    let mut guests = Vec::new();
    for _ in 0..count {
        let mut guest = start(program)?;
        guest.wait_for(PROMPT, PATIENCE)?;
        guests.push(guest);
    }
    let ids: Vec<u32> = guests.iter().map(Conversation::id).collect();
    let memory = ids
        .iter()
        .map(|&id| processes::memory(id, &GUEST_MEMORY).own)
        .sum::<f64>();
    let load = processes::load(&ids, Duration::from_secs(2));
    let mut add = |what: &str, value: f64, unit: &str| {
        let row = format!("{count} idle guests: {what}");
        results.add(TITLE, &row, system, Ok(Figure::new(value, unit)));
    };
    add("processor", load, "%");
    add("memory of each", memory / f64::from(count), "KiB");
    Ok(())
}

/// A time for a table.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_understood() {
        let line = "  a sleep of 1 ms is too long by             252133.0 ns";
        assert_eq!(figure(line), Some((SAID[12], 252_133.0)));
        assert_eq!(figure("bench"), None);
        let said = "[    0.000666] one\n[    0.003012] two\n";
        assert_eq!(stamp(said), Some(3.012));
        assert_eq!(stamp("one"), None);
    }
}
