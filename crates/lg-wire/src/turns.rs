//! Whose turn is it? Words on which processes wait for each other.
//!
//! Views pass the run token, a Host waits for the Launcher's answer, a Guest
//! that sleeps is woken, interrupts are raised and taken. Each of these is a
//! word or two in shared memory, on which the kernel lets somebody sleep, and
//! each mistake here is a Guest that never wakes up again. So the few steps
//! that matter are here by themselves, without the memory and the kernel that
//! they are made for, and a model checker takes them through every order in
//! which they can happen (`turns/tests.rs`).

use core::sync::atomic::{AtomicU32, Ordering};

/// A word that several processes share. All accesses have one order, which
/// everybody sees.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u32;
    /// Writes it.
    fn store(&self, value: u32);
    /// Writes it, and answers what it was.
    fn swap(&self, value: u32) -> u32;
    /// Counts one up.
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
    /// The words it knows.
    type Word: Word;

    /// Sleeps, if `word` is `value`, until somebody wakes sleepers on `word`.
    /// May come back too early.
    fn wait(word: &Self::Word, value: u32);

    /// Wakes one who sleeps on `word`.
    fn wake(word: &Self::Word);
}

/// Passes the run token to whoever waits for this one.
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

/// Blocks until it is the turn of `whom`, or `alive` says no; answers which.
/// The word is somebody else's to write: whatever he writes that is not
/// `whom` is slept on.
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

/// Ends [`wait_for`] after its `alive` has become false, though the other
/// side may still write `turn`. `waits` says whether somebody is in there;
/// `pause` lets some time pass.
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

/// The Guest's sleep: from the first line on, a [`kick`] is noticed. By its
/// count, if it comes before the sleep; as a wake-up, if it comes after.
/// `rest` is told the count, looks once more whether there is nothing to do,
/// and then sleeps as long as that is the count.
pub fn doze<W: Word>(kicks: &W, asleep: &W, rest: impl FnOnce(u32)) {
    asleep.store(1);
    rest(kicks.load());
    asleep.store(0);
}

/// Something has come from outside, and has been written where the Guest will
/// look: if it sleeps, it is woken, else `interrupt` stops whoever runs it.
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

/// Interrupt `irq` is delivered, or dropped: it is raised no more. What is
/// raised meanwhile stays.
pub fn lower<W: Word>(irqs: &W, irq: u32) {
    irqs.clear(1 << irq);
}

#[cfg(test)]
mod tests;
