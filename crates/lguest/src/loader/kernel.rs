//! A kernel of either format, and where it starts.
//!
//! In a kernel of 2007 (Linux 2.6.23) the entry point of the ELF header is for
//! real hardware. The entry point for lguest is right after a mark in the
//! image, the string `GenuineLguest`. Since Linux 2.6.24 there is no mark, and
//! the entry point of the header is for lguest, too. The release and the name
//! of lguest's clock in the image show that such a kernel can be a Guest.

use super::error::KernelError;
use super::linux::Release;
use super::placed::{Kernel, Placed, Start};
use super::search::find;
use super::{Image, bzimage, elf, setup, vmcall};
use crate::memory::{GuestMemory, Section};
use lg_abi::boot::GUEST_MAGIC;
use lg_abi::page::{DIRECTORY_SPAN, Format, SWITCHER_ADDR};

/// Loads a kernel of either format. An initrd of so many bytes must fit beside
/// it.
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
    let (start, paging) = match (mark, placed.entry) {
        (Some(after_mark), _) => {
            let start = after_mark.checked_add(offset).map(Start::Paged);
            let start = start.ok_or(KernelError::BadPageOffset(offset))?;
            (start, Format::TwoLevels)
        }
        (None, Some(entry)) => later_start(memory, &placed, entry)?,
        (None, None) => return Err(KernelError::NoMagic),
    };
    if paging == Format::Pae && offset % (1 << Format::POINTER_SHIFT) != 0 {
        return Err(KernelError::BadPageOffset(offset));
    }
    Ok(Kernel {
        page_offset: offset,
        start,
        paging,
        end: placed.end,
    })
}

/// The start of a kernel without the mark of 2007, if it is a guest of lguest,
/// and the format of its page tables.
fn later_start(
    memory: &GuestMemory,
    placed: &Placed,
    entry: u32,
) -> Result<(Start, Format), KernelError> {
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
    let known = release.as_ref().and_then(Release::interface);
    match known {
        Some(known) if find(&bytes, GUEST_NAME).is_some() => {
            let paging = Release::paging_of(&bytes);
            if let Some(release) = release
                && paging == Format::Pae
                && !release.knows_pae()
            {
                return Err(KernelError::Pae(release));
            }
            if known.interface().vmcall {
                vmcall::replace(memory, &placed.parts, placed.end);
            }
            let start = match known.interface().layout.pgdir {
                Some(_) => Start::Identity(entry, known),
                None => Start::Linear(entry, known),
            };
            Ok((start, paging))
        }
        _ => Err(KernelError::NoMagic),
    }
}

/// Below are the boot parameters of a kernel without the mark.
const LOWEST_LINEAR: u32 = 0x10_0000;

/// The name of the clock in every Linux that can be a Guest.
pub(super) const GUEST_NAME: &[u8] = b"\0lguest\0";

/// How many bytes of the Guest's memory are searched at a time.
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
        // A mark may be in two chunks.
        let step = len - (GUEST_MAGIC.len() - 1);
        at += u32::try_from(step).ok()?;
        left -= step;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
