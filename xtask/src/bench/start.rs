//! Linux from outside: its start, and its resources while it is idle.
//!
//! Two starts are measured: to the shell of the given initial ram disk, and to
//! our program, which every system can start.

use super::conversation::Conversation;
use super::embedded::{GUEST_MEMORY, milliseconds};
use super::kit::Kit;
use super::machines::{self, Machine, is_there};
use super::options::Options;
use super::processes;
use super::results::{Figure, Results, System};
use std::path::Path;
use std::time::Duration;

pub(super) const TITLE: &str = "linux: start and sleep";

const ENTERED: &str = "start-first-instruction";
const SPEAKS: &str = "start-first-word";
const SHELL: &str = "start-shell";
const PROGRAM: &str = "start-program";
const MEMORY: &str = "memory-overhead";
const TABLES: &str = "memory-page-tables";
const IDLE: &str = "idle-processor";
const MANY: &str = "idle-many";

pub(super) const ROWS: [&str; 8] =
    [ENTERED, SPEAKS, SHELL, PROGRAM, MEMORY, TABLES, IDLE, MANY];

const MEGABYTES: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// The end of the prompt of the ram disk's shell.
const PROMPT: &str = "# ";

pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    kit: &Kit,
    results: &mut Results,
) {
    if !ROWS.iter().any(|row| options.wants(row)) {
        return;
    }
    let mut systems = machines::wanted(options, lguest);
    systems.retain(|(system, _)| *system != System::Native);
    for round in 0..options.rounds {
        for (system, lguest) in &systems {
            eprintln!("{TITLE}: round {}, {}", round + 1, system.name());
            let machine = Machine::bare(*system, lguest, kit, MEGABYTES);
            if let Err(why) = is_there(*system, kit) {
                results.add(TITLE, PROGRAM, *system, Err(why));
                continue;
            }
            if let Err(why) = to_the_shell(&machine, results) {
                results.add(TITLE, SHELL, *system, Err(why));
            }
            if let Err(why) = to_our_program(options, &machine, results) {
                results.add(TITLE, PROGRAM, *system, Err(why));
            }
        }
        systems.reverse();
    }
    let count: u32 = if options.quick { 3 } else { 20 };
    for (system, lguest) in &systems {
        let machine = Machine::bare(*system, lguest, kit, 32);
        let many = is_there(*system, kit)
            .and_then(|()| many(count, &machine, results));
        if let Err(why) = many {
            results.add(TITLE, MANY, *system, Err(why));
        }
    }
}

/// The kernel as its user boots it, with the given ram disk.
fn to_the_shell(
    machine: &Machine,
    results: &mut Results,
) -> Result<(), String> {
    let system = machine.system;
    let given = machine.kit.given.as_ref();
    let initrd = given.ok_or("give LGUEST_TEST_INITRD")?;
    let (mut command, console) = match system {
        System::Lguest | System::Baseline => (machine.lguest(initrd), "hvc0"),
        _ => return Err("its ram disk is made for lguest's console".into()),
    };
    command.arg(format!("console={console}"));
    let mut machine = Conversation::start(command, None)?;
    let mut add = |row: &str, time: Duration| {
        let figure = Figure::new(milliseconds(time), "ms");
        results.add(TITLE, row, system, Ok(figure));
    };
    let (_, entered) = machine.wait_for("ready after ", PATIENCE)?;
    machine.wait_for("\n", PATIENCE)?;
    add(ENTERED, entered);
    add(SPEAKS, machine.wait_for("Linux version", PATIENCE)?.1);
    machine.wait_for("GUEST-READY", PATIENCE)?;
    add(SHELL, machine.wait_for(PROMPT, PATIENCE)?.1);
    Ok(())
}

fn to_our_program(
    options: &Options,
    machine: &Machine,
    results: &mut Results,
) -> Result<(), String> {
    let (running, time) = machine.start()?;
    let mut add = |row: &str, value: f64, unit: &str| {
        let figure = Figure::new(value, unit);
        results.add(TITLE, row, machine.system, Ok(figure));
    };
    add(PROGRAM, milliseconds(time), "ms");
    let memory = processes::memory(running.id(), &memory_of(machine.system));
    add(MEMORY, memory.own, "KiB");
    add(TABLES, memory.page_tables, "KiB");
    let time = if options.quick { 500 } else { 2000 };
    let idle = processes::load(&[running.id()], Duration::from_millis(time));
    add(IDLE, idle, "%");
    Ok(())
}

/// Measures idle machines, many at once.
fn many(
    count: u32,
    machine: &Machine,
    results: &mut Results,
) -> Result<(), String> {
    eprintln!("{TITLE}: {count} of {}", machine.system.name());
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(machine.start()?.0);
    }
    let ids: Vec<u32> = all.iter().map(Conversation::id).collect();
    let own = |&id| processes::memory(id, &memory_of(machine.system)).own;
    let memory = ids.iter().map(own).sum::<f64>() / f64::from(count);
    let load = processes::load(&ids, Duration::from_secs(2));
    let mut add = |what: &str, value: f64, unit: &str| {
        let row = format!("{MANY}: {what} of {count}");
        let figure = Ok(Figure::new(value, unit));
        results.add(TITLE, &row, machine.system, figure);
    };
    add("processor", load, "%");
    add("memory of each", memory, "KiB");
    Ok(())
}

/// The files that hold the memory of a system's guest.
fn memory_of(system: System) -> [&'static str; 1] {
    match system {
        System::Qemu => ["memory-backend-memfd"],
        System::Uml => ["/dev/shm/#"],
        _ => GUEST_MEMORY,
    }
}
