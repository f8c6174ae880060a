//! An engine that runs nothing: a test says what its Guest does.
//!
//! Devices, transports and the machine run against it without a process, in
//! unit tests and in fuzz targets, and only there. Bindings and memory are
//! real, so that a device finds buffers as it would find those of a Guest;
//! interrupts, and the reason of an end, are kept for the test to look at.

use super::bindings::{Binding, Bindings, BoundDma};
use super::death::Death;
use super::debug::{Ask, Stopped, Told};
use super::error::RequestError;
use super::hold::{Hold, Holder};
use super::interface::{Engine, EngineCounters, Exit, Requests, Setup};
use crate::lock::lock;
use crate::memory::GuestMemory;
use lg_abi::dma::{BindCount, Dma};
use lg_abi::shared::LGUEST_IRQS;
use lg_wire::debug::{MAX_OTHERS, Order, Outcome, Stop, WRITABLE, Word, Words};
use lg_wire::disk::{DiskWords, MAX_DISKS};
use lg_wire::mailbox::MAX_TEXT;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a test waits for an event. CI runs each fuzz target for half a
/// minute only.
const PATIENCE: Duration =
    Duration::from_secs(if cfg!(fuzzing) { 5 } else { 60 });

/// A Guest that follows a script.
pub struct Scripted {
    memory: GuestMemory,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// What is shared with a Host that reads disks.
    disks: [DiskWords; MAX_DISKS],
    this: Weak<Self>,
}

#[derive(Default)]
struct Inner {
    /// What is bound.
    all: Vec<Binding>,
    /// The same, as a device searches it.
    bindings: Bindings,
    /// Interrupts that were raised and not taken, each of them once.
    irqs: VecDeque<u8>,
    /// What it does next.
    script: VecDeque<Exit>,
    death: Option<Death>,
    holds: u32,
    initialised: bool,
    /// The answers to [`Exit::ReadDevice`].
    answers: Vec<u32>,
    /// It sleeps, for [`Engine::wait_for_buffers`].
    sleeps: bool,
    /// What a debugger has done with it.
    debugged: Debugged,
}

/// What a debugger sees of such a Guest: registers that are its own, and one
/// instruction after the other, a byte each.
#[derive(Default)]
struct Debugged {
    words: Words,
    breakpoints: Vec<[u32; 3]>,
    fpu: Vec<u8>,
    steps: bool,
}

impl Debugged {
    /// The Guest goes on: why it stops at once.
    fn go_on(&mut self) -> Option<Stopped> {
        let eip = &mut self.words[Word::Eip as usize];
        std::mem::take(&mut self.steps).then(|| {
            *eip = eip.wrapping_add(1);
            let (stop, value) = (Stop::Step, 0);
            Stopped { stop, value }
        })
    }

    /// Carries out an order. Addresses of memory are physical ones.
    fn obey(&mut self, memory: &GuestMemory, ask: &Ask) -> Told {
        let [a, b, c] = ask.arguments;
        let mut bytes = Vec::new();
        let mut outcome = Outcome::Done;
        match ask.order {
            Order::ReadRegisters => {
                bytes =
                    self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
            }
            Order::WriteRegisters => {
                let words = ask.bytes.chunks_exact(4).take(WRITABLE);
                for (to, word) in self.words.iter_mut().zip(words) {
                    let word = word.try_into().unwrap_or_default();
                    *to = u32::from_le_bytes(word);
                }
            }
            Order::ReadFpu | Order::WriteFpu => {
                self.fpu.resize(512, 0);
                let half = &mut self.fpu[a.min(1) as usize * 256..][..256];
                if ask.order == Order::WriteFpu && ask.bytes.len() == 256 {
                    half.copy_from_slice(&ask.bytes);
                }
                bytes = half.to_vec();
            }
            Order::Read => {
                bytes = vec![0; (b as usize).min(MAX_TEXT)];
                if memory.read(a, &mut bytes).is_err() {
                    (bytes, outcome) = (Vec::new(), Outcome::NoSuch);
                }
            }
            Order::Write if memory.write(a, &ask.bytes).is_err() => {
                outcome = Outcome::NoSuch;
            }
            Order::Plant if self.breakpoints.len() >= MAX_OTHERS => {
                outcome = Outcome::Full;
            }
            Order::Plant => self.breakpoints.push([a, b, c]),
            Order::Remove => self.breakpoints.retain(|&x| x != [a, b, c]),
            Order::Prepare => self.steps = a == 1,
            Order::Detach => *self = Self::default(),
            // Two page directories, one of them loaded.
            Order::Directories => {
                bytes = [0; 4].into_iter().chain([0, 16, 0, 0]).collect()
            }
            Order::Write
            | Order::GoOn
            | Order::Walk
            | Order::ReadIn
            | Order::WriteIn
            | Order::ReadFrame => {}
        }
        let value = 0;
        Told {
            outcome,
            value,
            bytes,
        }
    }
}

impl Scripted {
    /// A Guest with this memory, which does nothing yet.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            memory,
            inner: Mutex::default(),
            changed: Condvar::new(),
            disks: Default::default(),
            this: this.clone(),
        })
    }

    /// Adds what [`Engine::run`] comes back with, after what was added before.
    /// After the last of them it blocks.
    pub fn then(&self, exit: Exit) {
        lock(&self.inner).script.push_back(exit);
        self.changed.notify_all();
    }

    /// BIND_DMA of one buffer, in place of what was bound to `key`.
    pub fn bind(&self, key: u32, addr: u32, irq: u8) {
        self.bind_array(key, addr, 1, irq);
    }

    /// BIND_DMA of an array of buffers, in place of what was bound to `key`.
    pub fn bind_array(&self, key: u32, dmas: u32, num: u32, irq: u8) {
        let binding = Binding {
            key,
            dmas,
            num,
            irq,
        };
        self.change_bindings(|all| {
            all.retain(|other| other.key != key);
            all.push(binding);
        });
    }

    /// Nothing is bound to `key` any more.
    pub fn unbind(&self, key: u32) {
        self.change_bindings(|all| all.retain(|other| other.key != key));
    }

    /// Changes the list of bindings. A binding that BIND_DMA would refuse is
    /// left out.
    pub fn change_bindings(&self, change: impl FnOnce(&mut Vec<Binding>)) {
        let mut inner = lock(&self.inner);
        let Inner { all, bindings, .. } = &mut *inner;
        change(all);
        *bindings = Bindings::default();
        all.retain(|binding| {
            let &Binding {
                key,
                dmas,
                num,
                irq,
            } = binding;
            let word = BindCount { count: num, irq }.word();
            irq != 0 && bindings.bind(key, dmas, word)
        });
    }

    /// Whether the Guest sleeps, as far as the engine knows.
    pub fn set_asleep(&self, sleeps: bool) {
        lock(&self.inner).sleeps = sleeps;
    }

    /// Takes the interrupt that was raised first. Waits for one; `None` if none
    /// comes in [`PATIENCE`].
    #[must_use]
    pub fn wait_irq(&self) -> Option<u8> {
        let until = Instant::now() + PATIENCE;
        let mut inner = lock(&self.inner);
        loop {
            if let Some(irq) = inner.irqs.pop_front() {
                return Some(irq);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why it was killed, if it was.
    #[must_use]
    pub fn killed(&self) -> Option<String> {
        match self.death() {
            Some(Death::Killed(reason)) => Some(reason),
            _ => None,
        }
    }

    /// The answers to [`Exit::ReadDevice`] so far.
    #[must_use]
    pub fn answers(&self) -> Vec<u32> {
        lock(&self.inner).answers.clone()
    }

    /// Takes all interrupts that were raised.
    #[must_use]
    pub fn irqs(&self) -> Vec<u8> {
        lock(&self.inner).irqs.drain(..).collect()
    }

    /// Writes an `lguest_dma` with these sections to `addr`. Returns whether
    /// there is memory for it.
    pub fn put_dma(&self, addr: u32, sections: &[(u32, u16)]) -> bool {
        let mut dma = Dma::default();
        let places = dma.addr.iter_mut().zip(&mut dma.len);
        for ((addr, len), section) in places.zip(sections) {
            (*addr, *len) = *section;
        }
        self.memory.write_object(addr, &dma).is_ok()
    }

    /// The word at `addr`; all ones if there is none.
    #[must_use]
    pub fn word(&self, addr: u32) -> u32 {
        self.memory.read_object(addr).unwrap_or(u32::MAX)
    }

    /// `len` bytes from `addr` on; an empty list if they do not exist.
    #[must_use]
    pub fn bytes(&self, addr: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match self.memory.read(addr, &mut bytes) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

impl Requests for Scripted {
    fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn get_dma(&self, key: u32) -> Result<Option<BoundDma>, RequestError> {
        let found = {
            let mut inner = lock(&self.inner);
            if inner.death.is_some() {
                return Err(RequestError::Dead);
            }
            inner.bindings.free_buffer(&self.memory, key)
        };
        found.map_err(|bad| {
            self.kill(format!("bound a buffer with a {bad}"));
            RequestError::Dead
        })
    }

    fn irq(&self, irq: u8) -> Result<(), RequestError> {
        let mut inner = lock(&self.inner);
        if inner.death.is_some() {
            return Err(RequestError::Dead);
        }
        if u32::from(irq) >= LGUEST_IRQS {
            return Err(RequestError::NoSuchIrq(irq));
        }
        // As in the state, where each interrupt is a bit.
        if !inner.irqs.contains(&irq) {
            inner.irqs.push_back(irq);
        }
        self.changed.notify_all();
        Ok(())
    }

    fn disk_words(&self, index: usize) -> Option<&DiskWords> {
        self.disks.get(index)
    }

    fn remove_disk(&self, index: usize) {
        if let Some(disk) = self.disks.get(index) {
            disk.remove();
        }
    }

    fn bindings_in(&self, page: u32) -> Vec<Binding> {
        lock(&self.inner).bindings.in_page(page)
    }

    fn kill(&self, reason: String) {
        let mut inner = lock(&self.inner);
        inner.death.get_or_insert(Death::Killed(reason));
        self.changed.notify_all();
    }
}

impl Engine for Scripted {
    fn initialize(&self, _setup: Setup) -> Result<(), RequestError> {
        let mut inner = lock(&self.inner);
        if std::mem::replace(&mut inner.initialised, true) {
            return Err(RequestError::AlreadyInitialised);
        }
        Ok(())
    }

    fn run(&self) -> Result<Exit, RequestError> {
        let mut inner = lock(&self.inner);
        if !inner.initialised {
            return Err(RequestError::NotInitialised);
        }
        loop {
            if let Some(death) = &inner.death {
                return Ok(Exit::Dead(death.clone()));
            }
            if inner.holds > 0 {
                return Ok(Exit::Held);
            }
            if let Some(stopped) = inner.debugged.go_on() {
                return Ok(Exit::Stopped(stopped));
            }
            match inner.script.pop_front() {
                Some(Exit::Dead(death)) => inner.death = Some(death),
                Some(exit) => return Ok(exit),
                None => {
                    let woken = self.changed.wait(inner);
                    inner = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn answer(&self, value: u32) {
        lock(&self.inner).answers.push(value);
    }

    fn hold(&self) -> Result<Hold, RequestError> {
        let this = self.this.upgrade().ok_or(RequestError::Dead)?;
        let mut inner = lock(&self.inner);
        if inner.death.is_some() {
            return Err(RequestError::Dead);
        }
        inner.holds += 1;
        self.changed.notify_all();
        Ok(Hold::new(this))
    }

    fn wait_until_let_go(&self) {
        let inner = lock(&self.inner);
        let held = |inner: &mut Inner| inner.holds > 0 && inner.death.is_none();
        let free = self.changed.wait_while(inner, held);
        drop(free.unwrap_or_else(PoisonError::into_inner));
    }

    fn debug(&self, ask: Ask) -> Result<Told, RequestError> {
        let mut inner = lock(&self.inner);
        if inner.death.is_some() {
            return Err(RequestError::Dead);
        }
        Ok(inner.debugged.obey(&self.memory, &ask))
    }

    fn wait_for_buffers(&self, _woken: bool) -> bool {
        lock(&self.inner).sleeps
    }

    fn death(&self) -> Option<Death> {
        lock(&self.inner).death.clone()
    }

    fn counters(&self) -> EngineCounters {
        EngineCounters::default()
    }
}

/// A Guest that runs nothing stands at any time.
impl Holder for Scripted {
    fn wait_until_still(
        &self,
        _patience: Option<Duration>,
    ) -> Result<bool, RequestError> {
        match self.death() {
            Some(_) => Err(RequestError::Dead),
            None => Ok(true),
        }
    }

    fn let_go(&self) {
        lock(&self.inner).holds -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_it_is_told_and_stands_while_it_is_held() {
        let guest = Scripted::new(GuestMemory::new(0x4000, 1).unwrap());
        assert_eq!(guest.run(), Err(RequestError::NotInitialised));
        let setup = Setup::from(lg_abi::request::Initialize {
            pfn_limit: 5,
            pgdir: 0,
            start: 0,
            page_offset: 0xC000_0000,
        });
        guest.initialize(setup).unwrap();
        guest.then(Exit::BindingsChanged);
        let holds = [guest.hold().unwrap(), guest.hold().unwrap()];
        for hold in holds {
            assert_eq!(guest.run(), Ok(Exit::Held));
            drop(hold);
        }
        assert_eq!(guest.run(), Ok(Exit::BindingsChanged));
        guest.kill("enough".into());
        let death = Death::Killed("enough".into());
        assert_eq!(guest.run(), Ok(Exit::Dead(death)));
        assert!(guest.hold().is_err());
    }

    #[test]
    fn a_key_has_what_was_bound_last() {
        let guest = Scripted::new(GuestMemory::new(0x4000, 1).unwrap());
        guest.bind(4, 0x1000, 1);
        guest.bind(4, 0x2000, 2);
        guest.bind(8, 0x3000, 3);
        let bound = |addr, irq| Ok(Some(BoundDma { addr, irq }));
        assert_eq!(guest.get_dma(4), bound(0x2000, 2));
        assert_eq!(guest.get_dma(8), bound(0x3000, 3));
        guest.change_bindings(|all| all[1].irq = 40);
        assert_eq!(guest.get_dma(8), Ok(None), "no such interrupt");
        guest.bind(8, 0x3000, 3);
        guest.unbind(4);
        assert_eq!(guest.get_dma(4), Ok(None));
        assert_eq!(guest.bindings_in(0).len(), 1);
    }
}
