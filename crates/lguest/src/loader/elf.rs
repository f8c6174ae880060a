//! The i386 ELF executable: `vmlinux` as the linker left it.
//!
//! Only two kinds of header matter: the file's, and one for each piece to load.
//! Every piece has a virtual and a physical address. For a kernel that maps its
//! memory linearly, the difference is the same everywhere: it is PAGE_OFFSET.
//! So few fields need no library, but all of them must be checked.

use super::Image;
use super::error::KernelError;
use super::fit::Demand;
use super::image::LOOKED_AT;
use super::linux::Release;
use super::placed::Placed;
use crate::memory::GuestMemory;
use lg_abi::boot::{COMMAND_LINE, COMMAND_LINE_MAX};
use lg_abi::page::{DIRECTORY_SPAN, Format, SWITCHER_ADDR};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Whether this is the beginning of an ELF file of any kind.
pub(super) fn recognise(head: &[u8]) -> bool {
    head.starts_with(b"\x7FELF")
}

/// 32 or 64, if this is the beginning of an ELF file.
pub(super) fn bits(head: &[u8]) -> Option<u8> {
    match head.get(4) {
        Some(&CLASS_32) if recognise(head) => Some(32),
        Some(&CLASS_64) if recognise(head) => Some(64),
        _ => None,
    }
}

/// The highest virtual address that physical address 0 may have.
const LAST_OFFSET: u32 = SWITCHER_ADDR - DIRECTORY_SPAN;

/// The first physical address above all pieces of an ELF file.
pub(super) fn end(image: &Image) -> Option<u64> {
    let pieces = pieces(image).ok()?;
    pieces.iter().map(Piece::end).max()
}

/// Where the pieces of an ELF file begin: virtual and physical address of the
/// lowest.
pub(super) fn lowest(image: &Image) -> Option<(u32, u32)> {
    let pieces = pieces(image).ok()?;
    let lowest = pieces.iter().min_by_key(|piece| piece.virtual_)?;
    Some((lowest.virtual_, lowest.physical))
}

/// Loads every piece. Pieces may come in any order, but not overlap.
pub(super) fn load(
    memory: &GuestMemory,
    image: &Image,
    initrd: u64,
) -> Result<Placed, KernelError> {
    let pieces = pieces(image)?;
    let length = image.len()?;
    let mut placed = Placed {
        page_offset: page_offset(&pieces)?,
        parts: Vec::with_capacity(pieces.len()),
        end: 0,
        entry: Some(entry(image)?),
    };
    let ends = pieces.iter().map(Piece::end);
    let demand = Demand {
        kernel_end: ends.max().unwrap_or(0),
        // A PAGE_OFFSET that cannot be mapped is refused later.
        page_offset: placed.page_offset.clamp(DIRECTORY_SPAN, LAST_OFFSET),
        paging: Format::default(),
        initrd,
    };
    let too_big = || {
        let kernel = image.read(0, LOOKED_AT).unwrap_or_default();
        let paging = Release::paging_of(&kernel);
        KernelError::does_not_fit(Demand { paging, ..demand })
    };
    for piece in &pieces {
        let file_end = u64::from(piece.offset) + u64::from(piece.file_size);
        if file_end > length {
            return Err(KernelError::Truncated);
        }
        if piece.file_size > piece.memory_size {
            return Err(KernelError::NotLoadable(
                "a segment has more bytes in the file than in memory",
            ));
        }
        if piece.physical < COMMAND_LINE + COMMAND_LINE_MAX {
            return Err(KernelError::TooLow(piece.physical));
        }
        match piece.physical.checked_add(piece.memory_size) {
            Some(end) if end <= memory.ram() => {
                placed.end = placed.end.max(end);
            }
            _ => return Err(too_big()),
        }
        let part = memory
            .section(piece.physical, piece.file_size)
            .map_err(|_| too_big())?;
        placed.parts.push(part);
    }
    check_overlap(&pieces)?;
    for (piece, &part) in pieces.iter().zip(&placed.parts) {
        // The memory after the file's bytes is zero already: it is fresh, and
        // no other piece overlaps it.
        image.load(u64::from(piece.offset), memory, part)?;
    }
    Ok(placed)
}

/// The entry point in the header.
fn entry(image: &Image) -> Result<u32, KernelError> {
    let head = image.read(0, size_of::<FileHeader>())?;
    let header = FileHeader::read_from_bytes(&head);
    header.map(|h| h.entry).map_err(|_| KernelError::Truncated)
}

/// The header of the file (`Elf32_Ehdr`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    /// 1 = 32-bit, 2 = 64-bit.
    class: u8,
    /// 1 = least significant byte first.
    byte_order: u8,
    ident: [u8; 10],
    /// 2 = an executable at fixed addresses.
    kind: u16,
    machine: u16,
    version: u32,
    entry: u32,
    /// Where the program headers are.
    program_headers: u32,
    section_headers: u32,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    string_section: u16,
}

const _: () = assert!(size_of::<FileHeader>() == 52);

/// The header of a piece (`Elf32_Phdr`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Piece {
    kind: u32,
    offset: u32,
    virtual_: u32,
    physical: u32,
    file_size: u32,
    memory_size: u32,
    flags: u32,
    align: u32,
}

impl Piece {
    /// The first physical address above it.
    fn end(&self) -> u64 {
        u64::from(self.physical) + u64::from(self.memory_size)
    }
}

const PIECE_SIZE: usize = size_of::<Piece>();
const _: () = assert!(PIECE_SIZE == 32);

const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LEAST_SIGNIFICANT_FIRST: u8 = 1;
const ET_EXEC: u16 = 2;
const EM_386: u16 = 3;
const PT_LOAD: u32 = 1;

/// The pieces to load, none of them empty.
fn pieces(image: &Image) -> Result<Vec<Piece>, KernelError> {
    let head = image.read(0, size_of::<FileHeader>())?;
    if let [_, _, _, _, class @ (CLASS_32 | CLASS_64), order, ..] = *head {
        check_machine(&head, class, order)?;
    }
    let header = FileHeader::read_from_bytes(&head)
        .map_err(|_| KernelError::Truncated)?;
    if header.kind != ET_EXEC {
        return Err(KernelError::NotLoadable("not linked to fixed addresses"));
    }
    if usize::from(header.program_header_size) != PIECE_SIZE {
        return Err(KernelError::NotLoadable("its headers have an odd size"));
    }
    let len = usize::from(header.program_header_count) * PIECE_SIZE;
    let table = image.read(u64::from(header.program_headers), len)?;
    if table.len() < len {
        return Err(KernelError::Truncated);
    }
    let pieces: Vec<Piece> = table
        .chunks_exact(PIECE_SIZE)
        .filter_map(|bytes| Piece::read_from_bytes(bytes).ok())
        .filter(|piece| piece.kind == PT_LOAD && piece.memory_size > 0)
        .collect();
    if pieces.is_empty() {
        return Err(KernelError::NotLoadable("it has nothing to load"));
    }
    Ok(pieces)
}

/// Refuses a file that is not for i386. The field of the machine is at the same
/// place in headers of both word sizes.
fn check_machine(head: &[u8], class: u8, order: u8) -> Result<(), KernelError> {
    let Some(&[low, high]) = head.get(18..20) else {
        return Err(KernelError::Truncated);
    };
    let machine = match order {
        LEAST_SIGNIFICANT_FIRST => u16::from_le_bytes([low, high]),
        _ => u16::from_be_bytes([low, high]),
    };
    if class == CLASS_32
        && order == LEAST_SIGNIFICANT_FIRST
        && machine == EM_386
    {
        return Ok(());
    }
    Err(KernelError::WrongMachine(match machine {
        62 => "x86-64".into(),
        40 => "ARM".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "S/390".into(),
        other => format!("another machine (number {other})"),
    }))
}

/// Virtual minus physical address, which must be the same for all pieces.
fn page_offset(pieces: &[Piece]) -> Result<u32, KernelError> {
    let mut offsets = pieces
        .iter()
        .map(|piece| piece.virtual_.wrapping_sub(piece.physical));
    let first = offsets.next().unwrap_or_default();
    if offsets.any(|offset| offset != first) {
        return Err(KernelError::NotLoadable(
            "its segments differ in virtual minus physical address",
        ));
    }
    Ok(first)
}

/// Refuses pieces that overlap. Each of them fits in RAM.
fn check_overlap(pieces: &[Piece]) -> Result<(), KernelError> {
    let mut spans: Vec<(u32, u32)> = pieces
        .iter()
        .map(|piece| (piece.physical, piece.physical + piece.memory_size))
        .collect();
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(KernelError::NotLoadable("its segments overlap"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An executable of `pieces`: (virtual, physical, memory size, bytes).
    pub(in super::super) fn executable(
        pieces: &[(u32, u32, u32, &[u8])],
    ) -> Vec<u8> {
        let mut file = FileHeader {
            magic: *b"\x7FELF",
            class: CLASS_32,
            byte_order: LEAST_SIGNIFICANT_FIRST,
            ident: [0; 10],
            kind: ET_EXEC,
            machine: EM_386,
            version: 1,
            entry: 0,
            program_headers: 52,
            section_headers: 0,
            flags: 0,
            header_size: 52,
            program_header_size: 32,
            program_header_count: u16::try_from(pieces.len()).unwrap(),
            section_header_size: 0,
            section_header_count: 0,
            string_section: 0,
        }
        .as_bytes()
        .to_vec();
        let mut offset = 52 + 32 * u32::try_from(pieces.len()).unwrap();
        for &(virtual_, physical, memory_size, bytes) in pieces {
            let file_size = u32::try_from(bytes.len()).unwrap();
            let piece = Piece {
                kind: PT_LOAD,
                offset,
                virtual_,
                physical,
                file_size,
                memory_size,
                flags: 7,
                align: 1,
            };
            offset += file_size;
            file.extend_from_slice(piece.as_bytes());
        }
        for piece in pieces {
            file.extend_from_slice(piece.3);
        }
        file
    }

    fn try_load(file: Vec<u8>) -> Result<(GuestMemory, Placed), KernelError> {
        let memory = GuestMemory::new(4 << 20, 1).unwrap();
        let image = Image::Embedded(file.leak());
        load(&memory, &image, 0).map(|placed| (memory, placed))
    }

    fn message(file: Vec<u8>) -> String {
        try_load(file).err().expect("refused").to_string()
    }

    const BASE: u32 = 0xC000_0000;

    #[test]
    fn pieces_are_loaded_where_their_physical_addresses_say() {
        let (memory, placed) = try_load(executable(&[
            (BASE + 0x10_0000, 0x10_0000, 0x1000, b"code"),
            (BASE + 0x20_0000, 0x20_0000, 0x3000, b"data"),
        ]))
        .ok()
        .unwrap();
        assert_eq!(placed.page_offset, BASE);
        assert_eq!(placed.end, 0x20_3000);
        let mut got = [0; 8];
        memory.read(0x20_0000, &mut got).unwrap();
        assert_eq!(&got, b"data\0\0\0\0");
    }

    #[test]
    fn a_piece_may_have_no_bytes_in_the_file() {
        let file = executable(&[(BASE + 0x4000, 0x4000, 0x1000, b"")]);
        assert_eq!(try_load(file).ok().unwrap().1.end, 0x5000);
    }

    #[test]
    fn files_of_other_kinds_are_refused_by_name() {
        let good = executable(&[(BASE + 0x4000, 0x4000, 4, b"code")]);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            message(file)
        };
        let mut x86_64 = good.clone();
        (x86_64[4], x86_64[18]) = (CLASS_64, 62);
        assert!(message(x86_64).contains("an ELF file for x86-64"));
        assert!(with(18, &[183]).contains("AArch64"));
        assert!(with(18, &[99]).contains("number 99"));
        assert!(with(5, &[2]).contains("another machine"));
        assert!(with(16, &[3]).contains("not linked to fixed addresses"));
        assert!(with(42, &[31]).contains("odd size"));
        assert!(with(44, &[0]).contains("nothing to load"));
        // More bytes in the file than in memory.
        assert!(with(52 + 20, &[3]).contains("more bytes in the file"));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused() {
        let good = executable(&[(BASE + 0x4000, 0x4000, 4, b"code")]);
        for len in 4..good.len() {
            let error = try_load(good[..len].to_vec()).err().unwrap();
            assert!(matches!(error, KernelError::Truncated), "{len}: {error}");
        }
    }

    #[test]
    fn pieces_must_agree_fit_and_not_overlap() {
        let text = message(executable(&[
            (BASE + 0x4000, 0x4000, 4, b"code"),
            (BASE + 0x6000, 0x5000, 4, b"data"),
        ]));
        assert!(text.contains("differ in virtual minus physical"));
        let text = message(executable(&[
            (BASE + 0x5000, 0x5000, 0x1000, b"data"),
            (BASE + 0x4000, 0x4000, 0x1001, b"code"),
        ]));
        assert!(text.contains("overlap"));
        let text = message(executable(&[(
            BASE + (4 << 20) - 4,
            (4 << 20) - 4,
            5,
            b"code",
        )]));
        assert!(text.contains("needs at least 5 MB"), "{text}");
        let text = message(executable(&[(BASE, 0, 4, b"code")]));
        assert!(text.contains("loaded at 0x0"));
        let text = message(executable(&[(u32::MAX, u32::MAX, 4, b"code")]));
        assert!(text.contains("it ends at 4097 MB"), "{text}");
    }

    proptest! {
        // For any file, nothing outside RAM is written and nothing panics.
        #[test]
        fn any_header_is_loaded_or_refused(
            change in proptest::collection::vec((4_usize..116, any::<u8>()), 1..6)
        ) {
            let mut file = executable(&[
                (BASE + 0x4000, 0x4000, 0x1000, b"code"),
                (BASE + 0x6000, 0x6000, 0x1000, b"data"),
            ]);
            for (at, byte) in change {
                file[at] = byte;
            }
            if let Ok((memory, placed)) = try_load(file) {
                prop_assert!(placed.end <= memory.ram());
                let mut pages = [0xFF; 4096];
                memory.read(memory.ram(), &mut pages).unwrap();
                prop_assert!(pages.iter().all(|&byte| byte == 0));
            }
        }
    }
}
