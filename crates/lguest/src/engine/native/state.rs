//! The head of the state that the views share, as the Launcher sees it.
//!
//! The Launcher writes the set-up before anything runs. From then on the Guest
//! may write any of it. The Launcher adds interrupts and kicks, reads the
//! mailbox word by word, and trusts nothing.

#![expect(unsafe_code, reason = "memory shared with hostile processes")]

use crate::engine::bindings::Binding;
use crate::engine::clock;
use crate::engine::frozen::{EngineState, HOST_AT, Piece, Resumed};
use crate::engine::interface::{Isolation, Setup, Tracing};
use crate::memory::sealed_file;
use lg_abi::gen3::pci::MAX_DEVICES;
use lg_wire::disk::DiskWords;
use lg_wire::last::LastWords;
use lg_wire::mailbox::Mailbox;
use lg_wire::moved::Moved;
use lg_wire::spawn::MAX_SHARED_PAGES;
use lg_wire::state::{HEAD_SIZE, Head, STATE_SIZE, ViewSetup, Wire};
use lg_wire::trace::{self, Event, Kind, Record, Ring, RingHead, group};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The head of the state, mapped. The rest is the Host's own.
///
/// # Invariants
///
/// 1. `head` points to [`HEAD_SIZE`] bytes, mapped shared until drop, of a file
///    sealed against shrinking.
/// 2. `ring` points to a ring of `records`, mapped likewise.
/// 3. After [`Shared::set_up`], only atomics in it are used through
///    references; everything else is copied out by volatile reads.
pub(super) struct Shared {
    head: NonNull<Head>,
    ring: NonNull<u8>,
    /// The number of its records.
    records: u32,
    /// Views cannot read the time-stamp counter.
    no_counter: bool,
    pub(super) file: OwnedFd,
}

// SAFETY: the memory belongs to no thread, and is used as invariant 3 says.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Fresh state, all zero, and a ring for a trace.
    pub(super) fn new(trace: Tracing, moved: Moved) -> io::Result<Self> {
        let records = trace::allowed(trace.records);
        let size = STATE_SIZE + trace::ring_size(records);
        let file = sealed_file("lguest-state", size as u64)?;
        let head = map_shared(&file, 0, HEAD_SIZE)?.cast();
        let ring = map_shared(&file, STATE_SIZE, trace::ring_size(records))?;
        let shared = Self {
            head,
            ring,
            records,
            no_counter: moved.tsc_khz != 0,
            file,
        };
        let start = match shared.no_counter {
            true => clock::monotonic(),
            false => clock::start(),
        };
        shared.ring_head().start.store(start, Ordering::SeqCst);
        shared.wire().traced.store(trace.groups, Ordering::SeqCst);
        Ok(shared)
    }

    /// Writes what the view spawner reads before anything runs.
    pub(super) fn set_up(&self, guest: &Setup, limit: u32) {
        let pages = &guest.shared_pages;
        let mut shared_pfns = [0; MAX_SHARED_PAGES];
        for (pfn, page) in shared_pfns.iter_mut().zip(pages) {
            *pfn = page.pfn;
        }
        let mut devices = [0; MAX_DEVICES];
        for (word, device) in devices.iter_mut().zip(&guest.pci) {
            *word = device.word();
        }
        // No other process has the file yet.
        self.wire().setup.set(ViewSetup {
            limit,
            resumed: u32::from(guest.resumed.is_some()),
            moved: guest.moved,
            shared_pages: u32::try_from(pages.len()).expect("a bus is small"),
            disks: u32::try_from(guest.disks.len()).expect("a bus is small"),
            shared_pfns,
            user_processes: u32::from(guest.isolation == Isolation::User),
            slow_paths: guest.slow_paths,
            guestid: guest_id(guest),
            page_offset: guest.request.page_offset,
            pgdir: guest.request.pgdir,
            interface: guest.interface as u32,
            paging: guest.paging as u32,
            boot_parameters: guest.boot_parameters,
            start: guest.request.start,
            device_count: u32::try_from(guest.pci.len()).unwrap_or(0),
            devices,
            trace_records: self.records,
        });
    }

    /// Writes the state of a Guest that goes on. No other process has the file
    /// yet.
    pub(super) fn resume(&self, resumed: &Resumed) -> io::Result<()> {
        let Resumed { state, host, .. } = resumed;
        write_pieces(&self.file, HOST_AT, host)?;
        let wire = self.wire();
        wire.tsc_khz.store(state.tsc_khz, Ordering::SeqCst);
        wire.irqs.store(state.irqs, Ordering::SeqCst);
        let changes = &wire.config_changes;
        changes.store(state.config_changes, Ordering::SeqCst);
        let pages = &wire.written_pages;
        pages.store(state.written_pages, Ordering::SeqCst);
        Ok(())
    }

    /// The words of a Guest that stands still on which it relies.
    pub(super) fn engine_state(&self, bindings: Vec<Binding>) -> EngineState {
        let wire = self.wire();
        EngineState {
            tsc_khz: wire.tsc_khz.load(Ordering::SeqCst),
            irqs: wire.irqs.load(Ordering::SeqCst),
            config_changes: wire.config_changes.load(Ordering::SeqCst),
            written_pages: wire.written_pages.load(Ordering::SeqCst),
            bindings,
        }
    }

    /// The [`VERSION`](lg_wire::state::VERSION) of the layout for which the
    /// view program was built.
    pub(super) fn version(&self) -> u32 {
        self.wire().version.load(Ordering::SeqCst)
    }

    /// Fills in the frequency of the counter: last, because measuring takes
    /// time.
    pub(super) fn set_tsc_khz(&self) {
        let tsc_khz = &self.wire().tsc_khz;
        tsc_khz.store(clock::tsc_khz(), Ordering::SeqCst);
    }

    /// The mailbox: all atomics.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.wire().mailbox
    }

    /// Interrupts that wait.
    pub(super) fn irqs(&self) -> &AtomicU32 {
        &self.wire().irqs
    }

    /// Interrupts of devices whose registers have changed.
    pub(super) fn config_changes(&self) -> &AtomicU32 {
        &self.wire().config_changes
    }

    /// Counts what has come from outside; a futex.
    pub(super) fn kick(&self) -> &AtomicU32 {
        &self.wire().kick
    }

    /// Whether the current view sleeps, as its Host says.
    pub(super) fn asleep(&self) -> &AtomicU32 {
        &self.wire().asleep
    }

    /// Which view runs, as its Host says.
    pub(super) fn current(&self) -> &AtomicU32 {
        &self.wire().current
    }

    /// "Stop at the next clean point".
    pub(super) fn break_wanted(&self) -> &AtomicU32 {
        &self.wire().break_wanted
    }

    /// Whether the Host has asked for a look at the processors. Resets that.
    pub(super) fn takes_balance_wanted(&self) -> bool {
        let wanted = &self.wire().balance_wanted;
        wanted.load(Ordering::SeqCst) != 0
            && wanted.swap(0, Ordering::SeqCst) != 0
    }

    /// When the Host is to report that a buffer may be free.
    pub(super) fn input_waits(&self) -> &AtomicU32 {
        &self.wire().input_waits
    }

    /// Pages that were written to, for the Host to look at.
    pub(super) fn written_pages(&self) -> &AtomicU64 {
        &self.wire().written_pages
    }

    /// Disks whose reads the Host may answer.
    pub(super) fn disks(&self) -> &[DiskWords] {
        &self.wire().disks
    }

    /// The run token of the first view.
    pub(super) fn first_run_token(&self) -> &AtomicU32 {
        &self.wire().run_tokens[0]
    }

    /// The run token of view `slot`, if there can be such a view.
    pub(super) fn run_token(&self, slot: u32) -> Option<&AtomicU32> {
        self.wire().run_tokens.get(slot as usize)
    }

    /// What the Guest did last, as its Host says.
    pub(super) fn last(&self) -> LastWords {
        self.wire().last.read()
    }

    /// What is traced.
    pub(super) fn traced(&self) -> &AtomicU32 {
        &self.wire().traced
    }

    /// Nanoseconds between samples.
    pub(super) fn sample_every(&self) -> &AtomicU32 {
        &self.wire().sample_every
    }

    /// Bytes of the ring.
    pub(super) fn trace_size(&self) -> usize {
        trace::ring_size(self.records)
    }

    /// The head of the ring.
    fn ring_head(&self) -> &RingHead {
        // SAFETY: invariant 2; all of it are atomics.
        unsafe { self.ring.cast::<RingHead>().as_ref() }
    }

    /// Records that interrupt `irq` is raised, if that is wanted.
    pub(super) fn trace_raised(&self, irq: u8) {
        if self.traced().load(Ordering::Relaxed) & group::INTERRUPTS == 0 {
            return;
        }
        let event = Event {
            kind: Kind::Raised,
            user: false,
            detail: irq.into(),
            eip: 0,
            words: [1, 0, 0],
        };
        let time = match self.no_counter {
            true => clock::monotonic(),
            false => clock::ticks(),
        };
        self.ring().write(time, &event);
    }

    /// Notes in the ring how fast its times run, for a reader.
    pub(super) fn note_speed(&self) {
        /// Of nanoseconds.
        const MILLION: u32 = 1_000_000;
        let khz = match self.no_counter {
            true => MILLION,
            false => clock::tsc_khz(),
        };
        self.ring_head().khz.store(khz, Ordering::SeqCst);
    }

    /// The ring, to write into.
    fn ring(&self) -> Ring<'_> {
        // SAFETY: invariant 2: the records begin behind the head.
        let first = unsafe { self.ring.byte_add(trace::HEAD_SIZE) };
        let (first, count) = (first.cast::<Record>(), self.records as usize);
        // SAFETY: invariant 2; all of it are atomics.
        let records = unsafe {
            std::slice::from_raw_parts(first.as_ptr().cast_const(), count)
        };
        Ring::new(self.ring_head(), records)
    }

    /// All counts that are not zero, by name.
    pub(super) fn counters(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        // SAFETY: only an address is computed, inside the head.
        let counters = unsafe { &raw const (*self.head.as_ptr()).counters };
        // SAFETY: counters are plain numbers, right or wrong; a copy of all
        // of them is made before any is looked at.
        let counters = unsafe { counters.read_volatile() };
        counters.visit(|name, value| all.push((name.to_string(), value)));
        all
    }

    /// The words that are shared.
    fn wire(&self) -> &Wire {
        // SAFETY: invariant 1. Every field is an atomic or a `Cell`, and the
        // one `Cell` is written before another process has the file.
        unsafe { &(*self.head.as_ptr()).wire }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: invariant 1, and there are no references any more.
        // A filter may refuse it; then the memory stays until we end.
        let _ =
            unsafe { rustix::mm::munmap(self.head.as_ptr().cast(), HEAD_SIZE) };
        let size = trace::ring_size(self.records);
        // SAFETY: invariant 2, and as above.
        let _ = unsafe { rustix::mm::munmap(self.ring.as_ptr().cast(), size) };
    }
}

/// Maps `size` bytes of `file` from `at`, shared.
fn map_shared(
    file: &OwnedFd,
    at: usize,
    size: usize,
) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh mapping at a place of the kernel's choice.
    let mapped = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            at as u64,
        )
    }?;
    Ok(NonNull::new(mapped.cast()).expect("mmap never answers null"))
}

/// Writes `pieces` of what is in `file` from `begin` on.
pub(super) fn write_pieces(
    file: &OwnedFd,
    begin: u64,
    pieces: &[Piece],
) -> io::Result<()> {
    for Piece { at, bytes } in pieces {
        let mut written = 0;
        while written < bytes.len() {
            let place = begin + at + written as u64;
            written += rustix::io::pwrite(file, &bytes[written..], place)?;
        }
    }
    Ok(())
}

/// The Guest's number, from which it makes its Ethernet address.
fn guest_id(guest: &Setup) -> u32 {
    guest
        .guest_id
        .map_or_else(|| std::process::id() & 0xFFFF, u32::from)
}
