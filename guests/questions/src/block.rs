//! Questions about the disk, asked without a driver.
//!
//! It has 256 sectors here, and each byte of a sector is the sector's number.
//! The test that starts this Guest makes it so.

use crate::dma::{dma, dma_at};
use crate::lab::calls::{bind, send};
use crate::lab::hypercall;
use crate::lab::memory::{self, load, peek, poke, store};
use crate::lab::space::{KERNEL_DATA, KERNEL_PAGE, first};
use crate::lab::trap;
use lg_abi::device::{BLOCK_READ, BLOCK_WRITE, DeviceDescriptor};
use lg_abi::dma::LGUEST_MAX_DMA_SECTIONS;
use lg_abi::hypercall::Hypercall;
use lg_guest::{println, shared};

/// The physical address of the descriptors.
const DESCRIPTORS: u32 = 16 << 20;

/// The virtual address at which the lab maps device pages, one after the other.
const WINDOW: u32 = KERNEL_DATA + 0x1000;

/// Words of the disk's page.
const TYPE: u32 = 0;
const SECTOR: u32 = 4;
const BYTES: u32 = 8;
const RESULT: u32 = 12;
const NUM_SECTORS: u32 = 16;

/// The words of descriptor `index`: type and features, status and pages, pfn.
pub(crate) fn descriptor(index: u32) -> [u32; 3] {
    first().set_pte(KERNEL_DATA, DESCRIPTORS | KERNEL_PAGE);
    [0, 4, 8].map(|at| load(KERNEL_DATA + index * DeviceDescriptor::SIZE + at))
}

/// Maps the page of device `index`. Returns its key and its virtual address.
pub(crate) fn device_page(index: u32) -> (u32, u32) {
    let [_, _, pfn] = descriptor(index);
    let at = WINDOW + index * 0x1000;
    first().set_pte(at, (pfn << 12) | KERNEL_PAGE);
    (pfn << 12, at)
}

/// A disk, and the buffer bound to it.
struct Disk {
    key: u32,
    at: u32,
    bound: u32,
}

impl Disk {
    /// Disk number `index`, with nothing bound.
    fn bare(index: u32) -> Self {
        let (key, at) = device_page(index);
        Self { key, at, bound: 0 }
    }

    /// The first disk, with a buffer of these sections bound.
    fn with(sections: &[(u32, u16)]) -> Self {
        let disk = Self::bare(0);
        let bound = dma(sections);
        assert_eq!(bind(disk.key, bound, 1, 1), 1);
        Self { bound, ..disk }
    }

    /// Sends a request, waits for its end, and prints the result.
    fn request(&self, kind: u32, sector: u32, bytes: u32, what: &[(u32, u16)]) {
        for (field, word) in
            [(TYPE, kind), (SECTOR, sector), (BYTES, bytes), (RESULT, 0)]
        {
            store(self.at + field, word);
        }
        let before = trap::count();
        let sent = dma(what);
        send(self.key, sent);
        while load(self.at + RESULT) == 0 || trap::count() == before {
            hypercall(Hypercall::Halt, 0, 0, 0);
            shared::set_irq_enabled(false);
        }
        let used_len = if self.bound == 0 { 0 } else { peek(self.bound) };
        println!(
            "result {}, used_len {} of the sender, {used_len} of the bound, \
             vector {}",
            load(self.at + RESULT),
            peek(sent),
            trap::nth(before).trapped.vector
        );
    }

    fn read(&self, sector: u32, bytes: u32) {
        self.request(BLOCK_READ, sector, bytes, &[]);
    }
}

/// What is in the descriptor of a disk, and in its page?
pub(crate) fn disk_description() {
    let [kind, status, pfn] = descriptor(0);
    println!("type {}, features {:#x}", kind & 0xFFFF, kind >> 16);
    println!("status {:#x}, pages {}", status & 0xFFFF, status >> 16);
    println!("pages above RAM {}", pfn - (DESCRIPTORS >> 12));
    let disk = Disk::bare(0);
    for field in [TYPE, SECTOR, BYTES, RESULT, NUM_SECTORS] {
        println!("{}", load(disk.at + field));
    }
}

/// Which devices are on the bus, in which order, and is the rest of the page
/// empty?
pub(crate) fn bus() {
    for index in 0..16 {
        let [kind, status, pfn] = descriptor(index);
        if kind | status | pfn != 0 {
            println!("{index}: {kind:#x} {status:#x} {pfn:#x}");
        }
    }
    let rest = 16 * DeviceDescriptor::SIZE..4096;
    let used = rest.step_by(4).any(|at| load(KERNEL_DATA + at) != 0);
    println!("more: {used}");
}

/// Does the status of a device keep what the Guest sets? Only the Guest changes
/// it.
pub(crate) fn status_kept() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    for status in [1, 3, 7, 0x83] {
        let pages = load(KERNEL_DATA + 4) & 0xFFFF_0000;
        store(KERNEL_DATA + 4, pages | status);
        poke(disk.bound, 0);
        disk.read(0, 512);
        println!("status {:#x}", load(KERNEL_DATA + 4) & 0xFFFF);
    }
}

/// Does a read fill the bound buffer, and report that in all four places?
pub(crate) fn read() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    disk.read(7, 512);
    println!(
        "{:#x} {:#x} {:#x}",
        peek(0x5_0000),
        peek(0x5_01FC),
        peek(0x5_0200)
    );
}

/// Does a read fill sections of any size, in their order?
pub(crate) fn read_in_pieces() {
    let disk = Disk::with(&[
        (0x5_0001, 511),
        (0x6_0000, 1),
        (0x7_0FFE, 2),
        (0x7_1000, 510),
    ]);
    disk.read(5, 1024);
    println!("{:x}", memory::bytes(0x5_0000, 2)[1]);
    println!("{:x?}", &memory::bytes(0x5_01FF, 2));
    println!("{:x?}", &memory::bytes(0x6_0000, 2));
    println!(
        "{:x?} {:x?}",
        memory::bytes(0x7_0FFD, 4),
        memory::bytes(0x7_11FD, 2)
    );
}

/// Does a read fill sixteen whole pages?
pub(crate) fn read_the_most() {
    let sections: [_; LGUEST_MAX_DMA_SECTIONS] =
        core::array::from_fn(|n| (0x5_0000 + n as u32 * 0x1000, 0x1000));
    let disk = Disk::with(&sections);
    disk.read(128, 0x1_0000);
    println!("{:#x} {:#x}", peek(0x5_0000), peek(0x5_FFFC));
}

/// Is a read refused if its buffer has another size than the request?
pub(crate) fn read_into_another_size() {
    for size in [511, 513, 1024] {
        let disk = Disk::with(&[(0x5_0000, size)]);
        disk.read(7, 512);
        println!("{:#x}", peek(0x5_0000));
        bind(disk.key, disk.bound, 1, 0);
    }
}

/// Is a read refused without a buffer?
pub(crate) fn read_into_nothing() {
    Disk::bare(0).read(7, 512);
}

/// Is a read refused if its buffer is not free?
pub(crate) fn read_into_a_full_buffer() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    poke(disk.bound, 9);
    disk.read(7, 512);
    println!("{:#x}", peek(0x5_0000));
}

/// Does a read into memory that does not exist end the Guest?
pub(crate) fn read_into_missing_memory() {
    Disk::with(&[(0x4000_0000, 512)]).read(7, 512);
}

/// Can the last sector be read, and is the one after it refused?
pub(crate) fn read_at_the_end() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    for sector in [255, 256, 0x0080_0000, u32::MAX] {
        poke(disk.bound, 0);
        poke(0x5_0000, 0xAAAA_AAAA);
        disk.read(sector, 512);
        println!("{:#x}", peek(0x5_0000));
    }
}

/// Is a read refused that begins on the disk and ends after it?
pub(crate) fn read_over_the_end() {
    let disk = Disk::with(&[(0x5_0000, 1024)]);
    disk.read(255, 1024);
    println!("{:#x}", peek(0x5_0000));
}

/// May a request have a size that is not a whole number of sectors?
pub(crate) fn read_an_odd_size() {
    let disk = Disk::with(&[(0x5_0000, 100)]);
    disk.read(3, 100);
    println!("{:x?}", &memory::bytes(0x5_0063, 2));
}

/// May a request have no bytes?
pub(crate) fn read_no_bytes() {
    Disk::with(&[]).read(3, 0);
}

/// Is the size that the Guest writes into the disk's page ignored?
pub(crate) fn read_with_another_size_of_disk() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    store(disk.at + NUM_SECTORS, u32::MAX);
    disk.read(256, 512);
    println!("{}", load(disk.at + NUM_SECTORS));
}

/// Does a write reach the disk, and leave the bound buffer at 0?
pub(crate) fn write() {
    let disk = Disk::with(&[(0x5_0000, 1024)]);
    memory::write(0x6_0000, &[0xEE; 1024]);
    disk.request(BLOCK_WRITE, 9, 1024, &[(0x6_0200, 512), (0x6_0000, 512)]);
    disk.read(10, 1024);
    println!("{:#x} {:#x}", peek(0x5_0000), peek(0x5_0200));
}

/// Is a write across the end refused, without any write before the end?
pub(crate) fn write_over_the_end() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    memory::write(0x6_0000, &[0xEE; 1024]);
    disk.request(BLOCK_WRITE, 255, 1024, &[(0x6_0000, 1024)]);
    disk.read(255, 512);
    println!("{:#x}", peek(0x5_0000));
}

/// Is a write refused whose data is longer or shorter than its request says?
pub(crate) fn write_another_size() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    disk.request(BLOCK_WRITE, 9, 512, &[(0x6_0000, 511)]);
    disk.request(BLOCK_WRITE, 9, 512, &[(0x6_0000, 513)]);
    disk.request(BLOCK_WRITE, 9, 512, &[]);
    disk.read(9, 512);
    println!("{:#x}", peek(0x5_0000));
}

/// Does a write need a bound buffer?
pub(crate) fn write_without_a_buffer() {
    let disk = Disk::bare(0);
    disk.request(BLOCK_WRITE, 9, 512, &[(0x6_0000, 512)]);
}

/// Does a write from memory that does not exist end the Guest?
pub(crate) fn write_from_missing_memory() {
    let disk = Disk::bare(0);
    disk.request(BLOCK_WRITE, 9, 512, &[(0x4000_0000, 512)]);
}

/// May data and descriptor be changed after the call returns?
pub(crate) fn write_and_scribble() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    memory::write(0x6_0000, &[0xEE; 512]);
    let sent = dma(&[(0x6_0000, 512)]);
    for (field, word) in
        [(TYPE, BLOCK_WRITE), (SECTOR, 9), (BYTES, 512), (RESULT, 0)]
    {
        store(disk.at + field, word);
    }
    send(disk.key, sent);
    dma_at(sent, &[(u32::MAX, u16::MAX)]);
    store(disk.at + SECTOR, 77);
    store(disk.at + TYPE, 5);
    while load(disk.at + RESULT) == 0 {
        hypercall(Hypercall::Halt, 0, 0, 0);
        shared::set_irq_enabled(false);
    }
    println!("result {}", load(disk.at + RESULT));
    disk.read(9, 512);
    println!("{:#x}", peek(0x5_0000));
}

/// Is a request that is neither read nor write refused?
pub(crate) fn neither_read_nor_write() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    disk.request(2, 9, 512, &[(0x6_0000, 512)]);
    disk.request(u32::MAX, 9, 512, &[]);
}

/// Is the disk's key the first byte of its page, and no other?
pub(crate) fn wrong_key() {
    let disk = Disk::bare(0);
    send(disk.key + 4, dma(&[]));
}

/// Is a read-only disk read, and a write to it refused?
pub(crate) fn read_only() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    disk.request(BLOCK_WRITE, 9, 512, &[(0x6_0000, 512)]);
    disk.read(9, 512);
    println!("{:#x}", peek(0x5_0000));
}

/// Is the interrupt of a request the one of the bound buffer, and without one
/// the device's own?
pub(crate) fn interrupt_of_a_disk() {
    let disk = Disk::bare(0);
    disk.read(0, 512);
    let bound = dma(&[(0x5_0000, 512)]);
    bind(disk.key, bound, 1, 17);
    Disk { bound, ..disk }.read(0, 512);
}

/// Does each of two disks have its own page, interrupt and file?
pub(crate) fn two_disks() {
    let disks = [0, 1].map(Disk::bare);
    for (n, disk) in (0..).zip(&disks) {
        let bound = dma(&[(0x5_0000 + n * 512, 512)]);
        bind(disk.key, bound, 1, 1 + n as u8);
        Disk { bound, ..*disk }.read(7, 512);
        println!("{:#x}", peek(0x5_0000 + n * 512));
    }
}

/// Are many requests in a row all carried out?
pub(crate) fn many_requests() {
    let disk = Disk::with(&[(0x5_0000, 512)]);
    let mut wrong = 0;
    let sent = dma(&[]);
    for n in 0..500 {
        poke(disk.bound, 0);
        for (field, word) in [
            (TYPE, BLOCK_READ),
            (SECTOR, n % 256),
            (BYTES, 512),
            (RESULT, 0),
        ] {
            store(disk.at + field, word);
        }
        send(disk.key, sent);
        while load(disk.at + RESULT) == 0 || peek(disk.bound) == 0 {
            hypercall(Hypercall::Halt, 0, 0, 0);
            shared::set_irq_enabled(false);
        }
        let byte = n % 256;
        wrong += u32::from(peek(0x5_0000) != byte * 0x0101_0101);
    }
    println!("wrong: {wrong}");
}
