//! BIND_DMA and SEND_DMA: keys, arrays, sections.
//!
//! Bound buffers are checked only at a transfer. A sent list is checked at
//! once.

use crate::hypercalls::END;
use crate::lab::calls::{bind, send};
use crate::lab::memory::{self, peek, poke};
use crate::lab::{hypercall, page};
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY as CONSOLE, LGUEST_MAX_DMA};
use lg_abi::hypercall::Hypercall;
use lg_guest::println;

/// A `Dma` at `at`, with these sections.
pub(crate) fn dma_at(at: u32, sections: &[(u32, u16)]) -> u32 {
    for n in 0..Dma::SIZE / 4 {
        poke(at + n * 4, 0);
    }
    for (n, &(addr, len)) in (0..).zip(sections) {
        poke(at + 4 + n * 4, addr);
        memory::write(at + 68 + n * 2, &len.to_le_bytes());
    }
    at
}

/// A `Dma` in a page of its own, with these sections.
pub(crate) fn dma(sections: &[(u32, u16)]) -> u32 {
    dma_at(page(), sections)
}

/// May 32 arrays be bound, and a 33rd only after one was unbound?
pub(crate) fn bind_limit() {
    let key = page();
    let ok =
        (0..LGUEST_MAX_DMA as u32).map(|n| bind(key + n * 4, 0x1000, 1, 5));
    println!("{}", ok.sum::<u32>());
    println!("{}", bind(key + 1024, 0x1000, 1, 5));
    println!("take back {}", bind(key, 0x1000, 0, 0));
    println!("{}", bind(key + 1024, 0x1000, 1, 5));
    println!("{}", bind(key, 0x1000, 1, 5));
}

/// Which interrupts may be named?
pub(crate) fn bind_interrupts() {
    let key = page();
    for irq in [1, 31, 32, 33, 255] {
        println!("irq {irq}: {}", bind(key, 0x1000, 1, irq));
    }
}

/// Does an unbind need the same key and the same array, and does it work once
/// for each bind?
pub(crate) fn unbind() {
    let key = page();
    println!("bind {}", bind(key, 0x1000, 1, 5));
    println!("bind again {}", bind(key, 0x1000, 1, 5));
    println!("another key {}", bind(key + 4, 0x1000, 1, 0));
    println!("another array {}", bind(key, 0x1064, 1, 0));
    println!("take back {}", bind(key, 0x1000, 1, 0));
    println!("take back {}", bind(key, 0x1000, 7, 0));
    println!("take back {}", bind(key, 0x1000, 1, 0));
}

/// Is an array accepted at a bind even if its memory does not exist?
pub(crate) fn bind_missing_memory() {
    let key = page();
    println!("{}", bind(key, 0xFFFF_FFF0, 0xFF_FFFF, 5));
    println!("{}", bind(key, END, 0, 5));
    println!("{}", bind(key, 0x1001, 1, 5));
}

/// Must the key of a bind be a multiple of four?
pub(crate) fn bind_unaligned() {
    bind(0x2_0002, 0x1000, 1, 5);
}

/// Must the key of a bind be in memory?
pub(crate) fn bind_beyond_memory() {
    bind(END, 0x1000, 1, 5);
}

/// May the last word of memory be a key?
pub(crate) fn bind_at_the_end() {
    println!("{}", bind(END - 4, 0x1000, 1, 5));
}

/// Does a send to a key without binding leave used_len as it was?
pub(crate) fn send_to_unbound_key() {
    let data = page();
    let dma = dma(&[(data, 100)]);
    for used_len in [0, 5] {
        poke(dma, used_len);
        for key in [page(), END - 4, END - 4096] {
            send(key, dma);
            println!("used_len {}", peek(dma));
        }
    }
}

/// Does a send to a key that only the sender has bound go nowhere?
pub(crate) fn send_to_oneself() {
    let (data, into, key) = (page(), page(), page());
    memory::write(data, b"hello");
    let (from, to) = (dma(&[(data, 5)]), dma(&[(into, 64)]));
    println!("bind {}", bind(key, to, 1, 5));
    send(key, from);
    println!("used_len {}, {}", peek(from), peek(to));
    println!("{:#x}", peek(into));
}

/// Must the key of a send be a multiple of four?
pub(crate) fn send_unaligned() {
    send(0x2_0001, dma(&[]));
}

/// Must the key of a send be in memory?
pub(crate) fn send_beyond_memory() {
    send(END, dma(&[]));
}

/// Must the whole `Dma` of a send be in memory?
pub(crate) fn send_from_the_end() {
    send(CONSOLE, END - Dma::SIZE + 4);
}

/// Is a `Dma` refused if the sum of its address and size wraps?
pub(crate) fn send_from_the_last_byte() {
    send(CONSOLE, 0xFFFF_FFFC);
}

/// May the `Dma` of a send be at an odd address, and across two pages?
pub(crate) fn send_from_odd_places() {
    let text = page();
    memory::write(text, b"odd\r\n");
    let pages = page();
    page();
    for at in [pages + 1, pages + 4096 - 50] {
        dma_at(at & !3, &[]);
        let mut bytes = [0; Dma::SIZE as usize];
        bytes[4..8].copy_from_slice(&text.to_le_bytes());
        bytes[68] = 5;
        memory::write(at, &bytes);
        send(CONSOLE, at);
        println!("used_len {}", memory::bytes(at, 1)[0]);
    }
}

/// Are all sixteen sections sent, in their order, and counted together?
pub(crate) fn send_sixteen_sections() {
    let text = page();
    memory::write(text, b"0123456789abcdef");
    let sections: [_; 16] = core::array::from_fn(|n| (text + n as u32, 1));
    let dma = dma(&sections);
    send(CONSOLE, dma);
    println!();
    println!("used_len {}", peek(dma));
}

/// Does a section of no bytes end the list of a send?
pub(crate) fn send_until_an_empty_section() {
    let text = page();
    memory::write(text, b"one.two.");
    let dma = dma(&[(text, 4), (text, 0), (text + 4, 4)]);
    send(CONSOLE, dma);
    println!();
    println!("used_len {}", peek(dma));
}

/// Does a send with an empty list send no bytes?
pub(crate) fn send_nothing() {
    let dma = dma(&[]);
    poke(dma, 7);
    send(CONSOLE, dma);
    println!("used_len {}", peek(dma));
}

/// May a section of a send be a whole page?
pub(crate) fn send_a_whole_page() {
    let text = page();
    for line in 0..64 {
        memory::write(text + line * 64, &[b'.'; 62]);
        memory::write(text + line * 64 + 62, b"\r\n");
    }
    let dma = dma(&[(text, 4096)]);
    send(CONSOLE, dma);
    println!("used_len {}", peek(dma));
}

/// May a section of a send cross the end of a page?
pub(crate) fn send_across_a_page() {
    send(CONSOLE, dma(&[(0x2_0FFF, 2)]));
}

/// May a section of a send be larger than a page?
pub(crate) fn send_more_than_a_page() {
    send(CONSOLE, dma(&[(0x2_0000, 4097)]));
}

/// May a section of a send be beyond memory?
pub(crate) fn send_what_is_not_there() {
    send(CONSOLE, dma(&[(0x2_0000, 1), (END, 1)]));
}

/// May the last of sixteen sections be bad?
pub(crate) fn send_with_a_bad_end() {
    let mut sections = [(0x2_0000, 1); 16];
    sections[15] = (0xFFFF_FFFF, 1);
    send(CONSOLE, dma(&sections));
}

/// Is a bad section after the end of the list ignored?
pub(crate) fn send_with_a_bad_rest() {
    let text = page();
    memory::write(text, b"fine\r\n");
    let dma = dma(&[(text, 6), (text, 0), (u32::MAX, u16::MAX)]);
    send(CONSOLE, dma);
    println!("used_len {}", peek(dma));
}

/// Does a send with bad sections to a key without binding do no harm?
pub(crate) fn send_bad_list_to_unbound_key() {
    let dma = dma(&[(u32::MAX, u16::MAX)]);
    send(page(), dma);
    println!("used_len {}", peek(dma));
}

/// Is eax unchanged after a send, and the result after a bind?
pub(crate) fn results() {
    let nothing = dma(&[]);
    let send = hypercall(Hypercall::SendDma, CONSOLE, nothing, 0);
    println!("{send} {}", bind(page(), nothing, 1, 5));
}
