//! Tells systemd that the machine is ready (`Type=notify`).
//!
//! systemd names a socket in the environment. It is connected before the
//! Launcher is confined; the message is sent when the machine is ready.

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
    send, socket_with,
};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// A socket to the service manager.
pub(super) struct Notify(OwnedFd);

impl Notify {
    /// Connects to the socket of the service manager, if there is one.
    pub(super) fn new() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
            path => SocketAddrUnix::new(path),
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let socket = socket.ok()?;
        connect(&socket, &address.ok()?).ok()?;
        Some(Self(socket))
    }

    /// The machine is ready.
    pub(super) fn tell(self) {
        // Without it, systemd ends the service after a while, and says why.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = send(&self.0, b"READY=1\n", flags);
    }
}
