//! A disk whose ring is lent to a Host, and the same one without.

use super::*;
use crate::devices::block::{Disk, DiskRate, Limit};
use crate::devices::console::{Config, Console};
use crate::engine::{Requests, Scripted};
use crate::transport::Transport;
use crate::transport::virtio::VirtioBus;
use crate::transport::virtio::ring::Place;
use crate::transport::virtio::testing::{Driver, RAM, RING, guest};
use lg_abi::gen2::device::FORMATS_2_6_25;
use lg_host::address::GuestPhys;
use lg_host::testing::{Machine, Ram};
use lg_wire::disk::LentRing;
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const IRQ: u8 = 3;
const SECTORS: u8 = 16;
const HEADER_AT: u32 = 0x8000;
const ANSWER: u32 = 0x9000;

/// A file with a disk, each sector full of its number plus one. A memory file
/// will not do: the kernel reads no such file without waiting.
struct Contents {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Contents {
    fn new(test: &str) -> Self {
        let name = format!("lguest-lent-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let bytes = (1..=SECTORS).flat_map(|sector| [sector; 512]);
        let bytes: Vec<u8> = bytes.collect();
        std::fs::write(&path, &bytes).unwrap();
        Self { path, bytes }
    }

    fn open(&self) -> Block {
        let disk = Disk::open_when_free(&self.path, true);
        let mut block = Block::new(disk);
        block.never_ahead();
        block
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A Guest, its driver, and the disk.
struct Side {
    guest: Arc<Scripted>,
    driver: Driver,
    queue: Queue,
    disk: VirtioDisk,
}

impl Side {
    /// With `lent`, the Host may read the disk.
    fn new(contents: &Contents, lent: bool) -> Self {
        let guest = guest(1);
        let driver = Driver::new(&guest, RING);
        let mut block = contents.open();
        if lent {
            assert!(block.lend_as(0).is_some());
            assert!(block.lend_as(0).is_none());
        }
        let mut disk = VirtioDisk::new(block);
        let place = Place::of_generation_2(RING);
        let formats = &FORMATS_2_6_25;
        let queue = Queue::new(guest.clone(), place, IRQ, formats);
        disk.place(vec![queue.clone()]).unwrap();
        queue.start();
        Self {
            guest,
            driver,
            queue,
            disk,
        }
    }

    fn lent(&self) -> Option<LentRing> {
        self.guest.disk_words(0)?.lent()
    }

    /// The driver notifies the Launcher.
    fn notify(&mut self) -> Result<(), Violation> {
        VirtioDevice::notify(&mut self.disk, 0).map(drop)
    }

    /// It notifies its Host first, which has such a file in memory.
    fn notify_host(&mut self, file: &[u8]) -> Result<(), Violation> {
        let Some(ring) = self.lent() else {
            return self.notify();
        };
        let limit = self.guest.memory().limit();
        let mut m = Machine::new();
        m.ram = Ram::new(limit);
        let bytes = self.guest.bytes(0, limit as usize);
        m.ram.memory().write(GuestPhys(0), &bytes).unwrap();
        m.vm.wire.disks[0].lend(&ring);
        m.world.disks = vec![(file.to_vec(), m.ram.memory())];
        let done = m.host().answer_reads(|ring| ring.irq == u32::from(IRQ));
        let mut bytes = bytes;
        m.ram.memory().read(GuestPhys(0), &mut bytes).unwrap();
        self.guest.put(0, &bytes);
        if m.vm.wire.irqs.load(Ordering::SeqCst) != 0 {
            self.guest.irq(IRQ).unwrap();
        }
        let words = self.guest.disk_words(0).unwrap();
        let (reads, read) = m.vm.wire.disks[0].take_counts();
        self.disk.block.note_reads(reads, read);
        words.lend(&m.vm.wire.disks[0].lent().unwrap());
        if done {
            return Ok(());
        }
        self.notify()
    }

    /// All that the driver can see, and what was counted.
    fn seen(&mut self) -> (Vec<u8>, Vec<u8>, QueueStateText, NamedCounts) {
        // This waits for requests in progress.
        let _ = Device::state(&mut self.disk);
        let limit = self.guest.memory().limit();
        let memory = self.guest.bytes(0, limit as usize);
        let state = format!("{:?}", self.queue.state());
        let mut counted = self.disk.counters();
        // A machine with little memory may have forgotten the file.
        counted.retain(|(name, _)| *name != "at_once");
        (memory, self.guest.irqs(), state, counted)
    }

    /// Offers a read of these sectors.
    fn offer_read(&mut self, sector: u32, data: (u32, u32)) {
        self.header([BLOCK_IN, 0, sector, 0]);
        let answer = (ANSWER, 1);
        self.driver.offer(&[(HEADER_AT, 16)], &[data, answer]);
    }

    fn header(&self, words: [u32; 4]) {
        self.guest
            .put(HEADER_AT, words.map(u32::to_le_bytes).as_flattened());
    }
}

type QueueStateText = String;

#[test]
fn a_ring_is_lent_while_no_request_is_in_progress() {
    let contents = Contents::new("lent");
    let mut side = Side::new(&contents, true);
    assert_eq!(side.lent(), None, "a queue that was never notified");
    side.offer_read(3, (0x1000, 512));
    side.notify().unwrap();
    // The thread may have had to read.
    let _ = side.seen();
    side.offer_read(4, (0x1000, 512));
    side.notify().unwrap();
    let ring = side.lent().expect("the bytes are in memory now");
    assert_eq!((ring.position, ring.irq), (2, u32::from(IRQ)));
    assert_eq!(ring.sectors, u32::from(SECTORS));
    // The Host answers some.
    side.offer_read(5, (0x1000, 1024));
    side.notify_host(&contents.bytes).unwrap();
    assert_eq!(side.guest.bytes(0x1000, 1024)[512..], [7; 512]);
    assert_eq!(side.lent().unwrap().position, 3);
    // A write is refused by the Launcher, which goes on at that place.
    side.header([BLOCK_OUT, 0, 0, 0]);
    side.driver
        .offer(&[(HEADER_AT, 16), (0x1000, 512)], &[(ANSWER, 1)]);
    side.notify_host(&contents.bytes).unwrap();
    assert_eq!(side.guest.bytes(ANSWER, 1), [BLOCK_IO_ERROR]);
    assert_eq!(side.lent().unwrap().position, 4);
    let used: Vec<u32> = side.driver.used().iter().map(|u| u.1).collect();
    assert_eq!(used, [513, 513, 1025, 1]);
    let count = |name| {
        let all = side.disk.counters();
        all.iter().find(|c| c.0 == name).unwrap().1
    };
    assert_eq!(count("reads"), 3);
    assert_eq!(count("bytes_read"), 2048);
    assert_eq!(count("errors"), 1);
}

#[test]
fn a_ring_is_taken_back_by_whatever_is_done_with_the_queue() {
    type Done = fn(&Queue);
    let cases: [(Done, u16); 4] = [
        (Queue::reset, 0),
        (Queue::stop, 7),
        (|queue| _ = queue.state(), 7),
        (|queue| _ = queue.take(), 7),
    ];
    for (done, position) in cases {
        let contents = Contents::new("back");
        let side = Side::new(&contents, true);
        side.queue.lend(0, 16);
        let words = side.guest.disk_words(0).unwrap();
        assert!(words.lent().is_some());
        words.note_answered(7, 512);
        done(&side.queue);
        assert_eq!(words.lent(), None);
        let used = format!("taken: {position}, used: {position}");
        let state = format!("{:?}", side.queue.state());
        assert!(state.contains(&used), "{state}");
    }
}

#[test]
fn a_ring_with_a_chain_under_way_is_not_lent() {
    let contents = Contents::new("under-way");
    let mut side = Side::new(&contents, true);
    side.offer_read(0, (0x1000, 512));
    let taken = side.queue.take().unwrap().unwrap();
    side.queue.lend(0, 16);
    assert_eq!(side.lent(), None);
    side.queue.answer(&taken, 1).unwrap();
    side.queue.lend(0, 16);
    assert!(side.lent().is_some());
}

#[test]
fn a_disk_that_was_removed_is_not_read() {
    let contents = Contents::new("removed");
    let mut side = Side::new(&contents, true);
    side.queue.lend(0, 16);
    side.guest.disk_words(0).unwrap().note_answered(0, 512);
    assert!(matches!(Device::detach(&mut side.disk), Detached::Stays));
    assert_eq!(side.lent(), None);
    side.offer_read(0, (0x1000, 512));
    side.notify_host(&contents.bytes).unwrap();
    assert_eq!(side.guest.bytes(ANSWER, 1), [BLOCK_IO_ERROR]);
    assert_eq!(side.lent(), None);
}

/// A disk on a bus, whose requests are left to its thread.
fn on_a_bus(mut block: Block) -> (Arc<Scripted>, VirtioBus) {
    block.never_at_once();
    let guest = guest(1);
    let (input, output) = rustix::pipe::pipe().unwrap();
    let console = Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    });
    let devices: Vec<Box<dyn VirtioDevice>> =
        vec![Box::new(VirtioDisk::new(block))];
    let bus = VirtioBus::new(guest.clone(), devices, console.screen()).unwrap();
    (guest, bus)
}

/// Reads of all of the disk, `count` of them.
fn offer_reads(guest: &Arc<Scripted>, count: usize) {
    let mut driver = Driver::new(guest, RING);
    let header = [BLOCK_IN, 0, 0, 0].map(u32::to_le_bytes);
    guest.put(HEADER_AT, header.as_flattened());
    let data = (0x1000, 512 * u32::from(SECTORS));
    for _ in 0..count {
        driver.offer(&[(HEADER_AT, 16)], &[data, (ANSWER, 1)]);
    }
}

/// The driver resets the disk, and then uses its memory and its ring for
/// something else, which stays.
fn reset_and_look(guest: &Arc<Scripted>, bus: &VirtioBus) {
    guest.put(RAM + 4, &[0]);
    bus.notify(RAM).unwrap();
    let else_used = [(0x1000, 0x2000), (ANSWER, 16), (RING, 0x3000)];
    for (at, bytes) in else_used {
        guest.put(at, &vec![0xEE; bytes]);
    }
    // This waits for requests in progress.
    let _ = bus.state();
    for (at, bytes) in else_used {
        let is_same = guest.bytes(at, bytes) == vec![0xEE; bytes];
        assert!(is_same, "something was written at {at:#x}");
    }
}

#[test]
fn a_reset_ends_the_request_in_progress() {
    let contents = Contents::new("in-progress");
    for _ in 0..20 {
        let (guest, bus) = on_a_bus(contents.open());
        offer_reads(&guest, 40);
        bus.notify(RING).unwrap();
        reset_and_look(&guest, &bus);
    }
}

#[test]
fn a_reset_drops_requests_that_wait_for_a_limit() {
    let contents = Contents::new("limited");
    let mut block = contents.open();
    let rate = DiskRate {
        bytes: NonZeroU64::new(1),
        requests: None,
    };
    block.set_limit(Limit::new(rate));
    let (guest, bus) = on_a_bus(block);
    // The first one passes, and the others would wait for hours.
    offer_reads(&guest, 3);
    bus.notify(RING).unwrap();
    reset_and_look(&guest, &bus);
    let reads = |bus: &VirtioBus| {
        let (_, counters) = bus.counters().remove(0);
        counters
            .iter()
            .find(|(name, _)| *name == "reads")
            .unwrap()
            .1
    };
    assert!(reads(&bus) <= 1, "a reset is no way around the limit");
}

/// What a driver offers: a header of so many bytes, pieces, and flags that make
/// the chain an unusual one.
#[derive(Clone, Debug)]
struct Offer {
    header: (u32, [u32; 4]),
    readable: Vec<(u32, u32)>,
    writable: Vec<(u32, u32)>,
    answer: Option<(u32, u32)>,
    interrupt: bool,
    /// A word of the ring that is overwritten, and its value.
    spoiled: Option<(u32, u32)>,
}

fn piece() -> impl Strategy<Value = (u32, u32)> {
    let at = prop_oneof![
        8 => 0x1000..0x7000_u32,
        1 => RAM - 600..RAM + 0x1000,
        1 => any::<u32>(),
    ];
    let len = prop_oneof![
        4 => Just(512_u32),
        2 => Just(1024),
        2 => 0..1500_u32,
        1 => Just(0x7000),
    ];
    (at, len)
}

fn offer() -> impl Strategy<Value = Offer> {
    let kind = prop_oneof![8 => Just(BLOCK_IN), 1 => 0..10_u32];
    let sector = prop_oneof![
        8 => (0..20_u32).prop_map(|low| [low, 0]),
        1 => any::<[u32; 2]>(),
    ];
    let length = prop_oneof![8 => Just(16_u32), 1 => 0..30_u32];
    let answer = prop_oneof![
        8 => Just(Some((ANSWER, 1_u32))),
        1 => Just(Some((ANSWER, 3))),
        1 => Just(None),
    ];
    let word = prop_oneof![0..0x90_u32, 0x1000..0x1010_u32];
    let spoiled = (word, prop_oneof![0..5_u32, any::<u32>()]);
    (
        (length, kind, sector),
        prop::collection::vec(piece(), 0..2),
        prop::collection::vec(piece(), 0..5),
        answer,
        any::<bool>(),
        prop::option::weighted(0.1, spoiled),
    )
        .prop_map(
            |(header, readable, writable, answer, interrupt, spoiled)| {
                let (length, kind, [low, high]) = header;
                Offer {
                    header: (length, [kind, 0, low, high]),
                    // Mostly there is nothing to read but the header.
                    readable: if length == 16 { vec![] } else { readable },
                    writable,
                    answer,
                    interrupt,
                    spoiled,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What Host and Launcher do together is what the Launcher does alone.
    #[test]
    fn with_or_without_a_host_the_driver_sees_the_same(
        offers in prop::collection::vec(offer(), 1..12),
    ) {
        let contents = Contents::new("same");
        let mut alone = Side::new(&contents, false);
        let mut both = Side::new(&contents, true);
        for offer in &offers {
            both.queue.lend(0, SECTORS.into());
            for side in [&mut alone, &mut both] {
                side.driver.want_interrupts(offer.interrupt);
                side.header(offer.header.1);
                side.guest.put(ANSWER, &[0xEE; 4]);
                let mut readable = vec![(HEADER_AT, offer.header.0)];
                readable.extend(&offer.readable);
                let mut writable = offer.writable.clone();
                writable.extend(offer.answer);
                side.driver.offer(&readable, &writable);
                if let Some((at, word)) = offer.spoiled {
                    let at = RING + at / 4 * 4;
                    side.guest.put(at, &word.to_le_bytes());
                }
            }
            let ends = [alone.notify(), both.notify_host(&contents.bytes)];
            let [one, other] = ends.map(|end| end.map_err(|v| v.to_string()));
            prop_assert_eq!(&one, &other);
            if one.is_err() {
                break;
            }
            let (alone, both) = (alone.seen(), both.seen());
            prop_assert!(alone.0 == both.0, "memory");
            prop_assert_eq!(alone.1, both.1);
            prop_assert_eq!(alone.2, both.2);
            prop_assert_eq!(alone.3, both.3);
        }
    }

    /// A Guest that has taken over its Host may write any position and any
    /// counts. The Launcher goes on there, or ends it.
    #[test]
    fn no_words_of_a_host_harm_the_launcher(
        position in any::<u16>(),
        bytes in any::<u32>(),
        index in any::<u16>(),
    ) {
        let contents = Contents::new("words");
        let mut side = Side::new(&contents, true);
        side.offer_read(0, (0x1000, 512));
        side.queue.lend(0, SECTORS.into());
        let words = side.guest.disk_words(0).unwrap();
        words.note_answered(position, bytes);
        side.driver.say_available(index);
        let _ = side.notify();
        let (_, irqs, ..) = side.seen();
        prop_assert!(irqs.iter().all(|&irq| irq == IRQ));
    }
}
