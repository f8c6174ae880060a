//! The commands about machines with a name, for clap.
//!
//! The comment of a field is its text in `--help`.

use super::error::UsageError;
use super::restore::Restore;
use super::values;
use crate::machines::Name;
use crate::machines::verbs::{Clones, Profiles, Traces, Verb};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

/// The exit codes of these commands.
const CODES: &str = "\
Exit status:
  0    done
  2    the command line is wrong
  120  the folder for machines cannot be used
  126  the machine cannot do it now: it has ended, or runs, or does not answer
  127  there is no machine with that name";

/// The exit codes of commands that end with the code of a machine.
const CODES_OF_MACHINE: &str = "\
Exit status:
  that of the machine when it has ended (123: its launcher was killed)
  0    console: left by ^]
  2    the command line is wrong
  120  the folder for machines cannot be used
  126  the machine has ended before, or does not answer
  127  there is no machine with that name";

/// The exit codes of what is done with snapshots.
const CODES_OF_SNAPSHOT: &str = "\
Exit status:
  0    done
  2    the command line is wrong
  120  the snapshot cannot be written or used, or the folder for machines
  126  the machine cannot do it now: it has ended, or does not answer, or has
       something that no snapshot can have, which is named
  127  there is no machine with that name";

/// The commands about machines.
#[derive(Debug, Subcommand)]
pub(super) enum Machines {
    /// List your machines
    #[command(after_help = CODES)]
    Ps {
        #[command(flatten)]
        again: Again,
    },
    /// Show the machines that run, each second; q leaves
    #[command(after_help = CODES)]
    Top,
    /// Attach to the console of a machine; ^] leaves it, and it runs on
    #[command(after_help = CODES_OF_MACHINE)]
    Console {
        #[command(flatten)]
        machine: One,
        /// Never type, so that others can
        #[arg(long)]
        look: bool,
    },
    /// Print the last output of a machine (256 KiB at most)
    #[command(after_help = CODES)]
    Logs {
        #[command(flatten)]
        machine: One,
        /// Go on until the machine has ended
        #[arg(long, short)]
        follow: bool,
        /// Only what was printed within this time: 90, 90s, 5m, 2h or 1d
        #[arg(long, value_name = "DURATION", value_parser = values::duration)]
        since: Option<Duration>,
    },
    /// Ask a machine to power off, and kill it if it does not
    #[command(after_help = CODES)]
    Stop {
        #[command(flatten)]
        machine: One,
        /// How long it may take
        #[arg(
            long,
            value_name = "DURATION",
            default_value = "10s",
            value_parser = values::duration,
        )]
        timeout: Duration,
    },
    /// End machines at once, and remove them
    #[command(after_help = CODES)]
    Kill {
        #[command(flatten)]
        machines: Several,
        /// Leave their last output until 'lguest rm'
        #[arg(long)]
        keep: bool,
    },
    /// Stop a guest until 'lguest resume'
    #[command(after_help = CODES)]
    Pause(One),
    /// Let a guest go on that was paused
    #[command(after_help = CODES)]
    Resume(One),
    /// List the devices of a machine, or take one away while its guest runs
    #[command(after_help = CODES)]
    Device {
        #[command(subcommand)]
        verb: DeviceVerb,
    },
    /// Wait until a machine has ended
    #[command(after_help = CODES_OF_MACHINE)]
    Wait(One),
    /// Print the counters of a machine
    #[command(after_help = CODES)]
    Stats {
        /// The machine; with --prometheus any number, and all that run if
        /// there is none
        #[arg(value_name = "NAME", required_unless_present = "prometheus")]
        name: Option<Name>,
        /// More machines, with --prometheus
        #[arg(value_name = "NAME", requires = "prometheus")]
        more: Vec<Name>,
        #[command(flatten)]
        again: Again,
        /// Print the text format of Prometheus
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        prometheus: bool,
    },
    /// Print what is known of a machine, as JSON
    #[command(after_help = CODES)]
    Inspect {
        #[command(flatten)]
        machine: One,
        /// Print a file for 'lguest run FILE' instead
        #[arg(long)]
        toml: bool,
        /// Fail with 126 unless it runs and has printed what its option
        /// --until says
        #[arg(long)]
        ready: bool,
    },
    /// Remove machines that have ended
    #[command(after_help = CODES)]
    Rm(Several),
    /// Write a machine as it stands into a folder; it goes on
    #[command(
        after_help = CODES_OF_SNAPSHOT,
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true
    )]
    Snapshot {
        #[command(subcommand)]
        check: Option<CheckSnapshot>,
        /// The machine
        #[arg(value_name = "NAME", required = true)]
        name: Option<Name>,
        /// The folder, which is made; an old snapshot there is replaced
        #[arg(value_name = "DIR", required = true)]
        dir: Option<PathBuf>,
        /// Copy disks where the file system cannot clone them; the guest stands
        /// still meanwhile
        #[arg(long)]
        copy_disks: bool,
    },
    /// Start copies of a machine, or machines from a snapshot
    #[command(after_help = CODES_OF_SNAPSHOT)]
    Clone {
        /// A machine, or the folder of a snapshot (with a '/')
        #[arg(value_name = "NAME|DIR")]
        of: PathBuf,
        /// How many
        #[arg(short, value_name = "N", default_value = "1")]
        number: NonZeroU16,
        /// Their names are PREFIX-1, PREFIX-2 and so on; without it, the name
        /// is that of the machine or folder
        #[arg(long, value_name = "PREFIX")]
        name: Option<Name>,
        /// Put what they write to disks into images below this folder; without
        /// it, changes end with them
        #[arg(long, value_name = "FOLDER")]
        changes: Option<PathBuf>,
        /// Let them read this file, which is under a disk and not in the
        /// snapshot
        #[arg(long, value_name = "FILE")]
        base: Vec<PathBuf>,
        /// Connect their network interfaces, as with 'lguest restore'. With
        /// ',mac=', each clone has the next address
        #[arg(long, value_name = "NETWORK")]
        net: Vec<OsString>,
        /// Give them this folder for the share with this tag
        #[arg(long, value_name = "FOLDER,TAG[,ro]")]
        share: Vec<OsString>,
        /// Copy disks where the file system cannot clone them
        #[arg(long)]
        copy_disks: bool,
    },
    /// Write what a machine does, or did last, for ui.perfetto.dev
    #[command(after_help = CODES)]
    Trace {
        #[command(flatten)]
        machine: One,
        /// Watch it for so long. Without this, a machine that was started with
        /// --trace gives what it has, and another one is watched for a second
        #[arg(long, value_name = "N", value_parser = seconds())]
        seconds: Option<u32>,
        /// Trace these groups of events only: exits, hypercalls, traps,
        /// interrupts, pages, patches, requests, directories, sleep
        #[arg(
            long,
            value_name = "GROUP,...",
            value_delimiter = ',',
            value_parser = values::groups(),
            hide_possible_values = true,
        )]
        filter: Vec<String>,
        /// The file; without it, standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// A file with names of functions, beside the kernel's: a program's
        #[arg(long, value_name = "FILE")]
        symbols: Vec<PathBuf>,
    },
    /// Find out where the time of a guest goes: a flame graph
    #[command(after_help = CODES)]
    Profile {
        #[command(flatten)]
        machine: One,
        /// For how long
        #[arg(
            long,
            value_name = "N",
            default_value = "5",
            value_parser = seconds(),
        )]
        seconds: u32,
        /// Samples a second: 1 to 5000
        #[arg(
            long,
            value_name = "N",
            default_value = "997",
            value_parser = clap::value_parser!(u16).range(1..=5000),
        )]
        rate: u16,
        /// The file for the flame graph
        #[arg(long, short, value_name = "FILE", default_value = "flame.svg")]
        output: PathBuf,
        /// Write folded stacks to FILE, or to standard output (-), and no flame
        /// graph
        #[arg(long, value_name = "FILE|-", conflicts_with = "output")]
        folded: Option<PathBuf>,
        /// A file with names of functions: the kernel's vmlinux, or a program
        #[arg(long, value_name = "FILE")]
        symbols: Vec<PathBuf>,
    },
    /// Type a line on the console of a machine
    #[command(after_help = CODES)]
    Send {
        #[command(flatten)]
        machine: One,
        /// The line
        #[arg(value_name = "TEXT", allow_hyphen_values = true)]
        text: String,
        /// Leave out the end of the line
        #[arg(long, short)]
        no_newline: bool,
    },
}

/// A number of seconds.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=86_400)
}

/// What can be done with a snapshot.
#[derive(Debug, Subcommand)]
pub(super) enum CheckSnapshot {
    /// Read all of a snapshot, and say what it is and whether it can be
    /// restored here
    Check {
        /// The folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceVerb {
    /// List the devices of a machine, but its console
    #[command(after_help = CODES)]
    List {
        #[command(flatten)]
        machine: One,
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Close what is behind a device: the guest gets errors from a disk and a
    /// share, and a network has no link. It does not come back
    #[command(after_help = CODES)]
    Remove {
        #[command(flatten)]
        machine: One,
        /// The device, as 'lguest device list' names it: disk0, net0, share0
        #[arg(value_name = "DEVICE")]
        device: String,
    },
}

/// A machine.
#[derive(Debug, Args)]
pub(super) struct One {
    /// The machine
    #[arg(value_name = "NAME")]
    name: Name,
}

/// Machines.
#[derive(Debug, Args)]
pub(super) struct Several {
    /// The machines
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<Name>,
    /// All of yours
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// How something is printed.
#[derive(Debug, Args)]
pub(super) struct Again {
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
    /// Print it anew every second, until ^C
    #[arg(long, short)]
    watch: bool,
}

impl Machines {
    /// What to do.
    pub(super) fn verb(self) -> Result<Verb, UsageError> {
        Ok(match self {
            Self::Ps { again } => Verb::Ps {
                json: again.json,
                watch: again.watch,
            },
            Self::Console { machine, look } => Verb::Console {
                name: machine.name,
                look,
            },
            Self::Logs {
                machine,
                follow,
                since,
            } => Verb::Logs {
                name: machine.name,
                follow,
                since,
            },
            Self::Stop { machine, timeout } => Verb::Stop {
                name: machine.name,
                timeout,
            },
            Self::Kill { machines, keep } => Verb::Kill {
                names: machines.names,
                keep,
            },
            Self::Pause(machine) => Verb::Pause(machine.name),
            Self::Resume(machine) => Verb::Resume(machine.name),
            Self::Device {
                verb: DeviceVerb::List { machine, json },
            } => Verb::Devices {
                name: machine.name,
                json,
            },
            Self::Device {
                verb: DeviceVerb::Remove { machine, device },
            } => Verb::RemoveDevice {
                name: machine.name,
                device,
            },
            Self::Wait(machine) => Verb::Wait(machine.name),
            Self::Top => Verb::Top,
            Self::Stats {
                name,
                more,
                again,
                prometheus,
            } => match name {
                Some(name) if !prometheus => Verb::Stats {
                    name,
                    json: again.json,
                    watch: again.watch,
                },
                name => Verb::Metrics {
                    names: name.into_iter().chain(more).collect(),
                },
            },
            Self::Inspect {
                machine,
                toml,
                ready,
            } => Verb::Inspect {
                name: machine.name,
                toml,
                ready,
            },
            Self::Rm(machines) => Verb::Rm {
                names: machines.names,
            },
            Self::Snapshot {
                check: Some(CheckSnapshot::Check { dir }),
                ..
            } => Verb::CheckSnapshot(dir),
            Self::Snapshot {
                check: None,
                name,
                dir,
                copy_disks,
            } => match (name, dir) {
                (Some(name), Some(folder)) => Verb::Snapshot {
                    name,
                    folder,
                    copies: copy_disks,
                },
                // The grammar requires both.
                (_, dir) => Verb::CheckSnapshot(dir.unwrap_or_default()),
            },
            Self::Clone {
                of,
                number,
                name,
                changes,
                base,
                net,
                share,
                copy_disks,
            } => {
                let each = Restore {
                    detach: true,
                    base,
                    net,
                    share,
                    ..Restore::default()
                };
                Verb::Clone(Clones {
                    of,
                    number: number.get(),
                    prefix: name,
                    changes,
                    each: Box::new(each.meaning()?),
                    copies: copy_disks,
                })
            }
            Self::Trace {
                machine,
                seconds,
                filter,
                output,
                symbols,
            } => Verb::Trace(Traces {
                name: machine.name,
                filter,
                time: seconds.map(|n| Duration::from_secs(n.into())),
                output,
                symbols,
            }),
            Self::Profile {
                machine,
                seconds,
                rate,
                output,
                folded,
                symbols,
            } => Verb::Profile(Profiles {
                name: machine.name,
                time: Duration::from_secs(seconds.into()),
                rate: NonZeroU32::new(rate.into()).unwrap_or(NonZeroU32::MIN),
                output,
                folded,
                symbols,
            }),
            Self::Send {
                machine,
                text,
                no_newline,
            } => Verb::Send {
                name: machine.name,
                text,
                no_newline,
            },
        })
    }
}
