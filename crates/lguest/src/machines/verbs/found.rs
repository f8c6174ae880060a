//! Finds a machine by its name, and asks it something.
//!
//! The commands share this.

use crate::cli::exit::Outcome;
use crate::machines::error::MachineError;
use crate::machines::folder::{Folder, Place};
use crate::machines::link::Link;
use crate::machines::name::Name;
use crate::machines::protocol::{Call, Done};

/// All went well.
pub(super) const DONE: Outcome = Outcome::PoweredOff(0);

/// The folder of a machine, and where it is.
pub(crate) fn find(name: &Name) -> Result<(Place, Folder), MachineError> {
    let place = Place::open()?;
    let place = place.ok_or_else(|| MachineError::NoSuch(name.clone()))?;
    let folder = place.find(name)?;
    Ok((place, folder))
}

/// Makes a call that has no answer of interest.
pub(super) fn ask(name: &Name, call: &Call) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let Done {} = Link::to(&folder)?.ask(call)?;
    Ok(DONE)
}
