//! Questions about the ring: calls that wait until the next direct call.
//!
//! The Host carries out its entries in order, from where it stopped, and stops
//! at the first free entry.

use crate::lab::calls::number;
use crate::lab::memory::{self, peek, poke};
use crate::lab::{call, code, hypercall, page, user};
use lg_abi::call::CallName;
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY};
use lg_abi::hypercall::Hypercall;
use lg_abi::shared::{HCALL_DONE, HCALL_PENDING, LHCALL_RING_SIZE};
use lg_guest::interface::{self, has_virtio, layout};
use lg_guest::println;

const TS: u32 = 8;

const SIZE: u32 = LHCALL_RING_SIZE as u32;

/// Writes a call into entry `n`, and hands it over.
fn put(n: u32, number: u32, first: u32, second: u32, third: u32) {
    let call = interface::registers(number, [first, second, third, 0]);
    let size = interface::interface().ring_entry_size();
    let ring = layout().hcalls.offset();
    let at = memory::shared(ring) + n % SIZE * size;
    let registers = interface::interface().ring;
    for (field, &register) in (0..).step_by(4).zip(registers) {
        poke(at + field, call.get(register));
    }
    set_status(n, HCALL_PENDING);
}

/// Where the status of entry `n` is.
fn status_at(n: u32) -> u32 {
    memory::shared(layout().hcall_status.offset()) + n % SIZE
}

fn status(n: u32) -> u8 {
    memory::bytes(status_at(n), 1)[0]
}

fn set_status(n: u32, status: u8) {
    memory::write(status_at(n), &[status]);
}

/// The entry that the Host reads next. The kit has used some.
fn next() -> u32 {
    for n in 0..SIZE {
        put(n, 0, 0, 0, 0);
        call(0, 0, 0, 0);
        if status(n) == HCALL_DONE {
            return (n + 1) % SIZE;
        }
        set_status(n, HCALL_DONE);
    }
    panic!("the Host looks at no entry");
}

/// Prints the entries that are still pending, from `first` on.
fn show(first: u32) {
    for n in 0..SIZE {
        if status(first + n) != HCALL_DONE {
            println!("pending: {n}");
        }
    }
    println!("looked");
}

/// A console message of one section, in a page of its own.
fn message(text: &[u8]) -> u32 {
    let page = page();
    memory::write(page + 256, text);
    poke(page + 4, page + 256);
    memory::write(page + 68, &(text.len() as u16).to_le_bytes());
    assert!(size_of::<Dma>() < 256);
    page
}

/// Puts a call that prints `text` into entry `n`.
fn send(n: u32, text: &[u8]) -> u32 {
    if has_virtio() {
        let at = page();
        memory::write(at, text);
        put(n, number(CallName::Notify), at, 0, 0);
        return at;
    }
    let dma = message(text);
    put(n, Hypercall::SendDma as u32, LGUEST_CONSOLE_DMA_KEY, dma, 0);
    dma
}

/// Are calls carried out in the order of their entries, also sends to the
/// Launcher, and before the direct call?
pub(crate) fn ring_order() {
    let first = next();
    let dmas = [b"one\r\n", b"two\r\n", b"six\r\n"];
    let dmas = [0, 1, 2].map(|n| send(first + n, dmas[n as usize]));
    let last = message(b"and the direct call\r\n");
    hypercall(Hypercall::SendDma, LGUEST_CONSOLE_DMA_KEY, last, 0);
    println!("used_len {:?} {}", dmas.map(peek), peek(last));
    show(first);
}

/// Does the ring go on at its beginning after its end?
pub(crate) fn ring_wrap() {
    let mut first = next();
    for round in 0..4 {
        for n in 0..SIZE {
            put(first + n, 0, 0, 0, 0);
        }
        send(first, b"first ");
        send(first + SIZE - 1, b"last\r\n");
        call(0, 0, 0, 0);
        println!("round {round}");
        show(first);
        // The next round begins in the middle of it.
        for n in 0..21 {
            put(first + n, 0, 0, 0, 0);
        }
        call(0, 0, 0, 0);
        first += 21;
    }
}

/// Does the Host stop at the first free entry, also if one after it is used?
pub(crate) fn ring_gap() {
    let first = next();
    put(first, 0, 0, 0, 0);
    put(first + 2, 11, 0, 0, 0); // would end the Guest
    call(0, 0, 0, 0);
    show(first);
    set_status(first + 2, HCALL_DONE);
}

/// Does every status except 0xFF mean that a call waits?
pub(crate) fn ring_status() {
    let first = next();
    for (n, value) in [(0, 1), (1, 0x7F), (2, 0xFE), (3, 0x80)] {
        put(first + n, 0, 0, 0, 0);
        set_status(first + n, value);
    }
    call(0, 0, 0, 0);
    show(first);
}

/// Is the ring emptied at any trap?
pub(crate) fn ring_at_a_trap() {
    let first = next();
    send(first, b"from the ring\r\n");
    crate::lab::kernel(crate::lab::code!("ud2"));
    show(first);
}

/// Is the result of a call in the ring dropped, and eax of the direct call
/// unchanged?
pub(crate) fn ring_results() {
    let first = next();
    let dmas = page();
    put(first, Hypercall::BindDma as u32, 0x3_0000, dmas, 0x105);
    println!("eax {:#x}", call(0, 0, 0, 0));
    println!("unbind {}", crate::lab::calls::bind(0x3_0000, dmas, 0, 0));
    println!("again {}", crate::lab::calls::bind(0x3_0000, dmas, 0, 0));
}

/// Does an unknown call in the ring end the Guest, without the direct call
/// after it?
pub(crate) fn ring_number_11() {
    let first = next();
    put(first, 11, 0, 0, 0);
    send(first + 1, b"never\r\n");
    call(0, 0, 0, 0);
}

/// Does LGUEST_INIT in the ring end the Guest?
pub(crate) fn ring_init() {
    put(next(), Hypercall::Init as u32, page(), 0, 0);
    call(0, 0, 0, 0);
}

/// Does a CRASH in the ring end the Guest with its message?
pub(crate) fn ring_crash() {
    let text = page();
    memory::write(text, b"out of the ring\0");
    put(next(), Hypercall::Crash as u32, text, 0, 0);
    call(0, 0, 0, 0);
}

/// Does HALT in the ring stop the Guest until the timer that an earlier entry
/// sets?
pub(crate) fn ring_halt() {
    let first = next();
    put(first, Hypercall::SetClockevent as u32, 1_000_000, 0, 0);
    put(first + 1, Hypercall::Halt as u32, 0, 0, 0);
    let traps = crate::lab::trap::count();
    call(0, 0, 0, 0);
    println!("traps {}", crate::lab::trap::count() - traps);
    println!("vector {}", crate::lab::trap::nth(traps).trapped.vector);
    show(first);
}

/// May FLUSH_ASYNC be in the ring, without emptying it again from the start?
pub(crate) fn ring_flush_in_the_ring() {
    let first = next();
    put(first, 0, 0, 0, 0);
    send(first + 1, b"once\r\n");
    put(first + 2, 0, 0, 0, 0);
    call(0, 0, 0, 0);
    show(first);
}

/// Have FLUSH_ASYNC and TS their effect each time, in order with the ring, and
/// are all registers and flags as before?
pub(crate) fn calls_in_a_loop() {
    const ROUNDS: u32 = 100;
    let code = code!("fld1", "fstp %st", "int $0x80");
    let ts = number(CallName::Ts);
    let flush = number(CallName::FlushAsync);
    let mut traps = [0_u32; 2];
    let mut kept = 0;
    for round in 0..ROUNDS {
        for on in [TS, 0] {
            if round % 3 == 0 {
                // The ring says the opposite first.
                put(next(), ts, TS - on, TS - on, 0);
            }
            kept += u32::from(says(ts, on)) + u32::from(says(flush, on));
            let trapped = user(code).trapped.vector == 7;
            traps[usize::from(on == 0)] += u32::from(trapped);
        }
    }
    println!("{ROUNDS} rounds: trap 7 in {} and {}", traps[0], traps[1]);
    println!("registers kept by {kept} calls");
}

/// A hypercall with `number` and an argument in the registers of all
/// generations. Answers whether the other registers and the flags are kept.
#[inline(never)]
#[expect(unsafe_code, reason = "the hypercall instruction")]
fn says(number: u32, argument: u32) -> bool {
    const MARK: u32 = 0x1357_9BDF;
    let (flags, ecx, edx, edi): (u32, u32, u32, u32);
    // SAFETY: both calls have no effect on memory.
    unsafe {
        core::arch::asm!(
            "push ebx",
            "push esi",
            "mov esi, edx",
            "stc",
            "std",
            // These three and the call become one patch.
            "mov ebx, edi",
            "mov edx, edi",
            "mov eax, ecx",
            "int 0x1f",
            "pushfd",
            "cld",
            "pop eax",
            "mov edx, esi",
            "pop esi",
            "pop ebx",
            out("eax") flags,
            inout("ecx") number => ecx,
            inout("edx") MARK => edx,
            inout("edi") argument => edi,
        );
    };
    const CARRY_AND_DIRECTION: u32 = 0x401;
    flags & CARRY_AND_DIRECTION == CARRY_AND_DIRECTION
        && [ecx, edx, edi] == [number, MARK, argument]
}
