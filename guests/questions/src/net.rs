//! Questions about the network, asked without a driver.
//!
//! Most questions need two Guests: one asks, in slot 0, and its peer in slot 1
//! does the rest. Each writes its progress into a word at the end of the shared
//! page.

use crate::block::{descriptor, device_page};
use crate::dma::{dma, dma_at};
use crate::lab::calls::{bind, send};
use crate::lab::hypercall;
use crate::lab::memory::{self, load, page, peek, poke, store};
use crate::lab::trap;
use lg_abi::dma::Dma;
use lg_abi::hypercall::Hypercall;
use lg_guest::{print, println, shared, time};

/// The offsets in the page at which the two write their progress: after all
/// slots that are used here.
const STEPS: [u32; 2] = [4000, 4004];

/// The offset in the page of a part of slot 1's address.
const ADDRESS_OF_1: u32 = 8;

/// The interrupt of all bindings here.
const IRQ: u8 = 9;

/// One of the two Guests.
struct Net {
    key: u32,
    at: u32,
    me: u32,
}

impl Net {
    fn new() -> Self {
        let (key, at) = device_page(0);
        let me = (descriptor(0)[0] >> 16) & 0x3FFF;
        Self { key, at, me }
    }

    /// The key of a slot.
    fn slot(&self, n: u32) -> u32 {
        self.key + 4 * n
    }

    /// Reports that step `n` is done.
    fn done(&self, n: u32) {
        store(self.at + STEPS[self.me as usize], n);
    }

    /// Waits until the other Guest has done step `n`.
    fn wait(&self, n: u32) {
        let other = 1 - self.me;
        while load(self.at + STEPS[other as usize]) < n {
            nap();
        }
    }

    /// Waits until the other Guest receives. The two Launchers may still be
    /// connecting, so this also sleeps.
    fn wait_to_send(&self) {
        self.wait(1);
        for _ in 0..500 {
            nap();
        }
    }

    /// Sends a frame of `sections` to the other Guest's slot, which has a free
    /// buffer. Tries again while the Launchers are not connected. Prints how
    /// many bytes were taken.
    fn send(&self, sections: &[(u32, u16)]) {
        let sent = dma(sections);
        for _ in 0..20_000 {
            send(self.slot(1 - self.me), sent);
            if peek(sent) != 0 {
                break;
            }
            nap();
        }
        println!("taken {}", peek(sent));
    }

    /// The same for a slot without a free buffer: tries once.
    fn send_once(&self, sections: &[(u32, u16)]) {
        // So the Launchers have to be connected by now. On a busy machine that
        // takes more than a moment.
        sleep(2);
        let sent = dma(sections);
        send(self.slot(1 - self.me), sent);
        println!("taken {}", peek(sent));
    }
}

/// Sleeps for a short time.
fn nap() {
    hypercall(Hypercall::SetClockevent, 200_000, 0, 0);
    hypercall(Hypercall::Halt, 0, 0, 0);
    shared::set_irq_enabled(false);
}

/// Sleeps for some seconds.
fn sleep(seconds: u64) {
    let start = time::now();
    while time::now() - start < seconds * time::SECOND {
        nap();
    }
}

/// How often the network's interrupt has come. Waits a little for `expected`.
fn interrupts(expected: usize) -> usize {
    let count = || trap::count_of(32 + u32::from(IRQ));
    for _ in 0..2000 {
        if count() >= expected {
            break;
        }
        nap();
    }
    count()
}

/// Data to send: `len` bytes at 0x5_0000, counting up.
fn data(len: usize) {
    for n in 0..len {
        memory::write(0x5_0000 + n as u32, &[n as u8]);
    }
}

/// What is in the descriptor of a network, for the first Guest?
pub(crate) fn net_description() {
    let [kind, status, pfn] = descriptor(0);
    println!("type {}, features {:#x}", kind & 0xFFFF, kind >> 16);
    println!("status {:#x}, pages {}", status & 0xFFFF, status >> 16);
    println!("pages above RAM {}", pfn - (16 << 8));
}

/// Does a send to a free slot or to the sender's own slot leave used_len as it
/// was?
pub(crate) fn alone() {
    let net = Net::new();
    let dmas = dma(&[(page(), 1000)]);
    println!("bind {}", bind(net.slot(0), dmas, 1, IRQ));
    for slot in [0, 1, 681, 1023] {
        let sent = dma(&[(0x5_0000, 60)]);
        send(net.slot(slot), sent);
        println!("slot {slot}: used_len {}, {}", peek(sent), peek(dmas));
    }
}

/// Is the page shared, so that one Guest reads what the other writes?
pub(crate) fn page_shared() {
    let net = Net::new();
    println!("slot {}", net.me);
    store(net.at + 2000, 0x1234_5678);
    net.done(1);
    net.wait(1);
    println!("{:#x}", load(net.at + 2004));
}

/// The peer of the function above.
pub(crate) fn page_shared_peer() {
    let net = Net::new();
    println!("slot {}", net.me);
    net.wait(1);
    println!("{:#x}", load(net.at + 2000));
    store(net.at + 2004, 0x9ABC_DEF0);
    net.done(1);
}

/// Does a frame arrive whole, with its length and an interrupt, from any
/// sections into any sections?
pub(crate) fn frame() {
    let net = Net::new();
    print!("");
    let (a, b) = (page(), page());
    let array = page();
    dma_at(array, &[(a, 1514)]);
    dma_at(
        array + Dma::SIZE,
        &[(a + 2000, 100), (b + 1, 1), (b + 10, 2000)],
    );
    println!("bind {}", bind(net.slot(0), array, 2, IRQ));
    net.done(1);
    net.wait(1);
    // There may be one interrupt for both.
    println!("interrupted: {}", interrupts(1) >= 1);
    let used = [peek(array), peek(array + Dma::SIZE)];
    println!("used_len {used:?}");
    println!(
        "{:?}",
        memory::bytes(a, 1514)
            .iter()
            .enumerate()
            .all(|(n, &b)| b == n as u8)
    );
    println!("{:x?}", &memory::bytes(a + 2098, 3));
    println!("{:x?}", &memory::bytes(b, 3));
    println!(
        "{:x?} {:x?}",
        &memory::bytes(b + 9, 3),
        memory::bytes(b + 10 + 1412, 2)
    );
}

/// The peer of the function above.
pub(crate) fn frame_peer() {
    let net = Net::new();
    net.wait_to_send();
    data(1514);
    net.send(&[(0x5_0000, 1514)]);
    net.send(&[(0x5_0000, 14), (0x5_000E, 0x400), (0x5_040E, 476)]);
    net.done(1);
}

/// Does a frame without a free buffer return 0 to the sender, and raise the
/// receiver's interrupt?
pub(crate) fn no_buffer() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(page(), 100)]);
    poke(array, 5); // not free
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    println!("interrupts: {}", interrupts(1) >= 1);
    println!("used_len {}", peek(array));
}

/// The peer of the function above.
pub(crate) fn no_buffer_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send_once(&[(0x5_0000, 60)]);
    net.done(1);
}

/// Does each frame use the next buffer of the array, even if an earlier one is
/// free again?
pub(crate) fn cursor() {
    let net = Net::new();
    let array = page();
    for n in 0..3 {
        dma_at(array + n * Dma::SIZE, &[(page(), 100)]);
    }
    println!("bind {}", bind(net.slot(0), array, 3, IRQ));
    for step in 1..=5 {
        net.done(step);
        net.wait(step);
        let used = [0, 1, 2].map(|n| peek(array + n * Dma::SIZE));
        println!("used_len {used:?}");
        for n in 0..3 {
            poke(array + n * Dma::SIZE, 0);
        }
    }
}

/// The peer of the function above.
pub(crate) fn cursor_peer() {
    let net = Net::new();
    net.wait_to_send();
    for step in 1..=5 {
        net.wait(step);
        net.send(&[(0x5_0000, 60 + step as u16)]);
        net.done(step);
    }
}

/// Does a frame that is longer than the buffer fill it, and do both Guests get
/// the length?
pub(crate) fn too_long() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(page(), 50), (page(), 7)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    println!("used_len {}", peek(array));
}

/// The peer of the function above.
pub(crate) fn too_long_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 1000)]);
    net.done(1);
}

/// Does a sent section across two pages end only the sender?
pub(crate) fn bad_sender() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(page(), 100)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    // Until the sender's Launcher ends, and clears its slot.
    while load(net.at + ADDRESS_OF_1) != 0 {
        nap();
    }
    println!("used_len {}", peek(array));
}

/// The peer of the function above.
pub(crate) fn bad_sender_peer() {
    let net = Net::new();
    store(net.at + ADDRESS_OF_1, 1);
    net.wait_to_send();
    net.done(1);
    // Until the Launchers are connected, the slot counts as free.
    let bad = dma(&[(0x5_0FFF, 2)]);
    for _ in 0..5000 {
        send(net.slot(0), bad);
        nap();
    }
}

/// Does a bad buffer of the receiver leave the sender running?
pub(crate) fn bad_receiver() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(0x5_0FFF, 2)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    // This ends the Guest, at any time from now.
    sleep(20);
}

/// The peer of the function above.
pub(crate) fn bad_receiver_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send_once(&[(0x5_0000, 60)]);
    net.done(1);
}

/// Does an unbound buffer get no more frames?
pub(crate) fn taken_back() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(page(), 100)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    println!("used_len {}", peek(array));
    poke(array, 0);
    println!("take back {}", bind(net.slot(0), array, 1, 0));
    net.done(2);
    net.wait(2);
    println!("used_len {}", peek(array));
}

/// The peer of the function above.
pub(crate) fn taken_back_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
    net.wait(2);
    net.send_once(&[(0x5_0000, 61)]);
    net.done(2);
}

/// Does the first of two bindings on one key get the frames while it has room?
pub(crate) fn bound_twice() {
    let net = Net::new();
    let arrays = [page(), page()];
    for array in arrays {
        dma_at(array, &[(page(), 100)]);
        println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    }
    net.done(1);
    net.wait(1);
    println!("used_len {:?}", arrays.map(peek));
}

/// The peer of the function above.
pub(crate) fn bound_twice_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
}
