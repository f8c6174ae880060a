//! A user process: user code runs in it, and it can do little.
//!
//! Under `--isolation=user` every view has one. It holds the pages of user
//! code, this program, and one page for the registers. It has no state, no
//! memory file and no descriptor. User code may reach 64-bit mode here, too,
//! and then it controls the process. So nothing that the process reports is
//! believed, and the process can do nothing but wait. It waits in a system call
//! that is never carried out: the filter hands it to the view, and the user
//! process stands still until the view answers. So the Guest's kernel runs only
//! while the user process is known to stand, and no user code can watch it at
//! work.
//!
//! Pages are mapped by the *mapper*, a task that shares the user process's
//! memory and nothing else with it (`mapper_task`). User code cannot speak in
//! its place: the mapper has a listener of its own.

#![expect(unsafe_code, reason = "sets a process up")]

mod event;
pub(crate) use event::decode;

mod mapper_task;
mod stand;

use crate::confine::{self, install};
use crate::extended;
use crate::fpu;
use crate::layout::{
    COMMANDS, COPIES, Commands, MEMORY, OUTBOXES, RECORD, RECORD_SIZE, STATE,
    TRACE, TRAMPOLINES, TrampolinePages, USER, USER_PAGE, USER_RECORD,
    USER_TRAMPOLINES_SIZE, UserPage,
};
use crate::process::{self, die_with_parent, forget};
use crate::role::{self, Role};
use crate::segments;
use crate::shared::{setup, user_page, user_pages};
use crate::signals;
use crate::syscall::{call, call_site, errno, exit, nr};
use core::fmt::Display;
use core::sync::atomic::Ordering;
use lg_abi::page::PAGE_SIZE;
use lg_host::address::as_word;
use lg_host::host::Event;
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::state::{COPIES_SIZE, STATE_SIZE};
use lg_wire::trace::ring_size;
use mapper_task::start_mapper;
use stand::{interrupted, stand_for, stand_site};

/// The role of a user process.
struct UserProcess;

/// See [`UserProcess`].
static USER_PROCESS: UserProcess = UserProcess;

impl Role for UserProcess {
    fn stopped(&self, event: Event, _kicked: bool) -> ! {
        hand_in(event)
    }

    fn look_again(&self) -> ! {
        hand_in(Event::Kick)
    }

    fn count_kick(&self) {}

    fn interrupted(
        &self,
        rip: u64,
        rax: u64,
        event_words: [u64; 3],
        kicked: bool,
    ) {
        interrupted(rip, rax, event_words, kicked);
    }

    fn may_return(&self) -> bool {
        false
    }

    fn faulted(&self, _fault: &dyn Display) {}
}

/// User code stopped for `event`, and its general registers are in the page.
/// Copies the others there, too, and waits. When the view answers, another
/// program may go on.
fn hand_in(event: Event) -> ! {
    fpu::put_fpu_away();
    extended::save(&user_page().extended);
    stand_for(event)
}

/// Turns a fresh copy of the view into a user process, and runs it.
pub(crate) fn become_one(launcher: Result<usize, i32>) -> ! {
    role::choose(&USER_PROCESS);
    if let Err(error) = settle(launcher) {
        let page = &user_pages().page;
        page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
        exit(1);
    }
    stand_for(Event::LongMode)
}

/// Unmaps everything that user code is not to see, and gives up all rights.
fn settle(launcher: Result<usize, i32>) -> Result<(), i32> {
    const PROT_READ: usize = 1;
    const MAYMOVE_FIXED: usize = 3;
    die_with_parent()?;
    if process::parent() != launcher {
        exit(1);
    }
    segments::fill_for_user_process()?;
    let setup = setup();
    let (limit, shared_pages) = (setup.limit as usize, setup.shared_pages);
    for (at, size) in [
        (STATE, STATE_SIZE),
        (TRACE, ring_size(setup.trace_records)),
        (MEMORY, limit),
        (COPIES, COPIES_SIZE),
        (RECORD, RECORD_SIZE),
        (USER_RECORD, RECORD_SIZE),
        (
            TRAMPOLINES + USER_TRAMPOLINES_SIZE,
            size_of::<TrampolinePages>() - USER_TRAMPOLINES_SIZE,
        ),
    ] {
        forget(at, size)?;
    }
    if shared_pages > 0 {
        forget(OUTBOXES, (shared_pages * OUTBOX_SIZE) as usize)?;
    }
    let orders = size_of::<Commands>();
    // SAFETY: the view's copy stays as it is.
    unsafe { call(nr::MPROTECT, [COMMANDS, orders, PROT_READ, 0, 0, 0]) }?;
    signals::listen_in_user_process()?;
    let page = &user_pages().page;
    let mapper = start_mapper(shared_pages)?;
    page.processes[1].store(mapper, Ordering::SeqCst);
    listener(page, 1)?;
    let size = size_of::<UserPage>();
    let arguments = [USER, size, size, MAYMOVE_FIXED, USER_PAGE, 0];
    let filter = confine::user_process(call_site(), stand_site());
    // SAFETY: the page moves, and there are no references into it.
    unsafe { call(nr::MREMAP, arguments) }?;
    protect_statics()?;
    let fd = install(&filter, confine::WITH_LISTENER);
    let page = user_page();
    match fd {
        Ok(fd) => page.listeners[0].store(as_word(fd) + 1, Ordering::SeqCst),
        Err(error) => {
            page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
            exit(1);
        }
    }
    // From here on there are no descriptors. The filter allows this one call.
    // SAFETY: a user process uses no descriptor.
    unsafe { call(nr::CLOSE_RANGE, confine::CLOSE_ALL) }.map(drop)
}

/// From here on no code in this process can write a static of this program.
fn protect_statics() -> Result<(), i32> {
    const PROT_READ: usize = 1;
    let page = PAGE_SIZE as usize;
    let start = (&raw const etext as usize).next_multiple_of(page);
    let stop = (&raw const end as usize).next_multiple_of(page);
    let arguments = [start, stop - start, PROT_READ, 0, 0, 0];
    // SAFETY: what is left to do in a user process writes none.
    unsafe { call(nr::MPROTECT, arguments) }.map(drop)
}

unsafe extern "C" {
    /// Where, by the linker, the code ends, and where everything does.
    static etext: u8;
    static end: u8;
}

/// The listener of the user process (0) or its mapper (1). Waits until its
/// filter is installed. That takes a moment only, and a confined task cannot
/// wake the view, so this polls: at first without a pause, and then each
/// millisecond, because the other task may wait for a busy processor.
pub(crate) fn listener(page: &UserPage, n: usize) -> Result<u32, i32> {
    const WITHOUT_PAUSE: u32 = 1000;
    /// Five seconds, and much more where processors are busy.
    const PATIENCE: u32 = WITHOUT_PAUSE + 5000;
    static MILLISECOND: [i64; 2] = [0, 1_000_000];
    const FUTEX_WAIT: usize = 0;
    for round in 0..PATIENCE {
        let failed = page.failed.load(Ordering::SeqCst);
        if failed != 0 {
            return Err(failed.cast_signed());
        }
        let listener = page.listeners[n].load(Ordering::SeqCst);
        if listener != 0 {
            return Ok(listener - 1);
        }
        if round < WITHOUT_PAUSE {
            // SAFETY: gives the processor away.
            let _ = unsafe { call(nr::SCHED_YIELD, [0; 6]) };
        } else {
            let at = page.listeners[n].as_ptr() as usize;
            let time = (&raw const MILLISECOND).addr();
            // SAFETY: waits as long as the word is 0, for that time at most.
            let _ = unsafe { call(nr::FUTEX, [at, FUTEX_WAIT, 0, time, 0, 0]) };
        }
    }
    Err(errno::ETIMEDOUT)
}
