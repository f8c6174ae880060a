//! Which process is at the other end of a local socket.
//!
//! Sockets in a folder of ours are used by processes of our user only. The
//! folder's mode says so, too; this check does not depend on it.

#![expect(unsafe_code, reason = "credentials of a socket's other end")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The number of the process that has connected to `socket`, or listens there.
/// It is 0 for a process outside of this container.
///
/// # Errors
///
/// [`io::ErrorKind::PermissionDenied`] if it belongs to another user.
pub(crate) fn peer_of_our_user(socket: impl AsFd) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let size = size_of::<libc::ucred>();
    let mut len = libc::socklen_t::try_from(size).expect("a small struct");
    // SAFETY: the descriptor is open, and the kernel writes at most `len`
    // bytes to where there are that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut peer).cast(),
            &mut len,
        )
    };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    if peer.uid != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(peer.pid.unsigned_abs())
}
