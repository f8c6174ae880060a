//! A kernel of either format, and the mark that says where it starts.
//!
//! Neither format tells where an lguest Guest begins: the entry point of the
//! ELF header is the one for real hardware. The kernel carries the string
//! `GenuineLguest`, and the code for us is right behind it.

use super::boot::InitrdError;
use super::fit::Demand;
use super::linux::Release;
use super::{Compression, Image, bzimage, elf, setup};
use crate::memory::{GuestMemory, MAX_RAM, Section};
use lg_abi::boot::GUEST_MAGIC;
use lg_abi::known::Known;
use lg_abi::page::{DIRECTORY_SPAN, SWITCHER_ADDR};
use std::io;

/// A kernel that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The virtual address of physical address 0.
    pub page_offset: u32,
    /// Where it begins.
    pub start: Start,
    /// The first physical address above the kernel.
    pub end: u32,
}

/// Where a kernel begins, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With paging on, at a virtual address: Linux 2.6.23.
    Paged(u32),
    /// Before there are page tables, at a physical address: Linux since 3.1.
    Linear(u32, Known),
}

/// What a format finds out about a kernel while it loads it.
pub(super) struct Placed {
    /// As in [`Kernel`].
    pub(super) page_offset: u32,
    /// Where bytes of the file are now, in the file's order.
    pub(super) parts: Vec<Section>,
    /// As in [`Kernel`].
    pub(super) end: u32,
    /// The entry point in its header, if it has one.
    pub(super) entry: Option<u32>,
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
    /// A Linux of another generation, or without lguest at all.
    #[error(
        "it is {0}, which has another interface of lguest: this one runs \
         guests of Linux 2.6.23 and 3.1 to 3.19: build one of these with \
         CONFIG_LGUEST_GUEST"
    )]
    LaterGeneration(Release),
    /// A Linux whose guests run here, built without that.
    #[error(
        "it is {0}, and it was built without lguest guest support: build it \
         with CONFIG_LGUEST_GUEST"
    )]
    NoGuestSupport(Release),
    /// A Linux that never was a guest of lguest.
    #[error(
        "it is {0}, which has no lguest: this one runs guests of Linux 2.6.23 \
         and 3.1 to 3.19: build one of these with CONFIG_LGUEST_GUEST"
    )]
    OtherRelease(Release),
    /// A bzImage for another machine.
    #[error(
        "it is a bzImage for x86-64 ({0}): lguest runs 32-bit x86 (i386) \
         kernels, of Linux 2.6.23 and 3.1 to 3.19: build one of these with \
         CONFIG_LGUEST_GUEST"
    )]
    SixtyFourBits(String),
    /// An ELF file that is for running in a Linux.
    #[error(
        "it is an ordinary program and no kernel: give the vmlinux or bzImage \
         of an lguest kernel"
    )]
    Program,
    /// A bzImage that is packed by something else.
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
    /// A bzImage that we cannot unpack.
    #[error(
        "no gzip stream that can be unpacked is in this bzImage: build the \
         kernel with gzip compression, or give its vmlinux"
    )]
    NoGzip,
    /// A bzImage whose virtual addresses do not say where they begin.
    #[error(
        "its addresses do not tell where this bzImage wants to be mapped: \
         give its vmlinux"
    )]
    NoPageOffset,
    /// Virtual minus physical addresses is nothing that can be mapped.
    #[error(
        "it wants physical memory mapped at {0:#x}: that must be a multiple \
         of 4 MiB, and neither 0 nor in the topmost 4 MiB"
    )]
    BadPageOffset(u32),
    /// Not a Guest of ours.
    #[error(
        "it has no GenuineLguest mark: build the kernel with lguest Guest \
         support (CONFIG_LGUEST_GUEST)"
    )]
    NoMagic,
    /// Part of it belongs where the boot parameters go.
    #[error(
        "it wants to be loaded at {0:#x}: below 0x2000, and for Linux 3.1 and \
         later below 0x100000, are the boot parameters"
    )]
    TooLow(u32),
    /// It does not fit.
    #[error("it needs at least {needed_mb} MB of memory: give it more")]
    TooLittleMemory {
        /// Megabytes that would do.
        needed_mb: u64,
    },
    /// It would fit, but for its initrd.
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
    let usual = super::page_offset::CONVENTIONAL.into_iter();
    usual.filter(|&offset| offset <= address).max().unwrap_or(0)
}

/// Loads a kernel of either format, beside which an initrd of so many bytes is
/// to fit.
pub(super) fn load(
    memory: &GuestMemory,
    image: &Image,
    initrd: u64,
) -> Result<Kernel, KernelError> {
    let head = image.read(0, setup::HEAD)?;
    let placed = if elf::recognise(&head) {
        elf::load(memory, image, initrd)?
    } else if setup::recognise(&head) {
        bzimage::load(memory, image, initrd)?
    } else {
        return Err(KernelError::UnknownFormat);
    };
    let offset = placed.page_offset;
    if offset == 0 || offset % DIRECTORY_SPAN != 0 || offset >= SWITCHER_ADDR {
        return Err(KernelError::BadPageOffset(offset));
    }
    let mark = placed
        .parts
        .iter()
        .find_map(|&part| find_mark(memory, part));
    let start = match (mark, placed.entry) {
        (Some(after_mark), _) => after_mark
            .checked_add(offset)
            .map(Start::Paged)
            .ok_or(KernelError::BadPageOffset(offset))?,
        (None, Some(entry)) => linear_start(memory, &placed, entry)?,
        (None, None) => return Err(KernelError::NoMagic),
    };
    Ok(Kernel {
        page_offset: offset,
        start,
        end: placed.end,
    })
}

/// How a kernel without the mark of 2007 starts, if it is a guest of lguest.
fn linear_start(
    memory: &GuestMemory,
    placed: &Placed,
    entry: u32,
) -> Result<Start, KernelError> {
    let lowest = placed.parts.iter().map(|part| part.addr()).min();
    if let Some(lowest) = lowest.filter(|&lowest| lowest < LOWEST_LINEAR) {
        return Err(KernelError::TooLow(lowest));
    }
    let mut bytes = Vec::new();
    for part in &placed.parts {
        let at = bytes.len();
        bytes.resize(at + part.len() as usize, 0);
        memory
            .read(part.addr(), &mut bytes[at..])
            .map_err(|_| KernelError::Truncated)?;
    }
    let release = Release::of_kernel(&bytes);
    let known = release.and_then(|release| release.interface());
    match known {
        Some(known) if find(&bytes, GUEST_NAME).is_some() => {
            Ok(Start::Linear(entry, known))
        }
        _ => Err(KernelError::NoMagic),
    }
}

/// Below are the boot parameters of a kernel that starts without page tables.
const LOWEST_LINEAR: u32 = 0x10_0000;

/// The name that the clock of a Guest has, in every Linux that may be one.
pub(super) const GUEST_NAME: &[u8] = b"\0lguest\0";

/// How much of the Guest's memory is searched at a time.
const CHUNK: usize = 64 << 10;

/// The physical address of the byte after the first mark in `part`.
fn find_mark(memory: &GuestMemory, part: Section) -> Option<u32> {
    let mut chunk = vec![0; CHUNK];
    let (mut at, mut left) = (part.addr(), part.len() as usize);
    while left >= GUEST_MAGIC.len() {
        let len = chunk.len().min(left);
        let chunk = &mut chunk[..len];
        memory.read(at, chunk).ok()?;
        if let Some(found) = find(chunk, GUEST_MAGIC) {
            let after = u32::try_from(found + GUEST_MAGIC.len()).ok()?;
            return Some(at + after);
        }
        // A mark may lie across two chunks.
        let step = len - (GUEST_MAGIC.len() - 1);
        at += u32::try_from(step).ok()?;
        left -= step;
    }
    None
}

/// The first place of `needle` in `haystack`, by Horspool's method: looking
/// at the last byte first, it may mostly skip as many bytes as the needle
/// has. A debug kernel is megabytes, and we have milliseconds.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let last = needle.len().checked_sub(1)?;
    let mut skip = [needle.len(); 256];
    for (i, &byte) in needle[..last].iter().enumerate() {
        skip[usize::from(byte)] = last - i;
    }
    let mut at = 0;
    while let Some(window) = haystack.get(at..at + needle.len()) {
        if window == needle {
            return Some(at);
        }
        at += skip[usize::from(window[last])];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mark_across_two_chunks_is_found() {
        let memory = GuestMemory::new(1 << 20, 0).unwrap();
        for shift in 0..GUEST_MAGIC.len() {
            let addr = 0x2000 + u32::try_from(CHUNK - shift).unwrap();
            memory.write(addr, GUEST_MAGIC).unwrap();
            let part = memory.section(0x2000, 0x40000).unwrap();
            assert_eq!(find_mark(&memory, part), Some(addr + 13));
            memory.write(addr, &[0; 13]).unwrap();
            assert_eq!(find_mark(&memory, part), None);
        }
    }

    #[test]
    fn a_mark_that_a_part_does_not_hold_whole_is_not_found() {
        let memory = GuestMemory::new(1 << 20, 0).unwrap();
        memory.write(0x3000, GUEST_MAGIC).unwrap();
        let short = memory.section(0x2000, 0x1000 + 12).unwrap();
        assert_eq!(find_mark(&memory, short), None);
        let enough = memory.section(0x2000, 0x1000 + 13).unwrap();
        assert_eq!(find_mark(&memory, enough), Some(0x300D));
        let empty = memory.section(0x2000, 0).unwrap();
        assert_eq!(find_mark(&memory, empty), None);
    }

    proptest! {
        #[test]
        fn find_agrees_with_the_obvious_search(
            haystack in proptest::collection::vec(0_u8..3, 0..80),
            needle in proptest::collection::vec(0_u8..3, 1..5),
        ) {
            let obvious = haystack
                .windows(needle.len())
                .position(|window| window == needle);
            prop_assert_eq!(find(&haystack, &needle), obvious);
        }
    }
}
