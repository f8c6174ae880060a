//! A Host for devices: it runs nothing, and binds what it is told.
//!
//! Memory is small, so that addresses meet; one buffer is bound at a time.

use crate::input::Input;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use lguest::engine::{Binding, BoundDma, RequestError, Requests};
use lguest::memory::GuestMemory;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pages of RAM, and above them.
pub const RAM_PAGES: u32 = 6;

/// The descriptor page, and one page of a device.
pub const DEVICE_PAGES: u32 = 2;

/// The device's page.
pub const PAGE: u32 = (RAM_PAGES + 1) * PAGE_SIZE;

/// Bytes of everything.
pub const LIMIT: u32 = (RAM_PAGES + DEVICE_PAGES) * PAGE_SIZE;

/// A Guest that never runs, and its Host.
pub struct FakeHost {
    memory: GuestMemory,
    bound: Mutex<Option<BoundDma>>,
    bindings: Mutex<Vec<Binding>>,
    killed: AtomicBool,
    raised: Mutex<Sender<u8>>,
    irqs: Mutex<Receiver<u8>>,
}

impl FakeHost {
    /// With zeroed memory, and nothing bound.
    ///
    /// # Panics
    ///
    /// If this machine has no memory.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (raised, irqs) = channel();
        let memory = GuestMemory::new(RAM_PAGES * PAGE_SIZE, DEVICE_PAGES);
        Arc::new(Self {
            memory: memory.expect("a few pages can be had"),
            bound: Mutex::new(None),
            bindings: Mutex::default(),
            killed: AtomicBool::new(false),
            raised: Mutex::new(raised),
            irqs: Mutex::new(irqs),
        })
    }

    /// BIND_DMA of one buffer, to whatever key.
    pub fn bind(&self, bound: Option<BoundDma>) {
        *self.bound.lock().expect("nobody panics here") = bound;
    }

    /// What was bound last, free or not.
    pub fn last_bound(&self) -> Option<BoundDma> {
        *self.bound.lock().expect("nobody panics here")
    }

    /// What is bound and free.
    pub fn bound(&self) -> Option<BoundDma> {
        let bound = self.last_bound();
        let free = |at: &BoundDma| {
            self.memory
                .read_object::<u32>(at.addr)
                .is_ok_and(|w| w == 0)
        };
        bound.filter(free)
    }

    /// Waits for an interrupt, which has to come.
    pub fn wait_irq(&self) {
        let irqs = self.irqs.lock().expect("nobody panics here");
        let irq = irqs.recv_timeout(Duration::from_secs(5));
        irq.expect("an answer without an interrupt");
    }

    /// All arrays that are bound in the device's page.
    pub fn set_bindings(&self, bindings: Vec<Binding>) {
        *self.bindings.lock().expect("nobody panics here") = bindings;
    }

    /// Whether the Guest was ended.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// The interrupts that were raised since the last question.
    #[must_use]
    pub fn irqs(&self) -> Vec<u8> {
        let irqs = self.irqs.lock().expect("nobody panics here");
        irqs.try_iter().collect()
    }

    /// All of the memory.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; LIMIT as usize];
        let read = self.memory.read(0, &mut bytes);
        read.expect("it is there");
        bytes
    }
}

impl Requests for FakeHost {
    fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn get_dma(&self, _key: u32) -> Result<Option<BoundDma>, RequestError> {
        Ok(self.bound())
    }

    fn irq(&self, irq: u8) -> Result<(), RequestError> {
        let raised = self.raised.lock().expect("nobody panics here");
        raised.send(irq).expect("the receiver is beside it");
        Ok(())
    }

    fn bindings_in(&self, _page: u32) -> Vec<Binding> {
        self.bindings.lock().expect("nobody panics here").clone()
    }

    fn kill(&self, _reason: String) {
        self.killed.store(true, Ordering::SeqCst);
    }
}

/// An address that means something in this memory, or any.
pub fn address(input: &mut Input<'_>) -> u32 {
    input.one_of(&[
        0,
        0x100,
        0x1000,
        0x1FF0,
        0x2000,
        PAGE,
        LIMIT - PAGE_SIZE,
        LIMIT - 100,
        LIMIT,
        u32::MAX,
    ])
}

/// A list of sections: a few of them may even be right.
pub fn list(input: &mut Input<'_>) -> Dma {
    let mut dma = Dma {
        used_len: u32::from(input.byte() == 0xFF),
        ..Dma::default()
    };
    // Long lists are seldom right.
    let count = match input.byte() {
        n @ 0..192 => usize::from(n % 5),
        n => usize::from(n % 17),
    };
    for i in 0..count {
        dma.addr[i] = address(input);
        let left = PAGE_SIZE - dma.addr[i] % PAGE_SIZE;
        let len = match input.byte() {
            // Inside its page, if there is one.
            n @ 0..160 => left.min(4 * u32::from(n)),
            n @ 160..208 => 512 * u32::from(n % 9),
            // To the end of its page, or a little less or more.
            n @ 208..240 => (left + u32::from(n - 208)).saturating_sub(16),
            _ => u32::from(input.half()),
        };
        dma.len[i] = u16::try_from(len).unwrap_or(u16::MAX);
    }
    dma
}

/// Whether a transfer may follow the list: each section inside one page that
/// exists.
#[must_use]
pub fn is_good(dma: &Dma) -> bool {
    dma.sections().all(|(addr, len)| {
        let (addr, len) = (u64::from(addr), u64::from(len));
        let page = u64::from(PAGE_SIZE);
        addr % page + len <= page && addr + len <= u64::from(LIMIT)
    })
}

/// A file in memory, with these bytes.
///
/// # Panics
///
/// If this machine has no memory.
#[must_use]
pub fn file(bytes: &[u8]) -> File {
    use std::io::Write;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("fuzz", flags);
    let mut file = File::from(file.expect("files can be had"));
    file.write_all(bytes).expect("memory can be had");
    file
}
