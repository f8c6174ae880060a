//! Do costs grow with the guest?
//!
//! The same costs in guests of several sizes, with few and with many processes
//! alive.
//!
//! This shows whether the Host's work depends on the size of a guest or on the
//! number of its page directories. Natively the number of processes is the
//! same, and the memory is that of the machine.

use super::kit::Kit;
use super::machines::{self, Machine};
use super::options::Options;
use super::results::{Results, System};
use super::subject::Subject;
use std::path::Path;

pub(super) const TITLE: &str = "does it grow?";

pub(super) const ROWS: [&str; 3] = ["fault-anon", "fork-exit", "switch-2"];

const SIZES: [u32; 3] = [16, 256, 800];
const PROCESSES: [u32; 3] = [1, 16, 128];

/// The name of these rows for an option. Each is also a row of another section.
const OPTION: &str = "growth";

pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    kit: &Kit,
    results: &mut Results,
) {
    if !options.wants(OPTION) {
        return;
    }
    let mut subjects = Vec::new();
    for (system, lguest) in machines::wanted(options, lguest) {
        if matches!(system, System::Qemu | System::Uml) {
            continue;
        }
        for megabytes in SIZES {
            let machine = Machine::bare(system, &lguest, kit, megabytes);
            let subject = Subject::new(machine, options, &[]);
            subjects.push((megabytes, subject));
        }
    }
    for round in 0..options.rounds {
        for processes in PROCESSES {
            eprintln!("growth: round {}, {processes}", round + 1);
            for (megabytes, subject) in &mut subjects {
                let said = subject.say(&format!("others {processes}"));
                for why in said.unwrap_or_default() {
                    let row = format!("others, {megabytes} MB");
                    let system = subject.machine.system;
                    results.add(TITLE, &row, system, Err(why));
                }
            }
            for row in ROWS {
                for (megabytes, subject) in &mut subjects {
                    let suffix = format!(", {megabytes} MB, {processes} alive");
                    subject.ask(TITLE, row, &suffix, results);
                }
            }
        }
        for (_, subject) in &mut subjects {
            let _ = subject.say("others 1");
        }
        subjects.reverse();
    }
}
