//! A snapshot in its folder, opened and checked.
//!
//! A new Launcher goes on from it. Nothing that is read here is believed before
//! it was checked.

use super::folder::{MANIFEST, recover};
use super::manifest::{FORMAT, MOST, Manifest, Refused};
use super::pages::Pages;
use super::{Interface, Placed, SnapshotError, checksum, this_boot};
use crate::devices::RestoreError;
use crate::engine::{HOST_AT, Isolation, Piece, Resumed, clock, view_program};
use crate::machine::config::{DeviceConfig, DiskConfig, ShareConfig};
use crate::memory::GuestMemory;
use lg_abi::known::Known;
use lg_wire::moved::Moved;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The names of its images.
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
pub(super) const COPIES: &str = "copies";

/// The name of the checksum of its manifest.
pub(super) const SUM: &str = "manifest.sum";

/// A snapshot.
#[derive(Debug)]
pub struct Saved {
    folder: PathBuf,
    /// Its manifest, checked.
    pub manifest: Manifest,
    /// It was taken in this boot.
    same_boot: bool,
    memory: File,
    state: File,
    copies: File,
}

impl Saved {
    /// Opens the snapshot in `folder`, and checks its manifest.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        let missing = |error| SnapshotError::Missing {
            path: folder.into(),
            error,
        };
        recover(folder);
        let folder = std::fs::canonicalize(folder).map_err(missing)?;
        let text = read(&folder.join(MANIFEST)).map_err(missing)?;
        let damaged = |what: String| SnapshotError::Damaged {
            path: folder.clone(),
            what,
        };
        let sum = read(&folder.join(SUM))
            .map_err(|error| damaged(format!("{SUM}: {error}")))?;
        let manifest =
            Manifest::read(&text, &sum).map_err(|why| match why {
                Refused::Format(found) => SnapshotError::Format {
                    path: folder.clone(),
                    found,
                    known: FORMAT,
                },
                Refused::Damaged(what) => damaged(what),
            })?;
        let open = |name: &str, pages: &Pages| {
            let file = open_file(&folder.join(name));
            let file = file.map_err(|e| damaged(format!("{name}: {e}")))?;
            let bytes = file.metadata().map_or(0, |found| found.len());
            if bytes == pages.in_file() {
                return Ok(file);
            }
            let wanted = pages.in_file();
            let what = format!("{name} has {bytes} bytes instead of {wanted}");
            Err(damaged(what))
        };
        let boot = this_boot();
        let same_boot = !boot.is_empty() && manifest.machine.boot == boot;
        Ok(Self {
            same_boot,
            memory: open(MEMORY, &manifest.memory)?,
            state: open(STATE, &manifest.state)?,
            copies: open(COPIES, &manifest.copies)?,
            folder,
            manifest,
        })
    }

    /// Whether a Guest can go on from it with this program, on this machine,
    /// now.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::OtherBuild`], [`SnapshotError::OtherProcessor`].
    pub fn goes_on_here(&self) -> Result<(), SnapshotError> {
        let machine = &self.manifest.machine;
        let path = || self.folder.clone();
        if machine.view != checksum(view_program()) {
            let version = crate::engine::printable(machine.lguest.as_bytes());
            return Err(SnapshotError::OtherBuild {
                path: path(),
                version,
            });
        }
        if !self.same_boot && machine.processor != clock::processor() {
            return Err(SnapshotError::OtherProcessor { path: path() });
        }
        Ok(())
    }

    /// How the clocks of its Guest differ from those here.
    #[must_use]
    pub fn moved(&self) -> Moved {
        let machine = &self.manifest.machine;
        let khz = machine.engine.tsc_khz;
        machine.clocks.until_now(self.same_boot, khz)
    }

    /// Whether its Guest does not read the processor's time-stamp counter here.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        !self.same_boot || self.manifest.machine.clocks.moved
    }

    /// Its devices, for a machine that goes on: disks as of [`Self::disks`],
    /// interfaces that are connected to `networks`, in their order, and the
    /// folders `shares` for the shares with these tags.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn devices(
        &self,
        disks: Vec<DiskConfig>,
        networks: &[Option<DeviceConfig>],
        shares: &[ShareConfig],
    ) -> Result<Vec<DeviceConfig>, SnapshotError> {
        let known = self.interfaces().count();
        if networks.len() > known {
            return Err(SnapshotError::TooManyNetworks {
                path: self.folder.clone(),
                given: networks.len(),
                known,
            });
        }
        let machine = &self.manifest.machine;
        let has = |tag: &String| {
            let mut order = machine.order.iter();
            order.any(|d| matches!(d, Placed::Share(f) if f.tag == *tag))
        };
        if let Some(share) = shares.iter().find(|share| !has(&share.tag)) {
            return Err(SnapshotError::NoSuchShare {
                path: self.folder.clone(),
                tag: share.tag.clone(),
            });
        }
        let kernel = machine.interface().unwrap_or_default();
        let mut disks = disks.into_iter().map(DeviceConfig::Disk);
        let mut networks = networks.iter().zip(1..);
        let mut device = |placed: &Placed| match placed {
            // There are as many.
            Placed::Disk => Ok(disks.next()),
            Placed::Share(share) => {
                share.config(&self.folder, shares).map(Some)
            }
            Placed::Net(interface) => {
                let (given, number) = networks.next().unwrap_or((&None, 0));
                let given = given.as_ref();
                interface
                    .config(&self.folder, number, given, kernel)
                    .map(Some)
            }
        };
        let all = machine.order.iter().map(&mut device);
        all.filter_map(Result::transpose).collect()
    }

    /// Its device at this place among all but the console.
    #[must_use]
    pub fn placed(&self, index: usize) -> Option<&Placed> {
        self.manifest.machine.order.get(index)
    }

    /// The slot of a network that the device at this place has to have again: a
    /// Guest of 2007 knows its own.
    #[must_use]
    pub fn slot(&self, index: usize) -> Option<u32> {
        let machine = &self.manifest.machine;
        match self.placed(index)? {
            Placed::Net(net)
                if machine.interface() == Some(Known::Linux2_6_23) =>
            {
                net.slot
            }
            _ => None,
        }
    }

    /// Its network interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.manifest.machine.order.iter().filter_map(|d| match d {
            Placed::Net(interface) => Some(interface),
            Placed::Disk | Placed::Share(_) => None,
        })
    }

    /// Its disks, for a machine that goes on. The Guest may read the files
    /// `bases`, and what it writes goes to files in `changes`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub fn disks(
        &self,
        bases: &[PathBuf],
        changes: Option<&Path>,
    ) -> Result<Vec<DiskConfig>, SnapshotError> {
        let disks = self.manifest.disks.iter().enumerate();
        disks
            .map(|(n, disk)| disk.config(&self.folder, n, bases, changes))
            .collect()
    }

    /// The files that its disks need and that are not in it.
    pub fn outside(&self) -> impl Iterator<Item = &Path> {
        self.manifest.disks.iter().flat_map(|disk| disk.outside())
    }

    /// What protects the kernel of its Guest.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        match self.manifest.machine.user_processes {
            true => Isolation::User,
            false => Isolation::Guest,
        }
    }

    /// Fills `memory`, which is as large as that of its Guest.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`].
    pub fn fill(&mut self, memory: &GuestMemory) -> Result<(), SnapshotError> {
        let file = memory.file();
        let put = |at, bytes: &[u8]| {
            let mut done = 0;
            while done < bytes.len() {
                let rest = &bytes[done..];
                done += rustix::io::pwrite(file, rest, at + done as u64)?;
            }
            Ok(())
        };
        let pages = &self.manifest.memory;
        let filled = pages.unpack(&mut self.memory, put);
        filled.map_err(|error| self.damaged(MEMORY, &error))
    }

    /// What the engine goes on from.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`].
    pub fn resumed(&mut self) -> Result<Resumed, SnapshotError> {
        let state = pieces(&self.manifest.state, &mut self.state, HOST_AT);
        let host = state.map_err(|error| self.damaged(STATE, &error))?;
        let copies = pieces(&self.manifest.copies, &mut self.copies, 0);
        let copies = copies.map_err(|error| self.damaged(COPIES, &error))?;
        Ok(Resumed {
            state: self.manifest.machine.engine.clone(),
            host,
            copies,
        })
    }

    /// Reads all of it, and compares checksums.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`].
    pub fn check(&mut self) -> Result<(), SnapshotError> {
        let pages = &self.manifest.memory;
        let read = pages.unpack(&mut self.memory, |_, _| Ok(()));
        read.map_err(|error| self.damaged(MEMORY, &error))?;
        self.resumed().map(drop)
    }

    /// The error that its state does not fit.
    #[must_use]
    pub fn does_not_fit(&self, error: RestoreError) -> SnapshotError {
        SnapshotError::Restore {
            path: self.folder.clone(),
            error,
        }
    }

    fn damaged(&self, name: &str, error: &io::Error) -> SnapshotError {
        SnapshotError::Damaged {
            path: self.folder.clone(),
            what: format!("{name}: {error}"),
        }
    }
}

/// What is not zero in an image from `begin` on, with its places from there.
fn pieces(
    pages: &Pages,
    file: &mut File,
    begin: u64,
) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    pages.unpack(file, |at, bytes| {
        let before = begin.saturating_sub(at);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        if let Some(bytes @ [_, ..]) = bytes.get(before..) {
            pieces.push(Piece {
                at: at.saturating_sub(begin),
                bytes: bytes.to_vec(),
            });
        }
        Ok(())
    })?;
    Ok(pieces)
}

/// Opens a file of a snapshot, which may be anything else.
fn open_file(path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::other("it is no file")),
    }
}

/// The contents of a small file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_file(path)?.take(MOST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::other("it is too long"));
    }
    Ok(text)
}
