//! The kernel's tasks, and its sleep when none is ready.
//!
//! One [`Executor`] serves the whole kernel. When no task is ready the CPU is
//! given back to the Host until an interrupt comes. There is no tick, so an
//! idle Guest uses no processor time.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::boot::Boot;
//! use lg_guest::{power, println, task, time};
//!
//! lg_guest::entry!(main);
//!
//! fn main(_: &'static Boot) {
//!     let ticks = async {
//!         for tick in 1..=3 {
//!             time::sleep(time::SECOND).await;
//!             println!("{tick}");
//!         }
//!         power::off(0);
//!     };
//!     task::spawn("ticks", ticks).expect("there is room for a task");
//!     // The tasks run when this function has returned.
//! }
//! ```

use crate::executor::{Executor, Ready, TaskInfo, TooManyTasks};
use crate::{hcall, irq, time};
use alloc::vec::Vec;
use core::future::Future;

/// A bit for each task that is ready.
static READY: Ready = Ready::new();

struct Kernel(Executor);

#[expect(unsafe_code, reason = "the executor is a static")]
// SAFETY: one CPU (crate rule 1), and interrupt handlers use only `READY`,
// which is atomic. If that should ever be wrong, the `RefCell`s
// of the executor panic.
unsafe impl Sync for Kernel {}

static EXECUTOR: Kernel = Kernel(Executor::new(&READY));

/// Adds a task.
///
/// # Errors
///
/// There are too many.
pub fn spawn(
    name: &'static str,
    future: impl Future<Output = ()> + 'static,
) -> Result<(), TooManyTasks> {
    EXECUTOR.0.spawn(name, future)
}

/// The bit of the task that is running.
pub fn current() -> u32 {
    EXECUTOR.0.current()
}

/// Wakes the tasks in `mask`: bits that [`current`] gave. Any context.
pub fn wake(mask: u32) {
    READY.wake(mask);
}

/// Whether some other task is ready, or may be after what has come.
pub fn others_ready() -> bool {
    !READY.is_empty() || time::fired() || irq::any_arrived()
}

/// All tasks.
#[must_use]
pub fn all() -> Vec<TaskInfo> {
    EXECUTOR.0.tasks()
}

/// Runs tasks, and sleeps when there is nothing to run.
pub(crate) fn run() -> ! {
    loop {
        time::expire();
        irq::wake_waiting();
        if EXECUTOR.0.run_ready() {
            continue;
        }
        time::prepare_sleep();
        irq::disable();
        if !others_ready() {
            hcall::halt();
        }
        irq::enable();
    }
}
