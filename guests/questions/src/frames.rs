//! Questions about a virtio network of two Guests, asked without a driver.
//!
//! The Launchers of the two may still be connecting, and then a frame is lost.
//! So each Guest sends its frame again.

use crate::lab::calls::named;
use crate::lab::memory::{self, page};
use crate::virtio::{Queue, WRITE, device, notify};
use lg_abi::call::CallName;
use lg_abi::gen2::device::{NET_HEADER, TYPE_NET};
use lg_guest::{println, shared, time};

/// Bytes of a frame.
const FRAME: u32 = 60;

/// How long the Guest that asks sends its frame. The other Launcher may still
/// be connecting.
const LONG: u64 = 2 * time::SECOND;

/// The two queues, and memory for a frame each, with the header in front.
struct Net {
    to_guest: Queue,
    incoming: u32,
    from_guest: Queue,
    outgoing: u32,
    sent: u16,
}

impl Net {
    /// Offers a buffer for one frame.
    fn new() -> Self {
        let device = device(TYPE_NET);
        let net = Self {
            to_guest: device.queue(0),
            incoming: page(),
            from_guest: device.queue(1),
            outgoing: page(),
            sent: 0,
        };
        memory::write(net.incoming, &[0xEE; 128]);
        let whole = (net.incoming, NET_HEADER + FRAME);
        net.to_guest.describe(0, whole, WRITE, 0);
        net.to_guest.offer(0);
        notify(net.to_guest.ring);
        let at = net.outgoing + NET_HEADER;
        memory::write(at + 6, device.config());
        memory::write(at + FRAME - 4, b"end.");
        net
    }

    /// Sends a frame, and sleeps for a millisecond.
    fn send(&mut self, to: [u8; 6]) {
        memory::write(self.outgoing + NET_HEADER, &to);
        let whole = (self.outgoing, NET_HEADER + FRAME);
        self.from_guest.describe(0, whole, 0, 0);
        self.from_guest.offer(0);
        self.sent += 1;
        self.from_guest.wait(self.sent);
        named(CallName::SetClockevent, 1_000_000, 0);
        named(CallName::Halt, 0, 0);
        shared::set_irq_enabled(false);
    }

    /// Prints the frame that has come.
    fn show(&self) {
        let header = memory::bytes(self.incoming, NET_HEADER as usize);
        let frame = self.incoming + NET_HEADER;
        let frame = memory::bytes(frame, FRAME as usize);
        println!("{header:?} {:x?} {:?}", &frame[..12], &frame[56..]);
    }
}

/// Which Ethernet address does a network have?
pub(crate) fn address_by_virtio() {
    println!("{:x?}", device(TYPE_NET).config());
}

/// Does a frame to the Guest's address arrive, with a header of zeros in front,
/// and is a broadcast sent?
pub(crate) fn frame_by_virtio() {
    let mut net = Net::new();
    println!("ready");
    net.to_guest.wait(1);
    net.show();
    let start = time::now();
    while time::now() - start < LONG {
        net.send([0xFF; 6]);
    }
}

/// Is a frame sent to the address of another Guest, and does a broadcast
/// arrive?
pub(crate) fn frame_by_virtio_peer() {
    let mut net = Net::new();
    println!("ready");
    while net.to_guest.used() == 0 {
        net.send([0x02, b'l', b'g', 0, 0, 1]);
    }
    net.show();
}
