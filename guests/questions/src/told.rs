//! Questions for which the Launcher takes part.
//!
//! The Launcher is a test that raises interrupts, looks for buffers, and stops
//! the Guest. The answers are in the test itself.

use crate::dma::dma;
use crate::lab::calls::bind;
use crate::lab::memory::{self, page, peek};
use crate::lab::trap;
use crate::lab::{code, hypercall, kernel};
use lg_abi::dma::Dma;
use lg_abi::hypercall::Hypercall;
use lg_guest::{println, shared};

/// Interrupt 31 ends the question.
const LAST: u32 = 63;

/// Which interrupts come, and in which order? After the first line they may be
/// raised.
pub(crate) fn told_of_interrupts() {
    println!("ready");
    let mut seen = 0;
    loop {
        hypercall(Hypercall::Halt, 0, 0, 0);
        while seen < trap::count() {
            let vector = trap::nth(seen).trapped.vector;
            println!("{}", vector - 32);
            if vector == LAST {
                return;
            }
            seen += 1;
        }
    }
}

/// Where are the buffers that are bound to key 0x30000 with interrupt 7, and
/// what is in the second when interrupt 31 comes?
pub(crate) fn told_of_buffers() {
    let into = page();
    let array = page();
    for n in 0..2 {
        let buffer = crate::dma::dma_at(array + n * Dma::SIZE, &[(into, 16)]);
        println!("{buffer:#x}");
    }
    bind(0x3_0000, array, 2, 7);
    println!("ready");
    told_of_interrupts();
    println!("used_len {} {}", peek(array), peek(array + Dma::SIZE));
    println!("{:?}", core::str::from_utf8(memory::bytes(into, 5)));
}

/// Can a kernel be stopped that makes no hypercalls?
pub(crate) fn told_nothing() {
    println!("ready");
    shared::set_irq_enabled(false);
    kernel(code!("1: jmp 1b"));
}

/// What does the Launcher get at a send: address and key?
pub(crate) fn told_of_a_send() {
    let sent = dma(&[(0x5_0000, 3)]);
    println!("{sent:#x}");
    crate::lab::calls::send(0x3_0004, sent);
    println!("used_len {}", peek(sent));
}
