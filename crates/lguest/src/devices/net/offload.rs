//! Work on a frame that its sender leaves to the device: checksum, segments.
//!
//! A header in front of a frame says what is left to do (virtio 1.0, section
//! 5.1.6). A hostile Guest or another Launcher may have written it. It becomes
//! an [`Offload`] only if it fits the frame, and that frame is the copy that
//! is used. [`Offload::fit`] does what the receiver does not take over.

use super::checksum::{self, folded, sum};
use super::ethernet::{self, Version};
use lg_abi::gen2::device::NET_HEADER;
use std::ops::Range;

/// Bytes of a header.
pub const HEADER: usize = NET_HEADER as usize;

/// Flags in a header: a checksum is missing; all checksums are right.
const NEEDS_CHECKSUM: u8 = 1;
const VALID: u8 = 2;

/// Kinds of segmentation: none, TCP over IPv4, TCP over IPv6. With the bit, the
/// segments of the Guest say that there was congestion.
const WHOLE: u8 = 0;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const CONGESTION: u8 = 0x80;

/// The smallest segment. Linux has it, too; with smaller ones a single frame
/// of the Guest would become thousands.
const SMALLEST: u16 = 48;

/// Bytes of an IP header without options.
const IP4_LEAST: usize = 20;
const IP6: usize = 40;

/// The protocol number of TCP, the bytes of its header without options, and
/// where its checksum is.
const TCP: u8 = 6;
const TCP_LEAST: usize = 20;
const TCP_CHECKSUM: u16 = 16;

/// Flags of TCP that only some segments keep.
const FIN: u8 = 1;
const PUSH: u8 = 8;
const REDUCED: u8 = 0x80;

/// The longest frame that is given on whole to a receiver of [`Takes::whole`].
const WHOLE_MOST: usize = 0xFFFF;

/// A header that does not fit its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

/// What is left to do with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    checksum: Option<Checksum>,
    segments: Option<Segments>,
    /// The sender vouches for the checksums.
    valid: bool,
}

/// A checksum that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checksum {
    /// What it is about: the frame from here on.
    start: u16,
    /// Where it goes, from `start` on. The sum of what is not in the frame is
    /// there now.
    offset: u16,
}

/// TCP segments that a frame has to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    version: Version,
    congestion: bool,
    /// Bytes of data in each.
    size: u16,
    /// Where the IP header begins.
    ip: usize,
    /// Where the data begin.
    data: u16,
}

/// What a receiver takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Frames without their checksum.
    pub checksum: bool,
    /// Frames to be cut into segments of TCP over IPv4 ...
    pub tcp4: bool,
    /// ... and over IPv6.
    pub tcp6: bool,
    /// Segments of TCP of any length: it does not need small ones.
    pub whole: bool,
}

impl Takes {
    /// A receiver of all kinds of headers.
    pub const HEADERS: Self = Self {
        checksum: true,
        tcp4: true,
        tcp6: true,
        whole: false,
    };
}

impl Offload {
    /// Nothing is left to do with such a frame, and its checksums are right.
    pub const VALID: Self = Self {
        checksum: None,
        segments: None,
        valid: true,
    };

    /// What `header` says about `frame`. Nobody vouches for the checksums of
    /// the frame, whatever the header says: a driver must not do it (virtio
    /// 1.0, section 5.1.6.2), and a receiver would not check them.
    ///
    /// # Errors
    ///
    /// [`BadHeader`]: no sender that keeps the rules says that.
    pub fn read(header: [u8; HEADER], frame: &[u8]) -> Result<Self, BadHeader> {
        Self::read_beginning(header, frame, frame.len())
    }

    /// [`Self::read`] of a frame of `length` bytes, of which `beginning` is
    /// known.
    ///
    /// # Errors
    ///
    /// [`BadHeader`], also where the header is about a later part of the frame.
    pub fn read_beginning(
        header: [u8; HEADER],
        beginning: &[u8],
        length: usize,
    ) -> Result<Self, BadHeader> {
        let left = Self::read_all(header, beginning, length)?;
        let valid = false;
        Ok(Self { valid, ..left })
    }

    /// [`Self::read`] of a header that the kernel of this machine has written,
    /// or this process. It may vouch for the checksums.
    ///
    /// # Errors
    ///
    /// [`BadHeader`]: no sender that keeps the rules says that.
    pub fn read_of_kernel(
        header: [u8; HEADER],
        frame: &[u8],
    ) -> Result<Self, BadHeader> {
        Self::read_all(header, frame, frame.len())
    }

    /// All that `header` says about a frame of `length` bytes with this
    /// `beginning`.
    fn read_all(
        header: [u8; HEADER],
        beginning: &[u8],
        length: usize,
    ) -> Result<Self, BadHeader> {
        let [flags, kind, ..] = header;
        let [_, _, h0, h1, _, _, c0, c1, o0, o1] = header;
        let half = |low, high| u16::from_le_bytes([low, high]);
        let checksum = Checksum {
            start: half(c0, c1),
            offset: half(o0, o1),
        };
        let checksum = match flags & NEEDS_CHECKSUM {
            0 => None,
            _ if checksum.place(beginning).is_none() => return Err(BadHeader),
            _ => Some(checksum),
        };
        // Only a hint, and never used.
        if usize::from(half(h0, h1)) > length {
            return Err(BadHeader);
        }
        let version = match kind & !CONGESTION {
            WHOLE => None,
            TCP4 => Some(Version::V4),
            TCP6 => Some(Version::V6),
            _ => return Err(BadHeader),
        };
        let segments = match (version, checksum) {
            (None, _) => None,
            (Some(_), None) => return Err(BadHeader),
            (Some(version), Some(checksum)) => {
                let frame = (beginning, length);
                Segments::read(header, version, frame, checksum)?
            }
        };
        Ok(Self {
            checksum,
            segments,
            valid: flags & VALID != 0,
        })
    }

    /// Whether `header` asks for segments.
    #[must_use]
    pub fn has_segments(header: [u8; HEADER]) -> bool {
        let [_, kind, ..] = header;
        kind & !CONGESTION != WHOLE
    }

    /// The header that says this.
    #[must_use]
    pub fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        if self.valid {
            header[0] = VALID;
        }
        if let Some(Checksum { start, offset }) = self.checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some(segments) = self.segments {
            header[1] = match segments.version {
                Version::V4 => TCP4,
                Version::V6 => TCP6,
            };
            if segments.congestion {
                header[1] |= CONGESTION;
            }
            header[2..4].copy_from_slice(&segments.data.to_le_bytes());
            header[4..6].copy_from_slice(&segments.size.to_le_bytes());
        }
        header
    }

    /// What is said to a receiver of `takes` that gets the frame as it is;
    /// `None` if [`Self::fit`] has to change the frame first.
    #[must_use]
    pub fn as_it_is(self, takes: Takes) -> Option<Self> {
        let taken = match self.segments.map(|segments| segments.version) {
            None => true,
            Some(Version::V4) => takes.tcp4,
            Some(Version::V6) => takes.tcp6,
        };
        let valid = self.valid && takes.checksum && self.checksum.is_none();
        let taken = taken && (takes.checksum || self.checksum.is_none());
        taken.then_some(Self { valid, ..self })
    }

    /// Gives `frame` to `give` in the form that a receiver of `takes` can use:
    /// as it is, with its checksum, or in segments. `frame` may be changed.
    pub fn fit(
        self,
        frame: &mut [u8],
        takes: Takes,
        give: &mut dyn FnMut(&[u8], Self),
    ) {
        if let Some(left) = self.as_it_is(takes) {
            return give(frame, left);
        }
        let Some(checksum) = self.checksum else {
            return;
        };
        let whole = takes.whole && frame.len() <= WHOLE_MOST;
        match self.segments {
            Some(segments) if !whole => {
                let start = usize::from(checksum.start);
                segments.cut(frame, start, takes.checksum, give);
            }
            _ => {
                checksum.put(frame);
                let left = Self {
                    valid: takes.checksum,
                    ..Self::default()
                };
                give(frame, left);
            }
        }
    }
}

impl Checksum {
    /// Where it goes in `frame`, if it is there.
    fn place(self, frame: &[u8]) -> Option<Range<usize>> {
        let start = usize::from(self.start);
        let place = start + usize::from(self.offset);
        let fits = start >= ethernet::HEADER && place + 2 <= frame.len();
        fits.then_some(place..place + 2)
    }

    /// Computes it.
    fn put(self, frame: &mut [u8]) {
        let Some(place) = self.place(frame) else {
            return;
        };
        let sum = match !folded(sum(&frame[usize::from(self.start)..])) {
            // In a datagram, 0 would say that there is none.
            0 => !0,
            sum => sum,
        };
        frame[place].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Segments {
    /// The segments that `header` asks for, of a frame with this version of
    /// IP: its beginning, and its length. None if it is a single one.
    fn read(
        header: [u8; HEADER],
        version: Version,
        (beginning, length): (&[u8], usize),
        checksum: Checksum,
    ) -> Result<Option<Self>, BadHeader> {
        let [_, kind, _, _, s0, s1, ..] = header;
        let size = u16::from_le_bytes([s0, s1]);
        let (found, at) = ethernet::packet(beginning).ok_or(BadHeader)?;
        let start = usize::from(checksum.start);
        let ip = beginning.get(at..start).ok_or(BadHeader)?;
        let is_tcp = match version {
            Version::V4 if ip.len() >= IP4_LEAST => {
                usize::from(ip[0] & 15) * 4 == ip.len()
                    && ip[0] >> 4 == 4
                    && ip[9] == TCP
            }
            Version::V6 if ip.len() == IP6 => ip[0] >> 4 == 6 && ip[6] == TCP,
            _ => false,
        };
        let tcp = &beginning[start..];
        if found != version
            || !is_tcp
            || checksum.offset != TCP_CHECKSUM
            || tcp.len() < TCP_LEAST
            || size < SMALLEST
            || length - at > usize::from(u16::MAX)
        {
            return Err(BadHeader);
        }
        let tcp_header = usize::from(tcp[12] >> 4) * 4;
        if tcp_header < TCP_LEAST || tcp_header > tcp.len() {
            return Err(BadHeader);
        }
        let data = start + tcp_header;
        let is_one = length - data <= usize::from(size);
        Ok((!is_one).then_some(Self {
            version,
            congestion: kind & CONGESTION != 0,
            size,
            ip: at,
            data: u16::try_from(data).map_err(|_| BadHeader)?,
        }))
    }

    /// Cuts `frame`, whose TCP header begins at `tcp`, into segments with right
    /// checksums. `vouch`: the receiver is told that they are right.
    fn cut(
        self,
        frame: &[u8],
        tcp: usize,
        vouch: bool,
        give: &mut dyn FnMut(&[u8], Offload),
    ) {
        let (headers, data) = frame.split_at(usize::from(self.data));
        let size = usize::from(self.size);
        let mut segment = Vec::with_capacity(headers.len() + size);
        let parts = data.chunks(size);
        let last = parts.len() - 1;
        for (n, part) in parts.enumerate() {
            segment.clear();
            segment.extend_from_slice(headers);
            segment.extend_from_slice(part);
            self.address(&mut segment[self.ip..], n);
            // The numbers of bytes wrap around.
            let add = |bytes: &mut [u8], more: usize| {
                let mut word = [0; 4];
                word.copy_from_slice(bytes);
                #[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
                let word = u32::from_be_bytes(word).wrapping_add(more as u32);
                bytes.copy_from_slice(&word.to_be_bytes());
            };
            add(&mut segment[tcp + 4..tcp + 8], n * size);
            let flags = &mut segment[tcp + 13];
            if n != last {
                *flags &= !(FIN | PUSH);
            }
            if n != 0 {
                *flags &= !REDUCED;
            }
            checksum::complete(&mut segment);
            let left = Offload {
                valid: vouch,
                ..Offload::default()
            };
            give(&segment, left);
        }
    }

    /// Corrects the IP header of `packet`, which is segment `n`.
    fn address(self, packet: &mut [u8], n: usize) {
        let half = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let (length, n) = (packet.len(), half(n));
        match self.version {
            Version::V6 => {
                let length = half(length.saturating_sub(IP6));
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
            Version::V4 => {
                packet[2..4].copy_from_slice(&half(length).to_be_bytes());
                let id = u16::from_be_bytes([packet[4], packet[5]]);
                let id = id.wrapping_add(n);
                packet[4..6].copy_from_slice(&id.to_be_bytes());
                packet[10..12].fill(0);
                let header = &packet[..usize::from(packet[0] & 15) * 4];
                let sum = !folded(sum(header));
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
