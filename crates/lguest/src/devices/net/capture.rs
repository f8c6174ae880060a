//! `,pcap=FILE`: the frames of an interface, for Wireshark and tcpdump.
//!
//! The format has a header of 24 bytes, and one of 16 bytes before each frame.
//! A program that reads the file finds whole frames in it at any time.

use crate::machine::terminal;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The mark of the format with times in nanoseconds, and its version.
const MARK: u32 = 0xA1B2_3C4D;
const VERSION: u32 = 2 | 4 << 16;

/// The longest frame, and the kind of frames: Ethernet.
const LONGEST: u32 = 0x4_0000;
const ETHERNET: u32 = 1;

/// A file that frames are written to.
pub struct Capture {
    path: PathBuf,
    /// None after it could not be written.
    file: Option<File>,
}

impl Capture {
    /// Opens the file, and makes it if there is none. Its content stays until
    /// [`Self::begin`].
    ///
    /// # Errors
    ///
    /// The error of the kernel; or that it is no regular file, which might make
    /// the Guest wait; or that it is a disk of a Guest or another capture.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK;
        // A capture has passwords in it.
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(rustix::fs::open(path, flags, mode)?);
        let found = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        // A file with a disk has a lock, shared or exclusive.
        let lock = FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::flock(&file, lock) == Err(Errno::WOULDBLOCK) {
            return Err(io::Error::other(
                "it is a disk of a guest, or another capture: give another \
                 file",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Empties the file and writes the header.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn begin(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.set_len(0)?;
        let words = [MARK, VERSION, 0, 0, LONGEST, ETHERNET];
        file.write_all(zerocopy::IntoBytes::as_bytes(&words))
    }

    /// Writes a frame that passes now.
    pub fn record(&mut self, frame: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or(LONGEST);
        // The format has seconds in 32 bits.
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let words = [seconds, now.subsec_nanos(), length, length];
        let mut bytes = zerocopy::IntoBytes::as_bytes(&words).to_vec();
        bytes.extend_from_slice(frame);
        if let Err(error) = file.write_all(&bytes) {
            let path = self.path.display();
            terminal::tell_or_lose(&format!(
                "capture {path}: it cannot be written ({error}): frames from \
                 now on are missing in it"
            ));
            self.file = None;
        }
    }
}
