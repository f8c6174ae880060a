//! Every interface that Guests may have, each with a number.
//!
//! The Launcher finds out from a Guest's image which interface it has, and tells
//! the Host its number.

use crate::interface::Interface;
use crate::{gen1, gen2};

/// The number of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Known {
    /// Linux 2.6.23 ([`gen1::INTERFACE`]).
    #[default]
    Linux2_6_23 = 0,
    /// Linux 3.1 to 3.19 ([`gen2::LINUX_3_1`]).
    Linux3_1 = 1,
}

impl Known {
    /// The interface with number `nr`. Any other number is that of 2007.
    #[must_use]
    #[inline]
    pub const fn by_number(nr: u32) -> &'static Interface {
        match nr {
            1 => gen2::LINUX_3_1,
            _ => const { &gen1::INTERFACE },
        }
    }
}
