//! `lguest logs`: the last output of a machine, and what it prints next.
//!
//! The output of a machine that has ended is read from its file.

use super::found::{DONE, find};
use super::shown::Shown;
use crate::cli::exit::Outcome;
use crate::devices::console::backlog::now;
use crate::machines::error::MachineError;
use crate::machines::link::{Heard, Link, PATIENCE};
use crate::machines::name::Name;
use crate::machines::protocol::{Attached, Call, Received};
use std::io;
use std::time::{Duration, Instant};

pub(super) fn logs(
    name: &Name,
    follow: bool,
    since: Option<Duration>,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let since = since.map(|time| {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        now().saturating_sub(time)
    });
    let attached = Link::to(&folder).and_then(|link| attach(link, since));
    match attached {
        Ok((link, attached)) => follow_output(link, &attached, follow)?,
        // Its output is in the file.
        Err(_) if folder.end().is_some() => {
            let output = folder.output()?;
            let from = since.map_or(0, |time| output.since(time));
            let (_, bytes) = output.read(from, usize::MAX);
            Shown::new().print(&bytes).map_err(lost)?;
        }
        Err(error) => return Err(error),
    }
    Ok(DONE)
}

fn attach(
    mut link: Link,
    since: Option<u64>,
) -> Result<(Link, Attached), MachineError> {
    let attached = link.ask(&Call::Attach {
        from: None,
        since,
        types: false,
    })?;
    Ok((link, attached))
}

/// Standard output fails. If its reader has gone, that is what it wanted.
fn lost(error: io::Error) -> MachineError {
    MachineError::Own("write to standard output", error)
}

fn follow_output(
    mut link: Link,
    attached: &Attached,
    follow: bool,
) -> Result<(), MachineError> {
    let mut shown = Shown::new();
    let mut at = attached.from;
    while follow || at < attached.end {
        let deadline = (!follow).then(|| Instant::now() + PATIENCE);
        match link.hear(deadline)? {
            Heard::Message(Received::Output(read)) => {
                at = read.from + read.data.0.len() as u64;
                match shown.print(&read.data.0) {
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(());
                    }
                    printed => printed.map_err(lost)?,
                }
            }
            Heard::Message(Received::Answer(..)) => {}
            Heard::Message(Received::Ended(_)) => return Ok(()),
            // Its end is not what was asked for.
            Heard::Closed | Heard::Nothing => return Ok(()),
        }
    }
    Ok(())
}
