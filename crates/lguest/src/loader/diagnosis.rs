//! What a kernel is that cannot be loaded.
//!
//! A check finds the first thing that is wrong, which is seldom the one that
//! matters: a kernel of another generation has its segments elsewhere, too, and
//! to move them would not help. So what was refused is looked at once more as a
//! whole, and what can be said by its name is.

use super::kernel::{KernelError, find};
use super::linux::Release;
use super::{Compression, Image, bzimage, elf};
use lg_abi::boot::GUEST_MAGIC;

/// How much of a file is looked at.
const LOOKED_AT: usize = 64 << 20;

/// Below this, no kernel is mapped.
const LOWEST_OFFSET: u32 = 0x4000_0000;

/// The release of Linux that an image is, if it is one and says so.
#[must_use]
pub fn release(image: &Image) -> Option<Release> {
    let bytes = image.read(0, LOOKED_AT).ok()?;
    if bzimage::recognise(&bytes) {
        Setup::of(&bytes).release
    } else {
        Release::of_kernel(&bytes)
    }
}

/// The first physical address above a kernel, as far as its file tells: a
/// bzImage does not, and is taken to be half the size that it unpacks to.
#[must_use]
pub fn kernel_end(image: &Image) -> Option<u64> {
    let head = image.read(0, bzimage::HEAD).ok()?;
    if bzimage::recognise(&head) {
        return Some((1 << 20) + 2 * image.len().ok()?);
    }
    elf::end(image)
}

/// The `error` for which `image` was refused, or what explains it better.
pub(super) fn explain(image: &Image, error: KernelError) -> KernelError {
    if let KernelError::Io(_) | KernelError::WrongMachine(_) = error {
        return error;
    }
    let Ok(bytes) = image.read(0, LOOKED_AT) else {
        return error;
    };
    let better = if elf::recognise(&bytes) {
        of_elf(image, &bytes)
    } else if bzimage::recognise(&bytes) {
        of_bzimage(&bytes, &error)
    } else {
        None
    };
    better.unwrap_or(error)
}

fn of_elf(image: &Image, bytes: &[u8]) -> Option<KernelError> {
    let lowest = elf::lowest(image);
    if find(bytes, GUEST_MAGIC).is_some() {
        let (virtual_, physical) = lowest?;
        let same = virtual_ == physical && virtual_ >= LOWEST_OFFSET;
        return same.then_some(KernelError::PhysicalIsVirtual(virtual_));
    }
    if let Some(release) = Release::of_kernel(bytes) {
        return of_release(release);
    }
    let (virtual_, physical) = lowest?;
    let program = virtual_ == physical && virtual_ < LOWEST_OFFSET;
    program.then_some(KernelError::Program)
}

fn of_release(release: Release) -> Option<KernelError> {
    if release.is_ours() {
        None
    } else if release.is_later_generation() {
        Some(KernelError::LaterGeneration(release))
    } else {
        Some(KernelError::OtherRelease(release))
    }
}

fn of_bzimage(bytes: &[u8], error: &KernelError) -> Option<KernelError> {
    let setup = Setup::of(bytes);
    if setup.is_for_64_bits {
        let name = setup.release.map(|release| release.to_string());
        let name = name.unwrap_or_else(|| "of an unknown release".into());
        return Some(KernelError::SixtyFourBits(name));
    }
    if let Some(other) = setup.release.and_then(of_release) {
        return Some(other);
    }
    match (error, setup.packed) {
        (KernelError::NoGzip, Some(packed)) if packed != Compression::Gzip => {
            Some(KernelError::PackedBy(packed))
        }
        _ => None,
    }
}

/// What the setup header of a bzImage tells.
struct Setup {
    release: Option<Release>,
    is_for_64_bits: bool,
    packed: Option<Compression>,
}

impl Setup {
    fn of(file: &[u8]) -> Self {
        let half = |at: usize| {
            let bytes = file.get(at..at + 2)?;
            Some(u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let version = half(0x206).unwrap_or(0);
        // Where the text with the release is, from behind the boot sector on.
        let text = half(0x20E).filter(|&at| at != 0).and_then(|at| {
            let text = file.get(usize::from(at) + 0x200..)?;
            Release::parse(text)
        });
        // Since protocol 2.12 the header says whether there is a 64-bit entry.
        let flags = half(0x236).filter(|_| version >= 0x20C).unwrap_or(0);
        // Since protocol 2.08 it says where the packed kernel is.
        let payload = || {
            let sectors = usize::from(*file.get(0x1F1)?);
            let bytes = file.get(0x248..0x24C)?.try_into().ok()?;
            let at = usize::try_from(u32::from_le_bytes(bytes)).ok()?;
            let code = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
            Compression::of(file.get(code.checked_add(at)?..)?)
        };
        let packed = match version {
            0x208.. => payload(),
            _ => Compression::anywhere_in(file),
        };
        Self {
            release: text,
            is_for_64_bits: flags & 1 != 0,
            packed,
        }
    }
}
