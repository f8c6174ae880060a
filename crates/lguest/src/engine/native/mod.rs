//! The engine that runs a Guest's instructions on the processor.
//!
//! The requests go to the processes that run the Guest, and nothing that they
//! write is trusted. In reading order: [`core`] is what is known of a Guest;
//! [`conversation`] is what its Host asks of the Launcher, and [`turn`] which
//! of the two has to answer; [`death`] ends it, [`holds`] and [`pause`] stop it
//! for a while; [`running`] is what there is once it has been initialised: the
//! shared [`state`], and the [`processes`], which [`spawn`] starts and
//! [`watch`] watches; [`describe`] says how one ended, and [`placement`] keeps
//! them on one processor.

use self::core::Core;
use self::running::Running;
use super::bindings::{Binding, BoundDma};
use super::clock;
use super::death::Death;
use super::debug::{Ask, Told};
use super::error::RequestError;
use super::frozen::{Frozen, Resumed};
use super::hold::Hold;
use super::interface::{Engine, EngineCounters, Exit, Requests, Setup};
use crate::lock::lock;
use crate::memory::GuestMemory;
use crate::needs::Lack;
use crate::thread;
use lg_abi::shared::LGUEST_IRQS;
use lg_wire::disk::DiskWords;
use lg_wire::last::LastWords;
use lg_wire::state::input;
use lg_wire::turns;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

mod core;

mod turn;

mod conversation;

mod death;

mod holds;

mod pause;

mod running;

mod state;

mod processes;

mod slots;

mod spawn;
pub use spawn::view_program;
pub(crate) use spawn::{check_processor, no_program};

mod child;

mod watch;

mod describe;

mod placement;

mod affinity;
pub(crate) use affinity::{Anywhere, STATISTICS};

mod footprint;

mod huge_pages;

mod kernel;

#[cfg(fuzzing)]
pub mod fuzzing;

/// A running Guest, or one that is about to run or has died. Its processes
/// end with it.
pub struct Native {
    core: Arc<Core>,
    /// The thread that waits for the end of the Guest's processes.
    watcher: Mutex<Option<JoinHandle<()>>>,
}

/// The watcher only waits for a death and reports it.
const WATCHER_STACK: usize = 64 << 10;

impl Native {
    /// A Guest with this memory. Nothing runs yet.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Arc<Self> {
        clock::start();
        Arc::new(Self {
            core: Arc::new(Core::new(memory)),
            watcher: Mutex::new(None),
        })
    }
}

impl Requests for Native {
    fn memory(&self) -> &GuestMemory {
        &self.core.memory
    }

    fn get_dma(&self, key: u32) -> Result<Option<BoundDma>, RequestError> {
        let core = &self.core;
        core.alive()?;
        let found = lock(&core.bindings).free_buffer(&core.memory, key);
        found.map_err(|bad| {
            self.kill(format!("bound a buffer with a {bad}"));
            RequestError::Dead
        })
    }

    fn irq(&self, irq: u8) -> Result<(), RequestError> {
        let running = self.core.alive()?;
        if u32::from(irq) >= LGUEST_IRQS {
            return Err(RequestError::NoSuchIrq(irq));
        }
        running.shared.trace_raised(irq);
        turns::raise(running.shared.irqs(), irq.into());
        // A Host that stands still looks at the interrupts before it goes on,
        // and needs no kick. `stands` becomes false before that look. So if
        // this interrupt came too late for the look, `stands` is false here.
        if !running.stands.load(Ordering::SeqCst) {
            running.kick();
        }
        Ok(())
    }

    fn config_changed(&self, irq: u8) -> Result<(), RequestError> {
        let running = self.core.alive()?;
        if u32::from(irq) >= LGUEST_IRQS {
            return Err(RequestError::NoSuchIrq(irq));
        }
        let changes = running.shared.config_changes();
        changes.fetch_or(1 << irq, Ordering::SeqCst);
        self.irq(irq)
    }

    fn disk_words(&self, index: usize) -> Option<&DiskWords> {
        let running = self.core.running.get()?;
        let disks = running.shared.disks().get(..running.disks)?;
        disks.get(index)
    }

    fn remove_disk(&self, index: usize) {
        if let Some(running) = self.core.running.get() {
            running.remove_disk(index);
        }
    }

    fn bindings_in(&self, page: u32) -> Vec<Binding> {
        lock(&self.core.bindings).in_page(page)
    }

    fn kill(&self, reason: String) {
        self.core.die(Death::Killed(reason));
    }

    fn stay_close(&self, at: &mut Option<usize>) {
        if let Some(running) = self.core.running.get() {
            running.processes.join(at);
        }
    }
}

impl Engine for Native {
    fn initialize(&self, setup: Setup) -> Result<(), RequestError> {
        let core = &self.core;
        // A second call waits here, and then finds the Guest initialised.
        let mut watcher = lock(&self.watcher);
        if core.running.get().is_some() {
            return Err(RequestError::AlreadyInitialised);
        }
        if let Some(Resumed { state, .. }) = &setup.resumed {
            if !state.is_possible(core.memory.limit()) {
                return Err(RequestError::BadState);
            }
            lock(&core.bindings).restore(&state.bindings);
        }
        let running = Running::start(&core.memory, &setup)?;
        let _ = core.running.set(running);
        let watched = Arc::clone(core);
        let watch = move || watched.watch();
        let thread = thread::start("watcher", WATCHER_STACK, watch);
        let thread = thread.map_err(|error| {
            Lack::no_thread("watch the guest's processes", error)
        })?;
        *watcher = Some(thread);
        Ok(())
    }

    fn run(&self) -> Result<Exit, RequestError> {
        self.core.run()
    }

    fn answer(&self, value: u32) {
        if let Some(running) = self.core.running.get() {
            let reply = &running.shared.mailbox().reply;
            reply.store(value, Ordering::SeqCst);
        }
    }

    fn hold(&self) -> Result<Hold, RequestError> {
        let running = self.core.alive()?;
        self.core.holds.add(|| running.ask_to_stop());
        Ok(Hold::new(Arc::<Core>::clone(&self.core)))
    }

    fn wait_until_let_go(&self) {
        self.core.wait_until_let_go();
    }

    fn debug(&self, ask: Ask) -> Result<Told, RequestError> {
        self.core.debug(ask)
    }

    fn freeze(&self) -> Result<Frozen, RequestError> {
        let running = self.core.alive()?;
        if !self.core.holds.is_still() {
            return Err(RequestError::NotHeld);
        }
        let [memory, state_file, copies] = running.files()?;
        let bindings = lock(&self.core.bindings).all();
        Ok(Frozen {
            state: running.shared.engine_state(bindings),
            memory,
            state_file,
            copies,
        })
    }

    fn wait_for_buffers(&self, woken: bool) -> bool {
        let Some(running) = self.core.running.get() else {
            return false;
        };
        let woken = if woken { input::WHEN_WOKEN } else { 0 };
        let waits = running.shared.input_waits();
        waits.fetch_or(input::WHEN_IDLE | woken, Ordering::SeqCst);
        // If a search ends before all buffers were looked at, one may be free.
        let whole = !lock(&self.core.bindings).some_are_long();
        running.shared.asleep().load(Ordering::SeqCst) != 0 && whole
    }

    fn death(&self) -> Option<Death> {
        self.core.death()
    }

    fn processor_times(&self) -> Vec<(i32, Duration)> {
        let ours = std::process::id().cast_signed();
        let mut times = vec![(ours, clock::used_by_us())];
        if let Some(running) = self.core.running.get() {
            times.extend(running.processes.times());
        }
        times
    }

    fn taken_bytes(&self) -> u64 {
        let running = self.core.running.get();
        running.map_or(0, Running::taken_bytes)
    }

    fn counters(&self) -> EngineCounters {
        let running = self.core.running.get();
        running.map(Running::counters).unwrap_or_default()
    }

    fn last_words(&self) -> Option<LastWords> {
        Some(self.core.running.get()?.shared.last())
    }

    fn set_traced(&self, groups: u32, sample_every: Duration) {
        if let Some(running) = self.core.running.get() {
            running.set_traced(groups, sample_every);
        }
    }

    fn trace_file(&self) -> Result<OwnedFd, RequestError> {
        let running = self.core.running.get();
        let running = running.ok_or(RequestError::NotInitialised)?;
        Ok(running.trace_file()?)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if let Some(running) = self.core.running.get() {
            running.processes.stop_watching();
            running.processes.kill_all();
        }
        if let Some(watcher) = lock(&self.watcher).take() {
            // If the watcher has panicked, there is no result to use.
            let _ = watcher.join();
        }
    }
}

#[cfg(test)]
mod tests;
