//! `lguest stop`, `kill`, `wait` and `rm`: the end of machines.
//!
//! The Launcher ends its machine when it is told to. If it does not, because it
//! is stopped or broken, its process is killed. A confined Launcher cannot
//! remove its folder, so these commands do.

use super::found::{DONE, find};
use crate::cli::exit::Outcome;
use crate::machine::terminal;
use crate::machines::error::MachineError;
use crate::machines::folder::{Folder, Place};
use crate::machines::link::{Heard, Link};
use crate::machines::name::Name;
use crate::machines::protocol::{Asked, Call, Received};
use crate::machines::record::End;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::time::{Duration, Instant};

/// How long a Launcher may take to end its machine when it was told to. Then
/// its process is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a killed process may take.
const KILLED: Duration = Duration::from_secs(5);

/// The pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for the answer to the call [`Call::Wait`] with this number. `None`:
/// not before `deadline`.
fn end(
    folder: &Folder,
    link: &mut Link,
    number: u64,
    deadline: Option<Instant>,
) -> Result<Option<End>, MachineError> {
    loop {
        match link.hear(deadline)? {
            Heard::Message(Received::Answer(of, Ok(end))) if of == number => {
                if let Ok(end) = serde_json::from_value(end) {
                    return Ok(Some(end));
                }
            }
            Heard::Message(_) => {}
            Heard::Nothing => return Ok(None),
            // It was killed.
            Heard::Closed => return after_the_launcher(folder).map(Some),
        }
    }
}

/// The end of a machine whose Launcher has closed its connections. Its process
/// may still be there for a moment.
pub(super) fn after_the_launcher(folder: &Folder) -> Result<End, MachineError> {
    let deadline = Instant::now() + KILLED;
    loop {
        // This looks whether there is still a process behind the folder.
        if let Some(end) = find(&folder.name)?.1.end() {
            return Ok(end);
        }
        if Instant::now() > deadline {
            let why = "it has closed the connection";
            let name = folder.name.clone();
            return Err(MachineError::NoAnswer(name, why.into()));
        }
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn wait(name: &Name) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let wait = |mut link: Link| {
        let number = link.call(&Call::Wait {})?;
        end(&folder, &mut link, number, None)
    };
    let ended = match Link::to(&folder).and_then(wait) {
        Ok(ended) => ended,
        Err(MachineError::Ended(..)) => folder.end(),
        // It may have been killed a moment ago.
        Err(error) => Some(after_the_launcher(&folder).map_err(|_| error)?),
    };
    let code = ended.map_or(Outcome::Failed.code(), |end| end.exit_code);
    Ok(Outcome::OfMachine(code))
}

pub(super) fn stop(
    name: &Name,
    timeout: Duration,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let mut link = Link::to(&folder)?;
    // It may end at once when it is asked.
    let number = link.call(&Call::Wait {})?;
    let asked: Asked = link.ask(&Call::Stop {})?;
    if asked.typed.is_some() {
        let deadline = Instant::now() + timeout;
        let ended = end(&folder, &mut link, number, Some(deadline))?;
        if let Some(ended) = ended {
            terminal::tell(&format!("machine '{name}': {}", ended.reason));
            return Ok(DONE);
        }
    }
    let why = match asked.typed {
        Some(_) => format!("did not power off within {timeout:?}"),
        None => "cannot be asked to power off (see --stop-with)".into(),
    };
    let mut killing = Killing::begin(folder);
    killing.finish()?;
    terminal::tell(&format!("machine '{name}' {why}, and was killed"));
    Ok(DONE)
}

/// A machine that is being killed.
struct Killing {
    folder: Folder,
    link: Option<Link>,
}

impl Killing {
    /// Tells the Launcher to end the machine.
    fn begin(folder: Folder) -> Self {
        let mut link = Link::to(&folder).ok();
        if let Some(connected) = &mut link
            && connected.call(&Call::Kill {}).is_err()
        {
            link = None;
        }
        Self { folder, link }
    }

    /// Waits for the end. A Launcher that does not end its machine is killed.
    fn finish(&mut self) -> Result<(), MachineError> {
        let Some(link) = &mut self.link else {
            if self.folder.end().is_some() {
                return Ok(());
            }
            // It takes no clients, or has just ended.
            if let Some(pid) = self.folder.launcher() {
                let still = || self.folder.launcher() == Some(pid);
                kill_process(&self.folder.name, pid, still)?;
            }
            return after_the_launcher(&self.folder).map(drop);
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match link.hear(Some(deadline))? {
                Heard::Closed => break,
                Heard::Message(_) => {}
                Heard::Nothing => {
                    let (name, pid) = (&self.folder.name, link.pid);
                    kill_process(name, pid, || is_open(link))?;
                    break;
                }
            }
        }
        after_the_launcher(&self.folder).map(drop)
    }
}

/// Whether the Launcher has not closed the connection yet.
fn is_open(link: &mut Link) -> bool {
    loop {
        match link.arrived() {
            Ok(Heard::Message(_)) => {}
            Ok(Heard::Nothing) | Err(_) => return true,
            Ok(Heard::Closed) => return false,
        }
    }
}

/// Kills a Launcher that does not answer. `lives` says whether it is still
/// there, so that its number is not that of another process.
fn kill_process(
    name: &Name,
    pid: u32,
    lives: impl FnOnce() -> bool,
) -> Result<(), MachineError> {
    let no = || MachineError::DoesNotEnd(name.clone(), pid);
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(no)?;
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(process) if lives() => process,
        // It has ended meanwhile.
        Ok(_) | Err(Errno::SRCH) => return Ok(()),
        Err(_) => return Err(no()),
    };
    pidfd_send_signal(&process, Signal::KILL).map_err(|_| no())
}

pub(super) fn kill(
    names: &[Name],
    keep: bool,
) -> Result<Outcome, MachineError> {
    let Some((place, folders)) = named(names)? else {
        return Ok(DONE);
    };
    if let Some(ended) = folders.iter().find_map(Folder::ended)
        && !names.is_empty()
    {
        return Err(ended);
    }
    // All are told before the first is waited for.
    let folders = folders.into_iter().filter(|folder| folder.end().is_none());
    let mut killing: Vec<Killing> = folders.map(Killing::begin).collect();
    let mut failed = None;
    for machine in &mut killing {
        let mut done = machine.finish();
        if done.is_ok() && !keep {
            done = place.remove(&machine.folder);
        }
        failed = failed.or(done.err());
    }
    place.remove_if_empty();
    failed.map_or(Ok(DONE), Err)
}

/// The machines with these names; all if there are none. `None`: there is no
/// machine at all.
fn named(names: &[Name]) -> Result<Option<(Place, Vec<Folder>)>, MachineError> {
    let Some(place) = Place::open()? else {
        let none = |name: &Name| Err(MachineError::NoSuch(name.clone()));
        return names.first().map_or(Ok(None), none);
    };
    let folders = if names.is_empty() {
        place.list()?
    } else {
        let find = |name| place.find(name);
        names.iter().map(find).collect::<Result<_, _>>()?
    };
    Ok(Some((place, folders)))
}

pub(super) fn rm(names: &[Name]) -> Result<Outcome, MachineError> {
    let Some((place, folders)) = named(names)? else {
        return Ok(DONE);
    };
    let mut failed = None;
    for folder in folders {
        // A machine that has just ended writes its end first.
        if names.is_empty() && folder.end().is_none() {
            continue;
        }
        failed = failed.or(place.remove(&folder).err());
    }
    place.remove_if_empty();
    failed.map_or(Ok(DONE), Err)
}
