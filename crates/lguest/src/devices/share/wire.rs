//! What Launcher and share server say to each other.
//!
//! They have a socket that keeps the bounds of messages. The server begins with
//! a report: [`READY`] and its walls, or an error number. The Launcher sends
//! the Guest's memory once. Then each request is a number and the sections of
//! memory that the request and the room for its answer are in. Each answer is
//! that number and the bytes of the answer.

use crate::memory::{BadAddress, GuestMemory, Region, Section};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Two ends of a connection.
pub(super) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None)
}

/// The first byte of a report of a server that is ready.
pub(super) const READY: u8 = 1;

/// The most bytes of a report.
pub(super) const LONGEST_REPORT: usize = 2048;

/// The most sections of a request: a whole ring.
pub(super) const MOST_SECTIONS: usize =
    lg_abi::gen2::device::RING_SIZE as usize;

/// The memory of the Guest; its file comes with this.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Memory {
    ram: u32,
    limit: u32,
}

/// A piece of the Guest's memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Piece {
    addr: u32,
    len: u32,
}

/// A request. Its sections follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    number: u64,
    readable: u32,
    writable: u32,
}

/// An answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Answer {
    number: u64,
    bytes: u32,
    zero: u32,
}

pub(super) fn send_memory(
    socket: BorrowedFd<'_>,
    memory: &GuestMemory,
) -> io::Result<()> {
    let body = Memory {
        ram: memory.ram(),
        limit: memory.limit(),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let file = [memory.file()];
    control.push(SendAncillaryMessage::ScmRights(&file));
    let parts = [IoSlice::new(body.as_bytes())];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the Guest's memory. `None` when the Launcher has ended.
pub(super) fn receive_memory(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<GuestMemory>> {
    let mut body = Memory::new_zeroed();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(body.as_mut_bytes())];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = rights.by_ref().flatten().next();
    let file = file.ok_or(io::ErrorKind::InvalidData)?;
    GuestMemory::of_another(file, body.ram, body.limit).map(Some)
}

pub(super) fn send_request(
    socket: BorrowedFd<'_>,
    number: u64,
    readable: &[Section],
    writable: &[Section],
) -> rustix::io::Result<()> {
    let count = |list: &[Section]| {
        u32::try_from(list.len()).map_err(|_| Errno::MSGSIZE)
    };
    let head = Request {
        number,
        readable: count(readable)?,
        writable: count(writable)?,
    };
    let mut bytes = head.as_bytes().to_vec();
    for section in readable.iter().chain(writable) {
        let piece = Piece {
            addr: section.addr(),
            len: section.len(),
        };
        bytes.extend(piece.as_bytes());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send(socket, &bytes, flags).map(drop)
}

/// A request as the server has it: its number, where it is, and where the
/// answer goes.
pub(super) type Received = (u64, Vec<Section>, Vec<Section>);

/// Waits for a request. `None` when the Launcher has ended.
pub(super) fn receive_request(
    socket: BorrowedFd<'_>,
    region: &Region,
) -> io::Result<Option<Received>> {
    const HEAD: usize = size_of::<Request>();
    let mut bytes = [0; HEAD + MOST_SECTIONS * size_of::<Piece>()];
    let got = loop {
        match recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            other => break other?.0,
        }
    };
    if got == 0 {
        return Ok(None);
    }
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, rest) =
        Request::read_from_prefix(&bytes[..got]).map_err(|_| bad())?;
    let section = |piece: &[u8]| {
        let piece = Piece::read_from_bytes(piece).map_err(|_| bad())?;
        let section = Section::new(region, piece.addr, piece.len);
        section.map_err(|BadAddress { .. }| bad())
    };
    let pieces = rest.chunks_exact(size_of::<Piece>()).map(section);
    let mut readable = pieces.collect::<io::Result<Vec<_>>>()?;
    let (first, second) = (head.readable as usize, head.writable as usize);
    if first.checked_add(second) != Some(readable.len()) {
        return Err(bad());
    }
    let writable = readable.split_off(first);
    Ok(Some((head.number, readable, writable)))
}

pub(super) fn send_answer(
    socket: BorrowedFd<'_>,
    number: u64,
    bytes: u32,
) -> rustix::io::Result<()> {
    let answer = Answer {
        number,
        bytes,
        zero: 0,
    };
    loop {
        match send(socket, answer.as_bytes(), SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// The next answer, if there is one. Does not wait.
///
/// # Errors
///
/// The server has ended, or has sent something else.
pub(super) fn receive_answer(
    socket: BorrowedFd<'_>,
) -> rustix::io::Result<Option<(u64, u32)>> {
    let mut answer = Answer::new_zeroed();
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    match recv(socket, answer.as_mut_bytes(), flags) {
        // With this flag the length of a longer message is returned.
        Ok((_, bytes)) if bytes == size_of::<Answer>() => {
            Ok(Some((answer.number, answer.bytes)))
        }
        Ok(_) => Err(Errno::PIPE),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
