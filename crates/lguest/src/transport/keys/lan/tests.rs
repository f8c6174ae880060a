//! Networks of Guests that run nothing.
//!
//! Some tests start whole processes and kill them.

use super::*;
use crate::engine::{Requests, Scripted};
use crate::memory::GuestMemory;
use crate::transport::keys::KeyedDevice;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A directory that is removed at the end of the test.
pub(crate) struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lguest-net-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        let path = path.canonicalize().unwrap();
        let file = File::open(&path).unwrap();
        Self { path, file }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A file of one page.
    pub(crate) fn page(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, [0; PAGE_SIZE as usize]).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The porter of all tests in this process.
pub(super) fn porter() -> Arc<porter::Porter> {
    static PORTER: OnceLock<Arc<porter::Porter>> = OnceLock::new();
    let start = || Arc::new(porter::Porter::start().unwrap());
    Arc::clone(PORTER.get_or_init(start))
}

/// Where everything is in the memory of a Guest.
pub(crate) const SEND: u32 = 0x1000;
const FRAME: u32 = 0x2000;
pub(crate) const RING: u32 = 0x3000;
const BUFFERS: u32 = 0x8000;
pub(crate) const RAM: u32 = 0x2_0000;
pub(crate) const PAGE: u32 = RAM + PAGE_SIZE;
pub(crate) const IRQ: u8 = 5;

/// A Guest that does nothing.
pub(crate) fn scripted() -> Arc<Scripted> {
    Scripted::new(GuestMemory::new(RAM, 2).unwrap())
}

impl Scripted {
    /// Binds `num` empty buffers of two sections each to `slot`'s key.
    pub(crate) fn bind_buffers(&self, slot: u32, num: u32) {
        for i in 0..num {
            let mut dma = Dma::default();
            let at = BUFFERS + i * PAGE_SIZE;
            (dma.addr[0], dma.len[0]) = (at, 14);
            (dma.addr[1], dma.len[1]) = (at + 0x100, 1500);
            self.memory()
                .write_object(RING + i * Dma::SIZE, &dma)
                .unwrap();
        }
        self.bind_array(key(slot), RING, num, IRQ);
    }

    /// Puts `frame` where [`SEND`] names it.
    pub(crate) fn prepare(&self, frame: &[u8]) {
        let mut dma = Dma::default();
        dma.addr[0] = FRAME;
        dma.len[0] = u16::try_from(frame.len()).unwrap();
        self.memory().write(FRAME, frame).unwrap();
        self.memory().write_object(SEND, &dma).unwrap();
    }

    /// What is in buffer `i`, which is then free again.
    pub(crate) fn take(&self, i: u32) -> Option<Vec<u8>> {
        let at = RING + i * Dma::SIZE;
        let len = self.memory().read_object::<u32>(at).unwrap() as usize;
        if len == 0 {
            return None;
        }
        let mut frame = vec![0; len];
        let (head, body) = frame.split_at_mut(len.min(14));
        self.memory().read(BUFFERS + i * PAGE_SIZE, head).unwrap();
        let at_body = BUFFERS + i * PAGE_SIZE + 0x100;
        self.memory().read(at_body, body).unwrap();
        self.memory().write_last(at, 0).unwrap();
        Some(frame)
    }

    /// Whether there is something in buffer `i`.
    pub(crate) fn full(&self, i: u32) -> bool {
        self.memory().read_object::<u32>(RING + i * Dma::SIZE) != Ok(0)
    }

    /// Frees buffer `i`.
    pub(crate) fn release(&self, i: u32) {
        self.memory().write_last(RING + i * Dma::SIZE, 0).unwrap();
    }
}

/// A Launcher on a LAN, and its Guest.
type Station = (Arc<Scripted>, Lan);

/// A Launcher that has joined the LAN of `file`, and whose Guest has bound
/// `num` buffers in its own slot.
pub(crate) fn launcher(file: &Path, num: u32) -> (Arc<Scripted>, Lan) {
    let mut lan = Lan::join(file).unwrap();
    lan.always_open();
    started(lan, num)
}

/// The same, for a Launcher that has joined already.
fn started(mut lan: Lan, num: u32) -> (Arc<Scripted>, Lan) {
    let host = scripted();
    lan.start(host.clone(), PAGE).unwrap();
    host.bind_buffers(lan.slot(), num);
    lan.bindings_changed();
    (host, lan)
}

/// Waits until `done`.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn frame(seed: u8, len: usize) -> Vec<u8> {
    (0..=u8::MAX)
        .cycle()
        .map(|i| i.wrapping_mul(7) ^ seed)
        .take(len)
        .collect()
}

pub(crate) const fn key(slot: u32) -> u32 {
    PAGE + 4 * slot
}

mod many;

mod together;

mod posts;

mod processes;
