//! Linux: the same program natively and as the first process of machines.
//!
//! All systems run all the time, and sleep between rows. Each row is measured
//! on one system after the other, and the order is reversed in every round.

use super::kit::Kit;
use super::machines::{self, Machine};
use super::options::Options;
use super::results::{Results, System};
use super::subject::Subject;
use super::{growth, network, outside, start};
use std::path::Path;

const CALLS: &str = "calls, signals, switches";
const PROCESSES: &str = "processes and memory";
const COMPUTING: &str = "computing";
const PROGRAMS: &str = "programs";
const DISKS: &str = "disks";

/// The rows of `tests/linux-programs/bench.c` that one machine can answer.
const ROWS: [(&str, &str); 37] = [
    (CALLS, "syscall-int80"),
    (CALLS, "syscall-entry"),
    (CALLS, "signal"),
    (CALLS, "pipe"),
    (CALLS, "switch-2"),
    (CALLS, "switch-8"),
    (CALLS, "switch-32"),
    (CALLS, "switch-40"),
    (CALLS, "switch-80"),
    (PROCESSES, "fork-exit"),
    (PROCESSES, "fork-exec"),
    (PROCESSES, "fault-anon"),
    (PROCESSES, "fault-file"),
    (PROCESSES, "fault-copy"),
    (PROCESSES, "mmap"),
    (COMPUTING, "integer"),
    (COMPUTING, "float"),
    (COMPUTING, "sse"),
    (COMPUTING, "memory-read"),
    (COMPUTING, "memory-write"),
    (COMPUTING, "memory-copy"),
    (COMPUTING, "memory-chase"),
    (PROGRAMS, "gzip"),
    (PROGRAMS, "sha256"),
    (PROGRAMS, "shell"),
    (PROGRAMS, "compile"),
    (PROGRAMS, "tar"),
    (DISKS, "disk-seq-read"),
    (DISKS, "disk-seq-write"),
    (DISKS, "disk-rand-read"),
    (DISKS, "disk-rand-write"),
    (DISKS, "disk-cache-read"),
    (DISKS, "disk-cache-write"),
    (DISKS, "disk-cold-read"),
    (DISKS, "disk-cold-cache"),
    (DISKS, "disk-cold-rand"),
    (DISKS, "disk-sync-write"),
];

/// Memory of the usual guest.
const MEGABYTES: u32 = 128;

/// Measures all chosen rows of Linux.
pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    folder: &Path,
    results: &mut Results,
) {
    match Kit::from_environment(folder) {
        Ok(kit) => {
            rows(options, lguest, &kit, results);
            start::measure(options, lguest, &kit, results);
            network::measure(options, lguest, &kit, results);
            outside::measure(options, lguest, &kit, results);
            growth::measure(options, lguest, &kit, results);
        }
        Err(why) => {
            for (section, row) in all() {
                if options.wants(row) {
                    results.add(section, row, System::Lguest, Err(why.clone()));
                }
            }
        }
    }
}

/// The names of all rows, without their variants.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let more = start::ROWS.into_iter().map(|row| (start::TITLE, row));
    let net = network::ROWS.into_iter().map(|row| (network::TITLE, row));
    let out = outside::ROWS.into_iter().map(|row| (outside::TITLE, row));
    let grown = growth::ROWS.into_iter().map(|row| (growth::TITLE, row));
    let nets = net.chain(out);
    ROWS.into_iter().chain(more).chain(nets).chain(grown)
}

/// Rounds of the rows above.
fn rows(options: &Options, lguest: &Path, kit: &Kit, results: &mut Results) {
    let wanted: Vec<_> =
        ROWS.iter().filter(|(_, row)| options.wants(row)).collect();
    if wanted.is_empty() {
        return;
    }
    let systems = machines::wanted(options, lguest).into_iter();
    let mut all: Vec<Subject> = systems
        .map(|(system, lguest)| {
            let mut machine = Machine::bare(system, &lguest, kit, MEGABYTES);
            machine.small = false;
            // Without disks, the rows that need them say so.
            machine.disks = kit.disks(system.name()).ok();
            Subject::new(machine, options, &[])
        })
        .collect();
    for round in 0..options.rounds {
        for (section, row) in &wanted {
            eprintln!("linux: round {}, {row}", round + 1);
            for subject in &mut all {
                subject.ask(section, row, "", results);
            }
        }
        all.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_those_of_the_program() {
        let path = crate::place::root().join("tests/linux-programs/bench.c");
        let source = std::fs::read_to_string(path).unwrap();
        let known = |row: &str| source.contains(&format!("{{ \"{row}\","));
        for (section, row) in all() {
            let row = row.strip_suffix(outside::SUFFIX).unwrap_or(row);
            assert!(known(row) || section == start::TITLE, "{row}");
        }
    }
}
