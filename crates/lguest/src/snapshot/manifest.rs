//! The manifest of a snapshot: everything but bytes of memory and disks.
//!
//! It is JSON in the file `manifest.json`. The file `manifest.sum` has its
//! checksum in hexadecimal digits.

use super::disks::SavedDisk;
use super::pages::{PAGE, Pages};
use super::{DiskPlace, Placed, checksum};
use crate::engine::{EngineState, clock};
use crate::machines::settings::Settings;
use crate::memory::MAX_RAM;
use crate::transport::TransportState;
use lg_abi::known::Known;
use lg_wire::moved::{Moment, Moved};
use lg_wire::state::{COPIES_SIZE, STATE_SIZE};
use serde::{Deserialize, Serialize};

/// The format of the folder that this program writes, and the only one that it
/// reads.
pub const FORMAT: u32 = 3;

/// The most bytes of a manifest.
pub const MOST: u64 = 32 << 20;

/// The most pages above RAM: a bus has few devices.
const ABOVE_RAM: u32 = 1 << 10;

/// The most disks.
const DISKS: usize = 64;

/// The most devices.
const DEVICES: usize = 64;

/// What the Launcher tells of a machine that stands still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Still {
    /// The version of lguest.
    pub lguest: String,
    /// The checksum of its view program.
    pub view: u64,
    /// The boot of the machine it runs on.
    pub boot: String,
    /// The processor of that machine.
    pub processor: String,
    /// When it stood still.
    pub clocks: Clocks,
    /// What the machine was started with.
    pub settings: Settings,
    /// Whether its Guest is the built-in one.
    pub built_in: bool,
    /// Bytes of RAM.
    pub ram: u32,
    /// Bytes of its whole memory.
    pub limit: u32,
    /// The number of its interface.
    pub interface: u32,
    /// Whether user code runs in processes of its own.
    pub user_processes: bool,
    /// Fast paths that are switched off.
    pub slow_paths: u32,
    /// Its devices, in their order.
    pub order: Vec<Placed>,
    /// Its disks, in their order.
    pub disks: Vec<DiskPlace>,
    /// What the engine knows.
    pub engine: EngineState,
    /// The states of all devices.
    pub devices: TransportState,
}

/// When a Guest stood still, by all clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Clocks {
    /// The Guest's time-stamp counter.
    pub counter: u64,
    /// Whether it was not that of the processor.
    pub moved: bool,
    /// Nanoseconds on the monotonic clock of that boot.
    pub monotonic: u64,
    /// Nanoseconds since 1970.
    pub wall: u64,
}

impl Clocks {
    /// Now, for a Guest whose clocks are `moved`.
    #[must_use]
    pub fn now(moved: &Moved) -> Self {
        let now = clock::moment();
        let told = moved.tsc_khz != 0;
        Self {
            counter: match told {
                true => moved.counter_at(now.monotonic),
                false => now.counter,
            },
            moved: told,
            monotonic: now.monotonic,
            wall: now.wall,
        }
    }

    /// How the clocks of a Guest that stood still then differ from those here,
    /// where the boot is the same one, or another.
    #[must_use]
    pub fn until_now(&self, same_boot: bool, tsc_khz: u32) -> Moved {
        if same_boot && !self.moved {
            return Moved::default();
        }
        let then = Moment {
            counter: self.counter,
            monotonic: self.monotonic,
            wall: self.wall,
        };
        // A Guest without a frequency does not use it as a clock.
        let khz = if tsc_khz == 0 { 1_000_000 } else { tsc_khz };
        Moved::between(then, clock::moment(), !same_boot, khz.into())
    }
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// The format: [`FORMAT`].
    pub format: u32,
    /// When it was taken, in milliseconds since 1970.
    pub taken: u64,
    /// What the Launcher has told.
    pub machine: Still,
    /// Where the disks are.
    pub disks: Vec<SavedDisk>,
    /// The Guest's memory.
    pub memory: Pages,
    /// The state that views share.
    pub state: Pages,
    /// The patched copies.
    pub copies: Pages,
}

/// Why a manifest is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has this format.
    Format(u32),
    /// This is wrong with it.
    Damaged(String),
}

impl Refused {
    fn damaged(what: impl ToString) -> Self {
        // It may contain what a stranger has written.
        let what = what.to_string();
        Self::Damaged(crate::engine::printable(what.as_bytes()))
    }
}

/// The number of the format, which stays in its place in all of them.
#[derive(Deserialize)]
struct OnlyFormat {
    format: u32,
}

impl Manifest {
    /// Reads a manifest from `text`, whose checksum file has `sum`, and checks
    /// all of it.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn read(text: &[u8], sum: &[u8]) -> Result<Self, Refused> {
        if let Ok(OnlyFormat { format }) = serde_json::from_slice(text)
            && format != FORMAT
        {
            return Err(Refused::Format(format));
        }
        if sum.trim_ascii() != sum_of(text).as_bytes() {
            let what = "the checksum of its manifest is wrong";
            return Err(Refused::damaged(what));
        }
        let manifest: Self =
            serde_json::from_slice(text).map_err(Refused::damaged)?;
        match manifest.wrong() {
            Some(what) => Err(Refused::damaged(what)),
            None => Ok(manifest),
        }
    }

    /// The manifest as text, and its checksum.
    #[must_use]
    pub fn write(&self) -> (Vec<u8>, String) {
        // There is nothing in it that JSON cannot say.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let sum = sum_of(&text);
        (text, sum + "\n")
    }

    /// What is wrong with it, if it was made up.
    fn wrong(&self) -> Option<&'static str> {
        let machine = &self.machine;
        let Still { ram, limit, .. } = *machine;
        let page = lg_abi::page::PAGE_SIZE;
        let sizes = ram > 0
            && ram.is_multiple_of(page)
            && ram <= MAX_RAM
            && limit.is_multiple_of(page)
            && (ram..=ram.saturating_add(ABOVE_RAM * page)).contains(&limit);
        if !sizes {
            return Some("its sizes of memory cannot be");
        }
        if machine.interface().is_none() {
            return Some("there is no such interface");
        }
        if !machine.engine.is_possible(limit) {
            return Some("what its guest has bound cannot be");
        }
        if self.disks.len() > DISKS || self.disks.len() != machine.disks.len() {
            return Some("its number of disks is wrong");
        }
        if !self.disks.iter().all(SavedDisk::is_possible) {
            return Some("its disks cannot be");
        }
        let order = &machine.order;
        let disks = order.iter().filter(|device| **device == Placed::Disk);
        if order.len() > DEVICES || disks.count() != self.disks.len() {
            return Some("its number of devices is wrong");
        }
        let possible = |device: &Placed| match device {
            Placed::Disk => true,
            Placed::Net(interface) => interface.is_possible(),
            Placed::Share(folder) => folder.is_possible(),
        };
        if !order.iter().all(possible) {
            return Some("its devices cannot be");
        }
        let images = [
            (&self.memory, u64::from(limit)),
            (&self.state, STATE_SIZE as u64),
            (&self.copies, COPIES_SIZE as u64),
        ];
        let good = images.iter().all(|(pages, bytes)| pages.is_of(*bytes));
        (!good).then_some("its lists of pages cannot be")
    }
}

impl Still {
    /// The Guest's interface, if there is such a one.
    #[must_use]
    pub fn interface(&self) -> Option<Known> {
        const ALL: [Known; 8] = [
            Known::Linux2_6_23,
            Known::Linux3_1,
            Known::Linux2_6_25,
            Known::Linux2_6_30,
            Known::Linux2_6_31,
            Known::Linux2_6_24,
            Known::Linux4_0,
            Known::Linux4_1,
        ];
        let number = self.interface;
        ALL.into_iter().find(|known| *known as u32 == number)
    }

    /// Pages above RAM.
    #[must_use]
    pub fn pages_above_ram(&self) -> u32 {
        (self.limit - self.ram) / lg_abi::page::PAGE_SIZE
    }
}

/// The checksum of a manifest as digits.
fn sum_of(text: &[u8]) -> String {
    format!("{:016x}", checksum(text))
}

const _: () = assert!(
    STATE_SIZE.is_multiple_of(PAGE) && COPIES_SIZE.is_multiple_of(PAGE)
);
