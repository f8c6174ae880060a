//! Where GDB comes from: a local socket, a port, or standard input and output.
//!
//! It may read and write all of the Guest, so only this user, or this machine,
//! may connect. All of this happens before the Launcher is confined. Later it
//! can only let the next one in.

use super::connection::{Connection, has_come};
use crate::devices::net::stream::{self, StreamError};
use crate::machine::config::DebuggerAt;
use rustix::net::{SocketFlags, accept_with, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

/// A place for GDB that cannot be had. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// The local socket cannot be made.
    #[error(transparent)]
    Path(StreamError),
    /// Another process listens there.
    #[error(
        "another process listens at {}: give another path", .0.display()
    )]
    InUse(std::path::PathBuf),
    /// The port cannot be had.
    #[error("{0}: {1}: give another port, or unix:PATH")]
    Port(SocketAddr, io::Error),
    /// Standard input or output cannot be kept.
    #[error("cannot use standard input and output: {0}")]
    Stdio(io::Error),
}

/// Where GDB comes from.
#[derive(Debug)]
pub enum Listener {
    /// It connects.
    Socket(OwnedFd),
    /// It is there, at standard input and output.
    Stdio(OwnedFd, OwnedFd),
    /// It was there.
    Closed,
}

impl Listener {
    /// Opens the place.
    ///
    /// # Errors
    ///
    /// [`DebuggerError`].
    pub fn open(at: &DebuggerAt) -> Result<Self, DebuggerError> {
        match at {
            DebuggerAt::Path(path) => match stream::listen_at(path) {
                Ok(socket) => Ok(Self::Socket(socket)),
                Err(StreamError::InUse { path }) => {
                    Err(DebuggerError::InUse(path))
                }
                Err(error) => Err(DebuggerError::Path(error)),
            },
            DebuggerAt::Port(address) => port(*address)
                .map(Self::Socket)
                .map_err(|error| DebuggerError::Port(*address, error)),
            DebuggerAt::Stdio => {
                let keep = |fd| {
                    rustix::io::dup(fd)
                        .map_err(|e| DebuggerError::Stdio(e.into()))
                };
                let input = keep(rustix::stdio::stdin())?;
                Ok(Self::Stdio(input, keep(rustix::stdio::stdout())?))
            }
        }
    }

    /// Waits for the next GDB. `None` if there can be none any more, or if the
    /// event `news` has come.
    pub(super) fn next(&mut self, news: &OwnedFd) -> Option<Connection> {
        let socket = match std::mem::replace(self, Self::Closed) {
            Self::Stdio(input, output) => {
                return Some(Connection::new(input, output));
            }
            Self::Closed => return None,
            Self::Socket(socket) => socket,
        };
        let connection = loop {
            if has_come(news, &[&socket]) {
                return None;
            }
            let input = accept_with(&socket, SocketFlags::CLOEXEC);
            let both = input.and_then(|input| {
                let output = rustix::io::fcntl_dupfd_cloexec(&input, 0)?;
                Ok((input, output))
            });
            // It may have gone already. Without a descriptor, it is let in as
            // soon as there is one; a pause keeps us from asking all the time.
            match both {
                Ok((input, output)) => break Connection::new(input, output),
                Err(_) => {
                    std::thread::sleep(std::time::Duration::from_millis(50))
                }
            }
        };
        *self = Self::Socket(socket);
        Some(connection)
    }
}

/// Listens at `address`.
fn port(address: SocketAddr) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Answers are short. A connection inherits this.
    sockopt::set_tcp_nodelay(&listener, true)?;
    Ok(listener.into())
}
