//! `bench`: measures the cost of operations on this machine.
//!
//! Each line is one operation, repeated often. Compare lines with each other
//! and with the same lines on another Host, not with other machines.

use crate::programs::{self, Program};
use core::hint::black_box;
use lg_guest::executor::yield_now;
use lg_guest::{hcall, irq, println, shared, time};

/// Does `action` `times` times. Returns tenths of a nanosecond for each.
fn measure(times: u32, mut action: impl FnMut()) -> u64 {
    let start = time::now();
    for _ in 0..times {
        action();
    }
    tenths(time::now() - start, times)
}

fn tenths(nanoseconds: u64, times: u32) -> u64 {
    nanoseconds * 10 / u64::from(times)
}

fn report(what: &str, tenths: u64) {
    println!("  {what:40} {:8}.{} ns", tenths / 10, tenths % 10);
}

pub(crate) async fn run() {
    if shared::tsc_khz() == 0 {
        println!("  (the clock moves in steps: short times are inexact)");
    }
    machine();
    host();
    user().await;
    waiting().await;
}

/// Work of the CPU alone.
fn machine() {
    const ROUNDS: u32 = 10_000_000;
    let mut x = 0x2545_F491_u32;
    let cost = measure(ROUNDS, || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
    });
    black_box(x);
    report("one step of a xorshift generator", cost);

    let mut memory = alloc::vec![0_u8; 1 << 20];
    memory.fill(1); // the first write is not measured
    let cost = measure(64, || black_box(&mut memory).fill(2));
    report("filling 1 MiB of memory", cost);

    report(
        "reading the clock",
        measure(100_000, || {
            black_box(time::now());
        }),
    );
    report(
        "interrupts off and on again",
        measure(1_000_000, || {
            irq::without(|| black_box(()));
        }),
    );
}

/// Hypercalls.
fn host() {
    report(
        "hypercall (FLUSH_ASYNC)",
        measure(20_000, hcall::flush_async),
    );
    report(
        "hypercall by way of the ring",
        measure(64_000, hcall::deferred_nothing),
    );
    report(
        "FLUSH_TLB of the user part",
        measure(2_000, || {
            hcall::flush_tlb(false);
        }),
    );
    report(
        "page fault in the kernel, to its handler",
        measure(2_000, || {
            black_box(lg_guest::trap::probe(0));
        }),
    );
}

/// User programs.
async fn user() {
    const CALLS: u32 = 20_000;
    const PAGES: u32 = 512;
    const YIELDS: u32 = 5_000;
    const PROGRAMS: u32 = 100;

    let calls = programs::run(Program::Calls, CALLS).await;
    report("system call", tenths(calls.nanoseconds, CALLS));

    let pages = programs::run(Program::Stack, PAGES).await;
    report("page on demand", tenths(pages.nanoseconds, PAGES));

    let one = programs::start(Program::Yields, YIELDS);
    let other = programs::start(Program::Yields, YIELDS);
    let (one, other) = (one.end().await, other.end().await);
    let longest = one.nanoseconds.max(other.nanoseconds);
    report("switch between two programs", tenths(longest, 2 * YIELDS));

    let start = time::now();
    for _ in 0..PROGRAMS {
        programs::run(Program::Calls, 1).await;
    }
    let each = tenths(time::now() - start, PROGRAMS);
    report("program: start, one call, end", each);
}

/// Waiting: how late a task wakes.
async fn waiting() {
    const SLEEPS: u32 = 50;
    let start = time::now();
    for _ in 0..SLEEPS {
        time::sleep(time::MILLISECOND).await;
    }
    let each = (time::now() - start) / u64::from(SLEEPS);
    let late = each.saturating_sub(time::MILLISECOND);
    report("a sleep of 1 ms is too long by", late * 10);

    let start = time::now();
    const TURNS: u32 = 100_000;
    for _ in 0..TURNS {
        yield_now().await;
    }
    report(
        "a turn of a kernel task",
        tenths(time::now() - start, TURNS),
    );
}
