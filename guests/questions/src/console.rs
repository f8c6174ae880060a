//! Questions about input on the console.
//!
//! The test that starts this Guest types "one two" and a line feed, and then
//! nothing more.

use crate::dma::{dma, dma_at};
use crate::lab::calls::bind;
use crate::lab::memory::{self, peek, poke};
use crate::lab::trap;
use crate::lab::{hypercall, page};
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY as CONSOLE};
use lg_abi::hypercall::Hypercall;
use lg_guest::{println, shared};

/// Sleeps until an interrupt, again and again, until `done`.
fn wait_until(mut done: impl FnMut() -> bool) {
    let before = interrupts();
    while !done() || interrupts() == before {
        hypercall(Hypercall::Halt, 0, 0, 0);
        shared::set_irq_enabled(false);
    }
}

/// How many interrupts there were, without the timer's.
fn interrupts() -> usize {
    trap::count() - trap::count_of(32)
}

fn text(at: u32, len: u32) -> &'static str {
    core::str::from_utf8(memory::bytes(at, len as usize)).unwrap_or("?")
}

/// Does typed input come into the buffer that is bound to key 0, with its
/// length, and with the interrupt of the binding?
pub(crate) fn typed() {
    let into = page();
    let dma = dma(&[(into, 64)]);
    println!("bind {}", bind(CONSOLE, dma, 1, 9));
    wait_until(|| peek(dma) != 0);
    println!("{:?}", text(into, peek(dma)));
    println!("vector {}", trap::nth(trap::count() - 1).trapped.vector);
}

/// Does input fill the sections in their order, and wait until a full buffer is
/// free again?
pub(crate) fn typed_into_sections() {
    let into = page();
    let dma = dma(&[(into + 8, 2), (into, 3)]);
    println!("bind {}", bind(CONSOLE, dma, 1, 1));
    let mut left = "one two\n".len() as u32;
    while left != 0 {
        while peek(dma) == 0 {
            hypercall(Hypercall::Halt, 0, 0, 0);
            shared::set_irq_enabled(false);
        }
        let (used, a, b) = (peek(dma), text(into + 8, 2), text(into, 3));
        println!("used_len {used}: {a:?} {b:?}");
        left -= used;
        poke(dma, 0);
    }
}

/// Does more input go into the next free buffer of the array?
pub(crate) fn typed_into_an_array() {
    let (into, array) = (page(), page());
    for n in 0..4 {
        dma_at(array + n * Dma::SIZE, &[(into + n * 16, 3)]);
    }
    poke(array + Dma::SIZE, 1); // the second is not free
    println!("bind {}", bind(CONSOLE, array, 4, 1));
    while peek(array + 3 * Dma::SIZE) == 0 {
        hypercall(Hypercall::Halt, 0, 0, 0);
        shared::set_irq_enabled(false);
    }
    for n in 0..4 {
        let used = peek(array + n * Dma::SIZE);
        println!("{n}: used_len {used}, {:?}", text(into + n * 16, 3));
    }
}

/// Does input wait until a buffer is bound?
pub(crate) fn typed_before_bound() {
    hypercall(Hypercall::SetClockevent, 50_000_000, 0, 0);
    hypercall(Hypercall::Halt, 0, 0, 0);
    shared::set_irq_enabled(false);
    typed();
}

/// Does input end a Guest whose bound buffer is in memory that does not exist?
pub(crate) fn typed_into_missing_memory() {
    bind(CONSOLE, 0x4000_0000, 1, 1);
    wait_until(|| false);
}

/// Does input end a Guest whose bound buffer has a section across two pages?
pub(crate) fn typed_across_a_page() {
    bind(CONSOLE, dma(&[(0x3_0FF0, 17)]), 1, 1);
    wait_until(|| false);
}

/// Is a buffer of no bytes skipped for ever, without ending the Guest?
pub(crate) fn typed_into_nothing() {
    let nothing = dma(&[]);
    bind(CONSOLE, nothing, 1, 1);
    hypercall(Hypercall::SetClockevent, 50_000_000, 0, 0);
    hypercall(Hypercall::Halt, 0, 0, 0);
    println!("used_len {}", peek(nothing));
}

/// Does the Guest go on after the end of its input?
pub(crate) fn typed_to_the_end() {
    typed();
    hypercall(Hypercall::SetClockevent, 50_000_000, 0, 0);
    hypercall(Hypercall::Halt, 0, 0, 0);
    println!("still here");
}
