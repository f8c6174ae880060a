//! A program from its file, an ELF of the kind that `lg-user` makes.
//!
//! Each segment gets pages of its own, so that a page has the rights of one
//! segment. The file may come from anywhere: what is wrong in it is an error.

use super::{Process, STACK_MAX, STACK_TOP};
use crate::frame;
use crate::paging::{AddressSpace, OutOfMemory, USER_READ, USER_WRITE};
use elf::ElfBytes;
use elf::abi::{EM_386, ET_EXEC, PF_W, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use lg_abi::page::PAGE_SIZE;

/// Why a file cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// It is no program for this machine, or damaged.
    NoProgram,
    /// A segment lies where no program may be: at address 0, at the stack, or
    /// beyond.
    Address(u64),
    /// Two segments share the page at this address.
    Overlap(u32),
    /// There is no memory for it.
    OutOfMemory,
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoProgram => f.write_str("no ELF program for i386"),
            Self::Address(at) => write!(f, "a segment at {at:#x}"),
            Self::Overlap(at) => write!(f, "two segments in page {at:#x}"),
            Self::OutOfMemory => f.write_str("no memory for the program"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<OutOfMemory> for LoadError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<elf::ParseError> for LoadError {
    fn from(_: elf::ParseError) -> Self {
        Self::NoProgram
    }
}

/// Addresses that segments may have.
const ALLOWED: core::ops::Range<u32> = PAGE_SIZE..STACK_TOP - STACK_MAX;

impl Process {
    /// The program in the ELF file `image`, which is copied. It finds
    /// `argument` in ebx: `lg-user` gives it to the program's main function.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn load(image: &[u8], argument: u32) -> Result<Self, LoadError> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(image)?;
        let header = &file.ehdr;
        let kind = (header.class, header.e_machine, header.e_type);
        if kind != (Class::ELF32, EM_386, ET_EXEC) {
            return Err(LoadError::NoProgram);
        }
        let mut space = AddressSpace::new()?;
        let segments = file.segments().ok_or(LoadError::NoProgram)?;
        for segment in segments.iter().filter(|s| s.p_type == PT_LOAD) {
            map(&mut space, &segment, file.segment_data(&segment)?)?;
        }
        let entry = u32::try_from(header.e_entry);
        let entry = entry.map_err(|_| LoadError::NoProgram)?;
        Ok(Self::start(space, entry, argument)?)
    }
}

/// Maps a segment, and fills its pages with `bytes` and zeros.
fn map(
    space: &mut AddressSpace,
    segment: &ProgramHeader,
    bytes: &[u8],
) -> Result<(), LoadError> {
    let (start, end) = range(segment)?;
    let writable = segment.p_flags & PF_W != 0;
    let flags = if writable { USER_WRITE } else { USER_READ };
    let (mut at, mut rest) = (start, bytes);
    while at < end {
        let va = at & !(PAGE_SIZE - 1);
        if space.is_mapped(va) {
            return Err(LoadError::Overlap(va));
        }
        let mut page = frame::alloc_zeroed().ok_or(OutOfMemory)?;
        let room = &mut page.bytes()[(at - va) as usize..];
        let (now, later) = rest.split_at(rest.len().min(room.len()));
        room[..now.len()].copy_from_slice(now);
        space.map(va, page, flags)?;
        (at, rest) = (va + PAGE_SIZE, later);
    }
    Ok(())
}

/// Where a segment lies: start and end.
fn range(segment: &ProgramHeader) -> Result<(u32, u32), LoadError> {
    let wrong = LoadError::Address(segment.p_vaddr);
    if segment.p_filesz > segment.p_memsz {
        return Err(LoadError::NoProgram);
    }
    let end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or(wrong)?;
    let start = u32::try_from(segment.p_vaddr).map_err(|_| wrong)?;
    let end = u32::try_from(end).map_err(|_| wrong)?;
    let fits = start >= ALLOWED.start && end <= ALLOWED.end;
    if fits { Ok((start, end)) } else { Err(wrong) }
}
