//! `lguest device`: the devices of a machine.
//!
//! Its Launcher lists them, and takes one away.

use super::facts::{json, print};
use super::found::{DONE, find};
use crate::cli::exit::Outcome;
use crate::engine::printable;
use crate::machines::error::MachineError;
use crate::machines::link::Link;
use crate::machines::name::Name;
use crate::machines::protocol::{Call, Devices, Done};
use std::fmt::Write as _;

/// Prints the devices of a machine.
pub(super) fn list(
    name: &Name,
    as_json: bool,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let Devices { devices } = Link::to(&folder)?.ask(&Call::Devices {})?;
    let text = if as_json {
        json(&devices)
    } else {
        let mut text = format!("{:<8} {:<8} WHAT\n", "DEVICE", "STATE");
        for device in &devices {
            let shown = |text: &str| printable(text.as_bytes());
            let state = if device.removed { "removed" } else { "there" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<8} {state:<8} {}",
                shown(&device.name),
                shown(&device.what)
            );
        }
        text
    };
    // If the reader has closed the pipe, the exit code is enough.
    let _ = print(&text);
    Ok(DONE)
}

/// Takes a device away from a machine. Waits for the requests that its guest
/// has begun.
pub(super) fn remove(
    name: &Name,
    device: String,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let mut link = Link::to(&folder)?;
    let number = link.call(&Call::Remove { device })?;
    let Done {} = link.answer(number, None)?;
    Ok(DONE)
}
