//! What a disk does with requests, good and bad, and with files.

use super::*;
use crate::devices::block::{Disk, DiskError};
use crate::devices::scripted;
use crate::engine::Scripted;
use crate::transport::DeviceState;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE: u32 = 0x1_1000;
const BOUND: u32 = 0x2000;
const SENT: u32 = 0x2100;
const DATA: u32 = 0x4000;

/// A directory that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("lguest-block-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.0.join(name);
        let pattern = |i: usize| u8::try_from(i / 512 % 251).unwrap();
        let bytes: Vec<u8> = (0..bytes).map(pattern).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn block(path: &Path, read_only: bool) -> (Arc<Scripted>, KeyedDisk) {
    let block = Block::new(Disk::open_when_free(path, read_only));
    placed(block)
}

fn placed(block: Block) -> (Arc<Scripted>, KeyedDisk) {
    let host = scripted();
    let mut block = KeyedDisk::new(block);
    let place = Place {
        index: 0,
        page: PAGE,
        irq: 1,
    };
    block.place(host.clone(), place).unwrap();
    host.put_dma(BOUND, &[(DATA, 1024), (DATA + 0x1000, 512)]);
    host.bind(PAGE, BOUND, 1);
    (host, block)
}

/// Sends a request and returns its answer: (result, `used_len`).
fn request(
    host: &Scripted,
    block: &mut KeyedDisk,
    kind: u32,
    sector: u32,
    bytes: u32,
) -> (u32, u32) {
    let page = BlockPage {
        kind,
        sector,
        bytes,
        result: 0,
        num_sectors: 0xFFFF_FFFF, // any value is ignored
    };
    host.memory().write_object(PAGE, &page).unwrap();
    host.memory().write(BOUND, &[0; 4]).unwrap();
    assert_eq!(block.send(SENT, PAGE).unwrap().bytes, 0);
    assert_eq!(host.wait_irq(), Some(1));
    (host.word(PAGE + 12), host.word(BOUND))
}

#[test]
fn the_page_tells_how_many_whole_sectors_there_are() {
    let scratch = Scratch::new("sectors");
    let (host, _block) = block(&scratch.file("disk", 5 * 512 + 100), true);
    assert_eq!(host.word(PAGE + 16), 5);
}

#[test]
fn a_read_fills_the_bound_buffer() {
    let scratch = Scratch::new("read");
    let (host, mut block) = block(&scratch.file("disk", 8 * 512), false);
    assert_eq!(request(&host, &mut block, BLOCK_READ, 2, 1536), (1, 1536));
    assert_eq!(host.bytes(DATA, 1)[0], 2);
    assert_eq!(host.bytes(DATA + 1023, 2), [3, 0]);
    assert_eq!(host.bytes(DATA + 0x1000, 1)[0], 4);
}

#[test]
fn a_write_is_in_the_file_when_it_is_acknowledged() {
    let scratch = Scratch::new("write");
    let path = scratch.file("disk", 8 * 512);
    let (host, mut block) = block(&path, false);
    host.memory().write(0x6000, &[0xAA; 512]).unwrap();
    host.put_dma(SENT, &[(0x6000, 512)]);
    assert_eq!(request(&host, &mut block, BLOCK_WRITE, 7, 512), (1, 0));
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file.len(), 8 * 512);
    assert_eq!(file[7 * 512 - 1..][..2], [6, 0xAA]);
}

#[test]
fn what_cannot_be_done_is_an_error_and_touches_nothing() {
    let scratch = Scratch::new("bad");
    let path = scratch.file("disk", 8 * 512);
    let before = std::fs::read(&path).unwrap();
    let (host, mut block) = block(&path, false);
    host.put_dma(SENT, &[(0x6000, 512)]);
    for (kind, sector, bytes) in [
        (BLOCK_READ, 6, 1536),           // past the end
        (BLOCK_READ, 0xFFFF_FFFF, 1536), // far past it
        (BLOCK_READ, 0, 1535),           // not what the buffer holds
        (BLOCK_READ, 0, 0),
        (BLOCK_WRITE, 8, 512),
        (BLOCK_WRITE, 0, 513),
        (2, 0, 1536),
        (0xFFFF_FFFF, 0, 0xFFFF_FFFF),
    ] {
        let answer = request(&host, &mut block, kind, sector, bytes);
        assert_eq!(answer, (2, 0), "{kind} {sector} {bytes}");
    }
    // After these errors it works as before.
    assert_eq!(request(&host, &mut block, BLOCK_READ, 5, 1536), (1, 1536));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(block.device().counters().last(), Some(&("errors", 8)));
}

#[test]
fn a_read_without_a_bound_buffer_is_an_error() {
    let scratch = Scratch::new("unbound");
    let (host, mut block) = block(&scratch.file("disk", 8 * 512), false);
    host.bind(PAGE, SENT, 1);
    host.memory().write(SENT, &[1]).unwrap(); // not free
    assert_eq!(request(&host, &mut block, BLOCK_READ, 0, 1536), (2, 0));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let scratch = Scratch::new("ro");
    let path = scratch.file("disk", 8 * 512);
    let before = std::fs::read(&path).unwrap();
    let (host, mut block) = block(&path, true);
    host.put_dma(SENT, &[(0x6000, 512)]);
    assert_eq!(request(&host, &mut block, BLOCK_WRITE, 0, 512), (2, 0));
    assert_eq!(request(&host, &mut block, BLOCK_READ, 0, 1536), (1, 1536));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    let scratch = Scratch::new("shrunk");
    let path = scratch.file("disk", 8 * 512);
    let (host, mut block) = block(&path, false);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(600)
        .unwrap();
    let answer = request(&host, &mut block, BLOCK_READ, 0, 1536);
    assert_eq!(answer, (2, 600));
}

#[test]
fn rules_that_are_broken_end_the_guest() {
    let scratch = Scratch::new("rules");
    let path = scratch.file("disk", 8 * 512);
    let send = |prepare: &dyn Fn(&Scripted, &mut KeyedDisk), key: u32| {
        let (host, mut block) = block(&path, true);
        prepare(&host, &mut block);
        block.send(SENT, key).err().unwrap().to_string()
    };
    let text = send(&|_, _| {}, PAGE + 4);
    assert_eq!(text, "a disk's key is its page 0x11000, not 0x11004");
    let text = send(&|_, block| block.busy = Arc::new(true.into()), PAGE);
    assert_eq!(text, "a second request to a disk that is busy with one");
    let cross = |host: &Scripted, _: &mut KeyedDisk| {
        host.put_dma(BOUND, &[(DATA + 0xE01, 512)]);
    };
    let text = send(&cross, PAGE);
    assert_eq!(
        text,
        "bad dma section 0x4e01+0x200: it must lie inside one page below \
         0x13000"
    );
}

#[test]
fn the_end_of_a_disk_waits_for_what_was_begun() {
    let scratch = Scratch::new("end");
    let path = scratch.file("disk", 64 * 512);
    let (host, mut block) = block(&path, false);
    block.block.never_at_once();
    host.memory().write(0x6000, &[0x55; 512]).unwrap();
    host.put_dma(SENT, &[(0x6000, 512)]);
    let page = BlockPage {
        kind: BLOCK_WRITE,
        sector: 9,
        bytes: 512,
        ..BlockPage::default()
    };
    host.memory().write_object(PAGE, &page).unwrap();
    block.send(SENT, PAGE).unwrap();
    drop(block);
    assert_eq!(host.word(PAGE + 12), BLOCK_DONE);
    let mut byte = [0];
    let file = File::open(&path).unwrap();
    file.read_at(&mut byte, 9 * 512).unwrap();
    assert_eq!(byte, [0x55]);
}

#[test]
fn one_writer_or_many_readers() {
    let scratch = Scratch::new("lock");
    let path = scratch.file("disk", 512);
    let in_use = |read_only| match Disk::open(&path, read_only) {
        Ok(_) => false,
        Err(DiskError::InUse) => true,
        Err(other) => panic!("{other}"),
    };
    let writer = Disk::open(&path, false).unwrap();
    assert!(in_use(false) && in_use(true));
    drop(writer);
    let _reader = Disk::open_when_free(&path, true);
    assert!(!in_use(true) && in_use(false));
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let scratch = Scratch::new("kinds");
    let open = |path: &Path| Disk::open(path, false).unwrap_err();
    assert!(matches!(open(&scratch.0), DiskError::NotADisk));
    let read_only = Disk::open(&scratch.0, true);
    assert!(matches!(read_only, Err(DiskError::NotADisk)));
    assert!(matches!(open(Path::new("/dev/null")), DiskError::NotADisk));
    let small = scratch.file("small", 511);
    assert!(matches!(open(&small), DiskError::TooSmall(511)));
    let big = scratch.file("big", 0);
    let file = File::options().write(true).open(&big).unwrap();
    if file.set_len(1 << 41).is_ok() {
        assert!(matches!(open(&big), DiskError::TooBig(_)));
    }
    let absent = open(&scratch.0.join("absent"));
    assert!(absent.to_string().contains("No such file"));
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, scratch.0.join("pipe"), mode)
        .unwrap();
    assert!(matches!(open(&scratch.0.join("pipe")), DiskError::NotADisk));
}

proptest! {
    // For any contents of the page, the file stays as it was outside of the
    // request, and there is an answer.
    #[test]
    fn any_request_is_answered(
        kind in 0_u32..3,
        sector in prop_oneof![0_u32..10, any::<u32>()],
        bytes in prop_oneof![Just(512_u32), 0_u32..2048, any::<u32>()],
    ) {
        let scratch = Scratch::new("any");
        let path = scratch.file("disk", 8 * 512);
        let mut expected = std::fs::read(&path).unwrap();
        let (host, mut block) = block(&path, false);
        host.memory().write(0x6000, &[0xEE; 512]).unwrap();
        host.put_dma(SENT, &[(0x6000, 512)]);
        let (result, used) = request(&host, &mut block, kind, sector, bytes);
        let reads = kind == 0 && bytes == 1536 && sector <= 5;
        let writes = kind == 1 && bytes == 512 && sector < 8;
        prop_assert_eq!(result, if reads || writes { 1 } else { 2 });
        prop_assert_eq!(used, if reads { 1536 } else { 0 });
        if writes {
            expected[sector as usize * 512..][..512].fill(0xEE);
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
}

#[test]
fn at_once_or_by_the_thread_a_request_ends_the_same() {
    let scratch = Scratch::new("copies");
    let run = |name: &str, at_once: bool| {
        let path = scratch.file(name, 8 * 512);
        let (host, mut block) = block(&path, false);
        if !at_once {
            block.block.never_at_once();
        }
        host.memory().write(0x6000, &[0xAA; 512]).unwrap();
        host.put_dma(SENT, &[(0x6000, 512)]);
        let answers = [
            (BLOCK_WRITE, 3, 512),
            (BLOCK_READ, 2, 1536),
            (BLOCK_READ, 7, 1536), // past the end
        ]
        .map(|(kind, sector, bytes)| {
            request(&host, &mut block, kind, sector, bytes)
        });
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(600)
            .unwrap();
        let short = request(&host, &mut block, BLOCK_READ, 0, 1536);
        assert!(host.irqs().is_empty(), "one interrupt for each request");
        let counters = block.device().counters();
        let count = |name| counters.iter().find(|c| c.0 == name).unwrap().1;
        let seen = (answers, short, host.bytes(DATA, 0x1200));
        (seen, count("at_once"), count("reads"), count("errors"))
    };
    let (fast, slow) = (run("fast", true), run("slow", false));
    assert_eq!((&fast.0, fast.2, fast.3), (&slow.0, slow.2, slow.3));
    // A write can be tried without any condition.
    assert!(fast.1 >= 1 && slow.1 == 0, "{} {}", fast.1, slow.1);
}

#[test]
fn a_state_is_taken_when_every_request_is_answered() {
    let scratch = Scratch::new("state");
    let path = scratch.file("disk", 64 * 512);
    let mut before = Block::new(Disk::open_when_free(&path, false).failing(3));
    before.never_at_once();
    let (host, mut before) = placed(before);
    host.memory().write(0x6000, &[0x55; 512]).unwrap();
    host.put_dma(SENT, &[(0x6000, 512)]);
    for _ in 0..7 {
        request(&host, &mut before, BLOCK_WRITE, 9, 512);
    }
    // One request is in progress, and its answer comes before the state.
    let page = BlockPage {
        kind: BLOCK_WRITE,
        sector: 9,
        bytes: 512,
        ..BlockPage::default()
    };
    host.memory().write_object(PAGE, &page).unwrap();
    before.send(SENT, PAGE).unwrap();
    let state = before.device().state();
    assert_ne!(host.word(PAGE + BlockPage::RESULT_OFFSET), 0);
    assert!(!before.busy.load(Ordering::SeqCst));
    assert_eq!(host.wait_irq(), Some(1));
    let text = serde_json::to_string(&state).unwrap();
    let state: DeviceState = serde_json::from_str(&text).unwrap();
    // The other disk goes on with the same random numbers and counters.
    let copy = scratch.file("copy", 64 * 512);
    let after = Disk::open_when_free(&copy, false).failing(3);
    let (other, mut after) = placed(Block::new(after));
    after.device().restore(&state).unwrap();
    assert_eq!(after.device().state(), state);
    other.put_dma(SENT, &[(0x6000, 512)]);
    for _ in 0..30 {
        assert_eq!(
            request(&host, &mut before, BLOCK_WRITE, 9, 512),
            request(&other, &mut after, BLOCK_WRITE, 9, 512),
        );
    }
    assert_eq!(after.device().state(), before.device().state());
}

#[test]
fn a_state_of_another_disk_is_refused() {
    let scratch = Scratch::new("state_of");
    let (_host, mut one) = block(&scratch.file("one", 64 * 512), false);
    let (_host, mut two) = block(&scratch.file("two", 65 * 512), false);
    let refused = two
        .device()
        .restore(&one.device().state())
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "the state does not fit: it is of a writable disk of 64 sectors, and \
         this is a writable disk of 65 sectors"
    );
}
