//! Networks: from a machine to this one, by the network of a user without root.
//!
//! lguest has passt there, QEMU its own user network. Natively it is the
//! loopback device.

use super::kit::Kit;
use super::machines::{self, Machine, Network};
use super::network::patient;
use super::options::Options;
use super::results::{Results, System};
use super::subject::Subject;
use std::path::Path;

pub(super) const TITLE: &str = "networks, from guest to this machine";

/// The rows of the program, with the suffix.
pub(super) const ROWS: [&str; 2] = ["net-tcp-user", "net-tcp-ping-user"];

pub(super) const SUFFIX: &str = "-user";

const MEGABYTES: u32 = 64;

pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    kit: &Kit,
    results: &mut Results,
) {
    let wanted = options.wanted(ROWS);
    let Some(first) = wanted.first() else {
        return;
    };
    let patient = patient(options);
    let machine = |system, lguest: &Path| {
        let mut machine = Machine::bare(system, lguest, kit, MEGABYTES);
        machine.network = Some(Network::User);
        machine
    };
    let native = machine(System::Native, lguest);
    let mut serves = Subject::new(native, options, &["listen"]);
    if let Err(why) = serves.id() {
        results.add(TITLE, first, System::Native, Err(why));
        return;
    }
    let mut all = Vec::new();
    for (system, lguest) in machines::wanted(options, lguest) {
        let greetings: &[_] = match system {
            System::Uml => {
                let why = "it has no network without privileges";
                results.add(TITLE, first, system, Err(why.into()));
                continue;
            }
            System::Native => &["peer 127.0.0.1"],
            _ => &["address 10.0.2.15", "peer 10.0.2.2"],
        };
        let machine = machine(system, &lguest);
        all.push(Subject::new(machine, &patient, greetings));
    }
    for round in 0..options.rounds {
        for row in &wanted {
            eprintln!("networks: round {}, {row}", round + 1);
            for subject in &mut all {
                let row = row.strip_suffix(SUFFIX).unwrap_or(row);
                subject.ask(TITLE, row, SUFFIX, results);
            }
        }
        all.reverse();
    }
}
