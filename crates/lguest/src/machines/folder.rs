//! The folder of a machine, and the place where such folders are.
//!
//! The place is `lguest` below `$XDG_RUNTIME_DIR`, or below `/run/user/UID`
//! where that variable is not set, or `/tmp/lguest-UID` where that does not
//! exist either. A folder has these files:
//!
//! - `lock`: the Launcher has locked it. The lock ends with the Launcher;
//! - `control`: the socket;
//! - `facts`: [`Facts`]. Empty until the machine runs;
//! - `console`: its last output ([`Output`]);
//! - `end`: [`End`]. Empty until the machine has ended.
//!
//! A Launcher that was killed leaves its folder as it is. The next command that
//! finds such a folder writes the end, or removes a folder without facts.

use super::error::MachineError;
use super::name::Name;
use super::protocol::State;
use super::record::{End, Facts};
use crate::devices::console::backlog::{Output, now, state_in};
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, fstat, major, minor, mkdirat,
    openat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that a Launcher locks.
const LOCK: &str = "lock";
/// The socket.
pub(super) const CONTROL: &str = "control";
/// The file of [`Facts`].
pub(super) const FACTS: &str = "facts";
/// The file of [`Output`].
pub(super) const CONSOLE: &str = "console";
/// The file of [`End`].
pub(super) const END: &str = "end";

/// All of them.
const FILES: [&str; 5] = [CONTROL, FACTS, CONSOLE, END, LOCK];

/// The most that is read of a file: far more than any has.
const MOST: u64 = 1 << 20;

/// The longest path of a socket.
const SOCKET_PATH_MOST: usize = 107;

/// How long a lock of another command is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// Only the owner.
const OWNER: Mode = Mode::RWXU;

/// The place where the folders are.
pub struct Place {
    path: PathBuf,
    dir: OwnedFd,
}

/// Where the place is.
fn path() -> PathBuf {
    if let Some(set) = std::env::var_os("XDG_RUNTIME_DIR")
        && !set.is_empty()
    {
        return PathBuf::from(set).join("lguest");
    }
    let user = rustix::process::geteuid().as_raw();
    let usual = PathBuf::from(format!("/run/user/{user}"));
    if usual.is_dir() {
        return usual.join("lguest");
    }
    PathBuf::from(format!("/tmp/lguest-{user}"))
}

/// Opens a folder, if it exists and is ours alone.
fn open_dir(
    at: impl std::os::fd::AsFd,
    name: &Path,
    path: &Path,
) -> Result<Option<OwnedFd>, MachineError> {
    let failed = |error: Errno| MachineError::Place {
        path: path.into(),
        error: error.into(),
    };
    let wrong = |why| MachineError::NotOurs {
        path: path.into(),
        why,
    };
    let flags =
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = match openat(at, name, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(wrong("it is no folder"));
        }
        Err(error) => return Err(failed(error)),
    };
    let stat = fstat(&dir).map_err(failed)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(wrong("it belongs to another user"));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(wrong("other users may enter it"));
    }
    Ok(Some(dir))
}

impl Place {
    /// Opens the place; `None` if there is none, so no machine either.
    ///
    /// # Errors
    ///
    /// [`MachineError::NotOurs`], [`MachineError::Place`].
    pub fn open() -> Result<Option<Self>, MachineError> {
        let path = path();
        let dir = open_dir(rustix::fs::CWD, &path, &path)?;
        Ok(dir.map(|dir| Self { path, dir }))
    }

    /// Opens the place at `path`, and makes it if there is none.
    fn make(path: PathBuf) -> Result<Self, MachineError> {
        let failed = |error: Errno| MachineError::Place {
            path: path.clone(),
            error: error.into(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match mkdirat(rustix::fs::CWD, &path, OWNER) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            match open_dir(rustix::fs::CWD, &path, &path)? {
                Some(dir) => return Ok(Self { path, dir }),
                None if Instant::now() > deadline => {
                    return Err(failed(Errno::NOENT));
                }
                // Another command has removed it, because it was empty.
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The folder of a machine, if there is one.
    fn folder(&self, name: &Name) -> Result<Option<Folder>, MachineError> {
        let path = self.path.join(name.as_str());
        let dir = open_dir(&self.dir, Path::new(name.as_str()), &path)?;
        Ok(dir.map(|dir| Folder {
            name: name.clone(),
            path,
            dir,
        }))
    }

    /// The machine with this name: one that runs, or has ended.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoSuch`], and errors of the folder.
    pub fn find(&self, name: &Name) -> Result<Folder, MachineError> {
        let none = || MachineError::NoSuch(name.clone());
        let folder = self.folder(name)?.ok_or_else(none)?;
        if folder.settle(&self.dir)? {
            Ok(folder)
        } else {
            Err(none())
        }
    }

    /// All machines, sorted by name.
    ///
    /// # Errors
    ///
    /// The place cannot be listed.
    pub fn list(&self) -> Result<Vec<Folder>, MachineError> {
        let failed = |error: Errno| MachineError::Place {
            path: self.path.clone(),
            error: error.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().ok();
            names.extend(name.and_then(|name| name.parse::<Name>().ok()));
        }
        names.sort();
        let mut folders = Vec::new();
        for name in names {
            // One that is not ours, or is being removed, hides no other.
            if let Ok(Some(folder)) = self.folder(&name)
                && let Ok(true) = folder.settle(&self.dir)
            {
                folders.push(folder);
            }
        }
        Ok(folders)
    }

    /// Makes the folder of a new machine, and locks it. Makes the place, too,
    /// if there is none. With `replace`, a machine of that name that has ended
    /// is removed first.
    ///
    /// # Errors
    ///
    /// [`MachineError::NotOurs`], [`MachineError::Place`],
    /// [`MachineError::NameTaken`], [`MachineError::Ended`], and errors of the
    /// folder.
    pub(super) fn claim(
        name: &Name,
        replace: bool,
    ) -> Result<(Self, Folder, File), MachineError> {
        let mut place = Self::make(path())?;
        let (folder, lock) = place.claim_folder(name, replace)?;
        Ok((place, folder, lock))
    }

    fn claim_folder(
        &mut self,
        name: &Name,
        replace: bool,
    ) -> Result<(Folder, File), MachineError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match mkdirat(&self.dir, name.as_str(), OWNER) {
                Ok(()) | Err(Errno::EXIST) => {}
                // Another command has removed the place, because it was empty.
                Err(Errno::NOENT) if Instant::now() <= deadline => {
                    *self = Self::make(self.path.clone())?;
                    continue;
                }
                Err(error) => {
                    return Err(MachineError::Place {
                        path: self.path.join(name.as_str()),
                        error: error.into(),
                    });
                }
            }
            let Some(folder) = self.folder(name)? else {
                continue;
            };
            if let Some(lock) = folder.try_lock()? {
                if replace || folder.facts().is_none() {
                    folder.empty()?;
                    return Ok((folder, lock));
                }
                drop(lock);
                folder.settle(&self.dir)?;
                if let Some(ended) = folder.ended() {
                    return Err(ended);
                }
            } else if Instant::now() > deadline
                || (folder.connect().is_ok() && folder.end().is_none())
            {
                return Err(MachineError::NameTaken(name.clone()));
            }
            // Another command cleans the folder, or a Launcher has locked it
            // and does not listen yet, or its machine has just ended.
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes a machine that has ended. Waits a little for the end of its
    /// Launcher.
    ///
    /// # Errors
    ///
    /// [`MachineError::Runs`], and errors of the folder.
    pub fn remove(&self, folder: &Folder) -> Result<(), MachineError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = folder.try_lock()? {
                folder.remove_from(&self.dir)?;
                drop(lock);
                return Ok(());
            }
            if folder.end().is_none() || Instant::now() > deadline {
                return Err(MachineError::Runs(folder.name.clone()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes the folder of a machine that has not started, and that this
    /// process has locked.
    ///
    /// # Errors
    ///
    /// The folder cannot be removed.
    pub(super) fn forget(&self, folder: &Folder) -> Result<(), MachineError> {
        folder.remove_from(&self.dir)
    }

    /// Removes the place if it is empty.
    pub fn remove_if_empty(&self) {
        // It fails where another machine is.
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// A socket of a machine or of a client. It does not block.
pub(super) fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// The folder of a machine.
pub struct Folder {
    /// Its name.
    pub name: Name,
    path: PathBuf,
    dir: OwnedFd,
}

impl Folder {
    fn failed(
        &self,
        doing: &'static str,
    ) -> impl Fn(io::Error) -> MachineError {
        let name = self.name.clone();
        move |error| MachineError::File {
            name: name.clone(),
            doing,
            error,
        }
    }

    /// Opens one of its files.
    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags =
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(openat(&self.dir, name, flags, mode)?.into())
    }

    /// Makes one of its files.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn create(&self, name: &str) -> Result<File, MachineError> {
        self.open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(self.failed("make its files"))
    }

    /// The path of its socket.
    ///
    /// # Errors
    ///
    /// [`MachineError::TooLong`].
    pub(super) fn socket(&self) -> Result<PathBuf, MachineError> {
        let path = self.path.join(CONTROL);
        if path.as_os_str().as_bytes().len() > SOCKET_PATH_MOST {
            return Err(MachineError::TooLong(path));
        }
        Ok(path)
    }

    /// Connects to its socket. An error means that no Launcher is there, or
    /// that it takes no clients now. Nothing blocks, now or later.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let socket = new_socket()?;
        let path = self.path.join(CONTROL);
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut text = Vec::new();
        let file = self.open(name, OFlags::RDONLY).ok()?;
        file.take(MOST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What is known of the machine, if it has run.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        self.read(FACTS)
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.read(END)
    }

    /// The error that it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<MachineError> {
        let end = self.end()?;
        Some(MachineError::Ended(self.name.clone(), end.reason))
    }

    /// Its state, as its Launcher has written it last.
    pub(super) fn state(&self) -> Option<State> {
        let file = self.open(CONSOLE, OFlags::RDONLY).ok()?;
        State::of_byte(state_in(&file)?)
    }

    /// Its last output.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn output(&self) -> Result<Output, MachineError> {
        let file = self.open(CONSOLE, OFlags::RDONLY);
        file.and_then(|file| Output::read_from(&file))
            .map_err(self.failed("read its last output"))
    }

    /// Locks the folder, unless a Launcher or another command has locked it, or
    /// it has been removed.
    fn try_lock(&self) -> Result<Option<File>, MachineError> {
        let failed = self.failed("lock its folder");
        let flags = OFlags::RDWR | OFlags::CREATE;
        let lock = match self.open(LOCK, flags) {
            Ok(lock) => lock,
            // The folder has been removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let wanted = FlockOperation::NonBlockingLockExclusive;
        match rustix::fs::flock(&lock, wanted) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        }
        // Another command may have removed the file since it was opened.
        let there =
            rustix::fs::statat(&self.dir, LOCK, AtFlags::SYMLINK_NOFOLLOW);
        let ours = fstat(&lock).map_err(|error| failed(error.into()))?;
        let same = there.is_ok_and(|there| {
            (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        });
        Ok(same.then_some(lock))
    }

    /// The process that has locked the folder, if the kernel says which.
    pub(super) fn launcher(&self) -> Option<u32> {
        let lock = self.open(LOCK, OFlags::RDONLY).ok()?;
        let stat = fstat(&lock).ok()?;
        let (major, minor) = (major(stat.st_dev), minor(stat.st_dev));
        let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
        // A file in the folder would say what the Launcher wants.
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let words: [_; 5] = std::array::from_fn(|_| words.next());
            let [Some("FLOCK"), Some(_), Some("WRITE"), Some(pid), at] = words
            else {
                return None;
            };
            pid.parse().ok().filter(|_| at == Some(&file))
        })
    }

    /// Looks whether there is a process behind the folder. If not, writes how
    /// the machine has ended, or removes the folder of a machine that has never
    /// run. Returns whether there is such a machine.
    fn settle(&self, place: &OwnedFd) -> Result<bool, MachineError> {
        let Some(lock) = self.try_lock()? else {
            return Ok(true);
        };
        if self.facts().is_none() {
            self.remove_from(place)?;
            return Ok(false);
        }
        // The socket of a Launcher that has ended.
        let _ = unlinkat(&self.dir, CONTROL, AtFlags::empty());
        if self.end().is_none() {
            let end = End {
                exit_code: crate::cli::exit::Outcome::Failed.code(),
                reason: "its launcher was killed".into(),
                at: now(),
            };
            let text = serde_json::to_vec(&end).unwrap_or_default();
            self.open(END, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
                .and_then(|mut file| file.write_all(&text))
                .map_err(self.failed("write its end"))?;
        }
        drop(lock);
        Ok(true)
    }

    /// Removes all files but the lock.
    fn empty(&self) -> Result<(), MachineError> {
        for file in FILES.iter().filter(|&&file| file != LOCK) {
            match unlinkat(&self.dir, *file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    return Err(self.failed("remove its files")(error.into()));
                }
            }
        }
        Ok(())
    }

    /// Removes the folder from `place`. It must be locked.
    fn remove_from(&self, place: &OwnedFd) -> Result<(), MachineError> {
        self.empty()?;
        let failed = self.failed("remove its folder");
        match unlinkat(&self.dir, LOCK, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error.into())),
        }
        match unlinkat(place, self.name.as_str(), AtFlags::REMOVEDIR) {
            // Another command has made it anew meanwhile.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command removes the place when it has removed the last machine. That
    /// may happen between two calls of a start.
    #[test]
    fn a_place_that_is_removed_meanwhile_is_made_again() {
        let name = format!("lguest-place-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut place = Place::make(path.clone()).unwrap();
        place.remove_if_empty();
        assert!(!path.exists());
        let (folder, _lock) =
            place.claim_folder(&"web".parse().unwrap(), false).unwrap();
        assert!(path.join("web/lock").exists());
        place.forget(&folder).unwrap();
        place.remove_if_empty();
        assert!(!path.exists());
    }
    /// A machine has ended, and its Launcher still listens for a moment.
    #[test]
    fn a_name_is_waited_for_while_the_launcher_of_an_ended_machine_leaves() {
        let name = format!("lguest-leaving-{}", std::process::id());
        let mut place = Place::make(std::env::temp_dir().join(name)).unwrap();
        let name = "web".parse().unwrap();
        let (folder, lock) = place.claim_folder(&name, false).unwrap();
        let control = folder.path.join(CONTROL);
        let listener = std::os::unix::net::UnixListener::bind(control).unwrap();
        let taken = place.claim_folder(&name, false);
        assert!(matches!(taken, Err(MachineError::NameTaken(_))));
        let end = r#"{"exit_code": 0, "reason": "it powered off", "at": 0}"#;
        std::fs::write(folder.path.join(END), end).unwrap();
        let leaves = std::thread::spawn(move || {
            // The claim that follows connects while it looks.
            listener.accept().unwrap();
            listener.accept().unwrap();
            drop((listener, lock));
        });
        let (folder, _lock) = place.claim_folder(&name, false).unwrap();
        leaves.join().unwrap();
        place.forget(&folder).unwrap();
        place.remove_if_empty();
    }
}
