//! `lguest trace` and `lguest profile`: what a machine does.
//!
//! The Launcher hands over the file in which its Guest's trace is, and this
//! command reads it. What it has asked the Launcher to trace ends with its
//! connection.

use super::found::{DONE, find};
use crate::cli::exit::Outcome;
use crate::explain::{LARGEST, Symbols};
use crate::machine::terminal;
use crate::machines::error::MachineError;
use crate::machines::link::{Heard, Link, PATIENCE};
use crate::machines::name::Name;
use crate::machines::protocol::{Call, Inspected, Traced};
use crate::trace::copy::{Copied, copy};
use crate::trace::events;
use crate::trace::profile::{Profile, flame_graph};
use lg_wire::trace::group;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a machine is traced that was not before.
const A_WHILE: Duration = Duration::from_secs(1);

/// How often samples are fetched. The smallest ring holds those of this time,
/// at the usual rate.
const FETCH: Duration = Duration::from_millis(20);

/// `lguest trace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The machine.
    pub name: Name,
    /// The groups that are traced. None: all.
    pub filter: Vec<String>,
    /// For how long. Without it, what is in the ring already is enough, if
    /// anything is.
    pub time: Option<Duration>,
    /// Where the file goes; without it, to standard output.
    pub output: Option<PathBuf>,
    /// Files with symbols.
    pub symbols: Vec<PathBuf>,
}

/// `lguest profile`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles {
    /// The machine.
    pub name: Name,
    /// For how long.
    pub time: Duration,
    /// Samples a second.
    pub rate: NonZeroU32,
    /// Where the flame graph goes.
    pub output: PathBuf,
    /// Where folded stacks go instead.
    pub folded: Option<PathBuf>,
    /// Files with symbols.
    pub symbols: Vec<PathBuf>,
}

/// A machine that is traced as long as this lives.
struct Watched {
    name: Name,
    link: Link,
    file: OwnedFd,
    /// It was traced before.
    before: bool,
}

impl Watched {
    /// Has `groups` traced, and samples taken in this distance.
    fn begin(
        name: &Name,
        groups: &[String],
        samples_us: u32,
    ) -> Result<Self, MachineError> {
        let (_, folder) = find(name)?;
        let mut link = Link::to(&folder)?;
        let (traced, file) = ask(name, &mut link, groups, samples_us)?;
        Ok(Self {
            name: name.clone(),
            link,
            file,
            before: !traced.before.is_empty(),
        })
    }

    /// Has these groups traced, too.
    fn more(&mut self, groups: &[String]) -> Result<(), MachineError> {
        ask(&self.name, &mut self.link, groups, 0).map(drop)
    }

    /// What is in the ring from record `from` on.
    fn copy(&self, from: u64) -> Result<Copied, MachineError> {
        copy(&self.file, from).map_err(|error| MachineError::File {
            name: self.name.clone(),
            doing: "read its trace",
            error,
        })
    }

    /// Waits for `time`, or until the machine has ended. Returns whether it
    /// has.
    fn wait(&mut self, time: Duration) -> Result<bool, MachineError> {
        let heard = self.link.hear(Some(Instant::now() + time))?;
        Ok(matches!(heard, Heard::Closed))
    }
}

/// Asks for a trace.
fn ask(
    name: &Name,
    link: &mut Link,
    groups: &[String],
    samples_us: u32,
) -> Result<(Traced, OwnedFd), MachineError> {
    let call = Call::Trace {
        groups: groups.to_vec(),
        samples_us,
    };
    let deadline = Some(Instant::now() + PATIENCE);
    let (traced, files) = link.ask_with_files(&call, deadline)?;
    let file = files.into_iter().next().ok_or_else(|| {
        let why = "it has handed no trace over";
        MachineError::Refused(name.clone(), why.into())
    })?;
    Ok((traced, file))
}

impl Traces {
    /// Writes the trace.
    pub(super) fn carry_out(&self) -> Result<Outcome, MachineError> {
        let mut machine = Watched::begin(&self.name, &[], 0)?;
        let mut trace = match (machine.before, self.time) {
            (true, None) => machine.copy(0)?,
            (_, time) => {
                let from = machine.copy(u64::MAX)?.next;
                let groups = match self.filter.is_empty() {
                    true => crate::trace::GROUPS.map(String::from).to_vec(),
                    false => self.filter.clone(),
                };
                machine.more(&groups)?;
                machine.wait(time.unwrap_or(A_WHILE))?;
                machine.copy(from)?
            }
        };
        // The machine may be traced for its --trace, too.
        let groups = crate::trace::groups(&self.filter);
        trace.keep(groups.unwrap_or(group::ALL));
        let files = Files::read(&self.name, &self.symbols)?;
        let symbols = files.symbols();
        write_to(&self.name, self.output.as_deref(), |out| {
            events::write(out, &trace, &symbols)
        })?;
        terminal::tell(&format!(
            "{} events, {} lost",
            trace.events.len(),
            trace.lost
        ));
        Ok(DONE)
    }
}

impl Profiles {
    /// Samples, and writes what was found.
    pub(super) fn carry_out(&self) -> Result<Outcome, MachineError> {
        let files = Files::read(&self.name, &self.symbols)?;
        let every = 1_000_000 / self.rate;
        let mut machine = Watched::begin(&self.name, &[], every)?;
        let mut profile = Profile::default();
        let (mut from, mut lost) = (machine.copy(u64::MAX)?.next, 0_u64);
        let end = Instant::now() + self.time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let ended = machine.wait(left.min(FETCH))?;
            let copied = machine.copy(from)?;
            from = copied.next;
            lost = lost.saturating_add(copied.lost);
            profile.add(&copied);
            if ended || left.is_zero() {
                break;
            }
        }
        let count = profile.count();
        if count == 0 {
            let why = "its guest slept all the time, and there is no sample: \
                       let it work, or watch it for longer (--seconds)";
            return Err(MachineError::Refused(self.name.clone(), why.into()));
        }
        let folded = profile.folded(&files.symbols());
        if let Some(path) = &self.folded {
            let path = (path != Path::new("-")).then_some(path.as_path());
            write_to(&self.name, path, |out| {
                folded.iter().try_for_each(|line| writeln!(out, "{line}"))
            })?;
        } else {
            let title = format!("{}: {count} samples", self.name);
            write_to(&self.name, Some(&self.output), |out| {
                flame_graph(&folded, &title, out)
            })?;
        }
        terminal::tell(&match lost {
            0 => format!("{count} samples"),
            _ => format!(
                "{count} samples; {lost} records are lost: choose a lower \
                 --rate, or start the machine with more --trace-records"
            ),
        });
        Ok(DONE)
    }
}

/// Files with symbols, in memory.
struct Files(Vec<Vec<u8>>);

impl Files {
    /// Reads `paths`, and the kernel of the machine if it can be found.
    fn read(name: &Name, paths: &[PathBuf]) -> Result<Self, MachineError> {
        let read = |file: File| {
            let mut bytes = Vec::new();
            file.take(LARGEST).read_to_end(&mut bytes)?;
            io::Result::Ok(bytes)
        };
        let mut files = Vec::new();
        for path in paths {
            let bytes = File::open(path).and_then(read);
            let bytes = bytes.map_err(|error| MachineError::Output {
                path: path.clone(),
                what: "symbols",
                error,
            })?;
            if Symbols::new(&bytes).is_empty() {
                terminal::tell(&format!(
                    "symbols {}: there are no names in it: give a 32-bit ELF \
                     file that is neither packed nor stripped",
                    path.display()
                ));
            }
            files.push(bytes);
        }
        // There may be another kernel by now, or none: then there are no names.
        let kernel = || {
            let (_, folder) = find(name).ok()?;
            let mut link = Link::to(&folder).ok()?;
            let known: Inspected = link.ask(&Call::Inspect {}).ok()?;
            let file = regular(Path::new(&known.facts.kernel?));
            file.and_then(read).ok()
        };
        files.extend(kernel());
        Ok(Self(files))
    }

    fn symbols(&self) -> Vec<Symbols<'_>> {
        self.0.iter().map(|bytes| Symbols::new(bytes)).collect()
    }
}

/// Opens a file whose name a Launcher has told. One that was taken over may
/// name anything: what is no regular file could keep us waiting.
fn regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Writes to a file, or to standard output.
fn write_to(
    name: &Name,
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), MachineError> {
    let Some(path) = path else {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write(&mut out).and_then(|()| out.flush());
        return match written {
            // If the reader has closed the pipe, it has what it wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(MachineError::File {
                    name: name.clone(),
                    doing: "write to standard output",
                    error,
                })
            }
            _ => Ok(()),
        };
    };
    let wrong = |error| MachineError::Output {
        path: path.to_owned(),
        what: "output",
        error,
    };
    let mut out = BufWriter::new(File::create(path).map_err(wrong)?);
    write(&mut out).and_then(|()| out.flush()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_launcher_names_does_not_keep_us_waiting() {
        let name = format!("lguest-named-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let (fifo, mode) = (rustix::fs::FileType::Fifo, Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let refused = regular(&path).is_err();
        std::fs::remove_file(&path).unwrap();
        assert!(refused && regular(Path::new("/dev/zero")).is_err());
        assert!(regular(Path::new("/proc/self/maps")).is_ok());
    }
}
