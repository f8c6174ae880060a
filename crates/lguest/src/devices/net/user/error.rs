//! Why passt makes no network, and what to do.
//!
//! passt says in its own words what it lacks. Some of them have a cure that it
//! does not name.

use std::io;

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
    #[error("cannot start passt ({0}): look at its file in PATH")]
    Start(#[source] io::Error),
    /// A published port cannot be had.
    #[error(
        "passt cannot publish a port ({0}): publish another one, or end the \
         program that uses it; ports below 1024 need root"
    )]
    Port(String),
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
    /// It has ended for another reason.
    #[error("passt has ended ({0}): 'passt -f -e' shows more")]
    Ended(String),
    /// A system call failed that should not fail.
    #[error("cannot make a network by passt: {0}")]
    Failed(#[from] io::Error),
}

/// Parts of passt's sentences, in several of its versions.
const OF_PORTS: &[&str] = &["bind", "port"];
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
    /// The error of a passt that has ended with these words.
    pub(super) fn of_words(words: String) -> Self {
        let has =
            |parts: &[&str]| parts.iter().any(|part| words.contains(part));
        if has(OF_CONFINEMENT) {
            Self::Confine(words)
        } else if has(OF_INTERFACES) {
            Self::NoInterface(words)
        } else if has(OF_PORTS) {
            Self::Port(words)
        } else {
            Self::Ended(words)
        }
    }

    /// Whether it is the machine that lacks something, and not the value of an
    /// option that is wrong.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        !matches!(self, Self::Port(_))
    }
}
