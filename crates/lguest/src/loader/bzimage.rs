//! The bzImage: a kernel wrapped in a loader for real hardware.
//!
//! The code for disks and real mode is left out. The packed kernel in the
//! middle is unpacked to where the wrapper would have put it. Up to Linux
//! 2.6.25 that is a flat image for address 1 MiB without headers, and
//! [`super::page_offset`] finds out where to map it. In later releases it is an
//! ELF file.

use super::error::KernelError;
use super::fit::Demand;
use super::payload::{self, UnpackError, Unpacked};
use super::placed::Placed;
use super::setup::Setup;
use super::{Compression, Image, elf, page_offset};
use crate::memory::GuestMemory;
use lg_abi::page::Format;

/// Unpacks the kernel in the middle.
pub(super) fn load(
    memory: &GuestMemory,
    image: &Image,
    initrd: u64,
) -> Result<Placed, KernelError> {
    let does_not_fit = |len: u64| {
        KernelError::does_not_fit(Demand {
            kernel_end: u64::from(LOAD_AT) + len,
            // Where it will be mapped is not known yet, nor how.
            page_offset: page_offset::CONVENTIONAL[0],
            paging: Format::default(),
            initrd,
        })
    };
    // If the packed kernel is longer than the room for the unpacked one, it
    // cannot run here. So it is not read into memory.
    let len = u32::try_from(image.len()?).unwrap_or(u32::MAX);
    if len > memory.ram() {
        return Err(does_not_fit(len.into()));
    }
    let file = image.read(0, len as usize)?;
    let room = memory.ram().saturating_sub(LOAD_AT);
    let kernel = match unpack(&file, room)? {
        Unpacked::All(kernel) => kernel,
        Unpacked::TooMuch(len) => return Err(does_not_fit(len)),
    };
    if elf::recognise(&kernel) {
        return elf::load(memory, &Image::Unpacked(kernel), initrd);
    }
    let len = u32::try_from(kernel.len()).unwrap_or(u32::MAX);
    let too_big = |_| does_not_fit(len.into());
    let part = memory.section(LOAD_AT, len).map_err(too_big)?;
    memory.write(LOAD_AT, &kernel).map_err(too_big)?;
    Ok(Placed {
        page_offset: page_offset::guess(&kernel, LOAD_AT)
            .ok_or(KernelError::NoPageOffset)?,
        end: part.addr() + part.len(),
        parts: vec![part],
        entry: Some(LOAD_AT),
    })
}

/// Where the kernel inside a bzImage expects to be.
pub(super) const LOAD_AT: u32 = 0x10_0000;

/// The beginning of a kernel's gzip stream: magic, "deflate" ...
const GZIP_MAGIC: [u8; 3] = [0x1F, 0x8B, 0x08];

/// ... and, after flags, time and level, the system: Unix.
const GZIP_SYSTEM: (usize, u8) = (9, 3);

/// How many false streams are tried, and how many bytes are unpacked from all
/// of them together. Chance makes one in 4 GiB, and it ends soon. A hostile
/// file may be full of them, and must not take long.
const MAX_TRIES: usize = 64;
const MAX_WASTE: usize = 16 << 20;

/// Unpacks the kernel in `file`, to at most `room` bytes.
pub(super) fn unpack(file: &[u8], room: u32) -> Result<Unpacked, KernelError> {
    let Some(payload) = Setup::of(file).payload else {
        return find_stream(file, room);
    };
    let packed = &file[payload];
    let by = Compression::of(packed).ok_or(KernelError::UnknownPacking)?;
    payload::unpack(by, packed, room.into()).map_err(|error| match error {
        UnpackError::Truncated => KernelError::Truncated,
        UnpackError::Broken => KernelError::Damaged(by),
    })
}

/// Finds and unpacks the gzip stream. Headers before protocol 2.08 do not say
/// where it is.
fn find_stream(file: &[u8], room: u32) -> Result<Unpacked, KernelError> {
    let mut verdict = KernelError::NoGzip;
    let (mut tries, mut waste) = (0, 0);
    for at in 0..file.len() {
        if tries == MAX_TRIES || waste > MAX_WASTE {
            break;
        }
        let stream = &file[at..];
        if !stream.starts_with(&GZIP_MAGIC)
            || stream.get(GZIP_SYSTEM.0) != Some(&GZIP_SYSTEM.1)
        {
            continue;
        }
        let mut kernel = Vec::new();
        match payload::gunzip(stream, room.into(), &mut kernel) {
            Ok(None) => return Ok(Unpacked::All(kernel)),
            Ok(Some(len)) => return Ok(Unpacked::TooMuch(len)),
            Err(UnpackError::Truncated) => verdict = KernelError::Truncated,
            // Three bytes may look like a stream by chance.
            Err(UnpackError::Broken) => {}
        }
        tries += 1;
        waste += kernel.len();
    }
    Err(verdict)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::loader::setup::recognise;
    use flate2::{Compression, GzBuilder};
    use std::io::Write;

    /// A bzImage around `kernel`.
    pub(in super::super) fn wrap(kernel: &[u8]) -> Vec<u8> {
        let mut file = vec![0x90; 0x800];
        file[0x202..0x206].copy_from_slice(b"HdrS");
        let mut gzip = GzBuilder::new()
            .operating_system(3)
            .write(file, Compression::default());
        gzip.write_all(kernel).unwrap();
        let mut file = gzip.finish().unwrap();
        file.extend_from_slice(b"what comes after it");
        file
    }

    fn whole() -> Unpacked {
        Unpacked::All(b"kernel".to_vec())
    }

    #[test]
    fn the_kernel_is_unpacked_from_its_bzimage() {
        assert!(recognise(&wrap(b"")));
        assert_eq!(unpack(&wrap(b"kernel"), 6).unwrap(), whole());
    }

    #[test]
    fn false_streams_are_skipped() {
        let mut file = wrap(b"kernel");
        file[0x300..0x303].copy_from_slice(&GZIP_MAGIC);
        file[0x309] = 3;
        assert_eq!(unpack(&file, 6).unwrap(), whole());
    }

    #[test]
    fn a_stream_that_ends_early_is_cut_short() {
        let file = wrap(b"kernel");
        let error = unpack(&file[..file.len() - 25], 6).unwrap_err();
        assert!(matches!(error, KernelError::Truncated), "{error}");
        let error = unpack(&file[..0x800], 6).unwrap_err();
        assert!(matches!(error, KernelError::NoGzip), "{error}");
    }

    /// A gzip stream of `len` zeroes with the wrong sum at its end.
    fn broken(len: usize) -> Vec<u8> {
        let mut file = wrap(&vec![0; len]);
        let tail = b"what comes after it".len();
        let sum = file.len() - tail - 8;
        file[sum] ^= 1;
        file.truncate(file.len() - tail);
        file.split_off(0x800)
    }

    #[test]
    fn a_file_full_of_broken_streams_is_given_up_soon() {
        // Each of them unpacks to megabytes before its checksum is wrong.
        let mut file = broken(5 << 20).repeat(MAX_TRIES);
        file.extend_from_slice(&wrap(b"kernel"));
        let start = std::time::Instant::now();
        let error = unpack(&file, 64 << 20).unwrap_err();
        assert!(matches!(error, KernelError::NoGzip), "{error}");
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        // A file of very small ones is given up, too. A few do no harm.
        let small = broken(1);
        let mut file = small.repeat(MAX_TRIES);
        file.extend_from_slice(&wrap(b"kernel"));
        assert!(unpack(&file, 6).is_err());
        assert_eq!(unpack(&file[small.len()..], 6).unwrap(), whole());
    }

    #[test]
    fn a_file_that_is_larger_than_ram_is_not_read() {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        let file = std::fs::File::from(file);
        file.set_len(3 << 30).unwrap();
        let memory = GuestMemory::new(4 << 20, 1).unwrap();
        let error = load(&memory, &Image::File(file), 0).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("at least 3074 MB"), "{text}");
    }

    #[test]
    fn a_small_file_cannot_fill_more_than_ram() {
        let file = wrap(&vec![0; 1 << 20]);
        assert!(file.len() < 0x2000);
        let much = unpack(&file, 0x1000).unwrap();
        assert_eq!(much, Unpacked::TooMuch(1 << 20));
    }
}
