//! What a run with a name has more: a folder, a control socket, an end.
//!
//! The folder is claimed before anything else is opened. The thread of the
//! control socket starts last, just before the Guest runs, and ends after its
//! clients have received how the machine has ended.

use super::build::Built;
use super::config::{Config, Kernel, Named};
use super::counted::Counted;
use super::detach::Ready;
use super::ending::Ending;
use super::error::{LaunchError, lacks};
use super::freeze::{self, Before, Snapshots};
use super::notify::Notify;
use super::open::Kept;
use super::quiet::Quiet;
use super::signals;
use super::taken::Attachments;
use crate::cli::exit::Outcome;
use crate::devices::console::Remote;
use crate::devices::console::backlog::{Backlog, now};
use crate::engine::{Engine, Hold};
use crate::exec::multiplexer::Streams;
use crate::machine::terminal;
use crate::machines::claim::{Claim, Files, Record};
use crate::machines::protocol::{Begun, Counts, Devices, Frozen, Traced};
use crate::machines::record::Facts;
use crate::machines::server::{Controlled, Ended, NO_AGENT, Parts, Server};
use crate::needs;
use crate::thread;
use lg_wire::trace::group;
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long the end of the run waits for the control socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a Guest may take to stand still when it is paused.
const PAUSE: Duration = Duration::from_secs(1);

/// SIGKILL: what the end by `lguest kill` counts as.
const KILLED: u8 = 9;

/// A machine with a name that has not started.
pub(super) struct Prepared {
    claim: Claim,
    files: Files,
    named: Named,
    /// The whole path of its kernel's file.
    kernel: Option<String>,
    before: Before,
    ready: Option<Ready>,
    notify: Option<Notify>,
    backlog: Arc<Backlog>,
    /// The pipe to the console: the end that is written.
    typed: OwnedFd,
    news: OwnedFd,
}

/// A machine with a name that runs.
pub(super) struct Running {
    record: Arc<Record>,
    ended: Ended,
    news: OwnedFd,
    done: Receiver<()>,
    _claim: Claim,
}

impl Prepared {
    /// Claims the folder of `named`. Returns also what its console gets.
    pub(super) fn new(
        config: &Config,
        named: &Named,
        ready: Option<Ready>,
    ) -> Result<(Self, Remote), LaunchError> {
        needs::refused_with_a_name().map_or(Ok(()), Err)?;
        if config.agent.is_some() {
            needs::refused_with_an_agent().map_or(Ok(()), Err)?;
        }
        let keep = lacks("make a control socket");
        let keep_disks = lacks("find the folder that it works in");
        let (claim, files) = Claim::make(&named.name, named.replace)?;
        let prepare = || {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let news = eventfd(0, flags)?;
            let (theirs, ours) =
                pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let console = files.console.try_clone()?;
            Ok((news.try_clone()?, news, theirs, ours, console))
        };
        let (wakes, news, theirs, ours, console) = prepare().map_err(keep)?;
        let until = named.until.as_deref();
        let backlog = Arc::new(Backlog::new(console, wakes, until));
        let remote = Remote {
            typed: theirs,
            backlog: Arc::clone(&backlog),
        };
        let prepared = Self {
            claim,
            files,
            named: named.clone(),
            kernel: config.kernel.whole_path(),
            before: freeze::before(config).map_err(keep_disks)?,
            ready,
            notify: Notify::new(),
            backlog,
            typed: ours,
            news,
        };
        Ok((prepared, remote))
    }

    /// Where the end is written.
    pub(super) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.files.record)
    }

    /// Starts the thread of the control socket.
    pub(super) fn start(
        mut self,
        config: &Config,
        built: &Built,
        (kept, streams, devices): (Kept, Option<Streams>, Attachments),
        quiet: &Arc<Quiet>,
        counted: Counted,
        ending: &Ending,
    ) -> Result<Running, LaunchError> {
        let guest = &built.guest;
        let facts = Facts {
            name: self.named.name.clone(),
            pid: std::process::id(),
            started: now(),
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: self.kernel,
            settings: self.named.settings.clone(),
        };
        self.claim.start(&facts).map_err(|error| {
            LaunchError::Failed("write the facts of the machine", error)
        })?;
        let keep = lacks("serve a control socket");
        let ended = Ended::default();
        let built_in = config.kernel == Kernel::Embedded;
        let parts = Parts {
            machine: Box::new(Machine {
                facts,
                backlog: self.backlog,
                guest: Arc::clone(guest),
                ending: ending.clone(),
                hold: None,
                counted,
                snapshots: Snapshots::new(
                    config,
                    built,
                    (self.before, kept),
                    quiet,
                ),
                stop_with: self.named.stop_keys(built_in),
                ready: self.ready,
                notify: self.notify,
                traced: config.tracing.groups,
                streams,
                devices,
            }),
            listener: self.files.listener,
            typed: self.typed,
            news: self.news.try_clone().map_err(&keep)?,
            ended: ended.clone(),
        };
        let (finished, done) = channel();
        thread::start("control", 256 << 10, move || {
            let mut server = Server::new(parts);
            if let Err(error) = server.serve() {
                terminal::tell_or_lose(&format!(
                    "the control socket has failed ({error}): the guest goes \
                     on without it"
                ));
            }
            // The run waits for this at its end.
            let _ = finished.send(());
        })
        .map_err(&keep)?;
        Ok(Running {
            record: self.files.record,
            ended,
            news: self.news,
            done,
            _claim: self.claim,
        })
    }
}

impl Running {
    /// Notes the end, and tells clients. Blocks until they know it, or some
    /// seconds.
    pub(super) fn end(self, outcome: Outcome, reason: &str) {
        if let Some(end) = self.record.write(outcome.code(), reason) {
            self.ended.set(end);
        }
        let _ = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

/// `hold`, when the Guest stands. A hostile Guest may refuse to; then it goes
/// on, because `paused` would not be true.
fn standing(hold: Hold, patience: Duration) -> Result<Hold, String> {
    match hold.wait_for(patience) {
        Ok(true) => Ok(hold),
        Ok(false) => Err(format!(
            "the guest did not stand still within {patience:?}, and runs on: \
             try again, or end it"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// The machine, as its control socket uses it.
struct Machine {
    facts: Facts,
    backlog: Arc<Backlog>,
    guest: Arc<dyn Engine>,
    ending: Ending,
    hold: Option<Hold>,
    counted: Counted,
    snapshots: Snapshots,
    stop_with: Option<String>,
    ready: Option<Ready>,
    notify: Option<Notify>,
    /// What is traced at all times.
    traced: u32,
    streams: Option<Streams>,
    devices: Attachments,
}

impl Controlled for Machine {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn is_paused(&self) -> bool {
        self.hold.is_some()
    }

    fn counts(&self) -> Counts {
        self.counted.counts()
    }

    fn pause(&mut self) -> Result<(), String> {
        if self.hold.is_some() {
            return Ok(());
        }
        let hold = self.guest.hold().map_err(|error| error.to_string())?;
        self.hold = Some(standing(hold, PAUSE)?);
        Ok(())
    }

    fn resume(&mut self) {
        self.hold = None;
    }

    fn freeze(&mut self) -> Result<(Frozen, Vec<OwnedFd>), String> {
        self.snapshots.freeze(&self.facts.settings)
    }

    fn thaw(&mut self) {
        self.snapshots.thaw();
    }

    fn trace(
        &mut self,
        groups: u32,
        sample_every: Duration,
    ) -> Result<(Traced, OwnedFd), String> {
        let file = self.guest.trace_file();
        let file = file.map_err(|error| error.to_string())?;
        let samples = match sample_every.is_zero() {
            true => 0,
            false => group::SAMPLES,
        };
        let groups = self.traced | groups | samples;
        self.guest.set_traced(groups, sample_every);
        let before = group::NAMES.iter().filter(|(_, g)| self.traced & g != 0);
        let before = before.map(|(name, _)| (*name).to_owned()).collect();
        Ok((Traced { before }, file))
    }

    fn end_trace(&mut self) {
        self.guest.set_traced(self.traced, Duration::ZERO);
    }

    fn stop_keys(&self) -> Option<String> {
        self.stop_with.clone()
    }

    fn has_agent(&self) -> bool {
        self.streams.is_some()
    }

    fn exec(&mut self, socket: OwnedFd) -> Result<Begun, String> {
        let streams = self.streams.as_ref().ok_or(NO_AGENT)?;
        let stream = streams.add(socket).map_err(|e| e.to_string())?;
        let open = streams.is_open();
        Ok(Begun { stream, open })
    }

    fn devices(&self) -> Devices {
        self.devices.list()
    }

    fn remove(&mut self, device: &str) -> Result<(), String> {
        if !self.devices.take(device)? {
            self.snapshots.end(&format!(
                "its {device} was removed: take snapshots before that"
            ));
        }
        Ok(())
    }

    fn kill(&mut self) {
        let ending = self.ending.clone();
        let end = move || {
            let outcome = Outcome::Signal(KILLED);
            signals::end(outcome, "by 'lguest kill'", &ending);
        };
        if thread::start("kill", 128 << 10, end).is_err() {
            self.ending
                .begin(Outcome::Signal(KILLED), "by 'lguest kill'");
        }
    }

    fn ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.tell();
        }
        if let Some(notify) = self.notify.take() {
            notify.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Holder, RequestError};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A Guest that never stands.
    #[derive(Default)]
    struct Restless {
        goes_on: AtomicBool,
    }

    impl Holder for Restless {
        fn wait_until_still(
            &self,
            patience: Option<Duration>,
        ) -> Result<bool, RequestError> {
            assert_eq!(patience, Some(PAUSE));
            Ok(false)
        }

        fn let_go(&self) {
            self.goes_on.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_guest_that_does_not_stand_is_not_paused() {
        let guest = Arc::new(Restless::default());
        let held = standing(Hold::new(guest.clone()), PAUSE);
        let said = held.err().unwrap();
        assert!(said.starts_with("the guest did not stand still"), "{said}");
        assert!(guest.goes_on.load(Ordering::SeqCst));
    }
}
