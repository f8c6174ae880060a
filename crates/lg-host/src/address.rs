//! Two kinds of address that must never be mixed.
//!
//! Both are 32-bit numbers, and to use one for the other is an old mistake. So
//! they are two types, and the only way from one to the other is to walk the
//! Guest's page tables (`paging::walk`).

use core::fmt;
use lg_abi::page;

/// An address as the Guest's code uses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct GuestVirt(pub u32);

/// An address as the Guest's page tables use it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct GuestPhys(pub u32);

impl GuestVirt {
    /// The number of the page that it lies in.
    #[must_use]
    pub const fn page_number(self) -> u32 {
        self.0 >> page::PAGE_SHIFT
    }

    /// How far it lies into its page.
    #[must_use]
    pub const fn page_offset(self) -> u32 {
        self.0 & (page::PAGE_SIZE - 1)
    }

    /// The address `bytes` further on, round the end if need be.
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether it lies in the 4 MiB that belong to the Switcher.
    #[must_use]
    pub const fn is_switchers(self) -> bool {
        self.0 >= page::SWITCHER_ADDR
    }
}

impl GuestPhys {
    /// The address `bytes` further on, round the end if need be. Whether it
    /// exists is checked when it is used.
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// A size, a count or an index as a Guest's word. Nothing that a Guest has is
/// too large for one.
///
/// # Panics
///
/// If it is too large, which is a mistake of ours.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "asserted before")]
pub const fn as_word(n: usize) -> u32 {
    assert!(n <= u32::MAX as usize, "larger than a Guest");
    n as u32
}

impl fmt::Debug for GuestVirt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt {:#010x}", self.0)
    }
}

impl fmt::Debug for GuestPhys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#010x}", self.0)
    }
}
