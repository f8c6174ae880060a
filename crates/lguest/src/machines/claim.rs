//! A machine's folder in the hands of its Launcher.
//!
//! All files are made before the Launcher is confined. Afterwards it only
//! writes to them.

use super::error::MachineError;
use super::folder::{CONSOLE, END, FACTS, Folder, Place, new_socket};
use super::name::Name;
use super::record::{End, Facts};
use crate::devices::console::backlog::now;
use crate::lock::lock;
use rustix::fs::Mode;
use rustix::net::{SocketAddrUnix, bind, listen};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// The folder of a machine that starts. If it does not start, the folder is
/// removed.
pub struct Claim {
    place: Place,
    folder: Folder,
    /// Locked as long as it is open, by whatever process.
    _lock: File,
    facts: File,
    started: bool,
}

/// What a Launcher uses of its folder while the machine runs.
pub struct Files {
    /// The last output.
    pub console: File,
    /// The socket, on which it listens.
    pub listener: OwnedFd,
    /// Where the end is written.
    pub record: Arc<Record>,
}

impl Claim {
    /// Makes the folder of a new machine. With `replace`, it takes the place of
    /// one that has ended.
    ///
    /// # Errors
    ///
    /// The name is taken, or the folder cannot be made.
    pub fn make(
        name: &Name,
        replace: bool,
    ) -> Result<(Self, Files), MachineError> {
        let (place, folder, lock) = Place::claim(name, replace)?;
        let facts = folder.create(FACTS)?;
        let claim = Self {
            place,
            folder,
            _lock: lock,
            facts,
            started: false,
        };
        let console = claim.folder.create(CONSOLE)?;
        let end = claim.folder.create(END)?;
        let listener = claim.listen()?;
        let record = Arc::new(Record(Mutex::new(Some(end))));
        let files = Files {
            console,
            listener,
            record,
        };
        Ok((claim, files))
    }

    fn listen(&self) -> Result<OwnedFd, MachineError> {
        let path = self.folder.socket()?;
        let listen = || {
            let socket = new_socket()?;
            // The mode that the socket is going to have in the folder.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            bind(&socket, &SocketAddrUnix::new(&path)?)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        listen().map_err(|error: rustix::io::Errno| MachineError::File {
            name: self.folder.name.clone(),
            doing: "make its socket",
            error: error.into(),
        })
    }

    /// The machine starts: from now on its folder stays.
    ///
    /// # Errors
    ///
    /// The facts cannot be written.
    pub fn start(&mut self, facts: &Facts) -> io::Result<()> {
        let text = serde_json::to_vec(facts)?;
        self.facts.write_all(&text)?;
        self.started = true;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.started {
            // A confined Launcher may not remove files. Then the next command
            // removes them.
            let _ = self.place.forget(&self.folder);
        }
    }
}

/// Where the end of a machine is written, once.
#[derive(Debug)]
pub struct Record(Mutex<Option<File>>);

impl Record {
    /// Writes that the machine has ended. Only the first call has an effect.
    /// Returns what was written.
    pub fn write(&self, exit_code: u8, reason: &str) -> Option<End> {
        let mut file = lock(&self.0).take()?;
        let end = End {
            exit_code,
            reason: reason.into(),
            at: now(),
        };
        // If the file system is full, the end is that of a Launcher that was
        // killed.
        let text = serde_json::to_vec(&end).unwrap_or_default();
        let _ = file.write_all(&text);
        Some(end)
    }
}
