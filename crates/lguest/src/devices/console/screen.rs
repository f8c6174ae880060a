//! Where the Guest's lines are shown: standard output, and a log beside it.
//!
//! Output that cannot be written is lost; one message says so, and the Guest
//! goes on. The two are independent: a full disk under the log does not affect
//! the output, and a closed output does not affect the log.

use super::backlog::Backlog;
use super::log::Log;
use rustix::fs::{FileType, fstat, fstatfs};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where the Guest's lines are shown.
pub struct Screen {
    output: OwnedFd,
    kind: Kind,
    log: Option<Log>,
    backlog: Option<Arc<Backlog>>,
    /// Nothing can be written to the output any more.
    closed: AtomicBool,
    /// The message that output is lost has been printed.
    told: AtomicBool,
    bytes_out: AtomicU64,
    bytes_discarded: AtomicU64,
}

/// What an output is, as far as that says which processes may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a reader, and can get no other: a pipe without a name, or a
    /// socket.
    Connection,
    /// A pipe with a name, which a new reader may open.
    Fifo,
    /// A terminal.
    Terminal,
    /// Anything else, such as a file.
    Other,
}

impl Kind {
    /// What `output` is.
    pub fn of(output: impl AsFd) -> Self {
        /// `PIPEFS_MAGIC`: where pipes without a name are.
        const PIPES: u64 = 0x5049_5045;
        let output = output.as_fd();
        if rustix::termios::isatty(output) {
            return Self::Terminal;
        }
        let mode = fstat(output).map(|stat| stat.st_mode);
        match mode.map(FileType::from_raw_mode) {
            Ok(FileType::Socket) => Self::Connection,
            Ok(FileType::Fifo) => match fstatfs(output) {
                Ok(fs) if fs.f_type.cast_unsigned() == PIPES => {
                    Self::Connection
                }
                _ => Self::Fifo,
            },
            _ => Self::Other,
        }
    }
}

impl Screen {
    pub(super) fn new(
        output: OwnedFd,
        log: Option<Log>,
        backlog: Option<Arc<Backlog>>,
    ) -> Self {
        Self {
            kind: Kind::of(&output),
            output,
            log,
            backlog,
            closed: AtomicBool::new(false),
            told: AtomicBool::new(false),
            bytes_out: AtomicU64::new(0),
            bytes_discarded: AtomicU64::new(0),
        }
    }

    /// A Guest has run: its log stays, though it may be empty.
    pub(super) fn finish(&self) {
        if let Some(log) = &self.log {
            log.begin();
        }
    }

    /// Writes all of `bytes`. Blocks as long as the reader of the output does
    /// not read.
    pub(crate) fn show(&self, bytes: &[u8]) {
        if let Some(backlog) = &self.backlog {
            backlog.append(bytes);
        }
        if let Some(log) = &self.log {
            log.begin();
            log.write(bytes);
        }
        let len = bytes.len() as u64;
        if self.closed.load(Ordering::Relaxed) {
            self.bytes_discarded.fetch_add(len, Ordering::Relaxed);
            return;
        }
        if self.kind == Kind::Terminal {
            crate::machine::terminal::written(bytes);
        }
        let error =
            match crate::machine::terminal::write_all(&self.output, bytes) {
                Ok(()) => {
                    self.bytes_out.fetch_add(len, Ordering::Relaxed);
                    return;
                }
                Err(error) => error,
            };
        self.bytes_discarded.fetch_add(len, Ordering::Relaxed);
        let unread = error.raw_os_error() == Some(Errno::PIPE.raw_os_error());
        let rest = match self.kind {
            // This ends the run, with a message: see `crate::machine::owner`.
            Kind::Connection if unread => {
                return self.closed.store(true, Ordering::Relaxed);
            }
            Kind::Fifo if unread => "it is lost until it is read again",
            _ => {
                self.closed.store(true, Ordering::Relaxed);
                "the rest of it is lost"
            }
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            crate::machine::terminal::tell(&format!(
                "cannot write the guest's output ({error}): {rest}"
            ));
        }
    }

    /// How many bytes the Guest has printed, written or lost.
    #[must_use]
    pub fn printed(&self) -> u64 {
        let out = self.bytes_out.load(Ordering::Relaxed);
        out + self.bytes_discarded.load(Ordering::Relaxed)
    }

    pub(super) fn counters(&self) -> [(&'static str, u64); 2] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("bytes_out", count(&self.bytes_out)),
            ("bytes_discarded", count(&self.bytes_discarded)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    #[test]
    fn pipes_with_a_name_are_told_from_those_without() {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(Kind::of(&writer), Kind::Connection);
        drop(reader);
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Kind::of(&pair.0), Kind::Connection);
        let name = format!("lguest-fifo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let both = std::fs::File::options().read(true).write(true).open(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Kind::of(both.unwrap()), Kind::Fifo);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Kind::of(null), Kind::Other);
    }
}
