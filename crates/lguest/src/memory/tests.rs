//! What the Guest's memory checks, and what it moves.

use super::*;
use std::io::Write;

fn memory() -> GuestMemory {
    GuestMemory::new(0x10000, 2).unwrap()
}

#[test]
fn each_write_is_noted_once_it_is_there() {
    let m = memory();
    let (sender, noted) = std::sync::mpsc::channel();
    m.write(0x100, b"before").unwrap();
    m.note_writes(move |piece| sender.send(piece).unwrap());
    let mut file = tempfile();
    file.write_all(&[7; 0x3000]).unwrap();
    let pieces = [m.section(0x1000, 8).unwrap(), m.section(0, 4).unwrap()];
    let piece = |addr, len| m.section(addr, len).unwrap();
    m.write(0xFFE, b"abcd").unwrap();
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0xFFE, 4)]);
    m.write_last(0x20, 1).unwrap();
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0x20, 4)]);
    m.set_bits(0x40, 1).unwrap();
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0x40, 2)]);
    m.read_file(&file, 0, &pieces).unwrap();
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), pieces);
    // A file in memory may refuse it, and may have moved a part.
    let _ = m.read_file_now(&file, 0, &pieces);
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), pieces);
    m.write_file(&file, 0, &pieces).unwrap();
    m.write(0xFFFF_0000, b"beyond").unwrap_err();
    assert_eq!(noted.try_iter().count(), 0);
    m.note_all();
    let all = piece(0, m.limit());
    assert_eq!(noted.try_iter().collect::<Vec<_>>(), [all]);
}

#[test]
fn what_was_written_is_read_back_up_to_the_last_byte() {
    let m = memory();
    m.write(m.limit() - 4, &[1, 2, 3, 4]).unwrap();
    assert_eq!(m.read_object::<u32>(m.limit() - 4), Ok(0x0403_0201));
    m.write_last(8, 7).unwrap();
    assert_eq!(m.read_object::<u32>(8), Ok(7));
}

#[test]
fn bits_are_added_to_those_that_are_set() {
    let m = memory();
    m.write(6, &[0x07, 0x80]).unwrap();
    m.set_bits(6, 0x108).unwrap();
    assert_eq!(m.read_object::<u16>(6), Ok(0x810F));
    assert!(m.set_bits(7, 1).is_err());
    assert!(m.set_bits(m.limit(), 1).is_err());
}

#[test]
fn nothing_beyond_the_limit_can_be_named() {
    let m = memory();
    let end = m.limit();
    assert!(m.section(end, 0).is_ok());
    assert!(m.section(end, 1).is_err());
    assert!(m.section(end - 4, 5).is_err());
    assert!(m.section(u32::MAX, 2).is_err());
    assert!(m.write(end - 1, &[0, 0]).is_err());
}

/// Numbers at which mistakes with `limit` and pages show.
fn boundaries(limit: u32) -> Vec<u32> {
    let around = |at: u32| at - 2..=at + 2;
    [2, PAGE_SIZE, limit - PAGE_SIZE, limit, 1 << 31]
        .into_iter()
        .flat_map(around)
        .chain(u32::MAX - 4..=u32::MAX)
        .collect()
}

#[test]
fn every_pair_of_boundaries_is_checked_as_wide_numbers_say() {
    let m = memory();
    let limit = u128::from(m.limit());
    for &addr in &boundaries(m.limit()) {
        for &len in &boundaries(m.limit()) {
            let (at, bytes) = (u128::from(addr), u128::from(len));
            let found = m.section(addr, len);
            let what = format!("{addr:#x} {len:#x}");
            assert_eq!(found.is_ok(), at + bytes <= limit, "{what}");
            // A section of a list must lie inside one page, too.
            let Ok(short) = u16::try_from(len) else {
                continue;
            };
            let mut dma = lg_abi::dma::Dma::default();
            (dma.addr[0], dma.len[0]) = (addr, short);
            m.write_object(0x100, &dma).unwrap();
            let found = crate::transport::keys::dma::DmaSections::read(
                m.region(),
                0x100,
            );
            let page = u128::from(PAGE_SIZE);
            let in_page = at % page + bytes <= page;
            let good = len == 0 || in_page && at + bytes <= limit;
            assert_eq!(found.is_ok(), good, "{what}");
        }
    }
}

#[test]
fn files_move_through_sections_in_order() {
    let m = memory();
    let mut file = tempfile();
    file.write_all(b"abcdefghij").unwrap();
    let parts = [m.section(100, 3).unwrap(), m.section(50, 4).unwrap()];
    assert_eq!(m.read_file(&file, 1, &parts).unwrap(), 7);
    let mut got = [0; 4];
    m.read(50, &mut got).unwrap();
    assert_eq!(&got, b"efgh");
    // At the end of the file a transfer is short, not an error.
    assert_eq!(m.read_file(&file, 8, &parts).unwrap(), 2);
    assert_eq!(m.write_file(&file, 20, &parts[1..]).unwrap(), 4);
    assert_eq!(file.metadata().unwrap().len(), 24);
}

#[test]
fn a_shared_page_is_the_same_memory_for_two_guests() {
    let (a, b, file) = (memory(), memory(), tempfile());
    file.set_len(u64::from(PAGE_SIZE)).unwrap();
    a.share_page(17, &file).unwrap();
    b.share_page(16, &file).unwrap();
    a.write((17 << PAGE_SHIFT) + 6, b"mac").unwrap();
    let mut got = [0; 3];
    b.read((16 << PAGE_SHIFT) + 6, &mut got).unwrap();
    assert_eq!(&got, b"mac");
}

fn tempfile() -> File {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC)
        .unwrap();
    File::from(fd)
}

#[test]
fn memory_grows_until_its_size_is_final() {
    let memory = GuestMemory::growing(0x4000, 1).unwrap();
    memory
        .write(0x3FF0, b"in RAM, and the page above it")
        .unwrap();
    let memory = memory.with_pages(3).unwrap();
    assert_eq!((memory.ram(), memory.limit()), (0x4000, 0x7000));
    let mut bytes = [0; 29];
    memory.read(0x3FF0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"in RAM, and the page above it");
    memory.write(0x6FFF, &[1]).unwrap();
    assert!(memory.write(0x7000, &[1]).is_err());
    for size in [0x6000, 0x8000] {
        let resized = rustix::fs::ftruncate(memory.file(), size);
        assert_eq!(resized, Err(rustix::io::Errno::PERM), "{size:#x}");
    }
}

#[test]
fn memory_with_a_clone_or_more_pages_cannot_grow() {
    let memory = GuestMemory::growing(0x4000, 3).unwrap();
    let clone = memory.clone();
    assert!(memory.with_pages(4).is_err());
    assert!(clone.with_pages(2).is_err());
}

/// A share server is a fork of the Launcher, and may be a fork of a program
/// that runs other Guests.
#[test]
fn forks_do_not_have_what_is_mapped() {
    let file = sealed_file("forks", (2 * PAGE_SIZE).into()).unwrap();
    let whole = Mapping::of(file.as_fd(), 0, 2 * PAGE_SIZE).unwrap();
    let large = Mapping::for_large_pages(file.as_fd(), 2 * PAGE_SIZE).unwrap();
    large.replace_page(PAGE_SIZE, &file).unwrap();
    let inode = rustix::fs::fstat(&file).unwrap().st_ino.to_string();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines();
    let mut mappings = 0;
    while let Some(line) = lines.next() {
        // A file of another file system may have the same number.
        if line.split_whitespace().nth(4) != Some(&inode)
            || !line.contains("/memfd:forks")
        {
            continue;
        }
        mappings += 1;
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" dc"), "{line}: {flags}");
    }
    assert_eq!(mappings, 3);
    drop((whole, large));
}
