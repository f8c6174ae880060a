//! The descriptors that a Guest reads, and the effects of notifications.

use super::*;
use crate::devices::block::{Block, Disk};
use crate::devices::console::{Config, Console};
use crate::engine::Scripted;
use crate::memory::Section;
use crate::transport::virtio::testing::{Driver, RAM, RING, guest};
use crate::transport::virtio::{VirtioConsole, VirtioDisk, VirtioRandom};
use lg_abi::gen2::device::FORMATS_2_6_24;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const PAGE: u32 = 0x1000;

/// A bus with a source of random numbers, a disk, and a console.
struct Machine {
    guest: Arc<Scripted>,
    bus: VirtioBus,
    disk: File,
    output: File,
    input: Option<OwnedFd>,
}

fn memory_file(name: &str, bytes: &[u8]) -> File {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn machine(read_only: bool) -> Machine {
    let sectors: Vec<u8> =
        (0..16_u8).flat_map(|sector| [sector; 512]).collect();
    with_disk(memory_file("disk", &sectors), read_only)
}

fn with_disk(disk: File, read_only: bool) -> Machine {
    of_release(&FORMATS_2_6_25, disk, read_only)
}

fn of_release(
    formats: &'static Formats,
    disk: File,
    read_only: bool,
) -> Machine {
    let path =
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&disk));
    let block = Block::new(Disk::open_when_free(path.as_ref(), read_only));
    let output = memory_file("output", b"");
    let (input, typed) = rustix::pipe::pipe().unwrap();
    let console = Console::new(Config {
        input,
        output: output.try_clone().unwrap().into(),
        log: None,
        at_end: None,
    });
    let screen = console.screen();
    let devices: Vec<Box<dyn VirtioDevice>> = vec![
        Box::<VirtioRandom>::default(),
        Box::new(VirtioDisk::new(block)),
        Box::new(VirtioConsole::new(console)),
    ];
    let guest = guest(4);
    assert_eq!(pages_above_ram(&devices), 1 + 4 * 3);
    let bus = VirtioBus::with(formats, guest.clone(), devices, screen).unwrap();
    Machine {
        guest,
        bus,
        disk,
        output,
        input: Some(typed),
    }
}

impl Machine {
    fn printed(&self) -> String {
        let mut bytes = vec![0; 1000];
        let len = self.output.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    fn driver(&self, ring: u32) -> Driver {
        Driver::new(&self.guest, RING + ring * RING_BYTES)
    }

    /// Waits until the driver has `count` answers.
    fn wait(&self, driver: &Driver, count: usize) -> Vec<(u32, u32)> {
        let end = Instant::now() + Duration::from_secs(60);
        while driver.used().len() < count && Instant::now() < end {
            std::thread::yield_now();
        }
        driver.used()
    }

    /// Sends a request to the disk. Returns status and bytes written.
    fn ask(
        &self,
        driver: &mut Driver,
        kind: u32,
        sector: u64,
        data: (u32, u32),
        read: bool,
    ) -> (u8, u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.guest.put(PAGE, &header);
        self.guest.put(PAGE + 16, &[0xEE]);
        let (header, status) = ((PAGE, 16), (PAGE + 16, 1));
        if read {
            driver.offer(&[header], &[data, status]);
        } else {
            driver.offer(&[header, data], &[status]);
        }
        let before = driver.used().len();
        self.bus.notify(driver.at).unwrap();
        let used = self.wait(driver, before + 1);
        (self.guest.bytes(PAGE + 16, 1)[0], used[before].1)
    }
}

#[test]
fn descriptors_say_what_there_is() {
    let machine = machine(true);
    let bytes = machine.guest.bytes(RAM, 0x60);
    // Random numbers: a queue with 256 descriptors, interrupt 1, behind the
    // page of descriptors.
    assert_eq!(bytes[..5], [4, 1, 4, 0, 0]);
    assert_eq!(bytes[5..13], [0, 1, 1, 0, 0x01, 0x01, 0, 0]);
    // The disk: SEG_MAX, read-only and FLUSH, 16 sectors, 254 sections.
    let disk = &bytes[21..];
    assert_eq!(disk[..5], [2, 1, 4, 16, 0]);
    assert_eq!(disk[5..9], [0, 1, 2, 0]);
    assert_eq!(disk[13..21], [1 << 2 | 1 << 5, 1 << 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        disk[21..37],
        [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0]
    );
    // The console, and the end.
    let console = &disk[37..];
    assert_eq!(console[..5], [3, 2, 4, 4, 0]);
    assert_eq!((console[7], console[15]), (3, 4));
    // It has a size, which is not known here.
    assert_eq!(console[21..33], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(console[33], 0);
}

/// Fields with types and lengths, and a header of 24 bytes.
#[test]
fn linux_2_6_24_has_descriptors_of_its_own() {
    let disk = memory_file("disk", &[7; 16 << 9]);
    let machine = of_release(&FORMATS_2_6_24, disk, false);
    let bytes = machine.guest.bytes(RAM, 0x60);
    // Random numbers: a field of 8 bytes with a queue.
    assert_eq!(bytes[..5], [4, 10, 0, 2, 8]);
    assert_eq!(bytes[5..13], [0, 1, 1, 0, 0x01, 0x01, 0, 0]);
    // The disk: a queue, 16 sectors, 254 sections.
    let disk = &bytes[13..];
    assert_eq!(disk[..5], [2, 26, 0, 2, 8]);
    assert_eq!(disk[13..15], [0x41, 8]);
    assert_eq!(disk[15..25], [16, 0, 0, 0, 0, 0, 0, 0, 0x43, 4]);
    assert_eq!(disk[25..29], [254, 0, 0, 0]);
    // The console with two queues, and the end.
    let console = &disk[29..];
    assert_eq!(console[..5], [3, 20, 0, 2, 8]);
    assert_eq!((console[7], console[13], console[17]), (3, 2, 4));
    assert_eq!(console[23], 0);
    // A request to write: the header is longer than later ones.
    let mut driver = machine.driver(1);
    machine.guest.put(PAGE, &1_u32.to_le_bytes());
    machine.guest.put(PAGE + 8, &3_u64.to_le_bytes());
    machine.guest.put(0x4000, &[9; 512]);
    driver.offer(&[(PAGE, 24), (0x4000, 512)], &[(PAGE + 24, 1)]);
    machine.bus.notify(driver.at).unwrap();
    machine.wait(&driver, 1);
    assert_eq!(machine.guest.bytes(PAGE + 24, 1), [0]);
    let mut written = [0; 1024];
    machine.disk.read_exact_at(&mut written, 3 << 9).unwrap();
    assert_eq!((written[511], written[512]), (9, 7));
}

#[test]
fn a_disk_reads_and_writes() {
    let machine = machine(false);
    let mut driver = machine.driver(1);
    let data = (0x4000, 1024);
    let mut ask = |kind, sector, data, write| {
        let answer = machine.ask(&mut driver, kind, sector, data, write);
        // The disk's thread raises it after the answer.
        let end = Instant::now() + Duration::from_secs(60);
        let mut irqs = machine.guest.irqs();
        while irqs.is_empty() && Instant::now() < end {
            std::thread::yield_now();
            irqs = machine.guest.irqs();
        }
        assert_eq!(irqs, [2], "an interrupt for each");
        answer
    };
    assert_eq!(ask(0, 3, data, true), (0, 1025));
    assert_eq!(machine.guest.bytes(0x4000, 512), [3; 512]);
    assert_eq!(machine.guest.bytes(0x4200, 512), [4; 512]);
    machine.guest.put(0x4000, &[9; 1024]);
    assert_eq!(ask(1, 7, data, false), (0, 1));
    let mut written = [0; 1024];
    machine.disk.read_exact_at(&mut written, 7 * 512).unwrap();
    assert_eq!(written, [9; 1024]);
    // Beyond the end, at a sector number that is too large, of unknown kind.
    assert_eq!(ask(0, 15, data, true).0, 1);
    assert_eq!(ask(0, u64::MAX, data, true).0, 1);
    assert_eq!(ask(77, 0, data, true), (2, 1));
}

/// What the disk counted under `name`.
fn counted(machine: Machine, name: &str) -> u64 {
    let counts = machine.bus.finish();
    let (_, counts) = counts.iter().find(|(kind, _)| *kind == "block").unwrap();
    counts.iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn a_flush_is_answered_behind_the_writes_before_it() {
    let machine = machine(false);
    let mut driver = machine.driver(1);
    // FLUSH with any sector, without data, and with room for the answer.
    let none = (0x4000, 0);
    assert_eq!(machine.ask(&mut driver, 1, 7, (0x4000, 512), false), (0, 1));
    assert_eq!(machine.ask(&mut driver, 4, 0, none, true), (0, 1));
    assert_eq!(machine.ask(&mut driver, 4, u64::MAX, none, false), (0, 1));
    assert_eq!(counted(machine, "flushes"), 2);
}

/// Linux before 2.6.32 knows no flush, and its fsync is a write.
#[test]
fn a_write_of_a_driver_without_flush_is_on_the_disk_when_it_is_answered() {
    for (accepted, syncs) in [([1 << 2, 0], 1), ([1 << 2, 1 << 1], 0)] {
        let machine = machine(false);
        // The accepted features in the disk's descriptor.
        machine.guest.put(RAM + 21 + 17, &accepted);
        let mut driver = machine.driver(1);
        let data = (0x4000, 512);
        assert_eq!(machine.ask(&mut driver, 1, 7, data, false), (0, 1));
        assert_eq!(machine.ask(&mut driver, 0, 7, data, true), (0, 513));
        assert_eq!(counted(machine, "syncs"), syncs);
    }
}

#[test]
fn a_read_only_disk_has_nothing_to_flush() {
    let machine = machine(true);
    let mut driver = machine.driver(1);
    assert_eq!(machine.ask(&mut driver, 4, 0, (0x4000, 0), true), (0, 1));
    assert_eq!(counted(machine, "errors"), 0);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let machine = machine(true);
    let mut driver = machine.driver(1);
    let answer = machine.ask(&mut driver, 1, 0, (0x4000, 512), false);
    assert_eq!(answer, (1, 1));
    let mut first = [7; 512];
    machine.disk.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [0; 512]);
}

#[test]
fn a_console_prints_and_takes_what_is_typed() {
    let mut machine = machine(false);
    machine.guest.put(PAGE, b"early text\n\0rest");
    machine.bus.notify(PAGE).unwrap();
    machine.guest.put(PAGE, b"hello ");
    machine.guest.put(0x2000, b"world\n");
    let mut out = machine.driver(3);
    out.offer(&[(PAGE, 6), (0x2000, 6)], &[]);
    machine.bus.notify(out.at).unwrap();
    assert_eq!(machine.printed(), "early text\nhello world\n");
    assert_eq!(out.used(), [(0, 0)]);
    // The input waits for a buffer, and fills it.
    let typed = machine.input.take().unwrap();
    rustix::io::write(&typed, b"typed").unwrap();
    let mut into = machine.driver(2);
    let starved = machine.bus.handle_input(2).unwrap();
    assert_eq!(starved, Readiness::Starved { watch: false });
    into.offer(&[], &[(0x5000, 100)]);
    machine.bus.notify(into.at).unwrap();
    let _ = machine.bus.handle_input(2).unwrap();
    assert_eq!(into.used(), [(0, 5)]);
    assert_eq!(machine.guest.bytes(0x5000, 5), b"typed");
    assert_eq!(machine.guest.irqs(), [4, 3]);
}

#[test]
fn random_numbers_fill_a_buffer() {
    let machine = machine(false);
    let mut driver = machine.driver(0);
    driver.offer(&[], &[(0x4000, 64)]);
    machine.bus.notify(driver.at).unwrap();
    assert_eq!(driver.used(), [(0, 64)]);
    assert_ne!(machine.guest.bytes(0x4000, 64), [0; 64]);
}

#[test]
fn a_reset_device_forgets_what_it_had() {
    let machine = machine(false);
    let mut driver = machine.driver(0);
    driver.offer(&[], &[(0x4000, 8)]);
    machine.bus.notify(driver.at).unwrap();
    assert_eq!(driver.used().len(), 1);
    // Status 0: a reset. The driver begins with a new ring.
    machine.guest.put(RAM + 4, &[0]);
    machine.bus.notify(RAM).unwrap();
    machine.guest.put(driver.at, &[0; RING_BYTES as usize]);
    let mut driver = machine.driver(0);
    machine.guest.put(RAM + 4, &[7]);
    machine.bus.notify(RAM).unwrap();
    driver.offer(&[], &[(0x4000, 16)]);
    machine.bus.notify(driver.at).unwrap();
    assert_eq!(driver.used(), [(0, 16)]);
}

#[test]
fn what_no_driver_does_is_a_violation() {
    let machine = machine(false);
    let error = machine.bus.notify(RAM + 2).unwrap_err().to_string();
    assert!(error.contains("where no ring is"), "{error}");
    let error = machine.bus.send(PAGE, 4).unwrap_err().to_string();
    assert!(error.contains("which its interface lacks"), "{error}");
    // A request without room for an answer, and one without a header.
    let mut driver = machine.driver(1);
    driver.offer(&[(PAGE, 16)], &[]);
    let error = machine.bus.notify(driver.at).unwrap_err().to_string();
    assert!(error.contains("without room for its answer"), "{error}");
    driver.offer(&[(PAGE, 15)], &[(PAGE, 1)]);
    assert!(machine.bus.notify(driver.at).is_err());
    assert_eq!(machine.guest.killed(), None);
}

#[test]
fn more_queues_than_interrupts_are_refused() {
    let guest = guest(1);
    let devices: Vec<Box<dyn VirtioDevice>> = (0..16)
        .map(|_| Box::<VirtioRandom>::default() as _)
        .collect();
    let console = machine(false).bus.screen.clone();
    let error = VirtioBus::new(guest, devices, console).err().unwrap();
    assert!(error.to_string().contains("need 16 interrupts"), "{error}");
}

#[test]
fn the_host_learns_which_pages_devices_were_given() {
    let mut machine = machine(false);
    let (sender, noted) = std::sync::mpsc::channel();
    let note = move |piece| sender.send(piece).unwrap();
    machine.guest.memory().note_writes(note);
    let was_noted =
        |addr| noted.try_iter().any(|piece: Section| piece.addr() == addr);
    let mut random = machine.driver(0);
    random.offer(&[], &[(0x4000, 64)]);
    machine.bus.notify(random.at).unwrap();
    assert!(was_noted(0x4000), "random numbers");
    let mut disk = machine.driver(1);
    let name = 8;
    machine.ask(&mut disk, name, 0, (0x5000, 20), true);
    assert!(was_noted(0x5000), "the name of a disk");
    let mut keys = machine.driver(2);
    keys.offer(&[], &[(0x6000, 64)]);
    machine.bus.notify(keys.at).unwrap();
    let typed = machine.input.take().unwrap();
    rustix::io::write(&typed, b"typed").unwrap();
    let _ = machine.bus.handle_input(2).unwrap();
    assert!(was_noted(0x6000), "what was typed");
}

mod state;
