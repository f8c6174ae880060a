//! Frames from one Guest to another, by way of a port.
//!
//! The receiving Launcher lies about its bindings: every word of its port may
//! be anything, at any time. A sender may write into the receiver's memory,
//! where the lists there say, and nowhere else; and only once for each send.

use crate::fake::{DEVICE_PAGES, LIMIT, RAM_PAGES, address, is_good, list};
use crate::input::Input;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use lguest::devices::net::fuzzing::{Link, receive};
use lguest::host::Binding;
use lguest::memory::GuestMemory;
use std::os::unix::fs::FileExt;

/// Words in a port's page before its bindings: lock, bits, sleeper, spare.
const HEAD: u64 = 64;

/// Sends, binds and lies.
///
/// # Panics
///
/// When a byte is written that nobody has bound.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = || {
        let memory = GuestMemory::new(RAM_PAGES * PAGE_SIZE, DEVICE_PAGES);
        memory.expect("a few pages can be had")
    };
    let (sender, receiver) = (memory(), memory());
    let link = Link::new(&sender, &receiver).expect("a link can be had");
    let port = link.port().expect("it is open");
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
                // The lock is left alone: to wait for it takes a while.
                let at = 4 + u64::from(input.half()) % 4000;
                let _ = port.write_all_at(input.bytes(16), at);
            }
            2 => {
                let at = HEAD + u64::from(input.below(32)) * 4;
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
            _ => send(&link, &receiver, from, &mut input),
        }
    }
}

/// Mostly of an array that begins with the list that was written last.
fn binding(input: &mut Input<'_>, last: u32) -> Binding {
    Binding {
        key: lguest::devices::net::fuzzing::PAGE + input.below(8) * 4,
        dmas: if input.byte() < 0xC0 {
            last
        } else {
            address(input)
        },
        num: input.below(300),
        irq: 1 + input.byte() % 31,
    }
}

fn send(link: &Link, receiver: &GuestMemory, last: u32, input: &mut Input<'_>) {
    let dma = if input.byte() < 0xE0 {
        last
    } else {
        address(input)
    };
    let offset = input.below(8) * 4;
    let before = image(receiver);
    let taken = link.send(dma, offset);
    let after = image(receiver);
    let _ = link.reported();
    let changed: Vec<u32> = (0..LIMIT)
        .filter(|&i| before[i as usize] != after[i as usize])
        .collect();
    let Some(taken) = taken else {
        assert!(changed.is_empty(), "nobody was there, and yet");
        return;
    };
    assert!(changed.len() <= taken as usize + 4, "more than was taken");
    if changed.is_empty() {
        return;
    }
    // Some list in its memory must allow every byte of it: find the one.
    let fits = (0..=LIMIT - Dma::SIZE).any(|at| {
        let bytes = &before[at as usize..][..Dma::SIZE as usize];
        let word = |i: usize| {
            u32::from_le_bytes([
                bytes[i],
                bytes[i + 1],
                bytes[i + 2],
                bytes[i + 3],
            ])
        };
        if word(0) != 0 {
            return false;
        }
        let mut list = Dma::default();
        for i in 0..16 {
            list.addr[i] = word(4 + 4 * i);
            let at = 68 + 2 * i;
            list.len[i] = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        }
        let inside = |i: &u32| {
            (at..at + 4).contains(i)
                || list.sections().any(|(addr, len)| {
                    (addr..addr + u32::from(len)).contains(i)
                })
        };
        is_good(&list) && changed.iter().all(inside)
    });
    assert!(fits, "{changed:x?} were nobody's to write");
}

fn image(memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; LIMIT as usize];
    let read = memory.read(0, &mut bytes);
    read.expect("it is there");
    bytes
}
