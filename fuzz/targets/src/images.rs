//! qcow2 images from strangers.
//!
//! An image with small clusters is forged in some places or cut off. Requests
//! go to the disk that it makes, if it is not refused. Nothing panics or hangs.
//! An image that was not forged keeps what was written, and is good afterwards.

use crate::guest::file;
use crate::input::Input;
use lguest::devices::block::{
    Block, Completion, Disk, DiskOperation, DiskOutcome, DiskRequest,
};
use lguest::memory::GuestMemory;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

/// Bytes of a cluster, and of the disk.
const CLUSTER: usize = 512;
const SIZE: usize = 128 << 10;

/// In an entry of a table: the cluster is used once.
const COPIED: u64 = 1 << 63;

/// Forges an image and uses it.
///
/// # Panics
///
/// If a good image is refused or loses something.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut image = good();
    let mut model = vec![0; SIZE];
    model[..CLUSTER].fill(5);
    model[2 * CLUSTER..3 * CLUSTER].fill(6);
    let forged = forge(&mut input, &mut image);
    let file = file(&image);
    let read_only = input.byte().is_multiple_of(8);
    let Some(disk) = open(&file, read_only) else {
        assert!(forged, "a good image was refused");
        return;
    };
    let mut block = Block::new(disk);
    let memory = GuestMemory::new(1 << 20, 1).expect("memory can be had");
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        request(&mut input, &mut block, &memory, &mut model, forged);
    }
    block.finish();
    drop(block);
    if !forged {
        // A copy, because a thread may still read ahead in the file.
        let mut image = Vec::new();
        let mut from = &file;
        from.seek(SeekFrom::Start(0)).expect("it is a file");
        from.read_to_end(&mut image).expect("it can be read");
        let copy = crate::guest::file(&image);
        assert!(open(&copy, true).is_some(), "it is no good image any more");
    }
}

/// Opens the image in `file`.
fn open(file: &File, read_only: bool) -> Option<Disk> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let disk = Disk::open(&path, read_only).ok()?;
    let disk = disk.by_its_format().ok()?;
    // Without its mark it is a raw file, which another target knows.
    disk.format().is_none().then_some(disk)
}

/// A good image with two clusters of data.
fn good() -> Vec<u8> {
    let mut image = vec![0; 7 * CLUSTER];
    let mut put = |at: usize, words: &[u64]| {
        for (n, word) in words.iter().enumerate() {
            image[at + 8 * n..][..8].copy_from_slice(&word.to_be_bytes());
        }
    };
    let at = |cluster: u64| cluster * CLUSTER as u64;
    let size = SIZE as u64;
    put(0, &[0x5146_49FB_0000_0003, 0, 9, size, 4, at(3), at(1)]);
    put(56, &[1 << 32, 0, 0, 0, 0, 4 << 32 | 104]);
    put(CLUSTER, &[at(2)]);
    put(2 * CLUSTER, &[0x0001_0001_0001_0001, 0x0001_0001_0001_0000]);
    put(3 * CLUSTER, &[at(4) | COPIED]);
    put(4 * CLUSTER, &[at(5) | COPIED, 0, at(6) | COPIED]);
    image[5 * CLUSTER..6 * CLUSTER].fill(5);
    image[6 * CLUSTER..].fill(6);
    image
}

/// Changes `image` in some places. Returns whether it has changed.
fn forge(input: &mut Input<'_>, image: &mut Vec<u8>) -> bool {
    let before = image.clone();
    for _ in 0..input.byte() % 5 {
        let clusters = u32::try_from(image.len() / CLUSTER).unwrap_or(1);
        let at = input.below(clusters) as usize * CLUSTER
            + input.byte() as usize % 128;
        let word = match input.byte() % 4 {
            0 => input.byte().into(),
            1 => (u64::from(input.below(9)) * CLUSTER as u64) | COPIED,
            2 => u64::from(input.word()) << 32 | u64::from(input.word()),
            _ => (u64::from(input.below(9)) * CLUSTER as u64) | (1 << 62),
        };
        let bytes = 1 << (input.byte() % 4);
        image[at..at + bytes].copy_from_slice(&word.to_be_bytes()[8 - bytes..]);
    }
    if input.byte() % 8 == 7 {
        image.truncate(input.below(4000) as usize);
    }
    *image != before
}

/// Tells how a request has ended.
struct Ended(Sender<DiskOutcome>);

impl Completion for Ended {
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        // The target waits for it.
        let _ = self.0.send(outcome);
    }
}

/// One request.
fn request(
    input: &mut Input<'_>,
    block: &mut Block,
    memory: &GuestMemory,
    model: &mut [u8],
    forged: bool,
) {
    let operation = match input.byte() % 8 {
        0..3 => DiskOperation::Read,
        3..7 => DiskOperation::Write,
        _ => DiskOperation::Flush,
    };
    let sectors = match operation {
        DiskOperation::Flush => 0,
        _ => 1 + input.below(16),
    };
    let sector = input.below(260);
    let bytes = sectors * 512;
    let section = memory.section(0x1_0000, bytes);
    let value = input.byte();
    let fill = vec![value; bytes as usize];
    memory.write(0x1_0000, &fill).expect("it is in memory");
    let (sender, ended) = channel();
    block.submit(DiskRequest {
        operation,
        sector: sector.into(),
        memory: memory.clone(),
        sections: vec![section.expect("it is in memory")],
        stable: input.bit(),
        done: Box::new(Ended(sender)),
    });
    let outcome = ended.recv().expect("every request is answered");
    if forged {
        return;
    }
    let at = sector as usize * 512;
    let range = at..at + bytes as usize;
    let fits = range.end <= SIZE;
    let allowed = operation != DiskOperation::Write || !block.is_read_only();
    assert_eq!(
        outcome.is_done,
        fits && allowed,
        "{operation:?} at {sector}"
    );
    match operation {
        DiskOperation::Read if fits => {
            let mut read = vec![0; bytes as usize];
            memory.read(0x1_0000, &mut read).expect("it is in memory");
            assert!(read == model[range], "read something else at {sector}");
        }
        DiskOperation::Write if fits && allowed => {
            model[range].copy_from_slice(&fill);
        }
        _ => {}
    }
}
