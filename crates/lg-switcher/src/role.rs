//! What a process does when the Guest's code stops: its role.
//!
//! The same program is a view and a user process. Signals and trampolines lead
//! to the same code in both, but a view then asks its Host, and a user process
//! tells its view. So the way in is written once, on top of this trait, and
//! each process chooses its role before the first signal can arrive. The choice
//! is in a static, which a user process cannot write once it is confined.

#![expect(unsafe_code, reason = "a static that is written once")]

use core::cell::UnsafeCell;
use core::fmt::Display;
use lg_host::host::Event;

/// What differs between a view and a user process.
pub(crate) trait Role {
    /// The Guest's code has stopped for `event`, and its registers are where
    /// they belong. `kicked`: this is the handler of a kick, and in a view
    /// other kicks are blocked until it lets them through again.
    fn stopped(&self, event: Event, kicked: bool) -> !;

    /// A kick came after the last look around and before the Guest's first
    /// instruction.
    fn look_again(&self) -> !;

    /// A kick has come. The interrupted code goes on.
    fn count_kick(&self);

    /// A signal has come at `rip`, in 64-bit code, with these values in rax and
    /// in rdi, rsi and rdx. A user process that waits for its view waits again
    /// and does not return.
    fn interrupted(
        &self,
        rip: u64,
        rax: u64,
        event_words: [u64; 3],
        kicked: bool,
    );

    /// Whether the filter lets a signal handler return by `rt_sigreturn`.
    fn may_return(&self) -> bool;

    /// Our own code has faulted. In a view that ends the Guest. In a user
    /// process only user code that has jumped here can be the reason, and this
    /// returns.
    fn faulted(&self, fault: &dyn Display);
}

struct TheRole(UnsafeCell<Option<&'static (dyn Role + Sync)>>);

// SAFETY: there is one thread.
unsafe impl Sync for TheRole {}

static ROLE: TheRole = TheRole(UnsafeCell::new(None));

/// Chooses the role of this process.
pub(crate) fn choose(role: &'static (dyn Role + Sync)) {
    // SAFETY: nothing else uses it now: no handler is installed that could, or
    // no signal can arrive yet.
    unsafe { *ROLE.0.get() = Some(role) };
}

/// The role of this process.
pub(crate) fn role() -> &'static dyn Role {
    // SAFETY: it is written before it is read, and not while it is read.
    let role = unsafe { *ROLE.0.get() };
    role.expect("every process chooses its role first")
}
