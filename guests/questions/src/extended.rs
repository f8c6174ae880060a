//! Questions about extended state, which this kernel, like that of 2007,
//! ignores.
//!
//! A thread is a stack that SET_STACK names, in a page directory.

use crate::lab::memory::{self, load, page, poke, store};
use crate::lab::run::{User, put_user};
use crate::lab::space::{Space, USER_DATA, USER_STACK, first};
use crate::lab::{code, hypercall, user};
use lg_abi::hypercall::Hypercall;
use lg_abi::page::{PAGE_SIZE, directory_index};
use lg_abi::segment::KERNEL_DS;
use lg_guest::println;

/// The addresses from which the upper half of ymm0 is loaded, and to which it
/// is stored.
const FROM: u32 = USER_DATA + 16;
const TO: u32 = USER_DATA + 0x50;

/// Whether the processor has AVX, and its kernel has switched it on. CPUID may
/// not show it.
fn has_avx() -> bool {
    const SSE_AND_AVX: u32 = 6;
    let seen = user(code!("xor %ecx, %ecx", "xgetbv", "int $0x80"));
    let known = seen.trapped.vector == 0x80;
    known && seen.trapped.eax & SSE_AND_AVX == SSE_AND_AVX
}

/// A thread, by its kernel stack.
#[derive(Clone, Copy)]
struct Thread {
    space: Space,
    stack: u32,
}

impl Thread {
    fn new(space: Space) -> Self {
        let stack = memory::va(page()) + PAGE_SIZE;
        Self { space, stack }
    }

    fn run(self, code: &[u8]) {
        self.space.activate();
        put_user(code);
        let ss = u32::from(KERNEL_DS);
        hypercall(Hypercall::SetStack, ss, self.stack, 1);
        let seen = User::new().run();
        if seen.trapped.vector != 0x80 {
            println!("{seen}");
        }
    }

    /// Loads the upper half of ymm0 with four of these words.
    fn put(self, word: u32) {
        if !has_avx() {
            return;
        }
        self.space.activate();
        for at in (FROM..FROM + 16).step_by(4) {
            store(at, word);
        }
        self.run(code!("vmovdqu 0x8049000, %ymm0", "int $0x80"));
    }

    /// Whether four of these words are there.
    fn has(self, word: u32) -> bool {
        if !has_avx() {
            return true;
        }
        self.space.activate();
        for at in (TO..TO + 16).step_by(4) {
            store(at, !word);
        }
        self.run(code!("vmovdqu %ymm0, 0x8049040", "int $0x80"));
        (TO..TO + 16).step_by(4).all(|at| load(at) == word)
    }
}

/// Does each of three threads, two of them in one page directory, have its own
/// upper half of ymm0, which is zero at the beginning?
pub(crate) fn extended_of_threads() {
    let other = Space::new();
    let threads = [first(), first(), other].map(Thread::new);
    for (thread, word) in threads.into_iter().zip(1..) {
        println!("new: {}", thread.has(0));
        thread.put(0x1111_1111 * word);
    }
    for _ in 0..3 {
        for (thread, word) in threads.into_iter().zip(1..) {
            println!("{word}: {}", thread.has(0x1111_1111 * word));
        }
    }
}

/// Is the upper half of ymm0 zero for a thread with the same stack in another
/// page directory, and in the same one after its user part was empty?
pub(crate) fn extended_of_a_new_program() {
    let other = Space::new();
    let thread = Thread::new(other);
    thread.put(0x1234_5678);
    let same_stack = Thread {
        space: first(),
        ..thread
    };
    println!("elsewhere: {}", same_stack.has(0));
    println!("still there: {}", thread.has(0x1234_5678));
    same_stack.space.activate();
    let entries = [USER_DATA, USER_STACK - PAGE_SIZE];
    let kept = entries.map(|at| (other.pde(at), memory::peek(other.pde(at))));
    for (at, (pde, _)) in entries.into_iter().zip(kept) {
        poke(pde, 0);
        let index = directory_index(at);
        hypercall(Hypercall::SetPmd, other.directory, index, 0);
    }
    for (at, (pde, entry)) in entries.into_iter().zip(kept) {
        poke(pde, entry);
        let index = directory_index(at);
        hypercall(Hypercall::SetPmd, other.directory, index, 0);
    }
    println!("new program: {}", thread.has(0));
}
