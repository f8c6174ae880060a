//! Requests in their binary form.
//!
//! This is `/dev/lguest` of 2007 as its Launcher saw it, with its error
//! numbers, in the order of a run; and last, that of Linux 4.x.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[allow(unused, reason = "the tests share it")]
#[path = "generation2/program.rs"]
mod program;
#[allow(unused, reason = "the tests share it")]
mod support;

use lg_abi::dma::Dma;
use lg_abi::gen3::pci::{Device, first_place};
use lg_abi::gen3::request::{Initialize, Pending, Register, Request};
use lg_abi::request::{LHREQ_BREAK, LHREQ_GETDMA, LHREQ_INITIALIZE, LHREQ_IRQ};
use lguest::engine::wire::Wire;
use lguest::engine::{Requests, Setup};
use lguest::loader::{self, Image};
use lguest::memory::GuestMemory;
use rustix::io::Errno;
use std::fs::File;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

const RAM: u32 = 16 << 20;
const CONSOLE: u32 = 0;

/// A key that the Guest binds, and one that it sends to.
const BOUND: u32 = 0x3_0000;
const SENT: u32 = 0x3_0004;

/// An open device, and the words that initialise it.
struct Opened {
    wire: Wire,
    words: [u32; 5],
}

impl Opened {
    /// With the Guest that asks `question` in its memory.
    fn new(question: &str) -> Self {
        let memory = GuestMemory::new(RAM, 1).unwrap();
        let image = Image::File(File::open(support::questions()).unwrap());
        let line = format!("ask={question}");
        let start = loader::load(&memory, &image, None, line.as_bytes());
        let start = start.unwrap();
        let words = [
            LHREQ_INITIALIZE,
            start.request.pfn_limit,
            start.request.pgdir,
            start.request.start,
            start.request.page_offset,
        ];
        let wire = Wire::open(memory, Vec::new());
        Self { wire, words }
    }

    fn start(question: &str) -> Self {
        let opened = Self::new(question);
        assert_eq!(opened.wire.write(&opened.words), Ok(0));
        opened
    }

    /// Reads until the Guest has sent a line to its console.
    fn line(&self) -> String {
        let mut text = String::new();
        while !text.ends_with('\n') {
            let (dma, key) = self.sent();
            assert_eq!(key, CONSOLE, "after {text:?}");
            text += &self.take(dma);
        }
        text.trim_end().to_owned()
    }

    /// Reads lines until the Guest ends, and then its last message.
    fn lines_and_last_words(&self) -> (Vec<String>, String) {
        let mut text = String::new();
        loop {
            match self.wire.read() {
                Ok(bytes) => text += &self.take(words(&bytes).0),
                Err(Errno::NOENT) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let last = String::from_utf8(self.wire.read().unwrap()).unwrap();
        (text.lines().map(str::to_owned).collect(), last)
    }

    fn sent(&self) -> (u32, u32) {
        words(&self.wire.read().unwrap())
    }

    /// Takes all bytes in the sections of a `Dma`.
    fn take(&self, dma: u32) -> String {
        let memory = self.wire.guest().memory();
        let sections: Dma = memory.read_object(dma).unwrap();
        let mut all = Vec::new();
        for (addr, len) in sections.sections() {
            let mut bytes = vec![0; len.into()];
            memory.read(addr, &mut bytes).unwrap();
            all.extend(bytes);
        }
        let len = u32::try_from(all.len()).unwrap();
        memory.write_last(dma, len).unwrap();
        String::from_utf8(all).unwrap()
    }
}

/// The two words of a read.
fn words(bytes: &[u8]) -> (u32, u32) {
    let word =
        |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes.len(), 8);
    (word(0), word(4))
}

#[test]
fn before_initialize_everything_is_invalid() {
    let opened = Opened::new("bus");
    let wire = &opened.wire;
    assert_eq!(wire.read(), Err(Errno::INVAL));
    assert_eq!(wire.write(&[]), Err(Errno::INVAL));
    for request in [LHREQ_GETDMA, LHREQ_IRQ, LHREQ_BREAK, 4, u32::MAX] {
        assert_eq!(wire.write(&[request, 0]), Err(Errno::INVAL));
    }
    // Too few words, too many, and more pages than there are.
    assert_eq!(wire.write(&opened.words[..4]), Err(Errno::INVAL));
    let mut words = opened.words.to_vec();
    words[1] += 1;
    assert_eq!(wire.write(&words), Err(Errno::INVAL));
    words[1] -= 1;
    words.push(0);
    assert_eq!(wire.write(&words), Err(Errno::INVAL));
    // None of that has used it up.
    assert_eq!(wire.write(&opened.words), Ok(0));
}

#[test]
fn initialize_comes_once() {
    let opened = Opened::start("bus");
    assert_eq!(opened.wire.write(&opened.words), Err(Errno::BUSY));
}

#[test]
fn bad_requests_are_invalid_afterwards_too() {
    let opened = Opened::start("bus");
    let wire = &opened.wire;
    assert_eq!(wire.write(&[]), Err(Errno::INVAL));
    assert_eq!(wire.write(&[4, 0]), Err(Errno::INVAL));
    assert_eq!(wire.write(&[LHREQ_IRQ]), Err(Errno::INVAL));
    assert_eq!(wire.write(&[LHREQ_IRQ, 32]), Err(Errno::INVAL));
    assert_eq!(wire.write(&[LHREQ_IRQ, u32::MAX]), Err(Errno::INVAL));
    assert_eq!(wire.write(&[LHREQ_IRQ, 31]), Ok(0));
    assert_eq!(wire.write(&[LHREQ_IRQ, 0]), Ok(0));
}

#[test]
fn only_the_thread_that_initialised_may_do_more_than_break() {
    let opened = Opened::start("told_nothing");
    assert_eq!(opened.line(), "ready");
    let wire = &opened.wire;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(wire.write(&[LHREQ_IRQ, 1]), Err(Errno::PERM));
            assert_eq!(wire.write(&[LHREQ_GETDMA, 0]), Err(Errno::PERM));
            assert_eq!(wire.read(), Err(Errno::PERM));
            // Blocks until the break below.
            wire.write(&[LHREQ_BREAK, 1])
        });
        assert_eq!(wire.read(), Err(Errno::AGAIN));
        assert_eq!(wire.read(), Err(Errno::AGAIN), "the break still holds");
        assert!(!other.is_finished());
        assert_eq!(wire.write(&[LHREQ_BREAK, 0]), Ok(0));
        assert_eq!(other.join().unwrap(), Ok(0));
    });
    // The Guest goes on, and can be stopped again.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| wire.write(&[LHREQ_BREAK, 1]));
        assert_eq!(wire.read(), Err(Errno::AGAIN));
        assert_eq!(wire.write(&[LHREQ_BREAK, 0]), Ok(0));
        assert_eq!(other.join().unwrap(), Ok(0));
    });
}

#[test]
fn a_dead_guest_gives_its_reason_once() {
    let opened = Opened::start("crash");
    let wire = &opened.wire;
    assert_eq!(wire.read(), Err(Errno::NOENT));
    assert_eq!(wire.read().unwrap(), b"CRASH: goodbye\0");
    assert_eq!(wire.read(), Err(Errno::NOENT));
    assert_eq!(wire.write(&[LHREQ_IRQ, 1]), Err(Errno::NOENT));
    assert_eq!(wire.write(&[LHREQ_GETDMA, 0]), Err(Errno::NOENT));
    assert_eq!(wire.write(&[LHREQ_BREAK, 1]), Err(Errno::NOENT));
}

#[test]
fn powering_off_is_a_crash_as_in_2007() {
    let opened = Opened::start("power_down");
    let (_, last) = opened.lines_and_last_words();
    assert_eq!(last, "CRASH: Power down\0");
}

#[test]
fn interrupts_come_lowest_first_and_each_once() {
    let opened = Opened::start("told_of_interrupts");
    assert_eq!(opened.line(), "ready");
    for irq in [9, 31, 3, 9, 17, 0, 3] {
        assert_eq!(opened.wire.write(&[LHREQ_IRQ, irq]), Ok(0));
    }
    let (lines, _) = opened.lines_and_last_words();
    assert_eq!(lines, ["0", "3", "9", "17", "31"]);
}

#[test]
fn an_interrupt_wakes_a_guest_that_sleeps() {
    let opened = Opened::start("told_of_interrupts");
    assert_eq!(opened.line(), "ready");
    let guest = opened.wire.guest().clone();
    let raiser = std::thread::spawn(move || {
        for irq in [5, 6, 7, 31] {
            std::thread::sleep(Duration::from_millis(30));
            guest.irq(irq).unwrap();
        }
    });
    let start = Instant::now();
    let (lines, _) = opened.lines_and_last_words();
    assert_eq!(lines, ["5", "6", "7", "31"]);
    assert!(start.elapsed() < Duration::from_secs(60));
    raiser.join().unwrap();
}

#[test]
fn a_buffer_is_found_with_its_interrupt_or_there_is_none() {
    let opened = Opened::start("told_of_buffers");
    let getdma = || opened.wire.write(&[LHREQ_GETDMA, BOUND]);
    let address = |line: String| {
        u32::from_str_radix(line.strip_prefix("0x").unwrap(), 16).unwrap()
    };
    assert_eq!(getdma(), Err(Errno::NOENT), "nothing runs yet");
    let buffers = [0; 2].map(|_| address(opened.line()));
    assert_eq!(opened.line(), "ready");
    assert_eq!(getdma(), Ok(buffers[0]));
    let memory = opened.wire.guest().memory();
    assert_eq!(memory.read_object::<u32>(buffers[0]), Ok(7));
    // As the header says, the interrupt is in used_len. So the buffer is not
    // free.
    assert_eq!(getdma(), Ok(buffers[1]));
    assert_eq!(getdma(), Err(Errno::NOENT));
    let other = opened.wire.write(&[LHREQ_GETDMA, SENT]);
    assert_eq!(other, Err(Errno::NOENT));

    let dma: Dma = memory.read_object(buffers[1]).unwrap();
    memory.write(dma.addr[0], b"hello").unwrap();
    memory.write_last(buffers[1], 5).unwrap();
    assert_eq!(opened.wire.write(&[LHREQ_IRQ, 7]), Ok(0));
    assert_eq!(opened.wire.write(&[LHREQ_IRQ, 31]), Ok(0));
    let (lines, _) = opened.lines_and_last_words();
    let expected = ["ready", "7", "31", "used_len 7 5", "Ok(\"hello\")"];
    assert_eq!(lines, expected);
}

#[test]
fn a_send_is_an_address_and_a_key() {
    let opened = Opened::start("told_of_a_send");
    let address = opened.line();
    let (dma, key) = opened.sent();
    assert_eq!((format!("{dma:#x}"), key), (address, SENT));
    let memory = opened.wire.guest().memory();
    memory.write_last(dma, 2).unwrap();
    let (lines, _) = opened.lines_and_last_words();
    assert_eq!(lines, ["used_len 2"]);
}

/// An open device with a kernel of Linux 4.x, which has two devices.
struct Later {
    wire: Wire,
    initialize: Initialize,
}

/// The type of these devices: random numbers.
const RANDOM: u8 = 4;

/// Where the registers of the two are.
fn devices() -> [u32; 2] {
    [0, 1].map(|index| first_place(program::RAM, index))
}

impl Later {
    fn new(kernel: &[u8]) -> Self {
        let scratch = support::Scratch::new("wire-later");
        let file = File::open(scratch.file("image", kernel)).unwrap();
        let memory = GuestMemory::new(program::RAM, 0).unwrap();
        let loaded = loader::load(&memory, &Image::File(file), None, b"");
        let loaded = loaded.unwrap();
        let device = Device {
            kind: RANDOM,
            config_bytes: 0,
        };
        let initialize = Initialize {
            base: 0x1234_5678,
            pfn_limit: loaded.request.pfn_limit,
            start: loaded.request.start,
            device_limit: (devices()[1] >> 12) + 1,
        };
        let setup = Setup {
            pci: vec![device; 2],
            ..Setup::from(loaded)
        };
        let wire = Wire::open_later(memory, setup);
        Self { wire, initialize }
    }

    fn start(kernel: &[u8]) -> Self {
        let later = Self::new(kernel);
        let request = Request::Initialize(later.initialize);
        assert_eq!(later.ask(request), Ok(0));
        later
    }

    fn ask(&self, request: Request) -> Result<u32, Errno> {
        let (words, count) = request.words();
        self.wire.write(&words[..count])
    }

    /// The next access to a device.
    fn access(&self) -> Pending {
        Pending::read_from_bytes(&self.wire.read().unwrap()).unwrap()
    }

    fn get(&self, register: Register) -> u32 {
        assert_eq!(self.ask(Request::GetReg(register)), Ok(0));
        u32::from_le_bytes(self.wire.read().unwrap().try_into().unwrap())
    }

    fn set(&self, register: Register, value: u32) {
        assert_eq!(self.ask(Request::SetReg(register, value)), Ok(0));
    }

    /// The Guest has ended well.
    fn ends(&self) {
        assert_eq!(self.wire.read(), Err(Errno::NOENT));
        assert_eq!(self.wire.read().unwrap(), b"CRASH: Power down\0");
        assert_eq!(self.ask(Request::Irq(1)), Err(Errno::NOENT));
        let get = Request::GetReg(Register::Eax);
        assert_eq!(self.ask(get), Err(Errno::NOENT));
    }
}

#[test]
fn a_launcher_of_linux_4_carries_out_accesses_to_devices() {
    let [first, second] = devices();
    let mut kernel = program::Program::of(&program::LATER[0]);
    kernel.store(first + 0x08, 0x1234_5678);
    kernel.store_half(second + 0x38, 0xBEEF);
    kernel.store_byte(first + 0x14, 0x8F);
    kernel.expect(second + 0x04, 0xCAFE_F00D);
    kernel.expect_byte(first + 0x15, 0xA5);
    let later = Later::start(&kernel.end());
    for (address, bytes, value) in [
        (first + 0x08, 4, 0x1234_5678),
        (second + 0x38, 2, 0xBEEF),
        (first + 0x14, 1, 0x8F),
    ] {
        let access = later.access();
        assert_eq!(access, Pending::of_access(address, bytes, true));
        assert_eq!(later.get(Register::Eax), value);
        assert_eq!(later.get(Register::Edx), address);
        let length = if bytes == 2 { 3 } else { 2 };
        later.set(Register::Eip, later.get(Register::Eip) + length);
    }
    for (address, bytes, value) in [
        (second + 0x04, 4, 0xCAFE_F00D),
        // The Guest gets as many bytes as it reads.
        (first + 0x15, 1, 0x7777_77A5),
    ] {
        let access = later.access();
        assert_eq!(access, Pending::of_access(address, bytes, false));
        later.set(Register::Eax, value);
        assert_eq!(later.get(Register::Eax), value);
    }
    later.ends();
}

#[test]
fn requests_of_linux_4_are_checked() {
    let later = Later::new(&program::Program::of(&program::LATER[0]).end());
    let wire = &later.wire;
    assert_eq!(wire.read(), Err(Errno::INVAL), "before INITIALIZE");
    assert_eq!(later.ask(Request::Irq(1)), Err(Errno::INVAL));
    // Fewer words, another number of pages, and no room for the devices.
    let Initialize {
        pfn_limit,
        device_limit,
        ..
    } = later.initialize;
    let (words, _) = Request::Initialize(later.initialize).words();
    assert_eq!(wire.write(&words[..4]), Err(Errno::INVAL));
    for wrong in [
        Initialize {
            pfn_limit: pfn_limit + 1,
            ..later.initialize
        },
        Initialize {
            device_limit: device_limit - 1,
            ..later.initialize
        },
    ] {
        let request = Request::Initialize(wrong);
        assert_eq!(later.ask(request), Err(Errno::INVAL), "{wrong:?}");
    }
    assert_eq!(wire.write(&words), Ok(0));
    assert_eq!(wire.write(&words), Err(Errno::BUSY));
    // GETDMA and BREAK are gone, and TRAP is the Host's.
    for request in [LHREQ_GETDMA, LHREQ_BREAK, 4, 7, 8] {
        assert_eq!(wire.write(&[request, 0]), Err(Errno::INVAL), "{request}");
    }
    assert_eq!(later.ask(Request::Irq(32)), Err(Errno::INVAL));
    // orig_eax, and a segment.
    assert_eq!(wire.write(&[5, 44]), Err(Errno::NOENT));
    assert_eq!(wire.write(&[6, 28, 1]), Err(Errno::NOENT));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| (later.ask(Request::Irq(1)), wire.read()));
        let answers = (Err(Errno::PERM), Err(Errno::PERM));
        assert_eq!(other.join().unwrap(), answers);
    });
    // Without an access, registers are 0.
    assert_eq!(later.get(Register::Esp), 0);
    later.ends();
}
