//! Snapshots: a Guest that stands still, in a folder, and back.
//!
//! The command takes a snapshot ([`take`]), not the Launcher, which is
//! confined. The Launcher holds the Guest and hands its files over by the
//! control socket. A new Launcher goes on from a snapshot ([`saved`]).
//!
//! The folder has a manifest ([`manifest`]) with everything that the Launcher
//! knows, and images of memory ([`pages`]): the Guest's RAM, the state that its
//! views share, and its patched copies. Disks are copied, or named where they
//! do not change ([`disks`]). Network interfaces are connected anew
//! ([`interfaces`]). docs/snapshots.md shows it from outside.
//!
//! A snapshot may come from a stranger. Every number in the manifest is checked
//! before it is used, and no file that it names outside of the folder is opened
//! unless the user has named it, too. The state of the Host is copied and not
//! read: only the processes use it that count as the Guest.

mod error;
pub use error::SnapshotError;

pub mod manifest;

pub mod pages;

mod disks;
pub use disks::{DiskPlace, Way};

mod interfaces;
pub use interfaces::{Folder, Interface, Network, Placed};

mod folder;

mod saved;
pub use saved::Saved;

pub mod take;

/// The number of this boot of the machine, if the kernel tells it.
#[must_use]
pub fn this_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}
