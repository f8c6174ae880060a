//! Extended state (AVX, AVX-512) of the threads of a kernel that knows none.
//!
//! A Guest's kernel of 2007 saves the x87 and SSE registers of its threads and
//! nothing else, while its programs can use all that the processor has. So the
//! Host keeps the rest apart for the kernel's threads. It tells threads apart
//! by the stack that SET_STACK names, which every thread has to itself, and by
//! the page directory. State is moved when the Guest goes on in user mode and
//! the thread is another one than the last: from the processor into a table,
//! and from the table into the processor. Most threads use nothing of it, which
//! costs them one instruction at each switch.
//!
//! A thread that the table does not have starts with the initial state. When a
//! kernel has emptied the user part of a page directory, the program there is
//! over, and what its threads had is forgotten: a new program with the same
//! stack in the same directory does not get it. `fork` and `execve` make a new
//! directory, so a child and a new program start with the initial state, too.

use crate::host::Host;
use core::cell::Cell;

/// The parts, as XSAVE numbers them (Intel SDM volume 1, "XSAVE-Managed
/// State").
pub mod part {
    /// The upper halves of the ymm registers.
    pub const YMM: u64 = 1 << 2;
    /// The mask registers.
    pub const MASKS: u64 = 1 << 5;
    /// The upper halves of the zmm registers.
    pub const ZMM: u64 = 1 << 6;
    /// In the order of their places.
    pub const EACH: [u64; 3] = [YMM, MASKS, ZMM];
    /// All of them.
    pub const ALL: u64 = YMM | MASKS | ZMM;
}

/// The extended state of a thread: what 32-bit code has of it.
#[repr(C)]
pub struct Extended {
    /// Which parts are here; the others are in their initial state.
    pub parts: Cell<u64>,
    /// Upper halves of ymm0 to ymm7.
    ymm: Cell<[u8; 128]>,
    /// k0 to k7.
    masks: Cell<[u8; 64]>,
    /// Upper halves of zmm0 to zmm7.
    zmm: Cell<[u8; 256]>,
}

impl Default for Extended {
    fn default() -> Self {
        Self {
            parts: Cell::new(0),
            ymm: Cell::new([0; 128]),
            masks: Cell::new([0; 64]),
            zmm: Cell::new([0; 256]),
        }
    }
}

impl Extended {
    /// Where the parts are, in the order of [`part::EACH`], and their bytes.
    #[must_use]
    pub fn pieces(&self) -> [(*mut u8, usize); 3] {
        [
            (self.ymm.as_ptr().cast(), size_of_val(&self.ymm)),
            (self.masks.as_ptr().cast(), size_of_val(&self.masks)),
            (self.zmm.as_ptr().cast(), size_of_val(&self.zmm)),
        ]
    }

    /// The upper half of ymm `register`, of the first eight.
    #[must_use]
    pub fn upper_half(&self, register: usize) -> u128 {
        let all = self.ymm.get();
        let half = all.as_chunks().0.get(register).copied();
        u128::from_le_bytes(half.unwrap_or_default())
    }

    /// Takes over another one's parts, as far as they are among `kept`.
    pub fn copy_from(&self, other: &Self, kept: u64) {
        self.parts.set(other.parts.get() & kept);
        self.ymm.set(other.ymm.get());
        self.masks.set(other.masks.get());
        self.zmm.set(other.zmm.get());
    }
}

/// How many threads can have extended state at the same time. When there are
/// more, the one that has not run for the longest time loses its own.
pub const MAX_THREADS: usize = 256;

/// Entries of the table: one more, so that no thread loses its state because
/// the Guest is held, and the one in the processor has to be written down.
const PLACES: usize = MAX_THREADS + 1;

/// A thread: its page directory and its kernel stack. Zero is none.
type Thread = u64;

const NONE: Thread = 0;

/// All threads with extended state, and the one whose state is in the
/// processor.
#[repr(C)]
pub struct Threads {
    /// Whose state is in the processor.
    owner: Cell<Thread>,
    /// How many entries are in use.
    count: Cell<u32>,
    /// The threads of the entries.
    threads: [Cell<Thread>; PLACES],
    /// When each was saved, in a count of savings.
    saved: [Cell<u64>; PLACES],
    savings: Cell<u64>,
    states: [Extended; PLACES],
}

impl Threads {
    fn find(&self, thread: Thread) -> Option<usize> {
        if self.count.get() == 0 {
            return None;
        }
        self.threads.iter().position(|entry| entry.get() == thread)
    }

    /// An entry for a thread that has none. There are `most` at most then: the
    /// oldest have to go.
    fn make_entry(&self, thread: Thread, most: usize) -> usize {
        while self.count.get() as usize >= most {
            let used = |&n: &usize| self.threads[n].get() != NONE;
            let oldest = (0..PLACES)
                .filter(used)
                .min_by_key(|&n| self.saved[n].get());
            self.free(oldest.unwrap_or(0));
        }
        let free = self.threads.iter().position(|entry| entry.get() == NONE);
        let entry = free.unwrap_or(0);
        self.count.set(self.count.get() + 1);
        self.threads[entry].set(thread);
        self.savings.set(self.savings.get() + 1);
        self.saved[entry].set(self.savings.get());
        entry
    }

    /// The state of the thread with this page directory and kernel stack,
    /// where it is in the table.
    #[must_use]
    pub fn of(&self, directory: u32, stack: u32) -> Option<&Extended> {
        self.find(thread(directory, stack)).map(|n| &self.states[n])
    }

    fn free(&self, entry: usize) {
        self.threads[entry].set(NONE);
        self.count.set(self.count.get().saturating_sub(1));
    }
}

/// The thread with this page directory and this kernel stack. Both may be zero
/// in a Guest that lies, and still it is not [`NONE`]: bit 0 of a directory's
/// address is always clear, and is set here.
fn thread(directory: u32, stack: u32) -> Thread {
    Thread::from(directory | 1) << 32 | Thread::from(stack)
}

/// Whether it is a thread of page directory `directory`.
fn is_of(thread: Thread, directory: u32) -> bool {
    thread >> 32 == Thread::from(directory | 1)
}

impl Host<'_> {
    /// The Guest goes on in user mode: loads its thread's state.
    pub(crate) fn settle_extended(&mut self) {
        let vm = self.vm;
        let threads = &vm.threads;
        let thread = thread(vm.cr3.get(), vm.esp1.get());
        if threads.owner.get() == thread {
            return;
        }
        self.park_extended();
        match threads.find(thread) {
            Some(entry) => {
                vm.counters.extended_loads.count();
                self.world.load_extended(Some(&threads.states[entry]));
                threads.free(entry);
            }
            None => self.world.load_extended(None),
        }
        threads.owner.set(thread);
    }

    /// Whether the processor has the state of the thread that would go on in
    /// user mode now.
    pub(crate) fn is_extended_settled(&self) -> bool {
        let vm = self.vm;
        vm.threads.owner.get() == thread(vm.cr3.get(), vm.esp1.get())
    }

    /// Another thread is about to run, or another view: saves what is in use.
    pub(crate) fn park_extended(&mut self) {
        self.save_owner(MAX_THREADS);
    }

    /// The Guest is held: all of its extended state is in the table.
    pub(crate) fn write_extended_down(&mut self) {
        self.save_owner(PLACES);
    }

    /// Saves what the last thread has in the processor. The table has `most`
    /// entries at most then.
    fn save_owner(&mut self, most: usize) {
        let threads = &self.vm.threads;
        let owner = threads.owner.replace(NONE);
        if owner != NONE && self.world.extended_in_use() {
            let entry = threads.make_entry(owner, most);
            self.world.save_extended(&threads.states[entry]);
        }
    }

    /// The kernel has changed an entry of page directory `directory`. If its
    /// user part is empty now, what its threads had is forgotten.
    pub(crate) fn forget_extended(&mut self, directory: u32) {
        let threads = &self.vm.threads;
        let owns = is_of(threads.owner.get(), directory);
        let none = threads.count.get() == 0
            || !threads.threads.iter().any(|t| is_of(t.get(), directory));
        if none && !owns {
            return;
        }
        for index in 0..self.kernel_index() {
            match self.tables(directory).piece(index) {
                Ok(piece) if piece.is_empty() => {}
                _ => return,
            }
        }
        if owns {
            threads.owner.set(NONE);
        }
        for entry in 0..PLACES {
            if is_of(threads.threads[entry].get(), directory) {
                threads.free(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_THREADS, part};
    use crate::address::GuestPhys;
    use crate::host::Event;
    use crate::testing::Machine;
    use lg_abi::hypercall::Hypercall;

    /// Another page directory, with a table for user code like the first.
    const OTHER: u32 = 0x8000;

    fn machine() -> Machine {
        let m = Machine::new();
        let entry = Machine::USER_TABLE | 0x67;
        m.ram.memory().set_word(GuestPhys(OTHER), entry).unwrap();
        m
    }

    /// The thread with this stack goes on in user mode: which parts it finds.
    fn run(m: &mut Machine, directory: u32, stack: u32) -> u64 {
        m.vm.cr3.set(directory);
        m.vm.esp1.set(stack);
        m.host().settle_extended();
        m.world.extended.parts.get()
    }

    /// SET_PMD with entry `index` of a directory, after the entry is cleared.
    fn clear(m: &mut Machine, directory: u32, index: u32) {
        let at = GuestPhys(directory + 4 * index);
        m.ram.memory().set_word(at, 0).unwrap();
        let regs = &m.vm.regs;
        regs.eax.set(Hypercall::SetPmd as u32);
        regs.edx.set(directory);
        regs.ebx.set(index);
        m.host().do_hypercall().unwrap();
    }

    #[test]
    fn each_thread_finds_its_own() {
        let mut m = machine();
        let parts = [part::YMM, part::MASKS, part::ALL, 0];
        let threads = [
            (Machine::CR3, 0xC010_2000),
            (Machine::CR3, 0xC010_4000),
            (OTHER, 0xC010_2000),
            (OTHER, 0xC010_6000),
        ];
        for ((directory, stack), parts) in threads.into_iter().zip(parts) {
            assert_eq!(run(&mut m, directory, stack), 0, "a new thread");
            m.world.extended.parts.set(parts);
        }
        for _ in 0..3 {
            for ((directory, stack), parts) in threads.into_iter().zip(parts) {
                assert_eq!(run(&mut m, directory, stack), parts);
                assert_eq!(run(&mut m, directory, stack), parts);
            }
        }
    }

    #[test]
    fn a_thread_at_zero_is_a_thread() {
        let mut m = machine();
        assert_eq!(run(&mut m, Machine::CR3, 0xC010_2000), 0);
        m.world.extended.parts.set(part::ALL);
        assert_eq!(run(&mut m, 0, 0), 0, "another one's state");
        m.world.extended.parts.set(part::YMM);
        assert_eq!(run(&mut m, Machine::CR3, 0xC010_2000), part::ALL);
        assert_eq!(run(&mut m, 0, 0), part::YMM);
        m.host().forget_extended(0);
        assert_eq!(run(&mut m, 0, 0), 0, "of a directory without user code");
    }

    #[test]
    fn a_directory_without_user_code_has_no_threads() {
        for runs_last in [Machine::CR3, OTHER] {
            let mut m = machine();
            run(&mut m, Machine::CR3, 0xC010_2000);
            m.world.extended.parts.set(part::ALL);
            run(&mut m, OTHER, 0xC010_4000);
            m.world.extended.parts.set(part::YMM);
            run(&mut m, runs_last, 0xC010_6000);
            m.world.extended.parts.set(part::MASKS);
            // Something else is still there.
            let at = GuestPhys(OTHER + 4 * 767);
            m.ram.memory().set_word(at, 1).unwrap();
            clear(&mut m, OTHER, 0);
            assert_eq!(run(&mut m, OTHER, 0xC010_4000), part::YMM);
            clear(&mut m, OTHER, 767);
            assert_eq!(run(&mut m, OTHER, 0xC010_4000), 0);
            assert_eq!(run(&mut m, Machine::CR3, 0xC010_2000), part::ALL);
            let last = if runs_last == OTHER { 0 } else { part::MASKS };
            assert_eq!(run(&mut m, runs_last, 0xC010_6000), last);
        }
    }

    #[test]
    fn a_hold_costs_no_thread_its_state() {
        let mut m = machine();
        let stack = |n: usize| 0xC010_0000 + 0x2000 * u32::try_from(n).unwrap();
        for n in 0..=MAX_THREADS {
            run(&mut m, OTHER, stack(n));
            m.world.extended.parts.set(part::YMM);
            if n % 64 == 0 {
                m.host().write_extended_down();
                let last = m.vm.threads.of(OTHER, stack(n)).unwrap();
                assert_eq!(last.parts.get(), part::YMM, "{n}");
            }
        }
        // All are there, and the last one goes on in the processor.
        assert!(m.vm.threads.of(OTHER, stack(0)).is_some());
        assert_eq!(run(&mut m, OTHER, stack(MAX_THREADS)), part::YMM);
        // The next switch costs the oldest its own, as without a hold.
        assert_eq!(run(&mut m, OTHER, stack(1)), part::YMM);
        assert_eq!(run(&mut m, OTHER, stack(0)), 0);
    }

    #[test]
    fn with_too_many_threads_the_oldest_loses_its_own() {
        let mut m = machine();
        let stack = |n: usize| 0xC010_0000 + 0x2000 * u32::try_from(n).unwrap();
        for n in 0..=MAX_THREADS {
            run(&mut m, OTHER, stack(n));
            m.world.extended.parts.set(part::YMM);
        }
        // All but the last are in the table, and the first had to go.
        assert_eq!(run(&mut m, OTHER, stack(1)), part::YMM);
        assert_eq!(run(&mut m, OTHER, stack(0)), 0);
    }

    #[test]
    fn a_fault_by_protection_keys_is_tried_again() {
        let mut m = machine();
        m.vm.user.set(1);
        m.vm.regs.eip.set(0x1000);
        let event = Event::Trap {
            vector: 14,
            error: 0x27,
            cr2: 0x2000,
        };
        // The Guest has no handler: to deliver it would be its end.
        assert_eq!(m.host().run_guest(event), Ok(()));
        assert_eq!(m.vm.regs.eip.get(), 0x1000);
        assert_eq!(m.vm.counters.key_faults.get(), 1);
    }
}
