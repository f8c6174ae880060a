//! Interrupts: on, off, and waiting for one.
//!
//! A Guest has no interrupt flag. It has a word that the Host reads before it
//! delivers anything, so switching interrupts off is a store, and so is
//! switching them on: the Host does not notice that, and looks again a little
//! later. A handler here does little: it counts, lets the bus check its
//! device, and wakes the tasks that wait for it.

use crate::{bus, shared, task, time};
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Poll;
use lg_abi::shared::LGUEST_IRQS;

/// The timer's interrupt.
pub const TIMER: u8 = 0;

const IRQS: usize = LGUEST_IRQS as usize;

/// How often each has come.
static COUNTS: [AtomicU32; IRQS] = [const { AtomicU32::new(0) }; IRQS];

/// The tasks that wait for each.
static WAITING: [AtomicU32; IRQS] = [const { AtomicU32::new(0) }; IRQS];

/// Does something with interrupts off, and leaves them as they were.
pub fn without<R>(action: impl FnOnce() -> R) -> R {
    let enabled = shared::irq_enabled();
    shared::set_irq_enabled(false);
    let result = action();
    shared::set_irq_enabled(enabled);
    result
}

/// Interrupts are welcome from now on.
pub fn enable() {
    shared::set_irq_enabled(true);
}

/// No interrupts from now on.
pub fn disable() {
    shared::set_irq_enabled(false);
}

/// Blocks interrupt `irq`, also while interrupts are enabled; it stays pending.
pub fn block(irq: u8) {
    without(|| shared::set_blocked(shared::blocked() | (1 << irq)));
}

/// Lets interrupt `irq` come again.
pub fn unblock(irq: u8) {
    without(|| shared::set_blocked(shared::blocked() & !(1 << irq)));
}

/// An interrupt has come. Called with interrupts off, by [`crate::trap`].
pub(crate) fn arrived(irq: u8) {
    let index = usize::from(irq) % IRQS;
    COUNTS[index].fetch_add(1, Ordering::Relaxed);
    if irq == TIMER {
        time::timer_fired();
    } else {
        bus::interrupt(irq);
    }
    task::READY.wake(WAITING[index].swap(0, Ordering::Acquire));
}

/// How often interrupt `irq` has come: something to compare with later.
pub fn count(irq: u8) -> u32 {
    COUNTS[usize::from(irq) % IRQS].load(Ordering::Acquire)
}

/// Waits until interrupt `irq` has come after the time when `count` said
/// `seen`. Looking at the device comes between the two, in a loop: count, look,
/// and if there is nothing, wait.
pub async fn after(irq: u8, seen: u32) {
    core::future::poll_fn(|_| {
        // First the mark, then the look: an interrupt in between is seen.
        WAITING[usize::from(irq) % IRQS]
            .fetch_or(task::current(), Ordering::Release);
        if count(irq) == seen {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Sleeps, with all tasks, until `done`: for code that cannot `await`. Other
/// tasks have no turn meanwhile; interrupts are served.
pub fn block_until(mut done: impl FnMut() -> bool) {
    loop {
        disable();
        if done() {
            break enable();
        }
        crate::hcall::halt();
    }
}
