//! Linux: the same program natively and as the first process of machines.
//!
//! All systems are up all the time, and asleep unless they are asked. Each row
//! is asked of one after the other, and in every round the order is turned
//! around.

use super::conversation::Conversation;
use super::kit::Kit;
use super::machines::{Machine, is_there};
use super::options::Options;
use super::results::{Figure, Results, System};
use std::path::Path;
use std::time::Duration;

const CALLS: &str = "calls, signals, switches";
const PROCESSES: &str = "processes and memory";
const COMPUTING: &str = "computing";
const PROGRAMS: &str = "programs";
const DISKS: &str = "disks";

/// The rows of `tests/linux-programs/bench.c` that one machine can answer.
const ROWS: [(&str, &str); 30] = [
    (CALLS, "syscall-int80"),
    (CALLS, "syscall-entry"),
    (CALLS, "signal"),
    (CALLS, "pipe"),
    (CALLS, "switch-2"),
    (CALLS, "switch-8"),
    (CALLS, "switch-32"),
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
    (PROGRAMS, "tar"),
    (DISKS, "disk-seq-read"),
    (DISKS, "disk-seq-write"),
    (DISKS, "disk-rand-read"),
    (DISKS, "disk-rand-write"),
    (DISKS, "disk-cache-read"),
    (DISKS, "disk-cache-write"),
];

/// How long one row may take on the slowest system.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rounds of all rows that are wanted.
pub(super) fn measure(
    options: &Options,
    lguest: &Path,
    folder: &Path,
    results: &mut Results,
) {
    let wanted: Vec<_> =
        ROWS.iter().filter(|(_, row)| options.wants(row)).collect();
    if wanted.is_empty() {
        return;
    }
    let kit = match Kit::from_environment(folder) {
        Ok(kit) => kit,
        Err(why) => {
            for (section, row) in wanted {
                results.add(section, row, System::Lguest, Err(why.clone()));
            }
            return;
        }
    };
    let mut systems = vec![System::Native, System::Lguest];
    if options.baseline.is_some() {
        systems.push(System::Baseline);
    }
    if options.peers {
        systems.extend([System::Qemu, System::Uml]);
    }
    let baseline = options.baseline.clone();
    let mut all: Vec<Subject> = systems
        .into_iter()
        .map(|system| {
            let program = match system {
                System::Baseline => baseline.clone().unwrap_or_default(),
                _ => lguest.to_owned(),
            };
            let disks = kit.disks(system.name());
            let machine = Machine {
                system,
                kit: &kit,
                lguest: program,
                megabytes: MEGABYTES,
                small: false,
                disks: disks.ok(),
                sharenet: None,
            };
            Subject::new(machine, options)
        })
        .collect();
    for round in 0..options.rounds {
        for (section, row) in &wanted {
            eprintln!("linux: round {}, {row}", round + 1);
            for subject in &mut all {
                subject.ask(section, row, results);
            }
        }
        all.reverse();
    }
}

/// Memory of the usual guest.
const MEGABYTES: u32 = 128;

/// A system under test.
pub(super) struct Subject<'a> {
    machine: Machine<'a>,
    milliseconds: u32,
    running: Option<Conversation>,
    /// Why it is not tried again.
    given_up: Option<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(machine: Machine<'a>, options: &Options) -> Self {
        let given_up = is_there(machine.system, machine.kit).err();
        Self {
            machine,
            milliseconds: options.milliseconds,
            running: None,
            given_up,
        }
    }

    /// Asks for a row, and puts the answer on record.
    fn ask(&mut self, section: &'static str, row: &str, results: &mut Results) {
        let system = self.machine.system;
        if let Some(why) = &self.given_up {
            results.add(section, row, system, Err(why.clone()));
            return;
        }
        let answer = self
            .running()
            .and_then(|machine| machine.ask(row, PATIENCE));
        match answer {
            Ok(lines) => {
                for line in &lines {
                    if let Some((row, outcome)) = figure(line) {
                        results.add(section, row, system, outcome);
                    }
                }
                results.must_have(section, row, system);
            }
            Err(why) => {
                if self.running.take().is_none() {
                    self.given_up = Some(why.clone());
                }
                results.add(section, row, system, Err(why));
            }
        }
    }

    /// The machine, started if it is not up.
    pub(super) fn running(&mut self) -> Result<&mut Conversation, String> {
        if self.running.is_none() {
            let (mut machine, _) = self.machine.start()?;
            machine.ask(&format!("ms {}", self.milliseconds), PATIENCE)?;
            self.running = Some(machine);
        }
        self.running.as_mut().ok_or_else(|| "it is gone".into())
    }
}

/// A line of the program's: a row, and its figure or why there is none.
pub(super) fn figure(line: &str) -> Option<(&str, Result<Figure, String>)> {
    let (row, rest) = line.split_once(' ')?;
    if let Some(why) = rest.strip_prefix("- ") {
        return Some((row, Err(why.into())));
    }
    let mut words = rest.split(' ');
    let value = words.next()?.parse().ok()?;
    let unit = words.next()?.to_owned();
    let best = words.next()?.parse().ok()?;
    let figure = Figure { value, unit, best };
    words.next().is_none().then_some((row, Ok(figure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_figures_or_reasons_or_nothing() {
        let (row, found) = figure("pipe 7812.5 ns 7700.0").unwrap();
        let found = found.unwrap();
        assert_eq!((row, found.value, found.best), ("pipe", 7812.5, 7700.0));
        assert_eq!(found.unit, "ns");
        let (row, found) = figure("tar - no busybox").unwrap();
        assert_eq!((row, found.unwrap_err().as_str()), ("tar", "no busybox"));
        assert!(figure("hdc: lost interrupt").is_none());
        assert!(figure("[  0.5] a b c d").is_none());
    }

    #[test]
    fn the_rows_are_those_of_the_program() {
        let path = crate::root().join("tests/linux-programs/bench.c");
        let source = std::fs::read_to_string(path).unwrap();
        for (_, row) in ROWS {
            assert!(source.contains(&format!("{{ \"{row}\",")), "{row}");
        }
    }
}
