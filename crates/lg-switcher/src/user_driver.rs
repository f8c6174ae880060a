//! The user-process driver: the view lets user code run, and maps for it.
//!
//! The view answers the call in which its user process stands, and waits for
//! the next one. It receives a few words and a page of registers, and all of
//! that may be made up. The words are decoded into an event that user code
//! could have caused anyway. The registers are changed so that loading them
//! cannot fault. While the user process stands, its page does not change. The
//! view can then give orders to the mapper, which has carried them out when it
//! waits for more.

#![expect(unsafe_code, reason = "system calls")]

mod mapper;
pub(crate) use mapper::UserMapper;

mod registers;

use crate::ask::die;
use crate::clock::{CLOCK_MONOTONIC, arm, clock_of, nanoseconds};
use crate::fpu;
use crate::layout::{USER, UserPages};
use crate::leave::look_from_now_on;
use crate::notify::Standing;
use crate::process::{
    self, CLONE_FILES, CLONE_PARENT, MAP_SHARED_FIXED_ANONYMOUS,
};
use crate::shared::{state, user_pages};
use crate::syscall::{FORCE_SIGNAL, call, errno, nr};
use crate::user;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, Ordering};
use lg_host::address::as_word;
use lg_host::cpu::extended::{Extended, part};
use lg_host::host::Event;
use lg_wire::spawn::KICK_SIGNAL;
use registers::{copy_registers, make_fpu_loadable, make_loadable, mxcsr_mask};

/// The driver of this view's user process.
struct UserDriver {
    user_process: Standing,
    /// The user process's process number.
    process: usize,
    /// The bits of MXCSR that there are.
    mxcsr_mask: u32,
    /// The view's timer.
    timer: u32,
}

/// How soon a user process is kicked again that has not answered, in
/// nanoseconds.
const KICK_AGAIN: u64 = 10_000_000;

/// How long a user process may work without an answer to a kick, in nanoseconds
/// of its own processor time. An honest one needs less than a hundredth of
/// that.
const PATIENCE: u64 = 30_000_000;

struct TheDriver(UnsafeCell<Option<UserDriver>>);

// SAFETY: there is one thread, and signal handlers do not touch it.
unsafe impl Sync for TheDriver {}

static USER_DRIVER: TheDriver = TheDriver(UnsafeCell::new(None));

/// A user process that has been made.
pub(crate) struct Made {
    /// Maps in it.
    pub(crate) mapper: UserMapper,
    /// Its process number and its mapper's.
    pub(crate) processes: [u32; 2],
    /// The listeners of the two.
    pub(crate) listeners: [u32; 2],
}

/// Makes a user process for this view, which is not confined yet. Blocks until
/// it is ready.
pub(crate) fn start(
    launcher: Result<usize, i32>,
    timer: u32,
) -> Result<Made, i32> {
    let size = size_of::<UserPages>();
    process::map(USER, size, -1, MAP_SHARED_FIXED_ANONYMOUS)?;
    let process = process::fork(CLONE_PARENT | CLONE_FILES)?;
    if process == 0 {
        user::become_one(launcher);
    }
    let page = &user_pages().page;
    let number = u32::try_from(process).map_err(|_| errno::ENOMEM)?;
    page.processes[0].store(number, Ordering::SeqCst);
    HALF_MADE.store(number.cast_signed(), Ordering::Relaxed);
    let listeners = [user::listener(page, 0)?, user::listener(page, 1)?];
    let processes =
        [0, 1].map(|n: usize| page.processes[n].load(Ordering::SeqCst));
    let driver = UserDriver {
        user_process: Standing::first(listeners[0] as usize)?,
        process,
        mxcsr_mask: mxcsr_mask(),
        timer,
    };
    // SAFETY: the first use; there are no references yet.
    unsafe { *USER_DRIVER.0.get() = Some(driver) };
    Ok(Made {
        mapper: UserMapper::new(Standing::first(listeners[1] as usize)?),
        processes,
        listeners,
    })
}

/// The process that is to become the user process. If that fails, the Launcher
/// is given its number.
static HALF_MADE: AtomicI32 = AtomicI32::new(0);

/// The process of a user process that could not be made, or 0.
pub(crate) fn half_made() -> i32 {
    HALF_MADE.load(Ordering::Relaxed)
}

/// How many times in a row a user process may have left its call before the
/// view received it. Each time that takes a kick.
const MAX_MISSED: u32 = 10_000;

/// Lets user code run, with the registers in the state, until something
/// happens to it.
pub(crate) fn run() -> Event {
    // SAFETY: one use at a time: the Host runs once, and handlers do not come
    // here.
    let driver = unsafe { &mut *USER_DRIVER.0.get() };
    let driver = driver.as_mut().expect("only a view with a user_process");
    let (vm, page) = (&state().vm, &user_pages().page);
    copy_registers(&vm.regs, &page.regs);
    fpu::put_fpu_away();
    page.fpu.0.set(vm.fpu.0.get());
    driver.user_process.answer(0);
    let (mut missed, mut kicked_at) = (0, None);
    let event = loop {
        match driver.user_process.receive_or_kick() {
            Ok(event) => break event,
            Err(errno::EINTR) => {
                look_from_now_on();
                driver.kick(&mut kicked_at);
            }
            // It stood, and our kick made it call again; or it has ended.
            Err(errno::ENOENT) if missed < MAX_MISSED => missed += 1,
            Err(_) => die(&"the process of its user code is gone"),
        }
    };
    copy_registers(&page.regs, &vm.regs);
    make_loadable(&vm.regs);
    let mut fpu = page.fpu.0.get();
    make_fpu_loadable(&mut fpu, driver.mxcsr_mask);
    vm.fpu.0.set(fpu);
    fpu::take_fpu();
    user::decode([event[0], event[1], event[2]])
}

impl UserDriver {
    /// Kicks the user process, and arranges another kick in case that it does
    /// not answer. `kicked_at` is how long it had worked at the first kick.
    fn kick(&self, kicked_at: &mut Option<u64>) {
        let worked = nanoseconds(clock_of(as_word(self.process)) as usize);
        let since = worked.saturating_sub(*kicked_at.get_or_insert(worked));
        let signal = if since > PATIENCE {
            FORCE_SIGNAL
        } else {
            KICK_SIGNAL
        };
        arm(self.timer, nanoseconds(CLOCK_MONOTONIC) + KICK_AGAIN);
        let signal = signal.cast_unsigned() as usize;
        let arguments = [self.process, self.process, signal, 0, 0, 0];
        // SAFETY: the user process's handler is made for it.
        let _ = unsafe { call(nr::TGKILL, arguments) };
    }
}

/// Whether the thread that ran last uses extended state.
pub(crate) fn extended_in_use() -> bool {
    user_pages().page.extended.parts.get() & part::ALL != 0
}

/// Copies what the user process has saved of it.
pub(crate) fn save_extended(to: &Extended) {
    to.copy_from(&user_pages().page.extended, part::ALL);
}

/// Another thread's is to be loaded, when user code runs next. The user process
/// wipes what the last thread has left.
pub(crate) fn load_extended(from: Option<&Extended>) {
    let page = &user_pages().page;
    match from {
        Some(from) => page.extended.copy_from(from, part::ALL),
        None => page.extended.copy_from(&Extended::default(), part::ALL),
    }
    page.wipe.set(1);
}
