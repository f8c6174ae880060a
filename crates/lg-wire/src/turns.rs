//! Whose turn is it? Words on which processes wait for each other.
//!
//! Views pass the run token, a Host waits for the Launcher's answer, a Guest
//! that sleeps is woken, interrupts are raised and taken. For each of these
//! there are one or two words in shared memory, on which a process can sleep by
//! a futex. A mistake here is a Guest that never wakes up again. So these steps
//! stand here alone, without the memory and the kernel that they use elsewhere,
//! and a model checker takes them through every order in which they can happen
//! (`turns/tests.rs`).
//!
//! Outboxes and ports have waits of their own, which no model checks: the
//! Host's in `lg_host::outbox`, the Launcher's in its folder
//! `transport/keys/lan`.

use core::sync::atomic::{AtomicU32, Ordering};

/// A word that several processes share. All accesses have one order, which is
/// the same for all processes.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u32;
    /// Writes it.
    fn store(&self, value: u32);
    /// Writes it, and returns its old value.
    fn swap(&self, value: u32) -> u32;
    /// Adds one.
    fn count(&self);
    /// Sets bits.
    fn set(&self, bits: u32);
    /// Clears bits.
    fn clear(&self, bits: u32);
}

impl Word for AtomicU32 {
    fn load(&self) -> u32 {
        self.load(Ordering::SeqCst)
    }

    fn store(&self, value: u32) {
        self.store(value, Ordering::SeqCst);
    }

    fn swap(&self, value: u32) -> u32 {
        self.swap(value, Ordering::SeqCst)
    }

    fn count(&self) {
        self.fetch_add(1, Ordering::SeqCst);
    }

    fn set(&self, bits: u32) {
        self.fetch_or(bits, Ordering::SeqCst);
    }

    fn clear(&self, bits: u32) {
        self.fetch_and(!bits, Ordering::SeqCst);
    }
}

/// A kernel that lets processes sleep on words.
pub trait Futex {
    /// The words that it sleeps on.
    type Word: Word;

    /// Sleeps, if `word` is `value`, until `word` is woken. May come back too
    /// early.
    fn wait(word: &Self::Word, value: u32);

    /// Wakes one process that sleeps on `word`.
    fn wake(word: &Self::Word);
}

/// Passes the run token to the view that waits for this word.
pub fn pass<F: Futex>(run_token: &F::Word) {
    run_token.store(1);
    F::wake(run_token);
}

/// Blocks until the run token is here, and takes it.
pub fn take<F: Futex>(run_token: &F::Word) {
    while run_token.swap(0) == 0 {
        F::wait(run_token, 0);
    }
}

/// Gives the turn to `whom`.
pub fn give<F: Futex>(turn: &F::Word, whom: u32) {
    turn.store(whom);
    F::wake(turn);
}

/// Blocks until `turn` is `whom`, and returns true. `alive` is called before
/// each wait; if it returns false, so does this. The other side may write any
/// value: any value other than `whom` makes this wait again.
pub fn wait_for<F: Futex>(
    turn: &F::Word,
    whom: u32,
    alive: impl Fn() -> bool,
) -> bool {
    loop {
        if !alive() {
            return false;
        }
        let now = turn.load();
        if now == whom {
            return true;
        }
        F::wait(turn, now);
    }
}

/// Ends a [`wait_for`] in another thread, after its `alive` has become false.
/// The other side may still write `turn`, and so undo what wakes the thread. So
/// this wakes it again and again, with a `pause` after each time, until `waits`
/// says that no thread is in [`wait_for`] any more.
pub fn call_off<F: Futex>(
    turn: &F::Word,
    whom: u32,
    waits: impl Fn() -> bool,
    pause: impl Fn(),
) {
    while waits() {
        give::<F>(turn, whom);
        pause();
    }
}

/// The Guest sleeps until a [`kick`]. `rest` gets the count of kicks, checks
/// once more that there is nothing to do, and then sleeps if the count is still
/// the same. No kick is lost: one that comes before the sleep has changed the
/// count, and one that comes later wakes the Guest.
pub fn sleep_until_kick<W: Word>(
    kicks: &W,
    asleep: &W,
    rest: impl FnOnce(u32),
) {
    asleep.store(1);
    rest(kicks.load());
    asleep.store(0);
}

/// Reports an event from outside, which the caller has written where the Guest
/// will read it. If the Guest sleeps, it is woken; otherwise `interrupt` stops
/// the view that runs it.
pub fn kick<F: Futex>(
    kicks: &F::Word,
    asleep: &F::Word,
    interrupt: impl FnOnce(),
) {
    kicks.count();
    if asleep.load() != 0 {
        F::wake(kicks);
    } else {
        interrupt();
    }
}

/// Raises interrupt `irq`.
pub fn raise<W: Word>(irqs: &W, irq: u32) {
    irqs.set(1 << irq);
}

/// Interrupt `irq` is delivered or dropped: it is no longer raised. Interrupts
/// that are raised meanwhile stay.
pub fn lower<W: Word>(irqs: &W, irq: u32) {
    irqs.clear(1 << irq);
}

#[cfg(test)]
mod tests;
