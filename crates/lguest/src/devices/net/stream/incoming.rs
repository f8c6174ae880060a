//! Frames out of a stream of bytes, which a hostile process may write.
//!
//! Each frame has its length in front: four bytes, the first one the highest.

use super::super::FRAME_MOST;
use std::ops::Range;

/// Bytes of a length.
pub(super) const PREFIX: usize = 4;

/// Bytes that are kept at most: the window of a connection. passt of 2023 loses
/// frames for which its socket has no room, and sends all that follow again.
const ROOM: usize = 4 << 20;

/// A length that no frame has. What follows it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it announced a frame of {0} bytes, and frames have at most {FRAME_MOST}"
)]
pub struct BadLength(pub u32);

/// Bytes that have arrived and were not used.
pub struct Incoming {
    bytes: Box<[u8]>,
    used: Range<usize>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            bytes: vec![0; ROOM].into(),
            used: 0..0,
        }
    }
}

impl Incoming {
    /// Room for more bytes. There is some whenever [`Self::next`] has no frame.
    /// No byte is moved more than once on average.
    pub fn room(&mut self) -> &mut [u8] {
        let waiting = self.used.len();
        if self.used.start >= waiting {
            self.bytes.copy_within(self.used.clone(), 0);
            self.used = 0..waiting;
        }
        &mut self.bytes[self.used.end..]
    }

    /// Whether [`Self::room`] is not empty.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.start >= self.used.len() || self.used.end < self.bytes.len()
    }

    /// `count` bytes were written into [`Self::room`].
    pub fn filled(&mut self, count: usize) {
        self.used.end = (self.used.end + count).min(self.bytes.len());
    }

    /// Takes the next frame, if all of it has arrived.
    ///
    /// # Errors
    ///
    /// [`BadLength`]: there will be no more frames.
    #[expect(clippy::should_implement_trait, reason = "it lends")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, BadLength> {
        let arrived = &self.bytes[self.used.clone()];
        let Some((prefix, rest)) = arrived.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix);
        let bytes = length as usize;
        if bytes > FRAME_MOST {
            return Err(BadLength(length));
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let start = self.used.start + PREFIX;
        self.used.start = start + bytes;
        Ok(Some(&self.bytes[start..start + bytes]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            bytes.extend(length.to_be_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    /// What comes out when the stream is cut into pieces of these lengths.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>, BadLength> {
        let (mut incoming, mut frames) = (Incoming::default(), Vec::new());
        let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let room = incoming.room();
            let most = room.len().min(rest.len());
            let count = cuts.next().map_or(most, |&cut| most.min(cut.max(1)));
            let (piece, later) = rest.split_at(count);
            room[..count].copy_from_slice(piece);
            incoming.filled(count);
            rest = later;
            while let Some(frame) = incoming.next()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_however_the_stream_is_cut(
            lengths in proptest::collection::vec(0..3000_usize, 0..40),
            cuts in proptest::collection::vec(1..2000_usize, 1..20),
        ) {
            let frames: Vec<Vec<u8>> = (0_u8..)
                .zip(lengths)
                .map(|(n, length)| vec![n; length])
                .collect();
            let bytes = stream(&frames);
            prop_assert_eq!(read(&bytes, &cuts), Ok(frames.clone()));
            // A stream that stops in the middle brings no part of a frame.
            let cut = bytes.len().saturating_sub(1);
            let whole = frames.len().saturating_sub(1);
            prop_assert_eq!(read(&bytes[..cut], &cuts).unwrap(), &frames[..whole]);
        }
    }

    #[test]
    fn the_longest_frame_fits_and_a_longer_one_is_an_error() {
        let frames = vec![vec![7; FRAME_MOST]; 9];
        assert_eq!(read(&stream(&frames), &[]), Ok(frames));
        let longer = u32::try_from(FRAME_MOST + 1).unwrap();
        for length in [longer, 0x8000_0000, u32::MAX] {
            let mut bytes = stream(&[vec![1; 60]]);
            bytes.extend(length.to_be_bytes());
            assert_eq!(read(&bytes, &[]), Err(BadLength(length)));
        }
    }
}
