//! Signals: whatever ends or stops us, the terminal is put back first.
//!
//! Handlers may do next to nothing, so they only tell a thread, which is
//! asleep otherwise. What asks us to end kills the Guest, and the main thread
//! comes back with that; if it does not, because nothing reads the output that
//! it is writing, we end all the same. A signal that we were started to ignore
//! (nohup does that) stays ignored.

use crate::cli::exit::Outcome;
use crate::machine::ending::Ending;
use crate::machine::terminal;
use signal_hook::consts::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM,
    SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The thread that hears of signals. It ends with the process.
pub struct Signals;

impl Signals {
    /// Catches from now on what would end or stop us, but for what was
    /// [`ignored`].
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no descriptor or thread left.
    pub fn start(ending: &Ending, ignored: u64) -> io::Result<()> {
        let caught = CAUGHT.iter().filter(|&&s| ignored & 1 << (s - 1) == 0);
        let mut signals = signal_hook::iterator::Signals::new(caught)?;
        let ending = ending.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .stack_size(128 << 10)
            .spawn(move || {
                for signal in signals.forever() {
                    handle(signal, &ending);
                }
            })?;
        Ok(())
    }
}

/// Makes signals that mean nothing to us do nothing: they would end us without
/// a word. A file that may not be as large as we want is an error then.
///
/// # Errors
///
/// None that could come: the signals exist.
pub fn survive(ignored: u64) -> io::Result<()> {
    let nobody_looks = Arc::new(AtomicBool::new(false));
    let real_time = SIGRTMIN..=SIGRTMAX;
    for signal in MEANINGLESS.into_iter().chain(real_time) {
        if ignored & 1 << (signal - 1) == 0 {
            let flag = Arc::clone(&nobody_looks);
            signal_hook::flag::register(signal, flag)?;
        }
    }
    Ok(())
}

/// What we want to hear of: what asks us to end, or to stop and go on.
const CAUGHT: [i32; 8] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGPWR, SIGTSTP, SIGCONT,
];

/// What would end a process that does not expect it, and has no meaning here.
/// Those of a broken process are [`crate::machine::crash`]'s.
const MEANINGLESS: [i32; 8] = [
    SIGXFSZ,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    libc::SIGSTKFLT,
];

/// Power fails. The crate that knows the others by name does not know it.
const SIGPWR: i32 = libc::SIGPWR;

/// Signals that the kernel gives no meaning to. Those before are the C
/// library's own.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// The signals that are ignored, a bit for each; none where the kernel does not
/// say.
/// Opens a file, so it has to be asked early.
#[must_use]
pub fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status");
    let status = status.unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// How long the Guest's processes may take to end, and how long the main thread
/// may take after that: so many pauses ...
const PAUSES: u32 = 100;

/// ... of this length, and not one long pause. Where the whole machine stands
/// still, or is very busy, a pause takes longer than it should, and then all
/// that is waited for has more time.
const PAUSE: Duration = Duration::from_millis(50);

fn handle(signal: i32, ending: &Ending) {
    match signal {
        SIGTSTP => {
            let hold = ending.hold();
            terminal::lend();
            // The process stops here, and goes on at SIGCONT.
            let _ = emulate_default_handler(SIGTSTP);
            terminal::resume();
            drop(hold);
        }
        // The process may have been stopped by SIGSTOP, and another process may
        // have changed the terminal meanwhile.
        SIGCONT => terminal::resume(),
        _ => {
            let name = match signal {
                SIGPWR => "SIGPWR",
                _ => signal_name(signal).unwrap_or("a signal"),
            };
            let number = u8::try_from(signal).unwrap_or(u8::MAX);
            let outcome = Outcome::Signal(number);
            end(outcome, &format!("by {name}"), ending);
        }
    }
}

/// What is told behind the reason where something took too long.
pub const NOT_WAITED_FOR: &str = ", without waiting for its ";

/// Waits longer than the end of a Guest takes: pauses of `pause` until its
/// processes are `gone`, then until its devices have stopped. Returns what has
/// not ended; when all has, this thread ends with the process.
fn wait_for_the_rest(gone: &AtomicBool, pause: Duration) -> &'static str {
    let mut pauses = 0..PAUSES;
    while !gone.load(Ordering::SeqCst) {
        if pauses.next().is_none() {
            return "processes, which took more than 5 s to end";
        }
        std::thread::sleep(pause);
    }
    (0..PAUSES).for_each(|_| std::thread::sleep(pause));
    "devices, which took more than 5 s to stop"
}

/// Ends the Guest with `outcome`, for a `reason` that goes on behind "ended";
/// the second time, or if that takes too long, everything. May block for a
/// while.
pub fn end(outcome: Outcome, reason: &str, ending: &Ending) {
    let (by, reason) = (reason, reason.to_owned());
    let ending = ending.clone();
    let leave = {
        let ending = ending.clone();
        move |how: &str| {
            terminal::leave_for_good();
            if terminal::may_tell() {
                ending.tell(&format!("ended {reason}{how}"));
            }
            std::process::exit(outcome.code().into());
        }
    };
    if ending.has_begun() {
        leave("");
    }
    // Before anything that could hang.
    let gone = Arc::new(AtomicBool::new(false));
    let waiter = std::thread::Builder::new().name("patience".into());
    let waiting = waiter.stack_size(128 << 10).spawn({
        let (leave, gone) = (leave.clone(), Arc::clone(&gone));
        move || {
            let what = wait_for_the_rest(&gone, PAUSE);
            leave(&format!("{NOT_WAITED_FOR}{what}"));
        }
    });
    ending.begin(outcome, by);
    gone.store(true, Ordering::SeqCst);
    if waiting.is_err() {
        leave("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_waited_for_is_named() {
        let named = |gone| {
            let gone = AtomicBool::new(gone);
            wait_for_the_rest(&gone, Duration::ZERO)
        };
        assert!(named(false).starts_with("processes"));
        assert!(named(true).starts_with("devices"));
    }
}
