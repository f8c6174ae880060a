//! BIND_DMA and SEND_DMA: keys, arrays, sections.
//!
//! The Host checks bound buffers only at a send; it checks what is sent at
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

/// One in a page of its own.
pub(crate) fn dma(sections: &[(u32, u16)]) -> u32 {
    dma_at(page(), sections)
}

/// May thirty-two arrays be bound, and no thirty-third, until one is taken
/// back?
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

/// Does taking back need the very key and the very array, and work once for
/// each time that they were bound?
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

/// Is an array not looked at when it is bound, be it nowhere at all?
pub(crate) fn bind_nowhere() {
    let key = page();
    println!("{}", bind(key, 0xFFFF_FFF0, 0xFF_FFFF, 5));
    println!("{}", bind(key, END, 0, 5));
    println!("{}", bind(key, 0x1001, 1, 5));
}

/// Must a key be a multiple of four?
pub(crate) fn bind_unaligned() {
    bind(0x2_0002, 0x1000, 1, 5);
}

/// Must it be in memory?
pub(crate) fn bind_beyond_memory() {
    bind(END, 0x1000, 1, 5);
}

/// Is the last word of memory a key?
pub(crate) fn bind_at_the_end() {
    println!("{}", bind(END - 4, 0x1000, 1, 5));
}

/// Does a send to a key that nobody has leave used_len as it was?
pub(crate) fn send_to_nobody() {
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

/// Does a send to a key that one has bound oneself go nowhere, too?
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

/// Must it be in memory?
pub(crate) fn send_beyond_memory() {
    send(END, dma(&[]));
}

/// Must what is sent be in memory, all of it?
pub(crate) fn send_from_the_end() {
    send(CONSOLE, END - Dma::SIZE + 4);
}

/// And not above it, where the sum of address and size wraps?
pub(crate) fn send_from_the_last_byte() {
    send(CONSOLE, 0xFFFF_FFFC);
}

/// May it lie at an odd address, and across two pages?
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

/// Does a section of no bytes end the list?
pub(crate) fn send_until_an_empty_section() {
    let text = page();
    memory::write(text, b"one.two.");
    let dma = dma(&[(text, 4), (text, 0), (text + 4, 4)]);
    send(CONSOLE, dma);
    println!();
    println!("used_len {}", peek(dma));
}

/// Is a send of nothing at all a send of no bytes?
pub(crate) fn send_nothing() {
    let dma = dma(&[]);
    poke(dma, 7);
    send(CONSOLE, dma);
    println!("used_len {}", peek(dma));
}

/// May a section fill its page to the last byte, from the first?
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

/// May it go on into the next page?
pub(crate) fn send_across_a_page() {
    send(CONSOLE, dma(&[(0x2_0FFF, 2)]));
}

/// May it be larger than a page?
pub(crate) fn send_more_than_a_page() {
    send(CONSOLE, dma(&[(0x2_0000, 4097)]));
}

/// May it lie beyond memory?
pub(crate) fn send_what_is_not_there() {
    send(CONSOLE, dma(&[(0x2_0000, 1), (END, 1)]));
}

/// May the last section be a bad one, when there are fifteen good ones?
pub(crate) fn send_with_a_bad_end() {
    let mut sections = [(0x2_0000, 1); 16];
    sections[15] = (0xFFFF_FFFF, 1);
    send(CONSOLE, dma(&sections));
}

/// Is a bad section harmless behind the end of the list?
pub(crate) fn send_with_a_bad_rest() {
    let text = page();
    memory::write(text, b"fine\r\n");
    let dma = dma(&[(text, 6), (text, 0), (u32::MAX, u16::MAX)]);
    send(CONSOLE, dma);
    println!("used_len {}", peek(dma));
}

/// Is a send to a key that nobody has harmless, however bad its sections?
pub(crate) fn send_badly_to_nobody() {
    let dma = dma(&[(u32::MAX, u16::MAX)]);
    send(page(), dma);
    println!("used_len {}", peek(dma));
}

/// Is eax what it was after a send, and after a bind it is the result?
pub(crate) fn results() {
    let nothing = dma(&[]);
    let send = hypercall(Hypercall::SendDma, CONSOLE, nothing, 0);
    println!("{send} {}", bind(page(), nothing, 1, 5));
}
