//! What can be wrong with a snapshot, or with taking one.
//!
//! Each message says what to do.

use crate::devices::RestoreError;
use std::io;
use std::path::PathBuf;

/// A snapshot that cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none.
    #[error(
        "{}: there is no snapshot ({error}): give a folder that 'lguest \
         snapshot' has made",
        path.display()
    )]
    Missing {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is damaged.
    #[error(
        "snapshot {}: {what}: it was cut off or changed; take it anew",
        path.display()
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Its format is another one.
    #[error(
        "snapshot {}: it has format {found}, and this program knows format \
         {known}: restore it with the lguest that took it",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another build of lguest has taken it.
    #[error(
        "snapshot {}: another build of lguest took it (version {version}), \
         and this one keeps a guest in another way: restore it with that one",
        path.display()
    )]
    OtherBuild {
        /// The folder.
        path: PathBuf,
        /// The version of that build.
        version: String,
    },
    /// It was taken on a machine with another processor.
    #[error(
        "snapshot {}: it was taken on a machine with another processor, and \
         the guest may use instructions that are not here: restore it on a \
         machine with the same processor",
        path.display()
    )]
    OtherProcessor {
        /// The folder.
        path: PathBuf,
    },
    /// A disk of it lies above a file that is not in it.
    #[error(
        "snapshot {}: disk {disk} needs {}, which is not in the snapshot: \
         give '--base {}' if the guest may read this file",
        path.display(), base.display(), base.display()
    )]
    NeedsBase {
        /// The folder.
        path: PathBuf,
        /// The number of the disk.
        disk: usize,
        /// The file.
        base: PathBuf,
    },
    /// The Guest has a share.
    #[error(
        "snapshot {}: the guest has the share {tag}: give '--share \
         FOLDER,{tag}{ro}' with the folder that it may use",
        path.display()
    )]
    NeedsShare {
        /// The folder.
        path: PathBuf,
        /// The name of the share.
        tag: String,
        /// What follows if the Guest may only read it.
        ro: &'static str,
    },
    /// The Guest has no such share.
    #[error(
        "snapshot {}: the guest has no share {tag}, and a running guest gets \
         no new one: leave this '--share' out",
        path.display()
    )]
    NoSuchShare {
        /// The folder.
        path: PathBuf,
        /// The name that was given.
        tag: String,
    },
    /// The Guest knows another length of packets.
    #[error(
        "snapshot {}: the guest's network interface {number} has packets of at \
         most {} bytes, and its driver does not learn another number: leave \
         ',mtu={given}' out",
        path.display(), known.unwrap_or(1500)
    )]
    OtherMtu {
        /// The folder.
        path: PathBuf,
        /// The number of the interface, from 1 on.
        number: usize,
        /// The length that was given.
        given: u16,
        /// The length that the Guest knows, if it was said.
        known: Option<u16>,
    },
    /// The Guest cannot join a network in the middle.
    #[error(
        "snapshot {}: a guest of Linux 2.6.23 finds its place on a sharenet \
         when it boots, and cannot join one later: give another '--net', or \
         '--net none'",
        .0.display()
    )]
    NoPlace(PathBuf),
    /// An interface of a Guest of 2007 was on a network of several Guests.
    #[error(
        "snapshot {}: its guest of Linux 2.6.23 was on a network by \
         'sharenet', whose addresses are in its memory: give '--net \
         sharenet=FILE', or '--net none'",
        .0.display()
    )]
    HasPlace(PathBuf),
    /// There are more networks than interfaces.
    #[error(
        "snapshot {}: {given} networks were given, and the guest has {known} \
         interfaces: leave some '--net' out",
        path.display()
    )]
    TooManyNetworks {
        /// The folder.
        path: PathBuf,
        /// How many were given.
        given: usize,
        /// How many there are.
        known: usize,
    },
    /// A file under a disk has changed.
    #[error(
        "snapshot {}: {} has changed since the snapshot was taken ({what}), \
         and the guest would find other bytes there: put the old file back",
        path.display(), base.display()
    )]
    BaseChanged {
        /// The folder.
        path: PathBuf,
        /// The file.
        base: PathBuf,
        /// In what it differs.
        what: String,
    },
    /// The state does not fit.
    #[error("snapshot {}: {error}", path.display())]
    Restore {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: RestoreError,
    },
    /// The folder for it exists, and is something else.
    #[error("{}: it exists and is no snapshot: choose another folder", .0.display())]
    Taken(PathBuf),
    /// Others can get into the folder.
    #[error(
        "{}: other users may read this folder, and a snapshot has all that the \
         guest knows: remove the folder, or choose another place",
        .0.display()
    )]
    NotPrivate(PathBuf),
    /// Another command writes there.
    #[error("{}: another snapshot is being written there: wait for it", .0.display())]
    Busy(PathBuf),
    /// The file of a disk is not the one with its name.
    #[error(
        "{}: the guest has another file open than the one that has this name \
         now, so what is restored would not have its disk: give the file its \
         old name again, and take the snapshot then",
        .0.display()
    )]
    Renamed(PathBuf),
    /// It cannot be written.
    #[error(
        "{}: the snapshot cannot be written ({error}): what was there before \
         is still there, and the guest goes on",
        path.display()
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A disk cannot be cloned.
    #[error(
        "disk {}: this file system cannot clone a file to {}: give \
         '--copy-disks' to copy it while the guest stands, or start the \
         machine with ',overlay=FILE' at this disk",
        path.display(), to.display()
    )]
    CannotClone {
        /// The disk.
        path: PathBuf,
        /// The folder of the snapshot.
        to: PathBuf,
    },
    /// The machine has said something that is no answer.
    #[error("the machine's answer cannot be used ({0}): it is another version")]
    Answer(String),
    /// The changes of clones would lie above what is removed at once.
    #[error(
        "'--changes' keeps images that lie above the disks of a snapshot, and \
         that of a running machine is removed when its clones run: take one \
         first ('lguest snapshot {0} DIR'), and clone it ('lguest clone DIR')"
    )]
    ChangesOfClones(String),
    /// The changes of a disk would go to a file that exists.
    #[error(
        "{}: it exists: give '--changes' a folder in which no restored machine \
         has left its disks",
        .0.display()
    )]
    ChangesExist(PathBuf),
}
