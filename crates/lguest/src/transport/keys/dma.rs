//! The list of sections, `struct lguest_dma`: read, checked, and ended.
//!
//! A Guest fills a list in before it sends it or binds it. The list is copied
//! once, and each of its sections must lie inside one page that exists
//! ([`lg_abi::dma::Dma::checked`]). A Guest with a bad section is killed.

use crate::memory::{BadAddress, GuestMemory, Region, Section, SectionsIn};
use lg_abi::dma::{BadSection, Dma, LGUEST_MAX_DMA_SECTIONS};
use std::sync::atomic::{Ordering, fence};

/// A bad list. Its Guest is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDma {
    /// The list itself is not in memory.
    #[error("bad dma: {0}")]
    List(#[from] BadAddress),
    /// One of its sections is not inside one page.
    #[error("bad dma section {0}")]
    Section(#[from] BadSection),
}

/// The sections of a list, checked, in the memory that they were checked for.
pub struct DmaSections<'m> {
    region: &'m Region,
    list: [Section; LGUEST_MAX_DMA_SECTIONS],
    count: usize,
}

impl<'m> DmaSections<'m> {
    /// Copies the list at `addr` out of `region`, and checks it.
    ///
    /// # Errors
    ///
    /// [`BadDma`].
    pub fn read(region: &'m Region, addr: u32) -> Result<Self, BadDma> {
        let dma: Dma = region.object(addr)?;
        let mut list = [Section::default(); LGUEST_MAX_DMA_SECTIONS];
        let mut count = 0;
        for section in dma.checked(region.limit()) {
            let (addr, len) = section?;
            list[count] = Section::new(region, addr, len)?;
            count += 1;
        }
        Ok(Self {
            region,
            list,
            count,
        })
    }

    /// The sections.
    #[must_use]
    pub fn list(&self) -> &[Section] {
        &self.list[..self.count]
    }

    /// The sections, with their memory.
    #[must_use]
    pub fn sections(&self) -> SectionsIn<'_> {
        SectionsIn {
            region: self.region,
            list: self.list(),
        }
    }
}

/// The word `used_len` of the list at `addr`, freshly read; 0 is free.
///
/// # Errors
///
/// [`BadAddress`] if there is no such word.
pub fn used_len(region: &Region, addr: u32) -> Result<u32, BadAddress> {
    fence(Ordering::SeqCst);
    region.word(addr)
}

/// Ends a transfer by a list of our own Guest: `bytes` were moved by the list
/// at `addr`.
///
/// # Errors
///
/// [`BadAddress`] if there is no such word.
pub fn answer(
    memory: &GuestMemory,
    addr: u32,
    bytes: u32,
) -> Result<(), BadAddress> {
    set_used_len(memory.region(), addr, bytes)?;
    memory.note(&[memory.section(addr, 4)?]);
    Ok(())
}

/// Ends a transfer: `bytes` were moved by the list at `addr`. The bytes are
/// visible before `used_len` is.
///
/// # Errors
///
/// [`BadAddress`] if there is no such word.
pub fn set_used_len(
    region: &Region,
    addr: u32,
    bytes: u32,
) -> Result<(), BadAddress> {
    fence(Ordering::SeqCst);
    region.set_word(addr, bytes)
}

#[cfg(test)]
mod tests;
