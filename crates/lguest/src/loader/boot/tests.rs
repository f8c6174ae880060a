//! The map of a Guest that is about to start, field by field.
//!
//! A walker of its own reads the page tables back. Whole Guests are loaded from
//! hand-made images of both formats.

use super::super::{Image, LoadError, bzimage, elf, load};
use super::*;
use crate::loader::Start;
use lg_abi::boot::GUEST_MAGIC;
use lg_abi::known::Known;
use lg_abi::page::{LINEAR, SWITCHER_ADDR};
use proptest::prelude::*;
use std::io::Write;

const BASE: u32 = 0xC000_0000;

fn kernel(page_offset: u32, end: u32) -> Kernel {
    Kernel {
        page_offset,
        start: Start::Paged(0),
        paging: Format::TwoLevels,
        end,
    }
}

/// What virtual address `va` is mapped to.
fn walk(memory: &GuestMemory, pgdir: u32, va: u32) -> Option<u32> {
    let entry = |table: u32, index: u32| {
        let pte = Pte(memory.read_object(table + index * 4).unwrap());
        pte.has(START_PTE_FLAGS).then_some(pte.frame())
    };
    let table = entry(pgdir, va >> 22)?;
    let frame = entry(table, va >> 12 & 1023)?;
    Some(frame + va % PAGE_SIZE)
}

/// The same by tables of PAE.
fn walk_pae(memory: &GuestMemory, pgdir: u32, va: u32) -> Option<u32> {
    let entry = |table: u32, index: u32, flags: u32| {
        let pte: u64 = memory.read_object(table + index * 8).unwrap();
        let pte = u32::try_from(pte).unwrap();
        (pte & 0xFFF == flags).then_some(pte & !0xFFF)
    };
    let directory = entry(pgdir, va >> 30, 1)?;
    let table = entry(directory, va >> 21 & 511, START_PTE_FLAGS)?;
    let frame = entry(table, va >> 12 & 511, START_PTE_FLAGS)?;
    Some(frame + va % PAGE_SIZE)
}

fn file(bytes: &[u8]) -> File {
    let fd = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(fd.unwrap());
    file.write_all(bytes).unwrap();
    file
}

proptest! {
    #[test]
    fn ram_is_mapped_linearly_and_nothing_else(
        pages in 0x200_u32..0x4000,
        split in prop::sample::select(vec![
            BASE, 0x8000_0000, 0x4000_0000, 0xFE00_0000,
        ]),
        probe in any::<u32>(),
    ) {
        let ram = pages * PAGE_SIZE;
        let memory = GuestMemory::new(ram, 1).unwrap();
        let pgdir =
            page_tables(&memory, &kernel(split, 0x10_0000), ram).unwrap();
        prop_assert_eq!(pgdir, ram - PAGE_SIZE);
        for va in [probe, split.wrapping_add(probe % ram), split.wrapping_add(ram - 1)] {
            let expected = va
                .checked_sub(split)
                .filter(|&pa| pa < ram && va < SWITCHER_ADDR);
            prop_assert_eq!(walk(&memory, pgdir, va), expected);
        }
    }

    #[test]
    fn ram_is_mapped_at_both_places_with_pae(
        pages in 0x200_u32..0x4000,
        split in prop::sample::select(vec![BASE, 0x8000_0000, 0x4000_0000]),
        probe in any::<u32>(),
    ) {
        let ram = pages * PAGE_SIZE;
        let memory = GuestMemory::new(ram, 1).unwrap();
        let kernel = Kernel {
            start: Start::Identity(0, Known::Linux2_6_31),
            paging: Format::Pae,
            ..kernel(split, 0x10_0000)
        };
        let pgdir = page_tables(&memory, &kernel, ram).unwrap();
        for pa in [0, probe % ram, ram - 1, ram] {
            let expected = (pa < ram).then_some(pa);
            prop_assert_eq!(walk_pae(&memory, pgdir, pa), expected);
            prop_assert_eq!(walk_pae(&memory, pgdir, split + pa), expected);
        }
        prop_assert_eq!(walk_pae(&memory, pgdir, split - 1), None);
    }
}

#[test]
fn the_parameters_are_those_of_the_protocol() {
    let memory = GuestMemory::new(4 << 20, 1).unwrap();
    let initrd =
        load_initrd(&memory, &file(&[7; 5000]), &kernel(BASE, 0x10_0000))
            .unwrap();
    let start = (4 << 20) - 0x2000;
    assert_eq!(initrd, Initrd { start, size: 5000 });
    parameters(&memory, Some(initrd), b"root=/dev/lgba");
    let word = |addr| memory.read_object::<u32>(addr).unwrap();
    assert_eq!(memory.read_object::<u8>(0x1E8), Ok(1));
    assert_eq!(memory.read_object::<u8>(0x210), Ok(0xFF));
    assert_eq!((word(0x218), word(0x21C)), (start, 5000));
    assert_eq!((word(0x228), word(0x23C)), (0x1000, 1));
    let e820 = [word(0x2D0), word(0x2D4), word(0x2D8), word(0x2DC)];
    assert_eq!((e820, word(0x2E0)), ([0, 0, 4 << 20, 0], 1));
    let mut line = [1; 15];
    memory.read(0x1000, &mut line).unwrap();
    assert_eq!(&line, b"root=/dev/lgba\0");
    assert_eq!(memory.read_object::<u8>(start + 4999), Ok(7));
}

#[test]
fn an_initrd_lies_where_linux_can_reach_it() {
    let memory = GuestMemory::new(1000 << 20, 1).unwrap();
    let start = |split| {
        let kernel = kernel(split, 0x10_0000);
        load_initrd(&memory, &file(b"rd"), &kernel).unwrap().start
    };
    // With 3 GiB for programs, 892 MB of memory are mapped; with less, all.
    assert_eq!(start(BASE), (892 << 20) - PAGE_SIZE);
    assert_eq!(start(0x8000_0000), (1000 << 20) - PAGE_SIZE);
}

#[test]
fn without_an_initrd_its_fields_stay_zero() {
    let memory = GuestMemory::new(4 << 20, 1).unwrap();
    parameters(&memory, None, b"");
    assert_eq!(memory.read_object::<u8>(0x210), Ok(0));
    assert_eq!(memory.read_object::<u32>(0x218), Ok(0));
}

#[test]
fn a_whole_guest_is_loaded_from_an_elf_file() {
    let mut code = b"some code GenuineLguest".to_vec();
    code.extend_from_slice(&[0x90; 16]);
    let image =
        elf::tests::executable(&[(BASE + 0x10_0000, 0x10_0000, 0x8000, &code)]);
    let memory = GuestMemory::new(4 << 20, 2).unwrap();
    for image in [
        Image::File(file(&image)),
        Image::Embedded(image.clone().leak()),
    ] {
        let request =
            load(&memory, &image, Some(&file(b"rd")), b"quiet").unwrap();
        let request = request.request;
        assert_eq!(request.pfn_limit, 1026);
        assert_eq!(request.pgdir, (4 << 20) - 0x2000);
        assert_eq!(request.page_offset, BASE);
        let entry = 0x10_0000 + 10 + 13;
        assert_eq!(request.start, BASE + entry);
        let entry = walk(&memory, request.pgdir, request.start).unwrap();
        assert_eq!(memory.read_object::<u8>(entry), Ok(0x90));
    }
}

#[test]
fn a_whole_guest_is_loaded_from_a_bzimage() {
    let mut flat = b"GenuineLguest".to_vec();
    for i in 0..64_u32 {
        let pointer = 0x8000_0000 + 0x10_0000 + i;
        flat.extend_from_slice(&pointer.to_le_bytes());
    }
    let memory = GuestMemory::new(4 << 20, 1).unwrap();
    let image = Image::File(file(&bzimage::tests::wrap(&flat)));
    let request = load(&memory, &image, None, b"").unwrap().request;
    assert_eq!(request.page_offset, 0x8000_0000);
    assert_eq!(request.start, 0x8010_000D);
}

#[test]
fn a_kernel_without_page_tables_gets_the_address_of_its_parameters() {
    let mut code = b"Linux version 3.11.10 (a@b) #1\n\0lguest\0".to_vec();
    code.resize(0x1000, 0x90);
    let mut image = elf::tests::executable(&[(
        BASE + 0x100_0000,
        0x100_0000,
        0x8000,
        &code,
    )]);
    image[24..28].copy_from_slice(&0x100_0800_u32.to_le_bytes());
    let memory = GuestMemory::new(32 << 20, 2).unwrap();
    let image = Image::Unpacked(image);
    let initrd = file(&[7; 5000]);
    let loaded = load(&memory, &image, Some(&initrd), b"quiet").unwrap();
    assert_eq!(loaded.interface, Known::Linux3_1);
    assert_eq!(loaded.request.pgdir, LINEAR);
    assert_eq!(loaded.request.start, 0x100_0800);
    assert_eq!(loaded.request.page_offset, BASE);
    let at = loaded.boot_parameters;
    assert_eq!(at, 0x9_0000);
    let word = |offset| memory.read_object::<u32>(at + offset).unwrap();
    assert_eq!(word(0x1E8) & 0xFF, 1);
    assert_eq!(word(0x204) >> 16, 0x207);
    assert_eq!(word(0x210) & 0xFFFF, 0x40FF);
    assert_eq!((word(0x218), word(0x21C)), ((32 << 20) - 0x2000, 5000));
    assert_eq!((word(0x228), word(0x23C)), (0x9_1000, 1));
    let e820 = [word(0x2D0), word(0x2D4), word(0x2D8), word(0x2DC)];
    assert_eq!((e820, word(0x2E0)), ([0, 0, 32 << 20, 0], 1));
    let mut line = [1; 6];
    memory.read(0x9_1000, &mut line).unwrap();
    assert_eq!(&line, b"quiet\0");
}

/// Linux 2.6.24 to 3.0: page tables that map memory twice.
#[test]
fn a_kernel_of_the_years_between_gets_page_tables_at_both_places() {
    const PLAIN: &str = "bad pgd %08lx";
    const PAE: &str = "bad pgd %p(%016Lx)";
    for (release, interface, replaced, mark) in [
        ("2.6.24", Known::Linux2_6_24, false, PLAIN),
        ("2.6.27", Known::Linux2_6_25, false, PLAIN),
        ("2.6.30", Known::Linux2_6_30, true, PLAIN),
        ("2.6.31", Known::Linux2_6_31, true, PAE),
        ("3.0.101", Known::Linux2_6_31, true, PLAIN),
        ("3.0.101", Known::Linux2_6_31, true, PAE),
    ] {
        let banner =
            format!("Linux version {release} (a@b) #1\n\0lguest\0{mark}\0");
        let (paging, walk) = match mark {
            PAE => (Format::Pae, walk_pae as fn(&GuestMemory, _, _) -> _),
            _ => (Format::TwoLevels, walk as _),
        };
        let mut code = banner.into_bytes();
        code.resize(0x800, 0x90);
        code.extend([0xB8, 1, 0, 0, 0, 0x0F, 0x01, 0xC1]);
        code.resize(0x1000, 0x90);
        let mut image = elf::tests::executable(&[(
            BASE + 0x10_0000,
            0x10_0000,
            0x8000,
            &code,
        )]);
        image[24..28].copy_from_slice(&0x10_0800_u32.to_le_bytes());
        let memory = GuestMemory::new(16 << 20, 2).unwrap();
        let image = Image::Unpacked(image);
        let loaded = load(&memory, &image, None, b"quiet").unwrap();
        assert_eq!((loaded.interface, loaded.paging), (interface, paging));
        assert_eq!(loaded.boot_parameters, 0x9_0000);
        let request = loaded.request;
        assert_eq!((request.start, request.page_offset), (0x10_0800, BASE));
        for base in [0, BASE] {
            for pa in [0, 0x10_0800, (16 << 20) - 1] {
                let found = walk(&memory, request.pgdir, base + pa);
                assert_eq!(found, Some(pa), "{base:#x}");
            }
            assert_eq!(walk(&memory, request.pgdir, base + (16 << 20)), None);
        }
        let mut call = [0; 3];
        memory.read(0x10_0805, &mut call).unwrap();
        assert_eq!(call == [0xCD, 0x1F, 0x90], replaced, "{release}");
    }
}

#[test]
fn a_kernel_below_its_parameters_is_refused() {
    let code = b"Linux version 3.11.10 (a@b) #1\n\0lguest\0";
    let image =
        elf::tests::executable(&[(BASE + 0x8_0000, 0x8_0000, 0x8000, code)]);
    let memory = GuestMemory::new(32 << 20, 2).unwrap();
    let error = load(&memory, &Image::Unpacked(image), None, b"").unwrap_err();
    assert!(
        error.to_string().contains("be loaded at 0x80000"),
        "{error}"
    );
}

#[test]
fn each_way_not_to_fit_has_its_message() {
    let big = |ram: u32, initrd: usize, line: usize| -> LoadError {
        let image = elf::tests::executable(&[(
            BASE + 0x10_0000,
            0x10_0000,
            0x10_0000,
            GUEST_MAGIC,
        )]);
        let memory = GuestMemory::new(ram, 1).unwrap();
        let initrd = file(&vec![0; initrd]);
        let image = Image::Embedded(image.leak());
        load(&memory, &image, Some(&initrd), &vec![b'x'; line]).unwrap_err()
    };
    let text = big(1 << 20, 1, 0).to_string();
    assert!(text.contains("needs at least 3 MB"), "{text}");
    let text = big(3 << 20, 2 << 20, 0).to_string();
    assert!(text.contains("at least 5 MB"), "{text}");
    let text = big(3 << 20, 1 << 20, 0).to_string();
    assert!(text.contains("initrd need at least 4 MB"), "{text}");
    let text = big(4 << 20, 0, 0).to_string();
    assert!(text.contains("it is empty"), "{text}");
    let text = big(4 << 20, 1, 4096).to_string();
    assert!(text.contains("4096 bytes: give at most 4095"), "{text}");
}
