//! Kernels of generation 3, which find their devices on a PCI bus.
//!
//! They have no page tables, so an address of a device is its physical one.

use crate::program::{FREE, Interface, LATER, NEXT, Program, RAM, WRITE};
use crate::support::{Scratch, lguest, run};
use crate::{boot, sectors};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Ports of configuration mechanism 1.
const ADDRESS: u32 = 0xCF8;
const DATA: u32 = 0xCFC;

/// Slots of the devices.
const CONSOLE: u32 = 1;
const RANDOM: u32 = 2;
const DISK: u32 = 3;

/// Where a kernel puts the registers of each device.
const fn bar(slot: u32) -> u32 {
    RAM + 0x10_0000 + slot * 0x1000
}

/// Where it puts the ring of each device.
const fn ring(slot: u32) -> u32 {
    FREE + 0x10_0000 + slot * 0x1_0000
}

/// Registers of a device.
mod at {
    pub(super) const FEATURE_SELECT: u32 = 0x08;
    pub(super) const FEATURE: u32 = 0x0C;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const SELECT: u32 = 0x16;
    pub(super) const ENABLE: u32 = 0x1C;
    pub(super) const DESCRIPTORS: u32 = 0x20;
    pub(super) const AVAILABLE: u32 = 0x28;
    pub(super) const USED: u32 = 0x30;
    pub(super) const NOTIFY: u32 = 0x38;
    pub(super) const REASON: u32 = 0x3A;
}

impl Program {
    fn config(&mut self, slot: u32, word: u32) {
        self.out(ADDRESS, 1 << 31 | slot << 11 | word);
    }

    fn expect_config(&mut self, slot: u32, word: u32, value: u32) {
        self.config(slot, word);
        self.expect_in(DATA, value);
    }

    fn set_config(&mut self, slot: u32, word: u32, value: u32) {
        self.config(slot, word);
        self.out(DATA, value);
    }

    /// Prints by the window of the console, as the early console does.
    fn print_by_window(&mut self, text: &str) {
        self.set_config(CONSOLE, 0x88, 0);
        for byte in text.bytes() {
            self.set_config(CONSOLE, 0x8C, 0x3C + 8);
            self.set_config(CONSOLE, 0x90, 4);
            self.set_config(CONSOLE, 0x94, byte.into());
        }
    }

    /// Moves all devices, first those in the way of others.
    fn place_devices(&mut self) {
        for slot in [CONSOLE, RANDOM, DISK] {
            self.set_config(slot, 0x10, bar(slot));
            self.expect_config(slot, 0x10, bar(slot));
        }
    }

    /// Starts the driver of a device, with `queue` at its ring.
    fn start(&mut self, slot: u32, queue: u16) {
        let bar = bar(slot);
        self.store_byte(bar + at::STATUS, 0);
        self.store_byte(bar + at::STATUS, 3);
        self.store(bar + at::FEATURE_SELECT, 1);
        self.store(bar + at::FEATURE, 1);
        self.store_byte(bar + at::STATUS, 0xB);
        self.expect_byte(bar + at::STATUS, 0xB);
        self.put_queue(slot, queue, ring(slot));
        self.store_byte(bar + at::STATUS, 0xF);
    }

    fn put_queue(&mut self, slot: u32, queue: u16, ring: u32) {
        let bar = bar(slot);
        self.store_half(bar + at::SELECT, queue);
        for (at, address) in [
            (at::DESCRIPTORS, ring),
            (at::AVAILABLE, ring + 0x1000),
            (at::USED, ring + 0x2000),
        ] {
            self.store(bar + at, address);
            self.store(bar + at + 4, 0);
        }
        self.store_half(bar + at::ENABLE, 1);
    }

    /// Offers the chain `head`, number `count`, and waits for the answer.
    fn ask(&mut self, slot: u32, queue: u16, head: u16, count: u16) {
        self.offer(ring(slot), head, count);
        self.store_half(bar(slot) + at::NOTIFY, queue);
        self.wait_for(ring(slot) + 0x2002, count);
    }

    /// Reads sector 1 of the disk to `to`, and writes `from` to sector 3. There
    /// were `before` requests before.
    fn use_disk(&mut self, to: u32, from: u32, before: u16) {
        self.ask_disk_on_pci((0, 1), to, before + 1);
        self.ask_disk_on_pci((1, 3), from, before + 2);
        self.ask_disk_on_pci((4, 0), from, before + 3);
    }

    /// Request number `count` to the disk: kind and sector.
    fn ask_disk_on_pci(
        &mut self,
        (kind, sector): (u32, u32),
        data: u32,
        count: u16,
    ) {
        let header = FREE + 0x1000;
        self.store(header, kind);
        self.store(header + 4, 0);
        self.store(header + 8, sector);
        self.store(header + 12, 0);
        self.store(header + 16, 0xEE);
        let ring = ring(DISK);
        self.describe(ring, 0, (header, 16), NEXT, 1);
        let bytes = if kind == 4 { 0 } else { 512 };
        let write = if kind == 0 { WRITE } else { 0 };
        self.describe(ring, 1, (data, bytes), NEXT | write, 2);
        self.describe(ring, 2, (header + 16, 1), WRITE, 0);
        self.ask(DISK, 0, 0, count);
        self.wait_for(header + 16, 0);
    }
}

/// A kernel that finds and uses every device.
fn good(interface: &'static Interface) -> Vec<u8> {
    let mut kernel = Program::of(interface);
    kernel.expect_config(0, 0x08, 0x0600_0000);
    kernel.expect_config(CONSOLE, 0, 0x1043_1AF4);
    kernel.expect_config(RANDOM, 0, 0x1044_1AF4);
    kernel.expect_config(DISK, 0, 0x1042_1AF4);
    kernel.expect_config(4, 0, u32::MAX);
    kernel.print_by_window("early console\n");
    kernel.place_devices();
    kernel.start(RANDOM, 0);
    kernel.describe(ring(RANDOM), 0, (FREE + 0x2000, 64), WRITE, 0);
    kernel.ask(RANDOM, 0, 0, 1);
    // The used element says how many bytes there are, the device why it would
    // interrupt: once.
    kernel.wait_for(ring(RANDOM) + 0x2008, 64);
    kernel.expect_byte(bar(RANDOM) + at::REASON, 1);
    kernel.start(DISK, 0);
    kernel.expect(bar(DISK) + 0x3C, 16);
    kernel.store_text(FREE + 0x4000, "written by the guest");
    kernel.use_disk(FREE + 0x3000, FREE + 0x4000, 0);
    kernel.start(CONSOLE, 1);
    kernel.store_text(FREE + 0x5000, "by a queue\n");
    kernel.describe(ring(CONSOLE), 0, (FREE + 0x3000, 20), NEXT, 1);
    kernel.describe(ring(CONSOLE), 1, (FREE + 0x5000, 11), 0, 0);
    kernel.ask(CONSOLE, 1, 0, 1);
    kernel.end()
}

#[test]
fn a_kernel_finds_and_uses_its_devices() {
    for interface in &LATER {
        for more in ["--isolation=guest", "--isolation=user"] {
            let (finished, disk) = boot("pci", &good(interface), &[more]);
            let finished = finished.ends_well(0);
            assert_eq!(
                finished.stdout,
                "early console\nthis is on the disk\nby a queue\n"
            );
            assert!(disk[3 * 512..].starts_with(b"written by the guest\0"));
        }
    }
}

/// A kernel that has used its devices, waits for a key, and uses them again.
fn patient(interface: &'static Interface) -> Vec<u8> {
    /// A ring for keys, behind those of the devices.
    const KEYS: u32 = ring(DISK + 1);
    const READS: u16 = 3;
    let mut kernel = Program::of(interface);
    kernel.place_devices();
    kernel.start(RANDOM, 0);
    kernel.describe(ring(RANDOM), 0, (FREE + 0x2000, 64), WRITE, 0);
    kernel.ask(RANDOM, 0, 0, 1);
    kernel.start(DISK, 0);
    // The Host answers all but the first of these.
    for count in 1..=READS {
        kernel.ask_disk_on_pci((0, 1), FREE + 0x7000, count);
    }
    kernel.start(CONSOLE, 1);
    kernel.put_queue(CONSOLE, 0, KEYS);
    kernel.describe(KEYS, 0, (FREE + 0x6000, 8), WRITE, 0);
    kernel.offer(KEYS, 0, 1);
    kernel.store_half(bar(CONSOLE) + at::NOTIFY, 0);
    // The snapshot is taken when the last of these bytes is there.
    kernel.print_by_window("waiting");
    kernel.wait_for(KEYS + 0x2002, 1);
    kernel.expect_byte(FREE + 0x6000, b'x');
    // The second request of that queue.
    kernel.ask(RANDOM, 0, 0, 2);
    kernel.store_text(FREE + 0x4000, "written by the guest");
    kernel.use_disk(FREE + 0x3000, FREE + 0x4000, READS);
    kernel.store_text(FREE + 0x5000, "by a queue\n");
    kernel.describe(ring(CONSOLE), 0, (FREE + 0x3000, 20), NEXT, 1);
    kernel.describe(ring(CONSOLE), 1, (FREE + 0x5000, 11), 0, 0);
    kernel.ask(CONSOLE, 1, 0, 1);
    kernel.end()
}

/// Its devices are on a PCI bus, and go on where they were.
#[test]
fn a_kernel_goes_on_from_a_snapshot() {
    let scratch = Scratch::new("pci-snapshot");
    let place = scratch.path("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();
    let disk = scratch.file("disk", &sectors());
    let saved = scratch.path("saved");
    let lguest = |words: &[&str]| {
        let mut command = lguest();
        command.env("XDG_RUNTIME_DIR", &place).args(words);
        command
    };
    let done = |mut command: Command| {
        let end = run(&mut command, b"");
        assert_eq!(end.code(), 0, "{end:?}");
    };
    for interface in &LATER {
        let image = scratch.file("image", &patient(interface));
        for isolation in ["--isolation=guest", "--isolation=user"] {
            let words = ["run", "--name", "patient", "--detach", isolation];
            let mut start = lguest(&words);
            start.args(["--until", "waiting", "--memory", "32M", "--kernel"]);
            start.arg(&image).arg("--disk").arg(&disk);
            done(start);
            let mut take = lguest(&["snapshot", "patient", "--copy-disks"]);
            take.arg(&saved);
            done(take);
            done(lguest(&["kill", "patient"]));
            for _ in 0..2 {
                let mut restored = lguest(&["restore"]);
                restored.arg(&saved);
                let end = run(&mut restored, b"x").ends_well(0);
                assert_eq!(end.stdout, "this is on the disk\nby a queue\n");
            }
        }
    }
}

/// Linux reaches registers by functions that compare the address first. With
/// and without a trampoline there they do the same.
#[test]
fn a_kernel_reaches_its_devices_by_functions() {
    const TIMES: u16 = 5;
    let mut kernel = Program::of(&LATER[0]);
    let [write, read] = kernel.accessors();
    kernel.place_devices();
    kernel.start(RANDOM, 0);
    kernel.describe(ring(RANDOM), 0, (FREE + 0x2000, 64), WRITE, 0);
    for count in 1..=TIMES {
        kernel.offer(ring(RANDOM), 0, count);
        kernel.call_function(write, [0, bar(RANDOM) + at::NOTIFY]);
        kernel.wait_for(ring(RANDOM) + 0x2002, count);
        kernel.call_function(read, [bar(RANDOM) + at::REASON, 0]);
        kernel.expect_eax(1);
    }
    let kernel = kernel.end();
    let without = "--no-fast-path=accessors";
    for (options, came) in [
        // The first of each faults.
        (&["--stats=-"][..], u32::from(2 * TIMES - 2)),
        (&["--stats=-", "--isolation=user"], u32::from(2 * TIMES - 2)),
        (&["--stats=-", without], 0),
    ] {
        let (finished, _) = boot("functions", &kernel, options);
        let stats = finished.ends_well(0).stdout;
        let count = format!("\"accessor_trampolines\": {came},");
        assert_eq!(stats.contains(&count), came != 0, "{stats}");
        let any = stats.contains("accessor_trampolines");
        assert_eq!(any, came != 0, "{stats}");
    }
}

/// The Host answers reads, and the Launcher all else, in any order. A driver
/// that resets its device begins with a new ring.
#[test]
fn host_and_launcher_take_turns_at_a_ring() {
    let mut kernel = Program::of(&LATER[0]);
    kernel.place_devices();
    let mut reads = 0;
    for _ in 0..2 {
        kernel.start(DISK, 0);
        kernel.store_half(ring(DISK) + 0x2002, 0);
        kernel.store_text(FREE + 0x4000, "written by the guest");
        let mut count = 0;
        for kind in [0, 0, 1, 0, 0, 8, 0, 4, 0, 0, 0] {
            count += 1;
            let data = if kind == 1 { 0x4000 } else { 0x5000 };
            kernel.ask_disk_on_pci((kind, 3), FREE + data, count);
            reads += u32::from(kind == 0);
        }
        // A chain whose header is in two pieces, which only the Launcher reads.
        let (ring, header) = (ring(DISK), FREE + 0x1000);
        kernel.store(header, 0);
        kernel.store(header + 16, 0xEE);
        kernel.describe(ring, 0, (header, 8), NEXT, 3);
        kernel.describe(ring, 3, (header + 8, 8), NEXT, 1);
        kernel.describe(ring, 1, (FREE + 0x5000, 512), NEXT | WRITE, 2);
        kernel.ask(DISK, 0, 0, count + 1);
        kernel.wait_for(header + 16, 0);
        kernel.ask_disk_on_pci((0, 3), FREE + 0x6000, count + 2);
        reads += 2;
        kernel.expect_byte(FREE + 0x6000, b'w');
        kernel.expect_byte(bar(DISK) + at::REASON, 1);
    }
    let kernel = kernel.end();
    for option in ["--isolation=guest", "--no-fast-path=disk-reads"] {
        let (finished, disk) = boot("turns", &kernel, &["--stats=-", option]);
        let stats = finished.ends_well(0).stdout;
        assert!(stats.contains(&format!("\"reads\": {reads},")), "{stats}");
        assert!(disk[3 * 512..].starts_with(b"written by the guest\0"));
        if crate::hosts_read("host_and_launcher_take_turns_at_a_ring") {
            let by_host = stats.contains("\"disk_reads\"");
            assert_eq!(by_host, option == "--isolation=guest", "{stats}");
        }
    }
}

/// The ends of kernels that do what no driver does.
#[test]
fn a_bad_driver_ends_its_guest_with_a_reason() {
    type Step = fn(&mut Program);
    let cases: [(&str, Step); 5] = [
        ("where no queue can be", |kernel| {
            kernel.put_queue(RANDOM, 0, RAM + 0x20_0000);
        }),
        ("where no queue can be", |kernel| {
            kernel.store(bar(RANDOM) + at::USED + 4, 1);
            kernel.store_half(bar(RANDOM) + at::ENABLE, 1);
        }),
        ("a descriptor that does not exist", |kernel| {
            kernel.start(RANDOM, 0);
            kernel.offer(ring(RANDOM), 0xFFFF, 1);
            kernel.store_half(bar(RANDOM) + at::NOTIFY, 0);
        }),
        ("bad hypercall 17", |kernel| kernel.notify(FREE)),
        // An address between the memory and the devices, by `inc`.
        ("unhandled trap 13", |kernel| kernel.increment(bar(RANDOM))),
    ];
    for (reason, step) in cases {
        let mut kernel = Program::of(&LATER[0]);
        kernel.place_devices();
        step(&mut kernel);
        let (finished, _) = boot("bad-pci", &kernel.end(), &[]);
        assert_eq!(finished.code(), 1, "{reason}: {finished:?}");
        assert!(finished.stderr.contains(reason), "{reason}: {finished:?}");
    }
}

/// Unusual actions that are allowed, because they harm only the Guest.
#[test]
fn a_guest_that_plays_with_its_bus_goes_on() {
    let mut kernel = Program::of(&LATER[0]);
    // Every word of every space, there or not, and the window to everywhere.
    for slot in 0..6 {
        for word in (0..0x100).step_by(4) {
            kernel.set_config(slot, word, 0xFFFF_FFFF);
        }
    }
    for offset in [0_u32, 0x38, 0x3A, 0x3C, 0x7C, 0xFFC, 0x1000, u32::MAX - 3] {
        kernel.set_config(RANDOM, 0x88, 0);
        kernel.set_config(RANDOM, 0x8C, offset);
        kernel.set_config(RANDOM, 0x90, 4);
        kernel.set_config(RANDOM, 0x94, 0x1234_5678);
    }
    // Devices on top of each other, and over the memory.
    for place in [bar(DISK), FREE, 0] {
        for slot in [CONSOLE, RANDOM, DISK] {
            kernel.set_config(slot, 0x10, place);
        }
        kernel.store(FREE, 7);
        kernel.expect(FREE, 7);
    }
    kernel.place_devices();
    for _ in 0..300 {
        kernel.store_half(bar(RANDOM) + at::NOTIFY, 3);
        kernel.store_byte(bar(RANDOM) + at::STATUS, 0x80);
    }
    kernel.start(RANDOM, 0);
    kernel.describe(ring(RANDOM), 0, (FREE + 0x2000, 64), WRITE, 0);
    kernel.ask(RANDOM, 0, 0, 1);
    kernel.print_by_window("still here\n");
    let (finished, _) = boot("pci-games", &kernel.end(), &[]);
    assert_eq!(finished.ends_well(0).stdout, "still here\n");
}
