//! The commands about machines that have a name.
//!
//! Each is a client of the control socket. What a Guest has printed or chosen
//! is made printable, except on the console.

mod found;

mod shown;

mod clones;
mod console;
mod devices;
mod end;
mod facts;
mod logs;
mod ps;
mod sample;
mod snapshot;
mod top;
mod traces;

use super::error::MachineError;
use super::name::Name;
use super::protocol::{Bytes, Call};
use crate::cli::exit::Outcome;
pub use clones::Clones;
use found::ask;
pub(crate) use found::find;
use std::path::PathBuf;
use std::time::Duration;
pub use traces::{Profiles, Traces};

/// A command about machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Lists them.
    Ps {
        /// As JSON.
        json: bool,
        /// Again and again.
        watch: bool,
    },
    /// Shows those that run, each second.
    Top,
    /// Attaches to a console.
    Console {
        /// The machine.
        name: Name,
        /// Never types.
        look: bool,
    },
    /// Prints output.
    Logs {
        /// The machine.
        name: Name,
        /// Goes on until the machine has ended.
        follow: bool,
        /// Only what was printed in this time.
        since: Option<Duration>,
    },
    /// Asks a Guest to power off, and ends it after a time.
    Stop {
        /// The machine.
        name: Name,
        /// The time.
        timeout: Duration,
    },
    /// Ends machines, and removes them.
    Kill {
        /// The machines. None: all.
        names: Vec<Name>,
        /// Leaves their folders.
        keep: bool,
    },
    /// Stops a Guest for a while.
    Pause(Name),
    /// Lets it go on.
    Resume(Name),
    /// Lists devices.
    Devices {
        /// The machine.
        name: Name,
        /// As JSON.
        json: bool,
    },
    /// Takes a device away.
    RemoveDevice {
        /// The machine.
        name: Name,
        /// The device.
        device: String,
    },
    /// Waits for the end.
    Wait(Name),
    /// Prints counters.
    Stats {
        /// The machine.
        name: Name,
        /// As JSON.
        json: bool,
        /// Again and again.
        watch: bool,
    },
    /// Prints counters in the format of Prometheus.
    Metrics {
        /// The machines. None: all that run.
        names: Vec<Name>,
    },
    /// Prints what is known of a machine, as JSON.
    Inspect {
        /// The machine.
        name: Name,
        /// As a configuration file.
        toml: bool,
        /// Fails unless it is ready.
        ready: bool,
    },
    /// Removes machines that have ended.
    Rm {
        /// The machines. None: all that have ended.
        names: Vec<Name>,
    },
    /// Takes a snapshot.
    Snapshot {
        /// The machine.
        name: Name,
        /// The folder for it.
        folder: PathBuf,
        /// Copies disks whose blocks cannot be cloned.
        copies: bool,
    },
    /// Starts copies.
    Clone(Clones),
    /// Writes a trace.
    Trace(Traces),
    /// Writes a profile.
    Profile(Profiles),
    /// Checks a snapshot.
    CheckSnapshot(PathBuf),
    /// Types a line.
    Send {
        /// The machine.
        name: Name,
        /// The line.
        text: String,
        /// Without the end of the line.
        no_newline: bool,
    },
}

/// Carries out `verb`.
///
/// # Errors
///
/// [`MachineError`], with a message and an exit code.
pub fn run(verb: Verb) -> Result<Outcome, MachineError> {
    carry_out(verb).map_err(|error| match error {
        // It may have ended meanwhile.
        MachineError::NoAnswer(name, why) => find(&name)
            .ok()
            .and_then(|(_, folder)| folder.ended())
            .unwrap_or(MachineError::NoAnswer(name, why)),
        other => other,
    })
}

fn carry_out(verb: Verb) -> Result<Outcome, MachineError> {
    match verb {
        Verb::Ps { json, watch } => ps::ps(json, watch),
        Verb::Top => top::top(),
        Verb::Metrics { names } => facts::metrics(&names),
        Verb::Console { name, look } => console::console(&name, look),
        Verb::Logs {
            name,
            follow,
            since,
        } => logs::logs(&name, follow, since),
        Verb::Stop { name, timeout } => end::stop(&name, timeout),
        Verb::Kill { names, keep } => end::kill(&names, keep),
        Verb::Pause(name) => ask(&name, &Call::Pause {}),
        Verb::Resume(name) => ask(&name, &Call::Resume {}),
        Verb::Devices { name, json } => devices::list(&name, json),
        Verb::RemoveDevice { name, device } => devices::remove(&name, device),
        Verb::Wait(name) => end::wait(&name),
        Verb::Stats { name, json, watch } => facts::stats(&name, json, watch),
        Verb::Inspect { name, toml, ready } => {
            facts::inspect(&name, toml, ready)
        }
        Verb::Rm { names } => end::rm(&names),
        Verb::Snapshot {
            name,
            folder,
            copies,
        } => snapshot::take(&name, &folder, copies),
        Verb::Clone(clones) => clones.start(),
        Verb::Trace(traces) => traces.carry_out(),
        Verb::Profile(profiles) => profiles.carry_out(),
        Verb::CheckSnapshot(folder) => snapshot::check(&folder),
        Verb::Send {
            name,
            text,
            no_newline,
        } => {
            let end = if no_newline { "" } else { "\r" };
            let data = Bytes(format!("{text}{end}").into_bytes());
            ask(&name, &Call::Write { data })
        }
    }
}
