//! A run from beginning to end: open, load, run, and leave nothing behind.
//!
//! The order is that of what can go wrong. Everything that has a name is
//! opened first, while nothing has happened yet; then the memory is filled;
//! then the Host starts. From then on there is one way out, whoever wants it:
//! the Guest dies, and the main thread comes back with the reason.

use crate::cli::exit::{FIRST_OF_OURS, Outcome};
use crate::confine::{self, Plan};
use crate::devices::block::DiskError;
use crate::devices::console::{self, Console, Log, Screen};
use crate::devices::net::{Lan, LanError, Tap, TapError};
use crate::devices::{Device, Violation};
use crate::engine::{
    Death, Engine, Exit, Hold, Isolation, Native, RequestError, Setup,
    printable,
};
use crate::loader::{
    self, BootError, Image, InitrdError, KernelError, LoadError,
};
use crate::machine::config::{Config, DeviceConfig, Kernel};
use crate::machine::inputs::Inputs;
use crate::machine::owner::{Owner, ParentError};
use crate::machine::signals::Signals;
use crate::machine::stats::{Counters, Report, Sink};
use crate::memory::GuestMemory;
use crate::needs::{self, Cause, Lack};
use crate::transport::{Bus, BusError, pages_above_ram};
use lg_wire::fast_path;
use libc::{EMFILE, ENFILE};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub mod config;
pub mod crash;
pub mod default_guest;
mod describe;
pub use describe::describe;
mod disks;
mod hints;
pub mod inputs;
pub mod owner;
pub mod signals;
pub mod stats;
pub mod terminal;

/// Why there is no Guest, or no result.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The kernel's file cannot be used.
    #[error("image {}: {error}", path.display())]
    Kernel {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: KernelError,
    },
    /// The initrd's file cannot be used.
    #[error("initrd {}: {error}", path.display())]
    Initrd {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: InitrdError,
    },
    /// Kernel and the like do not fit.
    #[error(transparent)]
    Boot(BootError),
    /// A disk's file cannot be used.
    #[error("disk {}: {error}", path.display())]
    Disk {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: DiskError,
    },
    /// A network between Guests cannot be joined.
    #[error("network {}: {error}", path.display())]
    ShareNet {
        /// The file that they share.
        path: PathBuf,
        /// What is wrong with it.
        error: LanError,
    },
    /// There can be no network with this machine.
    #[error("network: {0}")]
    Tap(#[from] TapError),
    /// The file for the counters cannot be written.
    #[error("statistics {}: it cannot be written: {error}", path.display())]
    Stats {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file for the console's output cannot be written.
    #[error("log {}: it cannot be written: {error}", path.display())]
    Log {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The parent has ended, or cannot be watched.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The bus is full.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The machine lacks something that every run needs.
    #[error(transparent)]
    Lacks(#[from] Lack),
    /// The Host does not start.
    #[error(transparent)]
    Host(#[from] RequestError),
    /// A system call that should not fail did.
    #[error("cannot {0}: {1}")]
    Failed(&'static str, io::Error),
}

/// A parent that has ended counts as this signal.
const TERMINATED: u8 = 15;

impl LaunchError {
    /// A file that cannot be opened because there are too many already is not
    /// to blame.
    fn or_lack(self) -> Self {
        let mut error: &(dyn Error + 'static) = match &self {
            Self::Kernel { error, .. } => error,
            Self::Initrd { error, .. } => error,
            Self::Disk { error, .. } => error,
            Self::ShareNet { error, .. } => error,
            Self::Tap(error) => error,
            Self::Stats { error, .. } | Self::Log { error, .. } => error,
            _ => return self,
        };
        loop {
            let io = error.downcast_ref::<io::Error>();
            let number = io.and_then(io::Error::raw_os_error);
            if let Some(number @ (EMFILE | ENFILE)) = number {
                let error = io::Error::from_raw_os_error(number);
                return Lack::when("open what the guest is given", error)
                    .into();
            }
            let Some(source) = error.source() else {
                return self;
            };
            error = source;
        }
    }

    /// The code that the Launcher ends with.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Kernel {
                error: KernelError::TooLittleMemory { .. },
                ..
            }
            | Self::Initrd {
                error: InitrdError::TooLittleMemory { .. },
                ..
            }
            | Self::Boot(_)
            | Self::Bus(BusError::TooManyDevices(_)) => Outcome::Usage,
            Self::Disk {
                error:
                    DiskError::Lock(Lack {
                        cause: Cause::Refused { .. },
                        ..
                    }),
                ..
            } => Outcome::BadMachine,
            Self::ShareNet {
                error: LanError::Porter(_),
                ..
            } => Outcome::BadMachine,
            Self::Kernel { .. }
            | Self::Initrd { .. }
            | Self::Disk { .. }
            | Self::ShareNet { .. }
            | Self::Tap(_)
            | Self::Stats { .. }
            | Self::Log { .. } => Outcome::BadFile,
            Self::Parent(ParentError::Gone) => Outcome::Signal(TERMINATED),
            Self::Parent(_)
            | Self::Lacks(_)
            | Self::Host(RequestError::Start(_)) => Outcome::BadMachine,
            Self::Bus(BusError::Place(..))
            | Self::Host(_)
            | Self::Failed(..) => Outcome::Failed,
        }
    }
}

/// Runs a Guest on the terminal, from its first instruction to its end.
/// `started` is the time-stamp counter of the Launcher's own beginning.
///
/// # Errors
///
/// [`LaunchError`], whose message is one line and names the cure.
pub fn launch(config: &Config, started: u64) -> Result<Outcome, LaunchError> {
    let start = Instant::now();
    let ignored = signals::ignored();
    signals::survive(ignored).map_err(lacks("catch signals"))?;
    crash::listen(ignored).map_err(lacks("catch signals"))?;
    meet_needs()?;
    let parent = config.die_with.map(owner::find).transpose()?;
    let opened = Opened::open(config).map_err(LaunchError::or_lack)?;
    for hint in hints::about(config, &opened.kernel, opened.initrd.as_ref()) {
        terminal::tell(&hint);
    }
    // From here on nothing is opened any more: what is in the files, and who
    // made it, is unknown.
    let plan = plan(config);
    let mut walls = confine::before_threads(&plan);
    let memory =
        GuestMemory::new(config.memory, pages_above_ram(&opened.devices))
            .map_err(|error| {
                let mb = config.memory >> 20;
                Lack::when(
                    format!("have {mb} MB of memory for the guest"),
                    error,
                )
            })?;
    let initialize = loader::load(
        &memory,
        &opened.kernel,
        opened.initrd.as_ref(),
        &config.kernel.command_line(&config.command_line, started),
    )
    .map_err(|error| named(config, error))?;

    let guest: Arc<dyn Engine> = Native::new(memory);
    let guest_id = opened.devices.iter().find_map(|d| d.guest_id());
    let bus = Arc::new(Bus::new(guest.clone(), opened.devices)?);
    let shared_pages = bus
        .shared_pages()
        .map_err(lacks("keep the networks' files open"))?;
    guest.initialize(Setup {
        guest_id,
        slow_paths: config.slow_paths,
        isolation: config.isolation,
        shared_pages,
        ..Setup::from(initialize)
    })?;

    if config.verbose {
        terminal::tell(&format!(
            "{} MB of memory, physical 0 at {:#x}, start at {:#x}, \
             {} devices and a console, a wall around {}; ready after {:?}",
            config.memory >> 20,
            initialize.page_offset,
            initialize.start,
            config.devices.len(),
            match config.isolation {
                Isolation::Guest => "the guest",
                Isolation::User => "each program",
            },
            start.elapsed(),
        ));
    }
    let ending = Ending::new(guest.clone());
    // Threads have the Guest, too, so it does not end with this function.
    let give_up = |_: &_| ending.guest.kill("the launcher has failed".into());
    Signals::start(&ending, ignored)
        .map_err(lacks("catch signals"))
        .inspect_err(give_up)?;
    Owner::new(config, start, parent, opened.input_end, opened.screen)
        .and_then(|owner| owner.watch(&ending))
        .map_err(lacks("watch for whom the guest runs"))
        .inspect_err(give_up)?;
    walls.push(confine::when_ready(&plan));
    if config.verbose {
        for wall in &walls {
            terminal::tell(&wall.to_string());
        }
    }
    terminal::enter();
    let inputs = Inputs::start(&bus, &guest, &ending);
    let inputs = inputs.map_err(lacks("watch the guest's input"));
    let ended = inputs.and_then(|inputs| {
        let mut run = Run {
            guest,
            bus: &bus,
            inputs,
            sends: 0,
            unheard: 0,
        };
        let death = run.until_death()?;
        Ok((death, run))
    });

    // Whoever counts as the reason: what was begun is finished, and only then
    // may the user type again.
    if ended.is_err() {
        ending.guest.kill("the launcher has failed".into());
    }
    let damage = bus.damage();
    let devices = bus.finish();
    terminal::leave();
    terminal::end_line();
    let (death, run) = ended?;
    let (outcome, words) = ending.outcome(&death);
    if let Some(words) = words {
        ending.tell(&match (&death, damage) {
            (Death::Killed(_) | Death::Lost(_), Some(damage)) => {
                format!("{words}; {damage}")
            }
            _ => words,
        });
    }
    if let Some(stats) = opened.stats {
        let report = Report {
            ending: death.to_string(),
            exit_code: outcome.code(),
            launcher: run.counters(start),
            host: run.guest.counters().host,
            devices,
        };
        stats
            .write(&report)
            .map_err(|e| LaunchError::Failed("write the statistics", e))?;
    }
    Ok(outcome)
}

/// Everything that has a name, open.
struct Opened {
    kernel: Image,
    initrd: Option<File>,
    devices: Vec<Box<dyn Device>>,
    screen: Arc<Screen>,
    /// Raised when the Guest has all of its input, if somebody waits for that.
    input_end: Option<OwnedFd>,
    stats: Option<Sink>,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, LaunchError> {
        let kernel = match &config.kernel {
            Kernel::Embedded => Image::Embedded(default_guest::IMAGE),
            Kernel::File(path) => {
                let file = open_file(path).map_err(|error| {
                    named(config, KernelError::from(error).into())
                })?;
                Image::File(file)
            }
        };
        let initrd = config.initrd.as_ref().map(|path| open_file(path));
        let initrd = initrd
            .transpose()
            .map_err(|e| named(config, InitrdError::from(e).into()))?;
        let mut devices = Vec::with_capacity(config.devices.len() + 1);
        for (n, device) in config.devices.iter().enumerate() {
            let earlier = &config.devices[..n];
            devices.push(open_device(device, earlier, config.slow_paths)?);
        }
        let (console, input_end) = open_console(config)?;
        let screen = console.screen();
        devices.push(Box::new(console));
        Ok(Self {
            kernel,
            initrd,
            devices,
            screen,
            input_end,
            // Last, for it may make a file.
            stats: open_stats(config)?,
        })
    }
}

/// Opens `config`, which stands behind `earlier` devices.
fn open_device(
    config: &DeviceConfig,
    earlier: &[DeviceConfig],
    slow_paths: u32,
) -> Result<Box<dyn Device>, LaunchError> {
    match config {
        DeviceConfig::Disk(disk) => {
            Ok(Box::new(disks::open(disk, earlier, slow_paths)?))
        }
        DeviceConfig::ShareNet(path) => open_network(path, slow_paths),
        DeviceConfig::Tap(config) => Ok(Box::new(Tap::open(config)?)),
    }
}

fn open_network(
    path: &Path,
    slow_paths: u32,
) -> Result<Box<dyn Device>, LaunchError> {
    needs::refused_on_a_network().map_or(Ok(()), Err)?;
    match Lan::join(path) {
        Ok(mut lan) => {
            if slow_paths & fast_path::BATCHES != 0 {
                lan.never_in_batches();
            }
            if slow_paths & fast_path::OUTBOX != 0 {
                lan.never_by_outbox();
            }
            Ok(Box::new(lan))
        }
        Err(error) => Err(LaunchError::ShareNet {
            path: path.to_owned(),
            error,
        }),
    }
}

/// The console, and the event that it raises at the end of its input.
fn open_console(
    config: &Config,
) -> Result<(Console, Option<OwnedFd>), LaunchError> {
    let keep = lacks("keep standard input and output");
    let log = config.log.as_ref().map(|path| {
        Log::open(path).map_err(|error| LaunchError::Log {
            path: path.clone(),
            error,
        })
    });
    let event = || {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok((rustix::io::dup(&event)?, event))
    };
    let ends = config.exit_on_eof.then(event).transpose();
    let (at_end, input_end) = ends.map_err(|e: Errno| keep(e.into()))?.unzip();
    let config = console::Config {
        input: rustix::io::dup(rustix::stdio::stdin())
            .map_err(|error| keep(error.into()))?,
        output: rustix::io::dup(rustix::stdio::stdout())
            .map_err(|error| keep(error.into()))?,
        log: log.transpose()?,
        at_end,
    };
    Ok((Console::new(config), input_end))
}

fn open_stats(config: &Config) -> Result<Option<Sink>, LaunchError> {
    let Some(stats) = &config.stats else {
        return Ok(None);
    };
    match (Sink::open(stats), stats) {
        (Ok(sink), _) => Ok(Some(sink)),
        (Err(error), crate::machine::config::Stats::File(path)) => {
            Err(LaunchError::Stats {
                path: path.clone(),
                error,
            })
        }
        (Err(error), crate::machine::config::Stats::Stdout) => {
            Err(LaunchError::Failed("write to standard output", error))
        }
    }
}

/// What the Launcher still does by name once it is confined.
fn plan(config: &Config) -> Plan {
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let networks = config.devices.iter().filter_map(|device| match device {
        DeviceConfig::ShareNet(path) => folder(&path.canonicalize().ok()?),
        DeviceConfig::Disk(_) | DeviceConfig::Tap(_) => None,
    });
    let stats = match &config.stats {
        Some(crate::machine::config::Stats::File(path)) => folder(path),
        Some(crate::machine::config::Stats::Stdout) | None => None,
    };
    let log = config.log.as_deref().and_then(folder);
    Plan {
        open: config.open_walls,
        networks: networks.collect(),
        removals: stats.into_iter().chain(log).collect(),
    }
}

/// Opens a regular file, and nothing that one would have to wait for.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// An error of the loader, with the name of the file that it is about.
fn named(config: &Config, error: LoadError) -> LaunchError {
    match error {
        LoadError::Kernel(error) => LaunchError::Kernel {
            path: match &config.kernel {
                Kernel::Embedded => "(built in)".into(),
                Kernel::File(path) => path.clone(),
            },
            error,
        },
        LoadError::Initrd(error) => LaunchError::Initrd {
            path: config.initrd.clone().unwrap_or_default(),
            error,
        },
        LoadError::Boot(error) => LaunchError::Boot(error),
    }
}

fn lacks(doing: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |error| Lack::no_thread(doing, error).into()
}

/// Looks for what would fail in the middle of the run.
fn meet_needs() -> Result<(), Lack> {
    confine::hear_of_filters();
    needs::prefer_clone();
    needs::refused(|_| ()).map_or(Ok(()), Err)
}

/// A Guest that runs.
struct Run<'a> {
    guest: Arc<dyn Engine>,
    bus: &'a Bus,
    inputs: Inputs,
    sends: u64,
    unheard: u64,
}

impl Run<'_> {
    /// Serves the Guest until it dies. This is the heart of every Launcher:
    /// what the Guest sends goes to a device, and it runs on.
    fn until_death(&mut self) -> Result<Death, LaunchError> {
        loop {
            match self.guest.run()? {
                Exit::SendDma { dma, key } => {
                    if let Err(violation) = self.send(dma, key) {
                        self.guest.kill(violation.to_string());
                    }
                }
                Exit::BindingsChanged => self.bus.buffers_changed(),
                Exit::BuffersMayBeFree => {}
                Exit::Held => self.guest.wait_until_let_go(),
                Exit::Dead(death) => return Ok(death),
            }
            self.inputs.nudge();
        }
    }

    fn send(&mut self, dma: u32, key: u32) -> Result<(), Violation> {
        self.sends += 1;
        match self.bus.handle_output(dma, key)? {
            Some(used_len) => self
                .guest
                .memory()
                .write_last(dma, used_len)
                .map_err(|bad| Violation(bad.to_string())),
            None => {
                self.unheard += 1;
                Ok(())
            }
        }
    }

    fn counters(&self, start: Instant) -> Counters {
        let elapsed = start.elapsed().as_micros();
        let mut counters = vec![
            ("microseconds", u64::try_from(elapsed).unwrap_or(u64::MAX)),
            ("sends", self.sends),
            ("sends_to_nobody", self.unheard),
            ("huge_pages", self.guest.counters().huge_pages),
        ];
        counters.extend(self.inputs.counters());
        counters
    }
}

/// How long a Guest has to come to a clean point before it is stopped anyway.
const HOLD_TIME: Duration = Duration::from_millis(5);

/// How the user ended the Guest, if it was the user who did. The first one
/// counts.
#[derive(Clone)]
pub struct Ending {
    guest: Arc<dyn Engine>,
    by: Arc<Mutex<Option<(Outcome, String)>>>,
    /// The last words have been said.
    told: Arc<AtomicBool>,
}

impl Ending {
    fn new(guest: Arc<dyn Engine>) -> Self {
        Self {
            guest,
            by: Arc::default(),
            told: Arc::default(),
        }
    }

    /// Ends the Guest with `outcome`, because of something that it did not do
    /// itself. The first reason counts.
    pub fn begin(&self, outcome: Outcome, reason: &str) {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.get_or_insert((outcome, reason.into()));
        drop(by);
        self.guest.kill(reason.into());
    }

    /// Says why the Guest has ended, for whoever comes first.
    pub fn tell(&self, words: &str) {
        if !self.told.swap(true, Ordering::SeqCst) {
            terminal::tell(words);
        }
    }

    /// Whether somebody has ended it already.
    pub fn has_begun(&self) -> bool {
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.is_some()
    }

    /// Holds the Guest, so that it uses no processor while we are stopped.
    /// Waits a moment for it to stand. A dead Guest cannot be held, and need
    /// not be.
    pub fn hold(&self) -> Option<Hold> {
        let hold = self.guest.hold().ok()?;
        hold.wait_for(HOLD_TIME).ok()?;
        Some(hold)
    }

    /// Ends the Guest because it broke the rules of a device.
    pub fn by_violation(&self, violation: &Violation) {
        self.guest.kill(violation.to_string());
    }

    /// Ends the Guest because nobody would hear its input any more.
    pub fn by_deafness(&self, error: &io::Error) {
        self.guest
            .kill(format!("its input cannot be watched: {error}"));
    }

    /// What became of the run, and what there is to tell a person about it.
    fn outcome(&self, death: &Death) -> (Outcome, Option<String>) {
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        match (death, &*by) {
            // A signal may have gone to its processes, too.
            (
                Death::Killed(_) | Death::Lost(_) | Death::Lacks(_),
                Some((outcome, reason)),
            ) => (*outcome, Some(format!("ended {reason}"))),
            _ => (Outcome::from(death), last_words(death)),
        }
    }
}

/// What there is to tell a person about a death, if it is worth a word.
fn last_words(death: &Death) -> Option<String> {
    match death {
        Death::PowerOff(code) if *code < FIRST_OF_OURS => None,
        Death::PowerOff(code) => Some(format!(
            "the guest powered off with code {code}: codes from \
             {FIRST_OF_OURS} up are the launcher's own, so this counts as 1"
        )),
        Death::Crash(text) => {
            Some(format!("CRASH: {}", printable(text.as_bytes())))
        }
        Death::Killed(why) => {
            Some(format!("killed: {}", printable(why.as_bytes())))
        }
        Death::Lost(why) => {
            Some(format!("lost: {}", printable(why.as_bytes())))
        }
        Death::Lacks(lack) => Some(lack.to_string()),
    }
}
