//! Virtio devices, whose rings a hostile driver writes.
//!
//! The Guest writes any bytes into its rings, its descriptors and its memory,
//! and notifies about any address. Keys and frames arrive meanwhile, and end.
//! The bus answers, or reports the broken rule. The disk keeps its size, and
//! its contents where it is read-only; no more chains are answered than were
//! made available, and memory beyond the Guest's is never accessed. The first
//! byte of the input says which devices there are (all of them, or one kind),
//! and how they are described: as in Linux 2.6.24, or as later.

use crate::input::Input;
use lg_abi::gen2::device::{FORMATS_2_6_24, FORMATS_2_6_25};
use lguest::devices::block::{Block, Disk};
use lguest::devices::console::{Config, Console, Screen};
use lguest::devices::net::offload::{HEADER, Offload, Takes};
use lguest::devices::net::{checksum, stream};
use lguest::devices::port::{Channel, FRAME_MOST, FromGuest, frame};
use lguest::engine::{Requests, Scripted};
use lguest::memory::GuestMemory;
use lguest::transport::Transport;
use lguest::transport::virtio::{
    RING_BYTES, VirtioBus, VirtioConsole, VirtioDevice, VirtioDisk, VirtioNic,
    VirtioPort, VirtioRandom, pages_above_ram,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const RAM: u32 = 0x1_0000;
const RINGS: u32 = RAM + 0x1000;

/// Where what is available is in a ring.
const AVAILABLE: u32 = 16 * 256;

/// Bytes of the disk, and what they are.
const DISK: usize = 0x2000;
const CONTENTS: u8 = 0xD1;

/// A bus, and what its devices are connected to.
struct Machine {
    bus: VirtioBus,
    guest: Arc<Scripted>,
    /// Devices, and queues.
    devices: usize,
    queues: u32,
    /// The other ends of console and network.
    _keyboard: OwnedFd,
    far: OwnedFd,
    channel: Arc<Channel>,
}

/// Acts as a hostile driver.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = disk();
    let kinds = input.byte();
    let machine = machine(&disk, kinds);
    for _ in 0..48 {
        if input.is_empty() {
            break;
        }
        if step(&mut input, &machine).is_err() {
            break;
        }
    }
    drop(machine.bus.finish());
    for irq in machine.guest.irqs() {
        let queues = 1..=machine.queues;
        assert!(
            queues.contains(&irq.into()),
            "interrupt {irq} is of no queue"
        );
    }
    let killed = machine.guest.killed();
    assert!(
        killed.is_none_or(|r| !r.is_empty()),
        "a reason is a sentence"
    );
    check_disk(&disk, is_read_only(kinds));
}

/// A disk's file.
pub(crate) fn disk() -> File {
    let disk = memfd_create("disk", MemfdFlags::CLOEXEC);
    let disk = File::from(disk.expect("memory files can be had"));
    let filled = disk.write_all_at(&[CONTENTS; DISK], 0);
    filled.expect("memory can be had");
    disk
}

/// The disk keeps its size, and its contents if nobody may write to it.
pub(crate) fn check_disk(disk: &File, read_only: bool) {
    let len = disk.metadata().map_or(0, |file| file.len());
    assert_eq!(len, DISK as u64, "the disk has another size");
    if read_only {
        let mut bytes = vec![0; DISK];
        let read = disk.read_exact_at(&mut bytes, 0);
        read.expect("memory can be read");
        let same = bytes.iter().all(|&byte| byte == CONTENTS);
        assert!(same, "a read-only disk has changed");
    }
}

pub(crate) fn is_read_only(kinds: u8) -> bool {
    kinds & 0x80 != 0
}

/// Devices for a bus, and what they are connected to.
pub(crate) struct Parts {
    pub(crate) devices: Vec<Box<dyn VirtioDevice>>,
    pub(crate) screen: Arc<Screen>,
    pub(crate) keyboard: OwnedFd,
    pub(crate) far: OwnedFd,
    pub(crate) channel: Arc<Channel>,
}

/// The devices of `kinds`.
pub(crate) fn parts(disk: &File, kinds: u8) -> Parts {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (input, keyboard) = pipe_with(flags).expect("pipes can be had");
    let _ = rustix::io::write(&keyboard, b"some keys that were typed");
    let output = memfd_create("output", MemfdFlags::CLOEXEC);
    let output: OwnedFd = output.expect("memory files can be had");
    let console = Console::new(Config {
        input,
        output,
        log: None,
        at_end: None,
    });
    let screen = console.screen();
    let path = format!("/proc/self/fd/{}", disk.as_raw_fd());
    let opened = Disk::open(path.as_ref(), is_read_only(kinds));
    let mut block = Block::new(opened.expect("it is a file"));
    block.never_ahead();
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (near, far) = pair.expect("sockets can be had");
    let nic = stream::on_socket(near).expect("a stream can be had");
    let channel = Arc::new(Channel::new().expect("events can be had"));
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![
        Box::<VirtioRandom>::default(),
        Box::new(VirtioDisk::new(block)),
        Box::new(VirtioNic::new(nic)),
        Box::new(VirtioConsole::new(console)),
        Box::new(VirtioPort::new(channel.clone())),
    ];
    let only = usize::from(kinds % 8);
    if only < devices.len() {
        devices = vec![devices.swap_remove(only)];
    }
    Parts {
        devices,
        screen,
        keyboard,
        far,
        channel,
    }
}

/// A machine with the devices of `kinds`.
fn machine(disk: &File, kinds: u8) -> Machine {
    let Parts {
        devices,
        screen,
        keyboard,
        far,
        channel,
    } = parts(disk, kinds);
    let pages = pages_above_ram(&devices);
    let memory = GuestMemory::new(RAM, pages).expect("memory can be had");
    let guest = Scripted::new(memory);
    let count = devices.len();
    let formats = match kinds & 0x40 != 0 {
        true => &FORMATS_2_6_24,
        false => &FORMATS_2_6_25,
    };
    let bus = VirtioBus::with(formats, guest.clone(), devices, screen);
    Machine {
        bus: bus.expect("twelve queues are few"),
        guest,
        devices: count,
        queues: (pages - 1) / (RING_BYTES / 0x1000),
        _keyboard: keyboard,
        far,
        channel,
    }
}

/// Frames arrive: whole ones, and any bytes.
pub(crate) fn arrive(input: &mut Input<'_>, far: &OwnedFd) {
    let mut bytes = Vec::new();
    for _ in 0..input.below(4) {
        let length = [14, 60, 1514, input.below(3000)];
        let length = length[input.below(4) as usize];
        bytes.extend(length.to_be_bytes());
        bytes.resize(bytes.len() + length as usize, 0xF0);
    }
    bytes.extend(input.bytes(20));
    let _ = send(far, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// The multiplexer takes what an agent has sent, and sends something.
pub(crate) fn exchange(input: &mut Input<'_>, channel: &Channel) {
    match channel.take() {
        Some(FromGuest::Frame(frame)) => {
            assert!(frame.payload.len() <= FRAME_MOST, "a frame is too long");
        }
        Some(FromGuest::TooLong(_)) => channel.break_off("it is too long"),
        Some(FromGuest::Closed) | None => {}
    }
    let stream = channel.begin_stream().unwrap_or(0);
    let stream = [stream, 1][usize::from(input.byte() % 2)];
    channel.put_to_guest(&frame(stream, input.byte(), input.bytes(40)));
    channel.end_stream(stream);
}

/// One action of the driver. A broken rule ends the Guest.
fn step(input: &mut Input<'_>, machine: &Machine) -> Result<(), ()> {
    let Machine { bus, guest, .. } = machine;
    let ring = RINGS + input.below(machine.queues) * RING_BYTES;
    let done = match input.byte() % 8 {
        0 => {
            describe(input, guest, ring, RAM);
            Ok(())
        }
        1 => {
            offer(input, guest, ring + AVAILABLE);
            Ok(())
        }
        2 => {
            let at = ring + input.below(RING_BYTES);
            let bytes = input.bytes(32);
            let _ = guest.memory().write(at, bytes);
            Ok(())
        }
        3 => {
            let at = RAM + input.below(0xA0);
            let _ = guest.memory().write(at, &[input.byte()]);
            bus.notify(RAM + input.below(0xA0)).map(drop)
        }
        4 => bus
            .handle_input(input.below(5) as usize % machine.devices)
            .map(drop),
        5 => {
            complete(input);
            Ok(())
        }
        6 => {
            arrive(input, &machine.far);
            exchange(input, &machine.channel);
            Ok(())
        }
        _ => bus.notify(ring).map(drop),
    };
    if let Err(violation) = &done {
        assert!(!violation.to_string().is_empty(), "a reason is a sentence");
    }
    done.map_err(drop)
}

/// A frame of another Guest gets its checksum. It keeps its length, and a
/// second time changes nothing.
fn complete(input: &mut Input<'_>) {
    let mut frame = vec![0; 12];
    let kind = input.byte();
    for _ in 0..kind / 3 % 4 {
        frame.extend([0x81, 0x00, 0, 1]); // a VLAN tag
    }
    frame.extend(match kind % 3 {
        0 => [0x08, 0x00, 0x45],
        1 => [0x86, 0xDD, 0x60],
        _ => [input.byte(), input.byte(), input.byte()],
    });
    frame.extend(input.bytes(100));
    let length = frame.len();
    checksum::complete(&mut frame);
    assert_eq!(frame.len(), length, "a frame has another length");
    let once = frame.clone();
    checksum::complete(&mut frame);
    assert!(frame == once, "a checksum that was right has changed");
    finish(input, &mut frame);
}

/// The same frame, made longer, with a header that the Guest made up. What a
/// receiver gets has no more left to do than the receiver takes over.
fn finish(input: &mut Input<'_>, frame: &mut Vec<u8>) {
    let mut header = [0; HEADER];
    header.fill_with(|| input.byte());
    frame.resize(frame.len() + input.half() as usize % 9000, 7);
    let Ok(left) = Offload::read(header, frame) else {
        return;
    };
    let takes = Takes {
        checksum: input.bit(),
        tcp4: input.bit(),
        tcp6: input.bit(),
        whole: input.bit(),
    };
    let most = 4 * frame.len();
    let mut bytes = 0;
    left.fit(frame, takes, &mut |part, left| {
        bytes += part.len();
        let again = Offload::read_of_kernel(left.header(), part);
        assert!(again == Ok(left), "a header that does not fit");
        assert!(left.as_it_is(takes) == Some(left), "too much is left");
    });
    assert!(bytes <= most, "one frame became too many");
}

/// Writes a descriptor that is mostly valid, for memory of `ram` bytes.
pub(crate) fn describe(
    input: &mut Input<'_>,
    guest: &Scripted,
    ring: u32,
    ram: u32,
) {
    let index = input.below(8);
    let addr = input.below(ram + 0x2_0000);
    let len = match input.byte() % 4 {
        0 => 16,
        1 => 1,
        2 => 512 * input.below(20),
        _ => input.word(),
    };
    let flags = input.below(4);
    let next = input.below(9);
    let words = [addr, input.below(20) / 19, len, next << 16 | flags];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let _ = guest.memory().write(ring + 16 * index, &bytes);
}

/// Makes some chains available, in the ring at `at`.
pub(crate) fn offer(input: &mut Input<'_>, guest: &Scripted, at: u32) {
    let old: u16 = guest.memory().read_object(at + 2).unwrap_or(0);
    let count = input.below(5);
    for n in 0..count {
        let slot = (u32::from(old) + n) % 256;
        let head = u16::from(input.byte() % 10).to_le_bytes();
        let _ = guest.memory().write(at + 4 + 2 * slot, &head);
    }
    let count = u16::try_from(count).unwrap_or(0);
    let new = old.wrapping_add(count).to_le_bytes();
    let _ = guest.memory().write(at + 2, &new);
}
