//! What a Guest may ask of the Host: the one table of hypercalls.
//!
//! `int $0x1f` with the number in `eax`, arguments in `edx`, `ebx` and `ecx`,
//! and the result in `eax` where there is one. A call that makes no sense ends
//! the Guest with a reason, so a Guest never has to check for success. The
//! enum, its names and the numbers all come from the table at the end of this
//! file (docs/abi.md, section 4).

/// The vector of the hypercall trap.
pub const HYPERCALL_VECTOR: u8 = 0x1F;

/// The longest message that CRASH takes, its NUL included.
pub const CRASH_MESSAGE_MAX: u32 = 128;

/// The message with which a Guest that powers off cleanly calls CRASH.
pub const POWER_DOWN: &[u8] = b"Power down";

/// With this and a decimal number behind it, it names its exit status, too.
/// Ours, not the original's: to a Launcher that does not know it, it is a
/// CRASH like any other.
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
    /// The number: a [`Hypercall`], or nonsense.
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
    ($($(#[doc = $doc:literal])* $name:ident = $nr:literal $text:literal;)*) => {
        /// The number of a hypercall.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Hypercall {
            $($(#[doc = $doc])* $name = $nr,)*
        }

        impl Hypercall {
            /// Every call there is, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The call with number `nr`, or `None` for a number that means
            /// nothing (11 never existed).
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
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

hypercalls! {
    /// Nothing beyond running the ring.
    FlushAsync = 0 "FLUSH_ASYNC";
    /// edx = physical address of [`LguestData`](crate::shared::LguestData).
    /// Must come first, and only once.
    Init = 1 "LGUEST_INIT";
    /// edx = physical address of a message: the Guest ends.
    Crash = 2 "CRASH";
    /// edx = physical address, ebx = entries.
    LoadGdt = 3 "LOAD_GDT";
    /// edx = physical address of the page directory: switch to it.
    NewPgtable = 4 "NEW_PGTABLE";
    /// edx = 0: forget the user part of this page directory; 1: everything.
    FlushTlb = 5 "FLUSH_TLB";
    /// edx = vector, ebx = low word, ecx = high word of the gate.
    LoadIdtEntry = 6 "LOAD_IDT_ENTRY";
    /// edx = ss, ebx = esp, ecx = pages: the stack for traps from user mode.
    SetStack = 7 "SET_STACK";
    /// edx = 0 or 8: clear or set CR0.TS.
    Ts = 8 "TS";
    /// edx = nanoseconds from now, 0 = off: one-shot timer, interrupt 0.
    SetClockevent = 9 "SET_CLOCKEVENT";
    /// Stop until an interrupt is pending.
    Halt = 10 "HALT";
    /// edx = key, ebx = physical address of the array, ecx = count << 8 | irq;
    /// result 1 or 0.
    BindDma = 12 "BIND_DMA";
    /// edx = key, ebx = physical address of the [`Dma`](crate::dma::Dma).
    SendDma = 13 "SEND_DMA";
    /// edx = page directory, ebx = virtual address, ecx = new entry.
    SetPte = 14 "SET_PTE";
    /// edx = page directory, ebx = index.
    SetPmd = 15 "SET_PMD";
    /// edx = physical address of three descriptors.
    LoadTls = 16 "LOAD_TLS";
}

/// One more than the highest number: the size of a table indexed by number.
pub const HYPERCALL_LIMIT: usize = 17;

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
            assert!((call as usize) < HYPERCALL_LIMIT);
        }
        assert_eq!(Hypercall::ALL.len(), 16);
        assert_eq!(Hypercall::from_number(11), None);
        assert_eq!(Hypercall::from_number(17), None);
        assert_eq!(Hypercall::from_number(u32::MAX), None);
    }
}
