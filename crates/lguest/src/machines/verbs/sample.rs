//! What machines have done so far, asked of all of them at once.
//!
//! A Launcher that is stopped or busy does not delay the answers of the others.

use crate::machines::error::MachineError;
use crate::machines::folder::{Folder, Place};
use crate::machines::link::Link;
use crate::machines::name::Name;
use crate::machines::protocol::{Call, Counts, State};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long all answers together are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// A machine at one moment.
pub(super) struct Sample {
    pub(super) name: Name,
    pub(super) state: Option<State>,
    /// `None` if its Launcher did not answer.
    pub(super) counts: Option<Counts>,
    pub(super) at: Instant,
}

/// Asks machines again and again, by connections that stay open.
#[derive(Default)]
pub(super) struct Sampler {
    links: BTreeMap<Name, Link>,
}

impl Sampler {
    /// All machines that run, by name.
    pub(super) fn all(&mut self) -> Result<Vec<Sample>, MachineError> {
        let folders = match Place::open()? {
            Some(place) => place.list()?,
            None => Vec::new(),
        };
        let runs = |folder: &Folder| folder.end().is_none();
        Ok(self.of(folders.into_iter().filter(runs).collect()))
    }

    /// These machines.
    pub(super) fn of(&mut self, folders: Vec<Folder>) -> Vec<Sample> {
        let mut links = BTreeMap::new();
        let mut asked = Vec::new();
        for folder in folders {
            let open = self.links.remove(&folder.name);
            let link = open.or_else(|| Link::to(&folder).ok());
            let call = link.and_then(|mut link| {
                let number = link.call(&Call::Stats {}).ok()?;
                Some((link, number))
            });
            asked.push((folder, call));
        }
        let deadline = Instant::now() + PATIENCE;
        let samples = asked.into_iter().map(|(folder, call)| {
            let counts = call.and_then(|(mut link, number)| {
                let counts = link.answer(number, Some(deadline)).ok()?;
                links.insert(folder.name.clone(), link);
                Some(counts)
            });
            Sample {
                state: folder.state(),
                name: folder.name,
                counts,
                at: Instant::now(),
            }
        });
        let samples = samples.collect();
        self.links = links;
        samples
    }
}
