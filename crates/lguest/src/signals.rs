//! Signals: whatever ends or stops us, the terminal is put back first.
//!
//! Handlers may do next to nothing, so they only tell a thread, which is
//! asleep otherwise. What asks us to end kills the Guest, and the main thread
//! comes back with that; if it does not, because nobody reads the output that
//! it is writing, we end all the same.

use crate::exit::Outcome;
use crate::launch::Ending;
use crate::terminal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::io;
use std::time::Duration;

/// The thread that hears of signals. It ends with the process.
pub struct Signals;

impl Signals {
    /// Catches from now on what would end or stop us.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no descriptor or thread left.
    pub fn start(ending: &Ending) -> io::Result<()> {
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT];
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

/// How long the main thread has to come back.
const PATIENCE: Duration = Duration::from_secs(5);

fn handle(signal: i32, ending: &Ending) {
    match signal {
        SIGTSTP => {
            ending.hold();
            terminal::leave();
            // Here we stop, and go on when somebody sends SIGCONT.
            let _ = emulate_default_handler(SIGTSTP);
            terminal::enter();
            ending.let_go();
        }
        // Perhaps we were stopped by what cannot be caught, and whoever had
        // the terminal meanwhile has left it in another state.
        SIGCONT => terminal::enter(),
        _ => end(signal, ending),
    }
}

/// Ends the Guest; the second time, or if that takes too long, everything.
fn end(signal: i32, ending: &Ending) {
    let number = u8::try_from(signal).unwrap_or(u8::MAX);
    let name = signal_name(signal).unwrap_or("a signal");
    let leave = move || {
        terminal::leave();
        std::process::exit(Outcome::Signal(number).code().into());
    };
    if !ending.by_signal(number, &format!("by {name}")) {
        leave();
    }
    let waiter = std::thread::Builder::new().name("patience".into());
    let waiting = waiter.spawn(move || {
        std::thread::sleep(PATIENCE);
        leave();
    });
    if waiting.is_err() {
        leave();
    }
}
