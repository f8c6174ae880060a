//! Questions of later Guests about their hypercalls and interrupts.
//!
//! They have an interface of Linux 3.1 to 4.13.

use crate::lab::calls::{named, number};
use crate::lab::memory::{self, page};
use crate::lab::run::{User, put_user};
use crate::lab::trap;
use crate::lab::{call, code};
use crate::virtio::{RAM, notify};
use lg_abi::call::CallName;
use lg_abi::shared::IF;
use lg_guest::interface::layout;
use lg_guest::{interface, println, shared, time};

const MS: u32 = 1_000_000;

/// SHUTDOWN with a text and a reason.
fn shutdown(text: &[u8], reason: u32) {
    let at = page();
    memory::write(at, text);
    named(CallName::Shutdown, at, reason);
}

/// Which calls of 2007 does this interface lack?
pub(crate) fn calls_of_2007() {
    let gone = |name: &&CallName| {
        let old = lg_abi::gen1::INTERFACE.number(**name).is_some();
        old && interface::number(**name).is_none()
    };
    for name in CallName::ALL.iter().filter(gone) {
        println!("{}", name.text());
    }
    call(12, 0, 0, 0); // BIND_DMA
}

/// Does a number above all calls end the Guest?
pub(crate) fn number_20() {
    call(20, 0, 0, 0);
}

/// What does LGUEST_INIT answer, in which fields?
pub(crate) fn init_answers_later() {
    println!("reserve_mem {:#x}", shared::reserve_mem());
    println!("guestid {}", shared::guest_id());
    println!("tsc_khz plausible: {}", shared::tsc_khz() > 100_000);
    println!("time after 2020: {}", shared::time().0 > 1_577_836_800);
    println!("irq_pending: {}", shared::irq_pending());
    println!("{} bytes", layout().size);
}

/// Is SHUTDOWN with reason 1 and "Power down" a clean end?
pub(crate) fn shutdown_for_good() {
    shutdown(b"Power down\0", 1);
}

/// Is SHUTDOWN with another text a crash?
pub(crate) fn shutdown_with_another_text() {
    shutdown(b"something else\0", 1);
}

/// Is SHUTDOWN with reason 2 reported as a wish to start again, whatever the
/// text is?
pub(crate) fn shutdown_to_restart() {
    shutdown(b"Power down\0", 2);
}

/// Is SHUTDOWN with any other reason an end like that with 1?
pub(crate) fn shutdown_with_another_reason() {
    shutdown(b"Power down\0", 7);
}

/// Does NOTIFY with an address in RAM print the text there, up to its NUL?
pub(crate) fn printed_early() {
    let at = page();
    memory::write(at + 1, b"from an odd address\r\n\0not this");
    notify(at + 1);
    notify(at + 0x800); // an empty text
}

/// How much of a text without an end is printed?
pub(crate) fn printed_early_without_end() {
    let at = page();
    for page in [at, page()] {
        for line in (page..page + 4096).step_by(64) {
            memory::write(line, &[b'.'; 62]);
            memory::write(line + 62, b"\r\n");
        }
    }
    notify(at);
}

/// Does NOTIFY with an address after all memory end the Guest?
pub(crate) fn notified_beyond_memory() {
    notify(0x4000_0000);
}

/// Does NOTIFY with an address inside a ring end the Guest?
pub(crate) fn notified_beside_a_ring() {
    notify(RAM + 0x1000 + 4);
}

/// Does LOAD_GDT_ENTRY with an index after the table end the Guest?
pub(crate) fn gdt_entry_after_the_table() {
    call(number(CallName::LoadGdtEntry), 31, 0, 0);
    println!("31 is the last one");
    call(number(CallName::LoadGdtEntry), 32, 0x0000_FFFF, 0x00CF_9200);
}

/// Lets the timer's interrupt become pending, interrupts off.
fn alarm() {
    named(CallName::SetClockevent, MS, 0);
    let khz = u64::from(shared::tsc_khz().max(1_000_000));
    let end = time::tsc() + 10 * khz;
    while time::tsc() < end {
        core::hint::spin_loop();
    }
    named(CallName::FlushAsync, 0, 0);
}

/// Does the Host say that an interrupt waits while interrupts are off, does
/// SEND_INTERRUPTS bring it, and is nothing said afterwards?
pub(crate) fn interrupt_pending() {
    println!("pending: {}", shared::irq_pending());
    alarm();
    println!(
        "pending: {}, came: {}",
        shared::irq_pending(),
        trap::count()
    );
    named(CallName::SendInterrupts, 0, 0);
    println!("still off: {}", trap::count());
    trap::handle(|seen| {
        println!("vector {}", seen.trapped.vector);
        trap::Next::GoOn
    });
    // The kit looks at the field, and makes the call.
    shared::set_irq_enabled(true);
    shared::set_irq_enabled(false);
    println!(
        "pending: {}, came: {}",
        shared::irq_pending(),
        trap::count()
    );
}

/// Is nothing said of an interrupt that is delivered at once?
pub(crate) fn interrupt_pending_and_on() {
    shared::set_irq_enabled(true);
    alarm();
    while trap::count() == 0 {
        core::hint::spin_loop();
    }
    println!(
        "pending: {}, came: {}",
        shared::irq_pending(),
        trap::count()
    );
}

/// Does an interrupt that waits come after the `iret` of the range without
/// interrupts, although its first instruction switches interrupts on?
pub(crate) fn noirq_of_the_kit() {
    trap::handle(|_| trap::Next::GiveUp);
    put_user(code!("1: jmp 1b"));
    let mut start = User::new();
    start.eflags |= IF;
    alarm();
    println!("{}", start.run());
}
