//! Frames from one Guest to another, by way of a port.
//!
//! The receiving Launcher shows false bindings: every word of its port may have
//! any value at any time. A sender may write only to memory of the receiver
//! that its lists name, and only once for each send.

use crate::guest::{DEVICE_PAGES, LIMIT, RAM_PAGES, address, is_good, list};
use crate::input::Input;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use lguest::engine::Binding;
use lguest::memory::GuestMemory;
use lguest::transport::keys::lan::fuzzing::{Link, PAGE, receive};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes in a port's page before the keys: lock, bits, sleeper, spare.
const HEAD: usize = 64;

/// Keys in it. After them come the bindings, sixteen bytes each.
const BINDINGS: usize = 32;

/// The most buffers among which a sender looks for a free one.
const SEARCH: u64 = 256;

/// Two Guests, and the link between them.
struct Test {
    sender: GuestMemory,
    link: Link,
    port: File,
}

/// Sends, binds and writes false words.
///
/// # Panics
///
/// If a byte is written outside of bound buffers.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = || {
        let memory = GuestMemory::new(RAM_PAGES * PAGE_SIZE, DEVICE_PAGES);
        memory.expect("a few pages can be had")
    };
    let (sender, receiver) = (memory(), memory());
    let link = Link::new(&sender, &receiver).expect("a link can be had");
    let port = link.port().expect("it is open");
    let test = Test { sender, link, port };
    let (sender, link, port) = (&test.sender, &test.link, &test.port);
    let noise: Vec<u8> = (0_u8..=255).cycle().take(4096).collect();
    let _ = sender.write(0x1000, &noise);
    let (mut from, mut to) = (0x1000, 0x1000);
    for _ in 0..48 {
        if input.is_empty() {
            return;
        }
        match input.byte() % 8 {
            0 => {
                let bindings: Vec<Binding> = (0..input.below(40))
                    .map(|_| binding(&mut input, to))
                    .collect();
                link.show(&bindings);
            }
            1 => {
                // The lock is not written, because waiting for it takes long.
                let at = 4 + u64::from(input.half()) % 4000;
                let _ = port.write_all_at(input.bytes(16), at);
            }
            2 => {
                let at = HEAD as u64 + u64::from(input.below(32)) * 4;
                let key = input.below(8) * 4;
                let _ = port.write_all_at(&key.to_le_bytes(), at);
            }
            3 => {
                to = address(&mut input);
                let _ = receiver.write_object(to, &list(&mut input));
            }
            4 => {
                from = address(&mut input);
                let _ = sender.write_object(from, &list(&mut input));
            }
            5 => drop(link.arrived()),
            6 => {
                let believed = receive(input.bytes(40), input.byte());
                let _ = believed.expect("our own sockets work");
            }
            _ => send(&test, &receiver, from, &mut input),
        }
    }
}

/// A binding, mostly of an array that begins with the last list written.
fn binding(input: &mut Input<'_>, last: u32) -> Binding {
    Binding {
        key: PAGE + input.below(8) * 4,
        dmas: if input.byte() < 0xC0 {
            last
        } else {
            address(input)
        },
        num: input.below(300),
        irq: 1 + input.byte() % 31,
    }
}

/// The receiver's port, and the right result of a frame.
struct Oracle {
    memory: Vec<u8>,
    taken: u32,
    /// The buffer that breaks the rules.
    bad: Option<u32>,
}

impl Oracle {
    /// The frame in `list`, sent to the key at `offset`; `None` if that is not
    /// bound.
    fn new(
        port: &[u8],
        offset: u32,
        frame: &[u8],
        memory: Vec<u8>,
    ) -> Option<Self> {
        let key = |i: &usize| word(port, HEAD + 4 * i) == offset;
        let index = (0..BINDINGS).find(key)?;
        let bound = HEAD + 4 * BINDINGS + 16 * index;
        let claim = [0, 4, 8].map(|n| word(port, bound + n));
        let [dmas, num, cursor] = claim.map(u64::from);
        let mut oracle = Self {
            memory,
            taken: 0,
            bad: None,
        };
        for i in 0..num.min(SEARCH) {
            let number = (cursor + i) % (1 << 32) % num;
            let at = dmas + number * u64::from(Dma::SIZE);
            if oracle.offer(at, frame) {
                break;
            }
        }
        Some(oracle)
    }

    /// Offers `frame` to the buffer at `at`. Returns whether the search ends
    /// there: the buffer was free, or it breaks the rules.
    fn offer(&mut self, at: u64, frame: &[u8]) -> bool {
        let place = usize::try_from(at).unwrap_or(usize::MAX);
        let size = Dma::SIZE as usize;
        let limit = self.memory.len();
        if place > limit - 4 {
            self.bad = Some(u32::try_from(at).unwrap_or(u32::MAX));
            return true;
        }
        if word(&self.memory, place) != 0 {
            return false;
        }
        let list = (place <= limit - size)
            .then(|| list_at(&self.memory, place))
            .filter(is_good);
        let Some(list) = list else {
            self.bad = u32::try_from(at).ok();
            return true;
        };
        let mut rest = frame;
        for (addr, len) in list.sections() {
            let (part, more) = rest.split_at(rest.len().min(len.into()));
            let to = addr as usize;
            self.memory[to..to + part.len()].copy_from_slice(part);
            rest = more;
        }
        let taken = frame.len() - rest.len();
        self.taken = u32::try_from(taken).unwrap_or(u32::MAX);
        self.memory[place..place + 4]
            .copy_from_slice(&self.taken.to_le_bytes());
        true
    }
}

fn send(test: &Test, receiver: &GuestMemory, last: u32, input: &mut Input<'_>) {
    let dma = if input.byte() < 0xE0 {
        last
    } else {
        address(input)
    };
    let offset = input.below(8) * 4;
    let mut port = vec![0; PAGE_SIZE as usize];
    let whole = test.port.read_exact_at(&mut port, 0);
    whole.expect("a port is a page");
    let before = image(receiver);
    // Random bytes in the port may look like a report. Reading it removes it,
    // so a report after the send is about this frame.
    let _ = test.link.reported();
    let sent: Option<Dma> = test.sender.read_object(dma).ok();
    let expected = sent.filter(is_good).and_then(|sent| {
        let mut frame = Vec::new();
        for (addr, len) in sent.sections() {
            let at = frame.len();
            frame.resize(at + usize::from(len), 0);
            let read = test.sender.read(addr, &mut frame[at..]);
            read.expect("the list is good");
        }
        Oracle::new(&port, offset, &frame, before.clone())
    });
    let taken = test.link.send(dma, offset);
    let after = image(receiver);
    let reported = test.link.reported();
    let Some(expected) = expected else {
        assert_eq!(taken, None, "the key is not bound");
        assert!(after == before, "the key is not bound");
        return;
    };
    assert_eq!(taken, Some(expected.taken), "bytes taken");
    assert_eq!(reported, expected.bad, "the reported buffer");
    assert!(after == expected.memory, "a frame went to another place");
}

/// The word at `at`, which must be there.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[at..at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The list at `at`, which must be there.
fn list_at(memory: &[u8], at: usize) -> Dma {
    let mut list = Dma {
        used_len: word(memory, at),
        ..Dma::default()
    };
    for i in 0..16 {
        list.addr[i] = word(memory, at + 4 + 4 * i);
        let len = at + 68 + 2 * i;
        list.len[i] = u16::from_le_bytes([memory[len], memory[len + 1]]);
    }
    list
}

fn image(memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; LIMIT as usize];
    let read = memory.read(0, &mut bytes);
    read.expect("it is there");
    bytes
}
