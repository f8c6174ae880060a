//! The Launcher's side of the mailbox, with a hostile Host.
//!
//! Requests, arguments and texts are arbitrary, and so is the Guest's memory.
//! Values that the rest of the Launcher gets must have been checked: keys and
//! buffers exist, and texts are printable.

use crate::guest::{DEVICE_PAGES, LIMIT, RAM_PAGES, address, list};
use crate::input::Input;
use lg_abi::dma::{Dma, LGUEST_MAX_DMA};
use lg_abi::page::PAGE_SIZE;
use lg_wire::mailbox::Mailbox;
use lguest::engine::fuzzing::Asked;
use lguest::engine::{Death, Exit, Native, Requests};
use lguest::memory::GuestMemory;
use std::sync::atomic::Ordering;

/// An empty mailbox.
fn empty() -> Mailbox {
    Mailbox {
        turn: 0.into(),
        request: 0.into(),
        arguments: Default::default(),
        reply: 0.into(),
        text_len: 0.into(),
        text: [const { std::sync::atomic::AtomicU8::new(0) }; 256],
    }
}

/// Makes requests.
///
/// # Panics
///
/// If a value was not checked.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = GuestMemory::new(RAM_PAGES * PAGE_SIZE, DEVICE_PAGES);
    let memory = memory.expect("a few pages can be had");
    let guest = Native::new(memory.clone());
    let asked = Asked::new(guest.clone());
    let mailbox = empty();
    for _ in 0..200 {
        if input.is_empty() {
            return;
        }
        if input.byte() < 0x40 {
            let (at, dma) = (address(&mut input), list(&mut input));
            let _ = memory.write_object(at, &dma);
            let key = address(&mut input);
            if let Some(buffer) = asked.free_buffer(key) {
                assert!(buffer.addr <= LIMIT - Dma::SIZE, "{buffer:?}");
                assert!((1..32).contains(&buffer.irq), "{buffer:?}");
            }
            continue;
        }
        let request = match input.byte() {
            n @ 0..250 => u32::from(n % 14),
            _ => input.word(),
        };
        mailbox.request.store(request, Ordering::Relaxed);
        for argument in &mailbox.arguments {
            argument.store(address(&mut input), Ordering::Relaxed);
        }
        if matches!(request, 2) {
            let count = input.half();
            let word = u32::from(count) << 8 | u32::from(input.byte() % 40);
            mailbox.arguments[2].store(word, Ordering::Relaxed);
        }
        let text = input.bytes(20);
        for (to, &from) in mailbox.text.iter().zip(text) {
            to.store(from, Ordering::Relaxed);
        }
        let len = input.one_of(&[0, 20, 256, 257, u32::MAX]);
        mailbox.text_len.store(len, Ordering::Relaxed);
        match asked.serve(&mailbox) {
            None | Some(Exit::BindingsChanged | Exit::BuffersMayBeFree) => {
                let reply = mailbox.reply.load(Ordering::Relaxed);
                assert!(reply <= 1, "an invalid answer: {reply}");
            }
            Some(Exit::SendDma { dma, key }) => {
                assert!(dma <= LIMIT - Dma::SIZE, "{dma:#x}");
                assert!(key <= LIMIT - 4 && key % 4 == 0, "{key:#x}");
            }
            Some(Exit::Notify { address }) => {
                assert!(address < LIMIT, "{address:#x}");
            }
            Some(
                Exit::ReadDevice(access) | Exit::WriteDevice { access, .. },
            ) => {
                assert!(matches!(access.bytes, 1 | 2 | 4), "{access:?}");
                assert!(
                    access.offset <= PAGE_SIZE - access.bytes,
                    "{access:?}"
                );
            }
            // Without a debugger, it goes on.
            Some(Exit::Stopped(_)) => {}
            Some(Exit::Held) => panic!("nothing holds the Guest"),
            Some(Exit::Dead(death)) => {
                check(&death);
                return;
            }
        }
        let bound: usize = (0..LIMIT)
            .step_by(PAGE_SIZE as usize)
            .map(|page| guest.bindings_in(page).len())
            .sum();
        assert!(bound <= LGUEST_MAX_DMA, "{bound} bindings");
    }
}

/// Checks that the last words are printable.
fn check(death: &Death) {
    let text = death.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
