//! Interrupts: on, off, and waiting for one.
//!
//! A Guest has no interrupt flag. The Host reads a word of the shared page
//! before it delivers an interrupt, so one store switches interrupts off or on.
//! The Host does not notice the store: it reads the word again a little later.
//! A handler here counts the interrupt and lets the bus check the device. The
//! tasks that wait for it are woken before the next task runs.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::irq;
//!
//! /// Waits for an interrupt of a device.
//! async fn next(irq: u8, has_work: impl Fn() -> bool) {
//!     loop {
//!         let seen = irq::count(irq);
//!         if has_work() {
//!             return;
//!         }
//!         irq::after(irq, seen).await;
//!     }
//! }
//! ```

use crate::one_cpu::OneCpu;
use crate::waiting::{Number, Waiting};
use crate::{bus, shared, time};
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Poll;
use lg_abi::shared::LGUEST_IRQS;

/// The timer's interrupt.
pub const TIMER: u8 = 0;

const IRQS: usize = LGUEST_IRQS as usize;

/// How often each has come.
static COUNTS: [AtomicU32; IRQS] = [const { AtomicU32::new(0) }; IRQS];

/// A bit for each that has come since tasks were woken.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// The tasks that wait for one. No handler uses it.
static WAITING: OneCpu<Waiting<u8>> = OneCpu::new(Waiting::new());

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
    ARRIVED.fetch_or(1 << index, Ordering::Release);
}

/// Whether one has come, and [`wake_waiting`] is needed.
pub(crate) fn any_arrived() -> bool {
    ARRIVED.load(Ordering::Acquire) != 0
}

/// Wakes the tasks that wait for interrupts that have come.
pub(crate) fn wake_waiting() {
    if !any_arrived() {
        return;
    }
    let arrived = ARRIVED.swap(0, Ordering::Acquire);
    let has_come = |irq: u8| arrived & (1_u32 << irq) != 0;
    while let Some(waker) = WAITING.with(|waiting| waiting.take(has_come)) {
        waker.wake();
    }
}

/// How often interrupt `irq` has come: the mark for [`after`].
pub fn count(irq: u8) -> u32 {
    COUNTS[usize::from(irq) % IRQS].load(Ordering::Acquire)
}

/// Waits until interrupt `irq` has come more often than `seen`, an earlier
/// result of [`count`]. A driver does three steps in a loop: it reads the
/// count, checks the device, and waits if the device has nothing.
pub async fn after(irq: u8, seen: u32) {
    let irq = irq % LGUEST_IRQS.to_le_bytes()[0];
    let wait = Wait(WAITING.with(Waiting::number));
    core::future::poll_fn(|context| {
        // Put the waker there, then read the count: no interrupt is missed.
        let put = |waiting: &mut Waiting<u8>| {
            waiting.put(Some(wait.0), irq, context.waker())
        };
        drop(WAITING.with(put));
        if count(irq) == seen {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Removes a wait when it is dropped.
struct Wait(Number);

impl Drop for Wait {
    fn drop(&mut self) {
        drop(WAITING.with(|waiting| waiting.remove(self.0)));
    }
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
