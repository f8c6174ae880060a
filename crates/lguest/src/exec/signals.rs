//! Signals to this process, as bytes of a pipe.
//!
//! A thread reads them, so that a session can wait for them beside everything
//! else.

use super::error::{ExecError, own};
use crate::machine::crash;
use crate::machine::signals::ignored;
use crate::thread;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use std::os::fd::OwnedFd;

/// The signals that are passed on, and the one that says that the terminal has
/// another size.
const CAUGHT: [i32; 7] =
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// Catches signals. Returns a file with a byte for each: its number.
pub(super) fn catch() -> Result<OwnedFd, ExecError> {
    let doing = "catch signals";
    let ignored = ignored();
    crash::listen(ignored).map_err(own(doing))?;
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reader, writer) = pipe_with(flags).map_err(own(doing))?;
    // A parent that ignores a signal, as nohup does, wants that here, too.
    let caught = CAUGHT.iter().filter(|n| ignored & 1 << (*n - 1) == 0);
    let mut caught =
        signal_hook::iterator::Signals::new(caught).map_err(own(doing))?;
    let work = move || {
        for signal in caught.forever() {
            let byte = u8::try_from(signal).unwrap_or(0);
            // A full pipe has enough of them.
            let _ = rustix::io::write(&writer, &[byte]);
        }
    };
    thread::start("signals", 128 << 10, work).map_err(own(doing))?;
    Ok(reader)
}
