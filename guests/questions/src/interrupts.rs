//! Questions about interrupts and time.
//!
//! The sources are the timer and typed input. Interrupts may be late, because
//! the machine may be busy.

use crate::lab::calls::bind;
use crate::lab::memory::{self, page, peek, poke};
use crate::lab::run::{User, put_user};
use crate::lab::trap::{self, TRAP_GATE};
use crate::lab::{code, hypercall, kernel};
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use lg_abi::hypercall::Hypercall;
use lg_abi::shared::IF;
use lg_guest::{println, shared, time};

const MS: u32 = 1_000_000;

/// SET_CLOCKEVENT.
fn alarm(nanoseconds: u32) {
    hypercall(Hypercall::SetClockevent, nanoseconds, 0, 0);
}

fn halt() {
    hypercall(Hypercall::Halt, 0, 0, 0);
}

/// How far the time-stamp counter moves in a millisecond, if that is known.
fn khz() -> u64 {
    u64::from(shared::tsc_khz().max(1_000_000))
}

/// Does nothing for some milliseconds, by the time-stamp counter.
fn spin(milliseconds: u64) {
    let end = time::tsc() + milliseconds * khz();
    while time::tsc() < end {
        core::hint::spin_loop();
    }
}

/// Prints the vectors that have come since there were `before` traps.
fn came(before: usize) {
    let vectors = before..trap::count();
    match vectors.len() {
        0 => println!("none came"),
        _ => vectors
            .for_each(|n| println!("{} came", trap::nth(n).trapped.vector)),
    }
}

/// Does HALT with interrupts off sleep until the timer, and return with
/// interrupts on?
pub(crate) fn halt_until_timer() {
    alarm(MS);
    halt();
    came(0);
    println!("pushed flags {:#x}", trap::nth(0).eflags() & IF);
    println!("interrupts on: {}", shared::irq_enabled());
}

/// Does HALT with interrupts on sleep until the timer?
pub(crate) fn halt_with_interrupts_on() {
    shared::set_irq_enabled(true);
    // An interrupt that comes before the HALT does not end it. On a busy
    // machine there can be many milliseconds between the two calls.
    alarm(1000 * MS);
    halt();
    came(0);
    println!("interrupts on: {}", shared::irq_enabled());
}

/// Does HALT return at once if an interrupt is pending already?
pub(crate) fn halt_with_one_pending() {
    alarm(MS);
    spin(5);
    came(0);
    halt();
    came(0);
}

/// Does an interrupt without a handler end a HALT?
pub(crate) fn halt_without_handler() {
    trap::remove_gate(32);
    alarm(MS);
    halt();
    came(0);
    println!("interrupts on: {}", shared::irq_enabled());
}

/// Does a trap gate for the timer leave interrupts on in its handler?
pub(crate) fn timer_through_trap_gate() {
    trap::set_gate(32, TRAP_GATE);
    trap::handle(|_| {
        println!("interrupts on in the handler: {}", shared::irq_enabled());
        trap::Next::GoOn
    });
    alarm(MS);
    halt();
    came(0);
}

/// Does SET_CLOCKEVENT with 0 switch the timer off?
pub(crate) fn alarm_off() {
    shared::set_irq_enabled(true);
    let before = loop {
        let (before, start) = (trap::count(), time::tsc());
        alarm(20 * MS);
        alarm(0);
        if time::tsc() - start < 10 * khz() {
            break before;
        }
        // On a busy machine the time may have been over before the second
        // call.
        spin(40);
    };
    spin(40);
    came(before);
}

/// Does the timer interrupt come at once after SET_CLOCKEVENT with 1 ns?
pub(crate) fn alarm_of_1_ns() {
    alarm(1);
    halt();
    came(0);
}

/// Does the timer interrupt come at once after 100 ns, Linux's shortest time?
pub(crate) fn alarm_of_100_ns() {
    for _ in 0..3 {
        // Otherwise it could come before the HALT, which would never end then.
        shared::set_irq_enabled(false);
        alarm(100);
        halt();
    }
    came(0);
}

/// Does the longest time of SET_CLOCKEVENT not end soon, and does a shorter one
/// replace it?
pub(crate) fn alarm_replaced() {
    shared::set_irq_enabled(true);
    alarm(u32::MAX);
    spin(20);
    came(0);
    shared::set_irq_enabled(false);
    alarm(MS);
    halt();
    came(0);
}

/// Does the timer interrupt come only once?
pub(crate) fn alarm_once() {
    alarm(MS);
    halt();
    spin(30);
    came(0);
}

/// Does the timer interrupt come neither early nor very late?
pub(crate) fn alarm_in_time() {
    let start = time::now();
    alarm(20 * MS);
    halt();
    let passed = time::now() - start;
    println!("not before 20 ms: {}", passed >= 20_000_000);
    println!("before 5 s: {}", passed < 5_000_000_000);
}

/// Does an interrupt come while the kernel computes without hypercalls?
pub(crate) fn interrupt_while_computing() {
    shared::set_irq_enabled(true);
    alarm(MS);
    while trap::count() == 0 {
        core::hint::spin_loop();
    }
    came(0);
}

/// Does an interrupt that was held back come soon after interrupts are switched
/// on, without a hypercall?
pub(crate) fn interrupt_delayed() {
    alarm(MS);
    spin(10);
    came(0);
    shared::set_irq_enabled(true);
    while trap::count() == 0 {
        core::hint::spin_loop();
    }
    came(0);
}

/// Which frame does an interrupt push during a loop in user mode?
pub(crate) fn interrupt_of_a_user() {
    trap::handle(|_| trap::Next::GiveUp);
    put_user(code!("1: jmp 1b"));
    let mut start = User::new();
    start.eflags |= IF;
    alarm(2 * MS);
    println!("{}", start.run());
}

/// Which frame does an interrupt push during a loop in the kernel?
pub(crate) fn interrupt_of_the_kernel() {
    trap::handle(|_| trap::Next::GiveUp);
    shared::set_irq_enabled(true);
    // On a busy machine there can be many milliseconds before the loop.
    alarm(1000 * MS);
    let seen = kernel(code!("1: jmp 1b"));
    println!("{}", seen.expect("it is interrupted"));
}

/// Does a blocked interrupt not come, while the kernel runs or sleeps, and does
/// it come when it is not blocked any more?
pub(crate) fn interrupt_blocked() {
    shared::set_irq_enabled(true);
    shared::set_blocked(1);
    alarm(MS);
    spin(10);
    came(0);
    shared::set_blocked(0);
    while trap::count() == 0 {
        core::hint::spin_loop();
    }
    came(0);
}

/// Does HALT ignore a blocked interrupt, and does another interrupt end it?
pub(crate) fn halt_with_the_timer_blocked() {
    bind_console(5);
    shared::set_blocked(1);
    alarm(MS);
    halt(); // until input is typed
    came(0);
    // The timer's must not come before the HALT, which would never end then.
    shared::set_irq_enabled(false);
    shared::set_blocked(0);
    halt();
    came(1);
}

/// Does the lowest of several pending interrupts come first?
pub(crate) fn lowest_first() {
    let dma = bind_console(31);
    alarm(MS);
    wait_for_typing(dma);
    came(0);
    shared::set_irq_enabled(true);
    while trap::count() < 2 {
        core::hint::spin_loop();
    }
    came(0);
}

/// Does a higher interrupt come if a lower one is blocked?
pub(crate) fn lowest_blocked() {
    let dma = bind_console(31);
    shared::set_blocked(1);
    alarm(MS);
    wait_for_typing(dma);
    shared::set_irq_enabled(true);
    while trap::count() < 1 {
        core::hint::spin_loop();
    }
    came(0);
    shared::set_blocked(0);
    while trap::count() < 2 {
        core::hint::spin_loop();
    }
    came(1);
}

/// Does an interrupt advance the time in the shared page by the time that has
/// passed?
pub(crate) fn time_moves() {
    let nanoseconds = || {
        let (sec, nsec) = shared::time();
        u64::from(sec) * time::SECOND + u64::from(nsec)
    };
    let start = nanoseconds();
    alarm(20 * MS);
    halt();
    let passed = nanoseconds() - start;
    println!("at least 19 ms: {}", passed >= 19_000_000);
    println!("less than 5 s: {}", passed < 5_000_000_000);
}

/// Is no interrupt lost among many timers?
pub(crate) fn many_alarms() {
    let before = trap::count();
    for _ in 0..2000 {
        shared::set_irq_enabled(false);
        alarm(100);
        halt();
    }
    println!("{}", trap::count() - before);
}

/// Do interrupts that come while a handler runs wait for its end?
pub(crate) fn handler_not_interrupted() {
    trap::handle(|_| {
        if trap::count() == 1 {
            alarm(1);
            spin(5);
            println!("still in the first: {}", trap::count() == 1);
        }
        trap::Next::GoOn
    });
    shared::set_irq_enabled(true);
    alarm(MS);
    while trap::count() < 2 {
        core::hint::spin_loop();
    }
    came(0);
}

/// Waits for input, and a little longer: its interrupt comes after it.
fn wait_for_typing(dma: u32) {
    while peek(dma) == 0 {
        core::hint::spin_loop();
    }
    spin(200);
}

/// Binds a buffer for input, whose interrupt is `irq`.
fn bind_console(irq: u8) -> u32 {
    let dma = page();
    poke(dma + 4, page());
    memory::write(dma + 68, &64_u16.to_le_bytes());
    assert_eq!(bind(LGUEST_CONSOLE_DMA_KEY, dma, 1, irq), 1);
    dma
}
