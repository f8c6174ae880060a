//! Networks: from one machine to another of the same kind.
//!
//! Under lguest they share a file, under QEMU a socket. Natively it is the
//! loopback device, which copies less than a network between machines must.

use super::kit::{Kit, write};
use super::machines::{self, Machine, Network};
use super::options::Options;
use super::results::{Results, System};
use super::subject::Subject;
use std::path::Path;

pub(super) const TITLE: &str = "networks, from guest to guest";

pub(super) const ROWS: [&str; 4] =
    ["net-tcp", "net-tcp-ping", "net-udp", "net-udp-ping"];

const MEGABYTES: u32 = 64;

/// A stream needs some time to reach its speed.
const LONGER: u32 = 4;

/// The options for rows of streams.
pub(super) fn patient(options: &Options) -> Options {
    let mut patient = options.clone();
    patient.milliseconds *= LONGER;
    patient
}

/// A pair of each system.
struct Pair<'a> {
    asks: Subject<'a>,
    serves: Subject<'a>,
}

pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    kit: &Kit,
    results: &mut Results,
) {
    let wanted = options.wanted(ROWS);
    if wanted.is_empty() {
        return;
    }
    let patient = patient(options);
    let mut pairs = Vec::new();
    for (system, lguest) in machines::wanted(options, lguest) {
        match Pair::new(system, &lguest, kit, &patient) {
            Ok(pair) => pairs.push(pair),
            Err(why) => results.add(TITLE, ROWS[0], system, Err(why)),
        }
    }
    for round in 0..options.rounds {
        for row in &wanted {
            eprintln!("networks: round {}, {row}", round + 1);
            for pair in &mut pairs {
                // The other side starts first, because it must listen.
                if let Err(why) = pair.serves.id() {
                    let system = pair.serves.machine.system;
                    results.add(TITLE, row, system, Err(why));
                    continue;
                }
                pair.asks.ask(TITLE, row, "", results);
            }
        }
        pairs.reverse();
    }
}

impl<'a> Pair<'a> {
    fn new(
        system: System,
        lguest: &Path,
        kit: &'a Kit,
        options: &Options,
    ) -> Result<Self, String> {
        if system == System::Uml {
            return Err("it has no network without privileges".into());
        }
        let path = kit.folder.join(format!("{}-net", system.name()));
        // A socket of an earlier run would be in the way.
        let _ = std::fs::remove_file(&path);
        if system != System::Qemu {
            write(&path, &[0; 4096])?;
        }
        let machine = |first| {
            let mut machine = Machine::bare(system, lguest, kit, MEGABYTES);
            let path = path.clone();
            machine.network = Some(Network::Shared { path, first });
            machine
        };
        let (served, peer) = match system {
            System::Native => ("listen", "peer 127.0.0.1"),
            _ => ("address 10.1.0.2", "peer 10.1.0.2"),
        };
        let asked = match system {
            System::Native => "ms 10",
            _ => "address 10.1.0.1",
        };
        let serves = match system {
            System::Native => [served, "ms 10"],
            _ => [served, "listen"],
        };
        let time = format!("ms {}", options.milliseconds);
        Ok(Self {
            serves: Subject::new(machine(true), options, &serves),
            asks: Subject::new(machine(false), options, &[asked, peer, &time]),
        })
    }
}
