//! The ring of a disk that the Launcher has lent to the Host.
//!
//! A hostile driver writes descriptors, chains and headers of any kind, and
//! another view any words about the ring. The Host answers reads, or leaves the
//! rest to the Launcher. It must come back, stay in memory, and count on: the
//! used index is its position, and it says that nothing is left only if that is
//! so.

use crate::input::Input;
use lg_host::address::GuestPhys;
use lg_host::memory::Memory;
use lg_host::testing::{Machine, Ram};
use lg_wire::disk::LentRing;
use std::sync::atomic::Ordering;

const LIMIT: u32 = 0x1_0000;

/// Where the parts of an honest ring are.
const DESCRIPTORS: u32 = 0x1000;
const AVAILABLE: u32 = 0x2000;
const USED: u32 = 0x3000;

/// The interrupt of the queue.
const IRQ: u32 = 5;

/// Sectors of the disk.
const SECTORS: u32 = 32;

/// The most bytes that the Host may read for a notification.
const MOST: u64 = 1 << 20;

/// Lends a ring, and lets a driver notify.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new();
    machine.ram = Ram::new(LIMIT);
    let file = (0..SECTORS * 512).map(|at| at.to_le_bytes()[1]);
    machine.world.disks = vec![(file.collect(), machine.ram.memory())];
    let honest = !input.bit();
    let mut ring = LentRing {
        position: input.half(),
        descriptors: DESCRIPTORS,
        available: AVAILABLE,
        used: USED,
        size: 1 << input.below(9),
        irq: IRQ,
        sectors: SECTORS,
    };
    if !honest {
        let words = [
            &mut ring.descriptors,
            &mut ring.available,
            &mut ring.used,
            &mut ring.size,
            &mut ring.irq,
            &mut ring.sectors,
        ];
        for word in words {
            if input.bit() {
                *word = input.word();
            }
        }
    }
    let memory = machine.ram.memory();
    set(&memory, AVAILABLE + 2, &ring.position.to_le_bytes());
    machine.vm.wire.disks[0].lend(&ring);
    while !input.is_empty() {
        for _ in 0..=input.below(8) {
            write(&memory, &mut input, &ring);
        }
        notify(&mut machine, honest);
    }
}

/// The driver notifies.
fn notify(machine: &mut Machine, honest: bool) {
    let before = machine.vm.wire.disks[0].lent();
    let before = before.expect("it was not taken back");
    let done = machine.host().answer_reads(|_| true);
    let words = &machine.vm.wire.disks[0];
    let after = words.lent().expect("nobody takes it back");
    let answered = after.position.wrapping_sub(before.position);
    let (reads, bytes) = words.take_counts();
    assert_eq!(u64::from(answered), reads, "it counts what it answers");
    assert!(bytes <= MOST, "{bytes} bytes");
    let irqs = machine.vm.wire.irqs.swap(0, Ordering::SeqCst);
    if !honest {
        return;
    }
    assert!(u32::from(answered) <= before.size, "{answered} chains");
    assert!(irqs == 0 || irqs == 1 << IRQ && answered > 0, "{irqs:#x}");
    let memory = machine.ram.memory();
    let half = |at| memory.object::<u16>(GuestPhys(at)).unwrap_or(0);
    if answered > 0 && done {
        assert_eq!(half(USED + 2), after.position);
        assert_eq!(half(AVAILABLE + 2), after.position);
    }
}

/// The driver writes something: into its ring, or elsewhere.
fn write(memory: &Memory, input: &mut Input<'_>, ring: &LentRing) {
    let index = input.below(8);
    let at = DESCRIPTORS + 16 * index;
    match input.byte() % 8 {
        // A descriptor: address, bytes, flags and next.
        0..3 => {
            let address = match input.byte() % 8 {
                0 => input.word(),
                n => 0x4000 + u32::from(n) * 0x400,
            };
            let bytes = match input.byte() % 8 {
                0 => input.word(),
                1..4 => 16,
                4 => 1,
                n => u32::from(n) * 128,
            };
            let rest = input.below(4) | input.below(9) << 16;
            let high = u32::from(input.byte() == 0xFF);
            for (n, word) in (0..).zip([address, high, bytes, rest]) {
                set(memory, at + 4 * n, &word.to_le_bytes());
            }
        }
        // A whole read.
        3 => {
            let header = 0x4000 + 16 * index;
            for (n, word) in (0..).zip([0, 0, input.below(SECTORS + 2), 0]) {
                set(memory, header + 4 * n, &u32::to_le_bytes(word));
            }
            let chain = [(header, 16, 1), (0x5000, 512, 3), (0x4800, 1, 2)];
            for (n, (address, bytes, flags)) in (index..).zip(chain) {
                let at = DESCRIPTORS + 16 * n;
                let words = [address, 0, bytes, (n + 1) << 16 | flags];
                for (n, word) in (0..).zip(words) {
                    set(memory, at + 4 * n, &u32::to_le_bytes(word));
                }
            }
        }
        // A chain is made available.
        4..6 => {
            let at = GuestPhys(AVAILABLE + 2);
            let next = memory.object::<u16>(at).unwrap_or(0);
            let size = ring.size.clamp(1, 256);
            let slot = u32::from(next) % size;
            let head = index.to_le_bytes();
            set(memory, AVAILABLE + 4 + 2 * slot, &head[..2]);
            set(memory, at.0, &next.wrapping_add(1).to_le_bytes());
        }
        6 => set(memory, AVAILABLE, &[input.byte(), 0]),
        _ => {
            let at = input.half();
            set(memory, at.into(), input.bytes(4));
        }
    }
}

/// Writes where there is memory.
fn set(memory: &Memory, at: u32, bytes: &[u8]) {
    let _ = memory.write(GuestPhys(at), bytes);
}
