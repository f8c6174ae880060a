//! Files that go in and out, and small files that are read at once.
//!
//! A file that comes in is written under another name and renamed when it is
//! whole, so that nobody sees half of it. Both are opened with the rights of
//! the user for whom it is done.

use crate::sys::{self, Errno, Fd, flag};
use crate::users::Who;
use alloc::ffi::CString;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;
use lg_exec::command;
use lg_exec::credit::{Receiver, Sender};
use lg_exec::report::FileFacts;

/// Reads a file.
///
/// # Errors
///
/// As the kernel says.
pub fn read(path: &CStr, most: usize) -> sys::Result<Vec<u8>> {
    const PIECE: usize = 4096;
    let fd = sys::open(path, flag::O_RDONLY | flag::O_NONBLOCK, 0)?;
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let length = bytes.len();
        bytes.resize(length + PIECE, 0);
        let n = sys::read(&fd, &mut bytes[length..])?;
        bytes.truncate(length + n);
        if n == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// The names in a folder.
///
/// # Errors
///
/// As the kernel says.
pub fn names(path: &CStr) -> sys::Result<Vec<Vec<u8>>> {
    // An entry: two numbers of 64 bits, its length in 16, its kind in 8.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let fd = sys::open(path, flag::O_RDONLY | flag::O_DIRECTORY, 0)?;
    let mut names = Vec::new();
    let mut bytes = vec![0; 8192];
    loop {
        let n = sys::entries(&fd, &mut bytes)?;
        let mut rest = bytes.get(..n).unwrap_or_default();
        if rest.is_empty() {
            return Ok(names);
        }
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let Some(name) = rest.get(NAME..length) else {
                break;
            };
            let end = name.iter().position(|&b| b == 0);
            names.push(name[..end.unwrap_or(name.len())].to_vec());
            rest = &rest[length..];
        }
    }
}

/// A path as the kernel takes it.
///
/// # Errors
///
/// `ENOENT` for a path that is empty or has a zero inside.
pub fn path(bytes: &[u8]) -> sys::Result<CString> {
    if bytes.is_empty() {
        return Err(Errno::NOENT);
    }
    CString::new(bytes).map_err(|_| Errno::NOENT)
}

/// Does something with files, with the rights of a user.
fn as_user<T>(who: Option<&Who>, what: impl FnOnce() -> T) -> T {
    let Some(who) = who else {
        return what();
    };
    let _ = sys::set_groups(&who.groups);
    sys::set_file_user(who.user, who.group);
    let result = what();
    sys::set_file_user(0, 0);
    let _ = sys::set_groups(&[]);
    result
}

/// A file that comes in.
#[derive(Debug)]
pub struct Put {
    fd: Fd,
    who: Option<Who>,
    /// Its name until it is whole.
    part: CString,
    path: CString,
    /// What may be sent.
    pub credit: Receiver,
    /// What was written.
    pub bytes: u64,
    whole: bool,
}

impl Put {
    /// Makes the file under its first name. No other file has `number`.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn new(
        put: &command::Put,
        who: Option<Who>,
        number: u32,
    ) -> sys::Result<Self> {
        let name = path(&put.path)?;
        let mut part = put.path.clone();
        part.extend(alloc::format!(".lguest-{number}").bytes());
        let part = path(&part)?;
        let flags = flag::O_WRONLY | flag::O_CREAT | flag::O_TRUNC;
        let fd = as_user(who.as_ref(), || {
            if put.parents {
                make_parents(&put.path);
            }
            // A folder would be noticed only when the file is whole.
            let folder = flag::O_RDONLY | flag::O_DIRECTORY;
            if sys::open(&name, folder, 0).is_ok() {
                return Err(Errno::ISDIR);
            }
            let _ = sys::unlink(&part);
            let fd = sys::open(&part, flags | flag::O_EXCL, 0o600)?;
            sys::fchmod(&fd, put.mode & 0o7777)?;
            Ok(fd)
        })?;
        Ok(Self {
            fd,
            who,
            part,
            path: name,
            credit: Receiver::default(),
            bytes: 0,
            whole: false,
        })
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn write(&mut self, mut bytes: &[u8]) -> sys::Result<()> {
        while !bytes.is_empty() {
            match sys::write(&self.fd, bytes) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.bytes += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives it its name.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn finish(&mut self) -> sys::Result<()> {
        as_user(self.who.as_ref(), || sys::rename(&self.part, &self.path))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if !self.whole {
            let _ = as_user(self.who.as_ref(), || sys::unlink(&self.part));
        }
    }
}

fn make_parents(path: &[u8]) {
    for (n, &byte) in path.iter().enumerate() {
        if byte == b'/' && n > 0 {
            if let Ok(folder) = CString::new(&path[..n]) {
                let _ = sys::mkdir(&folder, 0o755);
            }
        }
    }
}

/// A file that goes out.
#[derive(Debug)]
pub struct Get {
    /// The open file.
    pub fd: Fd,
    /// What may be sent.
    pub credit: Sender,
    /// What was sent.
    pub bytes: u64,
}

impl Get {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// As the kernel says; `EISDIR` for all that is no ordinary file.
    pub fn new(
        get: &command::Get,
        who: Option<&Who>,
    ) -> sys::Result<(Self, FileFacts)> {
        let name = path(&get.path)?;
        let flags = flag::O_RDONLY | flag::O_NONBLOCK;
        let fd = as_user(who, || sys::open(&name, flags, 0))?;
        let stat = sys::fstat(&fd)?;
        if !sys::is_ordinary(stat.st_mode) {
            return Err(Errno::ISDIR);
        }
        let facts = FileFacts {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            modified: sys::modified(&stat),
        };
        let get = Self {
            fd,
            credit: Sender::default(),
            bytes: 0,
        };
        Ok((get, facts))
    }
}
