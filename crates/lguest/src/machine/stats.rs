//! Counters of all parts, as JSON for scripts.
//!
//! `--stats` writes them once, at the end. The file is opened before the Guest
//! starts, so that a wrong name is an error at the start and not after an hour
//! of work. Its old contents are replaced only at the end.

use crate::machine::config::Stats;
use rustix::fs::OFlags;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The place where the counters will be written.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, open.
    File(OpenFile),
}

/// A file that is written at the end. If it is never written, it is removed,
/// unless it existed before.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// Its name, if this process made it.
    created: Option<PathBuf>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(path) = &self.created {
            // Another process may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A group of counters, each with its name.
pub type NamedCounts = Vec<(&'static str, u64)>;

/// All counters of a run, and how it ended.
pub struct RunReport {
    /// How the Guest ended, for a person.
    pub ending: String,
    /// The Launcher's exit code.
    pub exit_code: u8,
    /// The Launcher's own counters.
    pub launcher: NamedCounts,
    /// The Host's counters.
    pub host: Vec<(String, u64)>,
    /// The counters of each device, with its type.
    pub devices: Vec<(&'static str, NamedCounts)>,
}

impl Sink {
    /// Opens the file, but changes nothing in it.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn open(stats: &Stats) -> io::Result<Self> {
        match stats {
            Stats::Stdout => Ok(Self::Stdout),
            Stats::File(path) => open(path, 0o666).map(Self::File),
        }
    }

    /// Writes the report, in place of the old contents.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn write(self, report: &RunReport) -> io::Result<()> {
        let json = report.to_json();
        match self {
            Self::Stdout => {
                let stdout = rustix::stdio::stdout();
                crate::machine::terminal::write_all(stdout, json.as_bytes())
            }
            Self::File(mut open) => {
                open.created = None;
                if open.file.metadata()?.is_file() {
                    open.file.set_len(0)?;
                }
                open.file.write_all(json.as_bytes())
            }
        }
    }
}

impl OpenFile {
    /// The file, without its old contents. It stays.
    pub(super) fn empty(mut self) -> io::Result<File> {
        self.created = None;
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.try_clone()
    }
}

/// Opens a file that is written at the end, but changes nothing in it. A new
/// one has this mode.
pub(super) fn open(path: &Path, mode: u32) -> io::Result<OpenFile> {
    // Without O_NONBLOCK the open of a pipe would wait for a reader, without a
    // word.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.write(true).mode(mode);
    options.custom_flags(flags.bits().cast_signed());
    let new = options.clone().create_new(true).open(path);
    if let Ok(file) = new {
        let created = Some(path.to_owned());
        return Ok(OpenFile { file, created });
    }
    // It exists already, or the second attempt returns the error.
    let file = options.create(true).truncate(false).open(path)?;
    // At the end a reader may take its time.
    rustix::io::ioctl_fionbio(&file, false)?;
    let created = None;
    Ok(OpenFile { file, created })
}

impl RunReport {
    /// The report as JSON. All of it is our own words and numbers, except the
    /// ending.
    #[must_use]
    pub fn to_json(&self) -> String {
        let devices: Vec<String> = self
            .devices
            .iter()
            .map(|(kind, counters)| {
                let kind = quoted(kind);
                format!("    {{\"type\": {kind}{}}}", fields(counters, true))
            })
            .collect();
        format!(
            "{{\n  \"version\": {},\n  \"ending\": {},\n  \
             \"exit_code\": {},\n  \"launcher\": {{{}}},\n  \
             \"host\": {{{}}},\n  \"devices\": [\n{}\n  ]\n}}\n",
            quoted(env!("CARGO_PKG_VERSION")),
            quoted(&self.ending),
            self.exit_code,
            fields(&self.launcher, false),
            fields(&self.host, false),
            devices.join(",\n"),
        )
    }
}

/// Counters as members of an object. `go_on`: other members come before them.
fn fields<N: AsRef<str>>(counters: &[(N, u64)], go_on: bool) -> String {
    let mut text = String::new();
    for (name, value) in counters {
        if go_on || !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{}: {value}", quoted(name.as_ref()));
    }
    text
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};

    #[test]
    fn a_file_is_replaced_at_the_end_and_not_before() {
        let name = format!("lguest-stats-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let stats = Stats::File(path.clone());
        drop(Sink::open(&stats).unwrap());
        assert!(!path.exists());
        Sink::open(&stats).unwrap().write(&report()).unwrap();
        std::fs::write(&path, "x".repeat(1000)).unwrap();
        drop(Sink::open(&stats).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1000);
        Sink::open(&stats).unwrap().write(&report()).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(written, report().to_json());
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_not_waited_for() {
        use std::sync::mpsc;
        use std::time::Duration;
        let name = format!("lguest-stats-pipe-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let (mode, kind) = (Mode::RUSR | Mode::WUSR, FileType::Fifo);
        rustix::fs::mknodat(CWD, &path, kind, mode, 0).unwrap();
        let (tell, told) = mpsc::channel();
        let opener = std::thread::spawn({
            let path = path.clone();
            move || tell.send(open(&path, 0o600).map(drop))
        });
        let opened = told.recv_timeout(Duration::from_secs(10));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let reader = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        opener.join().unwrap().unwrap();
        let written = open(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(reader);
        let error = opened.expect("it waits").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        let flags = rustix::fs::fcntl_getfl(&written.file).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK), "a report may be cut");
    }

    fn report() -> RunReport {
        RunReport {
            ending: "CRASH: \"x\\\u{7}\"".into(),
            exit_code: 1,
            launcher: vec![("sends", 3), ("milliseconds", 17)],
            host: vec![],
            devices: vec![("block", vec![("reads", 5)]), ("console", vec![])],
        }
    }

    #[test]
    fn the_report_is_json() {
        let expected = r#"{
  "version": "0.1.0",
  "ending": "CRASH: \"x\\\u0007\"",
  "exit_code": 1,
  "launcher": {"sends": 3, "milliseconds": 17},
  "host": {},
  "devices": [
    {"type": "block", "reads": 5},
    {"type": "console"}
  ]
}
"#;
        assert_eq!(report().to_json(), expected);
    }
}
