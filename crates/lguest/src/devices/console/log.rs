//! `--log FILE`: a copy of what the Guest prints, in a file.
//!
//! Lines end with a line feed, as in any text file: the carriage returns that
//! a Guest sends to its terminal are left out. What was in the file stays
//! there, and new output is appended.

use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that is appended to.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    /// This Launcher has made the file.
    created: bool,
    /// A Guest has started.
    begun: AtomicBool,
    /// The message that output is missing in it has been printed.
    told: AtomicBool,
}

impl Log {
    /// Opens the file at `path`, and makes it if there is none. If no Guest
    /// starts, it is removed again.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        // Without O_NONBLOCK the open of a pipe would wait for a reader.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options
            .append(true)
            .custom_flags(flags.bits().cast_signed());
        let (file, created) = match options.clone().create_new(true).open(path)
        {
            Ok(file) => (file, true),
            // It exists, or the second attempt says why it cannot be made.
            Err(_) => (options.create(true).open(path)?, false),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            created,
            begun: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    /// A Guest has started. From now on the file is never removed.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Appends `bytes`. Output that cannot be written is lost, and one message
    /// says so; later output is tried again.
    pub(super) fn write(&self, bytes: &[u8]) {
        let text: Vec<u8> = bytes
            .iter()
            .copied()
            .filter(|&byte| byte != b'\r')
            .collect();
        let Err(error) = crate::machine::terminal::write_all(&self.file, &text)
        else {
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            crate::machine::terminal::tell(&format!(
                "cannot write the log {} ({error}): output will be missing \
                 in it; the guest goes on",
                self.path.display(),
            ));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.created && !self.begun.load(Ordering::Relaxed) {
            // Another process may have removed it already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_appended_without_carriage_returns() {
        let name = format!("lguest-log-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "before\n").unwrap();
        let log = Log::open(&path).unwrap();
        log.write(b"one\r\ntw");
        log.write(b"o\r");
        log.write(b"\n\r\r\n");
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "before\none\ntwo\n\n", "and it was not removed");
        std::fs::remove_file(&path).unwrap();
        let log = Log::open(&path).unwrap();
        assert!(path.exists());
        drop(log);
        assert!(!path.exists(), "no guest has run");
        let log = Log::open(&path).unwrap();
        log.begin();
        drop(log);
        std::fs::remove_file(&path).unwrap();
    }
}
