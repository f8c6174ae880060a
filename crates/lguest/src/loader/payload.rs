//! Unpacks the kernel in a bzImage, in all formats.
//!
//! The bytes are not trusted. No unpacker writes more than the room that it is
//! given, and none needs more memory for itself than [`WORKING_MEMORY`].
//! Library crates do the algorithms. Two containers that only kernels and old
//! tools use are parsed here: that of `lz4 -l`, and that of `lzop`.

use super::Compression;
use std::io::{self, Read};

/// The result of unpacking.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    /// All of it.
    All(Vec<u8>),
    /// There are more bytes than room: so many, as far as they were counted.
    TooMuch(u64),
}

/// Packed bytes that cannot be unpacked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum UnpackError {
    /// They end too early.
    #[error("they end too early")]
    Truncated,
    /// They are damaged, or need too much memory.
    #[error("they are damaged")]
    Broken,
}

/// Kibibytes that an unpacker may take for its dictionary: `xz -9` and
/// `zstd --ultra -22` need 64 and 128 MiB.
const WORKING_MEMORY: u32 = 160 << 10;

/// How many bytes are counted at most if they do not fit. No kernel is larger.
const MAX_COUNTED: u64 = 256 << 20;

/// Unpacks `packed`, which begins with the mark of `compression`. What follows
/// the packed bytes is ignored.
pub(super) fn unpack(
    compression: Compression,
    packed: &[u8],
    room: u64,
) -> Result<Unpacked, UnpackError> {
    match compression {
        Compression::Gzip => {
            from_reader(flate2::bufread::GzDecoder::new(packed), room)
        }
        Compression::Bzip2 => {
            from_reader(bzip2::bufread::BzDecoder::new(packed), room)
        }
        Compression::Lzma => {
            let reader = lzma_rust2::LzmaReader::new_mem_limit(
                packed,
                WORKING_MEMORY,
                None,
            );
            from_reader(reader.map_err(of_io)?, room)
        }
        Compression::Xz => {
            let reader = lzma_rust2::XzReader::new_mem_limit(
                packed,
                false,
                WORKING_MEMORY,
            );
            from_reader(reader, room)
        }
        Compression::Zstd => {
            let window = u64::from(WORKING_MEMORY) << 10;
            let reader =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    packed, window,
                );
            from_reader(reader.map_err(|_| UnpackError::Broken)?, room)
        }
        Compression::Lz4 => from_blocks(Lz4 { rest: packed }, room),
        Compression::Lzo => from_blocks(Lzop::open(packed)?, room),
    }
}

fn of_io(error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => UnpackError::Truncated,
        _ => UnpackError::Broken,
    }
}

/// Unpacks a gzip stream, and appends it to `bytes`. Returns the number of
/// bytes if that is more than `room`.
pub(super) fn gunzip(
    packed: &[u8],
    room: u64,
    bytes: &mut Vec<u8>,
) -> Result<Option<u64>, UnpackError> {
    read_all(flate2::bufread::GzDecoder::new(packed), room, bytes)
}

fn from_reader(reader: impl Read, room: u64) -> Result<Unpacked, UnpackError> {
    let mut bytes = Vec::new();
    Ok(match read_all(reader, room, &mut bytes)? {
        None => Unpacked::All(bytes),
        Some(len) => Unpacked::TooMuch(len),
    })
}

fn read_all(
    mut reader: impl Read,
    room: u64,
    bytes: &mut Vec<u8>,
) -> Result<Option<u64>, UnpackError> {
    // One byte more than there is room for tells "full" from "too much".
    let limit = room.saturating_add(1);
    let len = (&mut reader).take(limit).read_to_end(bytes);
    if (len.map_err(of_io)? as u64) < limit {
        return Ok(None);
    }
    let more = io::copy(&mut reader.take(MAX_COUNTED), &mut io::sink());
    // An error after the room is full does not matter here.
    Ok(Some(limit + more.unwrap_or(0)))
}

/// A container of packed blocks.
trait Blocks {
    /// The most bytes that a block unpacks to.
    const MOST: usize;

    /// Unpacks the next block into the beginning of `block`. Returns the number
    /// of bytes, which is 0 at the end.
    fn next(&mut self, block: &mut [u8]) -> Result<usize, UnpackError>;
}

fn from_blocks<B: Blocks>(
    mut blocks: B,
    room: u64,
) -> Result<Unpacked, UnpackError> {
    let mut bytes = Vec::new();
    let mut len = 0;
    let mut block = vec![0; B::MOST];
    loop {
        let more = blocks.next(&mut block)?;
        len += more as u64;
        match more {
            0 if len <= room => return Ok(Unpacked::All(bytes)),
            0 => return Ok(Unpacked::TooMuch(len)),
            _ if len > room && len > MAX_COUNTED => {
                return Ok(Unpacked::TooMuch(len));
            }
            _ if len > room => bytes = Vec::new(),
            _ => bytes.extend_from_slice(&block[..more]),
        }
    }
}

/// Takes the first `N` bytes from `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], UnpackError> {
    let (head, tail) =
        rest.split_first_chunk().ok_or(UnpackError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_slice<'a>(
    rest: &mut &'a [u8],
    len: usize,
) -> Result<&'a [u8], UnpackError> {
    let (head, tail) =
        rest.split_at_checked(len).ok_or(UnpackError::Truncated)?;
    *rest = tail;
    Ok(head)
}

/// The container of `lz4 -l`: a mark, then blocks, each after its size. In a
/// kernel, a word after the last block has the size of the whole.
struct Lz4<'a> {
    rest: &'a [u8],
}

impl Lz4<'_> {
    const MARK: u32 = 0x184C_2102;
}

impl Blocks for Lz4<'_> {
    const MOST: usize = 8 << 20;

    fn next(&mut self, block: &mut [u8]) -> Result<usize, UnpackError> {
        // Several files may be concatenated.
        let size = loop {
            if self.rest.len() <= 4 {
                return Ok(0);
            }
            match u32::from_le_bytes(take(&mut self.rest)?) {
                Self::MARK => {}
                size => break size,
            }
        };
        if size == 0 {
            return Ok(0);
        }
        let packed = take_slice(&mut self.rest, size as usize)?;
        lz4_flex::block::decompress_into(packed, block)
            .map_err(|_| UnpackError::Broken)
    }
}

/// The container of `lzop`: a header, then blocks, each after its sizes and
/// checksums.
struct Lzop<'a> {
    rest: &'a [u8],
    flags: u32,
}

impl<'a> Lzop<'a> {
    /// From this version of the format on, the header has a level, and the
    /// time has two words.
    const WITH_LEVEL: u16 = 0x0940;
    /// Flags: sums of unpacked and of packed bytes, and a filter.
    const SUMS_OF_UNPACKED: [u32; 2] = [0x1, 0x100];
    const SUMS_OF_PACKED: [u32; 2] = [0x2, 0x200];
    const FILTER: u32 = 0x800;

    /// Skips the header.
    fn open(packed: &'a [u8]) -> Result<Self, UnpackError> {
        let mut rest = packed;
        take::<9>(&mut rest)?;
        let version = u16::from_be_bytes(take(&mut rest)?);
        let has_level = version >= Self::WITH_LEVEL;
        // The library's version, the version needed, and the method.
        take::<2>(&mut rest)?;
        if has_level {
            take::<2>(&mut rest)?;
        }
        take::<1>(&mut rest)?;
        if has_level {
            take::<1>(&mut rest)?;
        }
        let flags = u32::from_be_bytes(take(&mut rest)?);
        if flags & Self::FILTER != 0 {
            take::<4>(&mut rest)?;
        }
        // Mode and time.
        take::<8>(&mut rest)?;
        if has_level {
            take::<4>(&mut rest)?;
        }
        let [name] = take(&mut rest)?;
        take_slice(&mut rest, usize::from(name) + 4)?;
        Ok(Self { rest, flags })
    }

    fn skip_sums(&mut self, flags: [u32; 2]) -> Result<(), UnpackError> {
        for flag in flags {
            if self.flags & flag != 0 {
                take::<4>(&mut self.rest)?;
            }
        }
        Ok(())
    }
}

impl Blocks for Lzop<'_> {
    const MOST: usize = 256 << 10;

    fn next(&mut self, block: &mut [u8]) -> Result<usize, UnpackError> {
        let len = u32::from_be_bytes(take(&mut self.rest)?) as usize;
        if len == 0 {
            return Ok(0);
        }
        let packed = u32::from_be_bytes(take(&mut self.rest)?) as usize;
        let block = block.get_mut(..len).ok_or(UnpackError::Broken)?;
        self.skip_sums(Self::SUMS_OF_UNPACKED)?;
        if packed < len {
            self.skip_sums(Self::SUMS_OF_PACKED)?;
        }
        let bytes = take_slice(&mut self.rest, packed)?;
        if packed == len {
            block.copy_from_slice(bytes);
            return Ok(len);
        }
        match lzokay::decompress::decompress(bytes, block) {
            Ok(out) if out == len => Ok(len),
            _ => Err(UnpackError::Broken),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
