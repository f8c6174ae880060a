//! The protocol of disks.
//!
//! Requests of every kind go to a disk of every size. The page and the lists
//! change after the request was made. A write that succeeds is in the file, a
//! read that succeeds is in memory, and all other requests leave both
//! unchanged.

use crate::guest::{
    LIMIT, PAGE, address, file, guest, image, is_beyond, is_good, list,
};
use crate::input::Input;
use lg_abi::device::{
    BLOCK_DONE, BLOCK_ERROR, BLOCK_READ, BLOCK_WRITE, BlockPage,
};
use lg_abi::dma::Dma;
use lguest::devices::block::{Block, Disk};
use lguest::engine::{Requests, Scripted};
use lguest::transport::BusDevice;
use lguest::transport::keys::{KeyedDevice, KeyedDisk, Place};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Requests to one disk.
///
/// # Panics
///
/// If an answer is wrong.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let content: Vec<u8> =
        (0..input.below(5000)).map(|n| n.to_le_bytes()[0]).collect();
    let backing = file(&content);
    let read_only = input.bit();
    let path = format!("/proc/self/fd/{}", backing.as_raw_fd());
    let Ok(disk) = Disk::open(&PathBuf::from(path), read_only) else {
        assert!(content.len() < 512, "a disk was refused");
        return;
    };
    let place = Place {
        index: 0,
        page: PAGE,
        irq: 1,
    };
    let guest = guest();
    let mut block = KeyedDisk::new(Block::new(disk));
    let placed = block.place(guest.clone(), place);
    placed.expect("the disk's page is there");
    let mut test = Test {
        block,
        guest,
        bound: None,
        backing,
        content,
        read_only,
    };
    for _ in 0..16 {
        if input.is_empty() || !test.request(&mut input) {
            return;
        }
    }
}

struct Test {
    block: KeyedDisk,
    guest: std::sync::Arc<Scripted>,
    /// The last list that the Guest has bound to the disk's page.
    bound: Option<u32>,
    backing: File,
    content: Vec<u8>,
    read_only: bool,
}

impl Test {
    /// One request. Returns whether the Guest is alive.
    fn request(&mut self, input: &mut Input<'_>) -> bool {
        let memory = self.guest.memory().clone();
        let (send, sent) = (address(input), list(input));
        let bound =
            input.bit().then(|| (address(input), 1 + input.byte() % 31));
        let free = Dma {
            used_len: 0,
            ..list(input)
        };
        self.guest.unbind(PAGE);
        if let Some((addr, irq)) = bound {
            let _ = memory.write_object(addr, &free);
            self.guest.bind(PAGE, addr, irq);
        }
        let _ = memory.write_object(send, &sent);
        self.bound = bound.map(|(addr, _)| addr);
        let kind = input.below(3);
        let bytes = if input.bit() {
            let list = if kind == BLOCK_READ { &free } else { &sent };
            list.sections().map(|(_, len)| u32::from(len)).sum()
        } else {
            input.word()
        };
        let page = BlockPage {
            kind,
            sector: if input.bit() {
                input.word()
            } else {
                input.below(12)
            },
            bytes,
            result: 0,
            num_sectors: input.word(),
        };
        let _ = memory.write_object(PAGE, &page);
        let key = if input.byte() == 0 {
            address(input)
        } else {
            PAGE
        };
        // Read before the request, because buffers may overlap.
        let sent: Option<Dma> = memory.read_object(send).ok();
        let is_free = |at: &u32| memory.read_object::<u32>(*at) == Ok(0);
        let bound = self.bound.filter(is_free);
        let into: Option<Dma> =
            bound.and_then(|addr| memory.read_object(addr).ok());
        let page: BlockPage = memory.read_object(PAGE).expect("it is there");
        let before = image(&self.guest);
        if self.block.send(send, key).is_err() {
            let good = |dma: Option<Dma>| dma.is_some_and(|d| is_good(&d));
            let bad = match page.kind {
                BLOCK_WRITE => !good(sent),
                BLOCK_READ => bound.is_some() && !good(into),
                _ => false,
            };
            assert!(key != PAGE || bad, "killed without a reason");
            self.check_file();
            return false;
        }
        assert_eq!(key, PAGE, "a wrong key was accepted");
        if self.guest.killed().is_some() {
            assert!(
                self.bound.is_some_and(is_beyond),
                "killed without a reason"
            );
            self.block.device().finish();
            if page.kind != BLOCK_WRITE {
                self.check_file();
            }
            return false;
        }
        // The Guest runs on, and changes its request.
        let _ = memory.write(PAGE, &[0xA5; 12]);
        let irq = self.guest.wait_irq();
        assert!(irq.is_some(), "an answer without an interrupt");
        let result: u32 = memory
            .read_object(PAGE + BlockPage::RESULT_OFFSET)
            .expect("it is there");
        match (result, page.kind) {
            (BLOCK_DONE, BLOCK_WRITE) => {
                assert!(!self.read_only, "written to a read-only disk");
                self.expect_written(&page, &sent.expect("good"), &before);
            }
            (BLOCK_DONE, BLOCK_READ) => {
                self.expect_read(&page, &into.unwrap_or_default());
            }
            (BLOCK_ERROR, _) => {}
            // Its own `used_len` overwrote the answer.
            _ if bound.is_some_and(|addr| touches_page(addr, 4)) => {}
            other => panic!("an invalid answer: {other:?}"),
        }
        self.check_file();
        true
    }

    /// The bytes of the disk that the request is about.
    fn place(&self, page: &BlockPage) -> std::ops::Range<usize> {
        let start = page.sector as usize * 512;
        let end = start + page.bytes as usize;
        assert!(end <= self.content.len() / 512 * 512, "past the end");
        start..end
    }

    fn expect_written(&mut self, page: &BlockPage, sent: &Dma, image: &[u8]) {
        let place = self.place(page);
        let mut data = Vec::new();
        for (addr, len) in sent.sections() {
            data.extend(&image[addr as usize..][..usize::from(len)]);
        }
        if sent.sections().any(|(addr, len)| touches_page(addr, len)) {
            // The Guest has sent the page of the request, and then changed it.
            let mut now = vec![0; data.len()];
            let read = self.backing.read_exact_at(&mut now, place.start as u64);
            read.expect("it is inside");
            self.content[place].copy_from_slice(&now);
            return;
        }
        self.content[place].copy_from_slice(&data);
    }

    fn expect_read(&self, page: &BlockPage, into: &Dma) {
        let image = image(&self.guest);
        let mut rest = &self.content[self.place(page)];
        let list: Vec<(u32, u16)> = into.sections().collect();
        let apart = list.iter().enumerate().all(|(i, a)| {
            list[..i].iter().all(|b| !overlap(*a, *b))
                && !touches_page(a.0, a.1)
        });
        for (addr, len) in list {
            let (part, more) = rest.split_at(usize::from(len));
            let there = &image[addr as usize..][..part.len()];
            // The answer in `used_len` may have overwritten it.
            let bound = self.bound;
            let own = bound.is_some_and(|b| overlap((b, 4), (addr, len)));
            assert!(
                !apart || own || there == part,
                "the data differ from the disk's"
            );
            rest = more;
        }
    }

    fn check_file(&self) {
        let mut now = vec![0; self.content.len()];
        let read = self.backing.read_exact_at(&mut now, 0);
        read.expect("no disk gets shorter");
        assert!(now == self.content, "the disk was changed");
        let size = self.backing.metadata().expect("it is open").len();
        assert_eq!(size, self.content.len() as u64, "the disk has grown");
    }
}

/// Whether a section is in the disk's page.
fn touches_page(addr: u32, len: u16) -> bool {
    overlap((addr, len), (PAGE, 20)) && addr < LIMIT
}

fn overlap(a: (u32, u16), b: (u32, u16)) -> bool {
    let end = |(addr, len): (u32, u16)| u64::from(addr) + u64::from(len);
    u64::from(a.0) < end(b) && u64::from(b.0) < end(a)
}
