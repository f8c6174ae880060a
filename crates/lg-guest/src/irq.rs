//! Interrupts: on, off, and waiting for one.
//!
//! A Guest has no interrupt flag. The Host reads a word of the shared page
//! before it delivers an interrupt, so one store switches interrupts off or on.
//! The Host does not notice the store: it reads the word again a little later.
//! A handler here counts the interrupt, lets the bus check the device, and
//! wakes the tasks that wait for it.

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

/// Calls `action` with interrupts off, then restores what was set before.
pub fn without<R>(action: impl FnOnce() -> R) -> R {
    let enabled = shared::irq_enabled();
    shared::set_irq_enabled(false);
    let result = action();
    shared::set_irq_enabled(enabled);
    result
}

/// Switches interrupts on.
pub fn enable() {
    shared::set_irq_enabled(true);
}

/// Switches interrupts off.
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

/// How often interrupt `irq` has come: the mark for [`after`].
pub fn count(irq: u8) -> u32 {
    COUNTS[usize::from(irq) % IRQS].load(Ordering::Acquire)
}

/// Waits until interrupt `irq` has come more often than `seen`, an earlier
/// result of [`count`]. A driver does three steps in a loop: it reads the
/// count, checks the device, and waits if the device has nothing.
pub async fn after(irq: u8, seen: u32) {
    core::future::poll_fn(|_| {
        // Set the bit, then read the count: no interrupt is missed.
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

/// Sleeps until `done` returns true. For code that cannot `await`: no other
/// task runs meanwhile, but interrupts are delivered.
pub fn block_until(mut done: impl FnMut() -> bool) {
    loop {
        disable();
        if done() {
            break enable();
        }
        crate::hcall::halt();
    }
}
