//! The ends of a stream: a path, or a descriptor that the Launcher was given.
//!
//! All of this happens before the Launcher is confined. Later it can only let
//! the next peer in.

use super::super::given::{self, GivenError};
use super::{Report, Stream};
use crate::devices::net::Nic;
use crate::machine::config::{StreamAt, StreamConfig};
use crate::machine::terminal;
use crate::random::random;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, socket_with, sockopt,
};
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Messages that the other end is lost, for one network. Another process
/// decides how often it connects and leaves.
const REPORTS: u32 = 16;

/// A stream that cannot be opened. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The descriptor cannot be taken.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// The descriptor is of something else.
    #[error(
        "descriptor {0} is not a stream socket{1}: give one end of a socket \
         pair, or a connection"
    )]
    NotAStream(RawFd, &'static str),
    /// Nothing answers at the path.
    #[error(
        "nothing listens at {}: start the other end first, or add ',server' \
         here and connect from there", path.display()
    )]
    NoListener {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens at the path.
    #[error(
        "another process listens at {}: leave ',server' out to connect to it, \
         or give another path", path.display()
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// So many processes wait there that no more may.
    #[error(
        "the process that listens at {} has a connection, and others wait for \
         it: end one of them, or give another path", path.display()
    )]
    Full {
        /// The path.
        path: PathBuf,
    },
    /// There is something else at the path.
    #[error(
        "the file at {} is not a socket: give another path", path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The rights of the path forbid it.
    #[error(
        "no permission to use {}: give a path in a folder of your own, or let \
         the other end's owner allow it (chmod)", path.display()
    )]
    NotPermitted {
        /// The path.
        path: PathBuf,
    },
    /// The path cannot be used.
    #[error("{}: {error}: give the path of a socket", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A system call failed that should not fail.
    #[error("cannot make the stream: {0}")]
    Failed(#[from] io::Error),
}

impl fmt::Display for StreamAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Given(number) => write!(f, "fd:{number}"),
        }
    }
}

/// Opens the stream of `config`, as an interface of the Guest.
///
/// # Errors
///
/// [`StreamError`].
pub fn open(config: &StreamConfig) -> Result<Nic, StreamError> {
    let socket = match (&config.at, config.server) {
        (StreamAt::Path(path), false) => connected(path)?,
        (StreamAt::Path(path), true) => listen_at(path)?,
        (StreamAt::Given(number), server) => taken(*number, server)?,
    };
    let name = config.at.to_string();
    let after = if config.server {
        "until another one connects"
    } else {
        "and the guest goes on without it"
    };
    let mut left = REPORTS;
    let report: Report = Box::new(move |reason| {
        let end = match left {
            0 => return,
            1 => "; this is not reported again",
            _ => "",
        };
        let told = terminal::tell_or_lose(&format!(
            "network {name}: the other end is lost ({reason}): the link is \
             down, {after}{end}"
        ));
        left -= u32::from(told);
    });
    let stream = if config.server {
        Stream::listening(socket, report)?
    } else {
        Stream::connected(socket, report)?
    };
    Ok(Nic::new(Box::new(stream), random_mac()?))
}

/// An Ethernet address, assigned locally.
pub(crate) fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac: [u8; 6] = random()?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

/// The given descriptor, if it is connected, or listens if `server`.
fn taken(number: RawFd, server: bool) -> Result<OwnedFd, StreamError> {
    let socket = given::take(number)?;
    let wrong = |why| StreamError::NotAStream(number, why);
    match sockopt::socket_type(&socket) {
        Ok(SocketType::STREAM) => {}
        _ => return Err(wrong("")),
    }
    let listens =
        sockopt::socket_acceptconn(&socket).map_err(io::Error::from)?;
    match (server, listens) {
        (true, false) => return Err(wrong(" that listens")),
        (false, true) => {
            return Err(wrong(" with an other end (add ',server')"));
        }
        (true, true) => {
            rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from)?
        }
        (false, false) => {}
    }
    if !server && rustix::net::getpeername(&socket).is_err() {
        return Err(wrong(" that is connected"));
    }
    Ok(socket)
}

fn unix_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    Ok(socket_with(family, kind, flags, None)?)
}

pub(super) fn connected(path: &Path) -> Result<OwnedFd, StreamError> {
    let failed = |error| failed(path, error);
    // With a socket that waits, a full queue of the listener would stop the
    // start for ever, and without a word.
    let socket = unix_socket(SocketFlags::NONBLOCK)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    refuse_another_file(path)?;
    let path = path.to_owned();
    match connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::CONNREFUSED) => {
            Err(StreamError::NoListener { path })
        }
        Err(Errno::AGAIN) => Err(StreamError::Full { path }),
        Err(error) => Err(failed(error)),
    }
}

/// Refuses a path with something else than a socket. The kernel would say
/// that nothing listens there, or that the permission is missing.
fn refuse_another_file(path: &Path) -> Result<(), StreamError> {
    if std::fs::metadata(path).is_ok_and(|found| !is_a_socket(&found)) {
        return Err(not_a_socket(path));
    }
    Ok(())
}

/// Listens at `path`, where only this user may connect. A socket that its
/// process has left there is replaced. The socket gets its name when it
/// listens: a process that starts at the same time would take one that does
/// not listen yet for one that was left.
///
/// # Errors
///
/// [`StreamError`].
pub fn listen_at(path: &Path) -> Result<OwnedFd, StreamError> {
    let failed = |error| failed(path, error);
    // The length of a path is checked before anything is made.
    SocketAddrUnix::new(path).map_err(failed)?;
    refuse_another_file(path)?;
    let number = u32::from_le_bytes(random().map_err(failed)?);
    let name = format!(".lg{number:08x}");
    let first = First(path.with_file_name(name));
    let socket = unix_socket(SocketFlags::NONBLOCK)?;
    bind_at(&socket, &first.0).map_err(failed)?;
    rustix::fs::chmod(&first.0, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    listen(&socket, 1).map_err(failed)?;
    match name_it(&first.0, path) {
        Ok(()) => Ok(socket),
        Err(Errno::EXIST) => {
            replace(&first.0, path)?;
            Ok(socket)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Gives `socket` the name `path`, which may be longer than an address. Then
/// the folder is named by its descriptor, which needs `/proc`.
fn bind_at(socket: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return bind(socket, &address);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => return Err(Errno::NAMETOOLONG),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    let bound = bind(socket, &SocketAddrUnix::new(&short)?);
    // Without /proc the path is too long.
    bound.map_err(|error| match error {
        Errno::NOENT => Errno::NAMETOOLONG,
        error => error,
    })
}

/// Gives the socket at `first` the name `path`, if nothing has that name.
fn name_it(first: &Path, path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::link(first, path) {
        // Some file systems have no second names.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(CWD, first, CWD, path, flags)
        }
        other => other,
    }
}

/// The first name of a socket, which is removed at the end.
struct First(PathBuf);

impl Drop for First {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.0);
    }
}

/// Puts the socket at `first` in the place of the one at `path`, if no process
/// listens there. What was there has the name `first` afterwards.
fn replace(first: &Path, path: &Path) -> Result<(), StreamError> {
    let failed = |error| failed(path, error);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let identity = |path: &Path| {
        let found = std::fs::symlink_metadata(path).ok()?;
        is_a_socket(&found).then(|| (found.dev(), found.ino()))
    };
    let Some(left) = identity(path) else {
        return Err(not_a_socket(path));
    };
    let in_use = || StreamError::InUse {
        path: path.to_owned(),
    };
    match connect(unix_socket(SocketFlags::NONBLOCK)?, &address) {
        Err(Errno::CONNREFUSED) => {}
        Ok(()) | Err(Errno::AGAIN) => return Err(in_use()),
        Err(error) => return Err(failed(error)),
    }
    let exchange = || {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, first, CWD, path, flags)
    };
    match exchange() {
        Ok(()) => {}
        // Some file systems do not know it. There the socket of a process that
        // starts at the same moment may be lost.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
            return match identity(path) == Some(left) {
                true => rustix::fs::rename(first, path).map_err(failed),
                false => Err(in_use()),
            };
        }
        Err(error) => return Err(failed(error)),
    }
    if identity(first) == Some(left) {
        return Ok(());
    }
    // Another process has put its socket there meanwhile.
    exchange().map_err(failed)?;
    Err(in_use())
}

fn is_a_socket(found: &Metadata) -> bool {
    found.file_type().is_socket()
}

fn not_a_socket(path: &Path) -> StreamError {
    let path = path.to_owned();
    StreamError::NotASocket { path }
}

/// The error where the kernel refuses to use `path`.
fn failed(path: &Path, error: Errno) -> StreamError {
    let path = path.to_owned();
    match error {
        Errno::ACCESS | Errno::PERM => StreamError::NotPermitted { path },
        _ => StreamError::Path {
            path,
            error: error.into(),
        },
    }
}
