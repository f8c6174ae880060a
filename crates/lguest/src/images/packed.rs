//! Unpacks archives and layers.
//!
//! Their first bytes say how they are packed. Images are packed by gzip or
//! zstd: other formats, and the sizes of their dictionaries, are not needed.

use crate::loader::Compression;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// The unpacked bytes of `from`, which may be packed or not.
///
/// # Errors
///
/// It cannot be read, or is packed in another way.
pub fn unpacked<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let packed = Compression::of(from.fill_buf()?);
    Ok(match packed {
        None => Box::new(from),
        Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(from)),
        Some(Compression::Zstd) => Box::new(Frames::new(from)),
        Some(other) => {
            return Err(io::Error::other(format!(
                "it is packed by {other}, and only gzip and zstd are known: \
                 unpack it first"
            )));
        }
    })
}

/// Frames of zstd, one after the other. A layer may have many, and some that
/// are to be skipped.
struct Frames<R: BufRead> {
    from: R,
    decoder: FrameDecoder,
    /// Whether a frame is open.
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            decoder: FrameDecoder::new(),
            inside: false,
        }
    }

    /// Opens the next frame, if there is one.
    fn open(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(
                    ReadFrameHeaderError::SkipFrame { length, .. },
                )) => {
                    let mut frame = (&mut self.from).take(length.into());
                    io::copy(&mut frame, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside && !self.open()? {
                return Ok(0);
            }
            self.inside = true;
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(into);
            }
            if self.decoder.is_finished() {
                self.inside = false;
                continue;
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder
                .decode_blocks(&mut self.from, one)
                .map_err(io::Error::other)?;
        }
    }
}
