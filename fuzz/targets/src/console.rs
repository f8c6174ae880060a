//! The console, both ways.
//!
//! The bytes that the Guest sends are printed as they are in its memory. Typed
//! bytes reach the Guest in order, each byte once, with any buffers that it
//! binds.

use crate::guest::{address, guest, image, is_beyond, is_good, list};
use crate::input::Input;
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY};
use lguest::devices::console::{Config, Console};
use lguest::engine::{Requests, Scripted};
use lguest::transport::BusDevice;
use lguest::transport::keys::{KeyedConsole, KeyedDevice, Place};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Read, Write};

/// Sends, types and binds buffers.
///
/// # Panics
///
/// If a byte is lost, added, or out of order.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (keys, keyboard) = pipe_with(flags).expect("pipes can be had");
    let (screen, output) = pipe_with(flags).expect("pipes can be had");
    let (mut keyboard, mut screen) = (File::from(keyboard), File::from(screen));
    let guest = guest();
    let config = Config {
        input: keys,
        output,
        log: None,
        at_end: None,
    };
    let mut console = KeyedConsole::new(Console::new(config));
    let place = Place {
        index: 0,
        page: 0,
        irq: 1,
    };
    let placed = console.place(guest.clone(), place);
    placed.expect("a console has no page");
    let (mut typed, mut taken) = (Vec::new(), 0);
    for _ in 0..64 {
        if input.is_empty() {
            return;
        }
        match input.byte() % 3 {
            0 => {
                let (at, dma) = (address(&mut input), list(&mut input));
                let _ = guest.memory().write_object(at, &dma);
                let Ok(sent) = console.send(at, 0) else {
                    return;
                };
                if let Some(show) = sent.rest {
                    show();
                }
                let mut shown = Vec::new();
                let _ = (&mut screen).take(1 << 20).read_to_end(&mut shown);
                assert_eq!(shown.len(), sent.bytes as usize, "bytes were lost");
            }
            1 => {
                let keys = input.bytes(40);
                if keyboard.write_all(keys).is_ok() {
                    typed.extend_from_slice(keys);
                }
            }
            _ => {
                let (at, dma) = (address(&mut input), list(&mut input));
                let _ = guest.memory().write_object(at, &dma);
                guest.bind(LGUEST_CONSOLE_DMA_KEY, at, 2);
                let word = guest.memory().read_object::<u32>(at);
                let free = !is_beyond(at) && word == Ok(0);
                let done = console.handle_input();
                if done.is_err() || guest.killed().is_some() {
                    let dma = guest.memory().read_object::<Dma>(at);
                    let good = dma.is_ok_and(|dma| is_good(&dma));
                    let bad = is_beyond(at) || free && !good;
                    assert!(bad, "killed without a reason");
                    return;
                }
                if free {
                    taken += check(&guest, at, &dma, &typed[taken..]);
                }
            }
        }
    }
}

/// Checks that the bytes in the list at `at` are those that were typed next.
/// Returns their number.
fn check(guest: &Scripted, at: u32, dma: &Dma, typed: &[u8]) -> usize {
    let image = image(guest);
    let at = at as usize;
    let used = &image[at..at + 4];
    let used = u32::from_le_bytes([used[0], used[1], used[2], used[3]]);
    let lists: Vec<(u32, u16)> = dma.sections().collect();
    let strange = lists.iter().enumerate().any(|(i, &(addr, len))| {
        let end = u64::from(addr) + u64::from(len);
        let own = u64::from(addr) < at as u64 + 100 && end > at as u64;
        let twice = lists[..i].iter().any(|&(other, n)| {
            u64::from(other) < end
                && u64::from(addr) < u64::from(other) + u64::from(n)
        });
        own || twice
    });
    if strange {
        // If a buffer overlaps itself, its contents are not defined, and the
        // Guest may have marked it as free again.
        return typed.len().min(used as usize);
    }
    let used = used as usize;
    assert!(used <= typed.len(), "bytes that were not typed");
    let mut rest = &typed[..used];
    for (addr, len) in lists {
        let (part, more) = rest.split_at(rest.len().min(usize::from(len)));
        if !part.is_empty() {
            let there = &image[addr as usize..][..part.len()];
            assert_eq!(there, part, "other bytes were typed");
        }
        rest = more;
    }
    assert!(rest.is_empty(), "more than there is room for");
    used
}
