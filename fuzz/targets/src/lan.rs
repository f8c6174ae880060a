//! A Launcher on a LAN whose other members are hostile.
//!
//! They connect and send any message, with any files. They answer connections
//! for other slots. They write any words into the network's page and into every
//! port that they get, and post any frames in outboxes. They leave at any time.
//! Our Launcher must not panic. It must not change its own Guest's memory,
//! except for frames that were posted to it, and it must keep its slot. It may
//! end its Guest only because of a bad buffer.

use crate::guest::{LIMIT, PAGE, address, guest, image, is_good, list};
use crate::input::Input;
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::PAGE_SIZE;
use lg_wire::outbox::{FRAMES, LONGEST, OUTBOX_SIZE, frame, ring, word};
use lguest::engine::{Binding, Requests, Scripted};
use lguest::transport::keys::lan::Lan;
use lguest::transport::keys::lan::fuzzing::Station;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The first word of every message.
const MAGIC: u64 = u64::from_le_bytes(*b"lguestL1");

/// The most connections of the hostile members at a time.
const MAX_LINES: usize = 6;

/// Steps that one input may take.
const MAX_STEPS: u32 = 60;

/// Makes steps until the input ends or our Guest dies.
///
/// # Panics
///
/// If our Launcher breaks a rule.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let scratch = Scratch::new();
    let path = scratch.0.join("lan");
    let page = File::create_new(&path).expect("the folder is ours");
    page.set_len(u64::from(PAGE_SIZE))
        .expect("a page can be had");
    // A Launcher holds the first slot.
    let _neighbour = Lan::join(&path).expect("the slot is free");
    let mut doors = [None, None];
    if input.bit() {
        doors[0] = door(&path, 0);
    }
    let guest = guest();
    let station = Station::join(&path, guest.clone(), PAGE);
    let station = station.expect("there are enough slots");
    assert_eq!(station.slot(), 1);
    let mut test = Test {
        station,
        guest,
        path,
        page,
        doors,
        lines: Vec::new(),
        files: Vec::new(),
        outboxes: Vec::new(),
        killed_for: Vec::new(),
    };
    for _ in 0..MAX_STEPS {
        if input.is_empty() || !test.step(&mut input) {
            break;
        }
    }
    // Our slot and our socket must still be there.
    let next = Lan::join(&test.path);
    assert!(next.is_ok_and(|lan| lan.slot() > 1), "our slot was lost");
    assert!(scratch.0.join("lan.1").exists(), "our socket was lost");
}

struct Test {
    station: Station,
    guest: Arc<Scripted>,
    path: PathBuf,
    page: File,
    /// The sockets of the hostile members, by slot.
    doors: [Option<OwnedFd>; 2],
    /// Their connections to us.
    lines: Vec<OwnedFd>,
    /// Ports: ours, if they have them, and theirs.
    files: Vec<File>,
    /// Outboxes that they have given us. They may write any words there.
    outboxes: Vec<File>,
    killed_for: Vec<Binding>,
}

impl Test {
    /// Makes a step. Returns whether our Guest is alive.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        match input.byte() % 15 {
            0 => {
                let line = knock(&self.path, self.station.slot());
                self.lines.extend(line);
                self.lines.truncate(MAX_LINES);
            }
            1 | 2 => self.talk(input),
            3 => self.listen(),
            4 => {
                let slot = [0, 2][input.below(2) as usize];
                let _ = std::fs::remove_file(self.named(slot));
                self.doors[slot as usize / 2] = door(&self.path, slot);
            }
            5 => {
                for door in self.doors.iter().flatten() {
                    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                    let line = rustix::net::accept_with(door, flags);
                    self.lines.extend(line);
                }
                self.lines.truncate(MAX_LINES);
            }
            6 => {
                let at = u64::from(input.half()) % 4090;
                let _ = self.page.write_all_at(input.bytes(6), at);
            }
            7 => self.scribble(input),
            8 => self.bind(input),
            9 => return self.send(input),
            10 => {
                let at = usize::from(input.byte());
                if at < self.lines.len() {
                    drop(self.lines.remove(at));
                }
            }
            11 => {
                let (at, dma) = (address(input), list(input));
                let _ = self.guest.memory().write_object(at, &dma);
            }
            12 | 13 => self.post(input),
            _ => self.fetch(),
        }
        let before = self.memory();
        self.station.hear();
        self.station.deliver();
        assert!(self.memory() == before, "our Guest's memory was changed");
        self.check_interrupts();
        self.check_death()
    }

    fn named(&self, slot: u32) -> PathBuf {
        socket_path(&self.path, slot)
    }

    /// Our Guest's memory, without the shared page, which any member may
    /// change.
    fn memory(&self) -> Vec<u8> {
        let mut image = image(&self.guest);
        image[PAGE as usize..][..PAGE_SIZE as usize].fill(0);
        image
    }

    /// A message of any kind, whole or not, with files or without.
    fn talk(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let mut bytes = Vec::new();
        let magic = if input.byte() == 0 { 1 } else { MAGIC };
        bytes.extend(magic.to_le_bytes());
        match kind % 4 {
            0 | 1 => {
                let meta = self.page.metadata().expect("it is open");
                let wrong = u64::from(input.byte() == 0);
                bytes.extend(meta.dev().to_le_bytes());
                bytes.extend((meta.ino() + wrong).to_le_bytes());
                let slot = input.one_of(&[0, 1, 2, 681, 682, u32::MAX]);
                bytes.extend(slot.to_le_bytes());
                bytes.extend(u32::from(input.byte() % 3).to_le_bytes());
            }
            2 => {
                bytes.extend(input.word().to_le_bytes());
                let page =
                    input.one_of(&[0, PAGE, PAGE, LIMIT - PAGE_SIZE, LIMIT]);
                bytes.extend(page.to_le_bytes());
            }
            _ => {
                bytes.extend(address(input).to_le_bytes());
                bytes.extend([0; 4]);
            }
        }
        match input.byte() {
            n @ 0..16 => bytes.truncate(n.into()),
            n @ 16..24 => bytes.resize(bytes.len() + usize::from(n), 0),
            _ => {}
        }
        let count = match input.byte() {
            n @ 0..32 => usize::from(n % 3),
            _ if kind % 4 == 2 => 2,
            // An outbox, or something like it.
            _ if kind.is_multiple_of(4) => 1,
            _ => 0,
        };
        let files: Vec<OwnedFd> =
            (0..count).filter_map(|_| self.file(input)).collect();
        let at = usize::from(input.byte());
        if let Some(line) = self.lines.get(at % MAX_LINES) {
            say(line, &bytes, &files);
        }
    }

    /// A file for a `Welcome`: the right one, or any file.
    fn file(&mut self, input: &mut Input<'_>) -> Option<OwnedFd> {
        let seal = SealFlags::SHRINK;
        match input.byte() % 20 {
            12.. => {
                // An outbox of theirs, or any file.
                let outbox = memfd(OUTBOX_SIZE.into(), seal)?;
                self.outboxes.insert(0, outbox.try_clone().ok()?.into());
                self.outboxes.truncate(MAX_LINES);
                Some(outbox)
            }
            0..3 => memfd(LIMIT.into(), seal),
            3..6 => {
                // A port of theirs, with any words.
                let port = memfd(PAGE_SIZE.into(), seal)?;
                let copy = port.try_clone().ok()?;
                self.files.insert(0, copy.into());
                Some(port)
            }
            6 => memfd(LIMIT.into(), SealFlags::GROW),
            7 => memfd(0, seal),
            8 => memfd(5000, seal),
            9 => memfd(1 << 32, seal),
            10 => self.guest.memory().file().try_clone_to_owned().ok(),
            11 => self.page.try_clone().ok().map(Into::into),
        }
    }

    /// Receives our messages on all connections, and keeps the ports.
    fn listen(&mut self) {
        for line in &self.lines {
            let mut bytes = [0; 64];
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let got =
                rustix::net::recvmsg(line, &mut parts, &mut control, flags);
            if got.is_err() {
                continue;
            }
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = part {
                    // Our memory, and after it our port.
                    self.files.extend(files.skip(1).map(File::from));
                }
            }
        }
        self.files.truncate(MAX_LINES);
    }

    /// Writes into a port, ours or theirs.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte()) % MAX_LINES;
        let how = input.byte();
        let (at, bytes) = if how < 128 {
            // The first binding on a key, and its key.
            let key = input.below(16) * 4;
            let num = input.below(4);
            let bound = [address(input), num, 0, 0].map(u32::to_le_bytes);
            self.write_port(which, 64, &key.to_le_bytes());
            (192, bound.concat())
        } else {
            let at = u64::from(input.half()) % 4080;
            (at, input.bytes(16).to_vec())
        };
        self.write_port(which, at, &bytes);
    }

    fn write_port(&self, which: usize, at: u64, bytes: &[u8]) {
        if let Some(port) = self.files.get(which) {
            let size = port.metadata().expect("it is open").len();
            assert_eq!(size, u64::from(PAGE_SIZE), "a port is a page");
            let _ = port.write_all_at(bytes, at);
        }
    }

    /// A member writes into the ring from which we fetch: a frame, or any
    /// words.
    fn post(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.byte()) % MAX_LINES;
        let Some(outbox) = self.outboxes.get(which) else {
            return;
        };
        let ring = ring(self.station.slot()).expect("a low slot has one");
        let put = |at: u32, value: u32| {
            let bytes = value.to_le_bytes();
            let at = u64::from(ring) + u64::from(at);
            if at < u64::from(OUTBOX_SIZE) {
                let _ = outbox.write_all_at(&bytes, at);
            }
        };
        let count = match input.byte() {
            n @ 0..224 => u32::from(n % 4),
            _ => input.word(),
        };
        for n in 0..4 {
            let length = match input.byte() {
                n @ 0..240 => 8 * u32::from(n),
                _ => input.word(),
            };
            put(frame(n).0, length);
        }
        let word = input.one_of(&[
            word::POSTED,
            word::POSTED,
            word::POSTED,
            word::FETCHED,
            word::ASLEEP,
            word::ROOM,
        ]);
        put(word, count);
    }

    /// Fetches posted frames. They must go into buffers that our Guest has
    /// bound to its own key, and must not be more than a ring holds.
    fn fetch(&mut self) {
        let before = self.memory();
        self.station.fetch();
        let after = self.memory();
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b);
        let key = PAGE + KEY_ALIGN * self.station.slot();
        let bound = self.killed_for.iter().any(|b| b.key == key);
        let most =
            FRAMES * (LONGEST + 4) * u32::try_from(MAX_LINES).unwrap_or(0);
        let most = if bound { most as usize } else { 0 };
        assert!(changed.count() <= most, "more bytes came than were posted");
    }

    /// Our Guest binds other buffers.
    fn bind(&mut self, input: &mut Input<'_>) {
        let bindings: Vec<Binding> = (0..input.below(4))
            .map(|_| Binding {
                key: PAGE + input.below(8) * 4,
                dmas: address(input),
                num: input.below(300),
                irq: 1 + input.byte() % 31,
            })
            .collect();
        self.killed_for.extend(&bindings);
        self.guest.change_bindings(|all| *all = bindings);
        self.station.bindings_changed();
    }

    /// Our Guest sends. Returns whether it lives.
    fn send(&mut self, input: &mut Input<'_>) -> bool {
        let (dma, key) = (address(input), PAGE + input.below(16) * 4);
        let sent: Option<Dma> = self.guest.memory().read_object(dma).ok();
        let before = self.memory();
        let result = self.station.send(dma, key);
        assert!(self.memory() == before, "our Guest's memory was changed");
        if result.is_err() {
            assert!(
                !sent.is_some_and(|d| is_good(&d)),
                "killed without a reason"
            );
        }
        result.is_ok()
    }

    /// Checks that only interrupts of the Guest's bindings are raised.
    fn check_interrupts(&self) {
        for irq in self.guest.irqs() {
            let bound = self.killed_for.iter().any(|b| b.irq == irq);
            assert!(bound, "interrupt {irq} belongs to no binding");
        }
    }

    /// Returns whether our Guest is alive. If not, one of its own buffers must
    /// be bad.
    fn check_death(&self) -> bool {
        if self.guest.killed().is_none() {
            return true;
        }
        let memory = self.guest.memory();
        let is_bad = |at: Option<u32>| {
            let dma = at.and_then(|at| memory.read_object::<Dma>(at).ok());
            !dma.is_some_and(|dma| is_good(&dma))
        };
        let deserved = self.killed_for.iter().any(|b| {
            (0..b.num).any(|n| is_bad(b.dmas.checked_add(n * Dma::SIZE)))
        });
        assert!(deserved, "killed without a reason");
        false
    }
}

fn socket_path(page: &Path, slot: u32) -> PathBuf {
    page.with_file_name(format!("lan.{slot}"))
}

fn socket() -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).ok()
}

/// Connects to the socket of `slot`.
fn knock(page: &Path, slot: u32) -> Option<OwnedFd> {
    let socket = socket()?;
    let address = SocketAddrUnix::new(socket_path(page, slot)).ok()?;
    rustix::net::connect(&socket, &address).ok()?;
    Some(socket)
}

/// Listens at the socket of `slot`, also if that belongs to another member.
fn door(page: &Path, slot: u32) -> Option<OwnedFd> {
    let path = socket_path(page, slot);
    let _ = std::fs::remove_file(&path);
    let socket = socket()?;
    let address = SocketAddrUnix::new(path).ok()?;
    rustix::net::bind(&socket, &address).ok()?;
    rustix::net::listen(&socket, 8).ok()?;
    Some(socket)
}

fn say(line: &OwnedFd, bytes: &[u8], files: &[OwnedFd]) {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&files));
        assert!(fits, "there is room for two");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // The other end may be closed.
    let parts = [IoSlice::new(bytes)];
    let _ = rustix::net::sendmsg(line, &parts, &mut control, flags);
}

fn memfd(size: u64, seals: SealFlags) -> Option<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("fuzz", flags).ok()?;
    rustix::fs::ftruncate(&file, size).ok()?;
    rustix::fs::fcntl_add_seals(&file, seals).ok()?;
    Some(file)
}

/// A folder of this process. Dropping it removes it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory, if the machine has such a folder.
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let name = format!("lguest-fuzz-{}-{number}", std::process::id());
        let folder = parent.join(name);
        std::fs::create_dir(&folder).expect("the name is unique");
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, only a folder remains.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
