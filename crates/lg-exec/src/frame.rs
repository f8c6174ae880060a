//! Frames: how messages are cut out of a stream of bytes.
//!
//! A frame is a head of [`HEAD`] bytes and a payload: the length of the payload
//! and the number of the stream, 32 bits each, the lowest byte first, then a
//! byte that says the kind. A [`Decoder`] takes the bytes in any pieces. It
//! never holds more than one frame.

use alloc::vec::Vec;

/// The length of a frame's head.
pub const HEAD: usize = 9;

/// The longest payload. A frame that says more ends the connection.
pub const PAYLOAD_MOST: usize = 65536;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The length of the payload, at most [`PAYLOAD_MOST`].
    pub length: usize,
    /// The number of the stream.
    pub stream: u32,
    /// What the payload is.
    pub kind: u8,
}

/// A head that says a longer payload than [`PAYLOAD_MOST`], or a message that
/// would need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl core::error::Error for TooLong {}

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a frame is longer than {PAYLOAD_MOST} bytes")
    }
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    ///
    /// [`TooLong`]: nothing after this head can be trusted.
    pub fn parse(bytes: &[u8; HEAD]) -> Result<Self, TooLong> {
        let [a, b, c, d, e, f, g, h, kind] = *bytes;
        let length = u32::from_le_bytes([a, b, c, d]);
        let length = usize::try_from(length).map_err(|_| TooLong)?;
        if length > PAYLOAD_MOST {
            return Err(TooLong);
        }
        Ok(Self {
            length,
            stream: u32::from_le_bytes([e, f, g, h]),
            kind,
        })
    }

    /// The bytes of the head. A longer payload than [`PAYLOAD_MOST`] is said to
    /// have that length.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEAD] {
        let length = self.length.min(PAYLOAD_MOST);
        let [a, b, c, d] = u32::try_from(length).unwrap_or(0).to_le_bytes();
        let [e, f, g, h] = self.stream.to_le_bytes();
        [a, b, c, d, e, f, g, h, self.kind]
    }
}

/// A frame that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The number of the stream.
    pub stream: u32,
    /// What the payload is.
    pub kind: u8,
    /// The payload.
    pub payload: &'a [u8],
}

/// Appends a frame.
///
/// # Errors
///
/// [`TooLong`]: nothing is appended.
pub fn put(
    out: &mut Vec<u8>,
    stream: u32,
    kind: u8,
    payload: &[u8],
) -> Result<(), TooLong> {
    let length = payload.len();
    if length > PAYLOAD_MOST {
        return Err(TooLong);
    }
    let head = Head {
        length,
        stream,
        kind,
    };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends a frame whose payload is a value.
///
/// # Errors
///
/// [`TooLong`]: nothing is appended.
pub fn put_value<T: serde::Serialize>(
    out: &mut Vec<u8>,
    stream: u32,
    kind: u8,
    value: &T,
) -> Result<(), TooLong> {
    let payload = postcard::to_allocvec(value).map_err(|_| TooLong)?;
    put(out, stream, kind, &payload)
}

/// A payload that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the value of a payload. Bytes after it belong to a later version.
///
/// # Errors
///
/// [`Malformed`]
pub fn value<'a, T: serde::Deserialize<'a>>(
    payload: &'a [u8],
) -> Result<T, Malformed> {
    let read = postcard::take_from_bytes(payload);
    read.map(|(value, _)| value).map_err(|_| Malformed)
}

/// Cuts frames out of a stream of bytes.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// The frame that is arriving, or the one that was returned last.
    held: Vec<u8>,
    /// How long it is, once its head is there.
    whole: Option<usize>,
    /// A head was wrong. Nothing more is read.
    broken: bool,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `bytes` up to the end of a frame, and
    /// returns that frame. `None`: all bytes are taken, and no frame is whole.
    ///
    /// # Errors
    ///
    /// [`TooLong`], now and from now on.
    pub fn next(
        &mut self,
        bytes: &mut &[u8],
    ) -> Result<Option<Frame<'_>>, TooLong> {
        self.advance(bytes)?;
        Ok(self.frame())
    }

    /// As [`Self::next`]; the frame can be had by [`Self::frame`].
    ///
    /// # Errors
    ///
    /// [`TooLong`]
    pub fn advance(&mut self, bytes: &mut &[u8]) -> Result<(), TooLong> {
        if self.broken {
            return Err(TooLong);
        }
        if self.whole.is_some_and(|whole| self.held.len() == whole) {
            self.held.clear();
            self.whole = None;
        }
        self.take(bytes, HEAD);
        let Some((head, _)) = self.held.split_first_chunk::<HEAD>() else {
            return Ok(());
        };
        let head = Head::parse(head).inspect_err(|_| self.broken = true)?;
        let whole = HEAD + head.length;
        self.whole = Some(whole);
        self.take(bytes, whole);
        Ok(())
    }

    /// The frame that was found last.
    #[must_use]
    pub fn frame(&self) -> Option<Frame<'_>> {
        let (head, payload) = self.held.split_first_chunk::<HEAD>()?;
        let head = Head::parse(head).ok()?;
        (payload.len() == head.length).then_some(Frame {
            stream: head.stream,
            kind: head.kind,
            payload,
        })
    }

    /// Whether it holds a part of a frame.
    #[must_use]
    pub fn is_within(&self) -> bool {
        !self.held.is_empty() && self.whole != Some(self.held.len())
    }

    /// Fills `held` up to a length, from the front of `bytes`.
    fn take(&mut self, bytes: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.held.len());
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        self.held.extend_from_slice(now);
        *bytes = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    type Owned = (u32, u8, Vec<u8>);

    fn frames() -> impl Strategy<Value = Vec<Owned>> {
        let payload = proptest::collection::vec(any::<u8>(), 0..300);
        proptest::collection::vec((any::<u32>(), any::<u8>(), payload), 0..20)
    }

    /// All frames that come out, if the bytes come in pieces of these lengths.
    fn decode(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Owned>, TooLong> {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let mut rest = bytes;
        let mut lengths = pieces.iter().cycle();
        while !rest.is_empty() {
            let length = lengths.next().map_or(rest.len(), |n| *n);
            let (mut piece, later) = rest.split_at(length.min(rest.len()));
            while let Some(frame) = decoder.next(&mut piece)? {
                found.push((frame.stream, frame.kind, frame.payload.to_vec()));
            }
            assert!(piece.is_empty());
            rest = later;
        }
        Ok(found)
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let mut out = Vec::new();
        put(&mut out, 0x0102_0304, 7, b"hi").unwrap();
        assert_eq!(out, [2, 0, 0, 0, 4, 3, 2, 1, 7, b'h', b'i']);
    }

    #[test]
    fn an_empty_payload_is_a_frame() {
        let mut out = Vec::new();
        put(&mut out, 1, 2, b"").unwrap();
        put(&mut out, 3, 4, b"").unwrap();
        let found = decode(&out, &[1]).unwrap();
        assert_eq!(found, [(1, 2, vec![]), (3, 4, vec![])]);
    }

    #[test]
    fn the_longest_payload_passes_and_a_longer_one_does_not() {
        let mut out = Vec::new();
        let longest = vec![1; PAYLOAD_MOST];
        put(&mut out, 1, 2, &longest).unwrap();
        assert_eq!(decode(&out, &[1000]).unwrap(), [(1, 2, longest)]);
        let longer = vec![1; PAYLOAD_MOST + 1];
        assert_eq!(put(&mut out, 1, 2, &longer), Err(TooLong));
        assert_eq!(out.len(), HEAD + PAYLOAD_MOST);
    }

    #[test]
    fn a_length_beyond_the_bound_ends_the_stream_without_its_memory() {
        let mut decoder = Decoder::new();
        let mut bytes: &[u8] = &[1, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9, 9];
        assert_eq!(decoder.next(&mut bytes), Err(TooLong));
        let mut out = Vec::new();
        put(&mut out, 1, 2, b"").unwrap();
        assert_eq!(decoder.next(&mut out.as_slice()), Err(TooLong));
        assert!(decoder.held.capacity() < 100);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_any_pieces(
            frames in frames(),
            pieces in proptest::collection::vec(1..500_usize, 1..9),
        ) {
            let mut bytes = Vec::new();
            for (stream, kind, payload) in &frames {
                put(&mut bytes, *stream, *kind, payload).unwrap();
            }
            prop_assert_eq!(decode(&bytes, &pieces), Ok(frames));
        }

        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            bytes in proptest::collection::vec(0..6_u8, 0..400),
            pieces in proptest::collection::vec(1..30_usize, 1..9),
        ) {
            prop_assert_eq!(decode(&bytes, &pieces), decode(&bytes, &[400]));
        }
    }
}
