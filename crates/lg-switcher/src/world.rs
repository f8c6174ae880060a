//! The world as a view sees it: the mailbox, the clocks, the other views.
//!
//! What the Host asks of the world becomes a system call here, or a word in
//! memory that others watch. Nothing of it is decided here.

#![expect(unsafe_code, reason = "system calls")]

use crate::cpuid;
use crate::entry;
use crate::extended;
use crate::layout::{OUTBOXES, STATE, State};
use crate::own::own;
use crate::syscall::{call, futex_wait, futex_wake, futex_wake_at, nr};
use crate::trampolines;
use crate::user_driver;
use crate::view;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use lg_host::address::GuestPhys;
use lg_host::cpu::cpuid::Answer;
use lg_host::cpu::extended::Extended;
use lg_host::kill::Kill;
use lg_host::patch::TrampolineKind;
use lg_host::state::{FpuState, Registers};
use lg_host::world::{WallClock, World};
use lg_wire::mailbox::{HOSTS_TURN, LAUNCHERS_TURN, Mailbox, Request};
use lg_wire::turns::{self, Futex};

const CLOCK_REALTIME: usize = 0;
pub(crate) const CLOCK_MONOTONIC: usize = 1;
const TIMER_ABSTIME: usize = 1;
const NSEC_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Default)]
#[repr(C)]
struct TimeSpec {
    sec: u64,
    nsec: u64,
}

/// `struct itimerspec`.
#[repr(C)]
struct TimerSpec {
    interval: TimeSpec,
    value: TimeSpec,
}

/// The state that all views share.
pub(crate) fn state() -> &'static State {
    // SAFETY: the crate's standing assumption; everything in it is a user
    // process or an atomic, or is never written after the start.
    unsafe { &*(STATE as *const State) }
}

/// The kernel, for those who wait for their turn.
struct Kernel;

impl Futex for Kernel {
    type Word = AtomicU32;

    fn wait(word: &AtomicU32, value: u32) {
        futex_wait(word, value);
    }

    fn wake(word: &AtomicU32) {
        futex_wake(word);
    }
}

/// Where the Guest's registers are put while it does not run: the same place
/// in a view and in a user process.
pub(crate) fn registers() -> &'static Registers {
    const AT: usize = STATE + offset_of!(State, vm.regs);
    // SAFETY: as in `state`, and a user process has this page, too.
    unsafe { &*(AT as *const Registers) }
}

/// Where its floating-point registers are put while it moves.
pub(crate) fn fpu() -> &'static FpuState {
    const AT: usize = STATE + offset_of!(State, vm.fpu);
    // SAFETY: as in `registers`.
    unsafe { &*(AT as *const FpuState) }
}

fn clock(which: usize) -> TimeSpec {
    let mut now = TimeSpec::default();
    let at = &raw mut now as usize;
    // SAFETY: the kernel writes `now`.
    let _ = unsafe { call(nr::CLOCK_GETTIME, [which, at, 0, 0, 0, 0]) };
    now
}

/// What a clock says, in one number.
pub(crate) fn nanoseconds(which: usize) -> u64 {
    let now = clock(which);
    now.sec * NSEC_PER_SEC + now.nsec
}

/// Has `timer` go off at `deadline`.
pub(crate) fn arm(timer: u32, deadline: u64) {
    own().armed.store(deadline, Ordering::Relaxed);
    let spec = TimerSpec {
        interval: TimeSpec::default(),
        value: TimeSpec {
            sec: deadline / NSEC_PER_SEC,
            nsec: deadline % NSEC_PER_SEC,
        },
    };
    let at = &raw const spec as usize;
    let arguments = [timer as usize, TIMER_ABSTIME, at, 0, 0, 0];
    // SAFETY: the kernel reads `spec`.
    let _ = unsafe { call(nr::TIMER_SETTIME, arguments) };
}

/// Whether user code runs in a process of its own.
fn has_user_process() -> bool {
    view::setup().user_processes != 0
}

/// The world of one view.
pub struct Outside {
    /// Its slot.
    pub slot: usize,
    /// The number of its timer.
    pub timer: u32,
}

impl Outside {
    fn mailbox() -> &'static Mailbox {
        &state().vm.wire.mailbox
    }

    /// Blocks until the Launcher has answered.
    fn ask(request: Request, arguments: [u32; 3]) -> u32 {
        let mailbox = Self::mailbox();
        mailbox.write(request, arguments);
        turns::give::<Kernel>(&mailbox.turn, LAUNCHERS_TURN);
        turns::wait_for::<Kernel>(&mailbox.turn, HOSTS_TURN, || true);
        mailbox.reply.load(Ordering::Relaxed)
    }

    /// Says why the Guest is over, and waits to be killed.
    pub fn die(request: Request, reason: &[u8]) -> ! {
        let mailbox = Self::mailbox();
        mailbox.write_text(reason);
        loop {
            Self::ask(request, [0; 3]);
        }
    }

    /// Blocks until this view has the run token, and takes it.
    pub fn wait_for_run_token(slot: usize) {
        turns::take::<Kernel>(&state().vm.wire.run_tokens[slot]);
    }
}

impl World for Outside {
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill> {
        state().vm.counters.sends.count();
        Self::ask(Request::SendDma, [key, dma.0, 0]);
        Ok(())
    }

    fn ring(&mut self, at: u32) {
        futex_wake_at(OUTBOXES + at as usize);
    }

    fn bind_dma(
        &mut self,
        key: u32,
        dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill> {
        Ok(Self::ask(Request::BindDma, [key, dmas.0, count_irq]) == 1)
    }

    fn crash(&mut self, message: &[u8]) -> Result<(), Kill> {
        Self::die(Request::Crash, message)
    }

    fn broken_out(&mut self) -> Result<(), Kill> {
        Self::ask(Request::Broken, [0; 3]);
        Ok(())
    }

    fn monotonic(&mut self) -> u64 {
        nanoseconds(CLOCK_MONOTONIC)
    }

    fn wall_clock(&mut self) -> WallClock {
        let now = clock(CLOCK_REALTIME);
        // What a Guest of 2007 thinks of the year 2106 is its own affair.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        WallClock {
            sec: now.sec as u32,
            nsec: now.nsec as u32,
        }
    }

    fn arm(&mut self, deadline: u64, earlier: bool) {
        let armed = own().armed.load(Ordering::Relaxed);
        let good =
            armed == deadline || earlier && (1..deadline).contains(&armed);
        // An alarm too many costs a kick; switching it off costs a call.
        if deadline != 0 && !good {
            arm(self.timer, deadline);
        }
    }

    fn sleep(&mut self, seen: u32) {
        futex_wait(&state().vm.wire.kick, seen);
    }

    fn start_view(&mut self, slot: usize) -> Result<(), Kill> {
        let slot = u32::try_from(slot).map_err(|_| Kill::NoView)?;
        match Self::ask(Request::StartView, [slot, 0, 0]) {
            1 => Ok(()),
            _ => Err(Kill::NoView),
        }
    }

    fn balance(&mut self) {
        Self::ask(Request::Balance, [0; 3]);
    }

    fn buffers_may_be_free(&mut self) {
        Self::ask(Request::BuffersMayBeFree, [0; 3]);
    }

    fn make_call_trampoline(&mut self, slot: usize, back: u32) -> u32 {
        trampolines::make_for_call(slot, back)
    }

    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
    ) -> Option<u32> {
        trampolines::make(kind, displaced)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Option<Answer> {
        cpuid::ask(leaf, subleaf)
    }

    fn extended_in_use(&mut self) -> bool {
        if has_user_process() {
            return user_driver::extended_in_use();
        }
        // What a signal's frame has of it goes back into the processor.
        entry::put_fpu_away();
        entry::take_fpu();
        extended::in_use() != 0
    }

    fn save_extended(&mut self, to: &Extended) {
        if has_user_process() {
            user_driver::save_extended(to);
        } else {
            extended::save(to);
        }
    }

    fn load_extended(&mut self, from: Option<&Extended>) {
        if has_user_process() {
            user_driver::load_extended(from);
        } else {
            entry::put_fpu_away();
            entry::take_fpu();
            extended::load(from);
        }
    }

    fn hand_over(&mut self, slot: usize) -> Result<(), Kill> {
        entry::put_fpu_away();
        turns::pass::<Kernel>(&state().vm.wire.run_tokens[slot]);
        Self::wait_for_run_token(self.slot);
        entry::take_fpu();
        Ok(())
    }
}
