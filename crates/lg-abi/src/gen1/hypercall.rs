//! How a Guest of 2007 makes hypercalls: numbers and registers.
//!
//! The call is `int $0x1f` with the number in `eax` and arguments in `edx`,
//! `ebx` and `ecx`. Only BIND_DMA has a result, in `eax`. An invalid call ends
//! the Guest with a reason. The enum and the Host's table of numbers come from
//! one list in this file (docs/abi.md, section 4).

use crate::call::CallName;
use crate::interface::{NUMBERS, by_number};

/// The vector of the hypercall trap.
pub const HYPERCALL_VECTOR: u8 = 0x1F;

/// The longest message that CRASH takes, its NUL included.
pub const CRASH_MESSAGE_MAX: u32 = 128;

/// The message with which a Guest that powers off cleanly calls CRASH.
pub const POWER_DOWN: &[u8] = b"Power down";

/// The same with an exit status: a decimal number follows. The original treats
/// it as any other CRASH.
pub const POWER_DOWN_WITH_CODE: &[u8] = b"Power down with code ";

/// One call with its arguments, as it stands in the ring: 16 bytes.
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
pub struct RawCall {
    /// The number: a [`Hypercall`], or one that has no meaning.
    pub eax: u32,
    /// First argument.
    pub edx: u32,
    /// Second argument.
    pub ebx: u32,
    /// Third argument.
    pub ecx: u32,
}

const _: () = assert!(size_of::<RawCall>() == 16);

macro_rules! hypercalls {
    ($($(#[doc = $doc:literal])* $name:ident = $nr:literal;)*) => {
        /// The number of a hypercall.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Hypercall {
            $($(#[doc = $doc])* $name = $nr,)*
        }

        /// The call with each number.
        pub const CALLS: [Option<CallName>; NUMBERS] =
            by_number(&[$(($nr, CallName::$name),)*]);

        impl Hypercall {
            /// Every call, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The call with number `nr`, or `None` for a number that has no
            /// meaning (11 never existed).
            #[must_use]
            pub const fn from_number(nr: u32) -> Option<Self> {
                match nr {
                    $($nr => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name that the original gave it, without its prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => CallName::$name.text(),)*
                }
            }
        }
    };
}

hypercalls! {
    /// Nothing beyond running the ring.
    FlushAsync = 0;
    /// edx = physical address of [`LguestData`](super::shared::LguestData).
    /// Must come first, and only once.
    Init = 1;
    /// edx = physical address of a message: the Guest ends.
    Crash = 2;
    /// edx = physical address, ebx = entries.
    LoadGdt = 3;
    /// edx = physical address of the page directory: switch to it.
    NewPgtable = 4;
    /// edx = 0: forget the user part of this page directory; 1: everything.
    FlushTlb = 5;
    /// edx = vector, ebx = low word, ecx = high word of the gate.
    LoadIdtEntry = 6;
    /// edx = ss, ebx = esp, ecx = pages: the stack for traps from user mode.
    SetStack = 7;
    /// edx = 0 or 8: clear or set CR0.TS.
    Ts = 8;
    /// edx = nanoseconds from now, 0 = off: one-shot timer, interrupt 0.
    SetClockevent = 9;
    /// Stop until an interrupt is pending.
    Halt = 10;
    /// edx = key, ebx = physical address of the array, ecx = count << 8 | irq;
    /// result 1 or 0.
    BindDma = 12;
    /// edx = key, ebx = physical address of the [`Dma`](super::dma::Dma).
    SendDma = 13;
    /// edx = page directory, ebx = virtual address, ecx = new entry.
    SetPte = 14;
    /// edx = page directory, ebx = index.
    SetPmd = 15;
    /// edx = physical address of three descriptors.
    LoadTls = 16;
}

impl core::fmt::Display for Hypercall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_number_and_eleven_is_none() {
        for &call in Hypercall::ALL {
            assert_eq!(Hypercall::from_number(call as u32), Some(call));
        }
        assert_eq!(Hypercall::ALL.len(), 16);
        assert_eq!(Hypercall::from_number(11), None);
        assert_eq!(Hypercall::from_number(17), None);
        assert_eq!(Hypercall::from_number(u32::MAX), None);
    }
}
