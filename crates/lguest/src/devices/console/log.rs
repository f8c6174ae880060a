//! `--log FILE`: a copy of what the Guest prints, in a file.
//!
//! Lines end with a line feed, as in any text file: the carriage returns that
//! a Guest sends to its terminal are left out. What was in the file stays
//! there, and new output is appended. A log may have a limit: then the older
//! half of it makes room for new output. Others may cut the file, or append to
//! it: it is always written at its end, wherever that is.

use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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
    /// How it is shortened, if it has a limit.
    cut: Option<Cut>,
}

/// How a log is shortened.
#[derive(Debug)]
struct Cut {
    /// The same file, opened without O_APPEND, which writes at the end only.
    file: File,
    /// The most bytes that it may have.
    most: u64,
}

impl Log {
    /// Opens the file at `path`, and makes it if there is none. If no Guest
    /// starts, it is removed again.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn open(path: &Path, most: Option<NonZeroU64>) -> io::Result<Self> {
        let mut options = File::options();
        // Without O_NONBLOCK the open of a pipe would wait for a reader.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
        options.append(true).read(most.is_some());
        let (file, created) = match options.clone().create_new(true).open(path)
        {
            Ok(file) => (file, true),
            // It exists, or the second attempt says why it cannot be made.
            Err(_) => (options.create(true).open(path)?, false),
        };
        let mut log = Self {
            file,
            path: path.to_owned(),
            created,
            begun: AtomicBool::new(false),
            told: AtomicBool::new(false),
            cut: None,
        };
        // Only a file can be shortened.
        if let Some(most) = most
            && log.file.metadata()?.is_file()
        {
            options.append(false).write(true);
            let file = options.open(path)?;
            log.cut = Some(Cut::new(file, most.get(), &log.file)?);
        }
        Ok(log)
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
        let written = crate::machine::terminal::write_all(&self.file, &text);
        let cut = || self.cut.as_ref().map_or(Ok(()), Cut::shorten);
        let Err(error) = written.and_then(|()| cut()) else {
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

impl Cut {
    /// `file` is to be the one that `log` is, too.
    fn new(file: File, most: u64, log: &File) -> io::Result<Self> {
        let of = |file: &File| {
            let facts = file.metadata()?;
            io::Result::Ok((facts.dev(), facts.ino()))
        };
        if of(&file)? != of(log)? {
            return Err(io::Error::other("it was replaced meanwhile"));
        }
        Ok(Self { file, most })
    }

    /// Removes the older half of a log that has more than it may.
    fn shorten(&self) -> io::Result<()> {
        let Self { file, most } = self;
        let end = file.metadata()?.len();
        if end <= *most {
            return Ok(());
        }
        let mut piece = vec![0; 64 << 10];
        // It begins with a whole line, if there is one in the first piece.
        let mut from = end - most / 2;
        let n = file.read_at(&mut piece, from)?;
        let line = piece[..n].iter().position(|&byte| byte == b'\n');
        from += line.map_or(0, |line| line as u64 + 1);
        let mut to = 0;
        // Others may append meanwhile.
        loop {
            let n = file.read_at(&mut piece, from)?;
            if n == 0 {
                break;
            }
            file.write_all_at(&piece[..n], to)?;
            from += n as u64;
            to += n as u64;
        }
        // Another Launcher may have shortened it meanwhile.
        if file.metadata()?.len() < from {
            return Ok(());
        }
        file.set_len(to)
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
        let log = Log::open(&path, None).unwrap();
        log.write(b"one\r\ntw");
        log.write(b"o\r");
        log.write(b"\n\r\r\n");
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "before\none\ntwo\n\n", "and it was not removed");
        std::fs::remove_file(&path).unwrap();
        let log = Log::open(&path, None).unwrap();
        assert!(path.exists());
        drop(log);
        assert!(!path.exists(), "no guest has run");
        let log = Log::open(&path, None).unwrap();
        log.begin();
        drop(log);
        std::fs::remove_file(&path).unwrap();
    }
    #[test]
    fn a_log_with_a_limit_keeps_the_newest_lines() {
        let name = format!("lguest-limited-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "before\n").unwrap();
        let log = Log::open(&path, NonZeroU64::new(300_000)).unwrap();
        let line = |n: u32| format!("{n:9}\n");
        log.write(line(0).as_bytes());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "before\n        0\n");
        let mut longest = 0;
        for n in 1..100_000 {
            log.write(line(n).as_bytes());
            if n % 1000 == 0 {
                longest = longest.max(path.metadata().unwrap().len());
            }
        }
        log.begin();
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!((150_000..=300_000).contains(&text.len()), "{}", text.len());
        assert!(longest <= 300_000);
        let first = 100_000 - u32::try_from(text.len() / 10).unwrap();
        let expected: String = (first..100_000).map(line).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn others_may_cut_a_log_with_a_limit_and_write_to_it() {
        let name = format!("lguest-shared-log-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let open = || Log::open(&path, NonZeroU64::new(4096)).unwrap();
        let (one, two) = (open(), open());
        one.begin();
        one.write(b"one\n");
        two.write(b"two\n");
        one.write(b"three\n");
        let text = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(text(), "one\ntwo\nthree\n");
        std::fs::write(&path, "").unwrap();
        one.write(b"four\n");
        assert_eq!(text(), "four\n", "there is no hole");
        for n in 0..1000 {
            one.write(format!("{n:9}\n").as_bytes());
            two.write(format!("{n:9}\n").as_bytes());
            assert!(text().len() <= 4096);
        }
        let text = text();
        std::fs::remove_file(&path).unwrap();
        assert!(text.len() >= 2000, "{}", text.len());
        // Both have written the last lines, one after the other.
        let lines = text.len() / 10;
        let all = (0..2000).map(|n| format!("{:9}\n", n / 2));
        let expected: String = all.skip(2000 - lines).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_limited_log_may_be_a_pipe() {
        let name = format!("lguest-log-pipe-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let log = Log::open(&path, NonZeroU64::new(4096)).unwrap();
        log.write(&[b'x'; 5000]);
        let mut read = [0; 6000];
        assert_eq!(
            std::io::Read::read(&mut &log.file, &mut read).unwrap(),
            5000
        );
        std::fs::remove_file(&path).unwrap();
    }
}
