//! A region: memory of a known size that others write, too.
//!
//! An address is an offset from the beginning: for the Guest's memory, a
//! physical address. Each access checks it first, and a range that is not
//! inside the region whole is an error that names it.

#![expect(unsafe_code, reason = "memory shared with hostile processes")]

use crate::access;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A range that is not inside a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress {
    /// The first byte of the range.
    pub addr: u32,
    /// Bytes in the range.
    pub len: u32,
    /// Bytes in the region.
    pub limit: u32,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, len, limit } = self;
        write!(
            f,
            "bad physical address {addr:#x}+{len:#x} (the limit is {limit:#x})"
        )
    }
}

impl core::error::Error for BadAddress {}

/// Memory that other processes may change at any moment.
///
/// # Invariants
///
/// 1. `base .. base + limit` is mapped readable and writable for as long as
///    the value exists, and no Rust value lies there but the atomic integers
///    that this module lends.
/// 2. `base` is aligned to 4 bytes.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    limit: u32,
}

// SAFETY: the memory belongs to no thread (invariant 1), and every access to
// it is one that may race with any other.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The region of `limit` bytes that begins at `base`.
    ///
    /// # Safety
    ///
    /// The caller vouches for the invariants.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, limit: u32) -> Self {
        Self { base, limit }
    }

    /// Bytes.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Checks that `len` bytes from `addr` are in the region.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of them are.
    pub const fn check(&self, addr: u32, len: u32) -> Result<(), BadAddress> {
        match addr.checked_add(len) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(BadAddress {
                addr,
                len,
                limit: self.limit,
            }),
        }
    }

    /// Where `len` bytes from `addr` are mapped: for system calls that read
    /// or write them, or map something else there.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], as in all that follows, if not all of them are in the
    /// region.
    pub fn pointer(&self, addr: u32, len: u32) -> Result<*mut u8, BadAddress> {
        self.check(addr, len)?;
        Ok(self.base.as_ptr().wrapping_add(addr as usize))
    }

    /// The byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn byte(&self, addr: u32) -> Result<u8, BadAddress> {
        let at = self.pointer(addr, 1)?;
        // SAFETY: `pointer` has checked the range (invariant 1).
        Ok(unsafe { access::load_8(at) })
    }

    /// The word at `addr`, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn word(&self, addr: u32) -> Result<u32, BadAddress> {
        let at = self.pointer(addr, 4)?;
        // SAFETY: `pointer` has checked the range (invariant 1).
        Ok(unsafe { access::load_32(at) })
    }

    /// Stores a word at `addr`, which need not be aligned. On this processor
    /// no other party sees it before what was stored earlier.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn set_word(&self, addr: u32, word: u32) -> Result<(), BadAddress> {
        let at = self.pointer(addr, 4)?;
        // SAFETY: `pointer` has checked the range (invariant 1).
        unsafe { access::store_32(at, word) };
        Ok(())
    }

    /// The `N` words from `addr` on, which need not be aligned.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn words<const N: usize>(
        &self,
        addr: u32,
    ) -> Result<[u32; N], BadAddress> {
        let at = self.pointer(addr, words_length(N))?;
        // SAFETY: `pointer` has checked the range (invariant 1).
        let word = |n| unsafe { access::load_32(at.wrapping_add(n * 4)) };
        Ok(core::array::from_fn(word))
    }

    /// Stores `N` words from `addr` on.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn set_words<const N: usize>(
        &self,
        addr: u32,
        words: [u32; N],
    ) -> Result<(), BadAddress> {
        let at = self.pointer(addr, words_length(N))?;
        for (n, word) in words.into_iter().enumerate() {
            // SAFETY: as in `words`.
            unsafe { access::store_32(at.wrapping_add(n * 4), word) };
        }
        Ok(())
    }

    /// Copies `bytes.len()` bytes out of the region.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn read(&self, addr: u32, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let from = self.pointer(addr, length(bytes))?;
        // SAFETY: `pointer` has checked the range (invariant 1), and the
        // slice is ours.
        unsafe { access::copy(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` into the region.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn write(&self, addr: u32, bytes: &[u8]) -> Result<(), BadAddress> {
        let to = self.pointer(addr, length(bytes))?;
        // SAFETY: as in `read`.
        unsafe { access::copy(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies a value out of the region.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn object<T>(&self, addr: u32) -> Result<T, BadAddress>
    where
        T: FromBytes + IntoBytes,
    {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a value into the region.
    ///
    /// # Errors
    ///
    /// [`BadAddress`].
    #[inline]
    pub fn set_object<T>(&self, addr: u32, value: &T) -> Result<(), BadAddress>
    where
        T: IntoBytes + Immutable,
    {
        self.write(addr, value.as_bytes())
    }

    /// Copies `len` bytes from `addr` to `to_addr` in another region. Where
    /// both are the same memory and overlap, what stands in the copy is not
    /// defined.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], for either range.
    #[inline]
    pub fn copy_to(
        &self,
        addr: u32,
        to: &Self,
        to_addr: u32,
        len: u32,
    ) -> Result<(), BadAddress> {
        let from = self.pointer(addr, len)?;
        let to = to.pointer(to_addr, len)?;
        // SAFETY: `pointer` has checked both ranges (invariant 1).
        unsafe { access::copy(from, to, len as usize) };
        Ok(())
    }

    /// Whether `len` bytes from `addr` are those from `other_addr` in another
    /// region. Looks at all of them: callers expect them to be equal.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], for either range, and where `len` is not a multiple of
    /// [`Self::COMPARED`].
    pub fn is_same(
        &self,
        addr: u32,
        other: &Self,
        other_addr: u32,
        len: u32,
    ) -> Result<bool, BadAddress> {
        let a = self.pointer(addr, len)?;
        let b = other.pointer(other_addr, len)?;
        if !len.is_multiple_of(Self::COMPARED) {
            let limit = self.limit;
            return Err(BadAddress { addr, len, limit });
        }
        // SAFETY: `pointer` has checked both ranges (invariant 1), and they
        // are whole blocks.
        Ok(unsafe { access::is_same(a, b, len as usize) })
    }

    /// [`Self::is_same`] compares blocks of so many bytes.
    pub const COMPARED: u32 = 64;

    /// The word at `addr`, which others read and write as an atomic integer.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], also where it is not aligned.
    #[inline]
    pub fn atomic(&self, addr: u32) -> Result<&AtomicU32, BadAddress> {
        let word = self.aligned(addr, 4)?.cast::<u32>();
        // SAFETY: the range is checked (invariant 1) and aligned, and atomic
        // integers may be shared with any party that maps the memory.
        Ok(unsafe { AtomicU32::from_ptr(word) })
    }

    /// The half-word at `addr`, likewise.
    ///
    /// # Errors
    ///
    /// As [`Self::atomic`].
    pub fn atomic_half(&self, addr: u32) -> Result<&AtomicU16, BadAddress> {
        let half = self.aligned(addr, 2)?.cast::<u16>();
        // SAFETY: as in `atomic`.
        Ok(unsafe { AtomicU16::from_ptr(half) })
    }

    /// [`Self::pointer`], aligned to `len`, which is not more than 4
    /// (invariant 2).
    #[inline]
    fn aligned(&self, addr: u32, len: u32) -> Result<*mut u8, BadAddress> {
        let at = self.pointer(addr, len)?;
        if !addr.is_multiple_of(len) {
            let limit = self.limit;
            return Err(BadAddress { addr, len, limit });
        }
        Ok(at)
    }
}

const _: () = assert!(Region::COMPARED as usize == access::BLOCK);

/// Bytes of `words` words; too many for a Guest fail any check.
fn words_length(words: usize) -> u32 {
    u32::try_from(words.saturating_mul(4)).unwrap_or(u32::MAX)
}

/// The length of a slice; one that is too long for a Guest fails any check.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
