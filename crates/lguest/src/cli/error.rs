//! Why the words of a command line mean nothing.
//!
//! Each message says what is wrong with which word, and what to write instead.

use crate::memory::MAX_RAM;
use lg_abi::device::LGUEST_MAX_DEVICES;

/// A command line that describes no Guest.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Words that are not well-formed, or `--help` and the like. Clap has the
    /// text, the place for it and the exit code.
    #[error(transparent)]
    Words(#[from] clap::Error),
    /// No size of memory.
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
        "memory '{0}' is not a size: it stands before the image ('lguest 64 \
         {0}'), or each has its name ('lguest run --kernel {0}')"
    )]
    SizeMissing(String),
    /// A size of memory and nothing to put there.
    #[error(
        "no image: give a kernel behind the memory size ('lguest {0} vmlinux')"
    )]
    NoImage(String),
    /// An option that only `lguest run` has.
    #[error("'{0}' is an option of 'lguest run': write 'run' before it")]
    OptionOfRun(String),
    /// An option that `lguest run` calls by another name.
    #[error("'{0}' is an option of the old form: with 'run' it is '{1}'")]
    OptionOf2007(String, &'static str),
    /// A word behind `lguest run` that belongs to no option.
    #[error("'{0}' stands alone: to give {1}, write '{2} {0}'")]
    StrayWord(String, &'static str, &'static str),
    /// No rate of failures.
    #[error(
        "disk '{0}': behind ',fail=' stands a number from 1 up, as in \
         'FILE,fail=20'; a name that ends like this is written 'NAME,rw'"
    )]
    NotARate(String),
    /// No kind of network.
    #[error(
        "network '{0}' is not sharenet=FILE, tap=IP or bridge=BR: give one"
    )]
    NotANetwork(String),
    /// Not the other end of a tunnel.
    #[error("tunnet '{0}' is neither an IP address nor bridge:BR: give one")]
    NotATunnel(String),
    /// More devices than descriptors.
    #[error(
        "{0} devices are too many: a guest has {LGUEST_MAX_DEVICES}, its \
         console among them; leave some out"
    )]
    TooManyDevices(usize),
    /// More for the kernel than there is room for.
    #[error("the kernel's command line has {len} bytes: shorten it to {most}")]
    CommandLineTooLong {
        /// Bytes that were given.
        len: usize,
        /// Bytes that there is room for.
        most: usize,
    },
}
