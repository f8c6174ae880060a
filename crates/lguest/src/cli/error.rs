//! What can be wrong with a command line.
//!
//! Each message says what is wrong with which word, and what to write instead.

use super::exit::Outcome;
use crate::devices::share::LONGEST_TAG;
use crate::images::ImageError;
use crate::machines::Name;
use crate::machines::settings::SettingsError;
use crate::memory::MAX_RAM;
use lg_abi::device::LGUEST_MAX_DEVICES;
use std::ffi::OsString;

/// A command line that describes no Guest.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An error of clap, or a request such as `--help`. Clap knows the text,
    /// the stream to print it to and the exit code.
    #[error(transparent)]
    Words(#[from] clap::Error),
    /// An image that cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No place for a command.
    #[error("exec: give a machine's name, --image NAME or --snapshot DIR")]
    NoTarget,
    /// A word that is no variable of an environment.
    #[error("--env '{}': give NAME=VALUE, or the NAME of a variable", .0.display())]
    NotAVariable(OsString),
    /// A variable that has no value.
    #[error(
        "--env '{}': there is no such variable here: give NAME=VALUE",
        .0.display()
    )]
    Unset(OsString),
    /// A text that is no size of memory.
    #[error("memory '{0}' is not a size: give megabytes (64) or a unit (64M)")]
    NotASize(String),
    /// Less memory than any Guest needs.
    #[error("memory '{0}': a guest needs at least 1 MB")]
    TooLittleMemory(String),
    /// More memory than can be mapped.
    #[error(
        "memory '{0}': a guest has at most {max} MB",
        max = MAX_RAM >> 20
    )]
    TooMuchMemory(String),
    /// A misspelt command.
    #[error("there is no command '{0}': did you mean 'lguest {1}'?")]
    NoCommand(String, String),
    /// A word where the size of memory belongs.
    #[error(
        "memory '{0}' is not a size: give the size before the image ('lguest \
         64 {0}'), or use named options ('lguest run --kernel {0}')"
    )]
    SizeMissing(String),
    /// A size of memory and no kernel.
    #[error(
        "no image: give a kernel after the memory size ('lguest {0} vmlinux')"
    )]
    NoImage(String),
    /// An option that only `lguest run` has.
    #[error("'{0}' is an option of 'lguest run': write 'run' before it")]
    OptionOfRun(String),
    /// An option that `lguest run` calls by another name.
    #[error("'{0}' is an option of the old form: with 'run' it is '{1}'")]
    OptionOf2007(String, &'static str),
    /// A word after `lguest run` that belongs to no option.
    #[error("'{0}' belongs to no option: to give {1}, write '{2} {0}'")]
    StrayWord(String, &'static str, &'static str),
    /// A configuration file that cannot be used.
    #[error("settings {0}")]
    Settings(#[from] SettingsError),
    /// A text that is no rate of failures.
    #[error(
        "disk '{0}': give a number from 1 up after ',fail=', as in \
         'FILE,fail=20'; if the file's name ends like this, write 'NAME,rw'"
    )]
    NotARate(String),
    /// A disk whose changes have no place, or more than one.
    #[error(
        "disk '{0}': give one of ',ro', ',overlay=FILE' and ',snapshot': they \
         say where its changes go; if the file's name ends like this, write \
         'NAME,rw'"
    )]
    OtherChanges(String),
    /// A text that does not name a folder and a tag.
    #[error(
        "share '{0}' is not DIR,TAG or DIR,TAG,ro: give a folder and a name \
         for it of 1 to {LONGEST_TAG} letters, digits, '-', '_' or '.'"
    )]
    NotAShare(String),
    /// A text that is no limit.
    #[error("--{0} '{1}' is no limit: give {2}")]
    NotALimit(&'static str, String, &'static str),
    /// A limit for a network that has none.
    #[error(
        "--net-limit: guests on a network by sharenet=FILE give frames to each \
         other without the launcher: give another network, or no limit"
    )]
    UnlimitedNetwork,
    /// A limit for a log that there is not.
    #[error("--log-limit: there is no log: give '--log FILE', too")]
    NoLogToLimit,
    /// There is no such snapshot, but an image with that name.
    #[error(
        "there is no snapshot '{0}' here, but an image: give '--image {0}', \
         which begins from the image's own snapshot"
    )]
    IsImage(Name),
    /// The Guest in a snapshot knows its shares by their tags.
    #[error(
        "a share of '--snapshot' needs the tag that the guest knows: give \
         '--share DIR,TAG' or '--share DIR,TAG,ro'"
    )]
    NeedsTag,
    /// Two shares with one tag.
    #[error("two shares are called '{0}': give each a name of its own")]
    SameTag(String),
    /// A text that names no kind of network.
    #[error(
        "network '{0}' is not sharenet=FILE, stream=unix:PATH[,server], \
         stream=fd:N[,server], user[,publish=[ADDRESS:]PORT:PORT[/udp]]…\
         [,restrict[,allow=HOST:PORT[/udp]]…], tap=IP[/BITS], tap=fd:N, \
         bridge=BR or none: give one, and behind it ',mac=ADDRESS', \
         ',mtu=BYTES' (576 to 9000) or ',pcap=FILE'"
    )]
    NotANetwork(String),
    /// A text that is no value of `--tunnet`.
    #[error("tunnet '{0}' is neither an IP address nor bridge:BR: give one")]
    NotATunnel(String),
    /// Counters and the words of GDB on the same stream.
    #[error(
        "with '--gdb stdio', standard output is GDB's: write the counters to \
         a file ('--stats FILE')"
    )]
    BothOnStdout,
    /// More devices than a bus has descriptors.
    #[error(
        "{0} devices are too many: a guest has {LGUEST_MAX_DEVICES}, its \
         console among them; leave some out"
    )]
    TooManyDevices(usize),
    /// A command line for the kernel that is too long.
    #[error("the kernel's command line has {len} bytes: shorten it to {most}")]
    CommandLineTooLong {
        /// Bytes that were given.
        len: usize,
        /// Bytes that there is room for.
        most: usize,
    },
}

impl UsageError {
    /// The outcome, which has the exit code. Clap has one of its own.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Image(error) => error.outcome(),
            _ => Outcome::Usage,
        }
    }
}
