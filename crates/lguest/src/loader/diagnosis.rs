//! Explains why a kernel cannot be loaded.
//!
//! A check finds the first mistake, and often that is not the one that matters:
//! a kernel that cannot be a Guest also has other segments, and moving them
//! would not help. So a refused file is examined once more as a whole, and the
//! message names what it is.

use super::error::KernelError;
use super::image::LOOKED_AT;
use super::linux::Release;
use super::search::find;
use super::setup::{self, Setup};
use super::{Compression, Image, elf};
use lg_abi::boot::GUEST_MAGIC;

/// Below this, no kernel is mapped.
const LOWEST_OFFSET: u32 = 0x4000_0000;

/// The release of Linux in an image, if it has one.
#[must_use]
pub fn release(image: &Image) -> Option<Release> {
    let bytes = image.read(0, LOOKED_AT).ok()?;
    if setup::recognise(&bytes) {
        Setup::of(&bytes).release
    } else {
        Release::of_kernel(&bytes)
    }
}

/// The first physical address above a kernel. A bzImage does not say it, so it
/// is estimated: unpacked, it has twice the size.
#[must_use]
pub fn kernel_end(image: &Image) -> Option<u64> {
    let head = image.read(0, setup::HEAD).ok()?;
    if setup::recognise(&head) {
        return Some((1 << 20) + 2 * image.len().ok()?);
    }
    elf::end(image)
}

/// The `error` for which `image` was refused, or a better explanation.
pub(super) fn explain(image: &Image, error: KernelError) -> KernelError {
    if let KernelError::Io(_)
    | KernelError::WrongMachine(_)
    | KernelError::TooLow(_)
    | KernelError::Pae(_) = error
    {
        return error;
    }
    let Ok(bytes) = image.read(0, LOOKED_AT) else {
        return error;
    };
    let better = if elf::recognise(&bytes) {
        of_elf(image, &bytes)
    } else if setup::recognise(&bytes) {
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
    } else if release.interface().is_some() {
        Some(KernelError::NoGuestSupport(release))
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
    if let Some(other) = setup.release.clone().and_then(of_release) {
        return Some(other);
    }
    match (error, setup.packed_by(bytes)) {
        (KernelError::NoGzip, Some(packed)) if packed != Compression::Gzip => {
            Some(KernelError::PackedBy(packed))
        }
        _ => None,
    }
}
