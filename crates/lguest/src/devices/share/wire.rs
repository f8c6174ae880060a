//! What Launcher and share server say to each other.
//!
//! They have a socket that keeps the bounds of messages. The server begins with
//! a report: [`READY`] and its walls, or an error number. The Launcher sends
//! the Guest's memory once. Then each request is a number and the sections of
//! memory that the request and the room for its answer are in. Each answer is
//! that number and the bytes of the answer. While no request is in progress,
//! the Launcher may ask for the session, a text that only servers understand,
//! or give one. It goes piece by piece.

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

/// In the place of the number of sections: it is about the session, which is
/// asked for or given.
const SESSION: u32 = u32::MAX;
const TELL: u32 = 0;
const TAKE: u32 = 1;
const TAKE_LAST: u32 = 2;

/// The most bytes of a session.
pub(super) const MOST_SESSION: usize = 8 << 20;

/// The most bytes of a piece of it.
pub(super) const PIECE: usize = 2048;

/// What the Launcher has asked.
pub(super) enum Asked {
    /// A request of the Guest: its number, where it is, and where the answer
    /// goes.
    Request(u64, Vec<Section>, Vec<Section>),
    /// The session, from this byte on.
    Tell(u64),
    /// A piece of a session, and whether it is the last one.
    Take(Vec<u8>, bool),
}

/// Asks for the session from byte `from` on.
pub(super) fn ask_session(
    socket: BorrowedFd<'_>,
    from: u64,
) -> rustix::io::Result<()> {
    send_session(socket, from, TELL, &[])
}

/// Gives a session, piece by piece.
pub(super) fn give_session(
    socket: BorrowedFd<'_>,
    session: &[u8],
) -> rustix::io::Result<()> {
    let mut rest = session;
    while let Some((piece, more)) = rest.split_at_checked(PIECE)
        && !more.is_empty()
    {
        send_session(socket, 0, TAKE, piece)?;
        rest = more;
    }
    send_session(socket, 0, TAKE_LAST, rest)
}

fn send_session(
    socket: BorrowedFd<'_>,
    number: u64,
    kind: u32,
    piece: &[u8],
) -> rustix::io::Result<()> {
    let head = Request {
        number,
        readable: SESSION,
        writable: kind,
    };
    let bytes = [head.as_bytes(), piece].concat();
    send(socket, &bytes, SendFlags::NOSIGNAL).map(drop)
}

/// Answers about a session: a piece of `text` from byte `from` on, or of why
/// there is none.
pub(super) fn send_told(
    socket: BorrowedFd<'_>,
    text: Result<&str, &str>,
    from: u64,
) -> rustix::io::Result<()> {
    let (all, failed) = match text {
        Ok(text) => (text.as_bytes(), 0),
        Err(why) => (why.as_bytes(), 1),
    };
    let at = usize::try_from(from).unwrap_or(usize::MAX).min(all.len());
    let piece = &all[at..(at + PIECE).min(all.len())];
    let head = Answer {
        number: all.len() as u64,
        bytes: u32::try_from(piece.len()).unwrap_or(0),
        zero: failed,
    };
    let bytes = [head.as_bytes(), piece].concat();
    send(socket, &bytes, SendFlags::NOSIGNAL).map(drop)
}

/// Such an answer: the bytes of the whole, a piece, and whether it is the
/// reason why there is none. Waits for it.
pub(super) fn receive_told(
    socket: BorrowedFd<'_>,
) -> rustix::io::Result<(u64, Vec<u8>, bool)> {
    const HEAD: usize = size_of::<Answer>();
    let mut bytes = [0; HEAD + PIECE];
    let got = loop {
        match recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            other => break other?.0,
        }
    };
    let (head, piece) =
        Answer::read_from_prefix(&bytes[..got]).map_err(|_| Errno::PIPE)?;
    if head.bytes as usize != piece.len() {
        return Err(Errno::PIPE);
    }
    Ok((head.number, piece.to_vec(), head.zero != 0))
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

/// Waits for a request. `None` when the Launcher has ended.
pub(super) fn receive_request(
    socket: BorrowedFd<'_>,
    region: &Region,
) -> io::Result<Option<Asked>> {
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
    if head.readable == SESSION {
        return match head.writable {
            TELL => Ok(Some(Asked::Tell(head.number))),
            TAKE => Ok(Some(Asked::Take(rest.to_vec(), false))),
            TAKE_LAST => Ok(Some(Asked::Take(rest.to_vec(), true))),
            _ => Err(bad()),
        };
    }
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
    Ok(Some(Asked::Request(head.number, readable, writable)))
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

const _: () = assert!(PIECE <= MOST_SECTIONS * size_of::<Piece>());
