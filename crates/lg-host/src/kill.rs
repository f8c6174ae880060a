//! Every reason for which the Host ends a Guest.
//!
//! A Guest never checks whether a hypercall worked. So a call that makes no
//! sense ends the Guest, and the Launcher prints why. A [`Kill`] goes up by `?`
//! to the run loop, and nothing is done on behalf of the Guest after it. A
//! golden file lists all texts.

use core::fmt;
use lg_abi::gen1;
use lg_wire::mailbox::reason;

/// Why a Guest has to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// It named physical memory that it does not have.
    BadAddress {
        /// First byte.
        addr: u32,
        /// Bytes.
        len: u32,
    },
    /// It named a virtual address that its own tables do not map, where the
    /// Host has to read or write on its behalf.
    BadVirtualAddress(u32),
    /// A page-table entry with flags or a frame that cannot be.
    BadPageTableEntry(u32),
    /// A page-directory entry with flags or a frame that cannot be.
    BadPageDirectoryEntry(u32),
    /// An entry of 8 bytes, of any table, whose high word is not 0.
    BadHighWord {
        /// Its low word.
        low: u32,
        /// Its high word.
        high: u32,
    },
    /// A trap for which it has no handler.
    UnhandledTrap {
        /// The vector.
        vector: u8,
        /// Where it happened.
        eip: u32,
        /// The error code, or for a page fault the address.
        detail: u32,
    },
    /// A hypercall that does not exist.
    BadHypercall(u32),
    /// A hypercall before LGUEST_INIT.
    HypercallTooEarly(u32),
    /// LGUEST_INIT, once more.
    InitialisedTwice,
    /// LOAD_GDT with too many entries.
    TooManyGdtEntries(u32),
    /// LOAD_IDT_ENTRY with a gate that is neither interrupt nor trap.
    BadGateType(u32),
    /// SET_STACK with a segment of the wrong privilege.
    BadStackSegment(u32),
    /// SET_STACK with too many pages.
    BadStackPages(u32),
    /// LGUEST_INIT of a kernel that maps physical address 0 elsewhere than its
    /// image says.
    BadKernelAddress(u32),
    /// LGUEST_INIT with a vector for system calls that is not 0x80.
    BadSystemCallVector(u32),
    /// A DMA key that is not a multiple of 4.
    UnalignedKey(u32),
    /// It touched the Switcher's part of the address space.
    TouchedSwitcher {
        /// The address.
        va: u32,
        /// Where from.
        eip: u32,
    },
    /// The kernel's code ran in 64-bit mode.
    LongMode,
    /// A page that is mapped as it should be keeps faulting.
    FaultLoop {
        /// The address.
        va: u32,
        /// Where from.
        eip: u32,
    },
    /// The machine has no room for more mappings.
    OutOfMappings,
    /// The machine cannot start another view process.
    NoView,
    /// The Launcher ended the conversation.
    LauncherGone,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadAddress { addr, len } => {
                write!(f, "bad physical address {addr:#x} (length {len})")
            }
            Self::BadVirtualAddress(va) => {
                write!(f, "bad virtual address {va:#x}")
            }
            Self::BadPageTableEntry(pte) => {
                write!(f, "bad page table entry {pte:#x}")
            }
            Self::BadPageDirectoryEntry(pde) => {
                write!(f, "bad page directory entry {pde:#x}")
            }
            Self::BadHighWord { low, high } => write!(
                f,
                "bad page table entry {high:#x}{low:08x}: no bit above bit 31 \
                 may be set"
            ),
            Self::UnhandledTrap {
                vector,
                eip,
                detail,
            } => {
                write!(f, "unhandled trap {vector} at {eip:#x} ({detail:#x})")
            }
            Self::BadHypercall(nr) => write!(f, "bad hypercall {nr}"),
            Self::HypercallTooEarly(nr) => {
                match gen1::INTERFACE.name(nr) {
                    Some(call) => write!(f, "hypercall {}", call.text())?,
                    None => write!(f, "hypercall {nr}")?,
                }
                f.write_str(" before LGUEST_INIT")
            }
            Self::InitialisedTwice => f.write_str("LGUEST_INIT a second time"),
            Self::TooManyGdtEntries(n) => {
                write!(f, "too many GDT entries: {n}")
            }
            Self::BadGateType(kind) => write!(f, "bad IDT gate type {kind:#x}"),
            Self::BadStackSegment(ss) => {
                write!(f, "bad stack segment {ss:#x}")
            }
            Self::BadStackPages(n) => write!(f, "bad stack pages {n}"),
            Self::BadKernelAddress(va) => write!(
                f,
                "kernel address {va:#x} is not the one in the kernel's image"
            ),
            Self::BadSystemCallVector(vector) => {
                write!(f, "vector {vector:#x} for system calls is not 0x80")
            }
            Self::UnalignedKey(key) => {
                write!(f, "DMA key {key:#x} is not a multiple of 4")
            }
            Self::TouchedSwitcher { va, eip } => {
                write!(f, "touched the switcher at {va:#x} from {eip:#x}")
            }
            Self::LongMode => f.write_str("kernel code ran in 64-bit mode"),
            Self::FaultLoop { va, eip } => {
                write!(f, "page {va:#x} keeps faulting at {eip:#x}")
            }
            Self::OutOfMappings => f.write_str(reason::OUT_OF_MAPPINGS),
            Self::NoView => f.write_str(reason::NO_VIEW),
            Self::LauncherGone => f.write_str("the launcher has gone"),
        }
    }
}

impl core::error::Error for Kill {}

impl Kill {
    /// The address of memory that was the reason, if it was one.
    #[must_use]
    pub const fn address(&self) -> Option<u32> {
        /// The vector of page faults.
        const PAGE_FAULT: u8 = 14;
        match *self {
            Self::BadVirtualAddress(va)
            | Self::TouchedSwitcher { va, .. }
            | Self::FaultLoop { va, .. }
            | Self::UnhandledTrap {
                vector: PAGE_FAULT,
                detail: va,
                ..
            } => Some(va),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kill;
    use std::string::String;

    const GOLDEN: &str = include_str!("kill/messages.txt");

    /// Another reason after each, so that the compiler misses a new one here.
    fn after(kill: Kill) -> Option<Kill> {
        let (va, eip) = (0xC000_1234, 0xC010_0000);
        Some(match kill {
            Kill::BadAddress { .. } => Kill::BadVirtualAddress(va),
            Kill::BadVirtualAddress(_) => Kill::BadPageTableEntry(0x9FFF_F067),
            Kill::BadPageTableEntry(_) => {
                Kill::BadPageDirectoryEntry(0x0000_20E7)
            }
            Kill::BadPageDirectoryEntry(_) => Kill::BadHighWord {
                low: 0x0000_2067,
                high: 0x8000_0000,
            },
            Kill::BadHighWord { .. } => Kill::UnhandledTrap {
                vector: 6,
                eip,
                detail: 0,
            },
            Kill::UnhandledTrap { .. } => Kill::BadHypercall(11),
            Kill::BadHypercall(_) => Kill::HypercallTooEarly(10),
            Kill::HypercallTooEarly(10) => Kill::HypercallTooEarly(99),
            Kill::HypercallTooEarly(_) => Kill::InitialisedTwice,
            Kill::InitialisedTwice => Kill::TooManyGdtEntries(33),
            Kill::TooManyGdtEntries(_) => Kill::BadGateType(0x5),
            Kill::BadGateType(_) => Kill::BadStackSegment(0x68),
            Kill::BadStackSegment(_) => Kill::BadStackPages(3),
            Kill::BadStackPages(_) => Kill::BadKernelAddress(0x8000_0000),
            Kill::BadKernelAddress(_) => Kill::BadSystemCallVector(0x40),
            Kill::BadSystemCallVector(_) => Kill::UnalignedKey(0x1002),
            Kill::UnalignedKey(_) => Kill::TouchedSwitcher {
                va: 0xFFC0_0000,
                eip,
            },
            Kill::TouchedSwitcher { .. } => Kill::LongMode,
            Kill::LongMode => Kill::FaultLoop { va, eip },
            Kill::FaultLoop { .. } => Kill::OutOfMappings,
            Kill::OutOfMappings => Kill::NoView,
            Kill::NoView => Kill::LauncherGone,
            Kill::LauncherGone => return None,
        })
    }

    #[test]
    fn every_message_is_as_it_was_written_down() {
        let first = Kill::BadAddress {
            addr: 0x0040_0000,
            len: 4096,
        };
        let mut all = String::new();
        let mut next = Some(first);
        while let Some(kill) = next {
            all += &std::format!("{kill}\n");
            next = after(kill);
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let file =
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/kill/messages.txt");
            std::fs::write(file, &all).unwrap();
            return;
        }
        assert_eq!(all, GOLDEN, "if that is meant: UPDATE_EXPECT=1");
    }
}
