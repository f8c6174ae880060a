//! Questions about the PCI bus of Linux 4.x and the virtio 1.0 devices on it.
//!
//! They are asked without a driver. Before there is one, the kit prints by the
//! same ports, so a question prints after it has read them.
//! The devices are a console, a source of random numbers, and a disk, in this
//! order. Questions about their queues that do not depend on the bus are in
//! [`virtio`](crate::virtio).

#![expect(unsafe_code, reason = "ports, and registers of devices")]

use crate::lab::memory::{self, page, peek, va};
use crate::lab::space::{KERNEL_PAGE, first};
use crate::virtio::{AVAILABLE, Queue, RING_PAGES, USED, WRITE, half};
use core::arch::asm;
use lg_abi::gen2::device::{TYPE_BLOCK, TYPE_CONSOLE, TYPE_RANDOM};
use lg_abi::gen3::pci::{ADDRESS_PORT, DATA_PORT, ENABLE, offset};
use lg_abi::gen3::registers::{
    DEVICE, EMERGENCY_WRITE, ISR, NOTIFY, STATUS_FEATURES_OK, common,
};
use lg_abi::page::PAGE_SIZE;
use lg_guest::println;

/// Slots.
const CONSOLE: u32 = 1;
const RANDOM: u32 = 2;
const DISK: u32 = 3;

/// Bits of the status: seen, driver found, driver ready.
const SEEN: u8 = 1;
const DRIVER: u8 = 2;
const READY: u8 = 4;

/// Reads `bytes` bytes (1, 2 or 4) at physical address `at` by one `mov`.
fn load(at: u32, bytes: u32) -> u32 {
    let from = va(at);
    let mut v: u32 = 0;
    match bytes {
        // SAFETY: a register of a device, which is mapped; the Host carries the
        // access out.
        1 => unsafe {
            asm!("mov {v:l}, [{f}]", f = in(reg) from, v = inout(reg_abcd) v);
        },
        // SAFETY: as above.
        2 => unsafe {
            asm!("mov {v:x}, [{f}]", f = in(reg) from, v = inout(reg) v);
        },
        // SAFETY: as above.
        _ => unsafe {
            asm!("mov {v:e}, [{f}]", f = in(reg) from, v = inout(reg) v);
        },
    }
    v
}

/// Writes `bytes` bytes there by one `mov`.
fn store(at: u32, bytes: u32, value: u32) {
    let to = va(at);
    match bytes {
        // SAFETY: as in `load`.
        1 => unsafe {
            asm!("mov [{t}], {v:l}", t = in(reg) to, v = in(reg_abcd) value);
        },
        // SAFETY: as in `load`.
        2 => unsafe {
            asm!("mov [{t}], {v:x}", t = in(reg) to, v = in(reg) value);
        },
        // SAFETY: as in `load`.
        _ => unsafe {
            asm!("mov [{t}], {v:e}", t = in(reg) to, v = in(reg) value);
        },
    }
}

/// Writes 16 bits at physical address `at`, to memory or to a register.
pub(crate) fn put_half(at: u32, half: u16) {
    store(at, 2, half.into());
}

fn out(port: u32, word: u32) {
    // SAFETY: the Host carries it out.
    unsafe { asm!("out dx, eax", in("edx") port, in("eax") word) }
}

/// Reads a port of 1, 2 or 4 bytes.
fn port(port: u32, bytes: u32) -> u32 {
    let mut value: u32 = 0;
    match bytes {
        // SAFETY: as in `out`.
        1 => unsafe { asm!("in al, dx", in("edx") port, inout("eax") value) },
        // SAFETY: as in `out`.
        2 => unsafe { asm!("in ax, dx", in("edx") port, inout("eax") value) },
        // SAFETY: as in `out`.
        _ => unsafe { asm!("in eax, dx", in("edx") port, inout("eax") value) },
    }
    value
}

fn out_byte(port: u32, byte: u8) {
    // SAFETY: as in `out`.
    unsafe { asm!("out dx, al", in("edx") port, in("al") byte) }
}

/// A word of a configuration space.
fn config(slot: u32, at: u32) -> u32 {
    out(ADDRESS_PORT, ENABLE | (slot << 11) | at);
    port(DATA_PORT, 4)
}

fn set_config(slot: u32, at: u32, word: u32) {
    out(ADDRESS_PORT, ENABLE | (slot << 11) | at);
    out(DATA_PORT, word);
}

/// Chooses what the window of a device shows: bytes at `offset` of a BAR.
fn set_window(slot: u32, [bar, offset, bytes]: [u32; 3]) {
    set_config(slot, offset::WINDOW_BAR, bar);
    set_config(slot, offset::WINDOW_OFFSET, offset);
    set_config(slot, offset::WINDOW_LENGTH, bytes);
}

/// A device whose registers are mapped.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    slot: u32,
    bar: u32,
}

impl Device {
    /// The device in this slot.
    fn in_slot(slot: u32) -> Self {
        let bar = config(slot, offset::BAR_0);
        first().set(va(bar), bar | KERNEL_PAGE);
        Self { slot, bar }
    }

    /// The device of a type.
    pub(crate) fn of(kind: u8) -> Self {
        Self::in_slot(match kind {
            TYPE_CONSOLE => CONSOLE,
            TYPE_RANDOM => RANDOM,
            TYPE_BLOCK => DISK,
            _ => panic!("the test adds no such device"),
        })
    }

    fn get(self, at: u32, bytes: u32) -> u32 {
        load(self.bar + at, bytes)
    }

    fn set(self, at: u32, bytes: u32, value: u32) {
        store(self.bar + at, bytes, value);
    }

    fn status(self) -> u8 {
        self.get(common::DEVICE_STATUS, 1) as u8
    }

    fn set_status(self, status: u8) {
        self.set(common::DEVICE_STATUS, 1, status.into());
    }

    /// Accepts two words of features.
    fn accept(self, features: [u32; 2]) {
        for (select, features) in (0..).zip(features) {
            self.set(common::DRIVER_FEATURE_SELECT, 4, select);
            self.set(common::DRIVER_FEATURE, 4, features);
        }
    }

    /// Resets it, and accepts no feature but that of the version.
    fn negotiated(self) -> Self {
        self.set_status(0);
        self.set_status(SEEN | DRIVER);
        self.accept([0, 1]);
        self.set_status(SEEN | DRIVER | STATUS_FEATURES_OK);
        self
    }

    /// Starts it as a driver does, with rings for all of its queues.
    pub(crate) fn started(self) -> Self {
        self.negotiated();
        for n in 0..self.get(common::NUM_QUEUES, 2) {
            self.put_queue(n, fresh_ring());
        }
        self.set_status(SEEN | DRIVER | STATUS_FEATURES_OK | READY);
        self
    }

    /// Puts queue `n` at `ring`.
    fn put_queue(self, n: u32, ring: u32) {
        self.set(common::QUEUE_SELECT, 2, n);
        for (at, part) in [
            (common::QUEUE_DESC, 0),
            (common::QUEUE_DRIVER, AVAILABLE),
            (common::QUEUE_DEVICE, USED),
        ] {
            self.set(at, 4, ring + part);
            self.set(at + 4, 4, 0);
        }
        self.set(common::QUEUE_ENABLE, 2, 1);
    }

    /// Queue `n`, which is in use.
    pub(crate) fn queue(self, n: u32) -> Queue {
        self.set(common::QUEUE_SELECT, 2, n);
        Queue {
            ring: self.get(common::QUEUE_DESC, 4),
            vector: self.slot + 32,
            doorbell: Some((self.bar + NOTIFY, n as u16)),
        }
    }
}

/// Memory for a ring: pages of the lab follow each other.
fn fresh_ring() -> u32 {
    let ring = page();
    (1..RING_PAGES).for_each(|_| {
        page();
    });
    ring
}

/// A source of random numbers with one chain of `bytes` bytes.
fn random_with(bytes: u32) -> (Device, Queue) {
    let device = Device::of(TYPE_RANDOM).started();
    let queue = device.queue(0);
    queue.describe(0, (page(), bytes), WRITE, 0);
    (device, queue)
}

/// Which devices are in which slots, and is there nothing else on the bus?
pub(crate) fn pci_slots() {
    for slot in 0..32 {
        let class = config(slot, offset::CLASS);
        if class != u32::MAX {
            let ids = config(slot, offset::IDS);
            let interrupt = config(slot, offset::INTERRUPT);
            println!("{slot}: {ids:#x}, class {class:#x}, irq {interrupt}");
        }
    }
    for elsewhere in [1 << 16, 0xFF << 16, 1 << 8, 7 << 8] {
        out(ADDRESS_PORT, ENABLE | elsewhere | (RANDOM << 11));
        println!("{:#x}", port(DATA_PORT, 4));
    }
    out(ADDRESS_PORT, RANDOM << 11);
    let [word, address] = [DATA_PORT, ADDRESS_PORT].map(|at| port(at, 4));
    println!("not enabled: {word:#x}, address: {address:#x}");
}

/// What is in the configuration space of a disk?
pub(crate) fn pci_space() {
    for at in (0..0xA0).step_by(16) {
        let words = [0, 4, 8, 12].map(|n| config(DISK, at + n));
        println!("{at:02x}: {words:08x?}");
    }
}

/// Which bits of a configuration space can be written?
pub(crate) fn pci_words_written() {
    for at in (0..0x100).step_by(4) {
        let before = config(RANDOM, at);
        set_config(RANDOM, at, !0);
        let ones = config(RANDOM, at);
        set_config(RANDOM, at, 0);
        let zeros = config(RANDOM, at);
        if ones != zeros {
            println!("{at:02x}: {:#x}", ones ^ zeros);
        }
        set_config(RANDOM, at, before);
        assert!(at == offset::WINDOW_DATA || config(RANDOM, at) == before);
    }
}

/// Are bytes and halves of a configuration space read and written alone?
pub(crate) fn pci_parts_of_words() {
    let address = ENABLE | (RANDOM << 11);
    out(ADDRESS_PORT, address | offset::IDS);
    let bytes = [0, 1, 2, 3].map(|at| port(DATA_PORT + at, 1));
    let halves = [0, 2].map(|at| port(DATA_PORT + at, 2));
    println!("{bytes:x?} {halves:x?}");
    out(ADDRESS_PORT, address | offset::HEADER);
    out_byte(DATA_PORT + 1, 0x12);
    out_byte(DATA_PORT, 0x34);
    let header = port(DATA_PORT, 4);
    out_byte(ADDRESS_PORT, offset::IDS as u8);
    println!("{header:#x} {:#x}", port(DATA_PORT, 4));
}

/// Does a device go where its BAR is moved to, and is nothing left behind?
pub(crate) fn pci_bar_moved() {
    let (random, disk) = (Device::in_slot(RANDOM), Device::in_slot(DISK));
    println!("{}", random.get(common::QUEUE_SIZE, 2));
    set_config(RANDOM, offset::BAR_0, disk.bar + 0x400);
    println!("{:#x}", random.get(common::QUEUE_SIZE, 2));
    println!("{}", disk.get(0x400 + common::QUEUE_SIZE, 2));
    // Bits below its size stay 0.
    set_config(RANDOM, offset::BAR_0, u32::MAX);
    println!("size {:#x}", !config(RANDOM, offset::BAR_0) + 1);
    set_config(RANDOM, offset::BAR_0, random.bar);
    println!("{}", random.get(common::QUEUE_SIZE, 2));
}

/// What are the registers behind those that a device has?
pub(crate) fn pci_behind_the_registers() {
    let random = Device::in_slot(RANDOM);
    for at in [0x3C, 0x40, 0x80, PAGE_SIZE - 4] {
        random.set(at, 4, 0x1234_5678);
        println!("{at:#x}: {:#x}", random.get(at, 4));
    }
}

/// Which features do the devices offer, and how many queues have they?
pub(crate) fn pci_features() {
    for slot in [CONSOLE, RANDOM, DISK] {
        let device = Device::in_slot(slot);
        let features = [0, 1, 2, u32::MAX].map(|select| {
            device.set(common::DEVICE_FEATURE_SELECT, 4, select);
            device.get(common::DEVICE_FEATURE, 4)
        });
        let queues = device.get(common::NUM_QUEUES, 2);
        println!("{slot}: {features:x?}, {queues} queues");
    }
}

/// Does a device keep FEATURES_OK only if all that is accepted was offered, and
/// the version is among it?
pub(crate) fn pci_negotiation() {
    let disk = Device::in_slot(DISK);
    disk.set(common::DEVICE_FEATURE_SELECT, 4, 0);
    let offered = disk.get(common::DEVICE_FEATURE, 4);
    for features in [
        [0, 0],
        [0, 1],
        [offered, 0],
        [offered, 1],
        [!0, 1],
        [0, 3],
        [0, !0],
    ] {
        disk.set_status(0);
        disk.set_status(SEEN | DRIVER);
        disk.accept(features);
        disk.set_status(SEEN | DRIVER | STATUS_FEATURES_OK);
        println!("{features:x?}: status {:#x}", disk.status());
    }
    // What was accepted is final.
    disk.negotiated();
    disk.accept([!0, !0]);
    disk.set(common::DRIVER_FEATURE_SELECT, 4, 0);
    println!("accepted {:#x}", disk.get(common::DRIVER_FEATURE, 4));
}

/// Does the status read as it was written, in any order of its bits?
pub(crate) fn pci_status() {
    let random = Device::in_slot(RANDOM);
    random.accept([0, 1]);
    for status in [4, 7, 1, 0x80, 0x40, 0x10, 0xFF, 8, 0xF, 0] {
        random.set_status(status);
        println!("{status:#x}: {:#x}", random.status());
    }
}

/// Which registers has a queue, and may they change while it is in use?
pub(crate) fn pci_registers_of_a_queue() {
    let random = Device::in_slot(RANDOM).negotiated();
    let show = || {
        let [select, size, enabled, notify, vector] = [
            common::QUEUE_SELECT,
            common::QUEUE_SIZE,
            common::QUEUE_ENABLE,
            common::QUEUE_NOTIFY_OFF,
            common::QUEUE_MSIX_VECTOR,
        ]
        .map(|at| random.get(at, 2));
        let words = [0, 4, 8, 12, 16, 20];
        let words = words.map(|at| random.get(common::QUEUE_DESC + at, 4));
        println!(
            "{select}: {size} entries, enabled {enabled}, notify {notify}, \
             vector {vector:#x},\r\n  {words:x?}"
        );
    };
    show();
    for queue in [1, 0xFFFF, 0] {
        random.set(common::QUEUE_SELECT, 2, queue);
        show();
    }
    random.set(common::QUEUE_SIZE, 2, 8);
    random.put_queue(0, fresh_ring());
    show();
    // No effect any more.
    random.set(common::QUEUE_SIZE, 2, 16);
    random.set(common::QUEUE_DESC, 4, 0x1000);
    random.set(common::QUEUE_ENABLE, 2, 0);
    show();
    random.set_status(0);
    show();
}

/// Has a write of another width than that of the register an effect?
pub(crate) fn pci_widths() {
    let random = Device::in_slot(RANDOM).negotiated();
    for (at, width) in [
        (common::DEVICE_FEATURE_SELECT, 4),
        (common::DRIVER_FEATURE_SELECT, 4),
        (common::DEVICE_STATUS, 1),
        (common::QUEUE_SELECT, 2),
        (common::QUEUE_SIZE, 2),
        (common::QUEUE_DESC, 4),
    ] {
        for bytes in [1, 2, 4] {
            let before = random.get(at, width);
            random.set(at, bytes, 5);
            let after = random.get(at, width);
            let changed = before != after;
            println!("{at:#x}, {bytes} bytes: {changed}");
            random.set(at, width, before);
        }
    }
    // Reads may be of any width.
    let size = common::QUEUE_SIZE;
    println!("{:#x} {:#x}", random.get(size, 1), random.get(size + 1, 1));
    println!("{:#x}", random.get(size, 4));
}

/// Is a queue served when it is notified, also before the driver is ready?
/// Linux reads the partitions of a disk before.
pub(crate) fn pci_queue_before_ready() {
    let random = Device::of(TYPE_RANDOM).negotiated();
    random.put_queue(0, fresh_ring());
    let queue = random.queue(0);
    queue.describe(0, (page(), 8), WRITE, 0);
    queue.offer(0);
    queue.notify();
    println!("used {}", queue.used());
    random.set_status(random.status() | READY);
    queue.offer(0);
    queue.wait(2);
    println!("used {}", queue.used());
}

/// Are notifications of queues that do not exist ignored, and those without a
/// chain?
pub(crate) fn pci_notified_for_nothing() {
    let (random, queue) = random_with(8);
    for n in [0, 0, 1, 0x8000, 0xFFFF] {
        random.set(NOTIFY, 2, n);
    }
    random.set(NOTIFY, 4, 0);
    random.set(NOTIFY, 1, 0);
    println!("used {}", queue.used());
    queue.offer(0);
    queue.wait(1);
    println!("used {}", queue.used());
}

/// Does a device say why it has interrupted, and only until that was read?
pub(crate) fn pci_reason() {
    let (random, queue) = random_with(8);
    println!("before: {}", random.get(ISR, 1));
    queue.offer(0);
    queue.wait(1);
    queue.came();
    println!("after: {}, {}", random.get(ISR, 1), random.get(ISR, 1));
    // Other devices have no reason.
    println!("disk: {}", Device::in_slot(DISK).get(ISR, 1));
}

/// Does a ring start anew after a reset, at another place and with another
/// size?
pub(crate) fn pci_ring_after_a_reset() {
    let (random, queue) = random_with(8);
    for _ in 0..3 {
        queue.offer(0);
    }
    queue.wait(3);
    random.negotiated();
    random.set(common::QUEUE_SELECT, 2, 0);
    random.set(common::QUEUE_SIZE, 2, 4);
    random.put_queue(0, fresh_ring());
    random.set_status(random.status() | READY);
    let queue = random.queue(0);
    queue.describe(0, (page(), 5), WRITE, 0);
    // A ring of four: the fifth entry is the first again.
    for n in 0..6_u16 {
        let slot = u32::from(n % 4);
        put_half(queue.ring + AVAILABLE + 4 + 2 * slot, 0);
        put_half(queue.ring + AVAILABLE + 2, n + 1);
        queue.wait(n + 1);
    }
    let behind = peek(queue.ring + USED + 4 + 4 * 8);
    println!("used {}, behind the ring {behind}", queue.used());
}

/// Does the window read and write registers, and are bad windows nothing?
pub(crate) fn pci_window() {
    let data = offset::WINDOW_DATA;
    for (at, bytes) in [
        (common::NUM_QUEUES, 2),
        (common::DEVICE_STATUS, 1),
        (common::QUEUE_SIZE, 2),
        (DEVICE, 4),
        (DEVICE + 12, 4),
    ] {
        set_window(DISK, [0, at, bytes]);
        println!("{at:#x}: {:#x}", config(DISK, data));
    }
    set_window(DISK, [0, common::DEVICE_STATUS, 1]);
    set_config(DISK, data, u32::from(SEEN));
    println!("status {}", Device::in_slot(DISK).status());
    for window in [
        [1, 0, 4],
        [6, 0, 4],
        [0, 0, 0],
        [0, 0, 3],
        [0, 0, 8],
        [0, 2, 4],
        [0, 0x7E, 4],
        [0, 0x80, 4],
        [0, PAGE_SIZE, 4],
        [0, u32::MAX - 3, 4],
    ] {
        set_window(DISK, window);
        set_config(DISK, data, 0);
        println!("{window:x?}: {:#x}", config(DISK, data));
    }
    println!("status {}", Device::in_slot(DISK).status());
}

/// Are characters printed by the register and by the window, without a driver?
pub(crate) fn pci_printed_early() {
    let console = Device::in_slot(CONSOLE);
    for byte in b"by the register\r\n" {
        console.set(DEVICE + EMERGENCY_WRITE, 4, u32::from(*byte));
    }
    for (bytes, text) in [(1, b"1\r\n"), (2, b"2\r\n"), (4, b"4\r\n")] {
        set_window(CONSOLE, [0, DEVICE + EMERGENCY_WRITE, bytes]);
        for byte in text {
            set_config(CONSOLE, offset::WINDOW_DATA, u32::from(*byte));
        }
    }
}

/// Which registers of their own have a console and a disk?
pub(crate) fn pci_registers_of_a_type() {
    let (console, disk) = (Device::in_slot(CONSOLE), Device::in_slot(DISK));
    let words = [0, 4, 8].map(|at| console.get(DEVICE + at, 4));
    println!("console: {words:x?}");
    let words = [0, 4, 8, 12].map(|at| disk.get(DEVICE + at, 4));
    println!("disk: {words:x?}");
    println!("{:#x}", disk.get(DEVICE + 1, 1));
    println!("generation {}", disk.get(common::CONFIG_GENERATION, 1));
    // A driver cannot write them.
    disk.set(DEVICE, 4, 7);
    println!("{:#x}", disk.get(DEVICE, 4));
}

/// Is the interrupt of a queue kept away by a flag, and does the used ring say
/// nothing to the driver?
pub(crate) fn pci_no_interrupt_wanted() {
    let (random, queue) = random_with(8);
    put_half(queue.ring + AVAILABLE, 1);
    queue.offer(0);
    queue.notify();
    println!("used {}, flags {}", queue.used(), half(queue.ring + USED));
    queue.came();
    println!("reason {}", random.get(ISR, 1));
}

/// Does a queue outside the memory end the Guest?
pub(crate) fn pci_queue_outside_memory() {
    let random = Device::in_slot(RANDOM).negotiated();
    random.put_queue(0, 0x4000_0000);
}

/// Does a queue above 4 GiB end the Guest?
pub(crate) fn pci_queue_above_4_gib() {
    let random = Device::in_slot(RANDOM).negotiated();
    random.set(common::QUEUE_SELECT, 2, 0);
    random.set(common::QUEUE_DEVICE + 4, 4, 1);
    random.set(common::QUEUE_ENABLE, 2, 1);
}

/// Does a queue in the registers of a device end the Guest?
pub(crate) fn pci_queue_in_a_device() {
    let random = Device::in_slot(RANDOM).negotiated();
    random.put_queue(0, random.bar);
}

/// May the rings of two devices be in the same memory?
pub(crate) fn pci_two_queues_in_one_place() {
    let (random, queue) = random_with(8);
    let disk = Device::in_slot(DISK).negotiated();
    disk.put_queue(0, queue.ring);
    disk.set_status(disk.status() | READY);
    queue.offer(0);
    queue.wait(1);
    println!("used {}, status {:#x}", queue.used(), random.status());
    println!("bytes: {}", memory::bytes(queue.ring + USED + 8, 1)[0]);
}
