//! Transfers between files and sections, by the kernel and without a copy.
//!
//! The kernel is given the addresses of the sections and moves the bytes
//! itself. If the Guest changes them meanwhile, the file holds the old or the
//! new bytes.

#![expect(
    unsafe_code,
    reason = "system calls on memory that is never borrowed"
)]

use super::{Region, Section, SectionsIn};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A list of sections as system calls take it.
struct Vectors(Vec<libc::iovec>);

impl Vectors {
    /// `sections` of `region`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if they are sections of another region.
    fn new(region: &Region, sections: &[Section]) -> io::Result<Self> {
        let vector = |section: &Section| {
            let base = region.pointer(section.addr(), section.len());
            let base = base.map_err(|bad| {
                io::Error::new(io::ErrorKind::InvalidInput, bad)
            })?;
            Ok(libc::iovec {
                iov_base: base.cast(),
                iov_len: section.len() as usize,
            })
        };
        sections
            .iter()
            .map(vector)
            .collect::<io::Result<_>>()
            .map(Self)
    }
}

/// Reads from `file` at `offset` into `sections`, like preadv. Returns the
/// bytes moved, short only at the end of the file.
///
/// # Errors
///
/// What the kernel says; interruptions are retried.
pub(super) fn read_at(
    region: &Region,
    sections: &[Section],
    file: &File,
    offset: u64,
) -> io::Result<u32> {
    transfer(region, sections, offset, |iov, count, offset| {
        // SAFETY: every vector lies inside the region (`Vectors`), where the
        // kernel may write at any time.
        unsafe { libc::preadv(file.as_raw_fd(), iov, count, offset) }
    })
}

/// [`read_at`], but without waiting for a disk: bytes that the kernel has in
/// memory are read at once, and anything else is an error.
///
/// # Errors
///
/// EAGAIN where it would have to wait, and what else the kernel says.
pub(super) fn read_at_now(
    region: &Region,
    sections: &[Section],
    file: &File,
    offset: u64,
) -> io::Result<u32> {
    let (fd, flags) = (file.as_raw_fd(), libc::RWF_NOWAIT);
    transfer(region, sections, offset, |iov, count, offset| {
        // SAFETY: as in `read_at`.
        unsafe { libc::preadv2(fd, iov, count, offset, flags) }
    })
}

/// Writes `sections` to `file` at `offset`, like pwritev. Returns the bytes
/// moved.
///
/// # Errors
///
/// What the kernel says; interruptions are retried.
pub(super) fn write_at(
    region: &Region,
    sections: &[Section],
    file: &File,
    offset: u64,
) -> io::Result<u32> {
    transfer(region, sections, offset, |iov, count, offset| {
        // SAFETY: every vector lies inside the region (`Vectors`).
        unsafe { libc::pwritev(file.as_raw_fd(), iov, count, offset) }
    })
}

/// Moves all of `sections`, a system call at a time.
fn transfer(
    region: &Region,
    sections: &[Section],
    offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<u32> {
    let Vectors(mut iov) = Vectors::new(region, sections)?;
    let mut moved = 0_u32;
    let mut rest = iov.as_mut_slice();
    while let Some(first) = rest.first() {
        if first.iov_len == 0 {
            rest = &mut rest[1..];
            continue;
        }
        let at = offset
            .checked_add(u64::from(moved))
            .and_then(|at| libc::off_t::try_from(at).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let count = libc::c_int::try_from(rest.len())
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let done = call(rest.as_ptr(), count, at);
        let Ok(mut done) = usize::try_from(done) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        };
        if done == 0 {
            break;
        }
        moved += u32::try_from(done).unwrap_or(u32::MAX);
        while done > 0 {
            let step = done.min(rest[0].iov_len);
            done -= step;
            rest[0].iov_len -= step;
            rest[0].iov_base = rest[0].iov_base.wrapping_byte_add(step);
            if rest[0].iov_len == 0 {
                rest = &mut rest[1..];
            }
        }
    }
    Ok(moved)
}

impl SectionsIn<'_> {
    /// One readv of `file` into these sections: one frame of a tap.
    ///
    /// # Errors
    ///
    /// What the kernel says; interruptions are retried.
    pub fn read_from(&self, file: impl AsFd) -> io::Result<u32> {
        self.call(|iov, count| {
            // SAFETY: every vector lies inside the region (`call`), where
            // the kernel may write at any time.
            unsafe { libc::readv(file.as_fd().as_raw_fd(), iov, count) }
        })
    }

    /// One writev of these sections to `file`: one frame for a tap.
    ///
    /// # Errors
    ///
    /// What the kernel says; interruptions are retried.
    pub fn write_to(&self, file: impl AsFd) -> io::Result<u32> {
        self.call(|iov, count| {
            // SAFETY: every vector lies inside the region (`call`).
            unsafe { libc::writev(file.as_fd().as_raw_fd(), iov, count) }
        })
    }

    /// One system call with all sections.
    fn call(
        &self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<u32> {
        let Vectors(iov) = Vectors::new(self.region, self.list)?;
        let count = libc::c_int::try_from(iov.len())
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            match u32::try_from(call(iov.as_ptr(), count)) {
                Ok(done) => return Ok(done),
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}
