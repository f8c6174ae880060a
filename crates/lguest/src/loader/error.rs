//! Why a Guest cannot be loaded.
//!
//! An error names the file, what is wrong with it, and the cure.

use super::compression::Compression;
use super::fit::Demand;
use super::linux::Release;
use super::page_offset;
use crate::memory::MAX_RAM;
use lg_abi::boot::COMMAND_LINE_MAX;
use std::io;

/// A Guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An error of the kernel's file.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An error of the initrd's file.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The page tables or the command line do not fit.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// A kernel cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither format.
    #[error(
        "it is neither an i386 ELF executable nor a bzImage: give the vmlinux \
         or bzImage of an lguest kernel"
    )]
    UnknownFormat,
    /// An ELF file, but not for this machine.
    #[error("it is an ELF file for {0}: lguest runs 32-bit x86 (i386) kernels")]
    WrongMachine(String),
    /// An ELF file, but a library, an object file or the like.
    #[error(
        "it is an ELF file that cannot be loaded ({0}): give a statically \
         linked executable such as vmlinux"
    )]
    NotLoadable(&'static str),
    /// The file is shorter than it says.
    #[error(
        "it is cut short: the file ends before what its headers promise; \
         copy it again"
    )]
    Truncated,
    /// A Linux whose guests run here, built without guest support.
    #[error(
        "it is {0}, and it was built without lguest guest support: build it \
         with CONFIG_LGUEST_GUEST"
    )]
    NoGuestSupport(Release),
    /// A Linux whose guests run here, but not with PAE.
    #[error(
        "it is {0}, and it was built with PAE, which guests have only since \
         Linux 2.6.31: build it without CONFIG_X86_PAE"
    )]
    Pae(Release),
    /// A Linux that cannot be a guest of lguest.
    #[error(
        "it is {0}, which has no lguest: this one runs guests of Linux 2.6.23 \
         to 4.13: build one of these with CONFIG_LGUEST_GUEST"
    )]
    OtherRelease(Release),
    /// A bzImage for another machine.
    #[error(
        "it is a bzImage for x86-64 ({0}): lguest runs 32-bit x86 (i386) \
         kernels, of Linux 2.6.23 to 4.13: build one of these with \
         CONFIG_LGUEST_GUEST"
    )]
    SixtyFourBits(String),
    /// An ELF file that is a program for Linux.
    #[error(
        "it is an ordinary program and no kernel: give the vmlinux or bzImage \
         of an lguest kernel"
    )]
    Program,
    /// A bzImage of Linux 2.6.25 or earlier that is not packed by gzip.
    #[error(
        "the kernel in this bzImage is packed by {0}, and only gzip can be \
         unpacked: give its vmlinux"
    )]
    PackedBy(Compression),
    /// Linked without physical addresses.
    #[error(
        "its physical addresses are its virtual ones ({0:#x}): link it with \
         physical addresses from 0 on (AT in the linker script), or change \
         them: `objcopy --change-section-lma '*-{offset:#x}' IMAGE`",
        offset = page_offset_below(*.0)
    )]
    PhysicalIsVirtual(u32),
    /// It does not fit into any memory.
    #[error(
        "it ends at {0} MB of memory, and with its page tables that does not \
         fit into the {max} MB that a guest may have: link it lower",
        max = MAX_RAM >> 20
    )]
    TooHigh(u64),
    /// A bzImage whose payload begins with no known mark.
    #[error(
        "the kernel in this bzImage is packed in a way that is not known \
         here: give its vmlinux"
    )]
    UnknownPacking,
    /// A bzImage whose payload cannot be unpacked.
    #[error(
        "the kernel in this bzImage is packed by {0}, and the packed bytes \
         are damaged: copy the file again"
    )]
    Damaged(Compression),
    /// A bzImage without a gzip stream that can be unpacked.
    #[error(
        "no gzip stream that can be unpacked is in this bzImage: build the \
         kernel with gzip compression, or give its vmlinux"
    )]
    NoGzip,
    /// A bzImage whose PAGE_OFFSET cannot be found.
    #[error(
        "its addresses do not show where this bzImage must be mapped: give its \
         vmlinux"
    )]
    NoPageOffset,
    /// Physical memory cannot be mapped at its PAGE_OFFSET.
    #[error(
        "it needs physical memory mapped at {0:#x}: that must be a multiple of \
         4 MiB, and neither 0 nor in the topmost 4 MiB"
    )]
    BadPageOffset(u32),
    /// Not a Guest of ours.
    #[error(
        "it has no GenuineLguest mark: build the kernel with lguest Guest \
         support (CONFIG_LGUEST_GUEST)"
    )]
    NoMagic,
    /// It overlaps the boot parameters.
    #[error(
        "it must be loaded at {0:#x}: below 0x2000, and for Linux 2.6.24 and \
         later below 0x100000, are the boot parameters"
    )]
    TooLow(u32),
    /// It does not fit.
    #[error("it needs at least {needed_mb} MB of memory: give it more")]
    TooLittleMemory {
        /// Megabytes that are enough.
        needed_mb: u64,
    },
    /// It fits, but its initrd does not.
    #[error(transparent)]
    Initrd(InitrdError),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl KernelError {
    /// The error for a kernel that does not fit into a Guest's memory.
    pub(super) fn does_not_fit(demand: Demand) -> Self {
        if let Some(needed_mb) = demand.least_mb() {
            return Self::TooLittleMemory { needed_mb };
        }
        let alone = Demand {
            initrd: 0,
            ..demand
        };
        match alone.least_mb() {
            Some(_) => Self::Initrd(InitrdError::too_large(demand)),
            None => Self::TooHigh(demand.kernel_end.div_ceil(1 << 20)),
        }
    }
}

/// The usual PAGE_OFFSET of a kernel whose lowest virtual address is this.
fn page_offset_below(address: u32) -> u32 {
    let usual = page_offset::CONVENTIONAL.into_iter();
    usual.filter(|&offset| offset <= address).max().unwrap_or(0)
}

/// An initrd cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// It does not fit between the kernel and the top of RAM.
    #[error(
        "it does not fit beside the kernel: kernel and initrd need at least \
         {needed_mb} MB of memory; give more"
    )]
    TooLittleMemory {
        /// Megabytes that are enough.
        needed_mb: u64,
    },
    /// It is empty.
    #[error("it is empty: leave it out, or give another one")]
    Empty,
    /// It does not fit into any amount of memory.
    #[error(
        "it has {mb} MB, and beside this kernel, which maps memory from \
         {page_offset:#x} on, no more than {most_mb} MB fit, whatever the \
         memory: make it smaller"
    )]
    TooLarge {
        /// Its megabytes.
        mb: u64,
        /// The most megabytes that fit.
        most_mb: u64,
        /// The virtual address of physical address 0.
        page_offset: u32,
    },
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It became shorter while it was read.
    #[error("it became shorter while it was read")]
    Shrunk,
}

impl InitrdError {
    /// The error for an initrd that does not fit into any amount of memory.
    pub(super) fn too_large(demand: Demand) -> Self {
        Self::TooLarge {
            mb: demand.initrd.div_ceil(1 << 20),
            most_mb: demand.most_initrd_mb(),
            page_offset: demand.page_offset,
        }
    }
}

/// The rest does not fit around kernel and initrd.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No room for the page tables.
    #[error(
        "kernel and first page tables need at least {needed_mb} MB of memory: \
         give more"
    )]
    TooLittleMemory {
        /// Megabytes that are enough.
        needed_mb: u64,
    },
    /// No room for the page tables in any amount of memory.
    #[error(
        "the kernel ends at {0} MB of memory, and with its page tables that \
         does not fit into what a guest may have: link it lower"
    )]
    TooHigh(u64),
    /// The command line is longer than its page.
    #[error(
        "the kernel's command line has {0} bytes: give at most {max}",
        max = COMMAND_LINE_MAX - 1
    )]
    CommandLineTooLong(usize),
    /// A NUL would end the command line early.
    #[error("the kernel's command line contains a NUL byte")]
    CommandLineNul,
}
