//! The words after `lguest restore`.
//!
//! `lguest clone` fills them in once for all of its machines.

use super::ends::Ends;
use super::limits::Limited;
use crate::machines::Name;
use clap::Args;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The options of a guest that goes on from a snapshot.
#[derive(Debug, Default, Args)]
pub(super) struct Restore {
    /// The folder of the snapshot
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
    /// A name, by which 'lguest ps', 'lguest console' and others find the
    /// machine
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<Name>,
    /// End this command when the machine runs; it runs on without a terminal
    #[arg(
        long,
        requires = "name",
        conflicts_with_all = ["exit_on_eof", "die_with_parent"],
    )]
    pub(super) detach: bool,
    /// Put what the guest writes to its disks into images in this folder;
    /// without it, changes end with the guest
    #[arg(long, value_name = "FOLDER")]
    pub(super) changes: Option<PathBuf>,
    /// Let the guest read this file, which is under a disk and not in the
    /// snapshot
    #[arg(long, value_name = "FILE")]
    pub(super) base: Vec<PathBuf>,
    /// Connect the guest's network interfaces, in their order: as with 'lguest
    /// run', or none. An interface without one is connected to nothing
    #[arg(long, value_name = "NETWORK")]
    pub(super) net: Vec<OsString>,
    /// Give the guest this folder for the share with this tag, which it had
    #[arg(long, value_name = "FOLDER,TAG[,ro]")]
    pub(super) share: Vec<OsString>,
    /// Append the console's output to a file, too
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    #[command(flatten)]
    pub(super) ends: Ends,
    /// Report each step on standard error
    #[arg(long, short)]
    pub(super) verbose: bool,
    /// A descriptor of a client of the agent, with which the machine ends
    #[arg(long, value_name = "N", hide = true, requires = "dir")]
    pub(super) agent_owner: Option<RawFd>,
    #[command(flatten)]
    pub(super) limited: Limited,
}
