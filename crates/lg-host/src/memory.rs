//! The Guest's memory as the Host sees it: by physical address.
//!
//! The Launcher maps all of the Guest's physical memory at one place in every
//! view. The Guest, other views and the Launcher change it at any time. So a
//! value is copied out once and then used ([`Region`]), and an address that
//! does not exist ends the Guest.

use crate::address::GuestPhys;
use crate::kill::Kill;
use core::sync::atomic::{AtomicU32, Ordering};
use lg_memory::BadAddress;
pub use lg_memory::Region;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Access to the Guest's physical memory.
pub struct Memory {
    region: Region,
    /// Where the addresses of devices on the PCI bus end, which begin where the
    /// memory does.
    devices: u32,
}

impl Memory {
    /// The memory in `region`, from physical address 0 on.
    #[must_use]
    pub fn new(region: Region) -> Self {
        let devices = region.limit();
        Self { region, devices }
    }

    /// The same memory, with addresses of devices behind it up to `end`, if
    /// that is behind it.
    #[must_use]
    pub fn with_devices_up_to(self, end: u32) -> Self {
        let devices = end.max(self.region.limit());
        Self { devices, ..self }
    }

    /// One more than the last address of a device on the PCI bus; the
    /// [limit](Self::limit) if there is no such bus.
    #[must_use]
    pub const fn device_limit(&self) -> u32 {
        self.devices
    }

    /// One more than the last physical address.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.region.limit()
    }

    /// Checks that `len` bytes from `addr` exist.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`] if they do not.
    pub fn check(&self, addr: GuestPhys, len: u32) -> Result<(), Kill> {
        self.region.check(addr.0, len).map_err(kill)
    }

    /// The byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn byte(&self, addr: GuestPhys) -> Result<u8, Kill> {
        self.region.byte(addr.0).map_err(kill)
    }

    /// The word at `addr`, which may be unaligned.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn word(&self, addr: GuestPhys) -> Result<u32, Kill> {
        self.region.word(addr.0).map_err(kill)
    }

    /// Stores a word at `addr`.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn set_word(&self, addr: GuestPhys, word: u32) -> Result<(), Kill> {
        self.region.set_word(addr.0, word).map_err(kill)
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
        self.region.words(addr.0).map_err(kill)
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
        self.region.set_words(addr.0, words).map_err(kill)
    }

    /// Copies `bytes.len()` bytes out.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn read(&self, addr: GuestPhys, bytes: &mut [u8]) -> Result<(), Kill> {
        self.region.read(addr.0, bytes).map_err(kill)
    }

    /// Copies `bytes` in.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn write(&self, addr: GuestPhys, bytes: &[u8]) -> Result<(), Kill> {
        self.region.write(addr.0, bytes).map_err(kill)
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
        self.region.object(addr.0).map_err(kill)
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
        self.region.set_object(addr.0, value).map_err(kill)
    }

    /// Whether `len` bytes from `addr`, a multiple of [`Region::COMPARED`],
    /// are those from `other_addr` in another memory.
    ///
    /// # Errors
    ///
    /// [`Kill::BadAddress`].
    pub fn is_same(
        &self,
        addr: GuestPhys,
        other: &Self,
        other_addr: GuestPhys,
        len: u32,
    ) -> Result<bool, Kill> {
        let same =
            self.region
                .is_same(addr.0, &other.region, other_addr.0, len);
        same.map_err(kill)
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
        let copied =
            self.region
                .copy_to(addr.0, &other.region, other_addr.0, len);
        copied.map_err(kill)
    }

    /// The word at `addr`, as an atomic integer: every process sees such reads
    /// and writes in one order.
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

    /// Writes such a word, and answers its former value.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn swap(&self, addr: GuestPhys, value: u32) -> Result<u32, Kill> {
        self.atomic(addr)
            .map(|word| word.swap(value, Ordering::SeqCst))
    }

    fn atomic(&self, addr: GuestPhys) -> Result<&AtomicU32, Kill> {
        self.region.atomic(addr.0).map_err(kill)
    }
}

/// A Guest that names memory which it does not have ends.
fn kill(bad: BadAddress) -> Kill {
    Kill::BadAddress {
        addr: bad.addr,
        len: bad.len,
    }
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
    fn words_may_be_unaligned() {
        let ram = Ram::new(0x1000);
        let m = ram.memory();
        m.write(GuestPhys(1), &[1, 2, 3, 4]).unwrap();
        assert_eq!(m.word(GuestPhys(1)), Ok(0x0403_0201));
    }
}
