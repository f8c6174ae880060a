//! The Guest's memory as the Host sees it: a window, checked at every look.
//!
//! The Launcher maps all of the Guest's physical memory at one place in every
//! view. The Guest changes it at any time, and so do other views and the
//! Launcher. So a value is copied out once and then used, and nothing here hands
//! out a reference.

#![expect(unsafe_code, reason = "the one place that touches Guest memory")]

use crate::address::{GuestPhys, as_word};
use crate::kill::Kill;
use core::sync::atomic::{AtomicU32, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Access to the Guest's physical memory.
///
/// # Invariants
///
/// 1. `base .. base + limit` is readable and writable for as long as the
///    value exists, and nothing in it is borrowed by Rust code.
pub struct Memory {
    base: *mut u8,
    limit: u32,
}

impl Memory {
    /// Memory of `limit` bytes that begins at `base`.
    ///
    /// # Safety
    ///
    /// The caller vouches for invariant 1.
    #[must_use]
    pub const unsafe fn new(base: *mut u8, limit: u32) -> Self {
        Self { base, limit }
    }

    /// One more than the last physical address.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Checks that `len` bytes from `addr` exist.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`] if they do not.
    pub fn check(&self, addr: GuestPhys, len: u32) -> Result<(), Kill> {
        match addr.0.checked_add(len) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(Kill::BadAddress { addr: addr.0, len }),
        }
    }

    /// The byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn byte(&self, addr: GuestPhys) -> Result<u8, Kill> {
        let at = self.pointer(addr, 1)?;
        // SAFETY: `pointer` has checked the range (invariant 1).
        Ok(unsafe { at.read() })
    }

    /// The word at `addr`, which may be unaligned.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn word(&self, addr: GuestPhys) -> Result<u32, Kill> {
        let at = self.pointer(addr, 4)?.cast::<u32>();
        // SAFETY: `pointer` has checked the range (invariant 1). On x86 a
        // read of 4 bytes is one access, aligned or not.
        Ok(unsafe { at.read_unaligned() })
    }

    /// Stores a word at `addr`.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn set_word(&self, addr: GuestPhys, word: u32) -> Result<(), Kill> {
        let at = self.pointer(addr, 4)?.cast::<u32>();
        // SAFETY: as in `word`.
        unsafe { at.write_unaligned(word) };
        Ok(())
    }

    /// The `N` words from `addr` on, which may be unaligned.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn words<const N: usize>(
        &self,
        addr: GuestPhys,
    ) -> Result<[u32; N], Kill> {
        let at = self.pointer(addr, length_of::<N>())?.cast::<u32>();
        // SAFETY: as in `word`.
        let read = |n| unsafe { at.wrapping_add(n).read_unaligned() };
        Ok(core::array::from_fn(read))
    }

    /// Stores `N` words from `addr` on.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn set_words<const N: usize>(
        &self,
        addr: GuestPhys,
        words: [u32; N],
    ) -> Result<(), Kill> {
        let at = self.pointer(addr, length_of::<N>())?.cast::<u32>();
        for (n, word) in words.into_iter().enumerate() {
            // SAFETY: as in `word`.
            unsafe { at.wrapping_add(n).write_unaligned(word) };
        }
        Ok(())
    }

    /// Copies `bytes.len()` bytes out.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn read(&self, addr: GuestPhys, bytes: &mut [u8]) -> Result<(), Kill> {
        let from = self.pointer(addr, length(bytes))?;
        // SAFETY: the range is checked, and the slice is not Guest memory.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` in.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn write(&self, addr: GuestPhys, bytes: &[u8]) -> Result<(), Kill> {
        let to = self.pointer(addr, length(bytes))?;
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies a value out.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn object<T>(&self, addr: GuestPhys) -> Result<T, Kill>
    where
        T: FromBytes + IntoBytes,
    {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a value in.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn set_object<T>(&self, addr: GuestPhys, value: &T) -> Result<(), Kill>
    where
        T: IntoBytes + Immutable,
    {
        self.write(addr, value.as_bytes())
    }

    /// Whether `words` double words from `addr` are those from `other_addr` in
    /// another memory. Looks at all of them: they are nearly always equal.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn is_same(
        &self,
        addr: GuestPhys,
        other: &Self,
        other_addr: GuestPhys,
        words: u32,
    ) -> Result<bool, Kill> {
        let a = self.pointer(addr, words * 8)?.cast::<u64>();
        let b = other.pointer(other_addr, words * 8)?.cast::<u64>();
        let mut differences = 0;
        for i in 0..words as usize {
            // SAFETY: `pointer` has checked both ranges (invariant 1).
            let a = unsafe { a.wrapping_add(i).read_unaligned() };
            // SAFETY: as above.
            let b = unsafe { b.wrapping_add(i).read_unaligned() };
            differences |= a ^ b;
        }
        Ok(differences == 0)
    }

    /// Copies `len` bytes from `addr` to `other_addr` of another memory.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn copy_to(
        &self,
        addr: GuestPhys,
        other: &Self,
        other_addr: GuestPhys,
        len: u32,
    ) -> Result<(), Kill> {
        let from = self.pointer(addr, len)?;
        let to = other.pointer(other_addr, len)?;
        // SAFETY: `pointer` has checked both ranges (invariant 1), and this
        // copies overlapping ranges, too.
        unsafe { from.copy_to(to, len as usize) };
        Ok(())
    }

    /// The word at `addr`, which others write at any time, in one order for all
    /// processes.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`], also where it is not aligned.
    pub fn load(&self, addr: GuestPhys) -> Result<u32, Kill> {
        self.atomic(addr).map(|word| word.load(Ordering::SeqCst))
    }

    /// Writes such a word.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn store(&self, addr: GuestPhys, value: u32) -> Result<(), Kill> {
        self.atomic(addr)
            .map(|word| word.store(value, Ordering::SeqCst))
    }

    /// Writes such a word, and answers what it was.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn swap(&self, addr: GuestPhys, value: u32) -> Result<u32, Kill> {
        self.atomic(addr)
            .map(|word| word.swap(value, Ordering::SeqCst))
    }

    fn atomic(&self, addr: GuestPhys) -> Result<&AtomicU32, Kill> {
        let word = self.pointer(addr, 4)?.cast::<u32>();
        if !word.is_aligned() {
            return Err(Kill::BadAddress {
                addr: addr.0,
                len: 4,
            });
        }
        // SAFETY: `pointer` has checked the range (invariant 1), it is
        // aligned, and an atomic may be shared with other processes.
        Ok(unsafe { AtomicU32::from_ptr(word) })
    }

    fn pointer(&self, addr: GuestPhys, len: u32) -> Result<*mut u8, Kill> {
        self.check(addr, len)?;
        Ok(self.base.wrapping_add(addr.0 as usize))
    }
}

/// Bytes of `N` words.
const fn length_of<const N: usize>() -> u32 {
    as_word(N) * 4
}

/// The length of a slice; one that is too long for a Guest fails any check.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::address::GuestPhys;
    use crate::kill::Kill;
    use crate::testing::Ram;

    #[test]
    fn the_last_word_is_there_and_the_next_is_not() {
        let ram = Ram::new(0x2000);
        let m = ram.memory();
        m.set_word(GuestPhys(0x1FFC), 7).unwrap();
        assert_eq!(m.word(GuestPhys(0x1FFC)), Ok(7));
        for addr in [0x1FFD, 0x2000, u32::MAX, u32::MAX - 3] {
            assert_eq!(
                m.word(GuestPhys(addr)),
                Err(Kill::BadAddress { addr, len: 4 })
            );
        }
    }

    #[test]
    fn every_pair_of_boundaries_is_checked_as_wide_numbers_say() {
        let limit = 0x3000;
        let ram = Ram::new(limit);
        let m = ram.memory();
        let around = |at: u32| (0..9).map(move |n| at.wrapping_add(n) - 4);
        let numbers: std::vec::Vec<u32> = [4, 0x1000, limit, 1 << 31]
            .into_iter()
            .flat_map(around)
            .chain(u32::MAX - 8..=u32::MAX)
            .collect();
        for &addr in &numbers {
            for &len in &numbers {
                let fits =
                    u128::from(addr) + u128::from(len) <= u128::from(limit);
                let checked = m.check(GuestPhys(addr), len);
                assert_eq!(checked.is_ok(), fits, "{addr:#x} {len:#x}");
                assert!(fits || checked == Err(Kill::BadAddress { addr, len }));
            }
        }
    }

    #[test]
    fn words_may_be_unaligned() {
        let ram = Ram::new(0x1000);
        let m = ram.memory();
        m.write(GuestPhys(1), &[1, 2, 3, 4]).unwrap();
        assert_eq!(m.word(GuestPhys(1)), Ok(0x0403_0201));
    }
}
