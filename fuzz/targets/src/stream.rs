//! A stream of frames, whose other end is hostile.
//!
//! The other end writes any bytes in any pieces, stops reading, and closes the
//! stream. The Guest sends frames and takes those that arrive. A frame arrives
//! whole or not at all, in the order of the stream, and what the other end
//! reads are whole frames of the Guest.

use crate::input::Input;
use lguest::devices::net::stream::Incoming;
use lguest::devices::net::{FRAME_MOST, FrameBuffers, Nic, stream};
use lguest::devices::{Filled, Readiness, ReceiveBuffers, Violation};
use lguest::memory::{GuestMemory, Section, SectionsIn};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socketpair,
};
use std::io;
use std::os::fd::OwnedFd;

/// Bytes of a buffer of the Guest.
const ROOM: u32 = 2048;

/// Bytes of an Ethernet header, the shortest frame.
const SHORTEST: usize = 14;

/// Buffers of a Guest, and the frames that have come in them.
struct Buffers<'m> {
    memory: &'m GuestMemory,
    free: u32,
    frames: Vec<Vec<u8>>,
}

impl FrameBuffers for Buffers<'_> {}

impl ReceiveBuffers for Buffers<'_> {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        if self.free == 0 {
            return Ok(Filled::NoneFree);
        }
        let (region, half) = (self.memory.region(), ROOM / 2);
        let section = |at| Section::new(region, at, half);
        let list = [section(0), section(half)];
        let list = list.map(|section| section.expect("it is there"));
        match fill(SectionsIn {
            region,
            list: &list,
        }) {
            Ok(0) => Ok(Filled::Bytes(0)),
            Ok(bytes) => {
                let mut frame = vec![0; bytes as usize];
                let read = self.memory.read(0, &mut frame);
                read.expect("it was written");
                self.frames.push(frame);
                self.free -= 1;
                Ok(Filled::Bytes(bytes))
            }
            Err(error) => Ok(Filled::Failed(error)),
        }
    }

    fn are_any(&self) -> bool {
        true
    }
}

/// The frames in `bytes` that fit into a buffer, until the first length that
/// no frame has.
fn frames_in(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_MOST || rest.len() < length {
            break;
        }
        if (SHORTEST..=ROOM as usize).contains(&length) {
            frames.push(rest[..length].to_vec());
        }
        bytes = &rest[length..];
    }
    frames
}

/// Acts as a hostile other end.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (ours, other) = pair.expect("sockets can be had");
    let mut nic = stream::on_socket(ours).expect("a stream can be had");
    let memory = GuestMemory::new(0x1_0000, 0).expect("memory can be had");
    let (mut written, mut sent, mut read) =
        (Vec::new(), Vec::new(), Vec::new());
    let mut other = Some(other);
    let mut buffers = Buffers {
        memory: &memory,
        free: 0,
        frames: Vec::new(),
    };
    for n in 0..64_u8 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0..3 => {
                let bytes = piece(&mut input);
                if let Some(other) = &other {
                    written.extend(&bytes[..write(other, &bytes)]);
                }
            }
            3 => guest_sends(&mut nic, &memory, n, &mut input, &mut sent),
            4 => nic.flush(),
            5 => take(other.as_ref(), &mut read, input.word() as usize),
            6 if input.byte() == 7 => other = None,
            _ => {
                buffers.free += input.below(8);
                let _ = nic.handle_input(&mut buffers);
            }
        }
    }
    buffers.free = u32::MAX;
    while nic.handle_input(&mut buffers) == Ok(Readiness::More) {}
    let expected = frames_in(&written);
    if other.is_some() {
        assert!(buffers.frames == expected, "other frames than were sent");
    }
    assert!(
        expected.starts_with(&buffers.frames),
        "a frame that was not sent"
    );
    nic.flush();
    take(other.as_ref(), &mut read, usize::MAX);
    let begins = sent.len().min(read.len());
    assert!(
        sent[..begins] == read[..begins],
        "the other end lost its place"
    );
    parts(&written);
}

/// Bytes of the other end: mostly a frame, sometimes anything.
fn piece(input: &mut Input<'_>) -> Vec<u8> {
    let length = match input.byte() % 8 {
        0 => {
            let length = usize::from(input.byte());
            return input.bytes(length).to_vec();
        }
        1 => input.word(),
        2 => input.below(20),
        _ => input.below(1600),
    };
    let mut bytes = length.to_be_bytes().to_vec();
    let body = (length as usize).min(4000);
    bytes.extend(std::iter::repeat_n(input.byte(), body));
    if input.byte().is_multiple_of(8) {
        bytes.pop();
    }
    bytes
}

/// Writes what the socket takes. Returns how much that was.
fn write(other: &OwnedFd, bytes: &[u8]) -> usize {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send(other, bytes, flags).unwrap_or(0)
}

/// Reads up to `most` bytes, if they are there.
fn take(other: Option<&OwnedFd>, read: &mut Vec<u8>, most: usize) {
    let Some(other) = other else { return };
    let mut bytes = vec![0; most.min(1 << 18)];
    if let Ok((count, _)) = recv(other, &mut bytes[..], RecvFlags::DONTWAIT) {
        read.extend(&bytes[..count]);
    }
}

/// The Guest sends a frame of bytes `n`.
fn guest_sends(
    nic: &mut Nic,
    memory: &GuestMemory,
    n: u8,
    input: &mut Input<'_>,
    sent: &mut Vec<u8>,
) {
    let length = 1 + input.below(3000);
    let at = 0x4000;
    let frame = vec![n; length as usize];
    let put = memory.write(at, &frame);
    put.expect("it is in memory");
    let region = memory.region();
    let list = [Section::new(region, at, length).expect("it is in memory")];
    let taken = nic.send(SectionsIn {
        region,
        list: &list,
    });
    assert!(taken == length || taken == 0, "a part of a frame was taken");
    assert!(taken == 0 || length as usize >= SHORTEST, "it is no frame");
    if taken == length {
        sent.extend(length.to_be_bytes());
        sent.extend(frame);
    }
}

/// The same bytes, read without a socket.
fn parts(written: &[u8]) {
    let mut incoming = Incoming::default();
    for piece in written.chunks(777) {
        let room = incoming.room();
        assert!(room.len() >= piece.len(), "there is no room");
        room[..piece.len()].copy_from_slice(piece);
        incoming.filled(piece.len());
        loop {
            match incoming.next() {
                Ok(Some(frame)) => assert!(frame.len() <= FRAME_MOST),
                Ok(None) => break,
                Err(bad) => {
                    assert!(bad.0 as usize > FRAME_MOST);
                    return;
                }
            }
        }
    }
}
