//! The name server of a restricted Guest: names of `,allow`, and no others.
//!
//! Questions of the Guest get to no name server outside: what is asked could
//! tell something, and what is answered could lead elsewhere. The Launcher
//! answers them itself, from the addresses that it has looked up. Every other
//! name does not exist.

use super::packet::{Packet, UDP, packet};
use crate::devices::net::checksum;
use crate::devices::net::ethernet::Version;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

/// The address of the name server.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Its port.
const PORT: u16 = 53;

/// The most answers that wait for the Guest. It asks again for lost ones.
const WAITING: usize = 64;

/// The most addresses in an answer. All of IPv6 have room in 512 bytes.
const ADDRESSES: usize = 7;

/// For so many seconds an answer holds.
const HOLDS: u32 = 60;

/// Kinds of records, and their class.
const A: u16 = 1;
const AAAA: u16 = 28;
const ANY_KIND: u16 = 255;
const INTERNET: u16 = 1;

/// In the third byte of a message: it answers, it is no plain question, the
/// asker wants all of the answer.
const ANSWERS: u8 = 0x80;
const OPERATION: u8 = 0x78;
const RECURSION: u8 = 0x01;

/// In the fourth: the server finds out all of the answer; how it went.
const RECURSES: u8 = 0x80;
const FINE: u8 = 0;
const MALFORMED: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_DONE: u8 = 4;

/// Bytes of the header of a message.
const HEADER: usize = 12;

/// A name that is the one behind the header.
const SAME_NAME: [u8; 2] = [0xC0, 12];

/// The most bytes of a name, and of one of its parts.
const NAME_MOST: usize = 253;
const PART_MOST: u8 = 63;

/// The name server.
pub(super) struct Names {
    known: BTreeMap<String, Vec<IpAddr>>,
    /// Frames for the Guest.
    answers: VecDeque<Vec<u8>>,
    /// It is readable when there are some.
    bell: OwnedFd,
}

impl Names {
    /// A name server that knows these names, which are in small letters.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub(super) fn new(
        known: BTreeMap<String, Vec<IpAddr>>,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            known,
            answers: VecDeque::new(),
            bell: eventfd(0, flags)?,
        })
    }

    /// The file to watch for answers.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Takes `frame` of the Guest if it is for the name server. Returns whether
    /// it is.
    pub(super) fn takes(&mut self, frame: &[u8]) -> bool {
        let Some(packet) = packet(frame) else {
            return false;
        };
        let ports = packet.ports().filter(|_| packet.protocol == UDP);
        let Some((from, PORT)) = ports else {
            return false;
        };
        if packet.version != Version::V4 || packet.to() != ADDRESS {
            return false;
        }
        if self.answers.len() < WAITING
            && let Some(answer) = self.answer_to(frame, &packet, from)
        {
            self.answers.push_back(answer);
            // A full counter is readable.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
        true
    }

    /// The next answer for the Guest.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let answer = self.answers.pop_front()?;
        if self.answers.is_empty() {
            self.silence();
        }
        Some(answer)
    }

    /// Clears the bell, until there is another answer. Those that wait are
    /// taken when the Guest has buffers.
    pub(super) fn silence(&self) {
        // If there is nothing to read, it was read already.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// The frame that answers `frame`, which is a datagram in `packet` of this
    /// port.
    fn answer_to(
        &self,
        frame: &[u8],
        packet: &Packet<'_>,
        port: u16,
    ) -> Option<Vec<u8>> {
        let length = packet.payload.get(4..6)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        let question = packet.payload.get(8..usize::from(length))?;
        let said = answer(question, &self.known)?;
        let IpAddr::V4(to) = packet.from() else {
            return None;
        };
        Some(framed(frame.first_chunk()?, (to, port), &said))
    }
}

/// A datagram of the name server. `ends` are the Ethernet addresses of the
/// frame that it answers.
fn framed(
    ends: &[u8; 12],
    (to, port): (Ipv4Addr, u16),
    said: &[u8],
) -> Vec<u8> {
    // An answer has 512 bytes at most.
    let bytes = |header: usize| {
        u16::try_from(header + said.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes()
    };
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&bytes(28));
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = UDP;
    ip[12..16].copy_from_slice(&ADDRESS.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = !checksum::folded(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&ends[6..], &ends[..6], &[8, 0], &ip].concat();
    frame.extend(PORT.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(bytes(8));
    // IPv4 needs no checksum of a datagram.
    frame.extend([0, 0]);
    frame.extend(said);
    frame
}

/// The question in a message.
struct Question<'m> {
    /// Its name in small letters.
    name: String,
    kind: u16,
    class: u16,
    /// All of it.
    bytes: &'m [u8],
}

/// The answer to a message; `None` if there is nothing to answer.
fn answer(
    message: &[u8],
    known: &BTreeMap<String, Vec<IpAddr>>,
) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER>()?;
    if header[2] & ANSWERS != 0 {
        return None;
    }
    let one = header[4..6] == [0, 1];
    let question = question(message).filter(|_| one);
    let (result, addresses) = match &question {
        _ if header[2] & OPERATION != 0 => (NOT_DONE, Vec::new()),
        None => (MALFORMED, Vec::new()),
        Some(question) => match known.get(&question.name) {
            Some(addresses) => (FINE, question.of(addresses)),
            None => (NO_SUCH_NAME, Vec::new()),
        },
    };
    let flags = ANSWERS | header[2] & (OPERATION | RECURSION);
    let mut said = vec![header[0], header[1], flags, RECURSES | result];
    let count = u8::try_from(addresses.len()).unwrap_or(0);
    said.extend([0, question.is_some().into(), 0, count, 0, 0, 0, 0]);
    said.extend(question.map_or(&[][..], |question| question.bytes));
    for address in addresses {
        let (kind, bytes) = match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        let length = u8::try_from(bytes.len()).unwrap_or(0);
        said.extend(SAME_NAME);
        said.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
        said.extend(HOLDS.to_be_bytes());
        said.extend([0, length]);
        said.extend(bytes);
    }
    Some(said)
}

impl Question<'_> {
    /// Those of a name's addresses that are asked for.
    fn of(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let asks = |kind| self.kind == kind || self.kind == ANY_KIND;
        let is_asked_for = |address: &IpAddr| match address {
            IpAddr::V4(_) => asks(A),
            IpAddr::V6(_) => asks(AAAA),
        };
        let found = addresses.iter().copied().filter(is_asked_for);
        let most = if self.class == INTERNET { ADDRESSES } else { 0 };
        found.take(most).collect()
    }
}

/// The first question of a message, if its name is whole and not compressed.
fn question(message: &[u8]) -> Option<Question<'_>> {
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = *message.get(at)?;
        if length == 0 {
            break;
        }
        if length > PART_MOST {
            return None;
        }
        let start = at + 1;
        at = start + usize::from(length);
        if !name.is_empty() {
            name.push('.');
        }
        for &byte in message.get(start..at)? {
            // A byte that no known name has stands for all others.
            let known = byte.is_ascii_graphic() && byte != b'.';
            let letter = if known { char::from(byte) } else { ' ' };
            name.push(letter.to_ascii_lowercase());
        }
        if name.len() > NAME_MOST {
            return None;
        }
    }
    let end = at + 5;
    let [a, b, c, d] = *message.get(at + 1..end)?.first_chunk()?;
    Some(Question {
        name,
        kind: u16::from_be_bytes([a, b]),
        class: u16::from_be_bytes([c, d]),
        bytes: message.get(HEADER..end)?,
    })
}

#[cfg(test)]
pub(super) mod tests;
