//! Segments: the selectors that a Guest uses, and its descriptors.
//!
//! A Guest kernel runs at privilege level 1, its user programs at 3. Real
//! segment registers never hold these selectors (everything runs at level 3 of
//! the real machine), but every trap frame does.

/// Privilege level of the Guest's kernel.
pub const GUEST_PL: u32 = 1;

/// Privilege level of the Guest's user programs.
pub const USER_PL: u32 = 3;

/// Descriptors in the Guest's GDT.
pub const GDT_ENTRIES: u32 = 32;

/// GDT index of the first of three thread-local segments.
pub const GDT_TLS_MIN: u32 = 6;

/// How many thread-local segments there are.
pub const GDT_TLS_ENTRIES: u32 = 3;

/// GDT index of the kernel's code segment.
pub const GDT_KERNEL_CS: u32 = 12;

/// GDT index of the kernel's data segment.
pub const GDT_KERNEL_DS: u32 = 13;

/// GDT index of the user code segment.
pub const GDT_USER_CS: u32 = 14;

/// GDT index of the user data segment.
pub const GDT_USER_DS: u32 = 15;

/// GDT index of the first segment of a kernel's own: the per-cpu data, which a
/// kernel for several processors reaches by fs.
pub const GDT_PER_CPU: u32 = 27;

/// GDT index of the second one: the stack protector's canary, reached by gs.
pub const GDT_STACK_CANARY: u32 = 28;

/// GDT indices that the Host keeps to itself: the Switcher's two, the task
/// state segment and the double-fault one. LOAD_GDT ignores them.
pub const GDT_IGNORED: [u32; 4] = [10, 11, 16, 31];

/// The kernel's code selector.
pub const KERNEL_CS: u16 = 0x61;

/// The kernel's data and stack selector.
pub const KERNEL_DS: u16 = 0x69;

/// The user code selector.
pub const USER_CS: u16 = 0x73;

/// The user data and stack selector. The kernel runs on it, too.
pub const USER_DS: u16 = 0x7B;

/// One segment descriptor, low word first (Intel SDM volume 3, "Segment
/// Descriptors").
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Descriptor {
    /// Limit 0..15 and base 0..15.
    pub low: u32,
    /// Base, type, privilege, presence and limit, in the CPU's order.
    pub high: u32,
}

impl Descriptor {
    /// In `high`: the CPU has loaded this descriptor.
    pub const ACCESSED: u32 = 1 << 8;
    /// In `high`: data that may be written, or code that may be read.
    pub const WRITABLE: u32 = 1 << 9;
    /// In `high`: code that may be called from a lesser privilege, and then
    /// runs at that privilege.
    pub const CONFORMING: u32 = 1 << 10;
    /// In `high`: code, not data.
    pub const CODE: u32 = 1 << 11;
    /// In `high`: 32-bit code, or a stack with a 32-bit pointer.
    pub const BIG: u32 = 1 << 22;
    /// In `high`: code or data, not a system segment.
    pub const NOT_SYSTEM: u32 = 1 << 12;
    /// In `high`: how far the privilege level is shifted.
    pub const DPL_SHIFT: u32 = 13;
    /// In `high`: the descriptor may be used.
    pub const PRESENT: u32 = 1 << 15;

    /// A flat 4 GiB code segment at privilege level `dpl`.
    #[must_use]
    pub const fn flat_code(dpl: u32) -> Self {
        Self {
            low: 0x0000_FFFF,
            high: 0x00CF_9B00 | dpl << Self::DPL_SHIFT,
        }
    }

    /// A flat 4 GiB data segment at privilege level `dpl`.
    #[must_use]
    pub const fn flat_data(dpl: u32) -> Self {
        Self {
            low: 0x0000_FFFF,
            high: 0x00CF_9300 | dpl << Self::DPL_SHIFT,
        }
    }

    /// The address at which the segment begins.
    #[must_use]
    pub const fn base(self) -> u32 {
        self.low >> 16 | (self.high & 0xFF) << 16 | self.high & 0xFF00_0000
    }

    /// Its privilege level.
    #[must_use]
    pub const fn dpl(self) -> u32 {
        self.high >> Self::DPL_SHIFT & 3
    }

    /// Whether it may be used at all.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.high & Self::PRESENT != 0
    }

    /// Whether it is a code segment.
    #[must_use]
    pub const fn is_code(self) -> bool {
        let bits = Self::NOT_SYSTEM | Self::CODE;
        self.high & bits == bits
    }

    /// Whether it is a code segment that runs at its caller's privilege.
    #[must_use]
    pub const fn is_conforming(self) -> bool {
        self.is_code() && self.high & Self::CONFORMING != 0
    }

    /// Whether it is a data segment that may be written, as a stack must be.
    #[must_use]
    pub const fn is_writable_data(self) -> bool {
        let bits = Self::NOT_SYSTEM | Self::CODE | Self::WRITABLE;
        self.high & bits == Self::NOT_SYSTEM | Self::WRITABLE
    }

    /// Whether its code, or its stack pointer, has 32 bits.
    #[must_use]
    pub const fn is_32_bit(self) -> bool {
        self.high & Self::BIG != 0
    }
}

const _: () = assert!(size_of::<Descriptor>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_collected_from_its_three_places() {
        let d = Descriptor {
            low: 0x5678_FFFF,
            high: 0x12CF_F334,
        };
        assert_eq!(d.base(), 0x1234_5678);
        assert_eq!(d.dpl(), 3);
    }

    #[test]
    fn flat_segments_start_at_zero_with_the_level_asked_for() {
        assert_eq!(Descriptor::flat_code(1).base(), 0);
        assert_eq!(Descriptor::flat_data(1).dpl(), GUEST_PL);
    }
}
