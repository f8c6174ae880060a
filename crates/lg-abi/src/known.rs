//! Every interface that Guests may have, each with a number.
//!
//! The Launcher finds out from a Guest's image which interface it has, and
//! tells the Host its number.

use crate::interface::Interface;
use crate::{gen1, gen2, gen3};

/// The number of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Known {
    /// Linux 2.6.23 ([`gen1::INTERFACE`]).
    #[default]
    Linux2_6_23 = 0,
    /// Linux 3.1 to 3.19 ([`gen2::LINUX_3_1`]).
    Linux3_1 = 1,
    /// Linux 2.6.25 to 2.6.29 ([`gen2::LINUX_2_6_25`]).
    Linux2_6_25 = 2,
    /// Linux 2.6.30 ([`gen2::LINUX_2_6_30`]).
    Linux2_6_30 = 3,
    /// Linux 2.6.31 to 3.0 ([`gen2::LINUX_2_6_31`]).
    Linux2_6_31 = 4,
    /// Linux 2.6.24 ([`gen2::LINUX_2_6_24`]).
    Linux2_6_24 = 5,
    /// Linux 4.0 ([`gen3::LINUX_4_0`]).
    Linux4_0 = 6,
    /// Linux 4.1 to 4.13 ([`gen3::LINUX_4_1`]).
    Linux4_1 = 7,
}

impl Known {
    /// The interface with number `nr`. Unknown numbers give that of 2007.
    #[must_use]
    #[inline]
    pub const fn by_number(nr: u32) -> &'static Interface {
        const OF_2007: &Interface = &gen1::INTERFACE;
        const ALL: [&Interface; 8] = [
            OF_2007,
            gen2::LINUX_3_1,
            gen2::LINUX_2_6_25,
            gen2::LINUX_2_6_30,
            gen2::LINUX_2_6_31,
            gen2::LINUX_2_6_24,
            &gen3::LINUX_4_0,
            &gen3::LINUX_4_1,
        ];
        // The Host calls this at each entry. A `match` would become a jump
        // table, and its page would be one more that a Guest of 2007 needs.
        if nr == 0 || nr as usize >= ALL.len() {
            OF_2007
        } else {
            ALL[nr as usize]
        }
    }

    /// Whether its devices are on a PCI bus.
    #[must_use]
    pub const fn has_pci(self) -> bool {
        matches!(self, Self::Linux4_0 | Self::Linux4_1)
    }

    /// This interface.
    #[must_use]
    pub const fn interface(self) -> &'static Interface {
        Self::by_number(self as u32)
    }
}
