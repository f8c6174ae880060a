//! What is mapped at one page, as the shadow record has it.
//!
//! A page that is mapped for reading is mostly a page of a file, and the next
//! program in this view is likely to have the same page at the same place. So
//! it is not unmapped but *hidden*: it has no rights any more. The machine
//! still has the mapping, and to show it again costs a quarter of what it costs
//! to map the page and touch it once more.

use crate::address::GuestPhys;
use crate::world::Access;
use lg_abi::page::{PAGE_SIZE, Pte};

/// In a [`ShadowPte`]. Most of the bits of a [`Pte`] have no meaning there.
const HIDDEN: u32 = Pte::USER;

/// What is mapped at a page: nothing, or a frame, read-only or writable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct ShadowPte(u32);

impl ShadowPte {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// What should be mapped for the Guest's entry `pte`.
    #[must_use]
    pub const fn wanted(pte: Pte) -> Self {
        if !pte.has(Pte::PRESENT | Pte::ACCESSED) {
            return Self::NONE;
        }
        let writable = if pte.has(Pte::WRITE | Pte::DIRTY) {
            Pte::WRITE
        } else {
            0
        };
        Self(pte.frame() | Pte::PRESENT | writable)
    }

    /// The page at `frame`, mapped for `access`.
    pub(super) const fn of(frame: GuestPhys, access: Access) -> Self {
        let writable = match access {
            Access::Write => Pte::WRITE,
            Access::Read => 0,
        };
        Self(frame.0 | Pte::PRESENT | writable)
    }

    /// The same rights to another page.
    #[must_use]
    pub const fn at(self, frame: GuestPhys) -> Self {
        Self(frame.0 | self.0 & (PAGE_SIZE - 1))
    }

    /// The physical address of what is mapped.
    #[must_use]
    pub const fn frame(self) -> GuestPhys {
        GuestPhys(Pte(self.0).frame())
    }

    /// What the mapping may be used for.
    #[must_use]
    pub const fn access(self) -> Access {
        if self.0 & Pte::WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        }
    }

    /// The same page, for reading.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self(self.0 & !Pte::WRITE)
    }

    /// Whether anything is mapped.
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0 & Pte::PRESENT != 0
    }

    /// The entry as a word; 0 if nothing is there, not even hidden.
    pub(super) const fn word(self) -> u32 {
        self.0
    }

    /// The same page, hidden.
    pub(super) const fn hidden(self) -> Self {
        Self(Pte(self.0).frame() | HIDDEN)
    }

    /// Whether there is a hidden page.
    #[must_use]
    pub const fn is_hidden(self) -> bool {
        self.0 & HIDDEN != 0
    }
}
