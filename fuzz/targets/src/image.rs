//! The loader, with bad kernels.
//!
//! ELF files and bzImages are whole, cut short, or invented. A loaded kernel
//! must be in RAM, and its first page tables must map the first instruction
//! after the mark.

use crate::guest::file;
use crate::input::Input;
use lg_abi::boot::GUEST_MAGIC;
use lg_abi::known::Known;
use lguest::loader::{Image, load};
use lguest::memory::GuestMemory;
use rustix::time::{ClockId, clock_gettime};
use std::io::Write;

/// Seconds of processor time for a file. Files are small here. A large one may
/// take longer.
const PATIENCE: i64 = 5;

/// Loads one kernel.
///
/// # Panics
///
/// If the result is a Guest that cannot start.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let pages = [256, 300, 512, 1030, 3000][input.below(5) as usize];
    let memory = GuestMemory::new(pages << 12, 1).expect("memory can be had");
    let command_line = {
        let len = usize::from(input.byte() % 32);
        input.bytes(len)
    };
    let initrd = input.bit().then(|| {
        let len = usize::from(input.byte());
        file(&vec![0xEE; len * 64])
    });
    let mut mark_at = None;
    let kernel = match input.byte() % 6 {
        0 => wrapped(input.rest(), true),
        1 => wrapped(input.rest(), false),
        2 => elf(&mut input),
        3 => {
            let (kernel, at) = good_elf(&mut input);
            mark_at = Some(at);
            kernel
        }
        4 => streams(&mut input),
        _ => input.rest().to_vec(),
    };
    let image = Image::File(file(&kernel));
    let plain = initrd.is_none() && !command_line.contains(&0);
    let begun = worked();
    let loaded = load(&memory, &image, initrd.as_ref(), command_line);
    let worked = worked() - begun;
    assert!(worked < PATIENCE, "{worked} s for a file of this size");
    let good = mark_at.is_some() && plain;
    assert!(!good || loaded.is_ok(), "a good kernel was refused");
    let Ok(loaded) = loaded else { return };
    let start = loaded.request;
    if loaded.interface != Known::Linux2_6_23 {
        assert!(mark_at.is_none(), "the mark was not found");
        assert!(loaded.boot_parameters < memory.ram());
        return;
    }
    if let Some(at) = mark_at {
        assert_eq!(start.start, 0xC000_0000 + at, "not at the first mark");
    }
    assert!(start.pgdir < memory.ram() && start.pgdir % 4096 == 0);
    assert_eq!(start.pfn_limit, memory.pfn_limit());
    let word = |at: u32| {
        memory
            .read_object::<u32>(at)
            .expect("the tables lie in memory")
    };
    // The byte before the first instruction is the last one of the mark.
    let va = start.start - 1;
    let pde = word(start.pgdir + (va >> 22) * 4);
    assert_eq!(pde & 1, 1, "the first instruction is not mapped");
    let pte = word((pde & !0xFFF) + (va >> 12 & 1023) * 4);
    assert_eq!(pte & 1, 1, "the first instruction is not mapped");
    let at = (pte & !0xFFF) + (va & 0xFFF);
    assert_eq!(at, va - start.page_offset, "mapped elsewhere");
    let mut mark = vec![0; GUEST_MAGIC.len()];
    let from = at + 1 - u32::try_from(mark.len()).expect("it is short");
    memory.read(from, &mut mark).expect("it lies in memory");
    assert_eq!(mark, GUEST_MAGIC, "the mark is not there");
}

/// Seconds of processor time of this process.
fn worked() -> i64 {
    clock_gettime(ClockId::ThreadCPUTime).tv_sec
}

/// A bzImage around `kernel`, with or without the right pointers in it.
fn wrapped(kernel: &[u8], pointers: bool) -> Vec<u8> {
    let mut inner = kernel.to_vec();
    if pointers {
        inner.extend_from_slice(GUEST_MAGIC);
        for n in 0..64_u32 {
            inner.extend_from_slice(&(0xC010_0000 + n * 8).to_le_bytes());
        }
    }
    let mut file = vec![0x90; 0x800];
    file[0x202..0x206].copy_from_slice(b"HdrS");
    let mut gzip = flate2::GzBuilder::new()
        .operating_system(3)
        .write(file, flate2::Compression::fast());
    gzip.write_all(&inner).expect("a Vec takes it");
    gzip.finish().expect("a Vec takes it")
}

/// A good kernel, in one or two pieces, with a mark somewhere in it. Returns
/// also the address of the first instruction.
fn good_elf(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    // What the loader reads at a time, and a page.
    let far = input.one_of(&[0, 4096, 0x1_0000, 0x2_0000, 13]) % 0x3_0000;
    let physical = 0x2000 + input.below(8) * 0x1000;
    let front = far as usize;
    let mut bytes = vec![0x90; front];
    bytes.extend_from_slice(GUEST_MAGIC);
    bytes.extend_from_slice(&[0x90; 64]);
    let size = u32::try_from(bytes.len()).expect("it is short");
    let more = u32::from(input.byte()) * 0x100;
    // The rest of its memory is zero, and there may be a piece without bytes.
    let pieces = [
        (physical, size, size + more),
        (physical + size + more, 0, 0x1000),
    ];
    let count = 1 + input.byte() % 2;
    let mut file = header(count);
    let offset = 52 + 32 * u32::from(count);
    for (at, size, memory_size) in pieces.into_iter().take(count.into()) {
        for word in [
            1,
            offset,
            0xC000_0000 + at,
            at,
            size,
            memory_size,
            7,
            0x1000,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.extend_from_slice(&bytes);
    let mark = u32::try_from(GUEST_MAGIC.len()).expect("it is short");
    (file, physical + far + mark)
}

/// Many false gzip streams, and perhaps a good one.
fn streams(input: &mut Input<'_>) -> Vec<u8> {
    let zeroes = [16, 4096, 1 << 16, 1 << 20][input.below(4) as usize];
    let mut one = wrapped(&vec![0; zeroes], false).split_off(0x800);
    let break_at = one.len() - 8 + usize::from(input.byte() % 8);
    one[break_at] ^= 1 + input.byte() % 255;
    let mut file = wrapped(&[], true);
    file.truncate(0x800);
    for _ in 0..input.byte() {
        file.extend_from_slice(&one);
    }
    if input.bit() {
        file.extend(wrapped(input.rest(), true).split_off(0x800));
    }
    file
}

/// An ELF file with headers that are nearly valid.
fn elf(input: &mut Input<'_>) -> Vec<u8> {
    let count = input.byte() % 6;
    let mut file = header(count);
    for _ in 0..count {
        let size = input.one_of(&[0, 16, 0x100, 0x1000]);
        let physical = input.one_of(&[0x2000, 0x3000, 0x10_0000, 0]);
        let offset = input.one_of(&[0xC000_0000, 0x8000_0000, 0]);
        for word in [
            u32::from(input.byte() < 0xE0),
            input.one_of(&[52, 0x100, 0]),
            physical.wrapping_add(offset),
            physical,
            size,
            input.one_of(&[size, size.wrapping_add(0x800), 0]),
            7,
            0x1000,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    for _ in 0..input.below(4) {
        let at = input.below(400) as usize % file.len();
        file[at] = input.byte();
    }
    file.extend_from_slice(input.bytes(64));
    if input.bit() {
        file.extend_from_slice(GUEST_MAGIC);
    }
    file.extend_from_slice(input.rest());
    file
}

/// The header of an ELF file with `count` pieces.
fn header(count: u8) -> Vec<u8> {
    let mut file = vec![0; 52];
    file[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    file[16] = 2;
    file[18] = 3;
    file[20] = 1;
    file[28] = 52;
    file[40] = 52;
    file[42] = 32;
    file[44] = count;
    file
}
