//! The Host as the Launcher sees it: four requests, and a run.
//!
//! In 2007 this was the character device `/dev/lguest`; here it is a type.
//! LHREQ_INITIALIZE comes first, LHREQ_GETDMA finds a buffer to fill,
//! LHREQ_IRQ raises an interrupt, LHREQ_BREAK makes the Guest stop at a clean
//! point; a read runs the Guest until it sends DMA, is broken out of, or has
//! died. Behind the requests stand the processes that run the Guest, and
//! nothing that they write is believed.
//!
//! A [`Guest`] is a handle: clones name the same Guest, and any thread may
//! raise interrupts or look for buffers while one of them runs it.

mod affinity;
pub(crate) use affinity::{Anywhere, STATISTICS};
mod bindings;
pub mod clock;
mod footprint;
mod huge_pages;
mod processes;
pub(crate) use processes::{check_processor, executable_memfd, no_program};
mod state;
pub mod wire;

#[cfg(fuzzing)]
pub mod fuzzing;

use crate::machine::config::Isolation;
use crate::memory::GuestMemory;
use crate::needs::Lack;
pub use bindings::Binding;
use bindings::Bindings;
use huge_pages::HugePages;
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::hypercall::{POWER_DOWN, POWER_DOWN_WITH_CODE};
use lg_abi::request::Initialize;
use lg_abi::shared::LGUEST_IRQS;
use lg_host::fast_path;
use lg_host::kill::Kill;
use lg_host::state::{MAX_VIEWS, input};
use lg_host::turns::{self, Futex};
use lg_switcher::mailbox::{HOSTS_TURN, LAUNCHERS_TURN, Mailbox, Request};
use lg_switcher::view::read_progress;
use processes::Processes;
use rustix::thread::futex;
use state::Shared;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running Guest, or one that is about to run or has died. The last handle
/// that goes takes the Guest's processes with it.
#[derive(Clone)]
pub struct Guest(Arc<Handle>);

/// What the handles share: the Guest, and the thread that watches over it.
struct Handle {
    core: Arc<Core>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

/// A page of the Guest's that lies in another file than its memory, because
/// other Guests share it.
pub struct SharedPage {
    /// Its number.
    pub pfn: u32,
    /// The file whose first page it is. The views inherit a copy.
    pub file: std::os::fd::OwnedFd,
    /// Where its Guest posts frames for the others ([`lg_host::outbox`]).
    pub outbox: std::os::fd::OwnedFd,
}

/// A free buffer that the Guest has bound: the answer to LHREQ_GETDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundDma {
    /// Physical address of the `lguest_dma`.
    pub addr: u32,
    /// The interrupt to raise when it is filled.
    pub irq: u8,
}

/// Why [`Guest::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The Guest sends the `lguest_dma` at physical address `dma` to `key`.
    /// It waits until the next `run`.
    SendDma {
        /// Physical address of the `lguest_dma`, checked to be there whole.
        dma: u32,
        /// The key, checked to be a multiple of 4 below the limit.
        key: u32,
    },
    /// LHREQ_BREAK: the Guest stands at a clean point.
    Broken,
    /// The Guest has ended, and will not run again.
    Dead(Death),
}

/// How a Guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It powered itself off, with an exit code (0 where it named none).
    PowerOff(u8),
    /// It called CRASH with this message (made printable).
    Crash(String),
    /// The Host or the Launcher killed it for this reason.
    Killed(String),
    /// A process that runs it has gone: killed from outside, or fallen over.
    Lost(String),
    /// The machine refuses something without which it cannot go on.
    Lacks(Lack),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff(0) => f.write_str("powered off"),
            Self::PowerOff(code) => write!(f, "powered off with code {code}"),
            Self::Crash(message) => write!(f, "CRASH: {message}"),
            Self::Killed(why) | Self::Lost(why) => f.write_str(why),
            Self::Lacks(lack) => lack.fmt(f),
        }
    }
}

/// A request that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// LHREQ_INITIALIZE has not come yet (EINVAL).
    #[error("the guest has not been initialised")]
    NotInitialised,
    /// LHREQ_INITIALIZE came twice (EBUSY).
    #[error("the guest has been initialised already")]
    AlreadyInitialised,
    /// There is no such interrupt (EINVAL).
    #[error("there is no interrupt {0}: they go from 0 to 31")]
    NoSuchIrq(u32),
    /// The Guest is dead (ENOENT).
    #[error("the guest is dead")]
    Dead,
    /// The processes of the Guest could not be started.
    #[error(transparent)]
    Start(#[from] Lack),
}

impl Guest {
    /// A Guest with this memory. Nothing runs yet.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Self {
        clock::start();
        let core = Core {
            huge_pages: Arc::new(HugePages::new(&memory)),
            memory,
            running: OnceLock::new(),
            id: AtomicU32::new(std::process::id()),
            slow_paths: AtomicU32::new(0),
            user_processes: AtomicBool::new(false),
            bindings: Mutex::default(),
            bindings_changed: OnceLock::new(),
            buffers_may_be_free: OnceLock::new(),
            conversation: Mutex::new(Conversation::NotBegun),
            waiting: AtomicBool::new(false),
            broken: Mutex::new(false),
            unbroken: Condvar::new(),
            death: Mutex::new(None),
            refused: Mutex::new(None),
        };
        let (core, watcher) = (Arc::new(core), Mutex::new(None));
        Self(Arc::new(Handle { core, watcher }))
    }

    /// The Guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.0.core.memory
    }

    /// The number that the Guest is told to have among its like; it makes its
    /// Ethernet address of it. Counts before LHREQ_INITIALIZE; by default the
    /// Launcher's process number.
    pub fn set_id(&self, id: u16) {
        self.0.core.id.store(u32::from(id), Ordering::Relaxed);
    }

    /// Short cuts that the Host must not take: bits of
    /// [`lg_host::fast_path`]. Counts before LHREQ_INITIALIZE.
    pub fn set_slow_paths(&self, paths: u32) {
        self.0.core.slow_paths.store(paths, Ordering::Relaxed);
    }

    /// What keeps user code from its kernel. Counts before LHREQ_INITIALIZE.
    pub fn set_isolation(&self, isolation: Isolation) {
        let user_processes = isolation == Isolation::User;
        self.0
            .core
            .user_processes
            .store(user_processes, Ordering::Relaxed);
    }

    /// `changed` is called after every BIND_DMA that worked, while the Guest
    /// waits. Only the first one counts.
    pub fn on_bindings_changed(
        &self,
        changed: impl Fn() + Send + Sync + 'static,
    ) {
        let _ = self.0.core.bindings_changed.set(Box::new(changed));
    }

    /// `call` is called after [`Self::wait_for_buffers`] when the Guest may
    /// have freed a buffer. The Guest stands still meanwhile. Only the first
    /// one counts.
    pub fn on_buffers_may_be_free(
        &self,
        call: impl Fn() + Send + Sync + 'static,
    ) {
        let _ = self.0.core.buffers_may_be_free.set(Box::new(call));
    }

    /// Some input waits for a buffer: from now on the Host tells once when the
    /// Guest may have freed one. A Guest frees buffers in its own memory, so
    /// the Host does not know it; but a Guest that has nothing more to do, has
    /// freed what it is going to free. `woken`: the Host tells also when the
    /// Guest wakes up.
    ///
    /// Answers whether the Guest sleeps. A caller that has `woken` set and
    /// finds no buffer *after* such an answer can wait without a time limit:
    /// no buffer is freed before the Host tells.
    #[must_use]
    pub fn wait_for_buffers(&self, woken: bool) -> bool {
        let Some(running) = self.0.core.running.get() else {
            return false;
        };
        let woken = if woken { input::WHEN_WOKEN } else { 0 };
        let waits = running.shared.input_waits();
        waits.fetch_or(input::WHEN_IDLE | woken, Ordering::SeqCst);
        // A search that ends before all buffers were looked at proves nothing.
        let whole = !lock(&self.0.core.bindings).some_are_long();
        running.shared.asleep().load(Ordering::SeqCst) != 0 && whole
    }

    /// The arrays of buffers that are bound to keys in the page at `page`.
    #[must_use]
    pub fn bindings_in(&self, page: u32) -> Vec<Binding> {
        lock(&self.0.core.bindings).in_page(page)
    }

    /// LHREQ_INITIALIZE: starts the processes, ready for the first `run`.
    ///
    /// # Errors
    ///
    /// [`RequestError::AlreadyInitialised`], [`RequestError::Start`].
    pub fn initialize(
        &self,
        request: &Initialize,
        shared_pages: Vec<SharedPage>,
    ) -> Result<(), RequestError> {
        let core = &self.0.core;
        // Whoever comes second waits here and finds that it is the second.
        let mut watcher = lock(&self.0.watcher);
        if core.running.get().is_some() {
            return Err(RequestError::AlreadyInitialised);
        }
        let running = core.start(request, &shared_pages)?;
        let _ = core.running.set(running);
        let watched = Arc::clone(core);
        let thread = std::thread::Builder::new()
            .name("watcher".into())
            .stack_size(WATCHER_STACK)
            .spawn(move || watched.watch())
            .map_err(|error| {
                Lack::no_thread("watch the guest's processes", error)
            })?;
        *watcher = Some(thread);
        Ok(())
    }

    /// LHREQ_GETDMA: the first free buffer that the Guest has bound to `key`;
    /// `None` when it has bound none, or all are full. A Guest that has bound
    /// memory which it does not have dies of it here.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    pub fn get_dma(&self, key: u32) -> Result<Option<BoundDma>, RequestError> {
        self.0.core.alive()?;
        let core = &self.0.core;
        let found = lock(&core.bindings).free_buffer(&core.memory, key);
        found.map_err(|bad| {
            self.kill(format!("bound a buffer with a {bad}"));
            RequestError::Dead
        })
    }

    /// LHREQ_IRQ: raises interrupt `irq`; wakes the Guest if it sleeps.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoSuchIrq`], [`RequestError::NotInitialised`],
    /// [`RequestError::Dead`].
    pub fn irq(&self, irq: u32) -> Result<(), RequestError> {
        let running = self.0.core.alive()?;
        if irq >= LGUEST_IRQS {
            return Err(RequestError::NoSuchIrq(irq));
        }
        turns::raise(running.shared.irqs(), irq);
        // Who stands still looks at the interrupts before he goes on. If we
        // come too late for that look, `stands` was false before it, and so
        // it is false now.
        if !running.stands.load(Ordering::SeqCst) {
            running.kick();
        }
        Ok(())
    }

    /// LHREQ_BREAK: `true` makes `run` come back with [`Exit::Broken`], and
    /// blocks until somebody says `false`; `false` lets the Guest go on. One
    /// that runs and does not stop, however often it is told, dies of it.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    pub fn set_break(&self, on: bool) -> Result<(), RequestError> {
        let core = &self.0.core;
        let running = core.alive()?;
        let wanted = running.shared.break_wanted();
        let mut broken = lock(&core.broken);
        *broken = on;
        wanted.store(u32::from(on), Ordering::SeqCst);
        if !on {
            core.unbroken.notify_all();
            return Ok(());
        }
        running.kick();
        let mut told = 0;
        while *broken && core.death().is_none() {
            let (guard, result) = core
                .unbroken
                .wait_timeout(broken, TELL_AGAIN)
                .unwrap_or_else(PoisonError::into_inner);
            broken = guard;
            // One that stands, or waits for us, need not be told again.
            let runs = core.waiting.load(Ordering::SeqCst);
            if !result.timed_out() || !runs {
                told = 0;
                continue;
            }
            told += 1;
            running.kick_everybody();
            if told > TELL_MOST {
                drop(broken);
                self.kill("does not stop, however often it is told");
                return Err(RequestError::Dead);
            }
        }
        drop(broken);
        core.alive().map(drop)
    }

    /// Runs the Guest until something has to be done for it. Blocks. One
    /// thread runs it at a time; a second one waits for its turn.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`].
    pub fn run(&self) -> Result<Exit, RequestError> {
        let core = &self.0.core;
        let running = core.running.get().ok_or(RequestError::NotInitialised)?;
        let mut conversation = lock(&core.conversation);
        loop {
            if let Some(death) = core.death() {
                return Ok(Exit::Dead(death));
            }
            if *conversation == Conversation::Broken && *lock(&core.broken) {
                return Ok(Exit::Broken);
            }
            conversation.go_on(running);
            if !core.wait_for_request(running) {
                continue;
            }
            let mailbox = running.shared.mailbox();
            running.stands.store(!running.kick_always, Ordering::SeqCst);
            let exit =
                core.serve(mailbox, &running.processes, &mut conversation);
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// Ends the Guest for `reason`: the next `run` says so. The first reason
    /// wins.
    pub fn kill(&self, reason: impl Into<String>) {
        self.0.core.die(Death::Killed(reason.into()));
    }

    /// Keeps the calling thread on the processor that the Guest is kept on,
    /// for one that wakes it often: the way to another processor is long.
    /// `at` is where the thread was kept last.
    pub fn stay_close(&self, at: &mut Option<usize>) {
        if let Some(running) = self.0.core.running.get() {
            running.processes.join(at);
        }
    }

    /// How many pieces of its memory have become large pages.
    #[must_use]
    pub fn huge_pages(&self) -> u64 {
        self.0.core.huge_pages.made()
    }

    /// All counts that are not zero, by name. After the Guest's end they are
    /// complete; before, they are where it is. A Guest that has broken into
    /// its Host may make them up.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let running = self.0.core.running.get();
        running
            .map(|running| running.shared.counters())
            .unwrap_or_default()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(running) = self.core.running.get() {
            running.processes.stop_watching();
            running.processes.kill_all();
        }
        if let Some(watcher) = lock(&self.watcher).take() {
            // A watcher that panicked has nothing left to tell us.
            let _ = watcher.join();
        }
    }
}

/// The watcher only ever waits for a death and reports it.
const WATCHER_STACK: usize = 64 << 10;

/// How long a Guest has to come to a clean point before it is told again, as
/// no word that it may have falsified can prevent ...
const TELL_AGAIN: Duration = Duration::from_millis(250);

/// ... and how often it is told: far longer than an honest Host is busy.
const TELL_MOST: u32 = 40;

/// How long a death may go unnoticed by a thread that is just falling asleep.
const NUDGE_AGAIN: Duration = Duration::from_millis(5);

/// The Guest itself, known to all handles and to the watcher.
struct Core {
    memory: GuestMemory,
    huge_pages: Arc<HugePages>,
    running: OnceLock<Running>,
    id: AtomicU32,
    slow_paths: AtomicU32,
    /// User code runs in processes of its own.
    user_processes: AtomicBool,
    bindings: Mutex<Bindings>,
    bindings_changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    buffers_may_be_free: OnceLock<Box<dyn Fn() + Send + Sync>>,
    conversation: Mutex<Conversation>,
    /// A thread sleeps on the mailbox's turn, or is about to.
    waiting: AtomicBool,
    /// LHREQ_BREAK is on.
    broken: Mutex<bool>,
    unbroken: Condvar,
    death: Mutex<Option<Death>>,
    /// Why the last view could not be started, if it could not.
    refused: Mutex<Option<Lack>>,
}

/// What there is once the Guest has been initialised.
struct Running {
    shared: Shared,
    processes: Processes,
    /// They may run on any processor.
    spread: bool,
    /// The Host waits for an answer, and the Guest stands still: interrupts
    /// need no kick. Never true with [`fast_path::NO_KICK`].
    stands: AtomicBool,
    kick_always: bool,
}

/// What a request may want of the processes. Who fuzzes the mailbox has none.
trait Views {
    /// Starts the process of view `slot`.
    fn start_view(&self, slot: u32) -> Result<(), Lack>;

    /// Moves the Guest to a better processor, if there is one.
    fn balance(&self);
}

/// Where we stand in the conversation with the Host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conversation {
    /// The first view still waits for the run token.
    NotBegun,
    /// The Guest runs.
    HostsTurn,
    /// The Host waits for the answer to a request.
    Owed,
    /// The Host waits, for it was broken out of.
    Broken,
}

impl Conversation {
    /// Gives the turn to the Host, if it is not its turn already.
    fn go_on(&mut self, running: &Running) {
        let mailbox = running.shared.mailbox();
        match *self {
            Self::NotBegun => {
                running.shared.set_tsc_khz();
                if !running.spread {
                    running.processes.settle();
                }
                turns::pass::<Kernel>(running.shared.first_run_token());
            }
            Self::Owed | Self::Broken => {
                running.stands.store(false, Ordering::SeqCst);
                turns::give::<Kernel>(&mailbox.turn, HOSTS_TURN);
            }
            Self::HostsTurn => {}
        }
        *self = Self::HostsTurn;
    }
}

impl Core {
    fn start(
        &self,
        request: &Initialize,
        pages: &[SharedPage],
    ) -> Result<Running, Lack> {
        let shared = Shared::new()
            .map_err(|error| Lack::when("have memory for the guest", error))?;
        let id = self.id.load(Ordering::Relaxed).to_le_bytes();
        let id = u16::from_le_bytes([id[0], id[1]]);
        let pfns: Vec<u32> = pages.iter().map(|page| page.pfn).collect();
        let slow_paths = self.slow_paths.load(Ordering::Relaxed);
        let limit = self.memory.limit();
        let user_processes = self.user_processes.load(Ordering::Relaxed);
        shared.set_up(request, limit, id, slow_paths, user_processes, &pfns);
        let processes =
            Processes::start(&self.memory, &shared, pages, user_processes)?;
        let running = Running {
            shared,
            processes,
            spread: slow_paths & fast_path::ONE_PROCESSOR != 0,
            stands: AtomicBool::new(false),
            kick_always: slow_paths & fast_path::NO_KICK != 0,
        };
        if let Err(lack) = running.processes.start_view(0) {
            let noted = running.shared.mailbox().reply.load(Ordering::SeqCst);
            let progress = read_progress(noted);
            let killed = running.processes.killed_for(progress);
            running.processes.kill_all();
            return Err(killed.unwrap_or(lack));
        }
        Ok(running)
    }

    fn alive(&self) -> Result<&Running, RequestError> {
        let running = self.running.get().ok_or(RequestError::NotInitialised)?;
        match self.death() {
            Some(_) => Err(RequestError::Dead),
            None => Ok(running),
        }
    }

    fn death(&self) -> Option<Death> {
        lock(&self.death).clone()
    }

    /// The Guest is over; the first to say so is believed.
    fn die(&self, death: Death) {
        lock(&self.death).get_or_insert(death);
        let Some(running) = self.running.get() else {
            return;
        };
        running.processes.kill_all();
        self.unbroken.notify_all();
        // Nobody of them is left to change the turn.
        turns::call_off::<Kernel>(
            &running.shared.mailbox().turn,
            LAUNCHERS_TURN,
            || self.waiting.load(Ordering::SeqCst),
            || std::thread::park_timeout(NUDGE_AGAIN),
        );
    }

    /// The watcher's life.
    fn watch(&self) {
        let Some(running) = self.running.get() else {
            return;
        };
        if let Some(end) = running.processes.wait_for_death() {
            self.die(Death::Lost(end));
        }
    }

    /// Sleeps until it is our turn. Answers whether there is a request: not
    /// if the Guest has died meanwhile.
    fn wait_for_request(&self, running: &Running) -> bool {
        let turn = &running.shared.mailbox().turn;
        self.waiting.store(true, Ordering::SeqCst);
        let alive = || self.death().is_none();
        let came = turns::wait_for::<Kernel>(turn, LAUNCHERS_TURN, alive);
        self.waiting.store(false, Ordering::SeqCst);
        came
    }

    /// Reads the request, once, and carries it out. Answers why `run` has to
    /// come back, if it has to.
    fn serve(
        &self,
        mailbox: &Mailbox,
        views: &dyn Views,
        conversation: &mut Conversation,
    ) -> Option<Exit> {
        *conversation = Conversation::Owed;
        let number = mailbox.request.load(Ordering::SeqCst);
        let [a, b, c] =
            [0, 1, 2].map(|n| mailbox.arguments[n].load(Ordering::SeqCst));
        let reply = |ok: bool| {
            mailbox.reply.store(u32::from(ok), Ordering::SeqCst);
        };
        match Request::from_number(number) {
            Some(Request::SendDma) => match self.check_send(a, b) {
                Ok(()) => Some(Exit::SendDma { key: a, dma: b }),
                Err(why) => Some(self.killed(why)),
            },
            Some(Request::BindDma) => {
                if let Err(why) = self.check_key(a) {
                    return Some(self.killed(why));
                }
                let ok = lock(&self.bindings).bind(a, b, c);
                if let (true, Some(changed)) = (ok, self.bindings_changed.get())
                {
                    changed();
                }
                self.tell_of_buffers();
                reply(ok);
                None
            }
            Some(Request::StartView) => {
                // A machine without room for one more process is no reason
                // to die: the Host then makes do with the views it has.
                let started = views.start_view(a);
                reply(started.is_ok());
                *lock(&self.refused) = started.err();
                None
            }
            Some(Request::Balance) => {
                views.balance();
                let slow_paths = self.slow_paths.load(Ordering::Relaxed);
                if slow_paths & fast_path::HUGE_PAGES == 0 {
                    HugePages::consider(&self.huge_pages, &self.memory);
                }
                None
            }
            Some(Request::BuffersMayBeFree) => {
                self.tell_of_buffers();
                None
            }
            Some(Request::Broken) => {
                *conversation = Conversation::Broken;
                None
            }
            Some(Request::Crash) => {
                let (text, len) = mailbox.read_text();
                let death = last_words(&text[..len]);
                self.die(death.clone());
                Some(Exit::Dead(self.death().unwrap_or(death)))
            }
            Some(Request::Killed) => {
                let (text, len) = mailbox.read_text();
                let mut why = printable(&text[..len]);
                if why.is_empty() {
                    why.push_str("its Host did not say why");
                }
                Some(self.killed(why))
            }
            None => Some(self.killed(format!(
                "its Host asked for {number}, which does not exist"
            ))),
        }
    }

    fn tell_of_buffers(&self) {
        if let Some(call) = self.buffers_may_be_free.get() {
            call();
        }
    }

    fn killed(&self, reason: String) -> Exit {
        let refused = lock(&self.refused).take();
        let refused = refused.filter(|_| reason == Kill::NoView.to_string());
        let lack = refused.or_else(|| Lack::of_last_words(&reason));
        let death = lack.map_or(Death::Killed(reason), Death::Lacks);
        self.die(death.clone());
        Exit::Dead(self.death().unwrap_or(death))
    }

    fn check_key(&self, key: u32) -> Result<(), String> {
        if !key.is_multiple_of(KEY_ALIGN) {
            return Err(format!("DMA key {key:#x} is not a multiple of 4"));
        }
        self.memory
            .section(key, KEY_ALIGN)
            .map(drop)
            .map_err(|_| format!("bad DMA key {key:#x}"))
    }

    fn check_send(&self, key: u32, dma: u32) -> Result<(), String> {
        self.check_key(key)?;
        self.memory
            .section(dma, Dma::SIZE)
            .map(drop)
            .map_err(|bad| format!("sent a buffer at a {bad}"))
    }
}

impl Running {
    /// Something has come from outside: the Guest must notice. If it sleeps,
    /// or says so, it is woken; else the view that runs, or says so, is sent
    /// a signal. Whoever lies about it has itself not noticed.
    fn kick(&self) {
        let shared = &self.shared;
        turns::kick::<Kernel>(shared.kick(), shared.asleep(), || {
            let current = shared.current().load(Ordering::SeqCst);
            self.processes.kick(current);
        });
    }

    /// The same, without asking the Guest whom to kick.
    fn kick_everybody(&self) {
        let kick = self.shared.kick();
        kick.fetch_add(1, Ordering::SeqCst);
        Kernel::wake(kick);
        for slot in (0..).take(MAX_VIEWS) {
            self.processes.kick(slot);
        }
    }
}

/// What the message of a CRASH means.
fn last_words(message: &[u8]) -> Death {
    if message == POWER_DOWN {
        return Death::PowerOff(0);
    }
    let code = message.strip_prefix(POWER_DOWN_WITH_CODE);
    let code = code.and_then(|code| std::str::from_utf8(code).ok());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => Death::PowerOff(code),
        None => Death::Crash(printable(message)),
    }
}

/// A Guest's text as it may stand on a terminal: control characters are
/// shown, not sent.
#[must_use]
pub fn printable(text: &[u8]) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(text).trim_end().chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The kernel, for those who wait for their turn.
struct Kernel;

impl Futex for Kernel {
    type Word = AtomicU32;

    fn wait(word: &AtomicU32, value: u32) {
        // Woken, interrupted, or too late to sleep: who waits looks again.
        let _ = futex::wait(word, futex::Flags::empty(), value, None);
    }

    fn wake(word: &AtomicU32) {
        // There is no way for this to fail on memory that is mapped.
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }
}

/// Locks; a thread that panicked with the lock has left nothing half done
/// that the Guest's death would not put right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_understood() {
        assert_eq!(last_words(b"Power down"), Death::PowerOff(0));
        assert_eq!(last_words(b"Power down with code 7"), Death::PowerOff(7));
        for other in ["Power down with code 999", "Power downs", "panic"] {
            let death = Death::Crash(other.into());
            assert_eq!(last_words(other.as_bytes()), death);
        }
    }

    #[test]
    fn a_guests_text_cannot_speak_to_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }
}
