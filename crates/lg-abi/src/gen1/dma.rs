//! How a Guest moves data: SEND_DMA and BIND_DMA, by keys.
//!
//! A Guest that wants input binds an array of [`Dma`]s to a key; a send to that
//! key fills the first one whose `used_len` is zero. A key is a physical
//! address, by convention inside the device's page. The Host compares the
//! *memory* at that address: two Guests that share a page share its keys
//! (header, "I/O is organized by keys").

use crate::page::PAGE_SIZE;
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Arrays of [`Dma`] that a Guest may have bound at a time.
pub const LGUEST_MAX_DMA: usize = 32;

/// Sections in one [`Dma`].
pub const LGUEST_MAX_DMA_SECTIONS: usize = 16;

/// The key of the console, both ways.
pub const LGUEST_CONSOLE_DMA_KEY: u32 = 0;

/// A key is a multiple of this.
pub const KEY_ALIGN: u32 = 4;

/// `struct lguest_dma`: a buffer in up to sixteen pieces.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Dma {
    /// 0 = free to be used; the Host writes the bytes transferred.
    pub used_len: u32,
    /// Physical address of each section.
    pub addr: [u32; LGUEST_MAX_DMA_SECTIONS],
    /// Bytes in each section; a zero ends the list.
    pub len: [u16; LGUEST_MAX_DMA_SECTIONS],
}

impl Dma {
    /// Bytes of the struct in the Guest's memory.
    pub const SIZE: u32 = 100;

    /// The sections that are in use: (physical address, bytes), not checked.
    pub fn sections(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        self.addr
            .iter()
            .copied()
            .zip(self.len.iter().copied())
            .take_while(|&(_, len)| len != 0)
    }

    /// The sections that are in use, each checked: it must lie inside one page
    /// of a memory of `limit` bytes. (Physical address, bytes).
    pub fn checked(
        &self,
        limit: u32,
    ) -> impl Iterator<Item = Result<(u32, u32), BadSection>> + '_ {
        self.sections().map(move |(addr, len)| {
            let bytes = u32::from(len);
            let in_page = addr % PAGE_SIZE + bytes <= PAGE_SIZE;
            match addr.checked_add(bytes) {
                Some(end) if in_page && end <= limit => Ok((addr, bytes)),
                _ => Err(BadSection { addr, len, limit }),
            }
        })
    }
}

/// A section that is not inside one page of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSection {
    /// Its physical address.
    pub addr: u32,
    /// Its bytes.
    pub len: u16,
    /// Bytes of the memory.
    pub limit: u32,
}

impl fmt::Display for BadSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, len, limit } = self;
        write!(
            f,
            "{addr:#x}+{len:#x}: it must lie inside one page below {limit:#x}"
        )
    }
}

impl core::error::Error for BadSection {}

const _: () = {
    assert!(size_of::<Dma>() == Dma::SIZE as usize);
    assert!(core::mem::offset_of!(Dma, addr) == 4);
    assert!(core::mem::offset_of!(Dma, len) == 68);
};

/// The third argument of BIND_DMA: how many buffers, and which interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindCount {
    /// `lguest_dma`s in the array.
    pub count: u32,
    /// The interrupt to raise; 0 = unbind.
    pub irq: u8,
}

impl BindCount {
    /// As it stands in ecx.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        Self {
            count: word >> 8,
            irq: word.to_le_bytes()[0],
        }
    }

    /// As it is put in ecx.
    #[must_use]
    pub const fn word(self) -> u32 {
        self.count << 8 | self.irq as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_end_at_the_first_empty_one() {
        let mut dma = Dma::default();
        (dma.addr[0], dma.len[0]) = (0x1000, 10);
        (dma.addr[1], dma.len[1]) = (0x2000, 20);
        (dma.addr[3], dma.len[3]) = (0x3000, 30);
        let found: [(u32, u16); 2] = {
            let mut it = dma.sections();
            [it.next().unwrap(), it.next().unwrap()]
        };
        assert_eq!(found, [(0x1000, 10), (0x2000, 20)]);
        assert_eq!(dma.sections().count(), 2);
    }

    #[test]
    fn a_full_list_needs_no_terminator() {
        let dma = Dma {
            len: [1; 16],
            ..Dma::default()
        };
        assert_eq!(dma.sections().count(), LGUEST_MAX_DMA_SECTIONS);
    }

    #[test]
    fn a_section_may_end_with_its_page_but_not_cross_it() {
        let limit = 8 * PAGE_SIZE;
        let addresses = [2, PAGE_SIZE, limit - PAGE_SIZE, limit, 1 << 31]
            .into_iter()
            .flat_map(|at| at - 2..=at + 2)
            .chain(u32::MAX - 4..=u32::MAX);
        let lengths = [3, 0x7FFF, 4096].into_iter().flat_map(|n| n - 2..=n + 2);
        for addr in addresses {
            for len in lengths.clone().chain([u16::MAX]) {
                let mut dma = Dma::default();
                (dma.addr[0], dma.len[0]) = (addr, len);
                let (at, bytes) = (u64::from(addr), u64::from(len));
                let page = u64::from(PAGE_SIZE);
                let good =
                    at % page + bytes <= page && at + bytes <= u64::from(limit);
                let found = dma.checked(limit).next().unwrap();
                let expected = match good {
                    true => Ok((addr, u32::from(len))),
                    false => Err(BadSection { addr, len, limit }),
                };
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_bind_count_survives_its_register() {
        let bind = BindCount { count: 8, irq: 3 };
        assert_eq!(BindCount::from_word(bind.word()), bind);
        assert_eq!(bind.word(), 0x803);
    }
}
