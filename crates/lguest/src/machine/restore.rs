//! A run that goes on from a snapshot.
//!
//! The snapshot decides what the Guest has. Where its output goes, how long it
//! runs and what it may reach outside is what this command line says: nothing
//! in a snapshot may name a file of the user's.

use super::config::{
    Agent, Config, DeviceConfig, Kernel, Limits, Named, Parent, ShareConfig,
};
use super::error::LaunchError;
use super::launch::launch_from;
use super::terminal;
use crate::cli::exit::Outcome;
use crate::engine::{Isolation, Tracing};
use crate::machines::Name;
use crate::machines::settings::Settings;
use crate::snapshot::Saved;
use lg_wire::fast_path;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line says of a Guest that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// The folder of the snapshot.
    pub folder: PathBuf,
    /// A name for the machine.
    pub name: Option<Name>,
    /// Whether the command ends while the machine runs.
    pub detach: bool,
    /// The folder for what the Guest writes to its disks.
    pub changes: Option<PathBuf>,
    /// Files outside of the snapshot that the Guest may read as disks.
    pub bases: Vec<PathBuf>,
    /// What its network interfaces are connected to, in their order. `None` is
    /// nothing, as for those behind the last one.
    pub networks: Vec<Option<DeviceConfig>>,
    /// The folders of its shares.
    pub shares: Vec<ShareConfig>,
    /// A file to append the console's output to.
    pub log: Option<PathBuf>,
    /// How long the Guest may run.
    pub timeout: Option<Duration>,
    /// Whether the end of standard input ends the Guest.
    pub exit_on_eof: bool,
    /// The process whose end ends the Guest.
    pub die_with: Option<Parent>,
    /// Whether to report each step on standard error.
    pub verbose: bool,
    /// What the machine may use.
    pub limits: Limits,
    /// A descriptor whose other end is a client of the agent. The machine ends
    /// with this client.
    pub agent_owner: Option<RawFd>,
    /// The same options as they were written.
    pub settings: Settings,
}

/// Runs a Guest from a snapshot to its end. `started` is the value of the
/// time-stamp counter when the Launcher started. With [`Restore::detach`] the
/// Guest gets a process of its own, which does not return, and this returns
/// when the Guest runs.
///
/// # Errors
///
/// [`LaunchError`]. Its message is one line and names the cure.
pub fn restore(
    restore: &Restore,
    started: u64,
) -> Result<Outcome, LaunchError> {
    let saved = Saved::open(&restore.folder)?;
    saved.goes_on_here()?;
    let config = config(restore, &saved)?;
    tell_unconnected(restore, &saved);
    if saved.has_moved() {
        terminal::tell(
            "the snapshot is of another boot or machine: lguest tells the guest \
             its time-stamp counter here, and programs that read it often are \
             slower",
        );
    }
    launch_from(&config, Some(saved), started)
}

/// What the snapshot and the command line say.
fn config(restore: &Restore, saved: &Saved) -> Result<Config, LaunchError> {
    let machine = &saved.manifest.machine;
    let disks = saved.disks(&restore.bases, restore.changes.as_deref())?;
    let isolation = saved.isolation();
    let has_agent = machine.settings.agent == Some(true);
    if restore.agent_owner.is_some() && !has_agent {
        return Err(LaunchError::NoAgent);
    }
    let named = restore.name.clone().map(|name| Named {
        replace: false,
        detach: restore.detach,
        until: None,
        stop_with: machine.settings.stop_with.clone(),
        // Only what is used. 'lguest inspect' tells them, and a file of them
        // can start a machine.
        settings: Settings {
            name: Some(name.to_string()),
            memory: Some(format!("{}K", machine.ram >> 10)),
            isolation: Some(
                match isolation {
                    Isolation::Guest => "guest",
                    Isolation::User => "user",
                }
                .into(),
            ),
            stop_with: machine.settings.stop_with.clone(),
            agent: machine.settings.agent,
            no_fast_path: slow_paths(machine.slow_paths),
            ..restore.settings.clone()
        },
        name,
    });
    Ok(Config {
        memory: machine.ram,
        kernel: match machine.built_in {
            true => Kernel::Embedded,
            false => Kernel::File(PathBuf::new()),
        },
        initrd: None,
        devices: saved.devices(disks, &restore.networks, &restore.shares)?,
        command_line: Vec::new(),
        log: restore.log.clone(),
        timeout: restore.timeout,
        exit_on_eof: restore.exit_on_eof,
        die_with: restore.die_with,
        stats: None,
        debugger: None,
        wait_for_debugger: false,
        explain: false,
        symbols: None,
        core: None,
        trace: None,
        tracing: Tracing::default(),
        metrics: None,
        slow_paths: machine.slow_paths,
        open_walls: 0,
        isolation,
        verbose: restore.verbose,
        limits: restore.limits.clone(),
        named,
        agent: has_agent.then_some(Agent {
            owner: restore.agent_owner,
        }),
    })
}

/// Says which network interfaces are connected to nothing because no `--net`
/// was given for them.
fn tell_unconnected(restore: &Restore, saved: &Saved) {
    let interfaces = saved.interfaces().enumerate();
    for (index, interface) in interfaces.skip(restore.networks.len()) {
        terminal::tell(&format!(
            "the guest's network interface {} ({}) is connected to nothing: \
             give 'lguest restore' a '--net' for each interface to connect it, \
             or '--net none'",
            index + 1,
            interface.network.word(),
        ));
    }
}

/// The names of the fast paths that are switched off.
fn slow_paths(off: u32) -> Vec<String> {
    let names = fast_path::ALL.iter().filter(|(_, bit)| off & bit != 0);
    names.map(|(name, _)| (*name).to_owned()).collect()
}
