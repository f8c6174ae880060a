//! The network by hand.
//!
//! Most questions take two Guests: one asks, in slot 0, and its peer, in slot
//! 1, does the rest. Words at the end of the page that both see tell each how
//! far the other has come.

use crate::block::{descriptor, device_page};
use crate::dma::{dma, dma_at};
use crate::lab::calls::{bind, send};
use crate::lab::hypercall;
use crate::lab::memory::{self, load, page, peek, poke, store};
use crate::lab::trap;
use lg_abi::dma::Dma;
use lg_abi::hypercall::Hypercall;
use lg_guest::{print, println, shared};

/// Where in the page each of the two writes how far it is: behind all slots
/// that are used here.
const STEPS: [u32; 2] = [4000, 4004];

/// Where in the page a part of the address is that belongs to slot 1.
const ADDRESS_OF_1: u32 = 8;

/// The interrupt that the bindings here ask for.
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

    /// Says that step `n` is done.
    fn done(&self, n: u32) {
        store(self.at + STEPS[self.me as usize], n);
    }

    /// Waits until the other one has done step `n`.
    fn wait(&self, n: u32) {
        let other = 1 - self.me;
        while load(self.at + STEPS[other as usize]) < n {
            nap();
        }
    }

    /// Waits until the other one is where it receives. The two Launchers may
    /// still be getting in touch, so this one takes its time as well.
    fn wait_to_send(&self) {
        self.wait(1);
        for _ in 0..500 {
            nap();
        }
    }

    /// Sends frames of `sections` to the other's slot; prints how much of it
    /// was taken.
    fn send(&self, sections: &[(u32, u16)]) {
        let sent = dma(sections);
        send(self.slot(1 - self.me), sent);
        println!("taken {}", peek(sent));
    }
}

/// Sleeps for a moment.
fn nap() {
    hypercall(Hypercall::SetClockevent, 200_000, 0, 0);
    hypercall(Hypercall::Halt, 0, 0, 0);
    shared::set_irq_enabled(false);
}

/// How often the network's interrupt has come, waiting a little for it.
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

/// What does the descriptor of a network say to the first Guest?
pub(crate) fn net_description() {
    let [kind, status, pfn] = descriptor(0);
    println!("type {}, features {:#x}", kind & 0xFFFF, kind >> 16);
    println!("status {:#x}, pages {}", status & 0xFFFF, status >> 16);
    println!("pages above RAM {}", pfn - (16 << 8));
}

/// Does a send to a slot that nobody has leave used_len alone, and one to
/// one's own, too?
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

/// Is the page the file's, so that what one Guest writes the other reads?
pub(crate) fn page_shared() {
    let net = Net::new();
    println!("slot {}", net.me);
    store(net.at + 2000, 0x1234_5678);
    net.done(1);
    net.wait(1);
    println!("{:#x}", load(net.at + 2004));
}

/// Its peer.
pub(crate) fn page_shared_peer() {
    let net = Net::new();
    println!("slot {}", net.me);
    net.wait(1);
    println!("{:#x}", load(net.at + 2000));
    store(net.at + 2004, 0x9ABC_DEF0);
    net.done(1);
}

/// Does a frame arrive whole, with its length, and with an interrupt, whatever
/// pieces it was sent from and goes into?
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
    // One for both, perhaps.
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

/// Its peer.
pub(crate) fn frame_peer() {
    let net = Net::new();
    net.wait_to_send();
    data(1514);
    net.send(&[(0x5_0000, 1514)]);
    net.send(&[(0x5_0000, 14), (0x5_000E, 0x400), (0x5_040E, 476)]);
    net.done(1);
}

/// What happens to a frame that finds no free buffer: does the sender hear,
/// and the receiver, too?
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

/// Its peer.
pub(crate) fn no_buffer_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
}

/// Does each frame take the next buffer of the array, though an earlier one is
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

/// Its peer.
pub(crate) fn cursor_peer() {
    let net = Net::new();
    net.wait_to_send();
    for step in 1..=5 {
        net.wait(step);
        net.send(&[(0x5_0000, 60 + step as u16)]);
        net.done(step);
    }
}

/// Does a frame that is longer than the buffer fill it, and do both hear how
/// much that was?
pub(crate) fn too_long() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(page(), 50), (page(), 7)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    println!("used_len {}", peek(array));
}

/// Its peer.
pub(crate) fn too_long_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 1000)]);
    net.done(1);
}

/// Does only the sender die of a section of its own that crosses a page?
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

/// Its peer.
pub(crate) fn bad_sender_peer() {
    let net = Net::new();
    store(net.at + ADDRESS_OF_1, 1);
    net.wait_to_send();
    net.done(1);
    // As long as the Launchers are not in touch, the slot is nobody's.
    let bad = dma(&[(0x5_0FFF, 2)]);
    for _ in 0..5000 {
        send(net.slot(0), bad);
        nap();
    }
}

/// Does the sender live on when the receiver's buffer is a bad one?
pub(crate) fn bad_receiver() {
    let net = Net::new();
    let array = page();
    dma_at(array, &[(0x5_0FFF, 2)]);
    println!("bind {}", bind(net.slot(0), array, 1, IRQ));
    net.done(1);
    net.wait(1);
    // It is its death, whenever that comes.
    for _ in 0..2000 {
        nap();
    }
}

/// Its peer.
pub(crate) fn bad_receiver_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
}

/// Does a buffer that was taken back get no more frames?
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

/// Its peer.
pub(crate) fn taken_back_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
    net.wait(2);
    net.send(&[(0x5_0000, 61)]);
    net.done(2);
}

/// Of two bindings on one key, does the first one get the frames while it has
/// room?
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

/// Its peer.
pub(crate) fn bound_twice_peer() {
    let net = Net::new();
    net.wait_to_send();
    net.send(&[(0x5_0000, 60)]);
    net.done(1);
}
