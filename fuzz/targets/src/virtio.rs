//! Virtio devices, whose rings a hostile driver writes.
//!
//! The Guest writes any bytes into its rings, its descriptors and its memory,
//! and notifies about any address. The bus answers, or reports the broken rule.
//! The disk keeps its size, no more chains are answered than were made
//! available, and memory beyond the Guest's is never accessed.

use crate::input::Input;
use lguest::devices::block::{Block, Disk};
use lguest::devices::console::{Config, Console};
use lguest::devices::net::checksum;
use lguest::engine::{Requests, Scripted};
use lguest::memory::GuestMemory;
use lguest::transport::Transport;
use lguest::transport::virtio::{
    RING_BYTES, VirtioBus, VirtioConsole, VirtioDevice, VirtioDisk,
    VirtioRandom, pages_above_ram,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

const RAM: u32 = 0x1_0000;
const RINGS: u32 = RAM + 0x1000;
const QUEUES: u32 = 4;

/// Acts as a hostile driver.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = memfd_create("disk", MemfdFlags::CLOEXEC);
    let disk = File::from(disk.expect("memory files can be had"));
    disk.set_len(0x2000).expect("memory can be had");
    let (bus, guest) = bus(&disk);
    for _ in 0..48 {
        if input.is_empty() {
            break;
        }
        if step(&mut input, &bus, &guest).is_err() {
            break;
        }
    }
    drop(bus.finish());
    for irq in guest.irqs() {
        assert!((1..=4).contains(&irq), "interrupt {irq} is of no queue");
    }
    let killed = guest.killed();
    assert!(
        killed.is_none_or(|r| !r.is_empty()),
        "a reason is a sentence"
    );
    let len = disk.metadata().map_or(0, |file| file.len());
    assert_eq!(len, 0x2000, "the disk has another size");
}

fn bus(disk: &File) -> (VirtioBus, Arc<Scripted>) {
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
    let opened = Disk::open(path.as_ref(), false).expect("it is a file");
    let mut block = Block::new(opened);
    block.never_ahead();
    let devices: Vec<Box<dyn VirtioDevice>> = vec![
        Box::<VirtioRandom>::default(),
        Box::new(VirtioDisk::new(block)),
        Box::new(VirtioConsole::new(console)),
    ];
    let pages = pages_above_ram(&devices);
    assert_eq!(pages, 1 + QUEUES * RING_BYTES / 0x1000);
    let memory = GuestMemory::new(RAM, pages).expect("memory can be had");
    let guest = Scripted::new(memory);
    let bus = VirtioBus::new(guest.clone(), devices, screen);
    (bus.expect("four queues are few"), guest)
}

/// One action of the driver. A broken rule ends the Guest.
fn step(
    input: &mut Input<'_>,
    bus: &VirtioBus,
    guest: &Scripted,
) -> Result<(), ()> {
    let ring = RINGS + input.below(QUEUES) * RING_BYTES;
    let done = match input.byte() % 7 {
        0 => {
            describe(input, guest, ring);
            Ok(())
        }
        1 => {
            offer(input, guest, ring);
            Ok(())
        }
        2 => {
            let at = ring + input.below(RING_BYTES);
            let bytes = input.bytes(32);
            let _ = guest.memory().write(at, bytes);
            Ok(())
        }
        3 => {
            let at = RAM + input.below(0x60);
            let _ = guest.memory().write(at, &[input.byte()]);
            bus.notify(RAM + input.below(0x60))
        }
        4 => bus.handle_input(2).map(drop),
        5 => {
            complete(input);
            Ok(())
        }
        _ => bus.notify(ring),
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
    frame.extend(match input.byte() % 3 {
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
}

/// Writes a descriptor that is mostly valid.
fn describe(input: &mut Input<'_>, guest: &Scripted, ring: u32) {
    let index = input.below(8);
    let addr = input.below(RAM + 0x2_0000);
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

/// Makes some chains available.
fn offer(input: &mut Input<'_>, guest: &Scripted, ring: u32) {
    const AVAILABLE: u32 = 16 * 256;
    let old: u16 = guest
        .memory()
        .read_object(ring + AVAILABLE + 2)
        .unwrap_or(0);
    let count = input.below(5);
    for n in 0..count {
        let slot = (u32::from(old) + n) % 256;
        let head = u16::from(input.byte() % 10).to_le_bytes();
        let _ = guest.memory().write(ring + AVAILABLE + 4 + 2 * slot, &head);
    }
    let count = u16::try_from(count).unwrap_or(0);
    let new = old.wrapping_add(count).to_le_bytes();
    let _ = guest.memory().write(ring + AVAILABLE + 2, &new);
}
