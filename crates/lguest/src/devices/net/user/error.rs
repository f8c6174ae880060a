//! Why passt makes no network, and what to do.
//!
//! passt prints what it lacks, but not always what to do about it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// A network that cannot be made. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The program is not there.
    #[error(
        "there is no program passt, which makes this network: install the \
         package passt ('apt install passt', 'dnf install passt'), or use \
         another network (docs/network.md)"
    )]
    Missing,
    /// The program cannot be started.
    #[error(
        "cannot start passt ({0}): look at its file in PATH, or use another \
         network (docs/network.md)"
    )]
    Start(#[source] io::Error),
    /// A published port cannot be had.
    #[error(
        "passt cannot publish a port ({0}): publish another one, or end the \
         program that uses it; ports below 1024 need root"
    )]
    Port(String),
    /// A name that the Guest may reach has no address.
    #[error(
        "allow={0}: this machine finds no address of that name: look at the \
         name ('getent ahosts {0}'), or give an address"
    )]
    NoAddress(String),
    /// The Guest may reach an address that leads nowhere.
    #[error(
        "allow={0}: no guest reaches another machine by that address: 10.0.2.2 \
         is this machine's loopback interface for it"
    )]
    Unusable(IpAddr),
    /// There is no program that looks names up.
    #[error(
        "allow={0}: there is no program getent, which looks names up: give an \
         address, or install the package with it ('apt install libc-bin')"
    )]
    NoLookup(String),
    /// The machine has no way out.
    #[error(
        "passt finds no network of this machine ({0}): give the machine an \
         interface with a default route, or use another network \
         (docs/network.md)"
    )]
    NoInterface(String),
    /// The machine does not let it confine itself.
    #[error(
        "passt cannot confine itself ({0}): allow it user namespaces \
         (`sysctl user.max_user_namespaces=1000`; in a container, a filter \
         that allows unshare), or use another network (docs/network.md)"
    )]
    Confine(String),
    /// There is no /proc, which it reads.
    #[error(
        "passt needs /proc ({0}): mount it (`mount -t proc proc /proc`), or use \
         another network (docs/network.md)"
    )]
    NoProc(String),
    /// It takes too long to start.
    #[error(
        "passt is not ready after {} s: try again when the machine is less \
         busy ('passt -f -e' shows what it waits for)", .0.as_secs()
    )]
    NotReady(Duration),
    /// It has ended for another reason.
    #[error("passt has ended ({0}): 'passt -f -e' shows more")]
    Ended(String),
    /// A system call failed that should not fail.
    #[error(
        "cannot make a network by passt: {0}: let the filter of the container \
         or service allow its calls, or use another network (docs/network.md)"
    )]
    Failed(#[from] io::Error),
}

/// Parts of passt's messages, in several of its versions.
const OF_PORTS: &[&str] = &["bind", " port"];
const OF_PROC: &[&str] = &["/proc"];
const OF_INTERFACES: &[&str] = &["interface", "outable"];
const OF_CONFINEMENT: &[&str] = &[
    "namespace",
    "unshare",
    "isolat",
    "seccomp",
    "pivot",
    "capabilit",
];

impl UserError {
    /// The error of a passt that has ended with this message.
    pub(super) fn of_message(message: String) -> Self {
        let has =
            |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        if has(OF_PROC) {
            Self::NoProc(message)
        } else if has(OF_CONFINEMENT) {
            Self::Confine(message)
        } else if has(OF_INTERFACES) {
            Self::NoInterface(message)
        } else if has(OF_PORTS) {
            Self::Port(message)
        } else {
            Self::Ended(message)
        }
    }

    /// Whether it is the machine that lacks something, and not the value of an
    /// option that is wrong.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        let of_value = matches!(
            self,
            Self::Port(_) | Self::NoAddress(_) | Self::Unusable(_)
        );
        !of_value
    }
}
