//! Sudden Death: every reason for which the Host ends a Guest.
//!
//! A Guest never checks whether a hypercall worked, so a call that makes no
//! sense is not answered: the Guest dies, and a person reads why. A [`Kill`]
//! travels up by `?` to whoever runs the Guest; nothing is done on behalf of a
//! Guest after it. The texts are golden: a test lists them all.

use core::fmt;
use lg_abi::hypercall::Hypercall;

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
            Self::UnhandledTrap {
                vector,
                eip,
                detail,
            } => {
                write!(f, "unhandled trap {vector} at {eip:#x} ({detail:#x})")
            }
            Self::BadHypercall(nr) => write!(f, "bad hypercall {nr}"),
            Self::HypercallTooEarly(nr) => {
                match Hypercall::from_number(nr) {
                    Some(call) => write!(f, "hypercall {call}")?,
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
            Self::OutOfMappings => f.write_str(
                "the machine has no room for more mappings: \
                 raise vm.max_map_count, or give it memory",
            ),
            Self::NoView => f.write_str(
                "the host cannot start another process for the guest",
            ),
            Self::LauncherGone => f.write_str("the launcher has gone"),
        }
    }
}

impl core::error::Error for Kill {}
