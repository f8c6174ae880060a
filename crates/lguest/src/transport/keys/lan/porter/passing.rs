//! Messages between Launcher, porter and helpers: jobs, answers, and files.
//!
//! All of them go over sockets that keep the bounds of messages. At most two
//! files come with one.

use super::super::messages::LONGEST_MESSAGE;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a helper has to do with the connection that comes with this.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Job {
    /// The Launcher's name for the connection.
    pub(super) id: u64,
    /// 1 = receive a message and answer; 0 = close it.
    pub(super) answer: u64,
}

/// The result. The files of a good message come with this.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) outcome: u32,
    /// Bytes of the message.
    pub(super) len: u32,
    pub(super) message: [u8; LONGEST_MESSAGE],
}

/// The message is whole, and its files are sealed memory.
pub(super) const GOOD: u32 = 1;

/// There is no message yet.
pub(super) const NOTHING: u32 = 2;

/// The message is bad, or the connection has ended.
pub(super) const BAD: u32 = 3;

/// Two sockets that keep the bounds of messages.
pub(super) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None)
}

/// What comes with a message.
pub(super) type Files = [Option<OwnedFd>; 2];

/// Sends bytes and at most two files.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Receives a message and at most two files. Returns its length, the files,
/// and whether that is all of it.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<(usize, Files, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(into)];
    let got = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut files = [None, None];
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    for (place, file) in files.iter_mut().zip(rights.flatten()) {
        *place = Some(file);
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok((got.bytes, files, !got.flags.intersects(cut)))
}
