//! An image above a base against a vector, and images from strangers.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use super::storage::Done;
use super::*;
use rustix::fs::{MemfdFlags, memfd_create};

/// Bytes of the disks here: five clusters and a half.
const SIZE: u32 = 11 << 15;

pub(super) fn memory_file(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    file
}

pub(super) fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn base() -> File {
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n >> 9) as u8 ^ n as u8).collect();
    memory_file(&bytes)
}

/// A new image above `base`, and its file.
pub(super) fn above(base: &File, size: u64) -> (Image, File) {
    let file = memory_file(&[]);
    let base = Image::raw(base.try_clone().unwrap(), None).unwrap();
    let ours = file.try_clone().unwrap();
    (Image::create(ours, None, size, base, None).unwrap(), file)
}

/// Pseudo-random numbers.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit
    }
}

/// A disk's contents, in an image and in a vector.
struct Pair {
    memory: GuestMemory,
    image: Image,
    model: Vec<u8>,
}

impl Pair {
    /// Where a request of random length begins, and its sections, which are
    /// apart in memory.
    fn request(&self, numbers: &mut Numbers) -> (usize, Vec<Section>) {
        let sectors = 1 + numbers.below(200);
        let sector = numbers.below(SIZE / 512 - sectors);
        let cut = numbers.below(sectors) * 512;
        let len = sectors * 512;
        let sections = [(0x1_0000, cut), (0x8_0000, len - cut)];
        let section = |(at, len)| self.memory.section(at, len).unwrap();
        (sector as usize * 512, sections.map(section).to_vec())
    }

    fn write(&mut self, numbers: &mut Numbers, now: bool) {
        let (at, sections) = self.request(numbers);
        let bytes: Vec<u8> = (0..total(&sections))
            .map(|_| numbers.below(256) as u8)
            .collect();
        scatter(self.memory.region(), &sections, &bytes).unwrap();
        let offset = at as u64;
        let moved = match self.image.write_now(&self.memory, offset, &sections)
        {
            Ok(moved) if now => moved,
            _ => self.image.write(&self.memory, offset, &sections).unwrap(),
        };
        assert_eq!(moved as usize, bytes.len());
        self.model[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn read(&self, numbers: &mut Numbers, now: bool) {
        let (at, sections) = self.request(numbers);
        let old = [0xEE; 200 * 512];
        scatter(self.memory.region(), &sections, &old).unwrap();
        let offset = at as u64;
        let moved = match self.image.read_now(&self.memory, offset, &sections) {
            Ok(moved) if now => moved,
            _ => self.image.read(&self.memory, offset, &sections).unwrap(),
        };
        let region = self.memory.region();
        let read = crate::memory::gather(region, &sections).unwrap();
        assert_eq!(moved as usize, read.len());
        assert!(read == self.model[at..at + read.len()], "at {at}");
    }
}

#[test]
fn an_image_above_a_base_is_like_a_vector() {
    let base = base();
    let original = bytes_of(&base);
    let (image, file) = above(&base, SIZE.into());
    let mut pair = Pair {
        memory: GuestMemory::new(0x10_0000, 1).unwrap(),
        image,
        model: original.clone(),
    };
    let mut numbers = Numbers(0x1234_5678_9ABC_DEF1);
    for round in 0..200 {
        pair.write(&mut numbers, round % 3 == 0);
        for _ in 0..3 {
            pair.read(&mut numbers, round % 2 == 0);
        }
        if round % 40 == 39 {
            // Another process finds the same, although nothing was closed.
            pair.image.settle().unwrap();
            assert_eq!(check::check(&file).unwrap().size, u64::from(SIZE));
            let below = Image::raw(base.try_clone().unwrap(), None).unwrap();
            let ours = file.try_clone().unwrap();
            pair.image = Image::open(ours, None, true, Some(below)).unwrap();
        }
    }
    assert!(bytes_of(&base) == original, "the base was written");
}

#[test]
fn a_write_at_once_needs_a_cluster_that_is_in_the_file() {
    let (image, _file) = above(&base(), SIZE.into());
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    let sections = [memory.section(0x1000, 512).unwrap()];
    let error = image.write_now(&memory, 0, &sections).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(image.write(&memory, 0, &sections).unwrap(), 512);
    // The file does not say yet that the cluster is there.
    let error = image.write_now(&memory, 512, &sections).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    image.settle().unwrap();
    assert_eq!(image.write_now(&memory, 512, &sections).unwrap(), 512);
}

/// What `settle` does to the file after a write of `bytes` at `offset`.
fn done_after_a_write(offset: u64, bytes: u32) -> Vec<Done> {
    let (image, _file) = above(&base(), SIZE.into());
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    let sections = [memory.section(0x1000, bytes).unwrap()];
    assert_eq!(image.write(&memory, offset, &sections).unwrap(), bytes);
    let (mapping, _) = image.access.get_mapping(offset, 512).unwrap();
    let Mapping::Raw { storage, .. } = mapping else {
        panic!("{mapping:?}");
    };
    storage.done.lock().unwrap().clear();
    image.settle().unwrap();
    let first = storage.done.lock().unwrap().clone();
    // Nothing is left to be done.
    image.settle().unwrap();
    assert_eq!(*storage.done.lock().unwrap(), first);
    first
}

#[test]
fn copies_are_on_the_disk_before_the_tables_that_have_them() {
    const CLUSTER: u32 = 0x1_0000;
    for (offset, bytes) in [(512, 512), (0, 512), (CLUSTER / 2, CLUSTER)] {
        let done = done_after_a_write(offset.into(), bytes);
        assert_eq!(done[0], Done::Sync, "{offset:#x}");
        assert!(done[1..].contains(&Done::Write));
    }
    // Whole clusters have no copies.
    let done = done_after_a_write(CLUSTER.into(), 2 * CLUSTER);
    assert!(!done.is_empty() && !done.contains(&Done::Sync), "{done:?}");
}

#[test]
fn what_is_read_ahead_ends_with_the_disk() {
    let below = base();
    let again = Some(below.try_clone().unwrap());
    let below = Image::raw(below, again).unwrap();
    let image = Image::create(memory_file(&[]), None, SIZE.into(), below, None)
        .unwrap();
    let mut at = 0;
    let mut ignored = vec![0; 64 << 10];
    while let Some(read) = image.read_ahead(at, &mut ignored) {
        at += read as u64;
    }
    assert_eq!(at, u64::from(SIZE));
}

/// Whatever bytes of an image are changed, it is refused or used without harm
/// to us.
#[test]
fn a_forged_image_is_refused_or_does_no_harm() {
    let (image, file) = above(&base(), SIZE.into());
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    let sections = [memory.section(0x1000, 0x1_0000).unwrap()];
    for cluster in [0, 2, 4] {
        image.write(&memory, cluster << 16, &sections).unwrap();
    }
    image.settle().unwrap();
    let good = bytes_of(&file);
    let mut numbers = Numbers(0xFEED_5678_9ABC_DEF1);
    let mut used = 0;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..1 + numbers.below(3) {
            // The beginnings of clusters are headers and tables.
            let cluster = numbers.below(7) as usize * 0x1_0000;
            let at = cluster + numbers.below(130) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = numbers.below(256) as u8;
            }
        }
        let file = memory_file(&bytes);
        let Ok(None) = base_of(&file) else { continue };
        let Ok(image) = Image::open(file, None, true, None) else {
            continue;
        };
        used += 1;
        for at in [0_u64, 1 << 15, 3 << 16, 5 << 16] {
            let _ = image.read(&memory, at, &sections);
            let _ = image.write(&memory, at, &sections);
        }
        let _ = image.settle();
    }
    assert!(used > 100, "{used} images were used");
}

/// Nothing reads it after the Guest has ended, so its tables need not be there.
#[test]
fn an_image_that_is_thrown_away_is_written_at_once() {
    let (mut image, _file) = above(&base(), SIZE.into());
    image.is_kept = false;
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    let sections = [memory.section(0x1000, 512).unwrap()];
    assert_eq!(image.write(&memory, 0, &sections).unwrap(), 512);
    assert_eq!(image.write_now(&memory, 512, &sections).unwrap(), 512);
}

/// Sections may be longer than the zeroes that are at hand, and the same.
#[test]
fn zeroes_fill_their_sections_and_nothing_else() {
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    memory.write(0, &[0xEE; 0x10_0000]).unwrap();
    let section = |at, len| memory.section(at, len).unwrap();
    let long = section(0x1_0001, 0x2_0003);
    zero(&memory, &[long, section(0x5000, 1), long]).unwrap();
    let mut bytes = vec![0; 0x10_0000];
    memory.read(0, &mut bytes).unwrap();
    for (at, byte) in bytes.into_iter().enumerate() {
        let filled = (0x1_0001..0x3_0004).contains(&at) || at == 0x5000;
        assert_eq!(byte == 0, filled, "{at:#x}");
    }
}
