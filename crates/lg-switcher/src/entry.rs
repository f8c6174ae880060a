//! Entering the Host when the Guest stops, and leaving into the Guest again.
//!
//! This is the role of a view. Every way in ends in [`View::stopped`]: the Host
//! decides what the event means and what has to be done before the Guest goes
//! on. Then its registers are loaded ([`crate::leave`]), or, if user code has a
//! process of its own, that process goes on.

#![expect(unsafe_code, reason = "the Host's own state")]

use crate::ask::die;
use crate::disks::close_removed;
use crate::fpu::take_fpu;
use crate::leave::{leave_as, look_from_now_on};
use crate::own::own;
use crate::role::Role;
use crate::shared::state;
use crate::syscall::{call, nr};
use crate::user_driver;
use core::cell::UnsafeCell;
use core::fmt::Display;
use core::sync::atomic::Ordering;
use lg_host::host::{Event, Host};
use lg_host::kill::Kill;

/// The Host of this view. There is one thread, and the handlers that may
/// interrupt the Host do not touch it.
struct TheHost(UnsafeCell<Option<Host<'static>>>);

// SAFETY: there is one thread.
unsafe impl Sync for TheHost {}

static HOST: TheHost = TheHost(UnsafeCell::new(None));

/// Gives this view its Host.
pub(crate) fn set_host(host: Host<'static>) {
    // SAFETY: called once, before any signal can arrive.
    unsafe { *HOST.0.get() = Some(host) };
}

/// The Host of this view.
fn host() -> &'static mut Host<'static> {
    // SAFETY: one use at a time: a handler that interrupts the Host does not
    // call this, and one that interrupts the Guest finds the Host idle.
    let host = unsafe { &mut *HOST.0.get() };
    host.as_mut().expect("a view has a Host before it runs")
}

/// The role of a view.
pub(crate) struct View;

/// See [`View`].
pub(crate) static VIEW: View = View;

impl Role for View {
    fn stopped(&self, event: Event, kicked: bool) -> ! {
        if kicked {
            self.count_kick();
        }
        look_from_now_on();
        let result = host().run_guest(event);
        leave_or_die(result, kicked)
    }

    fn look_again(&self) -> ! {
        state().vm.counters.restarts.count();
        look_from_now_on();
        let result = host().get_ready();
        leave_or_die(result, false)
    }

    fn count_kick(&self) {
        close_removed();
        state().vm.wire.kick.fetch_add(1, Ordering::SeqCst);
    }

    fn interrupted(&self, _: u64, _: u64, _: [u64; 3], _: bool) {}

    fn may_return(&self) -> bool {
        true
    }

    fn faulted(&self, fault: &dyn Display) {
        die(fault)
    }
}

/// The run token has come to this view for the first time.
pub(crate) fn begin() -> ! {
    take_fpu();
    let result = host().catch_up().and_then(|()| host().get_ready());
    leave_or_die(result, false)
}

/// Leaves into the Guest after a visit to the Host, or ends the Guest.
/// `masked`: kicks are blocked, and have to be let through again.
fn leave_or_die(mut result: Result<(), Kill>, masked: bool) -> ! {
    let host = host();
    if masked {
        unblock_signals();
    }
    loop {
        if let Err(kill) = result {
            host.leave_last_words(kill.address());
            die(&kill);
        }
        if !(host.vm.in_user_mode() && host.shadow.has_user_process()) {
            let (cs, ss) = host.real_segments();
            leave_as(cs, ss);
        }
        // User code runs in its own process, and this comes back when it stops.
        result = if own().kicked.load(Ordering::SeqCst) == 0 {
            let event = user_driver::run();
            look_from_now_on();
            host.run_guest(event)
        } else {
            look_from_now_on();
            host.vm.counters.restarts.count();
            host.get_ready()
        };
    }
}

/// Lets all signals through again. The kernel does so when a handler returns,
/// but a handler that leaves into the Guest never does.
fn unblock_signals() {
    const SIG_SETMASK: usize = 2;
    let none = 0_u64;
    let at = &raw const none as usize;
    // SAFETY: the kernel reads `none`.
    let _ = unsafe { call(nr::RT_SIGPROCMASK, [SIG_SETMASK, at, 0, 8, 0, 0]) };
}
