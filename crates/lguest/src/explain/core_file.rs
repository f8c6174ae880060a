//! `--core`: an ELF core of a Guest, which GDB opens.
//!
//! All of the Guest's memory is in the file once, with holes for what is zero.
//! It is read from the memory file: by the mapping, each page that the Guest
//! never touched would become resident. The segments lead from virtual
//! addresses there, as the Guest's tables do, so a page that is mapped twice is
//! in two segments. The registers are in a note, as in the core of a program.

use super::remains::Remains;
use lg_abi::page::{PAGE_SIZE, SWITCHER_ADDR};
use lg_wire::debug::Word;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The most segments. A kernel needs few, and programs a hundred each.
const SEGMENTS: usize = 8192;

/// How much memory is read at a time.
const PIECE: u32 = 64 << 10;

/// Bytes of the ELF header, and of a program header.
const HEADER: u32 = 52;
const ENTRY: u32 = 32;

/// Bytes of the registers' note: its header, its name, and `elf_prstatus`.
const STATUS: usize = 144;
const NOTE: u32 = 12 + 8 + 144;

/// Signals: how the core says that the Guest has ended.
const SIGABRT: u16 = 6;
const SIGSEGV: u16 = 11;

/// Memory that is mapped in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    virtual_: u32,
    physical: u32,
    length: u32,
}

/// Writes the core.
///
/// # Errors
///
/// The error of the kernel.
pub fn write(file: &File, remains: &Remains<'_>) -> io::Result<()> {
    let segments = segments(remains);
    let count = u32::try_from(segments.len() + 1).unwrap_or(u32::MAX);
    let headers = HEADER + count * ENTRY;
    let memory_at = (headers + NOTE).next_multiple_of(PAGE_SIZE);
    let mut head = header(u16::try_from(count).unwrap_or(u16::MAX));
    head.extend(entry(4, headers, [0, 0], NOTE, 0));
    for segment in &segments {
        let Segment {
            virtual_,
            physical,
            length,
        } = *segment;
        let at = memory_at.wrapping_add(physical);
        head.extend(entry(1, at, [virtual_, physical], length, PAGE_SIZE));
    }
    head.extend(note(remains));
    file.write_all_at(&head, 0)?;
    let ram = remains.memory.ram();
    file.set_len(u64::from(memory_at) + u64::from(ram))?;
    let mut bytes = vec![0; PIECE as usize];
    let mut at = 0;
    while at < ram
        && let Some(used) = remains.memory.next_used(at)?
    {
        at = used;
        let length = PIECE.min(ram - at);
        let piece = &mut bytes[..length as usize];
        let read = remains.memory.read_untouched(at, piece)?;
        let piece = &piece[..read];
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, u64::from(memory_at) + u64::from(at))?;
        }
        at += length;
    }
    Ok(())
}

/// What is mapped, in order. Without registers: the memory by its own
/// addresses.
fn segments(remains: &Remains<'_>) -> Vec<Segment> {
    let ram = remains.memory.ram();
    if remains.words().is_none() {
        return vec![Segment {
            virtual_: 0,
            physical: 0,
            length: ram,
        }];
    }
    let mut segments: Vec<Segment> = Vec::new();
    let last_level = remains.levels();
    let span = remains.paging.table_span();
    let mut va = 0;
    while va < SWITCHER_ADDR && segments.len() < SEGMENTS {
        let (steps, place) = remains.walk(va);
        let step = match place {
            Some(_) => PAGE_SIZE,
            // No table is there for this and the pages behind it.
            None if steps.len() < last_level => span - va % span,
            None => PAGE_SIZE,
        };
        let is_ram = |place: &u32| place.checked_add(PAGE_SIZE) <= Some(ram);
        if let Some(physical) = place.filter(is_ram).filter(|p| *p < ram) {
            match segments.last_mut() {
                Some(last)
                    if last.virtual_ + last.length == va
                        && last.physical + last.length == physical =>
                {
                    last.length += PAGE_SIZE;
                }
                _ => segments.push(Segment {
                    virtual_: va,
                    physical,
                    length: PAGE_SIZE,
                }),
            }
        }
        va = va.saturating_add(step);
    }
    segments
}

/// The ELF header (`Elf32_Ehdr`) of a core for the 80386.
fn header(count: u16) -> Vec<u8> {
    const CORE: u16 = 4;
    const I386: u16 = 3;
    let mut head = b"\x7FELF\x01\x01\x01".to_vec();
    head.resize(16, 0);
    for half in [CORE, I386] {
        head.extend(half.to_le_bytes());
    }
    // Version, entry, program headers, section headers, flags.
    for word in [1, 0, HEADER, 0, 0] {
        head.extend(word.to_le_bytes());
    }
    for half in [52, 32, count, 0, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    head
}

/// A program header (`Elf32_Phdr`), at these virtual and physical addresses.
fn entry(
    kind: u32,
    offset: u32,
    [virtual_, physical]: [u32; 2],
    length: u32,
    align: u32,
) -> Vec<u8> {
    const READ_WRITE_EXECUTE: u32 = 7;
    let words = [
        kind,
        offset,
        virtual_,
        physical,
        length,
        length,
        READ_WRITE_EXECUTE,
        align,
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The note with the registers (`NT_PRSTATUS` with `elf_prstatus` of i386).
fn note(remains: &Remains<'_>) -> Vec<u8> {
    const PRSTATUS: u32 = 1;
    /// Where the signal, the process and the registers are in it.
    const SIGNAL: usize = 12;
    const PROCESS: usize = 24;
    const REGISTERS: usize = 72;
    let mut note = Vec::new();
    for word in [5, 144, PRSTATUS] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"CORE\0\0\0\0");
    let mut status = [0; STATUS];
    let signal = match remains.last.address {
        Some(_) => SIGSEGV,
        None => SIGABRT,
    };
    status[0..2].copy_from_slice(&signal.to_le_bytes());
    status[SIGNAL..SIGNAL + 2].copy_from_slice(&signal.to_le_bytes());
    status[PROCESS..PROCESS + 4].copy_from_slice(&1_u32.to_le_bytes());
    let order = [
        Word::Ebx,
        Word::Ecx,
        Word::Edx,
        Word::Esi,
        Word::Edi,
        Word::Ebp,
        Word::Eax,
        Word::Ds,
        Word::Es,
        Word::Fs,
        Word::Gs,
        Word::Eax,
        Word::Eip,
        Word::Cs,
        Word::Eflags,
        Word::Esp,
        Word::Ss,
    ];
    let registers = status[REGISTERS..].chunks_exact_mut(4);
    for (to, word) in registers.zip(order) {
        let value = remains.register(word).unwrap_or(0);
        to.copy_from_slice(&value.to_le_bytes());
    }
    note.extend(status);
    note
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;
    use lg_abi::known::Known;
    use lg_abi::page::Format;
    use lg_wire::debug::WORDS;
    use lg_wire::last::{CALLS, LastWords};

    const RAM: u32 = 1 << 20;

    fn remains(
        memory: &GuestMemory,
        words: Option<[u32; WORDS]>,
    ) -> Remains<'_> {
        Remains {
            memory,
            last: LastWords {
                words,
                address: None,
                count: 0,
                calls: [[0; 4]; CALLS],
            },
            interface: Known::default(),
            paging: Format::TwoLevels,
        }
    }

    #[test]
    fn segments_lead_where_the_tables_do() {
        let memory = GuestMemory::new(RAM, 0).unwrap();
        let mut words = [0; WORDS];
        words[Word::Cr3 as usize] = 0x1000;
        let put = |at, word: u32| memory.write_object(at, &word).unwrap();
        // A table at 3 GiB: two pages in a row, one elsewhere, one that is
        // beyond memory, and a directory entry that leads out of it.
        put(0x1000 + 0x300 * 4, 0x2003);
        put(0x1000 + 0x301 * 4, 0xFFFF_F003);
        for (n, entry) in
            [0x5003, 0x6003, 0x9003, RAM | 3, 0x3002].iter().enumerate()
        {
            put(0x2000 + u32::try_from(n).unwrap() * 4, *entry);
        }
        let found = segments(&remains(&memory, Some(words)));
        let segment = |virtual_, physical, length| Segment {
            virtual_,
            physical,
            length,
        };
        assert_eq!(
            found,
            [
                segment(0xC000_0000, 0x5000, 0x2000),
                segment(0xC000_2000, 0x9000, 0x1000),
            ]
        );
        let found = segments(&remains(&memory, None));
        assert_eq!(found, [segment(0, 0, RAM)]);
    }

    #[test]
    fn a_core_has_all_memory_and_makes_none_of_it_resident() {
        const LARGE: u32 = 64 << 20;
        let memory = GuestMemory::new(LARGE, 0).unwrap();
        let pieces = [(0, 1), (PIECE - 1, 2), (5 << 20, 3), (LARGE - 1, 4)];
        for (at, byte) in pieces {
            memory.write(at, &[byte]).unwrap();
        }
        let blocks = || rustix::fs::fstat(memory.file()).unwrap().st_blocks;
        let before = blocks();
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let core = rustix::fs::memfd_create("core", flags).unwrap();
        let core = File::from(core);
        write(&core, &remains(&memory, None)).unwrap();
        assert_eq!(blocks(), before, "no hole was filled");
        let length = core.metadata().unwrap().len();
        let memory_at = length - u64::from(LARGE);
        for (at, byte) in pieces {
            let mut found = [0];
            let at = memory_at + u64::from(at);
            core.read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, [byte]);
        }
    }

    #[test]
    fn headers_have_the_sizes_that_they_say() {
        assert_eq!(header(1).len(), HEADER as usize);
        assert_eq!(entry(0, 0, [0; 2], 0, 0).len(), ENTRY as usize);
        let memory = GuestMemory::new(RAM, 0).unwrap();
        let note = note(&remains(&memory, Some([1; WORDS])));
        assert_eq!(note.len(), NOTE as usize);
    }
}
