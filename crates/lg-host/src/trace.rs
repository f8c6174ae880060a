//! The trace: what the Host records of its Guest's life, and of its time.
//!
//! Each file of the Host calls this where something happens. The Launcher says
//! which groups of events are wanted ([`lg_wire::trace::group`]); as long as
//! there are none, a call costs a look at one word. The [`World`] gives a
//! record its time and its place.
//!
//! A profile is made of samples: the timer goes off, and the Host records where
//! the Guest was, and the frames of the functions that called that code. Time
//! that the Host itself spends counts where the Guest goes on.
//!
//! [`World`]: crate::world::World

use crate::address::GuestVirt;
use crate::cpu::registers::SegmentRegister;
use crate::cpu::traps::low_byte;
use crate::host::{Event as Came, Host};
use crate::patch::ledger::table::PatchKind;
use core::sync::atomic::Ordering;
use lg_abi::call::Call;
use lg_abi::interface::CallRegisters;
use lg_wire::trace::{Event, FROM_RING, Kind, NO_CALL, cause, group};

/// Frames of a sample beside its own place. A multiple of four, plus one.
const FRAMES: usize = 33;

/// The most bytes from one frame to the next.
const LONGEST_FRAME: u32 = 64 << 10;

/// The shortest time from one sample to the next, in nanoseconds: more of them
/// would take most of the Guest's time.
const SAMPLE_LEAST: u32 = 100_000;

impl Host<'_> {
    /// Whether any event of these groups is wanted.
    #[inline(always)]
    pub(crate) fn traces(&self, groups: u32) -> bool {
        self.vm.wire.traced.load(Ordering::Relaxed) & groups != 0
    }

    /// Records an event here and now, if its group is wanted.
    #[inline(always)]
    pub(crate) fn trace(&self, kind: Kind, detail: u16, words: [u32; 3]) {
        if self.traces(kind.group()) {
            self.record(kind, detail, words);
        }
    }

    /// Records an event. Returns what [`World::trace_end`] wants.
    ///
    /// [`World::trace_end`]: crate::world::World::trace_end
    #[inline(never)]
    fn record(&self, kind: Kind, detail: u16, words: [u32; 3]) -> u64 {
        let eip = self.vm.regs.eip.get();
        self.record_at(eip, kind, detail, words)
    }

    fn record_at(
        &self,
        eip: u32,
        kind: Kind,
        detail: u16,
        words: [u32; 3],
    ) -> u64 {
        self.world.trace(&Event {
            kind,
            user: self.vm.in_user_mode(),
            detail,
            eip,
            words,
        })
    }

    /// The Guest has stopped.
    #[inline(always)]
    pub(crate) fn trace_exit(&self, came: Came) {
        if self.traces(group::EXITS) {
            self.record_exit(came);
        }
    }

    #[inline(never)]
    fn record_exit(&self, came: Came) {
        let (detail, error, cr2) = match came {
            Came::Trap { vector, error, cr2 } => {
                (cause::TRAP | u16::from(vector), error, cr2)
            }
            Came::Trampoline(kind) => {
                (cause::TRAMPOLINE | u16::from(low_byte(kind as u32)), 0, 0)
            }
            Came::SystemCall => (cause::SYSTEM_CALL, 0, 0),
            Came::StraySystemCall => (cause::STRAY_SYSTEM_CALL, 0, 0),
            Came::LongMode => (cause::LONG_MODE, 0, 0),
            Came::Crossing => (cause::CROSSING, 0, 0),
            Came::Kick => (cause::KICK, 0, 0),
        };
        let number = self.record(Kind::Exit, detail, [error, cr2, 0]);
        self.vm.exit_traced.set(number.wrapping_add(1));
    }

    /// The Guest goes on: the exit that was recorded last is over.
    #[inline(always)]
    pub(crate) fn trace_resumption(&self) {
        if self.traces(group::EXITS) && self.vm.exit_traced.get() != 0 {
            let number = self.vm.exit_traced.replace(0).wrapping_sub(1);
            self.world.trace_end(number);
        }
    }

    /// Does `work`, and records how long it took.
    pub(crate) fn trace_during<T>(
        &mut self,
        kind: Kind,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        if !self.traces(kind.group()) {
            return work(self);
        }
        let number = self.record(kind, 0, [0; 3]);
        let result = work(self);
        self.world.trace_end(number);
        result
    }

    /// A hypercall, before it is carried out.
    #[inline(always)]
    pub(crate) fn trace_call(
        &self,
        registers: &CallRegisters,
        call: Option<Call>,
        from_ring: bool,
    ) {
        if !self.traces(group::HYPERCALLS) {
            return;
        }
        let &CallRegisters {
            eax, ebx, ecx, edx, ..
        } = registers;
        let ring = if from_ring { FROM_RING } else { 0 };
        let (detail, words) = match call {
            Some(call) => (call.name() as u16, [ebx, ecx, edx]),
            None => (NO_CALL, [eax, ebx, ecx]),
        };
        self.record(Kind::Hypercall, detail | ring, words);
    }

    /// A patch. Its kind is a byte.
    pub(crate) fn trace_patch(
        &self,
        kind: PatchKind,
        site: GuestVirt,
        length: usize,
    ) {
        let length = u32::try_from(length).unwrap_or(0);
        self.trace(Kind::Patched, kind as u16, [site.0, length, 0]);
    }

    /// Interrupts have to wait, for this reason.
    #[inline(always)]
    pub(crate) fn trace_wait(&self, why: u16) {
        if self.traces(group::INTERRUPTS) {
            self.record_wait(why);
        }
    }

    #[inline(never)]
    fn record_wait(&self, why: u16) {
        let raised = self.vm.wire.irqs.load(Ordering::SeqCst);
        let blocked = self.blocked_interrupts();
        let enabled = match self.vm.is_initialised() {
            true => self.irq_enabled().unwrap_or(0),
            false => 0,
        };
        self.record(Kind::Waits, why, [raised, blocked, enabled]);
    }

    /// When the next sample is due, on the monotonic clock; 0 = never. A Guest
    /// that sleeps is not woken for it.
    #[inline(always)]
    pub(crate) fn sample_at(&self) -> u64 {
        if !self.traces(group::SAMPLES) || self.vm.halted.get() != 0 {
            return 0;
        }
        self.vm.sample_at.get()
    }

    /// Takes a sample if it is time for one, and settles when the next one is
    /// due.
    #[inline(never)]
    pub(crate) fn maybe_sample(&self, now: u64) {
        let vm = self.vm;
        let due = vm.sample_at.get();
        if now < due {
            return;
        }
        let every = vm.wire.sample_every.load(Ordering::Relaxed);
        let every = u64::from(every.max(SAMPLE_LEAST));
        vm.sample_at.set(now + every);
        // A sample may be late: the Guest has waited for its processor, or the
        // Host has worked for it. It counts once where the Guest goes on.
        if due != 0 && vm.halted.get() == 0 {
            self.sample();
        }
    }

    /// The Guest has slept: when the next sample is due is not known, and is
    /// settled anew.
    pub(crate) fn put_off_sample(&self) {
        self.vm.sample_at.set(0);
    }

    /// Records where the Guest is, with the frames of its callers.
    fn sample(&self) {
        let vm = self.vm;
        let number = vm.samples.get().wrapping_add(1);
        vm.samples.set(number);
        let mut frames = [0; FRAMES];
        let count = self.frames(&mut frames);
        let [first, rest @ ..] = &frames;
        let words = [vm.cr3.get(), u32::try_from(count).unwrap_or(0), *first];
        self.record(Kind::Sample, number, words);
        for four in rest[..count.saturating_sub(1)].chunks(4) {
            let word = |n: usize| four.get(n).copied().unwrap_or(0);
            let words = [word(1), word(2), word(3)];
            self.record_at(word(0), Kind::Frames, number, words);
        }
    }

    /// Fills `frames` with return addresses, as code with frame pointers leaves
    /// them. Returns how many there are. Code without them gives none, or
    /// nonsense. Every frame lies above the last one, so this ends, and a page
    /// that is not there ends it, too.
    fn frames(&self, frames: &mut [u32; FRAMES]) -> usize {
        let user = self.vm.in_user_mode();
        let base = match user {
            true => self.base(SegmentRegister::Ss),
            false => 0,
        };
        let mut frame = self.vm.regs.ebp.get();
        let mut below = self.vm.regs.esp.get();
        for (n, to) in frames.iter_mut().enumerate() {
            let far = frame.wrapping_sub(below) > LONGEST_FRAME;
            if frame < below || far || !frame.is_multiple_of(4) {
                return n;
            }
            let at = GuestVirt(frame.wrapping_add(base));
            let pair = self.frame_at(at, user);
            let Some([caller, back]) = pair.filter(|pair| pair[1] != 0) else {
                return n;
            };
            *to = back;
            below = frame.wrapping_add(8);
            frame = caller;
        }
        frames.len()
    }

    /// The frame at `at`: that of its caller, and the return address.
    fn frame_at(&self, at: GuestVirt, user: bool) -> Option<[u32; 2]> {
        let kernel = at.0 >= self.vm.page_offset.get();
        // A frame on two pages is rare, and ends the chain.
        if user == kernel || at.page_offset() > lg_abi::page::PAGE_SIZE - 8 {
            return None;
        }
        self.memory.words(self.locate(at)?).ok()
    }
}

#[cfg(test)]
mod tests;
