//! The file behind a LAN, and the slots in its page.
//!
//! A slot belongs to the Launcher that holds a write lock on the byte at the
//! slot's number, as in the original. The kernel drops the lock when the
//! Launcher ends, however it ends, so a slot cannot be lost. The lock belongs
//! to one opening of the file, which is never handed to another process. The
//! Guest's processes get a second opening; with the first, they could keep the
//! slot of a dead Launcher.
//!
//! A killed Launcher leaves its Guest's Ethernet address behind. The next
//! Launcher that takes the slot clears it, and so does a peer that sees the
//! end of the connection.

#![expect(unsafe_code, reason = "file locks by fcntl")]

use lg_abi::device::{NET_SLOTS, Net};
use lg_abi::page::PAGE_SIZE;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that cannot be a LAN's. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// There is no such file.
    #[error("it does not exist: make it with `truncate -s {PAGE_SIZE} {0}`")]
    Missing(String),
    /// It is a directory, a device or the like.
    #[error(
        "it is not a regular file: name one that `truncate -s {PAGE_SIZE}` \
         has made"
    )]
    NotRegular,
    /// It is shorter than the page.
    #[error(
        "it has {1} bytes, and a network needs {PAGE_SIZE}: \
         `truncate -s {PAGE_SIZE} {0}`"
    )]
    TooShort(String, u64),
    /// This user may not read and write it.
    #[error(
        "it cannot be opened for reading and writing ({0}): name a file \
         that you may write"
    )]
    Open(#[source] io::Error),
    /// It was replaced while it was opened.
    #[error("it was replaced while it was opened: try again")]
    Replaced,
    /// Files there cannot be locked.
    #[error(
        "it cannot be locked ({0}): put it on a file system that has locks, \
         such as /tmp or $XDG_RUNTIME_DIR"
    )]
    Lock(#[source] io::Error),
    /// A process that can only read it has locked it.
    #[error(
        "a program that is not lguest and may only read it has locked it: end \
         that program (`lslocks` names it), and `chmod go= {0}` keeps other \
         users from doing so again"
    )]
    Locked(String),
    /// Every slot is taken.
    #[error("all its {NET_SLOTS} places are taken: name another file")]
    Full,
    /// The slot of a Guest that goes on is taken.
    #[error(
        "its place {0} is taken, and the guest of the snapshot knows that \
         place as its own: end the machine that has it, or name another file"
    )]
    Taken(u32),
}

/// The file, and our slot in it.
#[derive(Debug)]
pub(super) struct Slots {
    /// Where it is, symbolic links resolved.
    path: PathBuf,
    /// The opening that owns the lock. Never handed out.
    lock: File,
    /// Another opening, for processes that map the page.
    page: File,
    mine: u32,
}

impl Slots {
    /// Takes the first free slot of the LAN in the file at `path`, or the slot
    /// `wanted`, and clears the address there. Does not wait.
    pub(super) fn claim(
        path: &Path,
        wanted: Option<u32>,
    ) -> Result<Self, SlotsError> {
        let name = || path.display().to_string();
        let real = path.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => SlotsError::Missing(name()),
            _ => SlotsError::Open(e),
        })?;
        // This is checked before it is opened, because opening a device can
        // have effects.
        match real.metadata() {
            Err(e) => return Err(SlotsError::Open(e)),
            Ok(m) if !m.is_file() => {
                return Err(SlotsError::NotRegular);
            }
            Ok(m) if m.len() < u64::from(PAGE_SIZE) => {
                return Err(SlotsError::TooShort(name(), m.len()));
            }
            Ok(_) => {}
        }
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&real)
                .map_err(SlotsError::Open)
        };
        let (lock, page) = (open()?, open()?);
        let id = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
        match (id(&lock), id(&page)) {
            (Ok(a), Ok(b)) if a == b => {}
            _ => return Err(SlotsError::Replaced),
        }
        let among = match wanted {
            Some(slot) if slot < NET_SLOTS => slot..slot + 1,
            Some(slot) => return Err(SlotsError::Taken(slot)),
            None => 0..NET_SLOTS,
        };
        for mine in among {
            match take(&lock, mine) {
                Ok(false) => {}
                Err(e) => return Err(SlotsError::Lock(e)),
                Ok(true) => {
                    let slots = Self {
                        path: real,
                        lock,
                        page,
                        mine,
                    };
                    slots.clear(mine);
                    return Ok(slots);
                }
            }
        }
        if let Some(slot) = wanted {
            return Err(SlotsError::Taken(slot));
        }
        // A Launcher takes a write lock. A process that may only read cannot.
        let read_locked = |slot| {
            let kind = conflict(&lock, slot, slot + 1).map(|lock| lock.l_type);
            kind.is_ok_and(|kind| i32::from(kind) == libc::F_RDLCK)
        };
        match (0..NET_SLOTS).any(read_locked) {
            true => Err(SlotsError::Locked(name())),
            false => Err(SlotsError::Full),
        }
    }

    /// Our slot.
    pub(super) fn mine(&self) -> u32 {
        self.mine
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for processes that map its first page.
    pub(super) fn page(&self) -> BorrowedFd<'_> {
        self.page.as_fd()
    }

    /// The identity of this file: its device and inode.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        self.lock.metadata().map(|m| (m.dev(), m.ino()))
    }

    /// The slots that other Launchers hold.
    pub(super) fn held(&self) -> io::Result<Vec<u32>> {
        // The kernel names one holder in a range, not always the first one.
        let mut found = Vec::new();
        let mut ranges = vec![(0, NET_SLOTS)];
        while let Some((low, high)) = ranges.pop() {
            if low >= high {
                continue;
            }
            if let Some(slot) = holder(&self.lock, low, high)? {
                let slot = slot.clamp(low, high - 1);
                found.push(slot);
                ranges.push((low, slot));
                ranges.push((slot + 1, high));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Cleans up after the Launcher that had `slot`, unless the slot is held:
    /// clears the address, and calls `more`. Returns whether it was free.
    pub(super) fn reap(
        &self,
        slot: u32,
        more: impl FnOnce(),
    ) -> io::Result<bool> {
        // The slot is held meanwhile, so that the address of a new Launcher is
        // not cleared: a new Launcher takes the next slot instead.
        if slot == self.mine || slot >= NET_SLOTS || !take(&self.lock, slot)? {
            return Ok(false);
        }
        self.clear(slot);
        more();
        set(&self.lock, libc::F_UNLCK, slot)?;
        Ok(true)
    }

    /// Whether there is an address in `slot`.
    pub(super) fn in_use(&self, slot: u32) -> bool {
        let mut mac = Net::default().mac;
        let at = u64::from(slot) * mac.len() as u64;
        let read = self.page.read_exact_at(&mut mac, at);
        read.is_ok() && mac != Net::default().mac
    }

    /// Whether the file has lost the page that all Launchers have mapped.
    pub(super) fn is_cut(&self) -> bool {
        let len = self.page.metadata().map(|m| m.len());
        len.is_ok_and(|len| len < u64::from(PAGE_SIZE))
    }

    /// The addresses in all slots. None are in use if the file was truncated.
    pub(super) fn addresses(&self) -> Vec<Net> {
        const EACH: usize = size_of::<Net>();
        let mut bytes = [0; NET_SLOTS as usize * EACH];
        if self.page.read_exact_at(&mut bytes, 0).is_err() {
            return Vec::new();
        }
        let (addresses, _) = bytes.as_chunks::<EACH>();
        addresses.iter().map(|&mac| Net { mac }).collect()
    }

    /// The address in our slot, which our Guest has written.
    pub(super) fn address(&self) -> Net {
        let all = self.addresses();
        all.get(self.mine as usize).copied().unwrap_or_default()
    }

    /// Writes our address.
    pub(super) fn set_address(&self, address: Net) {
        self.put(self.mine, address.mac);
    }

    /// Zeroes the address in `slot`.
    pub(super) fn clear(&self, slot: u32) {
        self.put(slot, Net::default().mac);
    }

    fn put(&self, slot: u32, mac: [u8; 6]) {
        let at = u64::from(slot) * mac.len() as u64;
        // By write, not through the mapping: if the file was truncated, this is
        // an error, and an access to the mapping would be a SIGBUS. An address
        // that stays does no harm.
        let _ = self.page.write_all_at(&mac, at);
    }
}

impl Drop for Slots {
    /// Closing the file is not enough: a child process that is being started
    /// has a copy of the file until it runs its program.
    fn drop(&mut self) {
        let _ = set(&self.lock, libc::F_UNLCK, self.mine);
    }
}

/// Takes the lock of `slot`, if it is free.
fn take(file: &File, slot: u32) -> io::Result<bool> {
    match set(file, libc::F_WRLCK, slot) {
        Ok(()) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(e),
        },
    }
}

/// Sets or drops the lock of `slot`. This opening of the file owns the lock,
/// and traditional locks conflict with it.
fn set(file: &File, kind: libc::c_int, slot: u32) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut range(kind, slot, slot + 1))
}

/// A slot in `low..high` that another Launcher holds.
fn holder(file: &File, low: u32, high: u32) -> io::Result<Option<u32>> {
    let lock = conflict(file, low, high)?;
    let free = libc::c_int::from(lock.l_type) == libc::F_UNLCK;
    Ok((!free).then(|| u32::try_from(lock.l_start).unwrap_or(u32::MAX)))
}

/// A lock in `low..high` that conflicts with ours; of the kind F_UNLCK if there
/// is none.
fn conflict(file: &File, low: u32, high: u32) -> io::Result<libc::flock> {
    let mut lock = range(libc::F_WRLCK, low, high);
    control(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(lock)
}

/// The argument of fcntl: a lock of `kind` on the bytes `low..high`.
fn range(kind: libc::c_int, low: u32, high: u32) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("F_*LCK are small"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("small"),
        l_start: low.into(),
        l_len: (high - low).into(),
        l_pid: 0,
    }
}

fn control(
    file: &File,
    what: libc::c_int,
    lock: &mut libc::flock,
) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads and writes one
    // `flock` at the address of one.
    let done = unsafe {
        libc::fcntl(file.as_raw_fd(), what, std::ptr::from_mut(lock))
    };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;

    #[test]
    fn a_launcher_takes_the_first_free_slot_and_clears_it() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let a = Slots::claim(&file, None).unwrap();
        let b = Slots::claim(&file, None).unwrap();
        let c = Slots::claim(&file, None).unwrap();
        assert_eq!((a.mine(), b.mine(), c.mine()), (0, 1, 2));
        assert_eq!(a.held().unwrap(), [1, 2]);
        assert_eq!(b.held().unwrap(), [0, 2]);
        std::fs::write(&file, [0xAA; 4096]).unwrap();
        drop(b);
        assert_eq!(c.held().unwrap(), [0]);
        assert_eq!(Slots::claim(&file, None).unwrap().mine(), 1);
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes[5..13], [0xAA, 0, 0, 0, 0, 0, 0, 0xAA]);
    }

    #[test]
    fn a_certain_slot_is_taken_or_none() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let a = Slots::claim(&file, Some(3)).unwrap();
        assert_eq!(a.mine(), 3);
        for slot in [3, NET_SLOTS, u32::MAX] {
            let error = Slots::claim(&file, Some(slot)).unwrap_err();
            assert!(matches!(error, SlotsError::Taken(taken) if taken == slot));
        }
        assert_eq!(Slots::claim(&file, None).unwrap().mine(), 0);
    }

    #[test]
    fn a_reader_that_has_locked_all_of_it_is_reported() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let reader = File::open(&file).unwrap();
        let mut all = range(libc::F_RDLCK, 0, NET_SLOTS);
        control(&reader, libc::F_OFD_SETLK, &mut all).unwrap();
        let error = Slots::claim(&file, None).unwrap_err().to_string();
        let error = error.replace(dir.path().to_str().unwrap(), "DIR");
        assert_eq!(
            error,
            "a program that is not lguest and may only read it has locked it: \
             end that program (`lslocks` names it), and `chmod go= DIR/lan` \
             keeps other users from doing so again"
        );
        // A lock of only a part does not matter.
        set(&reader, libc::F_UNLCK, 3).unwrap();
        assert_eq!(Slots::claim(&file, None).unwrap().mine(), 3);
        // A process that another test has just forked has this opening, too.
        let mut all = range(libc::F_UNLCK, 0, NET_SLOTS);
        control(&reader, libc::F_OFD_SETLK, &mut all).unwrap();
        assert_eq!(Slots::claim(&file, None).unwrap().mine(), 0);
    }

    #[test]
    fn only_a_free_slot_is_reaped() {
        let dir = Scratch::new();
        let file = dir.page("lan");
        let a = Slots::claim(&file, None).unwrap();
        let b = Slots::claim(&file, None).unwrap();
        std::fs::write(&file, [0xAA; 4096]).unwrap();
        assert!(!a.reap(1, || panic!("it is held")).unwrap());
        drop(b);
        let mut more = false;
        assert!(a.reap(1, || more = true).unwrap());
        assert!(more);
        assert!(!a.reap(0, || panic!("it is ours")).unwrap());
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes[5..13], [0xAA, 0, 0, 0, 0, 0, 0, 0xAA]);
        // And it is free again.
        assert_eq!(Slots::claim(&file, None).unwrap().mine(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_cure() {
        let dir = Scratch::new();
        let message = |path: &Path| {
            let error = Slots::claim(path, None).unwrap_err().to_string();
            error.replace(dir.path().to_str().unwrap(), "DIR")
        };
        let missing = dir.path().join("none");
        assert_eq!(
            message(&missing),
            "it does not exist: make it with `truncate -s 4096 DIR/none`"
        );
        assert!(!missing.exists());
        assert_eq!(
            message(dir.path()),
            "it is not a regular file: name one that `truncate -s 4096` \
             has made"
        );
        let short = dir.path().join("short");
        std::fs::write(&short, [1; 100]).unwrap();
        assert_eq!(
            message(&short),
            "it has 100 bytes, and a network needs 4096: \
             `truncate -s 4096 DIR/short`"
        );
        assert_eq!(std::fs::read(&short).unwrap(), [1; 100]);
    }
}
