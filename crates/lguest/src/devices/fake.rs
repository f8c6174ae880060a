//! A Host for tests of devices: it runs nothing and remembers what was asked.

use crate::engine::{Binding, BoundDma, RequestError, Requests};
use crate::memory::GuestMemory;
use lg_abi::dma::Dma;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A Guest of 16 pages that never runs, and its Host.
pub(crate) struct FakeHost {
    memory: GuestMemory,
    bound: Mutex<HashMap<u32, BoundDma>>,
    raised: Mutex<Sender<u8>>,
    irqs: Mutex<Receiver<u8>>,
}

impl FakeHost {
    pub(crate) fn new() -> Arc<Self> {
        let (raised, irqs) = channel();
        Arc::new(Self {
            memory: GuestMemory::new(0x1_0000, 3).unwrap(),
            bound: Mutex::default(),
            raised: Mutex::new(raised),
            irqs: Mutex::new(irqs),
        })
    }

    /// BIND_DMA of one buffer; it is free when its `used_len` is 0.
    pub(crate) fn bind(&self, key: u32, addr: u32, irq: u8) {
        let bound = BoundDma { addr, irq };
        self.bound.lock().unwrap().insert(key, bound);
    }

    /// Writes an `lguest_dma` with these sections.
    pub(crate) fn put_dma(&self, addr: u32, sections: &[(u32, u16)]) {
        let mut dma = Dma::default();
        for (i, &(addr, len)) in sections.iter().enumerate() {
            (dma.addr[i], dma.len[i]) = (addr, len);
        }
        self.memory.write_object(addr, &dma).unwrap();
    }

    /// Waits for the next interrupt.
    pub(crate) fn wait_irq(&self) -> u8 {
        let irqs = self.irqs.lock().unwrap();
        irqs.recv_timeout(Duration::from_secs(5)).expect("an irq")
    }

    /// Whether no interrupt is waiting.
    pub(crate) fn is_quiet(&self) -> bool {
        self.irqs.lock().unwrap().try_recv().is_err()
    }

    pub(crate) fn word(&self, addr: u32) -> u32 {
        self.memory.read_object(addr).unwrap()
    }

    pub(crate) fn bytes(&self, addr: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(addr, &mut bytes).unwrap();
        bytes
    }
}

impl Requests for FakeHost {
    fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn get_dma(&self, key: u32) -> Result<Option<BoundDma>, RequestError> {
        let bound = self.bound.lock().unwrap().get(&key).copied();
        Ok(bound.filter(|bound| self.word(bound.addr) == 0))
    }

    fn irq(&self, irq: u8) -> Result<(), RequestError> {
        self.raised.lock().unwrap().send(irq).unwrap();
        Ok(())
    }

    fn bindings_in(&self, _page: u32) -> Vec<Binding> {
        Vec::new()
    }

    fn kill(&self, reason: String) {
        panic!("killed: {reason}");
    }
}
