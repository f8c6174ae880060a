//! Questions about virtio devices, asked without a driver.
//!
//! Most are asked of devices on lguest's bus and of those on a PCI bus, and
//! have the same answers. The disk has 256 sectors, and each byte of a sector
//! is the sector's number. The test that starts this Guest makes it so.

use crate::lab::calls::named;
use crate::lab::memory::{self, page, peek, poke, va};
use crate::lab::space::{KERNEL_PAGE, first};
use crate::lab::trap;
use crate::pci;
use lg_abi::call::CallName;
use lg_abi::gen2::device::{
    BLOCK_FLUSH, BLOCK_GET_ID, BLOCK_IN, BLOCK_OUT, DESCRIPTOR_SIZE,
    TYPE_BLOCK, TYPE_CONSOLE, TYPE_RANDOM,
};
use lg_guest::interface::has_pci;
use lg_guest::{println, shared};

/// Bytes of RAM. The page of descriptors is there.
pub(crate) const RAM: u32 = 16 << 20;

/// Where the parts of a ring are.
pub(crate) const AVAILABLE: u32 = 0x1000;
pub(crate) const USED: u32 = 0x2000;

/// Pages of a ring.
pub(crate) const RING_PAGES: u32 = 3;

/// Flags of a descriptor.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// NOTIFY.
pub(crate) fn notify(at: u32) {
    named(CallName::Notify, at, 0);
}

fn byte(at: u32) -> u8 {
    memory::bytes(at, 1)[0]
}

pub(crate) fn half(at: u32) -> u16 {
    let bytes = memory::bytes(at, 2);
    u16::from_le_bytes([bytes[0], bytes[1]])
}

pub(crate) fn put_half(at: u32, half: u16) {
    memory::write(at, &half.to_le_bytes());
}

/// A device, by its descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    pub(crate) at: u32,
}

impl Device {
    pub(crate) fn kind(self) -> u8 {
        byte(self.at)
    }

    fn queues(self) -> u32 {
        byte(self.at + 1).into()
    }

    fn features_at(self) -> u32 {
        self.at + DESCRIPTOR_SIZE + 8 * self.queues()
    }

    /// The configuration.
    pub(crate) fn config(self) -> &'static [u8] {
        let features = u32::from(byte(self.at + 2));
        let len = byte(self.at + 3).into();
        memory::bytes(self.features_at() + 2 * features, len)
    }

    fn end(self) -> u32 {
        let features = u32::from(byte(self.at + 2));
        self.features_at() + 2 * features + u32::from(byte(self.at + 3))
    }

    /// Sets the status, and reports that.
    fn set_status(self, status: u8) {
        memory::write(self.at + 4, &[status]);
        notify(self.at);
    }

    /// Queue `n`.
    pub(crate) fn queue(self, n: u32) -> Queue {
        let at = self.at + DESCRIPTOR_SIZE + 8 * n;
        let pfn = u32::from(half(at + 4)) | (u32::from(half(at + 6)) << 16);
        Queue {
            ring: pfn << 12,
            vector: u32::from(half(at + 2)) + 32,
            doorbell: None,
        }
    }
}

/// Maps all descriptors and rings, and calls `see` with each device.
fn devices(mut see: impl FnMut(Device)) {
    let map = |at: u32| first().set(va(at), at | KERNEL_PAGE);
    map(RAM);
    let mut device = Device { at: RAM };
    while device.kind() != 0 {
        for n in 0..device.queues() {
            let ring = device.queue(n).ring;
            (0..RING_PAGES).for_each(|page| map(ring + page * 4096));
        }
        see(device);
        device.at = device.end();
    }
}

/// Queue `n` of the first device of a kind, in use.
pub(crate) fn queue(kind: u8, n: u32) -> Queue {
    match has_pci() {
        true => pci::Device::of(kind).started().queue(n),
        false => device(kind).queue(n),
    }
}

/// The first device of a kind on lguest's bus.
pub(crate) fn device(kind: u8) -> Device {
    let mut found = None;
    devices(|device| {
        if device.kind() == kind && found.is_none() {
            found = Some(device);
        }
    });
    found.expect("the test adds such a device")
}

/// A virtqueue.
#[derive(Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) ring: u32,
    pub(crate) vector: u32,
    /// On a PCI bus: the register that is written to notify, and what is
    /// written there.
    pub(crate) doorbell: Option<(u32, u16)>,
}

impl Queue {
    /// Writes a descriptor.
    pub(crate) fn describe(
        self,
        index: u16,
        (addr, len): (u32, u32),
        flags: u16,
        next: u16,
    ) {
        let at = self.ring + 16 * u32::from(index);
        let rest = u32::from(flags) | (u32::from(next) << 16);
        for (n, word) in (0..).step_by(4).zip([addr, 0, len, rest]) {
            poke(at + n, word);
        }
    }

    /// Makes the chain `head` available.
    pub(crate) fn offer(self, head: u16) {
        let count = half(self.ring + AVAILABLE + 2);
        let slot = u32::from(count % 256);
        put_half(self.ring + AVAILABLE + 4 + 2 * slot, head);
        put_half(self.ring + AVAILABLE + 2, count.wrapping_add(1));
    }

    /// Tells the device that there are chains.
    pub(crate) fn notify(self) {
        match self.doorbell {
            Some((at, number)) => pci::put_half(at, number),
            None => notify(self.ring),
        }
    }

    /// How many chains the device has used.
    pub(crate) fn used(self) -> u16 {
        half(self.ring + USED + 2)
    }

    /// Used element `n`: the head of a chain, and bytes written.
    pub(crate) fn element(self, n: u32) -> (u32, u32) {
        let at = self.ring + USED + 4 + 8 * (n % 256);
        (peek(at), peek(at + 4))
    }

    /// Notifies, and waits until `count` chains were used. Interrupts must be
    /// wanted.
    pub(crate) fn wait(self, count: u16) {
        self.notify();
        while self.used() != count {
            named(CallName::Halt, 0, 0);
            shared::set_irq_enabled(false);
        }
    }

    /// Prints whether its interrupt has come. One that waits comes before the
    /// timer does for the second time.
    pub(crate) fn came(self) {
        shared::set_irq_enabled(true);
        for times in 1..3 {
            named(CallName::SetClockevent, 1_000_000, 0);
            while trap::count_of(32) < times {
                core::hint::spin_loop();
            }
        }
        shared::set_irq_enabled(false);
        println!("interrupted: {}", trap::count_of(self.vector) > 0);
    }
}

/// Which devices, queues, features and configurations are in the descriptors,
/// and is everything after them zero?
pub(crate) fn described() {
    let mut end = RAM;
    devices(|device| {
        println!("type {}, status {}", device.kind(), byte(device.at + 4));
        for n in 0..device.queues() {
            let at = device.at + DESCRIPTOR_SIZE + 8 * n;
            let pages = (device.queue(n).ring - RAM) >> 12;
            let (size, irq) = (half(at), half(at + 2));
            println!("  {size} entries, irq {irq}, {pages} pages after RAM");
        }
        let bytes = 2 * byte(device.at + 2);
        let features = memory::bytes(device.features_at(), bytes.into());
        println!("  features {features:x?}");
        println!("  config {:x?}", device.config());
        end = device.end();
    });
    println!("more: {}", (end..RAM + 4096).any(|at| byte(at) != 0));
}

/// Does a source of random numbers fill a buffer, and no more than it?
pub(crate) fn random_numbers() {
    let queue = queue(TYPE_RANDOM, 0);
    let at = page();
    queue.describe(0, (at, 64), WRITE, 0);
    queue.offer(0);
    queue.wait(1);
    println!("{:?}", queue.element(0));
    let filled = memory::bytes(at, 64);
    println!("filled: {}", filled.iter().any(|&byte| byte != 0));
    println!("after it: {}", peek(at + 64));
    queue.came();
}

/// Does a flag in the available ring keep the interrupt away?
pub(crate) fn no_interrupt_wanted() {
    let queue = queue(TYPE_RANDOM, 0);
    queue.describe(0, (page(), 64), WRITE, 0);
    put_half(queue.ring + AVAILABLE, 1);
    queue.offer(0);
    queue.notify();
    println!("used {}", queue.used());
    queue.came();
}

/// The disk, and memory for requests.
struct Disk {
    queue: Queue,
    header: u32,
    data: u32,
}

impl Disk {
    fn new() -> Self {
        Self {
            queue: queue(TYPE_BLOCK, 0),
            header: page(),
            data: page(),
        }
    }

    /// A request with two pieces of data, if there are any. Prints the answer.
    fn request(&self, kind: u32, sector: u32, pieces: [u32; 2]) {
        let words = [kind, 0, sector, 0, 0xEE];
        for (n, word) in (0..).step_by(4).zip(words) {
            poke(self.header + n, word);
        }
        let flags = match kind {
            BLOCK_OUT => NEXT,
            _ => NEXT | WRITE,
        };
        let [first, second] = pieces;
        let queue = self.queue;
        let after = if first == 0 { 3 } else { 1 };
        queue.describe(0, (self.header, 16), NEXT, after);
        queue.describe(1, (self.data, first), flags, 2);
        queue.describe(2, (self.data + first, second), flags, 3);
        queue.describe(3, (self.header + 16, 1), WRITE, 0);
        queue.offer(0);
        let n = queue.used();
        queue.wait(n.wrapping_add(1));
        let (head, len) = queue.element(n.into());
        let status = byte(self.header + 16);
        println!("status {status}, head {head}, {len} bytes written");
    }
}

/// Does a disk read sectors into pieces of any size?
pub(crate) fn sectors_read() {
    let disk = Disk::new();
    disk.request(BLOCK_IN, 7, [100, 924]);
    for at in [0, 508, 512, 1020, 1024] {
        println!("{:#x}", peek(disk.data + at));
    }
    disk.queue.came();
}

/// Does a disk write sectors, and are they read back?
pub(crate) fn sectors_written() {
    let disk = Disk::new();
    memory::write(disk.data, &[0xAB; 1024]);
    disk.request(BLOCK_OUT, 9, [1000, 24]);
    memory::write(disk.data, &[0; 1024]);
    disk.request(BLOCK_IN, 10, [512, 512]);
    println!("{:#x} {:#x}", peek(disk.data), peek(disk.data + 512));
}

/// Is the last sector read, and are others refused that are not all on the
/// disk?
pub(crate) fn sectors_after_the_end() {
    let disk = Disk::new();
    disk.request(BLOCK_IN, 255, [256, 256]);
    for (sector, bytes) in [(255, 512), (256, 256), (0x80_0000, 256)] {
        disk.request(BLOCK_IN, sector, [bytes, bytes]);
        disk.request(BLOCK_OUT, sector, [bytes, bytes]);
    }
    disk.request(BLOCK_IN, u32::MAX, [256, 256]);
}

/// Does a read-only disk say so, and refuse writes?
pub(crate) fn sectors_of_a_read_only_disk() {
    let disk = Disk::new();
    let features = peek(device(TYPE_BLOCK).features_at());
    println!("features {features:#x}");
    memory::write(disk.data, &[0xAB; 512]);
    disk.request(BLOCK_OUT, 9, [256, 256]);
    disk.request(BLOCK_IN, 9, [256, 256]);
    println!("{:#x}", peek(disk.data));
}

/// May a request have a size that is not a whole number of sectors, or 0?
pub(crate) fn sectors_of_an_odd_size() {
    let disk = Disk::new();
    disk.request(BLOCK_IN, 3, [100, 0]);
    println!("{:x?}", memory::bytes(disk.data + 99, 2));
    disk.request(BLOCK_OUT, 3, [100, 1]);
    disk.request(BLOCK_IN, 3, [0, 0]);
}

/// Is a flush answered, also without anything written?
pub(crate) fn sectors_flushed() {
    let disk = Disk::new();
    disk.request(BLOCK_FLUSH, 0, [0, 0]);
    disk.request(BLOCK_OUT, 9, [256, 256]);
    disk.request(BLOCK_FLUSH, 0, [0, 0]);
}

/// Which name does a disk have, and is it cut for a short buffer?
pub(crate) fn name_of_a_disk() {
    let disk = Disk::new();
    for room in [20, 64, 5] {
        memory::write(disk.data, &[b'-'; 64]);
        disk.request(BLOCK_GET_ID, 0, [room - 1, 1]);
        let name = memory::bytes(disk.data, 24);
        println!("{:?}", core::str::from_utf8(name));
    }
}

/// Is a request refused that is of no kind?
pub(crate) fn unknown_request() {
    let disk = Disk::new();
    disk.request(77, 0, [256, 256]);
    disk.request(u32::MAX, 0, [0, 0]);
}

/// Are several chains taken with one notification, in their order?
pub(crate) fn many_chains() {
    let queue = queue(TYPE_RANDOM, 0);
    let at = page();
    for n in 0..10 {
        queue.describe(n, (at, 10 + u32::from(n)), WRITE, 0);
        queue.offer(9 - n);
    }
    // All descriptors are written before the device looks.
    queue.wait(10);
    for n in 0..10 {
        println!("{:?}", queue.element(n));
    }
}

/// Does a ring go on at its beginning after its end, also when the numbers wrap
/// around?
pub(crate) fn ring_round_and_round() {
    let queue = queue(TYPE_RANDOM, 0);
    let at = page();
    let mut wrong = 0;
    put_half(queue.ring + AVAILABLE, 1); // no interrupts
    for n in 0..66_000_u32 {
        let head = (n % 256) as u16;
        queue.describe(head, (at, n % 7 + 1), WRITE, 0);
        queue.offer(head);
        if n % 200 == 199 {
            queue.notify();
            let element = queue.element(n);
            wrong += u32::from(element != (n % 256, n % 7 + 1));
            wrong += u32::from(queue.used() != (n + 1) as u16);
        }
    }
    println!("wrong: {wrong}, used {}", queue.used());
}

/// Does a ring start anew after a reset?
pub(crate) fn ring_after_a_reset() {
    let device = device(TYPE_RANDOM);
    let queue = device.queue(0);
    queue.describe(0, (page(), 8), WRITE, 0);
    for _ in 0..3 {
        queue.offer(0);
    }
    queue.wait(3);
    device.set_status(0);
    memory::write(queue.ring + AVAILABLE, &[0; 4]);
    memory::write(queue.ring + USED, &[0; 4]);
    device.set_status(7);
    queue.offer(0);
    queue.wait(1);
    println!("{:?}", queue.element(0));
}

/// Does a device go on whatever its status and the accepted features are?
pub(crate) fn status_of_no_meaning() {
    let device = device(TYPE_RANDOM);
    let queue = device.queue(0);
    queue.describe(0, (page(), 8), WRITE, 0);
    memory::write(device.features_at() + 4, &[0xFF; 4]);
    for (n, status) in (1..).zip([1, 2, 3, 7, 0x10, 0x40]) {
        device.set_status(status);
        queue.offer(0);
        queue.wait(n);
    }
    println!("used {}", queue.used());
}

/// Does a console print the pieces of a chain, and keep the Guest's text?
pub(crate) fn printed_by_a_queue() {
    let queue = queue(TYPE_CONSOLE, 1);
    let at = page();
    memory::write(at, b"one two\r\n");
    queue.describe(0, (at, 4), NEXT, 1);
    queue.describe(1, (at + 4, 5), 0, 0);
    queue.offer(0);
    queue.wait(1);
    println!("{:?}, {:?}", queue.element(0), memory::bytes(at, 4));
    queue.came();
}

/// Does what is typed arrive in a buffer, with an interrupt?
pub(crate) fn typed_into_a_queue() {
    let queue = queue(TYPE_CONSOLE, 0);
    let at = page();
    queue.describe(0, (at, 100), WRITE, 0);
    queue.offer(0);
    queue.wait(1);
    let typed = memory::bytes(at, 10);
    println!("{:?} {:?}", queue.element(0), core::str::from_utf8(typed));
    queue.came();
}

/// Does what is typed arrive in small buffers, in their order?
pub(crate) fn typed_into_small_buffers() {
    let queue = queue(TYPE_CONSOLE, 0);
    let at = page();
    for n in 0..3 {
        queue.describe(n, (at + 16 * u32::from(n), 3), WRITE, 0);
        queue.offer(n);
    }
    queue.wait(3);
    for n in 0..3 {
        let typed = memory::bytes(at + 16 * n, 4);
        println!("{:?} {:?}", queue.element(n), core::str::from_utf8(typed));
    }
}

/// Is a notification without any chain ignored?
pub(crate) fn notified_for_nothing() {
    devices(|device| {
        for n in 0..device.queues() {
            notify(device.queue(n).ring);
            notify(device.queue(n).ring);
            println!("used {}", device.queue(n).used());
        }
    });
}
