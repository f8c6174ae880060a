//! Signals that end or stop the Launcher: the terminal is put back first.
//!
//! A handler may do very little, so it only wakes a thread. A signal that asks
//! the Launcher to end kills the Guest, and then the main thread ends the run.
//! If it does not, because the reader of its output does not read, this thread
//! ends the process. A signal that was ignored at the start (by nohup, for
//! example) stays ignored.

use crate::cli::exit::Outcome;
use crate::machine::crash;
use crate::machine::ending::Ending;
use crate::machine::terminal;
use crate::thread;
use signal_hook::consts::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM,
    SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The thread that receives signals. It ends with the process.
pub struct Signals;

impl Signals {
    /// Starts to catch signals that would end or stop the Launcher, except
    /// those that were [`ignored`]. Calls `resized` when the terminal has got
    /// another size.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or thread left.
    pub fn start(
        ending: &Ending,
        ignored: u64,
        resized: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let caught = CAUGHT.iter().filter(|&&s| ignored & 1 << (s - 1) == 0);
        let mut signals = signal_hook::iterator::Signals::new(caught)?;
        let ending = ending.clone();
        thread::start("signals", 128 << 10, move || {
            for signal in signals.forever() {
                match signal {
                    SIGWINCH => resized(),
                    _ => handle(signal, &ending),
                }
            }
        })?;
        Ok(())
    }
}

/// Gives no effect to signals that have no meaning here. Otherwise they would
/// end the Launcher without a message. A write beyond a limit on file sizes is
/// an error then.
///
/// # Errors
///
/// There is none, because the signals exist.
pub fn survive(ignored: u64) -> io::Result<()> {
    let real_time = SIGRTMIN..=SIGRTMAX;
    for signal in MEANINGLESS.into_iter().chain(real_time) {
        if ignored & 1 << (signal - 1) == 0 {
            crash::give_no_effect(signal)?;
        }
    }
    Ok(())
}

/// Signals that ask the Launcher to end, to stop, or to go on, and that of a
/// terminal with another size.
const CAUGHT: [i32; 9] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGPWR, SIGTSTP, SIGCONT,
    SIGWINCH,
];

/// Signals that end a process by default and have no meaning here.
/// [`crate::machine::crash`] handles those of a broken process.
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

/// Power failure. The crate that names the other signals does not have it.
const SIGPWR: i32 = libc::SIGPWR;

/// Real-time signals. The C library uses those before them itself.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// The signals that are ignored, a bit for each. Zero if they cannot be read.
/// Opens a file, so it must be called early.
#[must_use]
pub fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status");
    let status = status.unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// How many pauses the Guest's processes may take to end, and the main thread
/// after that ...
const PAUSES: u32 = 100;

/// ... and the length of a pause. Many short pauses are better than one long
/// pause: if the machine is very busy or was suspended, each of them takes
/// longer, and so the processes have more time.
const PAUSE: Duration = Duration::from_millis(50);

fn handle(signal: i32, ending: &Ending) {
    match signal {
        SIGTSTP => {
            let hold = ending.hold();
            terminal::lend();
            // The process stops here. It continues at SIGCONT.
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

/// The message, after the reason, if something took too long.
pub const NOT_WAITED_FOR: &str = ", without waiting for its ";

/// Waits longer than the end of a Guest takes: pauses of `pause` until its
/// processes are `gone`, then until its devices have stopped. Returns what has
/// not ended. If all has ended, this thread ends with the process.
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

/// Ends the Guest with `outcome`. The message is "ended" and then `reason`. The
/// second call, or a Guest that takes too long, ends the whole process. May
/// block for some seconds.
pub fn end(outcome: Outcome, reason: &str, ending: &Ending) {
    let (by, reason) = (reason, reason.to_owned());
    let ending = ending.clone();
    let leave = {
        let ending = ending.clone();
        move |how: &str| {
            terminal::leave_for_good();
            let words = format!("ended {reason}{how}");
            ending.note(outcome, &words);
            if terminal::may_tell() {
                ending.tell(&words);
            }
            std::process::exit(outcome.code().into());
        }
    };
    if ending.has_begun() {
        leave("");
    }
    // The waiting thread starts before anything that could hang.
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
